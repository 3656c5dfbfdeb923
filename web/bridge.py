"""The bridge: what the read models say, pushed to pages over one websocket each.

A page subscribes to topics (`web.topics`, `web.documents`), to the log itself (`web.tail`)
and, with a task's topic, to its live output (`web.live`).

From the page (JSON objects):

    {"op": "subscribe", "id": "t", "topic": "tasks", "params": {...}, "since": 4711,
     "position": "4711:01J..:2026-..."}
    {"op": "unsubscribe", "id": "t"}

To the page:

    {"type": "snapshot", "id", "topic", "seq", "position", "data": {section: ...}}
    {"type": "change",   "id", "topic", "seq", "position", "data": {what changed}}
    {"type": "execution_event", ...}         live output of a `task` topic: a Chunk
    {"type": "gap", "task_id", "lost"}       that many pieces of text were left out here
    {"type": "skipped", "task_id", "seq", "route", "n", "lines"}   what came before this
                                             piece, in so many lines, is too much to show
    {"type": "begun", "task_id"}             what is kept of before has all been sent
    {"type": "refused", "id", "error": {...}}

`seq` is the log's sequence that is folded in, `position` names the event there. A page
that comes back says since where, and at which event (`position` as it came), and gets what changed after that as a change, or a snapshot where that is not known any
more.

Topics: status, overview, tails (last lines of what runs), tasks (filter, `offset`,
`limit`), task (`task_id`, `after`; with its live output), fleet, routing, costs (`by`,
`since`), events (`subject`: a NATS pattern).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from events.diagnostics import Diagnostics
from web.decisions import RecentDecisions
from web.documents import Documents
from web.lasthour import LastHour
from web.live import OutputFeed
from web.pages import Page
from web.tail import RecentEvents
from web.topics import Sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from events.bus import Bus
    from events.log import EventLog
    from projections.judged import Family, JudgedEvent
    from projections.output import OutputReader
    from projections.queries import Queries
    from projections.runner import Runner

FLUSH_S: Final = 0.015
"""Events that come within this time are sent together."""
PAGES: Final = 1_000

_log = Diagnostics("agentcom.web")


class Bridge:
    """All pages of this process, and what they watch."""

    def __init__(
        self,
        runner: Runner,
        queries: Queries,
        bus: Bus,
        log: EventLog,
        output: OutputReader | None,
        builtin: dict[str, Any],
    ) -> None:
        self.output = OutputFeed(bus, output)
        self._recent = RecentEvents(runner, log)
        self._decisions = RecentDecisions()
        self.sources = Sources(
            runner,
            queries,
            bus,
            log,
            self.output,
            self._decisions.latest,
            builtin,
            LastHour(time.time, time.monotonic),
        )
        self.documents = Documents(self.sources)
        self.pages: set[Page] = set()
        # What was folded since the last flush: the events' families, and their tasks.
        self._families: set[Family | None] = set()
        self._tasks: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._forget: Callable[[], None] = lambda: None
        self._starting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to watch the read models."""
        runner = self.sources.runner
        runner.save()
        position = runner.position
        self._recent.begin()
        runner.watch(self._on)
        self._forget = self.sources.bus.on_connection(self._connection)
        self._starting = asyncio.get_running_loop().create_task(
            self._look_back(position)
        )

    async def close(self) -> None:
        """Let go of everything."""
        self._forget()
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self.documents.close()
        await self.output.close()

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Serve one page until it goes away."""
        page = Page(socket, self.documents, self._recent, self.output)
        self.pages.add(page)
        try:
            await page.live()
        finally:
            self.pages.discard(page)

    @property
    def full(self) -> bool:
        """Whether no more pages are taken."""
        return len(self.pages) >= PAGES

    def _on(self, judged: JudgedEvent) -> None:
        """Note an event that was just folded in; pages are told at the next flush."""
        self.sources.last_hour.take(judged)
        self._recent.take(judged.recorded)
        self._decisions.take(judged)
        self._families.add(judged.family)
        if judged.task is not None:
            self._tasks.add(judged.task.id)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self.documents.touch(self._families, self._tasks)
        self._families, self._tasks = set(), set()
        for page in self.pages:
            page.wake()

    def _connection(self, up: bool) -> None:
        self.documents.touch_all()
        if up:
            self.output.again()
        else:
            self.output.lost()

    async def _look_back(self, position: int) -> None:
        """Fill what is kept here of the time before `position`."""
        try:
            await self.sources.last_hour.look_back(self.sources.runner, position)
        except Exception:  # noqa: BLE001 - two charts begin empty, no more
            _log.exception("last hour")
        self.documents.touch_all()
        await self._decisions.look_back(self.sources.log, position)
