"""The gateway: commands in, events out, every refusal with its reason."""

from __future__ import annotations
