"""The language and the log: what can be said, how it is encoded, where it is kept.

The ground floor. It imports nothing of ours and knows no rules: whether an event
may follow another is decided in `actors`, what it means to a reader in `projections`.
"""

from __future__ import annotations
