"""The runs of woken agents on this host: how far each is, and when its files may go.

An agent works on while the sidecar is down, so each step of its run is on the disk before
it is taken (a bookmark in the journal's row). When the log has what came of a run, its
files are removed, and only then its row.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from events import catalogue as c
from events import subjects
from events.codec import encode
from events.diagnostics import Diagnostics
from events.races import first
from sidecar.executors.agent import Bookmark
from sidecar.journal_file import JournalError
from sidecar.processes.survivors import sweep
from sidecar.progress import run_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from events import mail
    from sidecar.executors.agent import Step
    from sidecar.executors.port import Stop
    from sidecar.journal import Journal
    from sidecar.journal_file import Row
    from sidecar.processes.table import Ident
    from sidecar.progress import Speaker
    from sidecar.results import Results

logger = Diagnostics(__name__)

_bookmarks = msgspec.json.Decoder(Bookmark)


class AgentRuns:
    """A host's runs of woken agents; the executor's `WakeSteps`.

    `at_work(task_id)` says whether the host holds a run of the task.
    """

    def __init__(
        self,
        speaker: Speaker,
        journal: Journal,
        results: Results | None,
        group: asyncio.TaskGroup,
        at_work: Callable[[str], bool],
    ) -> None:
        self._speaker = speaker
        self._journal = journal
        self._results = results
        self._group = group
        self._at_work = at_work

        # Every run whose files may lie here, by route, until they are removed.
        self._assigns: dict[str, mail.Assign] = {}

        # How far each of them is; none for a run that has not begun.
        self._bookmarks: dict[str, Bookmark] = {}

        # The removals at work, and a signal that one of them has ended.
        self._clearing: set[asyncio.Task[None]] = set()
        self._one_cleared = asyncio.Event()

    def __contains__(self, route: str) -> bool:
        return route in self._assigns

    @property
    def task_ids(self) -> set[str]:
        """The tasks whose files may lie here."""
        return {assign.task_id for assign in self._assigns.values()}

    def add(self, assign: mail.Assign) -> None:
        """Take in a run that begins or goes on here."""
        self._assigns[assign.route] = assign

    def recover(self, row: Row, ident: Ident) -> Bookmark | None:
        """Read how far an earlier incarnation had brought a run; None: it had not begun.

        `ident` is the process that was started for it.
        """
        if row.phase == "accepted" or not row.session:
            return None
        try:
            bookmark = _bookmarks.decode(row.session)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.error("bookmark unreadable", route=row.route, why=str(error))
            return None
        bookmark = replace(bookmark, process=ident if row.pid else None)
        self._bookmarks[row.route] = bookmark
        return bookmark

    # -- WakeSteps

    def bookmark(self, route: str) -> Bookmark | None:
        """Return how far an earlier incarnation had brought the run."""
        return self._bookmarks.get(route)

    def turn(self, assign: mail.Assign, bookmark: Bookmark) -> None:
        """Note how far it is, at leisure."""
        route = assign.route
        self._bookmarks[route] = bookmark
        self._journal.note(route, phase=bookmark.step, session=_encoded(bookmark))

    async def step(self, assign: mail.Assign, bookmark: Bookmark, detail: str) -> None:
        """Write a step down, then say it; raises JournalError."""
        route, step = assign.route, bookmark.step
        self._bookmarks[route] = bookmark
        try:
            await self._journal.write(route, phase=step, session=_encoded(bookmark))
        except JournalError:
            if step != "waking":  # there is no way back from the others
                self._say_step(assign, step, detail)
            raise
        self._say_step(assign, step, detail)

    def _say_step(self, assign: mail.Assign, step: Step, detail: str) -> None:
        speaker = self._speaker
        event = c.TaskStep(**run_fields(speaker, assign), step=step, detail=detail)
        speaker.say(subjects.run(speaker.host, assign.task_id), event)

    # -- one run of a task at a time

    async def wait_for_others(self, assign: mail.Assign, stop: Stop) -> None:
        """Wait until no other route of this task has files here, or `stop`."""
        while not stop.requested and any(
            other.task_id == assign.task_id and route != assign.route
            for route, other in self._assigns.items()
        ):
            self._one_cleared.clear()
            await first(self._one_cleared.wait(), stop.wait())

    # -- the end of a run

    def clear(self, route: str) -> None:
        """The log has what came of it: its files can go, then its row."""
        clearing = self._group.create_task(self._clear(self._assigns[route]))
        self._clearing.add(clearing)

        def done(_: object) -> None:
            self._clearing.discard(clearing)
            self._assigns.pop(route, None)
            self._one_cleared.set()

        clearing.add_done_callback(done)

    async def _clear(self, assign: mail.Assign) -> None:
        route, results = assign.route, self._results
        bookmark = self._bookmarks.get(route)
        if bookmark is not None:
            if bookmark.process is not None:  # where nobody went on with it
                await sweep([bookmark.process])
            removed = replace(bookmark, step="removed")
            try:
                await self._journal.write(
                    route, phase="removed", session=_encoded(removed)
                )
            except JournalError as error:
                # The row stays, and with it the files, for the next incarnation.
                logger.error("results not cleared", route=route, why=str(error))
                return
            if results is not None:
                await asyncio.to_thread(
                    results.remove, assign.task_id, result=bookmark.read
                )
            self._say_step(assign, "removed", "")
        if results is not None and not self._at_work(assign.task_id):
            results.let_go(assign.task_id)
        self._bookmarks.pop(route, None)
        self._journal.finish(route)

    async def cleared(self) -> bool:
        """Wait for the removals at work; False where there were none."""
        if not self._clearing:
            return False
        await asyncio.wait(self._clearing)
        return True


def _encoded(bookmark: Bookmark) -> str:
    return encode(bookmark).decode()
