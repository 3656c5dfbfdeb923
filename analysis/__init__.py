"""Questions about the past: why a decision fell, what another policy or price had made of it.

Above `actors`, whose rules decide again, and `projections`, which fold the log; it writes
nothing. The dashboard and the command line both ask here.
"""

from __future__ import annotations
