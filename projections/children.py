"""What a task's run may ask: about its own children, and about the fleet.

A host asks for the runs that it has, on a subject of its own, so who asks is known by the
broker; that the run is there, and whose child is asked about, the read models know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from events import catalogue as c
from events.codec import Reader, encode
from events.commands import Refusal, refusal_of, refuse
from events.errors import AgentComError, shown
from events.lifecycle import UNDER_WAY

if TYPE_CHECKING:
    from events.log import EventLog
    from projections.queries import Answer, Queries
    from projections.runner import Runner

ALLOWED: Final = ("task", "ended", "why", "output", "hosts")
WAIT_S: Final = 5.0


class AskOfARun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question of a run: whose it is, and the question itself."""

    parent: c.Token
    route: c.Token
    ask: dict[str, Any] = {}


_reader: Final[Reader[AskOfARun]] = Reader(AskOfARun)


class ChildQueries:
    """Answers runs from the read models, as `Queries` answers everybody else."""

    def __init__(self, queries: Queries, runner: Runner, log: EventLog) -> None:
        self._queries = queries
        self._runner = runner
        self._log = log

    async def answer(self, host: str, name: str, raw: bytes) -> Answer:
        """Answer a run on this host; whatever goes wrong is a Refusal."""
        try:
            asked = _reader.decode(raw)
            refusal = await self._refusal(host, name, asked)
        except AgentComError as error:
            return refusal_of(error)
        return refusal or await self._queries.answer(name, encode(asked.ask))

    async def _refusal(self, host: str, name: str, asked: AskOfARun) -> Refusal | None:
        if name not in ALLOWED:
            return refuse("unknown_query", f"a run may not ask for {shown(name)}")
        children = self._children(asked.ask)
        if not self._may(host, asked, children):
            # What was written a moment ago may not be folded in yet.
            last = await self._log.last_sequence()
            if not await self._runner.wait_for(last, WAIT_S):
                return refuse("behind", "the read models are behind: ask again")
        find = self._runner.world.tasks.find
        for child in children:
            record = find(child)
            if record is None or record.parent != asked.parent:
                return refuse("denied", f"task {shown(child)} is no child of this task")
        if not self._may(host, asked, children):
            return refuse("denied", f"task {asked.parent} does not run on {host}")
        return None

    @staticmethod
    def _children(ask: dict[str, Any]) -> list[str]:
        ids = ask.get("task_ids", [])
        named = [ask["task_id"]] if "task_id" in ask else []
        return [str(each) for each in (*named, *(ids if isinstance(ids, list) else ()))]

    def _may(self, host: str, asked: AskOfARun, children: list[str]) -> bool:
        find = self._runner.world.tasks.find
        record = find(asked.parent)
        return (
            record is not None
            and (record.route, record.host) == (asked.route, host)
            and record.phase in UNDER_WAY
            and all(find(child) is not None for child in children)
        )
