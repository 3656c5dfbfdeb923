"""Measuring: the whole ring against a bare pipeline of the same shape, in one run."""

from __future__ import annotations
