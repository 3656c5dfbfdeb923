"""The outbox over a log that fails: order, nothing lost, memory bounded."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from events import catalogue as c
from events.codec import encode
from events.errors import Denied, LogUnavailable, TooLarge
from events.log import MAX_EVENT_BYTES
from sidecar import outbox as under_test
from sidecar.journal import Journal, open_journal
from sidecar.outbox import Outbox
from tests.support.fakes import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class FlakyLog(MemoryLog):
    """Acknowledges later, when told to; fails as told, storing or not."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.away = False
        self.failing = 0.0
        self.offered = 0
        self.in_flight = 0

    def append(
        self, subject: str, event: c.Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        self.offered += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        fails = self.away or self.chance.random() < self.failing
        # Half of what fails was stored all the same.
        stored = not fails or (not self.away and self.chance.random() < 0.5)
        seq = self._store(subject, encode(event)) if stored else 0
        self.in_flight += 1

        def settle() -> None:
            self.in_flight -= 1
            if fails:
                future.set_exception(LogUnavailable(subject, "no answer"))
            else:
                future.set_result(seq)

        loop.call_later(self.chance.random() * 0.002, settle)
        return future

    def texts(self, subject: str) -> list[str]:
        """What stands on a subject, in order."""
        return [
            each.event.text  # type: ignore[attr-defined]
            for seq in range(1, len(self._entries) + 1)
            if (each := self.recorded(seq)) and each.subject == subject
        ]


def line(text: str, route: str = "r1") -> c.TaskStatus:
    return c.TaskStatus(
        id="e",
        at="2026-01-01T00:00:00Z",
        by="host:h1",
        task_id="t1",
        host="h1",
        route=route,
        generation=1,
        attempt=1,
        incarnation="1",
        text=text,
    )


def completed(output: str) -> c.TaskCompleted:
    said = line("")
    fields = {name: getattr(said, name) for name in c.RunEvent.__struct_fields__}
    return c.TaskCompleted(**fields, result=c.Result(status="success", output=output))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Journal]:
    journal = await open_journal(folder / "journal.db")
    try:
        yield journal
    finally:
        await journal.close()


def last_passage(texts: list[str], wanted: list[str]) -> bool:
    """Whether `wanted` stands in `texts` in this order, repeats between allowed."""
    found = iter(texts)
    return all(text in found for text in wanted)


@pytest.mark.parametrize("seed", range(5))
async def test_every_subject_holds_its_events_in_order_whatever_fails(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_RETRY_S", (0.001,))
    log = FlakyLog(seed)
    log.failing = 0.05
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        for n in range(300):
            outbox.send(f"agentcom.evt.run.h1.t{n % 7}", line(str(n)))
            if n % 50 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await outbox.flush()
        await outbox.close()
        for task in range(7):
            texts = log.texts(f"agentcom.evt.run.h1.t{task}")
            assert last_passage(texts, [str(n) for n in range(300) if n % 7 == task])


async def test_a_run_counts_as_reported_once_the_log_has_its_end(
    tmp_path: Path,
) -> None:
    reported: list[str] = []
    acked = asyncio.Event()
    async with opened(tmp_path) as journal:
        outbox = Outbox(FlakyLog(), journal, reported=reported.append)
        outbox.send("agentcom.evt.run.h1.t1", line("x"))
        outbox.send("agentcom.evt.run.h1.t1", line("y"), ends="r1", on_ack=acked.set)
        assert reported == []
        await outbox.flush()
        assert reported == ["r1"]
        assert acked.is_set()
        await outbox.close()


async def test_what_the_log_takes_at_once_never_touches_the_disk(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as journal:
        outbox = Outbox(MemoryLog(), journal)
        for n in range(1_000):
            outbox.send("agentcom.evt.run.h1.t1", line(str(n)), ends=f"r{n}")
        await outbox.flush()
        await outbox.close()
        assert journal.commits == 0


async def test_a_long_absence_of_the_log_is_kept_on_disk_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_RETRY_S", (0.001,))
    monkeypatch.setattr(under_test, "WINDOW", 50)
    log = FlakyLog()
    log.away = True
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        for n in range(1_000):
            outbox.send("agentcom.evt.run.h1.t1", line(str(n)))
            if n % 100 == 99:
                await journal.settle()
        assert outbox.pending == 1_000
        held = len(outbox._sent) + len(outbox._ready) + len(outbox._tail)
        assert held <= 50 + 100
        log.away = False
        outbox.connection(True)
        outbox.send("agentcom.evt.run.h1.t1", line("last"))
        async with asyncio.timeout(60):
            await outbox.flush()
        texts = log.texts("agentcom.evt.run.h1.t1")
        assert list(dict.fromkeys(texts)) == [*map(str, range(1_000)), "last"]
        await outbox.close()
    async with opened(tmp_path) as journal:
        assert journal.at_start.outbox_last == 0


async def test_the_next_incarnation_delivers_what_the_last_one_could_not(
    tmp_path: Path,
) -> None:
    log = FlakyLog()
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        outbox.connection(False)
        outbox.send("agentcom.evt.run.h1.t1", line("a"))
        outbox.send("agentcom.evt.run.h1.t1", line("b"), ends="r1")
        await outbox.close()
        assert log.offered == 0
    async with opened(tmp_path) as journal:
        assert journal.at_start.ended == {"r1"}
        reported: list[str] = []
        outbox = Outbox(log, journal, reported=reported.append)
        outbox.send("agentcom.evt.host.h1", line("joined"))
        await outbox.flush()
        assert log.texts("agentcom.evt.run.h1.t1") == ["a", "b"]
        assert log.subject_at(3) == "agentcom.evt.host.h1"
        assert reported == ["r1"]
        await outbox.close()
    async with opened(tmp_path) as journal:
        assert journal.at_start.outbox_last == 0


async def test_nothing_is_offered_while_the_connection_is_away(tmp_path: Path) -> None:
    log = FlakyLog()
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        outbox.connection(False)
        outbox.send("agentcom.evt.run.h1.t1", line("a"))
        await journal.settle()
        assert log.offered == 0
        outbox.connection(True)
        await outbox.flush()
        assert log.texts("agentcom.evt.run.h1.t1") == ["a"]
        await outbox.close()


@pytest.mark.parametrize("character", ["x", "\x00", "\U0001f600"])
async def test_an_event_over_the_limit_is_cut_to_head_and_tail(
    tmp_path: Path, character: str
) -> None:
    log = MemoryLog()
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        output = "head" + character * 600_000 + "tail"
        outbox.send("agentcom.evt.run.h1.t1", completed(output), ends="r1")
        await outbox.flush()
        stored = await log.get(1)
        assert stored is not None
        assert isinstance(stored.event, c.TaskCompleted)
        assert len(encode(stored.event)) <= MAX_EVENT_BYTES
        result = stored.event.result
        assert result.truncated
        assert result.output.startswith("head")
        assert result.output.endswith("tail")
        await outbox.close()


class RefusingLog(MemoryLog):
    """Refuses its first append with `problem`."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.problem: Exception | None = problem

    def append(
        self, subject: str, event: c.Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        if self.problem is None:
            return super().append(subject, event)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(self.problem)
        self.problem = None
        return future


async def test_a_missing_right_is_waited_for_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_RETRY_S", (0.001,))
    log = RefusingLog(Denied("append", "permissions"))
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        outbox.send("agentcom.evt.run.h1.t1", completed("x"))
        await outbox.flush()
        assert await log.last_sequence() == 1
        await outbox.close()


async def test_what_a_smaller_log_finds_too_large_is_cut_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_RETRY_S", (0.001,))
    log = RefusingLog(TooLarge("s", 100_000, 50_000))
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        outbox.send("agentcom.evt.run.h1.t1", completed("x" * 100_000))
        await outbox.flush()
        stored = await log.get(1)
        assert stored is not None
        assert len(encode(stored.event)) < 50_000
        await outbox.close()


async def test_what_cannot_be_spelled_is_given_up_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    log = MemoryLog()
    async with opened(tmp_path) as journal:
        outbox = Outbox(log, journal)
        outbox.send("agentcom.evt.run.h1.t1", line("\ud800"))
        outbox.send("agentcom.evt.run.h1.t1", line("fine"))
        with capture_logs() as told:
            await outbox.flush()
        assert [(said["event"], said["subject"]) for said in told] == [
            ("event not deliverable", "agentcom.evt.run.h1.t1")
        ]
        stored = [each.event for each in await log.read("agentcom.evt.>")]
        assert [event.text for event in stored] == ["fine"]
        await outbox.close()
