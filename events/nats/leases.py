"""The leader's lease in JetStream's key-value bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events import header, subjects
from events.errors import Conflict, LogUnavailable, Unreachable
from events.nats.api import READ_AGAIN, WRONG_LAST_SEQUENCE, read_ack, stored_message

if TYPE_CHECKING:
    from events.nats.link import Link


class JetStreamLeases:
    """Leases in the key-value bucket: a key, its holder, and the server's own expiry.

    See `actors.scheduler.lease` for who holds on to one and for how long.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def put(
        self, key: str, holder: str, *, expect: int, ttl: float, timeout: float
    ) -> int:
        """Take (`expect` 0) or renew (`expect` the last revision) a lease.

        `ttl` in seconds. Returns the new revision. Raises Conflict, LogUnavailable.
        """
        headers = {
            header.EXPECTED_LAST: str(expect),
            header.MESSAGE_TTL: f"{max(1, round(ttl))}s",
        }
        return await self._write(key, holder, expect, headers, timeout)

    async def note(self, key: str, text: str, *, timeout: float) -> None:
        """Write a key that does not expire. Raises LogUnavailable."""
        await self._write(key, text, 0, {}, timeout)

    async def _write(
        self, key: str, text: str, expect: int, headers: dict[str, str], timeout: float
    ) -> int:
        subject = subjects.lease(key)
        try:
            answer = await self._link.call(
                subject, text.encode(), timeout=timeout, headers=headers
            )
        except Unreachable as error:
            raise LogUnavailable("renew the lease", str(error)) from error
        ack = read_ack.decode(answer.data)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in (WRONG_LAST_SEQUENCE, READ_AGAIN):
            raise Conflict(subject, expect)
        raise LogUnavailable("renew the lease", ack.error.description)

    async def holder(self, key: str, *, timeout: float) -> tuple[str, int] | None:
        """Return who holds a lease and its revision, as the bucket's leader knows it."""
        subject = subjects.lease(key)
        try:
            message = await stored_message(
                self._link,
                f"KV_{subjects.LEASES}",
                {"last_by_subj": subject},
                timeout=timeout,
            )
        except Unreachable as error:
            raise LogUnavailable("look at the lease", str(error)) from error
        return None if message is None else (message[2].decode(), message[0])
