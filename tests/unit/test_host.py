"""What a host decides, given what happened to it before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from msgspec import structs

from actors.host import messages as msg
from actors.host.decide import decide
from actors.host.outcomes import Finished, Returned, Stopped
from actors.host.state import HOLDING, About, evolve, initial, runs_held, slots_taken
from events import catalogue as c
from events import mail
from events.codec import rfc3339

NOW = 1_770_000_000.0
SUCCESS = Finished(c.Result(status="success", output="ok"))
FAILURE = Finished(c.Result(status="failed"))


class Host:
    """A host in a test: `given` facts' causes, `when` a command, `then` what follows."""

    def __init__(self, **slots: int) -> None:
        self.count = 0
        about = About(
            version="1",
            targets=frozenset({"sidecar", "ollama", "claude", "noop"}),
        )
        slots = slots or {"shell": 1, "claude": 1}
        self.state = initial("h1", "incarnation-1", about, slots, {"h1-gpu": 1})

    def new_id(self) -> str:
        self.count += 1
        return f"e{self.count}"

    def tell(self, command: msg.HostCommand, now: float = NOW) -> msg.HostDecision:
        decision = decide(command, self.state, now, self.new_id)
        for fact in decision.facts:
            evolve(self.state, fact)
        return decision

    def given(self, *commands: msg.HostCommand) -> Host:
        for command in commands:
            self.tell(command)
        return self

    def when(self, command: msg.HostCommand, now: float = NOW) -> Host:
        self.decision = self.tell(command, now)
        return self

    @property
    def events(self) -> list[c.Event]:
        return [fact for fact in self.decision.facts if isinstance(fact, c.Event)]

    @property
    def event(self) -> Any:
        [event] = self.events
        return event

    @property
    def names(self) -> list[str]:
        return [c.name(event) for event in self.events]

    @property
    def reply(self) -> mail.Reply:
        [reply] = [e.reply for e in self.decision.effects if isinstance(e, msg.Respond)]
        return reply

    def effects(self, kind: type) -> list[Any]:
        return [effect for effect in self.decision.effects if isinstance(effect, kind)]


def assign(task: str = "t1", route: str = "r1", **fields: Any) -> mail.Assign:
    return mail.Assign(
        **{
            "epoch": 1,
            "task_id": task,
            "route": route,
            "generation": 1,
            "attempt": 1,
            "spec": c.TaskSpec(description="x"),
            "tier": "trivial",
            "target_type": "sidecar",
            **fields,
        }
    )


def accepted(route: str = "r1", task: str = "t1") -> list[msg.HostCommand]:
    return [assign(task, route), msg.Persisted(route)]


def running(route: str = "r1", task: str = "t1") -> list[msg.HostCommand]:
    return [*accepted(route, task), msg.Began(route, "sidecar")]


def finished(route: str = "r1", task: str = "t1") -> list[msg.HostCommand]:
    return [*running(route, task), msg.RunEnded(route, SUCCESS)]


def cancel(route: str = "r1", epoch: int = 1, task: str = "t1") -> mail.Cancel:
    return mail.Cancel(epoch=epoch, task_id=task, route=route)


# -- assignments


def test_an_assignment_is_persisted_before_anything_is_said() -> None:
    host = Host().when(assign())
    assert host.events == []
    assert host.effects(msg.Persist) == [msg.Persist(assign())]
    assert host.effects(msg.Respond) == []


def test_a_persisted_assignment_is_accepted_answered_and_started() -> None:
    host = Host().given(assign()).when(msg.Persisted("r1"))
    assert host.names == []
    assert host.reply.ok
    assert host.effects(msg.Start) == [msg.Start(assign())]


def test_a_run_that_begins_at_once_says_with_its_start_when_it_was_accepted() -> None:
    host = Host().given(*accepted()).when(msg.Began("r1", "sidecar"))
    assert host.names == ["task.started"]
    assert host.event.accepted_at == rfc3339(NOW)
    assert host.when(msg.Preparing("r1")).names == []


def test_a_run_that_takes_long_to_begin_is_said_to_be_accepted_once() -> None:
    host = Host().given(*accepted()).when(msg.Preparing("r1"))
    assert host.names == ["task.accepted"]
    assert host.when(msg.Preparing("r1")).names == []
    assert host.when(msg.Began("r1", "sidecar")).event.accepted_at == ""


def test_a_run_that_ends_without_a_start_was_accepted_all_the_same() -> None:
    host = Host().given(*accepted()).when(msg.RunEnded("r1", SUCCESS))
    assert host.names == ["task.accepted", "task.completed"]


def test_what_cannot_be_persisted_is_rejected_and_its_slot_is_free() -> None:
    host = Host().given(assign()).when(msg.NotPersisted("r1", "disk full"))
    assert (host.event.reason, host.reply.code) == ("journal", "journal")
    assert host.when(assign("t2", "r2")).effects(msg.Persist)


def test_no_work_is_taken_while_the_journal_fails_and_again_afterwards() -> None:
    host = Host().given(msg.JournalState("disk full")).when(assign())
    assert (host.event.reason, host.event.detail) == ("journal", "disk full")
    host.given(msg.JournalState("")).when(assign("t2", "r2"))
    assert host.effects(msg.Persist)


def test_a_repeat_of_a_route_held_is_answered_and_not_run_again() -> None:
    for before in (accepted(), running(), finished()):
        host = Host().given(*before).when(assign())
        assert host.reply.ok
        assert host.decision.facts == []
        assert host.effects(msg.Persist) == host.effects(msg.Start) == []


def test_a_repeat_of_a_route_reported_is_answered_and_not_run_again() -> None:
    host = Host().given(*finished(), msg.Reported("r1")).when(assign())
    assert host.reply.ok
    assert host.decision.facts == []


def test_a_repeat_of_a_rejected_route_is_refused_again_without_an_event() -> None:
    host = Host().given(*running("r0", "t0"), assign(), msg.RunEnded("r0", SUCCESS))
    host.when(assign())
    assert (host.reply.ok, host.reply.code, host.events) == (False, "busy", [])


def test_an_older_epoch_is_refused_and_a_newer_one_remembered() -> None:
    host = Host().given(assign(epoch=5)).when(assign("t2", "r2", epoch=4))
    assert (host.reply.code, host.events) == ("stale_epoch", [])
    host.when(cancel(epoch=6))
    assert host.effects(msg.RememberEpoch) == [msg.RememberEpoch(6)]
    assert host.when(cancel(epoch=5)).reply.code == "stale_epoch"


def test_a_full_host_rejects_and_names_the_holders() -> None:
    host = Host(shell=2).given(*running("r1", "t1"), *accepted("r2", "t2"))
    host.when(assign("t3", "r3"))
    assert isinstance(host.event, c.TaskRejected)
    assert (host.event.reason, host.event.holders) == ("busy", ["t1", "t2"])
    assert (host.reply.ok, host.reply.code) == (False, "busy")


def test_slots_are_counted_by_kind_and_by_endpoint() -> None:
    host = Host().given(*running())
    model = assign("t2", "r2", target_type="ollama", endpoint="h1-gpu")
    assert host.when(model).effects(msg.Persist)
    model = assign("t3", "r3", target_type="ollama", endpoint="h1-gpu")
    assert host.when(model).event.reason == "busy"
    claude = assign("t4", "r4", target_type="claude", endpoint="h1-claude")
    assert host.when(claude).effects(msg.Persist)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_type": "ollama", "endpoint": "elsewhere"},
        {"target_type": "ollama"},
        {"target_type": "agent"},
        {"target_type": "noop"},
    ],
)
def test_an_unknown_target_is_rejected(fields: dict[str, Any]) -> None:
    host = Host().when(assign(**fields))
    assert host.event.reason == host.reply.code == "unknown_target"


def test_a_task_that_comes_anew_ends_its_older_run_here() -> None:
    host = Host(shell=2).given(*running()).when(assign(route="r2"))
    assert [each.route for each in host.effects(msg.StopRun)] == ["r1"]
    host.when(msg.RunEnded("r1", Stopped()))
    assert host.names == ["task.stopped"]


# -- runs


def test_a_run_that_works_is_completed_and_frees_its_slot() -> None:
    host = Host().given(*running()).when(msg.RunEnded("r1", SUCCESS))
    assert (host.names, slots_taken(host.state)) == (["task.completed"], 0)
    assert runs_held(host.state) == [c.Held("t1", "r1", "finished")]


def test_a_run_that_fails_is_failed() -> None:
    host = Host().given(*running()).when(msg.RunEnded("r1", FAILURE))
    assert host.names == ["task.failed"]


def test_a_run_past_its_deadline_is_marked_late() -> None:
    spec = c.TaskSpec(description="x", deadline="2026-01-01T00:00:00Z")
    before = [assign(spec=spec), *running()[1:]]
    host = Host().given(*before).when(msg.RunEnded("r1", SUCCESS))
    assert host.event.late
    host = Host().given(*before).when(msg.RunEnded("r1", SUCCESS), now=1_700_000_000)
    assert not host.event.late


def test_a_run_given_back_names_what_to_avoid_and_until_when() -> None:
    back = Returned(reason="limited", exclude="x", limited_until=NOW)
    host = Host().given(*running()).when(msg.RunEnded("r1", back))
    assert (host.event.reason, host.event.exclude) == ("limited", "x")
    assert host.event.limited_until == "2026-02-02T02:40:00.000000Z"


@pytest.mark.parametrize(
    ("back", "last_resort", "unsuited"),
    [
        (Returned(reason="endpoint_unfit"), False, True),
        (Returned(reason="endpoint_unfit"), True, False),
        (Returned(reason="host_short"), False, True),
        (Returned(reason="endpoint_unusable"), False, True),
        (Returned(reason="secret_not_here"), False, True),
        (Returned(reason="endpoint_failed"), False, False),
        (Returned(reason="workspace"), False, True),
        (Returned(reason="interrupted"), False, False),
    ],
)
@pytest.mark.parametrize("done", [None, {}, {"tokens_out": 9}, {"output": "half"}])
def test_a_place_that_cannot_do_it_costs_an_attempt_where_it_did_something_or_is_the_last(
    back: Any, last_resort: bool, unsuited: bool, done: dict[str, Any] | None
) -> None:
    result = None if done is None else c.Result(status="failed", **done)
    back = structs.replace(back, result=result)
    before = [assign(last_resort=last_resort), msg.Persisted("r1")]
    host = Host().given(*before, msg.Began("r1", "sidecar"))
    host.when(msg.RunEnded("r1", back))
    assert host.event.unsuited == (unsuited and not done)


def test_a_run_ends_once() -> None:
    host = Host().given(*finished()).when(msg.RunEnded("r1", FAILURE))
    assert host.decision == msg.HostDecision()


def test_a_reported_run_is_forgotten() -> None:
    host = Host().given(*finished()).when(msg.Reported("r1"))
    assert host.effects(msg.Forget) == [msg.Forget("r1")]
    assert runs_held(host.state) == []


# -- cancelling


def test_a_running_run_is_stopped_and_holds_its_slot_until_it_has_ended() -> None:
    host = Host().given(*running()).when(cancel())
    assert host.reply.ok
    assert host.effects(msg.StopRun) == [msg.StopRun("r1", "cancelled")]
    assert host.when(assign("t2", "r2")).event.reason == "busy"
    ending = Stopped(result=c.Result(status="failed"), descendants_left=2)
    host.when(msg.RunEnded("r1", ending))
    assert (host.names, host.event.descendants_left) == (["task.stopped"], 2)
    assert slots_taken(host.state) == 0


def test_a_run_that_completes_after_the_wish_is_stopped_with_its_result() -> None:
    host = Host().given(*running(), cancel()).when(msg.RunEnded("r1", SUCCESS))
    assert (host.names, host.event.result) == (["task.stopped"], SUCCESS.result)


def test_an_empty_route_means_whatever_runs_of_the_task() -> None:
    host = Host().given(*running()).when(cancel(route=""))
    assert host.effects(msg.StopRun) == [msg.StopRun("r1", "cancelled")]


def test_a_run_unknown_here_is_said_to_be() -> None:
    for route in ("r1", ""):
        host = Host().when(cancel(route=route))
        assert (host.reply.ok, host.reply.code) == (False, "unknown_route")


def test_cancelling_what_has_ended_is_fine_and_does_nothing() -> None:
    for before in (finished(), [*finished(), msg.Reported("r1")]):
        host = Host().given(*before).when(cancel())
        assert (host.reply.ok, host.decision.facts) == (True, [])


def test_cancelling_twice_stops_once() -> None:
    host = Host().given(*running(), cancel()).when(cancel())
    assert (host.reply.ok, host.decision.facts) == (True, [])


def test_what_is_cancelled_while_it_is_persisted_never_starts() -> None:
    host = Host().given(assign(), cancel()).when(msg.Persisted("r1"))
    assert host.names == ["task.stopped"]
    assert host.effects(msg.Start) == []


# -- draining


def test_a_draining_host_takes_nothing_until_it_is_resumed() -> None:
    host = Host().when(mail.Drain())
    assert host.names == ["host.draining"]
    assert host.when(assign()).event.reason == "draining"
    assert host.when(mail.Drain()).events == []
    assert host.when(mail.Resume()).names == ["host.resumed"]
    assert host.when(assign("t2", "r2")).effects(msg.Persist)


def test_a_host_that_is_resumed_looks_again_also_where_it_takes_work_already() -> None:
    host = Host().when(mail.Resume())
    assert host.events == []
    assert host.effects(msg.LookAgain) == [msg.LookAgain()]


def test_a_drain_that_comes_behind_a_later_resume_is_passed_by() -> None:
    host = Host()
    late = mail.Drain(incarnation="incarnation-1", version=0)
    host.given(mail.Resume(incarnation="incarnation-1", version=0)).when(late)
    assert (host.events, host.reply.ok, host.reply.code) == ([], False, "conflict")
    assert not host.state.draining


def test_a_word_of_draining_that_was_meant_for_an_earlier_incarnation_is_passed_by() -> (
    None
):
    host = Host().when(mail.Drain(incarnation="incarnation-0", version=0))
    assert (host.events, host.reply.code) == ([], "conflict")


def test_whoever_looks_first_drains_and_resumes_a_host() -> None:
    host = Host()
    for word, draining in (
        (mail.Drain, True),
        (mail.Drain, True),
        (mail.Resume, False),
    ):
        seen = host.when(mail.Inspect()).reply.info
        host.when(word(incarnation=seen["incarnation"], version=seen["turns"]))
        assert (host.reply.ok, host.state.draining) == (True, draining)


def test_a_leaving_host_is_not_resumed() -> None:
    host = Host().given(msg.Join(), msg.Leave("stop")).when(mail.Resume())
    assert (host.reply.ok, host.reply.code) == (False, "leaving")
    assert host.when(assign()).event.reason == "draining"


def test_what_does_not_finish_in_time_is_handed_back() -> None:
    host = Host(shell=2).given(*running(), *running("r2", "t2"), cancel("r2"))
    host.when(msg.HandBack())
    assert [each.route for each in host.effects(msg.StopRun)] == ["r1"]
    host.when(msg.RunEnded("r1", Stopped()))
    assert (host.names, host.event.reason) == (["task.returned"], "draining")
    assert host.when(msg.RunEnded("r2", Stopped())).names == ["task.stopped"]


def test_what_finishes_while_it_is_handed_back_is_finished() -> None:
    host = Host().given(*running(), msg.HandBack()).when(msg.RunEnded("r1", SUCCESS))
    assert host.names == ["task.completed"]


# -- over a restart


def recovered(phase: Any, route: str = "r1", task: str = "t1") -> msg.Recovered:
    return msg.Recovered(assign(task, route), phase)


def test_joining_says_what_an_earlier_incarnation_left() -> None:
    host = Host().given(
        recovered("recovered"),
        recovered("interrupted", "r2", "t2"),
        recovered("finished", "r3", "t3"),
    )
    host.when(msg.Join())
    assert [(each.route, each.phase) for each in host.event.held] == [
        ("r1", "accepted"),
        ("r2", "interrupted"),
        ("r3", "finished"),
    ]


def test_interrupted_runs_are_returned_once_the_log_knows_this_incarnation() -> None:
    host = Host().given(recovered("interrupted"), msg.Join())
    host.when(msg.Announced())
    assert (host.names, host.event.reason) == (["task.returned"], "interrupted")
    assert host.when(msg.Reported("r1")).effects(msg.Forget)


def test_a_run_that_never_started_is_started_by_the_same_route_again() -> None:
    host = Host().given(recovered("recovered"), msg.Join()).when(assign())
    assert host.names == []
    assert host.effects(msg.Start) == [msg.Start(assign())]
    assert slots_taken(host.state) == 1


def test_a_run_that_never_started_can_be_cancelled() -> None:
    host = Host().given(recovered("recovered"), msg.Join()).when(cancel())
    assert (host.reply.ok, host.names) == (True, ["task.stopped"])


def test_a_run_that_never_started_is_returned_when_its_task_comes_anew() -> None:
    host = Host().given(recovered("recovered"), msg.Join()).when(assign(route="r2"))
    assert (host.event.route, host.event.reason) == ("r1", "interrupted")


def test_a_host_given_up_says_that_it_recovered() -> None:
    host = Host().given(msg.Join(), msg.Announced(), *running())
    host.when(mail.Rejoin(epoch=1, incarnation="incarnation-1"))
    assert (host.names, host.event.held) == (
        ["host.recovered"],
        [c.Held("t1", "r1", "running")],
    )


def test_a_host_unknown_to_the_leader_joins_again() -> None:
    host = Host().given(msg.Join(), msg.Announced())
    assert host.when(mail.Rejoin(epoch=1)).names == ["host.joined"]


def test_a_host_that_is_being_announced_does_not_repeat_itself() -> None:
    host = Host().given(msg.Join()).when(mail.Rejoin(epoch=1))
    assert (host.reply.ok, host.events) == (True, [])


# -- endpoints

UP = c.EndpointState(endpoint="h1-gpu", kind="ollama", up=True, models=["a:latest"])
DOWN = c.EndpointState(endpoint="h1-gpu", kind="ollama", up=False, reason="refused")


def test_endpoints_found_before_joining_are_part_of_joining() -> None:
    host = Host().given(msg.EndpointProbed(UP)).when(msg.Join())
    assert host.event.endpoints == [UP]


def test_only_changes_of_endpoints_are_events() -> None:
    host = Host().given(msg.Join())
    assert host.when(msg.EndpointProbed(UP)).names == ["endpoint.up"]
    assert host.when(msg.EndpointProbed(UP)).names == []
    more = c.EndpointState(endpoint="h1-gpu", kind="ollama", up=True, loaded=["a"])
    assert host.when(msg.EndpointProbed(more)).names == ["endpoint.changed"]
    assert host.when(msg.EndpointProbed(DOWN)).names == ["endpoint.down"]
    assert host.when(msg.EndpointProbed(DOWN)).names == []
    assert host.when(msg.EndpointProbed(UP)).names == ["endpoint.up"]


def test_shared_endpoints_are_watched_and_take_runs() -> None:
    shared = mail.SharedEndpoint(endpoint="big", kind="openai", url="http://x", slots=1)
    own = mail.SharedEndpoint(endpoint="h1-gpu", kind="openai", url="http://y")
    host = Host().when(mail.UseEndpoints(epoch=1, endpoints=[shared, own]))
    assert host.effects(msg.Watch) == [msg.Watch([shared])]
    assert host.when(assign(target_type="ollama", endpoint="big")).effects(msg.Persist)
    host.when(mail.UseEndpoints(epoch=1, endpoints=[]))
    host.when(assign("t2", "r2", target_type="ollama", endpoint="big"))
    assert host.event.reason == "unknown_target"


def test_a_shared_endpoint_that_was_added_anew_is_reported_anew() -> None:
    pool = mail.SharedEndpoint(
        endpoint="pool", kind="ollama", url="http://x", added="1"
    )
    up = c.EndpointState(endpoint="pool", kind="ollama", up=True, shared=True)
    host = Host().given(msg.Join(), mail.UseEndpoints(epoch=1, endpoints=[pool]))
    assert host.when(msg.EndpointProbed(up)).names == ["endpoint.up"]
    host.when(mail.UseEndpoints(epoch=1, endpoints=[pool], as_of=1))
    assert host.effects(msg.Watch) == []
    anew = mail.SharedEndpoint(
        endpoint="pool", kind="ollama", url="http://x", added="2"
    )
    host.when(mail.UseEndpoints(epoch=1, endpoints=[anew], as_of=2))
    assert host.effects(msg.Watch) == [msg.Watch([anew])]
    assert host.when(msg.EndpointProbed(up)).names == ["endpoint.up"]


def test_an_older_list_of_shared_endpoints_that_comes_late_is_passed_by():
    pool = mail.SharedEndpoint(endpoint="pool", kind="ollama", url="http://x")
    host = Host().when(mail.UseEndpoints(epoch=1, endpoints=[], as_of=9))
    host.when(mail.UseEndpoints(epoch=1, endpoints=[pool], as_of=5))
    assert host.state.shared == {}
    host.when(mail.UseEndpoints(epoch=1, endpoints=[pool], as_of=10))
    assert list(host.state.shared) == ["pool"]


# -- whatever comes

_tasks = st.sampled_from(["t1", "t2", "t3"])
_routes = st.sampled_from(["r1", "r2", "r3", "r4"])
_commands = st.one_of(
    st.builds(assign, _tasks, _routes, epoch=st.integers(1, 2)),
    st.builds(msg.Persisted, _routes),
    st.builds(msg.NotPersisted, _routes, st.just("x")),
    st.builds(msg.Began, _routes, st.just("sidecar")),
    st.builds(msg.RunEnded, _routes, st.sampled_from([SUCCESS, FAILURE])),
    st.builds(msg.RunEnded, _routes, st.just(Stopped())),
    st.builds(msg.Reported, _routes),
    st.builds(cancel, _routes, st.integers(1, 2), _tasks),
    st.sampled_from([mail.Drain(), mail.Resume(), msg.HandBack(), msg.Announced()]),
)


@settings(max_examples=200, deadline=None)
@generated(st.lists(_commands, max_size=40))
def test_slots_are_never_overdrawn_and_a_route_ends_at_most_once(
    commands: list[msg.HostCommand],
) -> None:
    host, ended = Host(shell=2), set()
    ends = (c.TaskCompleted, c.TaskFailed, c.TaskReturned, c.TaskStopped)
    for command in commands:
        for event in host.tell(command).facts:
            if isinstance(event, ends):
                assert event.route not in ended
                ended.add(event.route)
        holding = [r for r in host.state.runs.values() if r.phase in HOLDING]
        assert host.state.used.get("shell", 0) == len(holding) <= 2


# -- two processes, one host


def test_mail_for_another_incarnation_is_refused_and_changes_nothing() -> None:
    for message in (
        assign(incarnation="incarnation-2"),
        mail.Evict(epoch=1, incarnation="incarnation-2"),
    ):
        host = Host().when(message)
        assert host.reply.code == "other_incarnation"
        assert host.names == []
        assert host.effects(msg.End) == host.effects(msg.Persist) == []
    assert Host().when(assign(incarnation="incarnation-1")).effects(msg.Persist)


def test_a_host_that_is_told_to_leave_ends_once() -> None:
    host = Host().when(mail.Evict(epoch=1, incarnation="incarnation-1", reason="two"))
    assert host.reply.ok
    assert host.effects(msg.End) == [msg.End("two")]
    host.given(msg.Leave("two")).when(mail.Evict(epoch=1, incarnation="incarnation-1"))
    assert host.effects(msg.End) == []
