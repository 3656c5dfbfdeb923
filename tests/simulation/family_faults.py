"""Faults of a line each about parents and children; see test_planted_faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from actors import lifecycle
from actors.gateway import delegation
from actors.scheduler import families, live, mailing, places, tiers
from actors.scheduler.state import SchedulerState
from events import catalogue as c
from events.lifecycle import ON_HOST

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Patch = pytest.MonkeyPatch


def orphans_live_on(patch: Patch) -> None:
    """Children are not cancelled when their parent's run is over."""
    patch.setattr(families, "decide_orphans", lambda state, lead, now: [])


def orphans_while_it_is_cancelled(patch: Patch) -> None:
    """Children are cancelled only once their parent's run has ended, not when it is to."""
    patch.setattr(
        families,
        "_runs",
        lambda state, route: state.route == route and state.phase in ON_HOST,
    )


def no_slot_is_lent(patch: Patch) -> None:
    """Children wait for the slots of those who wait for them."""
    patch.setattr(places.Slots, "free_to", lambda self, required: self.free)


def host_not_told_of_lent_slots(patch: Patch) -> None:
    """A host refuses children for want of the slots of those who wait for them."""
    patch.setattr(mailing, "_lent", lambda state, live: [])


def slots_lent_to_everybody(patch: Patch) -> None:
    """A task that nobody's run has submitted takes a lent slot."""
    make = live.Newcomers.make

    def generous(self: Any, task_id: str, event: Any, *, child: bool) -> Any:
        del child
        return make(self, task_id, event, child=True)

    patch.setattr(live.Newcomers, "make", generous)


def slot_lent_for_ever(patch: Patch) -> None:
    """A parent whose last child is over goes on lending its slot."""
    lend = SchedulerState._lend

    def kept(self: Any, parent: Any) -> None:
        if parent is not None and parent.task.task_id in self.families.children:
            lend(self, parent)

    patch.setattr(SchedulerState, "_lend", kept)


def children_not_counted(patch: Patch) -> None:
    """A task may have as many children as it likes."""
    decision = lifecycle._decision

    def forgetful(state: Any, event: Any, *rest: Any) -> Any:
        step = decision(state, event, *rest)
        if not isinstance(event, c.TaskDelegated):
            return step
        return step._replace(state=structs.replace(step.state, delegated=0))

    patch.setattr(lifecycle, "_decision", forgetful)


def depth_not_looked_at(patch: Patch) -> None:
    """A child may be as deep as it likes."""
    patch.setattr(delegation.Delegation, "_refusal", lambda self, child: None)


def dollars_given_twice(patch: Patch) -> None:
    """What a child may spend stays its parent's to give."""
    decision = lifecycle._decision

    def forgetful(state: Any, event: Any, *rest: Any) -> Any:
        if isinstance(event, c.TaskDelegated):
            event = structs.replace(event, budget_usd=0.0)
        return decision(state, event, *rest)

    patch.setattr(lifecycle, "_decision", forgetful)


def free_child_may_go_anywhere(patch: Patch) -> None:
    """A child that has no part of its parent's dollars runs where they are spent."""
    patch.setattr(
        delegation.Delegation, "_with_its_part", lambda self, child, *_: child
    )


def spent_day_told_again(patch: Patch) -> None:
    """That a day's budget is spent is said with every turn."""
    evolve = tiers.TierWatch.evolve

    def forgetful(self: Any, event: Any, time: Any) -> None:
        evolve(self, event, time)
        self.budget_told = ("", 0.0)

    patch.setattr(tiers.TierWatch, "evolve", forgetful)


PLANTED: list[Callable[[Patch], None]] = [
    orphans_live_on,
    orphans_while_it_is_cancelled,
    no_slot_is_lent,
    host_not_told_of_lent_slots,
    slots_lent_to_everybody,
    slot_lent_for_ever,
    children_not_counted,
    depth_not_looked_at,
    dollars_given_twice,
    free_child_may_go_anywhere,
    spent_day_told_again,
]
