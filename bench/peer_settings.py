"""What a peer's client and its worker agree on."""

from __future__ import annotations

from typing import Final

STREAM: Final = "peers"
SUBJECT: Final = "peers.tasks"
RESULTS: Final = "results"
BATCH: Final = 100
"""Tasks that a peer's worker asks the broker for at once."""
