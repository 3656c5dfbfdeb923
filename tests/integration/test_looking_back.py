"""The command line on a log with a past: explain, state, replay, what-if, figures."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
from rich.console import Console

from actors.rules import scoring
from actors.rules.policy import Policy
from analysis.explain import aftermath
from analysis.reprice import Rates
from analysis.whatif import Redecider
from cli.render.past import show_whatif
from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from events.errors import Malformed
from projections.main import projecting
from projections.questions import AskWhatIf
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import START, History, tell
from tests.support.livelog import command, read_models, writing

GIB = 2**30


def place(host, *, cpu=0.5, loaded=False, model="llama3.2:latest", policy=None, **more):
    """A candidate as the scheduler would have scored it."""
    inputs = scoring.Inputs(
        host=host,
        endpoint=f"{host}-ollama",
        model=model,
        cpu=cpu,
        ram_bytes=16 * GIB,
        loaded=loaded,
        slots_free=1,
        slots_total=1,
        **more,
    )
    return scoring.candidate(inputs, (policy or Policy()).scoring, local_model=True)


def decided(history, task, *candidates, policy_version=0, **fields):
    """Route a task to the best of its candidates."""
    ranked = scoring.ranked(candidates)
    best = ranked[0]
    route = history.route(
        task, best.host, endpoint=best.endpoint, model=best.model, **fields
    )
    routed = history.last
    event = msgspec.structs.replace(
        routed.event,
        candidates=ranked,
        candidate_count=len(ranked),
        policy_version=policy_version,
    )
    history.recorded[-1] = c.Recorded(routed.seq, routed.subject, event)
    return route


def fleet(history):
    history.elect(1)
    for host in ("h1", "h2"):
        history.join(host, models=("llama3.2:latest", "qwen3:latest"))
    history.tier(c.TierUp, "standard")
    history.tier(c.TierUp, "complex")


def outage(history, *, lasted, tier="standard", reason="down"):
    """Let a tier be down for so many seconds; return since when."""
    since = history.tier(c.TierDown, tier, reason=reason).event.at
    history.now += lasted - 0.1
    return since


def escalated(history, task, since, waited=5.0, *, score=None, code=None, reason=""):
    """Let a task fall back to Claude."""
    route = history.route(
        task,
        "h1",
        tier="complex",
        target="claude",
        endpoint="",
        model="claude-sonnet-4-5",
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_reason=reason or f"standard was down for {waited:.1f} s",
        fallback_code=code,
        wait=c.Wait("standard", since, waited, "taken"),
    )
    inputs = scoring.Inputs(
        host="h1",
        model="claude-sonnet-4-5",
        cpu=0.5,
        slots_free=1,
        slots_total=1,
    )
    candidate = scoring.candidate(inputs, Policy().scoring, local_model=False)
    if score is not None:
        candidate = msgspec.structs.replace(candidate, score=score)
    routed = history.last
    event = msgspec.structs.replace(
        routed.event, candidates=[candidate], policy_version=0
    )
    history.recorded[-1] = c.Recorded(routed.seq, routed.subject, event)
    return route


def hopped(history, task, since, waited, usd=2.0, **more):
    route = escalated(history, task, since, waited, **more)
    history.complete(
        route,
        usd=usd,
        model="claude-sonnet-4-5",
        tokens=(1_000, 200),
        cost_basis="reported",
    )
    return route


async def what_if(history, policy, **asked):
    log = MemoryLog()
    await tell(log, history.recorded)
    return await Redecider(log)(AskWhatIf(policy=policy, **asked))


# -- what-if ---------------------------------------------------------------------------


async def test_the_same_policy_changes_nothing():
    history = History()
    fleet(history)
    for n in range(5):
        task = history.submit()
        route = decided(
            history, task, place("h1", cpu=0.1 * n), place("h2", cpu=0.3, loaded=True)
        )
        history.complete(route)
    since = outage(history, lasted=5.0)
    task = history.submit()
    hopped(history, task, since, 5.0)

    answer = await what_if(history, {})

    assert (answer.decisions, answer.reproduced) == (6, 6)
    assert (answer.changed, answer.differences) == ({}, [])
    assert answer.cost_usd == answer.cost_usd_then == 2.0
    assert answer.by_place == answer.by_place_then
    assert (answer.fallbacks, answer.fallbacks_then) == (1, 1)


async def test_other_weights_choose_another_recorded_candidate():
    history = History()
    fleet(history)
    task = history.submit()
    route = decided(
        history, task, place("h1", cpu=0.4), place("h2", cpu=0.5, loaded=True)
    )
    assert route.host == "h1"

    answer = await what_if(history, {"scoring": {"warm": 2.0}})

    (change,) = answer.changes
    assert (change.what, change.was, change.then) == (
        "route",
        "standard h1-ollama@h1 llama3.2:latest",
        "standard h2-ollama@h2 llama3.2:latest",
    )
    assert "warm" in change.why
    assert answer.differences == ["scoring.warm"]


async def test_another_list_of_models_changes_what_runs_and_what_is_warm():
    history = History()
    fleet(history)
    decided(history, history.submit(), place("h1", loaded=True))
    named = history.submit(model="llama3.2:latest")
    decided(history, named, place("h1", loaded=True))

    answer = await what_if(history, {"local_models": ["qwen3"]})

    (change,) = answer.changes
    assert (change.what, change.then) == ("model", "standard h1-ollama@h1 qwen3:latest")


@pytest.mark.parametrize(
    "written", [{}, {"code": "down", "reason": "in other words"}], ids=["old", "new"]
)
async def test_a_longer_wait_would_have_spared_a_fallback(written):
    history = History()
    fleet(history)
    task = history.submit()
    since = outage(history, lasted=5.0)
    hopped(history, task, since, 5.0, **written)
    history.now += 3.0
    history.tier(c.TierUp, "standard", down_s=8.3)

    longer = await what_if(history, {"fallback_wait_s": 30})
    too_short = await what_if(history, {"fallback_wait_s": 6})

    assert longer.changed == {"fallback_avoided": 1}
    assert (longer.fallbacks, longer.fallbacks_then) == (1, 0)
    assert (longer.cost_usd, longer.cost_usd_then) == (2.0, 0.0)
    assert longer.waited_s_then > longer.waited_s
    assert too_short.changed == {"fallback_later": 1}
    assert too_short.cost_usd_then == 2.0


async def test_a_shorter_wait_would_have_hopped_sooner():
    history = History()
    fleet(history)
    task = history.submit()
    since = outage(history, lasted=5.0)
    hopped(history, task, since, 5.0)

    answer = await what_if(history, {"fallback_wait_s": 1})

    assert answer.changed == {"fallback_sooner": 1}
    assert answer.waited_s == pytest.approx(5.0, abs=0.2)
    assert answer.waited_s_then == pytest.approx(1.0, abs=0.2)


async def test_where_nothing_goes_elsewhere_the_places_are_the_same():
    history = History()
    fleet(history)
    decided(history, history.submit(), place("h1", loaded=True))
    since = outage(history, lasted=5.0)
    hopped(history, history.submit(), since, 5.0)
    history.tier(c.TierUp, "standard", down_s=5.0)

    sooner = await what_if(history, {"fallback_wait_s": 1})
    other_models = await what_if(
        history, {"local_models": ["qwen3"], "claude_model": "claude-opus-4-1"}
    )

    assert (sooner.changed, other_models.changed) == (
        {"fallback_sooner": 1},
        {"model": 2},
    )
    for answer in (sooner, other_models):
        assert answer.by_place == answer.by_place_then
        assert answer.by_place == {"standard h1-ollama@h1": 1, "complex h1": 1}
    assert shown(sooner).count("the same numbers of decisions") == 1
    assert "h1-ollama" not in shown(sooner)


def shown(answer):
    """What `agentcom whatif` prints, without colours."""
    screen = Console(file=io.StringIO(), width=200)
    show_whatif(screen, answer)
    return screen.file.getvalue()


async def test_an_avoided_wait_would_have_been_a_fallback():
    history = History()
    fleet(history)
    task = history.submit()
    since = outage(history, lasted=4.0)
    history.tier(c.TierUp, "standard", down_s=4.0)
    wait = c.Wait("standard", since, 4.0, "avoided")
    route = decided(history, task, place("h1"), wait=wait)
    history.complete(route, equivalent=0.75)

    answer = await what_if(history, {"fallback_wait_s": 1})
    same = await what_if(history, {"fallback_wait_s": 4.9})

    assert answer.changed == {"fallback_added": 1}
    assert (answer.cost_usd, answer.cost_usd_then) == (0.0, 0.75)
    assert answer.changes[0].then.startswith("complex: ")
    assert same.changed == {}


def verified(history, passed, of, *, tier="standard", model="llama3.2:latest"):
    """Let first rounds end, so many of which passed, each after a step that did."""
    for n in range(of):
        route = history.route(history.submit(tier=tier), tier=tier, model=model)
        history.accept(route)
        history.report(c.TaskStarted, route, executor="ollama", model=model)
        for step in (1, 2):
            history.report(
                c.TaskVerified,
                route,
                round=1,
                rounds=2,
                step=step,
                of=2,
                command="make test",
                passed=step == 1 or n < passed,
                n=step,
            )
        history.complete(route)


async def test_a_change_of_tier_says_how_often_work_passes_there_at_once():
    history = History()
    fleet(history)
    verified(history, 1, 4)
    verified(history, 4, 5, tier="complex", model="claude-sonnet-4-5")
    verified(history, 0, 5, tier="complex", model="claude-haiku-4-5")
    since = outage(history, lasted=5.0)
    hopped(history, history.submit(), since, 5.0)
    history.now += 3.0
    history.tier(c.TierUp, "standard", down_s=8.3)

    avoided = await what_if(history, {"fallback_wait_s": 30})
    sooner = await what_if(history, {"fallback_wait_s": 1})
    held = await what_if(history, {"max_escalations_in_flight": 0})

    (change,) = [each for each in avoided.changes if each.what == "fallback_avoided"]
    # Of the model where it is known, else of the tier.
    assert (change.passes, change.passes_then) == (0.8, 0.25)
    assert (avoided.tier_changes, avoided.passes_unknown) == (1, 0)
    assert (avoided.passes, avoided.passes_then) == (0.8, 0.25)
    assert "standard 1 of 4 (25%)" in avoided.said[-1]
    assert "complex 4 of 10 (40%)" in avoided.said[-1]
    assert "of 1 that change tier" in shown(avoided)
    assert (sooner.tier_changes, sooner.changes[0].passes) == (0, None)
    assert not any("Success" in sentence for sentence in sooner.said)
    (change,) = held.changes
    assert (change.passes, change.passes_then) == (0.8, None)
    assert (held.tier_changes, held.passes_unknown, held.passes) == (1, 1, 0.0)
    assert "whether 1 of the 1" in shown(held)


async def test_work_held_back_from_a_downgrade_would_pass_as_complex_does():
    history = History()
    fleet(history)
    verified(history, 1, 4)
    verified(history, 4, 5, tier="complex", model="claude-sonnet-4-5")
    since = outage(history, lasted=5.0, tier="complex")
    decided(
        history,
        history.submit(tier="complex"),
        place("h1"),
        fallback_used=True,
        fallback_from_tier="complex",
        wait=c.Wait("complex", since, 5.0, "taken"),
    )

    answer = await what_if(history, {"allow_downgrade": False})

    (change,) = answer.changes
    assert change.what == "held_back"
    assert (change.passes, change.passes_then) == (0.25, 0.8)


async def test_where_nothing_was_verified_success_is_not_estimated():
    history = History()
    fleet(history)
    since = outage(history, lasted=5.0)
    hopped(history, history.submit(), since, 5.0)
    history.now += 3.0
    history.tier(c.TierUp, "standard", down_s=8.3)

    answer = await what_if(history, {"fallback_wait_s": 30})

    assert (answer.tier_changes, answer.passes_unknown) == (1, 1)
    assert answer.said[-1].startswith(
        "Success of what would have changed its tier is not"
    )
    assert "that change tier" in shown(answer)


async def test_fewer_escalations_hold_some_back():
    history = History()
    fleet(history)
    tasks = [history.submit() for _ in range(3)]
    since = outage(history, lasted=5.0)
    routes = [escalated(history, task, since) for task in tasks]
    for route in routes:
        history.complete(route, usd=1.0, model="claude-sonnet-4-5")

    answer = await what_if(history, {"max_escalations_in_flight": 2})
    spent = await what_if(history, {"escalation_budget_usd_per_day": 0.0})

    assert answer.changed == {"held_back": 1}
    assert answer.unknown_dollars == 1
    assert (answer.cost_usd, answer.cost_usd_then) == (3.0, 2.0)
    assert spent.changed == {"held_back": 3}


async def test_another_claude_is_priced_by_the_list():
    history = History()
    fleet(history)
    since = outage(history, lasted=5.0)
    task = history.submit()
    hopped(history, task, since, 5.0, usd=0.006)

    answer = await what_if(history, {"claude_model": "claude-opus-4-1"})
    unknown = await what_if(history, {"claude_model": "claude-nobody-knows"})

    # 1,000 in at $15 and 200 out at $75 a million.
    assert answer.changed == {"model": 1}
    assert answer.cost_usd_then == pytest.approx(0.03)
    assert answer.estimated_decisions == 1
    assert unknown.unknown_dollars == 1


async def test_only_the_window_is_decided_and_later_results_are_counted():
    history = History()
    fleet(history)
    first = decided(history, history.submit(), place("h1"))
    history.complete(first, usd=1.0)
    start = len(history.recorded) + 1
    second = decided(history, history.submit(), place("h1"))
    end = len(history.recorded)
    third = decided(history, history.submit(), place("h1"))
    history.complete(second, usd=0.5)
    history.complete(third, usd=0.25)

    answer = await what_if(history, {}, since=start, until=end)

    assert (answer.decisions, answer.cost_usd) == (1, 0.5)


async def test_a_policy_that_is_none_is_refused_with_its_place():
    with pytest.raises(Malformed, match=r"scoring\.warm"):
        await what_if(History(), {"scoring": {"warm": "hot"}})


async def test_the_read_models_answer_it_through_a_port():
    history = History()
    fleet(history)
    decided(
        history,
        history.submit(),
        place("h1", cpu=0.4),
        place("h2", cpu=0.5, loaded=True),
    )
    log = MemoryLog()
    await tell(log, history.recorded)
    asked = b'{"policy": {"scoring": {"warm": 2.0}}, "since": 1}'
    bus = MemoryBus(MemoryBroker())
    async with projecting(log, bus, None, whatif=Redecider(log)) as (_, queries):
        answer = await queries.answer("whatif", asked)
        wrong = await queries.answer("whatif", b'{"policy": {"scoring": 1}}')
        when = await queries.answer("whatif", b'{"policy": {}, "since": "soon"}')
    async with projecting(log, bus, None) as (_, queries):
        without = await queries.answer("whatif", asked)

    assert answer.changed == {"route": 1}
    assert (wrong.code, wrong.path) == ("malformed", "scoring")
    assert when.code == "malformed"
    assert (without.code, without.status) == ("unavailable", 503)


async def test_changes_beyond_the_limit_are_counted():
    history = History()
    fleet(history)
    for _ in range(5):
        decided(
            history,
            history.submit(),
            place("h1", cpu=0.4),
            place("h2", cpu=0.5, loaded=True),
        )

    answer = await what_if(history, {"scoring": {"warm": 2.0}}, limit=2)

    assert (len(answer.changes), answer.changes_left_out) == (2, 3)
    assert answer.changed == {"route": 5}


def test_rates_are_for_a_million_tokens():
    rates = Rates(input=3.0, output=15.0, cache_read=0.3, cache_write=3.75)
    result = c.Result(
        status="success",
        tokens_in=1_000_000,
        tokens_out=100_000,
        cache_read_tokens=1_000_000,
        cache_write_tokens=1_000_000,
    )
    assert rates.price(result) == pytest.approx(3.0 + 1.5 + 0.3 + 3.75)
    assert rates.price(msgspec.structs.replace(result, tokens_in=None)) is None


def test_explain_says_where_unverified_work_goes_on():
    history = History()
    task = history.submit(verification_steps=["make test"])
    first = history.route(task)
    routed = history.last.event

    def said(of=routed):
        decided = [
            each for each in history.recorded if each.subject == subjects.task(task)
        ]
        return list(aftermath(of, decided))

    assert said() == []
    history.give_back(first, "verification")
    history.requeue(first, "verification")
    (sentence,) = said()
    assert "has not passed its verification: it waits to go on in complex" in sentence
    assert f"agentcom why-waiting {task}" in sentence
    history.decide(c.TaskDeferred, task, reason="today's $1.00 are spent")
    assert "Last said about it: today's $1.00 are spent." in said()[0]
    history.route(task, tier="complex", target="claude", fallback_used=True)
    assert said()[0].endswith("verification: routing 2 sent it on.")
    assert said(history.last.event) == []


# -- the commands ----------------------------------------------------------------------


@pytest.fixture
async def told(broker, monkeypatch, tmp_path):
    """A broker with a short past, its read models running."""
    monkeypatch.setenv("AGENTCOM_DATA", str(broker.instance.data))
    monkeypatch.chdir(tmp_path)
    history = History()
    fleet(history)
    history.first = history.submit("look at the logs", repo="shop")
    route = decided(
        history,
        history.first,
        place("h1", cpu=0.4),
        place("h2", cpu=0.5, loaded=True),
    )
    history.accept(route)
    history.start(route)
    history.middle = len(history.recorded)
    history.complete(route, equivalent=0.02)
    since = outage(history, lasted=5.0)
    history.second = history.submit("summarise it", tier="standard", inferred="complex")
    hopped(history, history.second, since, 5.0, usd=0.5, score=0.9)
    history.tier(c.AlertRaised, "standard", down_s=60.0, reason="down")
    history.third = history.submit("never", inferred="trivial")
    doomed = decided(history, history.third, place("h2"))
    history.dead(doomed)
    history.waiting = history.submit("not yet")
    store = broker.instance.data / "projections.db"
    async with writing(broker) as write:
        history.last_seq = await write.tell(history.recorded)
    async with read_models(broker, store) as (runner, _):
        await runner.until(history.last_seq)
        runner.save()
        yield history


async def test_explain_says_a_decision_in_words_and_checks_it(told):
    done = await command("explain", told.first, "--check")
    assert done.exit_code == 0, done.output
    assert "sent the task to h1-ollama on h1" in done.output
    assert "best of 2" in done.output
    assert "as recorded" in done.output
    assert "the fleet at sequence" in done.output

    said = json.loads((await command("explain", told.first, "--json")).output)
    assert said["decision"]["selected_host"] == "h1"
    assert said["check"] is None


async def test_explain_finds_a_decision_that_does_not_come_out_as_recorded(told):
    done = await command("explain", told.second, "--check")
    assert done.exit_code == 1
    assert "fell back from standard" in done.output
    assert "recorded are" in done.output


async def test_explain_refuses_what_was_never_routed(told):
    done = await command("explain", told.waiting)
    assert done.exit_code == 1
    assert "why-waiting" in done.output
    done = await command("explain", told.first, "--generation", "9")
    assert "no routing 9" in done.output


async def test_state_shows_the_world_as_it_was(told):
    then = json.loads(
        (
            await command(
                "state", "task", told.first, "--at", str(told.middle), "--json"
            )
        ).output
    )
    now = json.loads((await command("state", "task", told.first, "--json")).output)
    assert (then["task"]["state"], now["task"]["state"]) == ("running", "completed")

    at = rfc3339(START + 0.31)
    done = await command("state", "fleet", "--at", at)
    assert "after sequence 3" in done.output
    assert "h2" in done.output
    done = await command("state", "queue", "--at", str(told.middle))
    assert "under way: 1 running" in done.output
    assert (await command("state", "nonsense")).exit_code == 2


async def test_replay_walks_through_the_log(told):
    done = await command("replay")
    lines = done.output.splitlines()
    assert len(lines) == told.last_seq
    assert "1 wait, 0 under way, 3 finished, $0.5000" in lines[-1]

    only = await command("replay", "--task", told.first, "--json", "--speed", "1e9")
    kinds = [json.loads(line)["event"]["type"] for line in only.output.splitlines()]
    assert kinds == [
        "task.submitted.v1",
        "task.routed.v1",
        "task.accepted.v1",
        "task.started.v1",
        "task.completed.v1",
    ]
    some = await command("replay", "--from", "2", "--to", "3")
    assert len(some.output.splitlines()) == 2


async def test_what_if_on_the_command_line(told, tmp_path):
    file = tmp_path / "new.toml"
    file.write_text("fallback_wait_s = 1\n[scoring]\nwarm = 2.0\n")

    done = await command("whatif", "--policy", str(file), "--since", "1")
    assert done.exit_code == 0, done.output
    assert "Only recorded candidates are considered" in done.output
    assert "fallback_sooner" in done.output
    assert "1 route" in done.output
    answer = json.loads(
        (
            await command("whatif", "--policy", str(file), "--since", "1", "--json")
        ).output
    )
    assert answer["changed"] == {"fallback_sooner": 1, "route": 1}

    file.write_text("[scoring]\nwarm = 'hot'\n")
    done = await command("whatif", "--policy", str(file))
    assert done.exit_code == 1


async def test_repricing_stands_beside_what_was_booked(told, tmp_path):
    before = json.loads((await command("costs", "--json")).output)["total"]
    file = tmp_path / "prices.toml"
    file.write_text('["claude-sonnet-4-5"]\ninput = 1000.0\noutput = 5000.0\n')

    said = json.loads(
        (await command("reprice", "--prices", str(file), "--json")).output
    )

    assert said["total"]["cost_usd"] == 0.5
    assert said["total"]["cost_usd_then"] == pytest.approx(1.0 + 1.0)
    assert said["price_list"] == "prices.toml"
    assert json.loads((await command("costs", "--json")).output)["total"] == before
    assert "booked" in (await command("reprice", "--by", "tier")).output


async def test_costs_as_table_and_csv_and_by_outage(told):
    done = await command("costs", "--by", "fallback", "--csv")
    rows = list(csv.reader(io.StringIO(done.output)))
    assert rows[0][:2] == ["fallback", "runs"]
    assert any(row[0].startswith("standard to complex: down since") for row in rows)

    done = await command("costs", "--by", "day", "--fallback")
    assert "2026-01-01" in done.output
    assert "saved against Claude: $-0.5000" in done.output or "saved" in done.output
    since = await command("costs", "--since", "2027-01-01", "--json")
    assert json.loads(since.output)["lines"] == []


async def test_figures(told):
    done = await command("stats")
    assert "decisions by tier: 2 standard, 1 complex" in done.output
    assert "1 standard->complex" in done.output
    done = await command("alerts")
    assert "active" in done.output
    done = await command("dead")
    assert told.third in done.output
    done = await command("why-waiting", told.waiting)
    assert "is waiting" in done.output
    assert "down since" in done.output


async def test_verify_and_rebuild(told):
    done = await command("verify", "--json")
    report = json.loads(done.output)
    assert (done.exit_code, report["ok"], report["missing"]) == (0, True, 0)
    assert "equal a fresh fold" in report["read_models"]

    done = await command("rebuild", "costs")
    assert done.exit_code == 0, done.output
    assert f"up to sequence {told.last_seq}" in done.output
    assert (await command("verify")).exit_code == 0


@pytest.mark.parametrize("role", ["watcher", "submitter"])
async def test_only_operators_may_ask_for_a_rebuild(told, broker, role):
    key = str(broker.credentials(role).seed_path)
    done = await command("--nats", broker.url, "--creds", key, "rebuild")

    assert done.exit_code == 1
    assert "may not use" in done.output


async def test_rebuilding_where_nothing_runs(broker, monkeypatch):
    monkeypatch.setenv("AGENTCOM_DATA", str(broker.instance.data))
    store = broker.instance.data / "projections.db"
    history = History()
    fleet(history)
    async with writing(broker) as write:
        seq = await write.tell(history.recorded)
    nothing = await command("rebuild")
    assert nothing.exit_code == 8
    async with read_models(broker, store) as (runner, _):
        await runner.until(seq)

    done = await command("rebuild", "--json")

    assert json.loads(done.output)["seq"] == seq


async def test_an_exported_task_is_looked_at_without_a_broker(told, tmp_path, broker):
    file = tmp_path / "task.json"
    done = await command("export", told.first, "--to", str(file))
    assert done.exit_code == 0, done.output
    broker.stop()

    done = await command("export", "--view", str(file))

    assert done.exit_code == 0, done.output
    assert "look at the logs" in done.output
    assert "task.completed" in done.output
    assert json.loads(file.read_text())["format"] == "agentcom-task.v1"
    file.write_text("{}")
    assert (await command("export", "--view", str(file))).exit_code == 1
