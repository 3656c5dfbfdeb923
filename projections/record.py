"""A task's record: what lists, filters and totals need of it, and of each of its routings.

The store keeps records as arrays, so a field's place is its name there: new fields go
to the end, and the fold's version goes up with any change.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, field

from events.codec import instant, rfc3339
from events.errors import Malformed
from events.lifecycle import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events import catalogue as c

NANO: Final = 1_000_000_000
"""Billionths in a dollar. Dollars are kept as whole billionths."""


CERTAIN: Final = (
    "none",
    "simulated",
    "local",
    "local_estimate",
    "reported",
    "reported_unpriced",
    "estimated",
    "unknown",
)
"""What a price may rest on (`cost_basis` of a result), the surest first."""
GUESSED: Final = ("reported_unpriced", "estimated")
"""Of these: dollars that were spent, and are a guess."""


class Spent(Struct, frozen=True, array_like=True, gc=False):
    """Tokens and dollars.

    `unpriced` counts runs whose dollars nobody knows, `guessed` those whose dollars are a
    guess, `unknown_in` and `unknown_out` those whose tokens nobody knows. `basis` is what
    the least certain of the prices rests on.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    usd_nano: int = 0
    equivalent_nano: int = 0
    saved_nano: int = 0
    unpriced: int = 0
    unknown_in: int = 0
    unknown_out: int = 0
    guessed: int = 0
    basis: str = "none"

    def __add__(self, other: Spent) -> Spent:
        if self is NOTHING:
            return other
        return Spent(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.usd_nano + other.usd_nano,
            self.equivalent_nano + other.equivalent_nano,
            self.saved_nano + other.saved_nano,
            self.unpriced + other.unpriced,
            self.unknown_in + other.unknown_in,
            self.unknown_out + other.unknown_out,
            self.guessed + other.guessed,
            self.basis
            if self.basis == other.basis
            else max(self.basis, other.basis, key=CERTAIN.index),
        )

    def beyond(self, told: Spent) -> Spent:
        """Return what of this has not been told before."""
        if told is NOTHING:
            return self
        return Spent(
            max(0, self.tokens_in - told.tokens_in),
            max(0, self.tokens_out - told.tokens_out),
            max(0, self.cache_read - told.cache_read),
            max(0, self.cache_write - told.cache_write),
            max(0, self.usd_nano - told.usd_nano),
            max(0, self.equivalent_nano - told.equivalent_nano),
            self.saved_nano - told.saved_nano,
            max(0, self.unpriced - told.unpriced),
            max(0, self.unknown_in - told.unknown_in),
            max(0, self.unknown_out - told.unknown_out),
            max(0, self.guessed - told.guessed),
            self.basis,
        )


NOTHING: Final = Spent()


def spent_on(result: c.Result | c.RoundSpent) -> Spent:
    """Return what a run's result, or one of its rounds, says it took."""
    usd, equivalent = result.estimated_cost_usd, result.equivalent_claude_cost_usd
    # Less than nothing is nothing: a host's word takes nothing off what others cost.
    usd_nano = max(0, round(usd * NANO)) if usd else 0
    basis = result.cost_basis
    equivalent_nano = max(0, round(equivalent * NANO)) if equivalent else 0
    return Spent(
        result.tokens_in or 0,
        result.tokens_out or 0,
        result.cache_read_tokens,
        result.cache_write_tokens,
        usd_nano,
        equivalent_nano,
        0 if equivalent is None else equivalent_nano - usd_nano,
        1 if usd is None else 0,
        1 if result.tokens_in is None else 0,
        1 if result.tokens_out is None else 0,
        1 if usd and basis in GUESSED else 0,
        "unknown" if usd is None or basis not in CERTAIN else basis,
    )


def labels_text(labels: dict[str, str]) -> str:
    """Encode labels, which are sorted, as their column has them: a JSON object.

    Neither keys nor values need escapes, so that `"team":"search"` is in there for that
    label and nothing else.
    """
    return msgspec.json.encode(labels).decode() if labels else "{}"


class CheckedStep(Struct, array_like=True, kw_only=True, gc=False):
    """One verification step of a round, and how it ended. Rounds and steps from 1.

    `tokens_in` to `usd` are what the work before the round's first step used; None is
    unknown.
    """

    round: int
    rounds: int
    step: int
    of: int
    command: str
    passed: bool
    exit_code: int | None = None
    signal: str | None = None
    code: str = ""
    output: str = ""
    execution_ms: float = 0.0
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    usd: float | None = 0.0


class Routing(Struct, array_like=True, kw_only=True, gc=False):
    """One routing of a task and what came of it. Instants are as the writers gave them.

    `outcome` is routed, accepted, running, rejected, returned, requeued, completed,
    failed, stopped, abandoned or dead; `late` marks a report that came too late to count.
    `fallback_since` is when the tier that it fell back from became unavailable.

    To tell news from repeats, `reported` is the highest rank of a report that counted,
    `line` the highest number of a line, and `booked` the types of report whose dollars
    are in the books. `started` says that the run began and is an attempt, `counted` that
    it is over and among the task's `attempts`. `restarted` is how often its host has started
    the command again. `checks` are its verification's steps. `told` is what so many rounds
    of it have said they used, and the run's own end has not repeated yet.
    """

    route: str
    host: str
    attempt: int
    reported: int = 0
    line: int = -1
    booked: tuple[str, ...] = ()
    started: bool = False
    counted: bool = False
    seq: int
    generation: int
    tier: str
    target_type: str
    endpoint: str = ""
    model: str = ""
    fallback_used: bool = False
    fallback_from_tier: str | None = None
    fallback_reason: str | None = None
    waited_s: float = 0.0
    simulated: bool = False
    outcome: str = "routed"
    reason: str = ""
    detail: str = ""
    error_code: str = ""
    error_message: str = ""
    routed_at: str = ""
    accepted_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    execution_ms: float | None = None
    local_retries: int = 0
    lines: int = 0
    last_line: str = ""
    late: bool = False
    spent: Spent = NOTHING
    fallback_since: str = ""
    fallback_code: str | None = None
    restarted: int = 0
    clock_ahead_s: float = 0.0
    checks: tuple[CheckedStep, ...] = ()
    rounds_told: int = 0
    told: Spent = NOTHING


@cache
def _names_shared(one: type[Struct], other: type[Struct]) -> tuple[str, ...]:
    return tuple(n for n in one.__struct_fields__ if n in other.__struct_fields__)


def same(source: Struct, kind: type[Struct]) -> dict[str, Any]:
    """Return what both have by one name: the fields of `kind`, with the values of `source`."""
    return {n: getattr(source, n) for n in _names_shared(type(source), kind)}


def later(at: str, seconds: float) -> str:
    """Write an instant that is so much later (or earlier, below 0); "" stays ""."""
    try:
        return rfc3339(instant(at) + seconds)
    except (Malformed, ValueError, OverflowError):
        return at


def clock_stepped(
    records: Mapping[str, TaskRecord], step_s: float
) -> dict[str, TaskRecord]:
    """Let those who wait have waited as long as before a step of the scheduler's clock.

    Returns them.
    """
    waiting = {key: one for key, one in records.items() if one.phase == "waiting"}
    for record in waiting.values():
        record.waiting_since = later(record.waiting_since, step_s)
    return waiting


class Void(Struct, array_like=True, gc=False):
    """A step that counted for nothing, and why."""

    seq: int
    type: str
    reason: str


class TaskRecord(Struct, array_like=True, kw_only=True, gc=False):
    """A task as people look at it.

    `phase` is where it stands, `phase_seq` the event that took it there. `route` is the
    routing in force, or the last one while it waits; `generation` is the highest that was
    routed. `attempts` counts those that are over and counted.
    `tier` is where it runs or waits to run, `preferred_tier` what its classification
    said. `trace_seq`, `result_seq`, `seq` (its submission) and `env_seq` (the start of its
    last command) are where the log has the rest. `waiting_since` is when it last began to wait. `of_a_model`, `has_command` and
    `stays` say that its specification asks for what a chat's model alone gives, that it has
    a command, and that it may leave its tier for none: as `events.lifecycle.hops` wants
    it. `cwd` is the folder that its last run worked in. `unverified`: its
    tier's work did not pass the verification, so that it waits for the next tier alone.
    `parent`, `root` and `depth` are as in its submission, `children` counts those that its
    own runs have submitted.
    `own_seq` is the last event on its own subject, where decisions about it stand;
    `wanted_model` the model that it names, `model_used` the one that its result names, `needs` what its host must be able to.
    `not_before` is the instant before which it is not to start; `held`: it waits for that,
    or for the tasks that it comes after, outside the queue. `name` is what its batch calls
    it; it comes after the tasks of `after`, `after_any` and `input_from`, and `followers`
    come after it, the first `FOLLOWERS_KEPT` of them. `schedule` has submitted it.
    """

    phase: Phase = "waiting"
    phase_seq: int = 0
    route: str = ""
    generation: int = 0
    attempts: int = 0
    id: str
    seq: int
    updated_seq: int
    description: str
    priority: str
    tier: str
    preferred_tier: str
    explicit_tier: str | None
    repo: str
    executor: str
    assign_to: str
    max_attempts: int
    deadline: str
    submitter: str
    submitted_at: str
    waiting_since: str
    host: str = ""
    endpoint: str = ""
    model: str = ""
    target_type: str = ""
    fallback_used: bool = False
    fallback_from_tier: str | None = None
    waiting_for: str = ""
    exclude: str = ""
    routed_at: str = ""
    accepted_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    trace_seq: int = 0
    result_seq: int = 0
    status: str = ""
    error_code: str = ""
    error_message: str = ""
    execution_ms: float | None = None
    late: bool = False
    simulated: bool = False
    cancelled_by: str = ""
    reason: str = ""
    void: int = 0
    voids: tuple[Void, ...] = ()
    spent: Spent = NOTHING
    routings: list[Routing] = field(default_factory=list)
    ttl_s: float | None = None
    of_a_model: bool = False
    has_command: bool = False
    cwd: str = ""
    env_seq: int = 0
    unverified: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    own_seq: int = 0
    wanted_model: str = ""
    needs: tuple[str, ...] = ()
    model_used: str = ""
    not_before: str = ""
    held: bool = False
    parent: str = ""
    root: str = ""
    depth: int = 0
    children: int = 0
    name: str = ""
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    input_from: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()
    schedule: str = ""
    stays: bool = False

    @property
    def tree(self) -> str:
        """The first task of the tree that it is in; "" where it is by itself."""
        return self.root or (self.id if self.children else "")

    @property
    def seeks(self) -> str:
        """The tier that it runs in or waits for."""
        waits = self.unverified and self.phase in ("waiting", "returned")
        return "complex" if waits else self.tier

    @property
    def attempts_begun(self) -> int:
        """Routings that started: those that are over and counted, and the present one."""
        last = self.routings[-1] if self.routings else None
        running = last is not None and last.started and not last.counted
        return self.attempts + running

    def routing(self, route: str) -> Routing | None:
        """Return the remembered routing with this id."""
        routings = self.routings
        if routings and routings[-1].route == route:
            return routings[-1]
        for routing in reversed(routings):
            if routing.route == route:
                return routing
        return None
