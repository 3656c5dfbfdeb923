"""NATS, the real ports: the log, the bus, the leases, and what they stand on."""

from __future__ import annotations
