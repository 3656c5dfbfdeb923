"""The scheduler's state as bytes and back, so that a start need not fold the whole log.

The log stays the only truth: a checkpoint holds what the fold of the log up to one place
has come to, and nothing that is not in there. What can be made from the rest is made anew:
the queue, the pools, the lists of what is to be looked at. Specifications are left to the
log.

Tasks, of which there may be a million, are rows of a fixed shape. All else is written
object by object, each with all its fields, so a new field needs no word here; an object of
a kind that is not in `KINDS` is an error when it is written. Whoever keeps the bytes keeps
apart what different code has written (`checkpoint_file`).
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from actors.lifecycle import Epochs, TaskState
from actors.rules import policy as policies
from actors.rules.policy import Policy
from actors.scheduler.families import Families, Parentage
from actors.scheduler.fleet import Fleet, pool_key
from actors.scheduler.held import HeldTasks, TaskEnd
from actors.scheduler.live import Hold, LiveTask, RouteEnd
from actors.scheduler.logtime import LogTime
from actors.scheduler.places import Host, Place, Slots
from actors.scheduler.queue import Requirement, Waiting
from actors.scheduler.schedules import Firing, RuleSpan, Schedule, Schedules
from actors.scheduler.state import SchedulerState
from actors.scheduler.tiers import Outage, TierWatch
from events import catalogue as c
from events.codec import decode_event, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROWS: Final = 5_000
"""Tasks in one frame."""

KINDS: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        *(Epochs, Families, Parentage, Fleet, HeldTasks, TaskEnd, RouteEnd, LogTime),
        *(Host, Place, Slots, Requirement, Firing, RuleSpan, Schedule, Schedules),
        *(Outage, TierWatch),
    )
}
"""What the state is made of beside tasks, events and Python's own types."""

LEFT_OUT: Final[dict[type, frozenset[str]]] = {
    SchedulerState: frozenset(
        {
            # Written as rows, and what follows from those.
            *("tasks", "queue", "by_pool", "newcomers", "specs"),
            # Of the present, or of whoever leads: given up before this is written.
            *("now", "counts", "reserved", "tier_pending", "arrived"),
            *("look_at", "unmet", "tiers_dirty", "alerts_moved"),
            # Read from the log again.
            "coming_back",
        }
    ),
    Fleet: frozenset(
        {
            *("now", "changed_pools", "changed_kinds"),
            *("_pools", "_pools_by_kind", "_pools_by_host"),
        }
    ),
}
"""Fields that are not written; they are as in a new object."""


class LiveRow(Struct, array_like=True, gc=False):
    """A `LiveTask`; requirements by number, `group` the one it waits with (-1 for none)."""

    task: TaskState
    base: int
    group: int
    lane: int
    repo: str | None
    reason: str
    ttl_s: float | None
    since: float
    deadline: float | None
    incarnation: str
    deferred: bool
    hold: Hold | None
    routed: bytes | None


_rows: Final = msgspec.msgpack.Decoder(list[LiveRow])


def dump(state: SchedulerState) -> Iterator[bytes]:
    """Yield a state in frames, as `restore` takes them.

    It must be one of which nothing is on its way to the log: see
    `Scheduler.settle_for_checkpoint`.
    """
    numbers: dict[Requirement, int] = {}
    for live in state.tasks.values():
        numbers.setdefault(live.base, len(numbers))
    for waiting in state.queue.tasks.values():
        numbers.setdefault(waiting.requirement, len(numbers))
    packer = _Packer()
    pack = msgspec.msgpack.Encoder().encode
    frames = -(-len(state.tasks) // ROWS)
    yield pack([frames, [packer.plain(each) for each in numbers]])
    tasks = iter(state.tasks.values())
    while chunk := list(islice(tasks, ROWS)):
        yield pack([_row(state, live, numbers) for live in chunk])
    yield pack([packer.fields(state), list(state.coming_back)])


def _row(
    state: SchedulerState, live: LiveTask, numbers: dict[Requirement, int]
) -> LiveRow:
    waiting = state.queue.tasks.get(live.task.task_id)
    return LiveRow(
        live.task,
        numbers[live.base],
        -1 if waiting is None else numbers[waiting.requirement],
        live.lane,
        live.repo,
        live.classification_reason,
        live.ttl_s,
        live.since,
        live.deadline,
        live.incarnation,
        live.deferred,
        live.hold,
        None if live.routed is None else encode(live.routed),
    )


def restore(frames: Iterable[bytes]) -> SchedulerState:
    """Make the state that `dump` has written: a standby's, just after that event."""
    source = iter(frames)
    unpack = msgspec.msgpack.decode
    state = SchedulerState()
    unpacker = _Unpacker(state)
    count, written = unpack(next(source))
    requirements = [state.newcomers.one(unpacker.made(each)) for each in written]
    waiting: list[Waiting] = []
    for frame in islice(source, count):
        _take_rows(state, _rows.decode(frame), requirements, waiting)
    # In the order in which they began to wait, which lets a group take them in cheaply.
    waiting.sort(key=_since)
    for one in waiting:
        if state.queue.add(one).count == 1:
            required = one.requirement
            state.by_pool.setdefault(pool_key(required), set()).add(required)
    state.look_at.update(state.queue.groups)
    fields, coming_back = unpack(next(source))
    for name, value in fields.items():
        setattr(state, name, unpacker.made(value))
    state.coming_back = {task_id: [] for task_id in coming_back}
    return state


def _since(waiting: Waiting) -> float:
    return waiting.since


def _take_rows(
    state: SchedulerState,
    rows: list[LiveRow],
    requirements: list[Requirement],
    waiting: list[Waiting],
) -> None:
    """Make a frame's tasks, and put those that wait on the list.

    Equal texts and numbers of a task are one object, as the fold has them: a million tasks
    are held.
    """
    tasks, text = state.tasks, state.newcomers.text
    for row in rows:
        task = row.task
        if task.waiting_since == task.submitted_at:
            force_setattr(task, "waiting_since", task.submitted_at)
        if task.last_seq == task.submitted_seq:
            force_setattr(task, "last_seq", task.submitted_seq)
        routed = None if row.routed is None else decode_event(row.routed)
        tasks[task.task_id] = LiveTask(
            task,
            requirements[row.base],
            row.lane,
            None if row.repo is None else text(row.repo),
            text(row.reason),
            row.ttl_s,
            row.since,
            row.deadline,
            "",
            row.incarnation,
            row.deferred,
            row.hold,
            routed,  # type: ignore[arg-type]
        )
        if row.group >= 0:
            waiting.append(
                Waiting(
                    task.task_id,
                    task.submitted_seq,
                    row.lane,
                    row.since,
                    requirements[row.group],
                )
            )


# -- all that is not a task ------------------------------------------------------------

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_MANY: Final[dict[str, type]] = {"l": list, "t": tuple, "s": set, "f": frozenset}
_TAGS: Final = {kind: tag for tag, kind in _MANY.items()}


class _Packer:
    """Turns objects into lists that begin with a tag. One that is met again is a number."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in _TAGS:
            return [_TAGS[kind], *map(self.plain, value)]
        if kind is dict:
            return ["d", *([self.plain(k), self.plain(v)] for k, v in value.items())]
        if kind is deque:
            return ["q", value.maxlen, *map(self.plain, value)]
        if kind is LiveTask:
            return ["live", value.task.task_id]
        if isinstance(value, c.Event):
            return ["event", encode(value)]
        if kind is Policy:
            return ["policy", policies.document(value)]
        if KINDS.get(kind.__name__) is not kind:
            raise TypeError(f"no checkpoint holds a {kind.__name__}")
        if issubclass(kind, tuple):
            return ["named", kind.__name__, *map(self.plain, value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        number = self._seen[id(value)] = len(self._seen)
        return ["object", kind.__name__, number, self.fields(value)]

    def fields(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        names = vars(value) if hasattr(value, "__dict__") else kind.__struct_fields__
        left_out = LEFT_OUT.get(kind, ())
        return {
            name: self.plain(getattr(value, name))
            for name in names
            if name not in left_out
        }


class _Unpacker:
    """Makes the objects again; of tasks it takes those that are there."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._seen: dict[int, Any] = {}

    def made(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        tag, *rest = value
        if tag in _MANY:
            return _MANY[tag](map(self.made, rest))
        match tag:
            case "d":
                return {self.made(k): self.made(v) for k, v in rest}
            case "q":
                return deque(map(self.made, rest[1:]), rest[0])
            case "live":
                return self._state.tasks[rest[0]]
            case "event":
                return decode_event(rest[0])
            case "policy":
                return policies.parse(rest[0])
            case "named":
                return KINDS[rest[0]](*map(self.made, rest[1:]))
            case "again":
                return self._seen[rest[0]]
            case _:
                return self._object(*rest)

    def _object(self, name: str, number: int, fields: dict[str, Any]) -> Any:
        kind = KINDS[name]
        made: Any
        if issubclass(kind, Struct):
            made = kind(**{each: self.made(value) for each, value in fields.items()})
            self._seen[number] = made
            return made
        # A new fleet has what is left out.
        made = Fleet(Policy()) if kind is Fleet else kind.__new__(kind)
        self._seen[number] = made
        for each, value in fields.items():
            setattr(made, each, self.made(value))
        return made
