"""What the scheduler decides, given what happened."""

from __future__ import annotations

import pytest

from actors.rules import policy as policies
from actors.rules.classification import classify
from actors.rules.routing import recheck
from actors.scheduler import decide, dispatch, expiry
from actors.scheduler.logtime import LogTime
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.mail import Assign, Rejoin
from tests.support.world import World, claude, ollama


def test_a_shell_task_goes_to_a_live_host_and_is_mailed_when_the_route_is_in_the_log():
    w = World()
    w.join("h1")
    w.shell("t1")
    (routed,) = w.routes("t1")
    assert (routed.selected_host, routed.target_type, routed.effective_tier) == (
        "h1",
        "sidecar",
        "trivial",
    )
    (mail,) = w.assigned("t1")
    assert mail.message.route == routed.id
    assert mail.message.epoch == 1


def test_a_task_waits_for_a_host_and_goes_there_as_soon_as_it_joins():
    w = World()
    w.shell("t1")
    assert w.routes() == []
    w.join("h1")
    assert len(w.routes("t1")) == 1


def test_slots_are_kept_and_a_freed_one_takes_the_next_task():
    w = World()
    w.join("h1", slots={"shell": 2})
    for n in range(4):
        w.shell(f"t{n}")
    assert [r.task_id for r in w.routes()] == ["t0", "t1"]
    w.run("t0")
    assert [r.task_id for r in w.routes()] == ["t0", "t1", "t2"]


def test_urgent_overtakes_and_first_in_is_first_out_inside_a_lane():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("first")
    w.shell("low", priority="low")
    w.shell("a")
    w.shell("b")
    w.shell("now", priority="urgent")
    for expected in ("now", "a", "b", "low"):
        w.run(w.routes()[-1].task_id)
        assert w.routes()[-1].task_id == expected


def test_a_waiting_low_task_ages_up_so_that_it_is_not_starved():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("first")
    w.report("first", c.TaskAccepted)
    w.shell("low", priority="low")
    w.beat_on(620, "h1")
    w.shell("normal")
    w.report("first", c.TaskCompleted, result=c.Result(status="success"))
    assert w.routes()[-1].task_id == "low"


def test_an_absent_local_tier_is_not_waited_for():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.submit("t1", "summarise this", tier="standard")
    (routed,) = w.routes("t1")
    assert routed.effective_tier == "complex"
    assert routed.fallback_used
    assert routed.fallback_from_tier == "standard"
    assert routed.fallback_reason == "standard is not set up"
    assert routed.fallback_code == "absent"
    assert routed.selected_model == "sonnet"


def test_a_tier_down_for_less_than_the_wait_causes_no_hop_and_the_wait_is_recorded():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="refused")
    assert [e.tier for e in w.events(c.TierDown)] == ["standard"]
    w.submit("t1", tier="standard")
    w.beat_on(3, "h1")
    assert w.routes() == []
    w.host_says("h1", c.EndpointUp, state=ollama())
    (routed,) = w.routes("t1")
    assert routed.effective_tier == "standard"
    assert not routed.fallback_used
    assert routed.wait is not None
    assert routed.wait.outcome == "avoided"


def test_a_tier_down_for_longer_causes_one_hop_with_the_reason():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="refused")
    w.submit("t1", tier="standard")
    w.beat_on(6, "h1")
    (routed,) = w.routes("t1")
    assert routed.effective_tier == "complex"
    assert routed.wait.outcome == "taken"
    assert "standard was down for 5" in routed.fallback_reason
    assert routed.fallback_code == "down"
    w.submit("t2", tier="standard")
    assert w.routes("t2") == []  # Claude's one slot is taken
    w.run("t1")
    assert w.routes("t2")[0].fallback_used  # down for longer already: at once


def test_what_a_model_server_alone_honours_never_hops_to_claude():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="refused")
    w.submit("t1", tier="standard", temperature=0.5)
    w.beat_on(20, "h1")
    assert w.routes("t1") == []
    w.host_says("h1", c.EndpointUp, state=ollama())
    assert w.routes("t1")[0].effective_tier == "standard"


def test_a_busy_tier_is_not_down():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.submit("t1", tier="standard")
    w.report("t1", c.TaskAccepted)
    w.submit("t2", tier="standard")
    w.beat_on(20, "h1")
    assert [r.effective_tier for r in w.routes("t2")] == []
    assert w.events(c.TierDown) == []


def test_complex_never_falls_unless_it_is_allowed():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.submit("t1", tier="complex")
    w.beat_on(60, "h1")
    assert w.routes() == []


def test_an_exact_model_is_waited_for_and_never_replaced():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.submit("t1", tier="standard", model="qwen3")
    w.beat_on(60, "h1")
    assert w.routes() == []
    w.host_says("h1", c.EndpointChanged, state=ollama(models=["qwen3:latest"]))
    assert w.routes("t1")[0].selected_model == "qwen3:latest"


def test_a_silent_host_is_lost_after_its_lease_and_its_tasks_run_elsewhere():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskAccepted)
    w.report("t1", c.TaskStarted, executor="shell")
    w.join("h2")
    w.beat_on(14, "h2")
    assert w.events(c.HostLost) == []
    w.beat_on(4, "h2")
    (lost,) = w.events(c.HostLost)
    assert lost.host == "h1"
    routes = w.routes("t1")
    assert [r.selected_host for r in routes] == ["h1", "h2"]
    assert [r.generation for r in routes] == [1, 2]
    w.run("t1")
    assert w.phase("t1") == "completed"


def test_what_was_routed_to_a_host_behind_its_loss_can_be_cancelled():
    """Both were decided in one breath; the host's loss came first in the log."""
    w = World()
    w.join("h1")
    (host,) = w.scheduler.state.fleet.hosts.values()
    spec = c.TaskSpec(description="run", shell=c.Shell(command="true"))
    about = {"task_id": "t1", "spec": spec, "classification": classify(spec)}
    w.store(subjects.task("t1"), c.TaskSubmitted(**w.head(), **about))
    decided = w.scheduler.decide(w.now)
    lost = c.HostLost(
        **w.head(), epoch=1, host="h1", incarnation=host.incarnation, silent_s=15.0
    )
    w.store(subjects.fleet("h1"), lost)
    assert [type(each.event) for each in decided] == [c.TaskRouted]
    w.take(decided[0])
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    w.turn()
    assert w.phase("t1") == "cancelled"


def test_a_forgotten_host_is_as_if_it_had_never_been_until_it_joins_again():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.shell("t1")
    w.join("h2")
    assert w.scheduler.state.fleet.offered("claude")
    forgotten = c.HostForgotten(**w.head(), host="h1")
    w.store(subjects.fleet("h1"), forgotten)
    assert w.scheduler.state.fleet.hosts["h1"].live, "what is there is not forgotten"
    w.beat_on(18, "h2")
    assert [e.host for e in w.events(c.HostLost)] == ["h1"]
    w.store(subjects.fleet("h1"), forgotten)
    fleet = w.scheduler.state.fleet
    assert fleet.hosts["h1"].incarnation == ""
    assert not fleet.offered("claude"), "nobody else ever had it"
    w.beat("h1")
    assert any(isinstance(m.message, Rejoin) and m.host == "h1" for m in w.mail)
    w.join("h1", "i2")
    assert fleet.hosts["h1"].slots["shell"].in_flight == 0
    for n in range(4):
        w.shell(f"u{n}")
    assert {r.selected_host for n in range(4) for r in w.routes(f"u{n}")} == {
        "h1",
        "h2",
    }


def test_a_late_result_of_the_last_route_counts_until_the_task_is_routed_anew():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskAccepted)
    w.wait(20)
    assert w.phase("t1") == "waiting"
    w.report("t1", c.TaskCompleted, result=c.Result(status="success"))
    assert w.phase("t1") == "completed"
    w.join("h2")
    assert len(w.routes("t1")) == 1


def test_a_late_result_after_a_new_routing_changes_nothing():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskAccepted)
    first = w.routes("t1")[0]
    w.wait(20)
    w.join("h2")
    assert w.routes("t1")[-1].selected_host == "h2"
    w.report("t1", c.TaskCompleted, route=first, result=c.Result(status="success"))
    assert w.phase("t1") == "routed"
    assert w.scheduler.state.counts.void == 1


def test_no_acceptance_in_time_gives_the_task_to_another_host():
    w = World()
    w.join("h1", slots={"shell": 4})
    w.shell("t1")
    w.join("h2", slots={"shell": 1})
    w.beat_on(6, "h1", "h2")
    assert [r.selected_host for r in w.routes("t1")] == ["h1", "h2"]
    assert w.events(c.TaskRequeued)[0].reason == "not accepted"


def test_attempts_are_routings_that_started_and_after_the_last_comes_the_dead_letter():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.submit("t1", tier="standard", max_attempts=2)
    for _ in range(2):
        w.report("t1", c.TaskAccepted)
        w.report("t1", c.TaskStarted, executor="ollama")
        w.report("t1", c.TaskReturned, reason="endpoint_failed", exclude="o1")
        w.beat_on(6, "h1")
    assert w.phase("t1") == "dead"
    assert w.events(c.TaskDeadLettered)[0].attempts == 2


def test_a_run_given_back_excludes_the_endpoint_until_it_comes_up_again():
    w = World()
    w.join("h1", endpoints=[ollama("o1"), ollama("o2")], ram_bytes=2**34)
    w.submit("t1", tier="standard")
    first = w.routes("t1")[0].selected_endpoint
    w.report("t1", c.TaskReturned, reason="endpoint_failed", exclude=first)
    second = w.routes("t1")[1].selected_endpoint
    assert {first, second} == {"o1", "o2"}
    assert w.routes("t1")[1].excluded == {"failed on it before": 1}
    assert [out.code for out in w.routes("t1")[1].excluded_names] == ["failed"]


def test_an_endpoint_that_cannot_do_it_costs_no_attempt_but_as_the_last_resort():
    w = World()
    w.join("h1", endpoints=[ollama("o1"), ollama("o2")], ram_bytes=2**34)
    w.submit("t1", tier="standard", max_attempts=1)
    for _ in range(2):
        endpoint = w.routes("t1")[-1].selected_endpoint
        assert not w.assigned("t1")[-1].message.last_resort
        w.report("t1", c.TaskStarted, executor="ollama")
        w.report(
            "t1",
            c.TaskReturned,
            reason="endpoint_unfit",
            exclude=endpoint,
            unsuited=True,
        )
    assert {r.selected_endpoint for r in w.routes("t1")[:2]} == {"o1", "o2"}
    assert [r.attempt for r in w.routes("t1")] == [1, 1, 1]
    assert w.assigned("t1")[-1].message.last_resort
    w.report("t1", c.TaskReturned, reason="endpoint_unfit", exclude="o1")
    assert w.phase("t1") == "dead"


def test_claude_that_is_not_logged_in_on_one_host_costs_no_attempt_and_is_asked_on_another():
    w = World()
    for name in ("h1", "h2"):
        w.join(name, endpoints=[claude(f"{name}-claude")])
    w.submit("t1", tier="complex", max_attempts=1)
    told = w.assigned("t1")[-1].message
    assert told.others
    w.report("t1", c.TaskStarted, executor="claude")
    back = {"reason": "endpoint_unusable", "exclude": told.endpoint, "unsuited": True}
    w.report("t1", c.TaskReturned, **back)
    first, second = w.routes("t1")
    assert {first.selected_host, second.selected_host} == {"h1", "h2"}
    assert second.attempt == 1
    # What has failed on one already has no other place left.
    assert not w.assigned("t1")[-1].message.others


@pytest.mark.parametrize(
    ("second", "others"),
    [
        (None, False),
        (claude("h2-claude", up=False), False),
        (claude("h2-claude"), True),
    ],
)
def test_a_host_is_told_whether_another_one_that_is_up_has_claude(second, others):
    w = World()
    w.join("h1", endpoints=[claude("h1-claude")])
    if second is not None:
        w.join("h2", endpoints=[second])
    w.submit("t1", tier="complex", assign_to=None)
    w.submit("t2", tier="complex", assign_to="h1")
    [told] = [each.message for each in w.assigned("t1")]
    assert told.others is others
    assert not any(each.message.others for each in w.assigned("t2"))


def test_when_every_endpoint_failed_on_a_task_it_hops_after_the_wait():
    w = World()
    w.join("h1", endpoints=[ollama("o1"), claude()])
    w.submit("t1", tier="standard")
    w.report("t1", c.TaskStarted, executor="ollama")
    w.report("t1", c.TaskReturned, reason="endpoint_failed", exclude="o1")
    w.beat_on(6, "h1")
    routed = w.routes("t1")[-1]
    assert routed.fallback_used
    assert routed.fallback_reason == "every standard endpoint failed on it (o1)"
    assert routed.fallback_code == "failed"


def test_a_cancelled_run_is_cancelling_until_its_host_says_it_has_stopped():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("t1")
    w.report("t1", c.TaskStarted, executor="shell")
    w.shell("t2")
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    w.turn()
    assert w.phase("t1") == "cancelling"
    assert len(w.cancels("t1")) == 1
    assert w.routes("t2") == []  # the slot stays taken
    w.report("t1", c.TaskStopped)
    assert w.phase("t1") == "cancelled"
    assert len(w.routes("t2")) == 1


def test_a_host_that_runs_what_is_not_in_force_is_told_to_stop():
    w = World()
    w.join("h1")
    w.beat("h1", held=[c.Held("stray", "R9")])
    (mail,) = w.cancels("stray")
    assert mail.message.route == "R9"


def test_a_new_life_of_a_host_gives_back_what_it_no_longer_holds():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskStarted, executor="shell")
    w.join("h1", incarnation="i2")
    assert [e.reason for e in w.events(c.TaskRequeued)] == ["host restarted"]
    assert len(w.routes("t1")) == 2


@pytest.mark.parametrize(
    ("before", "phase", "again"),
    [
        # What was accepted and not begun runs again, whichever the log hears first.
        (c.TaskAccepted, "accepted", True),
        (None, "accepted", False),  # it is still to be accepted: the assignment stands
        (c.TaskStarted, "accepted", True),
        # What had begun the host itself gives back, or goes on with.
        (c.TaskStarted, "interrupted", False),
        (c.TaskStarted, "running", False),
        (c.TaskStarted, "finished", False),
    ],
)
def test_a_new_life_of_a_host_says_what_it_holds(before, phase, again):
    w = World()
    w.join("h1")
    w.shell("t1")
    (routed,) = w.routes("t1")
    if before is not None:
        w.report("t1", c.TaskAccepted)
    if before is c.TaskStarted:
        w.report("t1", c.TaskStarted, executor="shell")
    w.join("h1", incarnation="i2", held=[c.Held("t1", routed.id, phase)])
    w.turn()
    assert (len(w.routes("t1")) == 2) is again


def test_an_acceptance_of_an_earlier_life_that_comes_late_leaves_nothing_stuck():
    w = World()
    w.join("h1")
    w.shell("t1")
    (routed,) = w.routes("t1")
    w.join("h1", incarnation="i2", held=[c.Held("t1", routed.id, "accepted")])
    w.report("t1", c.TaskAccepted)  # of incarnation i1
    assert [e.reason for e in w.events(c.TaskRequeued)] == ["host restarted"]
    assert len(w.routes("t1")) == 2


def test_an_unknown_host_is_asked_who_it_is():
    w = World()
    w.beat("ghost")
    assert any(isinstance(m.message, Rejoin) and m.host == "ghost" for m in w.mail)


def test_an_older_epochs_decision_is_void_and_never_mailed():
    w = World()
    w.join("h1")
    w.store(subjects.SCHEDULER, c.SchedulerElected(**w.head(), epoch=2, name="s2"))
    assert not w.scheduler.leading
    w.shell("t1")
    stale = c.TaskRouted(
        **w.head(),
        task_id="t1",
        epoch=1,
        generation=1,
        attempt=1,
        effective_tier="trivial",
        target_type="sidecar",
        selected_host="h1",
        classification_reason="x",
        candidate_count=0,
        candidates=[],
        estimated_cost_tier="free",
        policy_version=0,
        log_seq=1,
    )
    w.store(subjects.task("t1"), stale)
    assert w.phase("t1") == "waiting"
    assert w.assigned("t1") == []


def test_a_new_leader_sends_again_what_is_routed_and_unconfirmed():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.scheduler.step_down()
    w.mail.clear()
    w.elect(epoch=2)
    (again,) = w.assigned("t1")
    assert isinstance(again.message, Assign)
    assert again.message.epoch == 2


def test_a_lost_race_releases_the_slot_it_had_reserved():
    w = World()
    w.join("h1", slots={"shell": 1})
    spec = c.TaskSpec(description="x", shell=c.Shell(command="true"))
    from actors.rules.classification import classify

    w.store(
        subjects.task("t1"),
        c.TaskSubmitted(
            **w.head(), task_id="t1", spec=spec, classification=classify(spec)
        ),
    )
    (decision,) = w.scheduler.decide(w.now)
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    assert w.take(decision) is False
    w.shell("t2")
    assert len(w.routes("t2")) == 1


def test_a_drained_host_gets_nothing_new_and_all_again_when_resumed():
    w = World()
    w.join("h1")
    w.host_says("h1", c.HostDraining)
    w.shell("t1")
    assert w.routes() == []
    w.host_says("h1", c.HostResumed)
    assert len(w.routes("t1")) == 1


def test_a_limited_account_is_waited_for_and_causes_no_hop():
    w = World()
    w.join("h1", endpoints=[ollama(), claude(slots=2)])
    w.submit("t1", tier="complex")
    w.report("t1", c.TaskStarted, executor="claude")
    from events.codec import rfc3339

    w.report("t1", c.TaskReturned, reason="limited", limited_until=rfc3339(w.now + 100))
    (limited,) = w.events(c.TierLimited)
    assert limited.known_end
    w.beat_on(90, "h1")
    assert len(w.routes("t1")) == 1
    w.beat_on(12, "h1")
    assert len(w.routes("t1")) == 2
    assert w.routes("t1")[1].attempt == 1  # a limit is no attempt
    assert w.events(c.TierDown) == []


def test_an_outage_raises_one_alert_and_clears_it_once():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="x")
    w.beat_on(30, "h1")
    assert w.events(c.AlertRaised) == []
    w.beat_on(60, "h1")
    assert len(w.events(c.AlertRaised)) == 1
    w.host_says("h1", c.EndpointUp, state=ollama())
    assert len(w.events(c.AlertCleared)) == 1
    w.beat_on(60, "h1")
    assert len(w.events(c.AlertRaised)) == 1


def test_a_turn_does_not_reckon_anew_when_an_alert_falls_due(monkeypatch):
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="x")
    w.turn()
    w.scheduler.next_wake()
    asked = []
    after = LogTime.after
    monkeypatch.setattr(
        LogTime, "after", lambda *said: asked.append(said) or after(*said)
    )
    for n in range(20):
        w.shell(f"t{n}")
        w.scheduler.next_wake()
    assert asked == []
    w.beat_on(90, "h1")
    assert len(w.events(c.AlertRaised)) == 1


def test_a_policy_that_alerts_sooner_moves_the_alert_of_an_outage_that_lasts():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="x")
    w.beat_on(20, "h1")
    policy = {**policies.document(policies.Policy()), "tier_alert_after_s": 25.0}
    w.store(subjects.POLICY, c.PolicyChanged(**w.head(), version=1, policy=policy))
    w.turn()
    assert w.events(c.AlertRaised) == []
    w.beat_on(6, "h1")
    assert len(w.events(c.AlertRaised)) == 1


def test_the_decision_can_be_made_again_from_its_record():
    w = World()
    for n in range(5):
        w.join(f"h{n}", ram_bytes=(n + 1) * 2**33)
        w.beat(f"h{n}", cpu=0.1 * n, ram_total_bytes=(n + 1) * 2**33)
    w.shell("t1")
    (routed,) = w.routes("t1")
    again = recheck(routed, w.scheduler.state.policy.scoring)
    assert again.host == routed.selected_host
    assert routed.candidate_count == len(routed.candidates) == 5


def test_equal_hosts_share_equal_tasks():
    w = World()
    for n in range(4):
        w.join(f"h{n}", slots={"shell": 8})
    for n in range(20):
        w.shell(f"t{n}")
    counts = [sum(r.selected_host == f"h{n}" for r in w.routes()) for n in range(4)]
    assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("end", [c.TaskFailed, c.TaskCompleted])
def test_a_finished_task_leaves_memory_and_its_slot(end):
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("t1")
    w.report("t1", end, result=c.Result(status="success"))
    assert w.scheduler.state.tasks == {}
    w.shell("t2")
    assert len(w.routes("t2")) == 1


def test_a_retried_task_is_brought_back_from_its_history_with_attempts_anew():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskFailed, result=c.Result(status="failed"))
    w.store(subjects.task("t1"), c.TaskRetried(**w.head(), task_id="t1"))
    w.scheduler.adopt("t1", [r for r in w.log if r.subject.endswith(".t1")])
    w.turn()
    assert [r.generation for r in w.routes("t1")] == [1, 2]
    assert w.routes("t1")[1].attempt == 1


def test_replaying_the_log_gives_the_same_state():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    for n in range(6):
        w.shell(f"t{n}")
        w.submit(f"s{n}", tier="standard")
    w.run("t0")
    w.report("t1", c.TaskStarted, executor="shell")
    other = World(leading=False)
    for recorded in w.log:
        other.scheduler.fold(recorded)
    assert {k: v.task for k, v in other.scheduler.state.tasks.items()} == {
        k: v.task for k, v in w.scheduler.state.tasks.items()
    }
    assert set(other.scheduler.state.queue.tasks) == set(w.scheduler.state.queue.tasks)


# -- waiting that ends ------------------------------------------------------------------


def test_the_ttl_runs_only_while_all_tiers_are_down_and_says_which_were():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.submit("busy", tier="complex")
    w.report("busy", c.TaskAccepted)
    w.submit("t1", tier="complex")
    w.beat_on(1200, "h1")
    assert w.phase("t1") == "waiting"  # busy is not down
    w.host_says("h1", c.EndpointDown, endpoint="claude", kind="claude", reason="x")
    w.beat_on(590, "h1")
    assert w.phase("t1") == "waiting"
    w.beat_on(20, "h1")
    assert w.phase("t1") == "expired"
    (expired,) = w.events(c.TaskExpired)
    assert expired.reason == "ttl"
    assert [o.tier for o in expired.tiers] == ["complex"]
    assert "complex was down for 60" in expired.detail


def test_the_ttl_starts_again_after_a_recovery():
    w = World()
    w.join("h1", endpoints=[claude(slots=1)])
    w.submit("busy", tier="complex")
    w.report("busy", c.TaskAccepted)
    w.submit("t1", tier="complex", ttl_s=100)
    for _ in range(3):
        w.host_says("h1", c.EndpointDown, endpoint="claude", kind="claude", reason="x")
        w.beat_on(80, "h1")
        w.host_says("h1", c.EndpointUp, state=claude())
        w.beat_on(2, "h1")
    assert w.phase("t1") == "waiting"
    w.host_says("h1", c.EndpointDown, endpoint="claude", kind="claude", reason="x")
    w.beat_on(102, "h1")
    assert w.phase("t1") == "expired"


def test_trivial_tasks_still_run_while_others_expire():
    w = World()
    w.join("h1")
    w.submit("t1", tier="complex", ttl_s=10)
    w.shell("t2")
    w.report("t2", c.TaskAccepted)
    w.beat_on(12, "h1")
    assert w.phase("t1") == "expired"
    assert w.events(c.TaskExpired)[0].tiers[0].state == "absent"
    assert w.events(c.TaskExpired)[0].detail == "complex is not set up"
    assert len(w.routes("t2")) == 1


def test_time_without_a_leader_counts_for_no_ttl_and_no_alert():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.host_says("h1", c.EndpointDown, endpoint="claude", kind="claude", reason="x")
    w.submit("t1", tier="complex", ttl_s=100)
    w.beat_on(50, "h1")
    w.scheduler.step_down()
    w.now += 500
    w.store(
        subjects.SCHEDULER,
        c.SchedulerElected(**w.head(), epoch=2, name="s1", leaderless_s=500),
    )
    w.scheduler.lead(2, w.now)
    w.turn()
    assert w.events(c.AlertRaised) == []
    w.beat_on(40, "h1")
    assert w.phase("t1") == "waiting"
    assert len(w.events(c.AlertRaised)) == 1
    w.beat_on(20, "h1")
    assert w.phase("t1") == "expired"


def test_at_its_deadline_a_waiting_task_expires():
    from events.codec import rfc3339

    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("first")
    w.report("first", c.TaskAccepted)
    w.shell("t1", deadline=rfc3339(w.now + 30))
    w.beat_on(28, "h1")
    assert w.phase("t1") == "waiting"
    w.beat_on(4, "h1")
    assert w.phase("t1") == "expired"
    assert w.events(c.TaskExpired)[0].reason == "deadline"


def test_what_no_host_can_meet_is_deferred_once_with_the_reason_and_expires_by_ttl():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.submit("t1", tier="standard", needs=["gpu"], ttl_s=60)
    w.submit("t2", tier="standard", model="qwen3", ttl_s=600)
    w.beat_on(30, "h1")
    deferred = {e.task_id: e.reason for e in w.events(c.TaskDeferred)}
    assert deferred == {"t1": "1 × lacks gpu", "t2": "1 × does not have qwen3"}
    w.beat_on(40, "h1")
    assert w.phase("t1") == "expired"
    assert w.phase("t2") == "waiting"


def test_a_leader_s_first_look_at_many_tasks_is_cut_into_turns(monkeypatch):
    """So that its lease is renewed between them, and nothing is decided otherwise."""
    monkeypatch.setattr(expiry, "TIMED_AT_ONCE", 10)
    w = World(leading=False)
    w.join("h1")
    for n in range(35):
        w.submit(f"t{n}", tier="standard", ttl_s=100 + (n % 4) * 100)
    reckoned = []
    due = expiry._expires_at
    monkeypatch.setattr(
        expiry, "_expires_at", lambda *of: reckoned.append(of[2].task_id) or due(*of)
    )
    w.elect()
    looks = []
    while w.scheduler.next_wake() <= w.now:
        reckoned.clear()
        w.turn()
        looks.append(len(set(reckoned)))
    assert 2 < len(looks) < 9
    assert max(looks) <= 13  # ten, and the first of each row
    w.beat_on(120, "h1")
    assert {e.task_id for e in w.events(c.TaskExpired)} == {
        f"t{n}" for n in range(0, 35, 4)
    }
    w.beat_on(300, "h1")
    assert len(w.events(c.TaskExpired)) == 35


def test_a_new_leader_looks_at_the_tasks_it_finds_in_turns(monkeypatch):
    """What the first turn leaves over is done in the next ones, and nothing twice."""
    monkeypatch.setattr(decide, "LOOKED_AT_ONCE", 3)
    before = World()
    before.join("h1", slots={"shell": 8})
    for n in range(8):
        before.shell(f"sent{n}")
    for n in range(8):
        before.submit(f"due{n}", tier="complex", deadline=rfc3339(before.now + 50))
    w = World(leading=False)
    for recorded in before.log:
        w.store(recorded.subject, recorded.event)
    w.elect(2)
    sent = [m.message.task_id for m in w.mail if isinstance(m.message, Assign)]
    assert len(sent) < 8
    assert w.scheduler.next_wake() <= w.now
    w.beat("h1")
    w.wait(1)
    sent = [m.message.task_id for m in w.mail if isinstance(m.message, Assign)]
    assert sorted(sent) == [f"sent{n}" for n in range(8)]
    assert not w.scheduler.leadership.unlooked
    w.beat_on(60, "h1")
    assert {e.task_id for e in w.events(c.TaskExpired)} == {f"due{n}" for n in range(8)}


def test_what_a_new_leader_routes_meanwhile_is_not_sent_again(monkeypatch):
    w = World(leading=False)
    w.join("h1", slots={"shell": 8})
    for n in range(8):
        w.shell(f"t{n}")
    monkeypatch.setattr(decide, "LOOKED_AT_ONCE", 1)
    w.elect()
    w.wait(1)
    assert not w.scheduler.leadership.unlooked
    sent = [m.message.task_id for m in w.mail if isinstance(m.message, Assign)]
    assert sorted(sent) == [f"t{n}" for n in range(8)]


def test_who_takes_over_passes_over_those_that_have_been_told_in_turns(monkeypatch):
    before = World()
    before.join("h1", endpoints=[ollama()])
    for n in range(30):
        before.submit(f"t{n}", tier="standard", needs=["gpu"])
    assert len(before.events(c.TaskDeferred)) == 30
    monkeypatch.setattr(dispatch, "PASSED_AT_ONCE", 8)
    w = World(leading=False)
    for recorded in before.log:
        w.store(recorded.subject, recorded.event)
    w.elect(2)
    (group,) = w.scheduler.state.queue.groups.values()
    assert len(group.untold) >= 14
    w.submit("last", tier="standard", needs=["gpu"])
    w.wait(1)
    assert not group.untold
    assert {e.task_id for e in w.events(c.TaskDeferred)[30:]} == {"last"}


def test_who_waits_for_a_host_that_is_not_here_is_told_so_and_not_of_a_kind_of_work():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.join("h2")
    w.submit("t1", tier="standard", assign_to="ghost")
    w.submit("t2", tier="standard", assign_to="h2")
    w.beat_on(1, "h1", "h2")
    assert {e.task_id: e.reason for e in w.events(c.TaskDeferred)} == {
        "t1": "host ghost is not here",
        "t2": "host h2 does not offer a local model",
    }


# -- steering ---------------------------------------------------------------------------


def test_a_reassigned_run_is_stopped_where_it_is_and_routed_to_the_named_host():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskStarted, executor="shell")
    first = w.routes("t1")[0]
    w.join("h2")
    w.store(subjects.task("t1"), c.TaskReassigned(**w.head(), task_id="t1", host="h2"))
    w.turn()
    assert w.cancels("t1")[0].message.route == first.id
    assert w.routes("t1")[-1].selected_host == "h2"
    w.report("t1", c.TaskStopped, route=first)
    assert w.phase("t1") == "routed"


def test_a_shared_endpoint_has_one_set_of_slots_for_all_its_callers():
    w = World()
    w.join("h1")
    w.join("h2")
    w.store(
        subjects.fleet("gpu"),
        c.EndpointAdded(
            **w.head(), endpoint="gpu", kind="ollama", url="http://g", slots=1
        ),
    )
    w.turn()
    from events.mail import UseEndpoints

    assert {m.host for m in w.mail if isinstance(m.message, UseEndpoints)} == {
        "h1",
        "h2",
    }
    shared = c.EndpointState(
        endpoint="gpu", kind="ollama", up=True, models=["m"], slots=1, shared=True
    )
    w.host_says("h1", c.EndpointUp, state=shared)
    w.host_says("h2", c.EndpointUp, state=shared)
    w.submit("t1", tier="standard")
    w.submit("t2", tier="standard")
    assert len(w.routes()) == 1
    w.run("t1")
    assert len(w.routes()) == 2
    w.store(subjects.fleet("gpu"), c.EndpointRemoved(**w.head(), endpoint="gpu"))
    w.run("t2")
    w.submit("t3", tier="standard", ttl_s=1000)
    assert w.routes("t3") == []


def test_escalations_are_held_to_their_number():
    w = World()
    w.join("h1", endpoints=[claude(slots=9)])
    for n in range(6):
        w.submit(f"t{n}", tier="standard")
    assert len(w.routes()) == 4
    w.report("t0", c.TaskCompleted, result=c.Result(status="success"))
    assert len(w.routes()) == 5


def test_the_daily_budget_holds_escalations_back():
    from actors.rules import policy as policies

    w = World()
    new = policies.parse({"escalation_budget_usd_per_day": 1.0})
    w.store(
        subjects.POLICY,
        c.PolicyChanged(**w.head(), version=1, policy=policies.document(new)),
    )
    w.join("h1", endpoints=[claude(slots=1)])
    w.submit("t0", tier="standard")
    w.submit("t1", tier="standard")
    w.report(
        "t0", c.TaskCompleted, result=c.Result(status="success", estimated_cost_usd=1.5)
    )
    assert w.routes("t1") == []
    w.beat_on(30, "h1")
    (told,) = w.events(c.TierBudgetSpent)
    assert (told.tier, told.spent_usd, told.budget_usd) == ("complex", 1.5, 1.0)
    assert told.day == told.at[:10]


def test_a_policy_change_takes_effect_at_once():
    from actors.rules import policy as policies

    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="x")
    w.submit("t1", tier="standard")
    w.beat_on(2, "h1")
    assert w.routes() == []
    new = policies.parse({"fallback_wait_s": 1.0})
    w.store(
        subjects.POLICY,
        c.PolicyChanged(**w.head(), version=1, policy=policies.document(new)),
    )
    w.turn()
    assert w.routes("t1")[0].fallback_used


def test_a_standard_command_drops_to_trivial_when_claude_is_down_too():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.host_says("h1", c.EndpointDown, endpoint="o1", kind="ollama", reason="x")
    w.submit("t1", tier="standard", shell=c.Shell(command="true"))
    w.beat_on(6, "h1")
    assert w.routes("t1")[0].effective_tier == "trivial"
    assert w.routes("t1")[0].fallback_used


def test_warm_beats_cold_and_a_repo_wins_at_similar_load_only():
    w = World()
    w.join("h1", endpoints=[ollama("o1", slots=4)])
    w.join("h2", endpoints=[ollama("o2", loaded=["llama3.2:latest"], slots=4)])
    w.submit("t1", tier="standard")
    assert w.routes("t1")[0].selected_endpoint == "o2"
    w = World()
    r = "https://git.example.org/r"
    w.join("h1", repos=["git@git.example.org:r.git"], slots={"shell": 4})
    w.join("h2", clones=["https://git.example.org/"], slots={"shell": 4})
    w.beat("h1", cpu=0.5)
    w.beat("h2", cpu=0.49)
    w.shell("t1", repo=r)
    assert w.routes("t1")[0].selected_host == "h1"
    w.beat("h2", cpu=0.1)
    w.shell("t2", repo=r)
    assert w.routes("t2")[0].selected_host == "h2"


def test_work_waits_for_a_host_that_has_its_repository():
    w = World()
    w.join("h1", repos=["api"], slots={"shell": 4})
    w.beat("h1", cpu=0.0)
    w.shell("t1", repo="web")
    assert w.routes("t1") == []
    assert "has no checkout of web" in w.events(c.TaskDeferred)[0].reason
    w.join("h2", repos=["web"], slots={"shell": 4})
    w.turn()
    assert w.routes("t1")[0].selected_host == "h2"


def test_a_hop_does_not_lead_away_from_the_repository():
    w = World()
    w.join("h1", repos=["web"], endpoints=[ollama("o1")])
    w.join("h2", endpoints=[claude()])
    w.submit("t1", tier="complex", repo="web")
    w.beat_on(20, "h1", "h2")
    assert w.routes("t1") == []


@pytest.mark.parametrize(
    ("interval_s", "silent_s", "known"),
    [(0.0, 7, False), (4.0, 11, True), (4.0, 13, False)],
)
def test_resources_are_known_for_three_beats_as_the_host_itself_beats(
    interval_s, silent_s, known
):
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.beat("h1", interval_s=interval_s, cpu=0.5)
    w.wait(silent_s)
    assert (w.scheduler.state.fleet.hosts["h1"].cpu is not None) == known


def test_many_tasks_are_told_why_they_wait_in_portions_and_each_once():
    w = World()
    w.join("h1", endpoints=[ollama()])
    for n in range(450):
        w.submit(f"t{n}", tier="standard", needs=["gpu"])
    w.beat_on(10, "h1")
    told = [e.task_id for e in w.events(c.TaskDeferred)]
    assert len(told) == len(set(told)) == 450


def test_a_task_excluded_from_all_of_the_best_places_goes_to_the_next_best():
    w = World()
    best = [ollama(f"o{n:02d}", slots=4) for n in range(16)]
    w.join("h1", endpoints=best, ram_bytes=2**35)
    w.join("h2", endpoints=[ollama("last")])
    w.beat("h1", ram_total_bytes=2**35)
    w.beat("h2", ram_total_bytes=2**33)
    w.submit("t1", tier="standard", max_attempts=100)
    for _ in range(16):
        routed = w.routes("t1")[-1]
        assert routed.selected_host == "h1"
        w.report(
            "t1",
            c.TaskReturned,
            reason="endpoint_failed",
            exclude=routed.selected_endpoint,
        )
    assert w.routes("t1")[-1].selected_endpoint == "last"


def lose_twice(w: World, names: tuple[str, ...]) -> None:
    """Have their host restart twice while they run."""
    for before, after in (("i1", "i2"), ("i2", "i3")):
        for name in names:
            w.report(name, c.TaskStarted, incarnation=before, executor="shell")
        w.join("h1", incarnation=after)


def test_tasks_that_were_lost_together_twice_run_apart():
    """One of them ends its host; together with it the others would be lost for good."""
    w = World()
    w.join("h1")
    names = ("poison", "innocent")
    for name in names:
        w.shell(name)
    lose_twice(w, names)
    assert sorted(len(w.routes(name)) for name in names) == [2, 3]
    alone = next(name for name in names if len(w.routes(name)) == 3)
    w.shell("another")
    assert w.phase("another") == "routed"
    w.report(alone, c.TaskStarted, executor="shell", incarnation="i3")
    w.join("h1", incarnation="i4")
    assert w.phase(alone) == "dead"
    assert [w.phase(name) for name in names if name != alone] == ["routed"]


def test_suspects_run_side_by_side_on_hosts_of_their_own():
    w = World()
    w.join("h1")
    for name in ("a", "b"):
        w.shell(name)
    lose_twice(w, ("a", "b"))
    w.join("h2")
    assert sorted(w.routes(name)[-1].selected_host for name in ("a", "b")) == [
        "h1",
        "h2",
    ]


def test_a_host_kept_from_a_suspect_is_told_apart_from_one_that_failed():
    w = World()
    w.join("h1")
    for name in ("a", "b"):
        w.shell(name)
    lose_twice(w, ("a", "b"))
    alone = next(name for name in ("a", "b") if len(w.routes(name)) == 2)
    w.join("h2")
    (out,) = w.routes(alone)[-1].excluded_names
    assert (out.name, out.code) == ("h1", "suspect")
    assert out.reason == "runs another task that lost runs with its host"


def test_a_limit_is_believed_of_claude_alone():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()])
    w.shell("t1")
    w.report(
        "t1", c.TaskReturned, reason="limited", limited_until="9999-01-01T00:00:00Z"
    )
    w.submit("t2", tier="standard")
    w.report(
        "t2", c.TaskReturned, reason="limited", limited_until="9999-01-01T00:00:00Z"
    )
    assert w.events(c.TierLimited) == []


def test_a_limit_that_is_lifted_holds_nobody_up():
    from events.codec import rfc3339

    w = World()
    w.join("h1", endpoints=[claude()])
    w.submit("t1", tier="complex")
    w.report("t1", c.TaskReturned, reason="limited", limited_until=rfc3339(w.now + 100))
    assert len(w.routes("t1")) == 1
    w.store(subjects.tier("complex"), c.TierLimitCleared(**w.head(), tier="complex"))
    w.beat_on(1, "h1")
    assert len(w.routes("t1")) == 2


def test_a_limit_ends_as_far_away_as_its_host_said_whatever_the_clock_here():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.submit("t1", tier="complex")
    said, until = w.now + 86_400, w.now + 86_400 + 60
    (route,) = w.routes("t1")
    w.store(
        subjects.run("h1", "t1"),
        c.TaskReturned(
            id="R1", at=rfc3339(said), by="h1", task_id="t1", host="h1",
            route=route.id, generation=1, attempt=1, incarnation="i1",
            reason="limited", limited_until=rfc3339(until),
        ),
    )  # fmt: skip
    w.turn()
    (limited,) = w.events(c.TierLimited)
    assert abs(instant(limited.until) - w.now - 60) < 1
