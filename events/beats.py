"""What hosts' beats are taken for, by the scheduler, the read models and people's views."""

from __future__ import annotations

from typing import Final

BEAT_INTERVAL_S: Final = 2.0
"""How often a host beats where neither its configuration nor its beats say otherwise."""

FRESH_BEATS: Final = 3
"""For so many of its intervals what a beat says of resources counts as true, where no
policy says otherwise."""

CLOCKS_KEPT: Final = 5
"""From so many beats a host's clock is known."""

SKEW_S: Final = 2.0
"""A host's clock that is so far off is an alert, and people are told."""
