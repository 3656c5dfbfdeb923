"""The read side: what the log means to people and programs that look at it.

Read in this order. `judged`: an event, and the verdict on it. `record`, `tasks`, `queue`,
`fleet`, `costs`, `stats`: one fold each; `world` is all of them together, a pure function
of the log. `store` keeps a world in SQLite, `search` looks in it, `runner` follows the
log and keeps both up to date; `checkpoints`, `timetravel` and `verify` go back in it.
`questions` and `answers` are what programs send and get, `queries` answers them with the
help of `mapping`, `tiers` and `waiting`, and `main` does all this as a service on NATS.

Nothing here decides anything: the scheduler folds the same log for itself.
"""

from __future__ import annotations
