"""The folds over fleet and counts: given a history, who is there and what it adds up to."""

from __future__ import annotations

from events import catalogue as c
from events import subjects
from projections import mapping, waiting
from projections.fleet import Beats
from projections.stats import BUCKETS_MS, Histogram
from projections.world import fold
from tests.support.histories import History, endpoint_state


def test_a_host_that_joined_offers_its_endpoints_and_models():
    history = History()
    history.join("h1", models=("llama3.2", "qwen3"))

    fleet = fold(history.recorded).fleet

    assert fleet.hosts["h1"].state == "up"
    assert [m.model for m in mapping.models(fleet)] == ["llama3.2", "qwen3"]
    assert mapping.models(fleet)[0].loaded == ["h1"]
    assert mapping.models(fleet)[1].on_disk == ["h1"]


def test_an_endpoint_that_went_down_has_no_models():
    history = History()
    history.join("h1")
    history.host_says(
        c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
    )

    fleet = fold(history.recorded).fleet

    assert not fleet.hosts["h1"].endpoints["h1-ollama"].up
    assert mapping.models(fleet) == []

    history.host_says(c.EndpointUp, "h1", state=endpoint_state("h1-ollama"))
    assert fold(history.recorded).fleet.hosts["h1"].endpoints["h1-ollama"].up


def shown(history: History):
    world = fold(history.recorded)
    return mapping.hosts(world, Beats(), monotonic=0.0, now=history.now)


def test_a_host_without_claude_is_not_said_to_have_slots_for_it():
    history = History()
    history.join("h1")
    assert shown(history).hosts[0].slots == {"shell": 2}

    claude = c.EndpointState(endpoint="h1-claude", kind="claude", up=True)
    history.host_says(c.EndpointUp, "h1", state=claude)
    assert shown(history).hosts[0].slots == {"shell": 2, "claude": 1}


def test_of_a_host_that_is_gone_no_endpoint_is_up():
    history = History()
    history.join("h1")
    history.join("h2")
    history.lose("h1")
    lost = history.last.event.at
    history.host_says(c.HostLeft, "h2")

    [first], [second] = (host.endpoints for host in shown(history).hosts)

    assert (first.up, first.since, first.reason) == (False, lost, "its host is lost")
    assert (second.up, second.loaded, second.reason) == (False, [], "its host left")
    history.host_says(c.HostRecovered, "h1")
    assert shown(history).hosts[0].endpoints[0].up


def test_a_forgotten_host_is_in_no_list_and_may_join_again():
    history = History()
    history.join("h1")
    task = history.submit(assign_to="h1")

    def forget() -> None:
        event = c.HostForgotten(**history.head("gateway"), host="h1")
        history.say(subjects.fleet("h1"), event)

    forget()
    assert [host.host for host in shown(history).hosts] == ["h1"], "it is there"
    history.lose("h1")
    forget()
    world = fold(history.recorded)
    assert world.fleet.hosts == {}
    assert (shown(history).hosts, shown(history).models) == ([], [])
    assert world.stats.void == {"host.forgotten.v1: the host is there, or was never": 1}
    because = waiting.why(world.tasks.records[task], world, history.now).because
    assert "It waits for host h1, which is not known: none of that name joined." in (
        because
    )
    history.join("h1")
    assert shown(history).hosts[0].state == "up"


def test_an_earlier_incarnation_of_a_host_counts_for_nothing():
    history = History()
    history.join("h1")
    first = history.incarnations["h1"]
    history.join("h1")
    second, history.incarnations["h1"] = history.incarnations["h1"], first
    history.host_says(c.HostLeft, "h1")

    world = fold(history.recorded)

    assert world.fleet.hosts["h1"].state == "up"
    assert world.fleet.hosts["h1"].incarnation == second
    assert world.stats.void == {"host.left.v1: an earlier incarnation of the host": 1}


def test_what_a_host_says_again_does_not_undo_what_it_said_since():
    history = History()
    joined = history.join("h1")
    draining = history.host_says(c.HostDraining, "h1")
    history.host_says(c.HostResumed, "h1")
    history.host_says(
        c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
    )
    once = fold(history.recorded)
    history.again(joined)
    history.again(draining)

    world = fold(history.recorded)

    assert world.fleet.hosts == once.fleet.hosts
    assert world.fleet.hosts["h1"].state == "up"
    assert not world.fleet.hosts["h1"].endpoints["h1-ollama"].up


def test_a_lost_host_comes_back():
    history = History()
    history.join("h1")
    history.lose("h1")
    assert fold(history.recorded).fleet.hosts["h1"].state == "lost"

    history.host_says(c.HostRecovered, "h1")

    assert fold(history.recorded).fleet.hosts["h1"].state == "up"


def test_a_succeeded_leader_cannot_lose_a_host():
    history = History()
    history.join("h1")
    history.elect(2)
    history.epoch = 1
    history.lose("h1")

    assert fold(history.recorded).fleet.hosts["h1"].state == "up"


def test_a_shared_endpoint_goes_from_every_host_when_it_is_removed():
    history = History()
    history.join("h1")
    added = c.EndpointAdded(
        **history.head("gateway"), endpoint="big", kind="openai", url="http://x:1"
    )
    history.say(subjects.fleet("big"), added)
    shared = c.EndpointState(endpoint="big", kind="openai", up=True, shared=True)
    history.host_says(c.EndpointUp, "h1", state=shared)
    assert "big" in fold(history.recorded).fleet.hosts["h1"].endpoints

    removed = c.EndpointRemoved(**history.head("gateway"), endpoint="big")
    history.say(subjects.fleet("big"), removed)

    fleet = fold(history.recorded).fleet
    assert "big" not in fleet.hosts["h1"].endpoints
    assert fleet.shared == {}


def test_an_alert_about_a_host_is_active_until_it_is_cleared_and_no_tiers():
    history = History()
    history.join("h1")
    about = {"host": "h1", "code": "cannot_persist", "epoch": history.epoch}
    history.say(
        subjects.fleet("h1"),
        c.HostAlertRaised(
            **history.head("s1"), **about, incarnation="i", text="disk full"
        ),
    )
    (alert,) = fold(history.recorded).fleet.active_alerts
    assert (alert.host, alert.tier, alert.reason) == ("h1", "", "disk full")
    history.say(
        subjects.fleet("h1"),
        c.HostAlertCleared(**history.head("s1"), **about, lasted_s=9),
    )
    fleet = fold(history.recorded).fleet
    assert fleet.active_alerts == []
    assert fleet.alerts[0].down_s == 9


def test_an_alert_is_active_until_it_is_cleared():
    history = History()
    history.tier(c.TierDown, "standard", reason="no endpoint is up")
    history.tier(c.AlertRaised, "standard", down_s=60.0)
    history.tier(c.AlertAcknowledged, "standard", requested_by="alice")
    fleet = fold(history.recorded).fleet
    assert [a.acknowledged_by for a in fleet.active_alerts] == ["alice"]
    assert fleet.tiers["standard"].state == "down"

    history.tier(c.TierUp, "standard", down_s=70.0)
    history.tier(c.AlertCleared, "standard", down_s=70.0)

    fleet = fold(history.recorded).fleet
    assert fleet.active_alerts == []
    assert fleet.tiers["standard"].state == "up"


def test_resources_are_known_for_three_beats_as_the_host_itself_beats():
    history = History()
    history.join("h1")
    host = fold(history.recorded).fleet.hosts["h1"]
    resources = c.Resources(cpu=0.25)
    beat = c.Beat(
        host="h1",
        incarnation=host.incarnation,
        n=1,
        at="",
        resources=resources,
        interval_s=10.0,
    )
    beats = Beats()
    beats.note(beat, now=100.0, wall=0.0)

    assert beats.of(host, 129.0).resources == resources
    assert beats.of(host, 131.0) is None


def test_the_policy_says_for_how_many_beats_resources_are_true():
    history = History()
    history.join("h1")
    fresh = {"resources_fresh_beats": 10}
    changed = c.PolicyChanged(**history.head("gateway"), version=1, policy=fresh)
    history.say(subjects.POLICY, changed)
    world = fold(history.recorded)
    beats = Beats()
    beats.note(
        c.Beat(
            host="h1",
            incarnation=world.fleet.hosts["h1"].incarnation,
            n=1,
            at="",
            resources=c.Resources(cpu=0.25),
        ),
        now=100.0,
        wall=0.0,
    )

    def cpu(monotonic: float) -> float | None:
        answer = mapping.hosts(world, beats, monotonic=monotonic, now=history.now)
        resources = answer.hosts[0].resources
        return None if resources is None else resources.cpu

    assert cpu(119.0) == 0.25
    assert cpu(121.0) is None


def test_resources_are_unknown_after_three_missed_beats():
    history = History()
    history.join("h1")
    host = fold(history.recorded).fleet.hosts["h1"]
    beats = Beats()
    beats.note(
        c.Beat(
            host="h1",
            incarnation=host.incarnation,
            n=1,
            at="",
            resources=c.Resources(cpu=0.25),
        ),
        now=100.0,
        wall=0.0,
    )

    assert beats.of(host, 105.0).resources == c.Resources(cpu=0.25)
    assert beats.of(host, 107.0) is None
    host.incarnation = "another"
    assert beats.of(host, 100.0) is None


def test_decisions_are_counted_once_whatever_became_of_them():
    history = History()
    task = history.submit()
    for _ in range(3):
        route = history.route(task)
        history.report(c.TaskRejected, route, reason="busy")
        history.requeue(route, "busy")

    stats = fold(history.recorded).stats

    assert stats.decisions_by_tier == {"standard": 3}
    assert stats.decisions_by_target == {"ollama": 3}


def test_a_disagreement_of_submitter_and_wording_is_counted():
    history = History()
    history.submit(tier="complex", inferred="standard")
    assert fold(history.recorded).stats.disagreements == {}
    submitted = history.last.event
    classification = c.Classification(
        "complex", "complex", "explicit", submitted.classification.inferred, "explicit"
    )
    event = c.TaskSubmitted(
        **history.head("gateway"),
        task_id="t2",
        spec=submitted.spec,
        classification=classification,
    )
    history.say(subjects.task("t2"), event)

    assert fold(history.recorded).stats.disagreements == {"complex/standard": 1}


def test_unknown_tags_are_kept_counted_and_stop_nobody():
    history = History()
    head = history.head("later")
    history.say(subjects.POLICY, c.Unknown(tag="policy.sung.v9", body=head, **head))
    task = history.submit()

    world = fold(history.recorded)

    assert world.stats.unknown == {"policy.sung.v9": 1}
    assert world.tasks.find(task).phase == "waiting"


def test_what_was_passed_over_in_the_log_is_counted_as_undecodable():
    history = History()
    history.submit()
    history.submit()
    del history.recorded[0]

    assert fold(history.recorded).stats.undecodable == 1


def test_a_histogram_answers_with_the_edge_of_the_bucket():
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    for ms in (0.3, 0.4, 900.0):
        histogram.add(ms)

    assert histogram.quantile(0.5) == 0.5
    assert histogram.quantile(0.99) == 1024.0
    histogram.add(BUCKETS_MS[-1] * 2)
    assert histogram.n == sum(histogram.counts) == 4
