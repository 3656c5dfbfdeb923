"""A task's life, step by step: the table is the truth, all else is void."""

from __future__ import annotations

import msgspec
import pytest

from actors import lifecycle
from actors.lifecycle import Epochs, TaskState, evolve, fold
from actors.scheduler.leadership import Leadership
from actors.scheduler.live import RouteEnd
from actors.scheduler.logtime import LogTime
from actors.scheduler.returns import after_route
from actors.stamp import Stamp
from events import catalogue as c
from events import subjects
from events.codec import instant
from events.commands import Refusal
from events.lifecycle import FINAL, ON_HOST, PHASES, TABLE

AT = "2026-01-01T00:00:00.000000Z"
STAMP = Stamp("E9", AT, "test")
LEAD = Leadership("test", lambda: "E9", 1, LogTime())
NOW = instant(AT)
EVERY_PHASE = ("absent", *PHASES)
KINDS = [
    kind for kind in c.types().values() if issubclass(kind, c.TaskEvent | c.RunEvent)
]
INFERRED = c.Inferred("standard", 0.5, [])
NEEDED = {
    c.TaskSubmitted: {
        "spec": c.TaskSpec(description="x", max_attempts=2, assign_to="h9"),
        "classification": c.Classification(
            "complex", None, "inferred", INFERRED, "because"
        ),
    },
    c.TaskDelegated: {"child": "t2", "route": "R1"},
    c.TaskDeferred: {"reason": "r"},
    c.TaskRouted: {
        "generation": 4,
        "attempt": 1,
        "effective_tier": "complex",
        "target_type": "claude",
        "selected_host": "h2",
        "selected_endpoint": "claude-h2",
        "classification_reason": "r",
        "candidate_count": 1,
        "candidates": [],
        "estimated_cost_tier": "api",
        "policy_version": 0,
        "log_seq": 1,
    },
    c.TaskRequeued: {"route": "R1", "generation": 1, "reason": "r"},
    c.TaskExpired: {"reason": "ttl"},
    c.TaskAbandoned: {"route": "R1", "generation": 1, "host": "h1"},
    c.TaskDeadLettered: {"attempts": 3, "reason": "r"},
    c.TaskReassigned: {"host": "h3"},
    c.TaskRejected: {"reason": "busy"},
    c.TaskStarted: {"executor": "shell"},
    c.TaskStatus: {"text": "t"},
    c.TaskVerified: {
        "round": 1,
        "rounds": 2,
        "step": 1,
        "of": 1,
        "command": "true",
        "passed": True,
    },
    c.TaskErrorLine: {"text": "t"},
    c.TaskRetrying: {"text": "t", "retry": 1, "of": 1},
    c.TaskStep: {"step": "waking"},
    c.TaskCompleted: {"result": c.Result(status="success")},
    c.TaskFailed: {"result": c.Result(status="failed")},
    c.TaskReturned: {"reason": "endpoint_failed"},
}
REPORTED = {"accepted": 1, "running": 2, "returned": 3} | dict.fromkeys(FINAL, 3)
BY_SCHEDULER = [
    c.TaskReleased,
    c.TaskDeferred,
    c.TaskRouted,
    c.TaskRequeued,
    c.TaskExpired,
    c.TaskDeadLettered,
    c.TaskAbandoned,
]
ENDS = [c.TaskCompleted, c.TaskFailed, c.TaskReturned, c.TaskRejected, c.TaskStopped]


def said(kind: type[c.Event], **fields) -> c.Event:
    """An event of task t1, on route R1 at h1, in epoch 1."""
    common = {"id": "E1", "at": AT, "by": "x", "task_id": "t1"}
    if issubclass(kind, c.RunEvent):
        common |= {
            "host": "h1",
            "route": "R1",
            "generation": 1,
            "attempt": 1,
            "incarnation": "i1",
        }
    else:
        common |= {"epoch": 1}
    return kind(**{**common, **NEEDED.get(kind, {}), **fields})


def being(phase: str, **fields) -> TaskState:
    """Task t1 in a phase, as a life that went through route R1 at h1 leaves it."""
    if phase == "absent":
        return lifecycle.initial("t1")
    usual = {"route": "R1", "host": "h1", "generation": 1, "last_seq": 6}
    return TaskState(
        **{
            "task_id": "t1",
            "phase": phase,
            "reported": REPORTED.get(phase, 0),
            **usual,
            **fields,
        }
    )


def test_a_task_that_is_not_there_may_be_tried_as_often_as_one_that_does_not_say():
    usual = c.TaskSpec(description="x").max_attempts
    assert lifecycle.initial("t1").max_attempts == usual == c.MAX_ATTEMPTS


def step(state: TaskState, event: c.Event, **place) -> lifecycle.Step:
    host = event.host if isinstance(event, c.RunEvent) else ""
    subject = subjects.run(host, "t1") if host else subjects.task("t1")
    place = {"epoch": 1, "host": host, **place}
    return evolve(state, c.Recorded(7, subject, event), **place)


def history(*events: c.Event) -> tuple[TaskState, list[str]]:
    state, verdicts = lifecycle.initial("t1"), []
    for event in events:
        state, verdict = step(state, event)
        verdicts.append(verdict)
    return state, verdicts


# -- the table -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_legal_step_applies_and_any_other_changes_nothing(phase, kind):
    before = being(phase, held=kind is c.TaskReleased)
    after, verdict = step(before, said(kind))
    if (phase, kind) in TABLE:
        assert (after.phase, verdict) == (TABLE[phase, kind], "applied")
    else:
        assert verdict in ("void", "repeat")
        assert msgspec.structs.replace(after, last_seq=before.last_seq) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_what_stands_on_the_task_s_subject_moves_its_sequence_even_when_void(
    phase, kind
):
    after, _ = step(being(phase), said(kind))
    assert after.last_seq == (
        7 if issubclass(kind, c.TaskEvent) else being(phase).last_seq
    )


def test_every_phase_can_be_reached_and_every_open_one_be_left():
    reached = {"absent", *TABLE.values()}
    assert reached == set(EVERY_PHASE)
    for phase in set(EVERY_PHASE) - FINAL:
        assert any(at == phase and to != phase for (at, _), to in TABLE.items())


def test_a_final_phase_is_left_by_a_retry_alone():
    left = {(at, kind) for (at, kind), to in TABLE.items() if at in FINAL and to != at}
    assert left == {(phase, c.TaskRetried) for phase in FINAL - {"completed"}}


@pytest.mark.parametrize("phase", sorted({"routed", "accepted", "running"}))
def test_a_later_phase_implies_the_earlier_ones(phase):
    assert step(being(phase), said(c.TaskCompleted)).state.phase == "completed"


def test_a_whole_life():
    state, verdicts = history(
        said(c.TaskSubmitted),
        said(c.TaskRouted, id="R1", selected_host="h1"),
        said(c.TaskAccepted),
        said(c.TaskStarted),
        said(c.TaskStatus),
        said(c.TaskCompleted),
    )
    assert set(verdicts) == {"applied"}
    assert (state.phase, state.route, state.host) == ("completed", "R1", "h1")
    assert (state.preferred, state.max_attempts, state.assign_to) == (
        "complex",
        2,
        "h9",
    )


# -- repeats, strangers, late words ----------------------------------------------------


@pytest.mark.parametrize("kind", [c.TaskAccepted, c.TaskStarted, *ENDS])
def test_a_report_said_again_is_a_repeat_and_changes_nothing(kind):
    once = (
        step(being("routed"), said(kind)).state
        if (
            "routed",
            kind,
        )
        in TABLE
        else being("completed")
    )
    again, verdict = step(once, said(kind))
    assert (again, verdict) == (once, "repeat")


@pytest.mark.parametrize("kind", ENDS)
def test_only_the_first_end_of_a_run_counts(kind):
    ended = step(being("running"), said(c.TaskFailed)).state
    assert step(ended, said(kind)) == (ended, "repeat")


def test_an_acceptance_that_comes_after_the_start_is_a_repeat():
    running = being("running")
    assert step(running, said(c.TaskAccepted)) == (running, "repeat")


@pytest.mark.parametrize("kind", [k for k in KINDS if issubclass(k, c.RunEvent)])
@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_report_on_another_route_is_void_in_every_phase(phase, kind):
    before = being(phase)
    assert step(before, said(kind, route="R0")) == (before, "void")


def test_a_report_is_void_where_its_subject_says_another_host_or_task():
    before = being("running")
    assert step(before, said(c.TaskCompleted), host="h2") == (before, "void")
    assert step(before, said(c.TaskCompleted, task_id="t2")) == (before, "void")
    assert step(before, said(c.TaskCancelled), host="h1") == (before, "void")


def test_a_report_on_the_task_s_own_subject_is_void():
    after, verdict = step(being("running"), said(c.TaskCompleted), host="")
    assert (after.phase, verdict) == ("running", "void")


def test_a_decision_about_another_task_is_void():
    after, verdict = step(being("running"), said(c.TaskCancelled, task_id="t2"))
    assert (after.phase, verdict) == ("running", "void")


def test_an_unknown_event_is_void():
    unknown = c.Unknown(id="", at="", by="", tag="task.new.v1", body={})
    after, verdict = evolve(
        being("running"), c.Recorded(7, subjects.task("t1"), unknown), epoch=1
    )
    assert (after.phase, after.last_seq, verdict) == ("running", 7, "void")


@pytest.mark.parametrize(
    ("kind", "phase"), [(c.TaskCompleted, "completed"), (c.TaskFailed, "failed")]
)
def test_a_late_result_counts_until_the_task_is_routed_anew(kind, phase):
    waiting = step(being("running"), said(c.TaskRequeued)).state
    assert step(waiting, said(kind)).state.phase == phase
    anew = step(waiting, said(c.TaskRouted, id="R2")).state
    assert step(anew, said(kind)) == (anew, "void")


def test_a_late_result_does_not_count_after_a_retry():
    tried = step(being("cancelled"), said(c.TaskRetried)).state
    assert step(tried, said(c.TaskCompleted)) == (tried, "void")


def test_what_follows_a_run_that_has_ended_is_not_one_more_result():
    waiting = step(being("returned"), said(c.TaskRequeued)).state
    assert step(waiting, said(c.TaskCompleted)) == (waiting, "repeat")


# -- epochs ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BY_SCHEDULER)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_decision_of_another_epoch_is_void(kind, epoch):
    phase = next(at for (at, k) in TABLE if k is kind)
    before = being(phase)
    after, verdict = step(before, said(kind), epoch=epoch)
    assert (after.phase, verdict) == (phase, "void")


@pytest.mark.parametrize("kind", [c.TaskCancelled, c.TaskRetried, c.TaskReassigned])
def test_what_people_want_needs_no_epoch(kind):
    phase = next(at for (at, k) in TABLE if k is kind)
    assert step(being(phase), said(kind, epoch=0), epoch=5).verdict == "applied"


def test_an_epoch_is_in_force_from_its_election_on():
    epochs = Epochs()
    assert epochs.current == 0
    assert [epochs.observe(10, 1), epochs.observe(20, 3), epochs.observe(30, 2)] == [
        True,
        True,
        False,
    ]
    assert [epochs.at(seq) for seq in (1, 10, 19, 20, 99)] == [0, 1, 1, 3, 3]
    assert epochs.current == 3


def test_a_history_is_folded_over_both_subjects_with_the_epochs_of_its_time():
    epochs = Epochs()
    epochs.observe(1, 1)
    epochs.observe(4, 2)
    told = [
        (2, subjects.task("t1"), said(c.TaskSubmitted, epoch=0)),
        (3, subjects.task("t1"), said(c.TaskRouted, id="R1", selected_host="h1")),
        (5, subjects.task("t1"), said(c.TaskRequeued)),  # an older leader's
        (6, subjects.run("h1", "t1"), said(c.TaskCompleted)),
    ]
    state = fold("t1", [c.Recorded(*one) for one in told], epochs)
    assert (state.phase, state.last_seq, state.submitted_seq) == ("completed", 5, 2)


# -- what a step carries with it -------------------------------------------------------


def test_a_routing_is_the_one_in_force_from_then_on():
    state = step(being("waiting", reported=3), said(c.TaskRouted, id="R2")).state
    assert (state.route, state.host, state.endpoint) == ("R2", "h2", "claude-h2")
    assert (state.generation, state.tier, state.reported) == (4, "complex", 0)


@pytest.mark.parametrize("generation", [3, 4])
def test_a_routing_that_does_not_raise_the_generation_is_void(generation):
    before = being("waiting", generation=4)
    state, verdict = step(before, said(c.TaskRouted, id="R2", generation=generation))
    assert (verdict, state) == ("void", msgspec.structs.replace(before, last_seq=7))


def test_a_hop_is_remembered_until_a_retry():
    hop = said(c.TaskRouted, id="R2", fallback_used=True, fallback_from_tier="standard")
    hopped = step(being("waiting"), hop).state
    assert hopped.hopped_from == "standard"
    back = step(hopped, said(c.TaskRequeued, route="R2")).state
    assert step(back, said(c.TaskRouted, id="R3")).state.hopped_from == "standard"
    failed = step(hopped, said(c.TaskFailed, route="R2", host="h2")).state
    assert step(failed, said(c.TaskRetried)).state.hopped_from is None


def test_a_requeue_excludes_a_place_since_then_and_only_once():
    state = being("running", excluded=(("a", 1), ("b", 2)))
    state = step(state, said(c.TaskRequeued, exclude="a", counts_as_attempt=True)).state
    assert (state.excluded, state.attempts) == ((("b", 2), ("a", 7)), 1)


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [
        ("endpoint_failed", 1),
        ("workspace", 1),
        ("limited", 0),
        ("draining", 0),
        ("busy", 0),
    ],
)
def test_a_run_given_back_is_an_attempt_unless_it_never_had_a_chance(reason, attempts):
    assert step(
        being("running"), said(c.TaskReturned, reason=reason)
    ).state.attempts == (attempts)


def test_a_rejection_is_no_attempt():
    assert step(being("routed"), said(c.TaskRejected)).state.attempts == 0


def test_a_run_the_host_ended_unasked_is_an_attempt():
    state = step(being("running"), said(c.TaskStopped)).state
    assert (state.phase, state.attempts) == ("returned", 1)


def test_a_cancelled_run_that_ends_is_no_attempt():
    state = step(being("cancelling"), said(c.TaskStopped)).state
    assert (state.phase, state.attempts) == ("cancelled", 0)


def test_a_retry_starts_attempts_hop_and_exclusions_over_while_generations_rise():
    before = being("dead", attempts=3, excluded=(("a", 1),), generation=5)
    state = step(before, said(c.TaskRetried, assign_to="h7")).state
    assert (state.attempts, state.excluded, state.route) == (0, (), "")
    assert (state.generation, state.assign_to) == (5, "h7")


def test_a_reassignment_is_to_that_host_and_forgets_exclusions():
    state = step(being("running", excluded=(("a", 1),)), said(c.TaskReassigned)).state
    assert (state.phase, state.assign_to, state.excluded) == ("waiting", "h3", ())


# -- what may be decided ---------------------------------------------------------------


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_cancellation_is_decided_where_the_table_has_it(phase):
    decided = lifecycle.cancel(being(phase), STAMP, reason="r", requested_by="alice")
    if isinstance(decided, c.TaskCancelled):
        assert (phase, c.TaskCancelled) in TABLE
        assert (decided.requested_by, decided.reason) == ("alice", "r")
    else:
        assert (phase, c.TaskCancelled) not in TABLE
        expected = {"absent": "not_found", "cancelling": None, "cancelled": None}
        code = decided.code if isinstance(decided, Refusal) else decided
        assert code == expected.get(phase, "too_late")


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_retry_is_decided_where_the_table_has_it(phase):
    decided = lifecycle.retry(being(phase), STAMP, reason="r", requested_by="alice")
    if isinstance(decided, c.TaskRetried):
        assert (phase, c.TaskRetried) in TABLE
    else:
        assert (phase, c.TaskRetried) not in TABLE
        expected = {"absent": "not_found", "completed": "not_retriable"}
        code = decided.code if isinstance(decided, Refusal) else decided
        assert code == expected.get(phase)


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_reassignment_is_decided_where_the_table_has_it(phase):
    decided = lifecycle.reassign(
        being(phase), STAMP, host="h3", reason="", requested_by="alice"
    )
    if isinstance(decided, c.TaskReassigned):
        assert (phase, c.TaskReassigned) in TABLE
        assert decided.host == "h3"
    else:
        assert (phase, c.TaskReassigned) not in TABLE
        assert decided.code == ("not_found" if phase == "absent" else "too_late")


def test_a_task_that_waits_for_that_host_already_is_left_alone():
    state = being("waiting", assign_to="h3")
    assert (
        lifecycle.reassign(state, STAMP, host="h3", reason="", requested_by="a") is None
    )


@pytest.mark.parametrize(
    ("attempts", "counts", "kind"),
    [
        (0, True, c.TaskRequeued),
        (2, False, c.TaskRequeued),
        (2, True, c.TaskDeadLettered),
        (3, False, c.TaskDeadLettered),
        (9, True, c.TaskDeadLettered),
    ],
)
def test_a_run_given_back_waits_again_or_is_dead_when_attempts_are_used_up(
    attempts, counts, kind
):
    state = being("running", attempts=attempts)
    end = RouteEnd("endpoint_failed", "", "o1", counts)
    decided = after_route(state, end, LEAD, NOW)
    assert type(decided) is kind
    after = step(state, decided)
    assert after.verdict == "applied"
    if isinstance(decided, c.TaskRequeued):
        assert after.state.attempts == attempts + counts
        assert after.state.excluded == (("o1", 7),)
    else:
        assert decided.attempts == attempts + counts


@pytest.mark.parametrize("phase", sorted(ON_HOST - {"cancelling"}))
def test_a_route_that_is_lost_can_be_given_back_from_any_live_phase(phase):
    decided = after_route(being(phase), RouteEnd("lost"), LEAD, NOW)
    assert step(being(phase), decided).state.phase == "waiting"
