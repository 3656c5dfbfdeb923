"""Readers of the log, on a link that comes and goes and a broker that is not whole yet."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from events import header
from events.catalogue import TaskDeferred
from events.codec import encode
from events.nats import follow
from events.nats.follow import PullFollower, TapFollower
from events.position import NOWHERE
from tests.support.links import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class BetweenLink:
    """Stands for a link: consumers are made at once, and what is posted is counted."""

    def __init__(self) -> None:
        self.up = True
        self.consumers = 0
        self.posted = 0
        self.heard: Callable[[Any], None] = lambda message: None
        self.while_subscribing: Callable[[], None] = lambda: None
        self._handlers: list[Callable[[bool], None]] = []

    def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: None

    def reconnect(self) -> None:
        for handler in self._handlers:
            handler(True)

    def new_inbox(self) -> str:
        return "inbox"

    async def call(self, subject: str, data: bytes, *, timeout: float) -> Any:
        self.consumers += 1
        return SimpleNamespace(data=b'{"name":"c","num_pending":0}')

    async def subscribe(self, subject: str, heard: Callable[[Any], None]) -> Any:
        self.heard = heard
        self.while_subscribing()
        return self

    async def stop(self) -> None:
        pass

    def post(self, subject: str, data: bytes, *, reply: str) -> bool:
        self.posted += 1
        return True

    def says(self, status: str, **headers: str) -> None:
        """What the server says on a request for more."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.heard(SimpleNamespace(reply="", status=status, headers=named))


async def pulling(link: BetweenLink) -> PullFollower:
    about: Any = (link, lambda recorded: None, 1, (), NOWHERE)
    follower = PullFollower(*about, lambda subject, size: None)
    await follower.caught_up.wait()
    return follower


@pytest.mark.parametrize("status", ["503", "400"])
async def test_a_consumer_that_is_gone_is_asked_no_more_and_made_anew(status):
    link = BetweenLink()
    follower = await pulling(link)
    await until(lambda: link.posted == 2)
    for _ in range(2):
        link.says(status)
    assert link.posted == 2
    await until(lambda: link.consumers == 2 and link.posted == 4)
    await follower.stop()


async def test_for_a_request_that_has_expired_one_is_made():
    link = BetweenLink()
    follower = await pulling(link)
    await until(lambda: link.posted == 2)
    for requests in range(3, 40):
        link.says("408", Nats_Pending_Messages=str(follow.PULL_BATCH))
        assert link.posted == requests
    await follower.stop()


async def test_a_reconnect_while_a_consumer_is_made_has_another_made():
    link = BetweenLink()

    def reconnect() -> None:
        link.while_subscribing = lambda: None
        link.reconnect()

    link.while_subscribing = reconnect
    follower = await pulling(link)
    await until(lambda: link.consumers == 2)
    await follower.stop()


def tapping(link: BetweenLink) -> TapFollower:
    about: Any = (link, lambda recorded: None, 1, (), NOWHERE)
    return TapFollower(*about)


async def test_what_a_lagging_copy_does_not_have_is_asked_for_after_a_pause(
    monkeypatch,
):
    monkeypatch.setattr(follow, "PAUSE", 3600.0)
    reads = []

    async def nothing_yet(*about: Any, start: int, limit: int) -> AsyncIterator[Any]:
        reads.append(start)
        await asyncio.sleep(0)
        return
        yield

    monkeypatch.setattr(follow, "direct", nothing_yet)
    link = BetweenLink()
    follower = tapping(link)
    await follower.caught_up.wait()
    # One behind one that was missed.
    link.heard(SimpleNamespace(headers={header.SEQUENCE: "2"}))
    await until(lambda: len(reads) == 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert reads == [1, 1]
    await follower.stop()


async def test_what_nobody_expected_ends_a_follower_and_is_told(monkeypatch):
    async def strange(*about: Any, start: int, limit: int) -> AsyncIterator[Any]:
        yield SimpleNamespace(headers={})

    monkeypatch.setattr(follow, "direct", strange)
    follower = tapping(BetweenLink())
    with pytest.raises(KeyError):
        async with asyncio.timeout(60):
            await asyncio.shield(follower.failed)
    await follower.stop()


async def test_what_is_stored_while_filters_are_read_is_handed_on_in_order(monkeypatch):
    heard: dict[str, Callable[[Any], None]] = {}
    seen: list[int] = []

    class OneStored(BetweenLink):
        async def call(self, subject: str, data: bytes, *, timeout: float) -> Any:
            return SimpleNamespace(data=b'{"message":{"subject":"a","seq":1}}')

        async def subscribe(self, subject: str, on: Callable[[Any], None]) -> Any:
            heard[subject] = on
            return self

    def message(seq: int) -> Any:
        event = TaskDeferred(id=f"E{seq}", at="", by="t", task_id="T", reason="")
        headers = {header.SEQUENCE: str(seq)}
        return SimpleNamespace(headers=headers, subject="s", data=encode(event))

    async def reading(*about: Any, start: int, limit: int) -> AsyncIterator[Any]:
        if about[-1] == "a":
            yield message(1)
            return
        # Meanwhile one of each is stored.
        heard["a"](message(2))
        heard["b"](message(3))
        yield message(3)

    monkeypatch.setattr(follow, "direct", reading)
    about: Any = (OneStored(), lambda each: seen.append(each.seq), 1, ("a", "b"))
    follower = TapFollower(*about, NOWHERE)
    await until(lambda: follower.position == 3)
    assert seen == [1, 2, 3]
    await follower.stop()
