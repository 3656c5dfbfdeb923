"""The scheduler: the state that the log means to it, and what it decides about it."""

from __future__ import annotations
