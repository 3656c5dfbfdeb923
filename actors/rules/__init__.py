"""Pure answers with their reasons: classification, scoring, routing, policy."""

from __future__ import annotations
