"""W3C Trace Context: which trace a submitter's own span belongs to.

The form is that of https://www.w3.org/TR/trace-context/#traceparent-header:
`00-<trace id>-<span id>-<flags>`, lower-case hexadecimal.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEADER: Final = "traceparent"
"""The header's name, the same in HTTP and NATS."""

_FORM: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class TraceParent(NamedTuple):
    """A caller's trace and span."""

    trace_id: str
    span_id: str

    @classmethod
    def read(cls, text: str) -> TraceParent | None:
        """Return what `text` names; None where it is none.

        By the standard ids of zeros, the version ff, and more parts in version 00 make it
        none; a later version may have more parts.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            return None
        version, trace_id, span_id, _flags, more = match.groups()
        if version == "ff" or (version == "00" and more):
            return None
        if not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(trace_id, span_id)
