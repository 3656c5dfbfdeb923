"""The interface for programs: what can be asked and what can be done, over HTTP.

Questions are the queries of `projections.queries`, with their fields as parameters;
commands are those of `events.commands`, with their fields as the JSON body. Both are
tables here, and `web/openapi.json` is held against them by a test. A refusal is the same
JSON object everywhere, with its status as the response's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta, Struct

from events import subjects
from events.catalogue import PolicyChanged
from events.codec import convert, encode
from events.commands import Refusal
from events.errors import AgentComError, Denied, Malformed, Unreachable
from events.nats.link import Link
from projections import answers
from projections.questions import AskQueue
from web.bridge import spelled
from web.topics import Pattern

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiohttp import web

    from events.bus import Bus
    from events.log import EventLog
    from projections.queries import Queries

REQUESTER: Final = "AgentCom-Requester"
"""Who gave the command; the gateway believes it from inside the core account alone."""
ANSWER_S: Final = 5.0
ABSENT_TRIES: Final = 15
EVENTS_BYTES: Final = 2_000_000


class Question(NamedTuple):
    """A path that is answered by a query."""

    path: str
    query: str


class Command(NamedTuple):
    """A path that carries out a command; parts of the path become fields of its body."""

    method: str
    path: str
    name: str


QUESTIONS: Final = (
    Question("/api/v1/tasks", "tasks"),
    Question("/api/v1/tasks/{task_id}", "task"),
    Question("/api/v1/tasks/{task_id}/trace", "task"),
    Question("/api/v1/tasks/{task_id}/output", "output"),
    Question("/api/v1/tasks/{task_id}/why", "why"),
    Question("/api/v1/alerts", "alerts"),
    Question("/api/v1/queue", "queue"),
    Question("/api/v1/fleet", "hosts"),
    Question("/api/v1/costs", "costs"),
    Question("/api/v1/stats", "stats"),
    Question("/api/v1/status", "status"),
)

COMMANDS: Final = (
    Command("POST", "/api/v1/tasks", "task.submit"),
    Command("POST", "/api/v1/tasks/batch", "task.batch"),
    Command("POST", "/api/v1/tasks/classify", "task.classify"),
    Command("POST", "/api/v1/tasks/route", "task.route"),
    Command("POST", "/api/v1/tasks/{task_id}/cancel", "task.cancel"),
    Command("POST", "/api/v1/tasks/{task_id}/retry", "task.retry"),
    Command("POST", "/api/v1/tasks/{task_id}/reassign", "task.reassign"),
    Command("POST", "/api/v1/hosts/{host}/drain", "host.drain"),
    Command("POST", "/api/v1/hosts/{host}/resume", "host.resume"),
    Command("POST", "/api/v1/endpoints", "endpoint.add"),
    Command("DELETE", "/api/v1/endpoints/{endpoint}", "endpoint.remove"),
    Command("POST", "/api/v1/alerts/{tier}/acknowledge", "alert.acknowledge"),
    Command("PUT", "/api/v1/policy", "policy.set"),
    Command("POST", "/api/v1/policy/validate", "policy.validate"),
)

ASKING: Final = frozenset({"task.classify", "task.route", "policy.validate"})
"""Commands that change nothing: a viewer may give them."""

_LISTS: Final = {"state"}
_NUMBERS: Final = {"limit", "offset", "wait_seq", "events_from", "after_n"}
_TRUTHS: Final = {"events", "fallback"}


class AskEvents(Pattern, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/api/v1/events`: `from` is a sequence or an RFC 3339 instant."""

    start: int | str = msgspec.field(default=1, name="from")
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 300


class Events(Struct, kw_only=True):
    """A piece of the log; `next` is where it goes on, None at its end."""

    seq: int
    events: list[msgspec.Raw]
    next: int | None


class PolicyAnswer(Struct, kw_only=True):
    """The policy in force; version 0 is the built-in one."""

    seq: int
    version: int
    policy: dict[str, Any]
    changed_at: str
    requested_by: str


class AskSavings(Struct, frozen=True, forbid_unknown_fields=True):
    """`/api/v1/savings`: what local work would have cost on a chosen Claude model."""

    model: Annotated[str, Meta(min_length=1, max_length=250)]


class SavingsAnswer(Struct, kw_only=True):
    """What local work would have cost on `model`; `booked_usd` on the booked one.

    `unpriced` counts runs without known tokens or without a price; they are in neither.
    """

    seq: int
    model: str
    price_list: str
    booked_usd: float
    saved_usd: float
    unpriced: int


class Savings(Protocol):
    """Reads the log by another price. Handed in: whoever knows prices stands elsewhere."""

    async def __call__(self, model: str) -> SavingsAnswer:
        """Answer for one model."""
        ...


class Api:
    """Answers questions and passes commands on."""

    def __init__(
        self,
        queries: Queries,
        bus: Bus,
        log: EventLog,
        builtin: dict[str, Any],
        savings: Savings | None = None,
    ) -> None:
        self._queries = queries
        self._bus = bus
        self._log = log
        self._builtin = builtin
        self._savings = savings
        self._saving = asyncio.Lock()

    # -- asking ------------------------------------------------------------------------

    async def ask(self, query: str, request: web.Request) -> Any:
        """Answer a question."""
        question = fields_of(request)
        if isinstance(question, Refusal):
            return question
        return await self._queries.answer(query, encode(question))

    async def trace(self, request: web.Request) -> Any:
        """Answer with the routing decision alone: reason, candidates, excluded, wait."""
        answer = await self.ask("task", request)
        if not isinstance(answer, answers.TaskAnswer):
            return answer
        return {
            "seq": answer.seq,
            "task_id": answer.task.task_id,
            "state": answer.task.state,
            "classification": answer.task.classification,
            "route": answer.route,
            "attempts": answer.attempts,
        }

    async def events(self, request: web.Request) -> Any:
        """Answer with a piece of the log."""
        question = fields_of(request)
        if isinstance(question, Refusal):
            return question
        try:
            asked = convert(question, AskEvents)
            start = await self._sequence(asked.start)
            if isinstance(start, Refusal):
                return start
            last = await self._log.last_sequence()
            found = await self._log.read(
                asked.subject, start=max(start, 1), limit=asked.limit + 1
            )
        except Malformed as error:
            return Refusal(code=error.code, error=str(error), path=error.path)
        except AgentComError as error:
            return Refusal(code=error.code, error=str(error), status=503)
        told: list[msgspec.Raw] = []
        size, following = 0, None
        for recorded in found:
            raw = spelled(recorded)
            size += len(raw)
            if told and (len(told) >= asked.limit or size > EVENTS_BYTES):
                following = recorded.seq
                break
            told.append(msgspec.Raw(raw))
        return Events(seq=last, events=told, next=following)

    async def _sequence(self, start: int | str) -> int | Refusal:
        if isinstance(start, int):
            return start
        answer = await self._queries.queue(AskQueue(at=start, limit=0))
        return answer if isinstance(answer, Refusal) else answer.seq + 1

    async def what_if(self, request: web.Request) -> Any:
        """Answer what would have been decided under another policy."""
        return await self._queries.answer("whatif", await request.read())

    async def saved(self, request: web.Request) -> Any:
        """Answer what local work would have cost on a chosen model."""
        question = fields_of(request)
        if isinstance(question, Refusal):
            return question
        if self._savings is None:
            return Refusal(
                code="unavailable", error="no prices are known here", status=503
            )
        try:
            asked = convert(question, AskSavings)
            async with self._saving:
                return await self._savings(asked.model)
        except Malformed as error:
            return Refusal(code=error.code, error=str(error), path=error.path)
        except AgentComError as error:
            return Refusal(code=error.code, error=str(error), status=503)

    async def policy(self) -> Any:
        """Answer with the policy in force."""
        try:
            last = await self._log.last(subjects.POLICY)
        except AgentComError as error:
            return Refusal(code=error.code, error=str(error), status=503)
        event = last.event if last is not None else None
        if last is None or not isinstance(event, PolicyChanged):
            return PolicyAnswer(
                seq=0, version=0, policy=self._builtin, changed_at="", requested_by=""
            )
        return PolicyAnswer(
            seq=last.seq,
            version=event.version,
            policy=event.policy,
            changed_at=event.at,
            requested_by=event.requested_by,
        )

    # -- doing -------------------------------------------------------------------------

    async def command(self, name: str, request: web.Request, who: str) -> web.Response:
        """Pass a command on, in somebody's name; return its answer as it came."""
        raw = await request.read()
        try:
            body = msgspec.json.decode(raw) if raw.strip() else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return spell(Refusal(code="malformed", error=f"the body: {error}"))
        if not isinstance(body, dict):
            return spell(
                Refusal(code="malformed", error="the body: expected an object")
            )
        for field, value in request.match_info.items():
            if body.setdefault(field, value) != value:
                return spell(
                    Refusal(
                        code="malformed",
                        error=f"{field}: {value!r} in the path, another in the body",
                        path=field,
                    )
                )
        try:
            answer = await self._pass_on(subjects.command(name), encode(body), who)
        except Denied as error:
            return spell(Refusal(code=error.code, error=str(error), status=403))
        except Unreachable as error:
            return spell(Refusal(code=error.code, error=str(error), status=503))
        return _answered(answer)

    async def _pass_on(self, subject: str, body: bytes, who: str) -> bytes:
        """Ask the gateway; right after somebody's reconnect nobody may seem to listen."""
        for tried in range(ABSENT_TRIES):
            try:
                return await self._request(subject, body, who)
            except Unreachable as error:
                if not error.absent or tried == ABSENT_TRIES - 1:
                    raise
            await asyncio.sleep(0.02)
        raise Unreachable(subject, absent=True)

    def _request(self, subject: str, body: bytes, who: str) -> Awaitable[bytes]:
        bus = self._bus
        if isinstance(bus, Link):
            return _data(
                bus.call(subject, body, timeout=ANSWER_S, headers={REQUESTER: who})
            )
        return bus.request(subject, body, timeout=ANSWER_S)


async def _data(call: Awaitable[Any]) -> bytes:
    data: bytes = (await call).data
    return data


class _Status(Struct):
    ok: bool = True
    status: int = 200


def _answered(raw: bytes) -> web.Response:
    try:
        said = msgspec.json.decode(raw, type=_Status)
    except msgspec.DecodeError:
        return spell(
            Refusal(code="internal", error="the answer is no JSON object", status=502)
        )
    return _response(raw, 200 if said.ok else max(said.status, 400))


def spell(answer: Any) -> web.Response:
    """Turn an answer into a response."""
    status = answer.status if isinstance(answer, Refusal) else 200
    return _response(encode(answer), status)


def _response(raw: bytes, status: int) -> web.Response:
    from aiohttp import web

    return web.Response(
        body=raw, status=status, headers={"Content-Type": "application/json"}
    )


def fields_of(request: web.Request) -> dict[str, Any] | Refusal:
    """Turn path and query parameters into a question's fields."""
    question: dict[str, Any] = dict(request.match_info)
    for key in request.query:
        values = request.query.getall(key)
        if key in _LISTS:
            question[key] = [part for value in values for part in value.split(",")]
            continue
        if key in request.match_info:
            return _wrong(key, "it in the path only", "it twice")
        if len(values) > 1:
            return _wrong(key, "one value", f"{len(values)}")
        try:
            question[key] = _value(key, values[0])
        except (ValueError, KeyError):
            expected = "true or false" if key in _TRUTHS else "a whole number"
            return _wrong(key, expected, repr(values[0][:80]))
    return question


def _value(key: str, text: str) -> int | bool | str:
    if key in _NUMBERS:
        return int(text)
    if key in _TRUTHS:
        return {"true": True, "false": False}[text]
    if key in ("at", "from"):
        return int(text) if text.isascii() and text.isdigit() else text
    return text


def _wrong(key: str, expected: str, got: str) -> Refusal:
    return Refusal(
        code="malformed", error=f"{key}: expected {expected}, got {got}", path=key
    )
