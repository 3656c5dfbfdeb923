"""The interface for programs: what can be asked and what can be done, over HTTP.

Questions are the queries of `projections.queries`, with their fields as parameters;
commands are those of `events.commands`, with their fields as the JSON body. Both are
tables here, which the server's routes and the OpenAPI document are made from. A refusal
is the same JSON object everywhere, with its status as the response's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from events import catalogue as c
from events import commands as m
from events import header, subjects
from events.bus import once_listened
from events.codec import convert, encode
from events.commands import Refusal, refuse
from events.errors import Malformed, shown
from events.filters import time_of
from events.ids import FULL_ID
from events.spans import span_s
from events.traceparent import HEADER as TRACEPARENT
from events.traceparent import TraceParent
from projections import answers as v
from projections import questions as q
from projections.answers_later import GraphAnswer, PlannedAnswer, SchedulesAnswer
from projections.answers_whatif import WhatIfAnswer
from web.tail import encode_recorded
from web.topics import Pattern

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from analysis.savings import SavingsAnswer
    from events.bus import Bus
    from events.log import EventLog
    from projections.queries import Queries

    SavingsReader = Callable[[str], Awaitable[SavingsAnswer]]

ANSWER_S: Final = 5.0
AGAIN_S: Final = 2.0
"""A command that may be given twice is given again after this, beside the first: the gateway
that got it may be cut off, or our own server, and another may answer."""
EVENTS_BYTES: Final = 2_000_000
MANY_S: Final = 60.0
"""How long a request for many tasks may take; `finished` says whether all are done."""


class QueryRoute(NamedTuple):
    """A path that a query answers; the question's `fields` are its parameters."""

    path: str
    query: str
    fields: type[Any]
    answer: type[Any]


class CommandRoute(NamedTuple):
    """A path that carries out a command; parts of the path become fields of its body."""

    method: str
    path: str
    name: str
    body: type[Any]
    answer: type[Any] = m.Done


QUERIES: Final = (
    QueryRoute("/api/v1/tasks", "tasks", q.AskTasks, v.TasksAnswer),
    QueryRoute("/api/v1/tasks/{task_id}", "task", q.AskTask, v.TaskAnswer),
    QueryRoute("/api/v1/tasks/{task_id}/output", "output", q.AskOutput, v.OutputAnswer),
    QueryRoute("/api/v1/tasks/{task_id}/why", "why", q.AskWhy, v.WhyAnswer),
    QueryRoute("/api/v1/tasks/{task_id}/graph", "graph", q.AskGraph, GraphAnswer),
    QueryRoute("/api/v1/schedules", "schedules", q.AskSchedules, SchedulesAnswer),
    QueryRoute("/api/v1/schedules/next", "planned", q.AskPlanned, PlannedAnswer),
    QueryRoute("/api/v1/attention", "attention", q.Question, v.AttentionAnswer),
    QueryRoute("/api/v1/alerts", "alerts", q.AskThen, v.AlertsAnswer),
    QueryRoute("/api/v1/queue", "queue", q.AskQueue, v.QueueAnswer),
    QueryRoute("/api/v1/fleet", "hosts", q.AskThen, v.HostsAnswer),
    QueryRoute("/api/v1/costs", "costs", q.AskCosts, v.CostsAnswer),
    QueryRoute("/api/v1/stats", "stats", q.AskThen, v.StatsAnswer),
    QueryRoute("/api/v1/status", "status", q.Question, v.StatusAnswer),
)

BODY_QUERIES: Final = (
    QueryRoute("/api/v1/tasks/ended", "ended", q.AskEnded, v.EndedAnswer),
    QueryRoute("/api/v1/whatif", "whatif", q.AskWhatIf, WhatIfAnswer),
)
"""Questions that are asked by POST, with their fields as the body."""

_TASK: Final = "/api/v1/tasks/{task_id}"
_SCHEDULE: Final = "/api/v1/schedules/{schedule}"
COMMANDS: Final = (
    CommandRoute("POST", "/api/v1/tasks", "task.submit", m.Submit, m.Submitted),
    CommandRoute(
        "POST", "/api/v1/tasks/batch", "task.batch", m.SubmitBatch, m.BatchSubmitted
    ),
    CommandRoute(
        "POST", "/api/v1/tasks/classify", "task.classify", m.Classify, m.Classified
    ),
    CommandRoute("POST", "/api/v1/tasks/bulk", "task.bulk", m.Bulk, m.BulkProgress),
    CommandRoute("POST", "/api/v1/tasks/route", "task.route", m.Classify, m.WouldRoute),
    CommandRoute("POST", "/api/v1/attachments", "task.attach", m.Attach, m.Attached),
    CommandRoute("POST", f"{_TASK}/cancel", "task.cancel", m.CancelTask),
    CommandRoute("POST", f"{_TASK}/retry", "task.retry", m.RetryTask),
    CommandRoute("POST", f"{_TASK}/reassign", "task.reassign", m.ReassignTask),
    CommandRoute("POST", f"{_TASK}/fetch", "host.fetch", m.FetchFile, m.Fetched),
    CommandRoute("POST", "/api/v1/hosts/{host}/drain", "host.drain", m.DrainHost),
    CommandRoute("POST", "/api/v1/hosts/{host}/resume", "host.resume", m.ResumeHost),
    CommandRoute("POST", "/api/v1/hosts/{host}/forget", "host.forget", m.ForgetHost),
    CommandRoute("POST", "/api/v1/endpoints", "endpoint.add", m.AddEndpoint),
    CommandRoute(
        "DELETE", "/api/v1/endpoints/{endpoint}", "endpoint.remove", m.RemoveEndpoint
    ),
    CommandRoute(
        "POST",
        "/api/v1/alerts/{tier}/acknowledge",
        "alert.acknowledge",
        m.AcknowledgeAlert,
    ),
    CommandRoute(
        "POST", "/api/v1/tiers/{tier}/clear-limit", "tier.clear_limit", m.ClearLimit
    ),
    CommandRoute("POST", "/api/v1/schedules", "schedule.add", m.AddSchedule),
    CommandRoute("DELETE", _SCHEDULE, "schedule.remove", m.RemoveSchedule),
    CommandRoute("POST", f"{_SCHEDULE}/change", "schedule.change", m.ChangeSchedule),
    CommandRoute("POST", f"{_SCHEDULE}/pause", "schedule.pause", m.PauseSchedule),
    CommandRoute("POST", f"{_SCHEDULE}/resume", "schedule.resume", m.ResumeSchedule),
    CommandRoute("POST", f"{_SCHEDULE}/run", "schedule.run", m.RunSchedule),
    CommandRoute("PUT", "/api/v1/policy", "policy.set", m.SetPolicy),
    CommandRoute("POST", "/api/v1/policy/validate", "policy.validate", m.SetPolicy),
)

ASKING: Final = frozenset({"task.classify", "task.route", "policy.validate"})
"""Commands that change nothing: a viewer may give them."""

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
"""This header is a task's `idempotency_key`, and the `id` of any other command."""
_KEYED: Final = frozenset({"task.submit", "task.classify", "task.route"})

_LISTS: Final = {"state", "label"}
_NUMBERS: Final = {"limit", "offset", "wait_seq", "events_from", "after_n"}
_TRUTHS: Final = {"events", "fallback"}


class AskEvents(Pattern, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/api/v1/events`: `from` is a sequence or a point of time."""

    start: int | str = msgspec.field(default=1, name="from")
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 300


class AskTaskEvents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/api/v1/tasks/{task_id}/events`: `from` is a sequence or a point of time.

    With `Accept: text/event-stream` they come as server-sent events, until the task is
    over; `Last-Event-ID` is the sequence behind which they go on.
    """

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
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


class TraceAnswer(Struct, kw_only=True):
    """A task's routing alone: why it went where it went, and what it waited for.

    `attempts` is the older name of `routes`, kept for one release.
    """

    seq: int
    task_id: str
    state: str
    classification: c.Classification | None
    route: c.TaskRouted | None
    attempts: list[v.RouteView]
    routes: list[v.RouteView] = []


class AskSavings(Struct, frozen=True, forbid_unknown_fields=True):
    """`/api/v1/savings`: what local work would have cost on a chosen Claude model."""

    model: Annotated[str, Meta(min_length=1, max_length=250)]


class Api:
    """Answers questions and passes commands on.

    `builtin` is the policy until one is set; `savings` answers for a model from the log by
    another price, and is handed in, because prices are not known here.
    """

    def __init__(
        self,
        queries: Queries,
        bus: Bus,
        log: EventLog,
        builtin: dict[str, Any],
        savings: SavingsReader | None = None,
    ) -> None:
        self._queries = queries
        self._bus = bus
        self._log = log
        self._builtin = builtin
        self._savings = savings
        self._saving = asyncio.Lock()

    # -- asking ------------------------------------------------------------------------

    async def ask(self, query: str, request: web.Request) -> Any:
        """Answer a question; raises AgentComError, as all of these do."""
        return await self._queries.answer(query, encode(fields_of(request)))

    async def trace(self, request: web.Request) -> Any:
        """Answer with the routing decision alone: reason, candidates, excluded, wait."""
        answer = await self.ask("task", request)
        if not isinstance(answer, v.TaskAnswer):
            return answer
        return TraceAnswer(
            seq=answer.seq,
            task_id=answer.task.task_id,
            state=answer.task.state,
            classification=answer.task.classification,
            route=answer.route,
            attempts=answer.routes,
            routes=answer.routes,
        )

    async def events(self, request: web.Request) -> Any:
        """Answer with a piece of the log."""
        ask = convert(fields_of(request), AskEvents)
        return await self._piece(ask.start, ask.limit, ask.subject)

    async def task_events(self, request: web.Request) -> Any:
        """Answer with a piece of what the log says of one task."""
        ask = convert(fields_of(request), AskTaskEvents)
        answer = await self._queries.task(q.AskTask(task_id=ask.task_id))
        if isinstance(answer, Refusal):
            return answer
        task_id = answer.task.task_id
        of_task = (subjects.task(task_id), subjects.runs_of(task_id))
        return await self._piece(ask.start, ask.limit, *of_task)

    async def _piece(self, start: int | str, limit: int, *patterns: str) -> Events:
        first = await self._sequence(start)
        last = await self._log.last_sequence()
        events: list[c.Recorded] = []
        for pattern in patterns:
            events += await self._log.read(
                pattern, start=max(first, 1), limit=limit + 1
            )
        events.sort(key=lambda recorded: recorded.seq)
        encoded: list[msgspec.Raw] = []
        size, following = 0, None
        for recorded in events:
            raw = encode_recorded(recorded)
            size += len(raw)
            if encoded and (len(encoded) >= limit or size > EVENTS_BYTES):
                following = recorded.seq
                break
            encoded.append(msgspec.Raw(raw))
        return Events(seq=last, events=encoded, next=following)

    async def _sequence(self, start: int | str) -> int:
        if isinstance(start, int):
            return start
        start = time_of(start, "from", time.time())
        answer = await self._queries.queue(q.AskQueue(at=start, limit=0))
        return answer.seq + 1

    async def ask_by_body(self, query: str, request: web.Request) -> Any:
        """Answer a question whose fields are the body."""
        return await self._queries.answer(query, await request.read())

    async def saved(self, request: web.Request) -> Any:
        """Answer what local work would have cost on a chosen model."""
        if self._savings is None:
            return refuse("unavailable", "no prices are known here")
        ask = convert(fields_of(request), AskSavings)
        async with self._saving:
            return await self._savings(ask.model)

    async def policy(self, request: web.Request) -> PolicyAnswer:
        """Answer with the policy in force."""
        last = await self._log.last(subjects.POLICY)
        event = last.event if last is not None else None
        if last is None or not isinstance(event, c.PolicyChanged):
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
        """Pass a command on, in somebody's name; return its answer as it came.

        Raises Malformed, Denied, Unreachable.
        """
        body = _object_in(await request.read())
        for field, value in request.match_info.items():
            if body.setdefault(field, value) != value:
                raise Malformed(
                    field, "", "", f"{shown(value)} in the path, another in the body"
                )
        if (unclear := await self._lengthen(body)) is not None:
            return response_of(unclear)
        key = request.headers.get(IDEMPOTENCY_KEY)
        field = "idempotency_key" if name in _KEYED else "id"
        if key is not None and body.setdefault(field, key) != key:
            raise Malformed(
                field, "", "", f"the header {IDEMPOTENCY_KEY} says another one"
            )
        if name in m.ONCE:
            body.setdefault("id", secrets.token_hex(16))
        if name == "task.bulk":
            return _answered(await self._for_many(body, who, _wait_of(request)))
        traceparent = request.headers.get(TRACEPARENT, "")
        again = "id" in body or "idempotency_key" in body
        subject = subjects.command(name)
        return _answered(
            await self.pass_on(subject, encode(body), who, traceparent, again=again)
        )

    async def _lengthen(self, body: dict[str, Any]) -> Refusal | None:
        """Put a whole id in the place of its beginning; a refusal where that is of several."""
        task_id = body.get("task_id")
        if isinstance(task_id, str) and 0 < len(task_id) < FULL_ID:
            full = await self._queries.full_id(task_id)
            if isinstance(full, Refusal):
                # What the read models do not know yet, the gateway may.
                return full if full.code == "ambiguous" else None
            body["task_id"] = full
        return None

    async def _for_many(self, body: dict[str, Any], who: str, wait_s: float) -> bytes:
        """Say a command for many tasks again until it is carried out, or time is up."""
        body.setdefault("id", secrets.token_hex(16))
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            subject = subjects.command("task.bulk")
            answer = await self.pass_on(subject, encode(body), who)
            try:
                finished = msgspec.json.decode(answer, type=_CarriedOut).finished
            except msgspec.DecodeError:
                return answer
            if finished or loop.time() > until:
                return answer

    async def pass_on(
        self,
        subject: str,
        body: bytes,
        who: str,
        traceparent: str = "",
        *,
        again: bool = False,
    ) -> bytes:
        """Ask the gateway, for `ANSWER_S` at most.

        It is given anew while nobody listens. With `again` it may be given twice: after a
        while it is.
        """
        headers = {header.REQUESTER: who}
        if TraceParent.read(traceparent):
            headers[TRACEPARENT] = traceparent
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_S

        def ask() -> Awaitable[bytes]:
            return self._request(subject, body, headers, until, again=again)

        return await once_listened(ask, until)

    async def _request(
        self,
        subject: str,
        body: bytes,
        headers: dict[str, str],
        until: float,
        *,
        again: bool,
    ) -> bytes:
        """Ask, with `again` each `AGAIN_S` once more; the first answer counts.

        `until` is by the loop's clock.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        asked: list[asyncio.Future[bytes]] = []
        failed: list[asyncio.Future[bytes]] = []

        def heard(one: asyncio.Future[bytes]) -> None:
            if one.cancelled() or answer.done():
                return
            if (error := one.exception()) is None:
                answer.set_result(one.result())
                return
            failed.append(one)
            if len(failed) == len(asked):
                answer.set_exception(error)

        try:
            while not answer.done():
                rest = until - loop.time()
                one = self._bus.request(subject, body, timeout=rest, headers=headers)
                asked.append(one)
                one.add_done_callback(heard)
                more = again and rest > AGAIN_S
                await asyncio.wait([answer], timeout=AGAIN_S if more else None)
            return answer.result()
        finally:
            for each in asked:
                each.cancel()


def _object_in(raw: bytes) -> dict[str, Any]:
    """Read a command's body, where none is an empty one; raises Malformed."""
    try:
        body = msgspec.json.decode(raw) if raw.strip() else {}
        got = shown(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        body, got = None, f"another text ({error})"
    if not isinstance(body, dict):
        said = f"the body: expected a JSON object, got {got}"
        raise Malformed("", "a JSON object", got, said)
    return body


def _wait_of(request: web.Request) -> float:
    """Return how long the one who asks waits for many tasks; raises Malformed."""
    return min(span_s(request.query.get("wait", f"{MANY_S}"), "wait"), MANY_S)


class _CarriedOut(Struct):
    """What tells of a command for many tasks whether it is carried out."""

    finished: bool = True


class _Status(Struct):
    ok: bool = True
    status: int = 200


def _answered(raw: bytes) -> web.Response:
    try:
        answer = msgspec.json.decode(raw, type=_Status)
    except msgspec.DecodeError:
        return response_of(refuse("bad_gateway", "the answer is no JSON object"))
    return json_response(raw, 200 if answer.ok else max(answer.status, 400))


def response_of(answer: Any) -> web.Response:
    """Turn an answer into a response."""
    status = answer.status if isinstance(answer, Refusal) else 200
    return json_response(encode(answer), status)


def json_response(
    raw: bytes, status: int, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer with JSON that is encoded already."""
    return web.Response(
        body=raw,
        status=status,
        headers={"Content-Type": "application/json", **(headers or {})},
    )


def is_number(text: str) -> bool:
    """Whether a text is a number that a sequence may have."""
    return text.isascii() and text.isdigit() and len(text) < 16


def fields_of(request: web.Request) -> dict[str, Any]:
    """Turn path and query parameters into a question's fields; raises Malformed."""
    question: dict[str, Any] = dict(request.match_info)
    for key in request.query:
        values = request.query.getall(key)
        if key in _LISTS:
            question[key] = [part for value in values for part in value.split(",")]
            continue
        if key in request.match_info:
            raise Malformed(key, "it in the path only", "it twice")
        if len(values) > 1:
            raise Malformed(key, "one value", f"{len(values)}")
        try:
            question[key] = _value(key, values[0])
        except (ValueError, KeyError):
            expected = "true or false" if key in _TRUTHS else "a whole number"
            raise Malformed(key, expected, shown(values[0])) from None
    return question


def _value(key: str, text: str) -> float | bool | str:
    if key == "wait":
        return span_s(text, key)
    if key in _NUMBERS:
        return int(text)
    if key in _TRUTHS:
        return {"true": True, "false": False}[text]
    if key in ("at", "from"):
        return int(text) if text.isascii() and text.isdigit() else text
    return text
