"""Faults of a line each, planted in the product; the simulator finds every one.

Each stands for a mistake that somebody could make in an afternoon. What finds it is an
invariant that knows nothing of the plant.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import structs

from actors import lifecycle
from actors.host import decide
from actors.host import messages as msg
from actors.host import state as host_state
from actors.scheduler import (
    dispatch,
    expiry,
    fleet,
    hosts,
    logtime,
    mailing,
    places,
    queue,
    returns,
    tiers,
)
from actors.scheduler import live as lives
from actors.scheduler import role as roles
from actors.scheduler.decide import Scheduler
from actors.scheduler.leadership import Leadership
from actors.scheduler.live import LiveTask, RouteEnd
from actors.scheduler.state import SchedulerState
from events import catalogue as c
from events.lifecycle import UNUSABLE
from projections import booking
from sidecar import outbox, pipeline, verification
from sidecar.executors import shell
from sidecar.host import Sidecar
from sidecar.progress import Progress
from tests.simulation import family_faults, kept_faults, later_faults
from tests.simulation.simulation import play

if TYPE_CHECKING:
    from collections.abc import Callable

Patch = pytest.MonkeyPatch

WITHIN = 400
"""Each fault is found in so many seeds, most of them in a few."""

BEGIN = {
    "acceptance_never_times_out": 7,
    "alert_remembered_for_ever": 3,
    "alert_repeated": 3,
    "back_to_its_own_tier": 33,
    "budget_forgets_what_was_spent": 9,
    "cancel_not_repeated": 48,
    "children_not_counted": 20,
    "clones_anything": 2,
    "context_not_required": 7,
    "cycle_accepted": 22,
    "deadline_forgotten": 12,
    "depth_not_looked_at": 7,
    "dollars_given_twice": 9,
    "durations_by_the_wall_clock": 4,
    "failed_predecessor_counts": 1,
    "failing_step_passes": 1,
    "failure_wakes_nobody": 1,
    "firing_without_its_task": 19,
    "free_child_may_go_anywhere": 9,
    "given_back_forgotten_when_undecided": 725,
    "group_timer_lost": 7,
    "hands_forgotten_at_a_hop": 567,
    "hands_not_required": 4,
    "hop_forgotten": 10,
    "host_heeds_anybody": 58,
    "host_lease_never_ends": 41,
    "host_not_told_of_lent_slots": 9,
    "hour_fired_twice": 314,
    "inputs_left_out": 12,
    "last_in_first_out": 7,
    "late_result_counts": 19,
    "late_word_counts": 17,
    "leaders_forgotten": 1,
    "limit_never_ends": 25,
    "lost_fence": 115,
    "lost_run_costs_nothing": 96,
    "mode_not_told": 4,
    "no_slot_is_lent": 7,
    "on_its_way_counts": 13,
    "orphans_live_on": 7,
    "orphans_while_it_is_cancelled": 7,
    "outcome_not_read": 2,
    "pause_never_ends": 8,
    "repository_ignored": 2,
    "requeue_counts_twice": 611,
    "reservation_kept": 5,
    "restarted_run_forgotten": 67,
    "result_says_it_passed": 7,
    "results_not_on_disk": 45,
    "retried_task_half_remembered": 338,
    "round_too_many": 2,
    "round_without_cost": 12,
    "rule_before_forgotten": 12,
    "rule_from_long_ago": 1,
    "skipped_requeue": 68,
    "sleep_unnoticed": 3,
    "slot_lent_for_ever": 7,
    "slots_lent_to_everybody": 7,
    "spent_day_told_again": 124,
    "start_not_counted": 17,
    "start_not_told": 17,
    "started_again_for_ever": 85,
    "step_not_said": 3,
    "suspects_run_together": 37,
    "task_of_another_rule": 20,
    "undecided_after_all": 501,
    "undecided_not_put_back": 5,
    "unfit_costs_an_attempt": 8,
    "unfit_for_nothing": 8,
    "unusable_costs_an_attempt": 33,
    "verification_not_required": 17,
    "verification_skips_a_step": 7,
    "who_came_back_holds_up_the_lane": 885,
}
"""Where each was found last; the search begins there. A change of the plan may move it, and
only makes the test slower."""


def lost_fence(patch: Patch) -> None:
    """Decisions of deposed leaders count."""
    patch.setattr(lifecycle, "BY_LEADER", ())


def host_heeds_anybody(patch: Patch) -> None:
    """A host takes mail of any epoch."""
    patch.setattr(decide._Decider, "stale", lambda self, epoch: False)


def skipped_requeue(patch: Patch) -> None:
    """What ran on a lost host is not given back."""
    lose = hosts.lose

    def forgetful(state: Any, live: Any, reason: str, detail: str) -> None:
        if reason != "host lost":
            lose(state, live, reason, detail)

    patch.setattr(hosts, "lose", forgetful)


def acceptance_timer_not_cancelled(patch: Patch) -> None:
    """The acceptance time-out strikes though the host has accepted."""

    def eager(state: Any, lead: Any, now: float) -> None:
        limit = state.policy.accept_timeout_s
        while lead.unaccepted and lead.unaccepted[0].since + limit <= now:
            _, task_id, route = lead.unaccepted.popleft()
            live = state.tasks.get(task_id)
            if live is not None and live.task.route == route:
                state.ended.setdefault(task_id, RouteEnd("not accepted yet"))

    patch.setattr(returns, "note_unaccepted", eager)


def acceptance_never_times_out(patch: Patch) -> None:
    """An assignment that nobody accepts is waited for for ever."""
    patch.setattr(
        returns, "note_unaccepted", lambda state, lead, now: lead.unaccepted.clear()
    )


def slot_not_freed(patch: Patch) -> None:
    """A run that ends keeps its slot."""
    off = SchedulerState._end_route

    def keep(self: Any, live: Any, before: Any) -> None:
        off(self, live, before)
        self.fleet.slots_of(before.host, before.endpoint, live.kind).in_flight += 1

    patch.setattr(SchedulerState, "_end_route", keep)


def slot_freed_twice(patch: Patch) -> None:
    """A run that ends frees one slot too many."""
    off = SchedulerState._end_route

    def twice(self: Any, live: Any, before: Any) -> None:
        off(self, live, before)
        self.fleet.slots_of(before.host, before.endpoint, live.kind).in_flight -= 1

    patch.setattr(SchedulerState, "_end_route", twice)


def reservation_kept(patch: Patch) -> None:
    """A decision that lost a race keeps the slot it had reserved."""
    patch.setattr(SchedulerState, "release", lambda self, event_id: None)


def hop_forgotten(patch: Patch) -> None:
    """A task that has hopped may hop again."""
    patch.setattr(
        dispatch, "_hops",
        lambda state, required: (
            ["complex"] if required.tier == "standard"
            else ["standard"] if required.tier == "complex" else []
        ),
    )  # fmt: skip


def exclusion_ignored(patch: Patch) -> None:
    """A place that failed on a task is tried again at once."""
    patch.setattr(places.Place, "is_in", lambda self, barred: False)


def late_result_counts(patch: Patch) -> None:
    """A result of an older route counts after the task was routed anew."""
    report = lifecycle._report

    def lenient(state: Any, event: Any, *rest: Any) -> Any:
        if isinstance(event, c.TaskCompleted) and state.route:
            state = type(state)(
                **{n: getattr(state, n) for n in state.__struct_fields__}
                | {"route": event.route, "host": event.host}
            )
        return report(state, event, *rest)

    patch.setattr(lifecycle, "_report", lenient)


def cancel_not_repeated(patch: Patch) -> None:
    """A host that runs what is not in force is left alone."""
    patch.setattr(mailing, "stop_strays", lambda state, lead, beat: [])


def host_lease_never_ends(patch: Patch) -> None:
    """A silent host is trusted for ever."""

    def trusting(state: Any, lead: Any, now: float) -> Any:
        lead.silence_check_at = now + 0.5
        return []

    patch.setattr(hosts, "decide_lost", trusting)


def undecided_not_put_back(patch: Patch) -> None:
    """A task whose decision was not stored is never looked at again."""
    patch.setattr(SchedulerState, "wait_again", lambda self, live: None)


def given_back_forgotten_when_undecided(patch: Patch) -> None:
    """A route that is over, whose requeue was not stored, is not requeued."""
    undecided = Scheduler.undecided

    def forgetful(self: Any, decision: Any) -> None:
        before = dict(self.state.ended)
        undecided(self, decision)
        self.state.ended = before

    patch.setattr(Scheduler, "undecided", forgetful)


def undecided_after_all(patch: Patch) -> None:
    """A requeue that was stored after all, and not acknowledged, is decided again."""
    undecided = Scheduler.undecided

    def twice(self: Any, decision: Any) -> None:
        undecided(self, decision)
        event = decision.event
        if isinstance(event, c.TaskRequeued) and event.task_id in self.state.tasks:
            again = RouteEnd(event.reason, event.detail, event.exclude)
            self.state.ended.setdefault(event.task_id, again)

    patch.setattr(Scheduler, "undecided", twice)


def no_compare_and_set(patch: Patch) -> None:
    """Decisions are written without saying where their subject must stand."""
    append = roles.SchedulerRole._append

    def careless(self: Any, decision: Any) -> None:
        append(self, decision._replace(expect=None))

    patch.setattr(roles.SchedulerRole, "_append", careless)


def pause_never_ends(patch: Patch) -> None:
    """A host that refused once is never offered work again."""
    patch.setattr(fleet.Fleet, "resume_paused", lambda self, now: None)


def budget_forgets_what_was_spent(patch: Patch) -> None:
    """Each start of a task gets its whole budget."""
    patch.setattr(
        lifecycle, "budget_left", lambda state, most: state.max_budget_usd or most
    )


def limit_never_ends(patch: Patch) -> None:
    """Nobody looks again when an account's limit is over."""
    patch.setattr(SchedulerState, "lift_limits", lambda self, now: None)


def group_timer_lost(patch: Patch) -> None:
    """Nobody wakes up for the end of a wait, or of a TTL."""
    patch.setattr(Leadership, "wake_group", lambda self, when, group: None)


def deadline_forgotten(patch: Patch) -> None:
    """A task runs after its deadline."""
    patch.setattr(expiry, "decide_deadline", lambda *_: [])


def retried_task_half_remembered(patch: Patch) -> None:
    """What happened while a retried task's history was read is forgotten."""
    adopt = SchedulerState.adopt

    def half(self: Any, task_id: str, history: Any) -> Any:
        self.coming_back.pop(task_id, None)
        return adopt(self, task_id, history)

    patch.setattr(SchedulerState, "adopt", half)


def requeue_counts_twice(patch: Patch) -> None:
    """A run that has said itself that it is over is counted again as an attempt."""
    patch.setattr(
        lifecycle, "_is_one_more", lambda state, event: event.counts_as_attempt
    )


def last_in_first_out(patch: Patch) -> None:
    """The youngest of a lane goes first."""
    patch.setattr(queue.Waiting, "__lt__", lambda self, other: self.seq > other.seq)


def who_came_back_holds_up_the_lane(patch: Patch) -> None:
    """Only the first submitted of a lane competes, aged or not."""
    patch.setattr(queue.Group, "_is_in_order", lambda self, waiting: True)


def alert_remembered_for_ever(patch: Patch) -> None:
    """When the next alert falls due is reckoned once for each leader."""
    reckon = tiers.reckon_alert
    known: set[Any] = set()

    def reckon_once(state: Any, lead: Any) -> None:
        if lead not in known:
            known.add(lead)
            reckon(state, lead)

    patch.setattr(tiers, "reckon_alert", reckon_once)


def late_word_counts(patch: Patch) -> None:
    """A host drains and resumes as it is told, however late."""

    def next_drain_version(self: Any, command: Any) -> bool:
        self.fact(msg.DrainVersion(self.state.drain_version + 1))
        return True

    patch.setattr(decide._Decider, "next_drain_version", next_drain_version)


def alert_repeated(patch: Patch) -> None:
    """An outage raises an alert again and again."""
    evolve = tiers.TierWatch.evolve

    def deaf(self: Any, event: Any, time: Any) -> None:
        if not isinstance(event, c.AlertRaised):
            evolve(self, event, time)

    patch.setattr(tiers.TierWatch, "evolve", deaf)


def accepted_before_it_is_on_disk(patch: Patch) -> None:
    """A host accepts, and begins, before the commit that holds the assignment."""
    persist = Sidecar._persist

    def hasty(self: Any, assign: Any, message: Any) -> None:
        persist(self, assign, message)
        self.handle(msg.Persisted(assign.route))

    patch.setattr(Sidecar, "_persist", hasty)


def results_not_on_disk(patch: Patch) -> None:
    """A result that the log has not got is kept in memory alone."""
    patch.setattr(outbox.Outbox, "_to_disk", lambda self, entries: None)
    patch.setattr(outbox.Outbox, "_later_to_disk", lambda self, entry: None)


def host_slot_leaks(patch: Patch) -> None:
    """A host that gives a run up keeps its slot."""
    move = host_state.move

    def leaky(state: Any, route: str, phase: Any) -> None:
        run = state.runs.get(route)
        held = run is not None and run.phase in ("reserved", "accepted", "running")
        move(state, route, phase)
        if held and phase == "finished" and run.wish == "cancel":
            state.used[run.slot] += 1

    patch.setattr(host_state, "move", leaky)


def restarted_run_forgotten(patch: Patch) -> None:
    """What a restarted host holds and had not begun is taken for running."""

    def trusting(state: Any, live: Any, host: Any) -> None:
        if live.task.route not in host.runs:
            hosts.lose(state, live, "host restarted", "")

    patch.setattr(hosts, "after_restart", trusting)


def durations_by_the_wall_clock(patch: Patch) -> None:
    """Who leads measures durations by the wall clock, wherever somebody puts it."""
    patch.setattr(
        roles.SchedulerRole,
        "_now",
        lambda self: self._clock() - self.scheduler.state.time.ahead_s,
    )


def step_not_said(patch: Patch) -> None:
    """A leader notices that its clock was put forward or back, and says nothing."""

    async def silent(self: Any, epoch: int, step_s: float, wall: float) -> bool:
        self.scheduler.state.time.unsaid_s = 0.0
        return True

    patch.setattr(roles.SchedulerRole, "_say_stepped", silent)


def sleep_unnoticed(patch: Patch) -> None:
    """A leader whose machine slept stamps its decisions as if it had not."""
    patch.setattr(logtime.ClockWatch, "stepped", lambda self, wall, monotonic: 0.0)


def started_again_for_ever(patch: Patch) -> None:
    """A host starts a command again though its task has no attempt left for it."""
    patch.setattr(shell, "_retries", lambda assign: 9)
    patch.setattr(shell, "min", lambda first, second: first, raising=False)


def start_not_told(patch: Patch) -> None:
    """A host starts a command again and tells nobody."""
    retrying = Progress.retrying

    def silent(self: Any, text: str, **about: Any) -> None:
        if not text.startswith("Shell"):
            retrying(self, text, **about)

    patch.setattr(Progress, "retrying", silent)


def start_not_counted(patch: Patch) -> None:
    """A command that its host starts again is no attempt."""
    patch.setattr(lifecycle, "_started_again", lambda state, event: state)


def clones_anything(patch: Patch) -> None:
    """What one host may clone is taken for what every host may."""
    patch.setattr(
        places, "may_clone", lambda repo, allowed: "://" in repo and "team/" in repo
    )


def repository_ignored(patch: Patch) -> None:
    """A host is offered work on a repository that it does not have."""
    patch.setattr(places.Host, "may_work_on", lambda self, repo: True)


def suspects_run_together(patch: Patch) -> None:
    """Tasks that were lost together with their hosts run side by side again."""
    patch.setattr(
        dispatch,
        "_barred",
        lambda state, required, excluded: dict.fromkeys(excluded, "failed"),
    )


def unfit_costs_an_attempt(patch: Patch) -> None:
    """An endpoint that cannot do the work costs one of its attempts."""
    patch.setattr(decide, "_is_unsuited", lambda assign, outcome: False)


def unusable_costs_an_attempt(patch: Patch) -> None:
    """Claude that is not logged in on one host costs a task one of its attempts."""
    patch.setattr(decide, "UNSUITED", decide.UNSUITED - {UNUSABLE})


def unfit_for_nothing(patch: Patch) -> None:
    """Where nobody else is there, the work goes round for ever."""
    patch.setattr(mailing, "_is_last_resort", lambda live, routed: False)


def hands_not_required(patch: Patch) -> None:
    """Work is sent to any model, as if it were to be answered."""
    patch.setattr(queue, "context_needed", lambda tokens, *, work: 0)
    requirement = lives.requirement

    def careless(*args: Any, mode: Any = None, **fields: Any) -> Any:
        return requirement(*args, mode="answer" if mode else None, **fields)

    patch.setattr(lives, "requirement", careless)


def hands_forgotten_at_a_hop(patch: Patch) -> None:
    """What a task needs of a model is not asked of the tier it hops to."""
    plain = dispatch._pool_in

    def careless(of: Any, tier: Any, required: Any) -> Any:
        return plain(of, tier, structs.replace(required, work=False, context=0))

    patch.setattr(dispatch, "_pool_in", careless)


def mode_not_told(patch: Patch) -> None:
    """The host is not told that a task is work, and has the model answer it."""
    assignment = mailing.assignment

    def silent(*args: Any) -> Any:
        mail = assignment(*args)
        if mail is None:
            return None
        return mail._replace(message=structs.replace(mail.message, mode=None))

    patch.setattr(mailing, "assignment", silent)


def context_not_required(patch: Patch) -> None:
    """A prompt is sent to a model that cannot read it."""
    patch.setattr(places.Place, "_reads", lambda self, model, tokens: True)


def verification_not_required(patch: Patch) -> None:
    """Work to verify is sent to hosts of a version that knows no verification."""
    requirement = lives.requirement

    def careless(*args: Any, **fields: Any) -> Any:
        return structs.replace(requirement(*args, **fields), verifies=False)

    patch.setattr(lives, "requirement", careless)


def verification_skips_a_step(patch: Patch) -> None:
    """The last of several verification steps is not run."""
    begin = verification.Verification.__init__

    def short(self: Any, *parts: Any) -> None:
        begin(self, *parts)
        self._steps = self._steps[:1]

    patch.setattr(verification.Verification, "__init__", short)


def failing_step_passes(patch: Patch) -> None:
    """A verification step that fails counts as one that passes."""
    verify = verification.Verification.verify

    async def lenient(self: Any, *parts: Any) -> Any:
        found = await verify(self, *parts)
        return None if isinstance(found, verification.FailedStep) else found

    patch.setattr(verification.Verification, "verify", lenient)


def round_without_cost(patch: Patch) -> None:
    """Only the last round is paid for."""
    patch.setattr(pipeline, "together", lambda earlier, last: last)


def lost_run_costs_nothing(patch: Patch) -> None:
    """What the rounds of a run told that was lost with its host is not booked."""
    patch.setattr(booking, "told_by_round", lambda routing, event: None)


def round_too_many(patch: Patch) -> None:
    """The work is told once more than it should be."""
    patch.setattr(pipeline, "rounds_of", lambda assign: 4)


def back_to_its_own_tier(patch: Patch) -> None:
    """What did not pass its verification is tried in the same tier again."""
    requirement = LiveTask.requirement

    def forgetful(self: Any, excluded: tuple[str, ...]) -> Any:
        return msgspec.structs.replace(requirement(self, excluded), unverified=False)

    patch.setattr(LiveTask, "requirement", forgetful)


def result_says_it_passed(patch: Patch) -> None:
    """A result says nothing of its verification."""
    ended = pipeline._Rounds.ended

    def silent(self: Any, outcome: Any, assign: Any) -> Any:
        self.verified = None
        return ended(self, outcome, assign)

    patch.setattr(pipeline._Rounds, "ended", silent)


PLANTED: list[Callable[[Patch], None]] = [
    lost_fence,
    repository_ignored,
    hands_not_required,
    hands_forgotten_at_a_hop,
    mode_not_told,
    context_not_required,
    suspects_run_together,
    unfit_costs_an_attempt,
    unusable_costs_an_attempt,
    unfit_for_nothing,
    host_heeds_anybody,
    skipped_requeue,
    acceptance_timer_not_cancelled,
    acceptance_never_times_out,
    slot_not_freed,
    slot_freed_twice,
    reservation_kept,
    hop_forgotten,
    exclusion_ignored,
    late_result_counts,
    cancel_not_repeated,
    host_lease_never_ends,
    undecided_not_put_back,
    given_back_forgotten_when_undecided,
    undecided_after_all,
    no_compare_and_set,
    pause_never_ends,
    limit_never_ends,
    budget_forgets_what_was_spent,
    group_timer_lost,
    deadline_forgotten,
    retried_task_half_remembered,
    requeue_counts_twice,
    last_in_first_out,
    alert_repeated,
    who_came_back_holds_up_the_lane,
    alert_remembered_for_ever,
    late_word_counts,
    accepted_before_it_is_on_disk,
    results_not_on_disk,
    host_slot_leaks,
    restarted_run_forgotten,
    durations_by_the_wall_clock,
    step_not_said,
    sleep_unnoticed,
    started_again_for_ever,
    start_not_told,
    start_not_counted,
    clones_anything,
    verification_not_required,
    verification_skips_a_step,
    failing_step_passes,
    round_without_cost,
    lost_run_costs_nothing,
    round_too_many,
    back_to_its_own_tier,
    result_says_it_passed,
    *later_faults.PLANTED,
    *family_faults.PLANTED,
    *kept_faults.PLANTED,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant, monkeypatch):
    plant(monkeypatch)
    begin = BEGIN.get(plant.__name__, 0)
    for seed in itertools.chain(range(begin, begin + WITHIN), range(begin)):
        if play(seed).broken is not None:
            return
    pytest.fail(f"{WITHIN} seeds did not find: {plant.__doc__}")
