"""Commands that watch outlive a restart of whoever answers them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cli.client import connection, follow
from cli.client.connection import NotRunning, Refused, Session, patiently
from cli.commands import tasks, top, traces
from events.commands import Refusal
from events.errors import LogUnavailable, Unreachable
from events.lifecycle import FINAL
from events.position import NOWHERE, Position
from projections.answers import TasksAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

AWAY = LogUnavailable("read", "no connection")
REFUSED = Refused(Refusal(code="log_unavailable", error="away", status=503))


class Enough(Exception):
    """The test has seen what it wanted to."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "AGAIN_S", 0.0)
    monkeypatch.setattr(top, "EVERY_S", 0.0)


def answering(*script: Any) -> Callable[..., Any]:
    """Give these answers one after the other; an exception among them is raised."""
    left = deque(script)

    async def answer(*_about: Any, **_more: Any) -> Any:
        said = left.popleft()
        if isinstance(said, Exception):
            raise said
        return said

    return answer


def with_session(monkeypatch, module: Any, client: Any) -> None:
    @asynccontextmanager
    async def connected() -> AsyncIterator[Any]:
        yield client

    monkeypatch.setattr(module, "connected", connected)


async def test_who_watches_is_told_once_and_asks_until_there_is_an_answer():
    told: list[str] = []
    ask = answering(AWAY, NotRunning("nobody"), REFUSED, "here")
    assert await patiently(ask, told.append) == "here"
    assert len(told) == 1
    other = Refused(Refusal(code="not_found", error="", status=404))
    with pytest.raises(Refused):
        await patiently(answering(other), told.append)


async def test_a_question_waits_for_a_connection_that_comes_back():
    class Link:
        up = False
        max_payload = 1_000

        def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
            def come_back() -> None:
                self.up = True
                handler(True)

            asyncio.get_running_loop().call_soon(come_back)
            return lambda: None

        async def call(self, subject: str, data: bytes, *, timeout: float) -> Any:
            if not self.up:
                raise Unreachable(subject, absent=False)
            return SimpleNamespace(headers={}, data=b"1")

    link: Any = Link()
    session: Any = SimpleNamespace(link=link)
    session._back = lambda seconds: Session._back(session, seconds)
    async with asyncio.timeout(60):
        answer = await Session._answer(session, "x", b"", "", 60.0, 0.0)
    assert answer.data == b"1"


async def test_a_watched_list_outlives_a_broker_that_is_away(monkeypatch):
    listed = TasksAnswer(seq=1, total=0, tasks=[], states={})
    client = SimpleNamespace(query=answering(listed, AWAY, REFUSED, listed, Enough()))
    with_session(monkeypatch, tasks, client)
    with pytest.raises(Enough):
        await tasks._watch_tasks({})


async def test_top_outlives_a_broker_that_is_away(monkeypatch):
    with_session(monkeypatch, top, SimpleNamespace())
    monkeypatch.setattr(top, "_picture", answering("one", AWAY, "two", Enough()))
    with pytest.raises(Enough):
        await top._top(once=False)


async def test_traces_that_are_followed_outlive_a_broker_that_is_away(monkeypatch):
    monkeypatch.setattr(traces, "_ended_there", answering([], AWAY, [], Enough()))
    monkeypatch.setattr(traces, "may_end", lambda event: True)
    never = asyncio.get_running_loop().create_future()
    follower = SimpleNamespace(failed=never, stop=answering(None))
    written: list[Position] = []

    async def following(take: Callable[[Any], None], **_more: Any) -> Any:
        for n in range(traces.AT_ONCE * 3):
            event = SimpleNamespace(task_id="T", id=f"E{n}", at="")
            take(SimpleNamespace(seq=n + 1, subject="s", event=event))
        return follower

    client: Any = SimpleNamespace(log=SimpleNamespace(follow=following))
    sender: Any = SimpleNamespace(send=answering(None, None, None))
    place: Any = SimpleNamespace(path="", write=written.append)
    with pytest.raises(Enough):
        await traces._send_ended(client, sender, place, 1, 0, NOWHERE, follow=True)
    assert [each.seq for each in written] == [traces.AT_ONCE, traces.AT_ONCE * 2]


async def test_a_submitter_s_wait_outlives_a_broker_that_is_away(monkeypatch, capsys):
    def task(state: str) -> Any:
        return SimpleNamespace(task=SimpleNamespace(state=state), seq=1)

    monkeypatch.setattr(follow, "outcome_of_answer", lambda answer: answer.task.state)
    over = sorted(FINAL)[0]
    client: Any = SimpleNamespace(query=answering(task("running"), AWAY, task(over)))
    assert await follow.outcome_by_asking(client, "T") == over
    assert "Waiting: " in capsys.readouterr().err
