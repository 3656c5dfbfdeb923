"""A task's life: the phases it goes through, and the one table of allowed steps.

A task's phase follows from what was decided about it (`agentcom.evt.task.<task>`) and
what hosts report of its runs (`agentcom.evt.run.<host>.<task>`), in the log's order. A
step that has no cell in the table is void, whoever wrote it: it is counted and shown, and
changes nothing. A report names its route, the id of the routed event; only the one in
force counts, except that a result of the last route still counts while the task waits to
be routed or tried anew. Each routing raises the generation; one that does not was decided
on an older state, and is void.

    waiting ──routed──▶ routed ──accepted──▶ accepted ──started──▶ running
       ▲                  │ rejected, returned │                     │
       └──requeued── returned ◀────────────────┴─────────────────────┤
                                       completed · failed ◀──────────┘
    cancelled while a run may be alive: cancelling, until the host says it has stopped

A later phase implies the earlier ones: a result is good from `routed` on. This is
vocabulary, like the events themselves: the scheduler and the gateway fold a task to
decide about it (`actors.lifecycle`), the read models fold it to show it
(`projections.tasks`). The two folds are written apart and read this one table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from events import catalogue as c

if TYPE_CHECKING:
    from collections.abc import Callable

Phase = Literal[
    "waiting",
    "routed",
    "accepted",
    "running",
    "returned",
    "cancelling",
    "completed",
    "failed",
    "dead",
    "cancelled",
    "expired",
]
"""Where a task that exists stands."""

Absent = Literal["absent"]
"""What stands in a phase's place before the submission."""

PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
OPEN: Final = PHASES[:6]
_OVER: Final = PHASES[6:]
FINAL: Final[frozenset[str]] = frozenset(_OVER)
"""A task here is over; only a retry brings it back."""

UNDER_WAY: Final[tuple[Phase, ...]] = ("routed", "accepted", "running")
"""A route is in force, and nobody has asked its run to end."""
ON_HOST: Final[frozenset[str]] = frozenset({*UNDER_WAY, "cancelling"})
"""A route is in force and holds a slot on its host."""

TABLE: Final[dict[tuple[Phase | Absent, type[c.Event]], Phase]] = {
    ("absent", c.TaskSubmitted): "waiting",
    ("waiting", c.TaskReleased): "waiting",
    ("waiting", c.TaskDeferred): "waiting",
    ("waiting", c.TaskRouted): "routed",
    ("waiting", c.TaskExpired): "expired",
    ("waiting", c.TaskCancelled): "cancelled",
    ("waiting", c.TaskDeadLettered): "dead",
    ("waiting", c.TaskCompleted): "completed",
    ("waiting", c.TaskFailed): "failed",
    ("returned", c.TaskRequeued): "waiting",
    ("returned", c.TaskDeadLettered): "dead",
    ("returned", c.TaskCancelled): "cancelled",
    ("routed", c.TaskAccepted): "accepted",
    ("routed", c.TaskStarted): "running",
    ("accepted", c.TaskStarted): "running",
    **{(phase, c.TaskRejected): "returned" for phase in ("routed", "accepted")},
    **{(phase, c.TaskReturned): "returned" for phase in UNDER_WAY},
    **{(phase, c.TaskStopped): "returned" for phase in UNDER_WAY},
    **{(phase, c.TaskCompleted): "completed" for phase in UNDER_WAY},
    **{(phase, c.TaskFailed): "failed" for phase in UNDER_WAY},
    **{(phase, c.TaskRequeued): "waiting" for phase in UNDER_WAY},
    **{(phase, c.TaskDeadLettered): "dead" for phase in UNDER_WAY},
    **{(phase, c.TaskCancelled): "cancelling" for phase in UNDER_WAY},
    **{
        (phase, c.TaskReassigned): "waiting"
        for phase in ("waiting", "returned", *UNDER_WAY)
    },
    **{
        ("cancelling", kind): "cancelled"
        for kind in (
            c.TaskStopped,
            c.TaskCompleted,
            c.TaskFailed,
            c.TaskReturned,
            c.TaskRejected,
            c.TaskAbandoned,
        )
    },
    ("cancelling", c.TaskAccepted): "cancelling",
    ("cancelling", c.TaskStarted): "cancelling",
    **{
        (phase, c.TaskRetried): "waiting"
        for phase in ("failed", "dead", "cancelled", "expired")
    },
    **{(phase, c.TaskDelegated): phase for phase in UNDER_WAY},
    # Lines about a run change no phase; they are legal while a run may be alive.
    **{
        (phase, kind): phase
        for phase in (*UNDER_WAY, "cancelling")
        for kind in (c.TaskStatus, c.TaskErrorLine, c.TaskRetrying, c.TaskVerified)
    },
    # A woken agent's last step, its files removed, comes after the run's end.
    **{(phase, c.TaskStep): phase for phase in PHASES},
}
"""(phase, event) to the phase that follows."""

BY_LEADER: Final = (
    c.TaskReleased,
    c.TaskDeferred,
    c.TaskRouted,
    c.TaskRequeued,
    c.TaskExpired,
    c.TaskDeadLettered,
    c.TaskAbandoned,
)
"""Decisions that count only with the epoch of the leader in force.

A submission, a cancellation, a retry or a reassignment may come from any gateway.
"""


def is_held(spec: c.TaskSpec) -> bool:
    """Whether a task is *held* from its submission on, until it is released.

    It waits outside the queue: nobody routes it, and it does not age.
    """
    return spec.at is not None or bool(spec.after or spec.after_any or spec.input_from)


def refuses_step(kind: type[c.Event], *, held: bool) -> bool:
    """Whether a step that the table allows is void for a task that is held, or is not."""
    return held if kind is c.TaskRouted else kind is c.TaskReleased and not held


RANK: Final[dict[type[c.Event], int]] = {
    c.TaskAccepted: 1,
    c.TaskStarted: 2,
    c.TaskCompleted: 3,
    c.TaskFailed: 3,
    c.TaskReturned: 3,
    c.TaskRejected: 3,
    c.TaskStopped: 3,
}
"""How far a report takes its route: 1 accepted, 2 started, 3 over.

A report of no higher rank than one that counted is a repeat.
"""
STARTED: Final = RANK[c.TaskStarted]
"""The rank from which on a route was an attempt."""
OVER: Final = RANK[c.TaskCompleted]
"""The rank of a run's end; such a report may bring a result."""

NO_ATTEMPT: Final = frozenset({"busy", "draining", "limited"})
"""A run given back for these reasons was not an attempt of the task's."""

REFUSED: Final = "refused_by_policy"
"""A host may not do this work: its settings allow less than the task wants."""

UNUSABLE: Final = "endpoint_unusable"
"""The endpoint would refuse its next run too (not logged in, no credit), and another may not."""

UNSUITED: Final = frozenset(
    {
        *("endpoint_unfit", UNUSABLE, "host_short", "secret_not_here", "secrets_file"),
        *("workspace", "folder_busy", REFUSED),
    }
)
"""Nor was one given back for these reasons, where nothing was done: the place cannot do this
work, and another may. A place that had been excluded, and was tried again for want of any
other, makes it an attempt all the same, so that the task ends."""

LOST_RUN: Final = frozenset(
    {"host lost", "host restarted", "host lost it", "interrupted"}
)
"""Why a route ended whose run was lost together with its host's process."""

SUSPECT_FROM: Final = 2
"""A task that lost so many runs with their hosts may be what ends them."""

VERIFICATION: Final = "verification"
"""A run given back for this reason was done, and did not pass: its error's code, too, and
the fallback's that follows."""

FIXED_KINDS: Final = ("agent", "noop")
"""Executors outside the tiers: such a task waits for that kind alone, and never falls
back."""

TIER_KINDS: Final[dict[str, tuple[c.EndpointKind, ...]]] = {
    "trivial": (),
    "standard": ("ollama", "openai"),
    "complex": ("claude",),
}
"""The kinds of endpoint that make a tier. Every host runs commands, which is trivial."""

TASK_TTL_S: Final = 600.0
"""A waiting task's time to live where neither the task nor a policy says another."""


def time_to_live(
    waiting_since: float, gone_since: float, own_s: float | None, policy_s: float
) -> tuple[float, float]:
    """Return when a waiting task's time to live began, and how long it is, in seconds.

    It runs while the task waits and nothing could take it, not even with all slots free:
    `gone_since` is when the last of its tiers went away, or the one host that it may run
    on. Time without a leader does not count; whoever knows of such time adds it. A
    deadline is kept beside this and needs no outage.
    """
    return max(waiting_since, gone_since), policy_s if own_s is None else own_s


def endpoint_of(event: c.HostEvent) -> str:
    """Return the endpoint that a host's event is about, "" where it is about the host."""
    state = getattr(event, "state", None)
    return getattr(event, "endpoint", "") if state is None else str(state.endpoint)


def heard_before(event: c.HostEvent, joined_id: str, last_ids: dict[str, str]) -> bool:
    """Whether a host's present incarnation has said this, or what overtook it, before.

    Its ids rise, and its events may change places on their way: what is about another
    endpoint (`last_ids` by endpoint, "" for the host) overtakes nothing. A join says all.
    """
    if isinstance(event, c.HostJoined):
        return event.id <= max(joined_id, *last_ids.values(), "")
    return event.id <= max(joined_id, last_ids.get(endpoint_of(event), ""))


def hops(
    tier: c.Tier,
    *,
    fixed: bool,
    stays: bool,
    model: str,
    tied: bool,
    has_command: bool,
    of_a_model: bool,
    is_up: Callable[[c.Tier], bool],
    allow_downgrade: bool,
) -> list[c.Tier]:
    """Return where a task of `tier` may go instead, the nearest first: one step, one time.

    Nowhere, if it is of a `fixed` kind, outside the tiers; if it `stays`, because it has
    hopped or is not allowed to; if it names its `model`; or if it is `tied` to a host where
    nothing failed on it, and its tier is up. `is_up` says whether a tier has a place that
    would do with all its slots free; `of_a_model` that the task asks for what only a chat's
    model gives.
    """
    if fixed or stays or model or (tied and is_up(tier)):
        return []
    if tier == "standard":
        if has_command and not is_up("complex"):
            return ["complex", "trivial"]
        return [] if of_a_model else ["complex"]
    if tier == "complex" and allow_downgrade and not is_up(tier):
        # It acts on a tier that is down; what failed on Claude never goes lower.
        return ["standard"]
    return []


def may_not_hop(tier_limit: c.Tier | None) -> bool:
    """Whether a task with this limit, as its submission says it, has to stay in its tier."""
    return tier_limit == "standard"
