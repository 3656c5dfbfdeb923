"""Which tasks were submitted, as far as a filter in memory can say."""

from __future__ import annotations

from typing import Final

SUBMITTED_MASK: Final = 2**26 - 1


class SubmittedIds:
    """A Bloom filter of submitted ids: it may say yes for one that was not submitted.

    Kept while the log is folded from its beginning, where nearly every submission is a
    new one and need not be looked for in the store. Eight megabytes, however many.
    """

    def __init__(self) -> None:
        self._bits = bytearray((SUBMITTED_MASK + 1) // 8)

    def add(self, task_id: str) -> bool:
        """Note an id; return whether it may have been noted before."""
        digest = hash(task_id)
        bits, there = self._bits, True
        for place in (digest & SUBMITTED_MASK, (digest >> 32) & SUBMITTED_MASK):
            byte, bit = place >> 3, 1 << (place & 7)
            if not bits[byte] & bit:
                bits[byte] |= bit
                there = False
        return there
