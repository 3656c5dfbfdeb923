"""The host actor: what one machine accepts, runs and reports."""

from __future__ import annotations
