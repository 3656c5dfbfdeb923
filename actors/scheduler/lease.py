"""The lease of a leader: one key that expires, and who may try to lead because it holds it.

The holder counts the lease by its own monotonic clock, from before it sent each request,
and so stops believing in it before the server lets it expire: no two machines' clocks are
ever compared. The lease says only who may try. What fences off an earlier leader is the
election's event, written by compare-and-set (`role`): its epoch is in every decision.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from events.diagnostics import Diagnostics
from events.errors import Conflict, LogError

if TYPE_CHECKING:
    from collections.abc import Callable


LEASE_TTL_S: Final = 4
"""How long a lease lasts: a standby leads within 5 s of its leader's end."""
REPLICATED_LEASE_TTL_S: Final = 15
"""The same where the broker has replicas: its own failover takes 5 to 7 s, and a leader that
cannot renew meanwhile would step down for nothing."""
TRY_S: Final = 0.5
"""How often who holds no lease tries to take it, unless renewals are more often."""

_log = Diagnostics("agentcom.scheduler")


def renewal(ttl: float) -> float:
    """Return how often to renew a lease that lasts `ttl` seconds; one may fail."""
    return ttl / 4


class Leases(Protocol):
    """Keys that expire by themselves."""

    async def put(
        self, key: str, holder: str, *, expect: int, ttl: float, timeout: float
    ) -> int:
        """Take (`expect` 0) or renew a key; returns its revision, raises Conflict."""
        ...

    async def holder(self, key: str, *, timeout: float) -> tuple[str, int] | None:
        """Return who holds a key and its revision."""
        ...

    async def note(self, key: str, text: str, *, timeout: float) -> None:
        """Write a key that does not expire, whoever wrote it before."""
        ...


class Lease:
    """Tries to hold one key for ever; `ours` says whether it does at this moment.

    `ttl` is the server's expiry, in seconds. It is renewed four times in that, and the
    holder stops believing in it a second before (less where the lease is short).
    """

    def __init__(
        self,
        leases: Leases,
        key: str,
        me: str,
        clock: Callable[[], float],
        *,
        connected: Callable[[], bool],
        ttl: float = LEASE_TTL_S,
    ) -> None:
        self._leases = leases
        self._key = key
        self._me = me
        self._clock = clock
        self._connected = connected
        self.ttl = ttl
        self._renew = renewal(ttl)
        # The key's revision that we wrote last: renewing it expects that one.
        self._revision = 0
        # Until when we believe that we hold it, by our own clock.
        self._until = float("-inf")
        # When we last saw that another holds it, by our own clock.
        self.other_at = float("-inf")
        # Whether it was said that the lease cannot be written.
        self._told = False
        # Set whenever `ours` may have changed; whoever waits for it clears it.
        self.changed = asyncio.Event()

    @property
    def ours(self) -> bool:
        """Whether it is ours now; ask before every decision."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Take the lease whenever it is free, and renew it; never returns."""
        ours = False
        while True:
            # Without a connection a write would wait in some buffer and could renew the
            # lease after this process had ended.
            if self._connected():
                await self._try()
            if self.ours != ours:
                ours = self.ours
                self.changed.set()
            await asyncio.sleep(self._renew if ours else min(self._renew, TRY_S))

    async def _try(self) -> None:
        try:
            await self._put(self._revision if self.ours else 0)
        except Conflict:
            await self._look()
        except LogError as error:
            # Once an outage: nobody leads meanwhile, and a person wants to know why.
            if not self._told:
                _log.warning("the lease cannot be written", reason=str(error))
            self._told = True
            return
        if self._told:
            _log.info("the lease can be written again")
        self._told = False

    async def _put(self, expect: int) -> None:
        before = self._clock()
        self._revision = await self._leases.put(
            self._key,
            self._me,
            expect=expect,
            ttl=self.ttl,
            timeout=min(self._renew, 2.0),
        )
        self._until = before + self.ttl - min(1.0, self._renew)

    async def _look(self) -> None:
        """Find out why a write conflicted: somebody else holds the key, or we do.

        We do where an earlier write of ours was stored and its answer got lost.
        """
        try:
            holder = await self._leases.holder(self._key, timeout=min(self._renew, 2.0))
            if holder is not None and holder[0] == self._me:
                await self._put(holder[1])
            else:
                self._until = float("-inf")
                if holder is not None:
                    self.other_at = self._clock()
        except LogError:
            return
