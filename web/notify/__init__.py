"""Notifications: tells people and programs elsewhere what happened, by rules.

`config` reads notify.toml, `notices` decides what is told and words it, `senders` deliver,
`role` follows the log for each target and remembers how far that is served.
"""

from __future__ import annotations
