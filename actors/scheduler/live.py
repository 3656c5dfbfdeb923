"""A task that is not over, as the scheduler keeps it, and the end of one of its routes.

A task is *live* from its submission to its end, and again from a retry on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct, structs

from actors.lifecycle import TaskState, initial
from actors.rules.contexts import context_needed
from actors.scheduler.queue import LANES, PLACE_KIND, Requirement, requirement
from events import catalogue as c
from events.codec import instant
from events.lifecycle import FIXED_KINDS, SUSPECT_FROM, may_not_hop

TEXTS: Final = 10_000
"""Names of repositories and reasons of classifications that are kept once for all tasks that
share them."""


class Hold(NamedTuple):
    """What a task waits for before it stands in the queue.

    `at` is the instant of the wall clock (Unix seconds) before which it is not to start.
    Of the tasks that it comes after, `completed` have to complete and `over` to be over;
    `inputs` are those whose output it gets.
    """

    at: float | None = None
    completed: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


class LiveTask(Struct, eq=False, gc=False):
    """A task that is not over: its own state (`task`), and what choosing a place needs.

    It is part of no cycle, and there may be a million: so it is none of the garbage
    collector's.
    """

    # The fold of its events, see `actors.lifecycle`.
    task: TaskState
    # What it requires as it was submitted, before hops and exclusions.
    base: Requirement
    lane: int
    repo: str | None
    # Why it was classified as it is; every route repeats it.
    classification_reason: str
    # How many seconds it may wait while its group starves; None: the policy's.
    ttl_s: float | None = None
    # When it last began to wait (log time).
    since: float = 0.0
    # Until when it may wait at all (the wall clock, Unix seconds).
    deadline: float | None = None
    # The id of the decision about it that is on its way to the log, "" for none.
    # Until that is back, or is known not to have been stored, nothing else is
    # decided about it and it stands in no queue.
    deciding: str = ""
    # The incarnation of its host that accepted or started the route in force.
    incarnation: str = ""
    # Whether the log says already, or is about to say, why it waits.
    deferred: bool = False
    # What it is to be held for, None where it is not.
    hold: Hold | None = None
    # The route in force, None while there is none.
    routed: c.TaskRouted | None = None

    @property
    def kind(self) -> str:
        """The kind of place it is at, or wants next."""
        return self.base.kind if self.fixed else PLACE_KIND[self.task.tier]

    @property
    def is_new(self) -> bool:
        """Whether it is as it was submitted: never routed, retried or reassigned."""
        return self.task.last_seq == self.task.submitted_seq

    @property
    def fixed(self) -> bool:
        """Whether its kind of work belongs to no tier."""
        return self.base.kind in FIXED_KINDS

    @property
    def suspect(self) -> bool:
        """Whether it may be what ends its hosts: it lost runs with them."""
        return self.task.losses >= SUSPECT_FROM

    def requirement(self, excluded: tuple[str, ...]) -> Requirement:
        """What it requires in the tier it is in now."""
        base, task = self.base, self.task
        context = base.context
        if task.input_tokens and self.kind == "local":
            context += context_needed(task.input_tokens, work=False)
        return structs.replace(
            base,
            kind=self.kind,
            tier=task.tier,
            assign_to=task.assign_to or "",
            context=context,
            hopped=base.hopped or task.hopped_from is not None,
            unverified=task.unverified and task.hopped_from is None,
            excluded=excluded,
            suspect=self.suspect,
        )


class Newcomers:
    """Makes a `LiveTask` of a submission. What many tasks share is one object for all."""

    def __init__(self) -> None:
        # A million waiting tasks have a handful of these.
        self._requirements: dict[Requirement, Requirement] = {}
        self._texts: dict[str, str] = {}

    def one(self, required: Requirement) -> Requirement:
        """Return the one object for equal requirements."""
        return self._requirements.setdefault(required, required)

    def text(self, text: str) -> str:
        """Return the one object for equal texts, of the last ones."""
        if len(self._texts) > TEXTS:
            self._texts.clear()
        return self._texts.setdefault(text, text)

    def make(self, task_id: str, event: c.TaskSubmitted, *, child: bool) -> LiveTask:
        """Make a task of which nothing but its submission is known."""
        spec = event.spec
        base = requirement(
            spec,
            event.classification.effective_tier,
            assign_to=spec.assign_to,
            mode=event.mode,
            prompt_tokens=event.prompt_tokens_estimate,
            child=child,
            hopped=may_not_hop(event.tier_limit),
        )
        live = LiveTask(
            initial(task_id),
            self.one(base),
            LANES[spec.priority],
            None if spec.repo is None else self.text(spec.repo),
            self.text(event.classification.reason),
        )
        live.ttl_s = spec.ttl_s
        if spec.deadline is not None:
            live.deadline = instant(spec.deadline)
        return live


class RouteEnd(NamedTuple):
    """A route that is over without a result, and why.

    `exclude` is an endpoint or host that the task should not be sent to again. `counts`
    says whether the decision that follows has to count an attempt; a host's own report of
    an end has been counted when it was folded.
    """

    reason: str
    detail: str = ""
    exclude: str | None = None
    counts: bool = False


def end_said_by(event: c.Event) -> RouteEnd:
    """Return the end of a route as its host's own report says it."""
    match event:
        case c.TaskReturned():
            return RouteEnd(event.reason, event.detail, event.exclude)
        case c.TaskRejected():
            return RouteEnd(f"rejected: {event.reason}", event.detail)
        case _:
            return RouteEnd("stopped")
