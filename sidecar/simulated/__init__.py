"""Simulated backends: the real protocols over real sockets and pipes, faults to order.

They serve the demo, where a real backend is missing, and the tests. Everything they
say is recognisable as simulated: by version, by header, and in the answer's own words.
"""

from __future__ import annotations
