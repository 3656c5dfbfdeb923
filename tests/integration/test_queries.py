"""Questions over the bus, answered from a followed log: both twins in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events import catalogue as c
from events import subjects
from events.codec import encode, instant
from events.commands import refuse
from projections.main import encode_answer, projecting
from projections.queries import Queries, Refusal
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import History, plausible, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOT_EVEN = "nothing could run it even with all slots free"
"""What the scheduler says of a tier that is down, whatever the cause."""


class Asking:
    """A log that is projected, and somebody who asks."""

    def __init__(self, log: MemoryLog, bus: MemoryBus, runner: Any) -> None:
        self.log = log
        self.bus = bus
        self.runner = runner
        self.told = 0

    async def tell(self, history: History) -> int:
        """Append what the history has gained, and wait until it is folded."""
        seq = await tell(self.log, history.recorded[self.told :])
        self.told = len(history.recorded)
        assert await self.runner.wait_for(seq, 60)
        return seq

    async def ask(self, query: str, /, **question: Any) -> Any:
        raw = encode(question) if question else b""
        answer = await self.bus.request(subjects.query(query), raw, timeout=60)
        return msgspec.json.decode(answer)


class Outputs:
    """An output stream with three chunks of every task."""

    async def placed(
        self, task_id: str, *, start: int = 1
    ) -> AsyncIterator[tuple[int, c.Chunk]]:
        for n in range(start - 1, 3):
            yield (
                n + 1,
                c.Chunk(
                    task_id=task_id,
                    event_type="stdout",
                    text=f"line {n}",
                    timestamp="2026-01-01T00:00:00.000000Z",
                    route="r",
                    generation=1,
                    attempt=1,
                    segment=0,
                    n=n,
                ),
            )


@asynccontextmanager
async def _asking(path, **more):
    log, broker = MemoryLog(), MemoryBroker()
    async with projecting(log, MemoryBus(broker), path, **more) as (runner, _):
        yield Asking(log, MemoryBus(broker), runner)


@pytest.fixture(params=["file", "memory"])
async def asking(request, tmp_path):
    path = tmp_path / "read.db" if request.param == "file" else None
    async with _asking(path, output=Outputs()) as it:
        yield it


def ran(history: History, description: str = "say hi", **spec: Any) -> str:
    task = history.submit(description, **spec)
    route = history.route(task)
    history.start(route)
    history.complete(route, output="hi", usd=0.5)
    return task


async def test_a_task_is_shown_with_its_trace_attempts_result_and_events(asking):
    history = History()
    task = ran(history, "say hi", file_hints=[c.FileHint("a.py", "look")])
    seq = await asking.tell(history)

    answer = await asking.ask("task", task_id=task, events=True)

    assert answer["seq"] == seq
    shown = answer["task"]
    assert (shown["state"], shown["description"]) == ("completed", "say hi")
    assert shown["result"]["output"] == "hi"
    assert shown["spec"]["file_hints"] == [{"path": "a.py", "reason": "look"}]
    assert (shown["cost_usd"], shown["attempts"]) == (0.5, 1)
    assert answer["route"]["candidates"][0]["host"] == "h1"
    assert [a["outcome"] for a in answer["attempts"]] == ["completed"]
    assert [e["event"]["type"] for e in answer["events"]] == [
        "task.submitted.v1",
        "task.routed.v1",
        "task.started.v1",
        "task.completed.v1",
    ]
    assert [e["seq"] for e in answer["events"]] == [1, 2, 3, 4]


async def test_the_beginning_of_an_id_finds_the_task_if_it_is_the_only_one(asking):
    history = History()
    history.submit(task_id="ABCD1")
    history.submit(task_id="ABCE2")
    await asking.tell(history)

    assert (await asking.ask("task", task_id="ABCD"))["task"]["task_id"] == "ABCD1"
    assert (await asking.ask("task", task_id="abce"))["task"]["task_id"] == "ABCE2"
    assert (await asking.ask("task", task_id="ABC"))["code"] == "not_found"
    history.submit(task_id="ABCD9")
    await asking.tell(history)
    assert (await asking.ask("task", task_id="ABCD"))["code"] == "ambiguous"


async def test_a_task_nobody_submitted_is_not_found(asking):
    answer = await asking.ask("task", task_id="nothing")

    assert (answer["code"], answer["status"]) == ("not_found", 404)


async def test_tasks_are_filtered_sorted_and_paged(asking):
    history = History()
    for i in range(5):
        ran(history, f"job {i}")
    history.submit("100% odd_job", tier="complex")
    await asking.tell(history)

    every = await asking.ask("tasks", limit=2)
    assert (every["total"], len(every["tasks"])) == (6, 2)
    assert every["tasks"][0]["description"] == "100% odd_job"
    assert every["states"] == {"completed": 5, "waiting": 1}
    done = await asking.ask("tasks", state=["completed"], sort="submitted", offset=3)
    assert [t["description"] for t in done["tasks"]] == ["job 3", "job 4"]
    assert (await asking.ask("tasks", text="0% ODD_"))["total"] == 1
    assert (await asking.ask("tasks", text="0_"))["total"] == 0
    assert (await asking.ask("tasks", tier="complex"))["total"] == 1
    assert (await asking.ask("tasks", host="h1"))["total"] == 5


async def test_a_question_waits_for_what_the_asker_has_written(asking):
    history = History()
    task = history.submit()
    route = history.route(task)
    waiting = asking.bus.request(
        subjects.query("task"), encode({"task_id": task, "wait_seq": 2}), timeout=60
    )
    await tell(asking.log, history.recorded)

    answer = msgspec.json.decode(await waiting)

    assert answer["task"]["state"] == "routed"
    assert answer["route"]["id"] == route.id


async def test_a_question_that_is_ahead_of_the_log_is_refused_as_behind(tmp_path):
    async with _asking(None) as asking:
        queries = Queries(
            asking.runner,
            asking.log,
            clock=lambda: 0.0,
            now=lambda: 0.0,
            wait_limit_s=0,
        )
        answer = await queries.answer("queue", b'{"wait_seq": 7}')

    assert isinstance(answer, Refusal)
    assert answer.code == "behind"


@pytest.mark.parametrize(
    ("query", "raw", "code", "path"),
    [
        ("tasks", b'{"limit": "many"}', "malformed", "limit"),
        ("tasks", b'{"state": ["dying"]}', "malformed", "state[0]"),
        ("tasks", b'{"sort": "luck"}', "malformed", "sort"),
        ("task", b'{"colour": 1}', "malformed", "colour"),
        ("task", b"\xff\x00", "malformed", ""),
        ("costs", b'{"by": "whim"}', "malformed", "by"),
        ("weather", b"", "unknown_query", ""),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_the_place(
    asking, query, raw, code, path
):
    answer = msgspec.json.decode(
        await asking.bus.request(subjects.query(query), raw, timeout=60)
    )

    assert (answer["code"], answer.get("path", "")) == (code, path)


async def test_the_queue_shows_lanes_the_longest_wait_and_what_runs(asking):
    history = History()
    first = history.submit("a", priority="high")
    history.submit("b", priority="high")
    history.submit("c", tier="complex")
    running = history.submit("d")
    history.start(history.route(running))
    await asking.tell(history)

    answer = await asking.ask("queue")

    assert answer["waiting"] == 3
    lanes = {(lane["tier"], lane["priority"]): lane for lane in answer["lanes"]}
    assert lanes["standard", "high"]["waiting"] == 2
    assert lanes["standard", "high"]["oldest"]["task_id"] == first
    assert answer["under_way"] == {"running": 1}
    assert [t["task_id"] for t in answer["running"]] == [running]


async def test_hosts_show_what_they_hold_and_their_last_beat(asking):
    history = History()
    history.join("h1")
    history.start(history.route(history.submit()))
    await asking.tell(history)
    beat = c.Beat(
        host="h1",
        incarnation=history.incarnations["h1"],
        n=1,
        at="2026-01-01T00:00:00.000000Z",
        resources=c.Resources(cpu=0.5),
    )
    asking.bus.publish(subjects.beat("h1"), encode(beat))
    asking.bus.publish(subjects.beat("h2"), encode(beat))

    answer = await asking.ask("hosts")

    (host,) = answer["hosts"]
    assert (host["in_flight"], host["resources"]) == (1, {"cpu": 0.5})
    assert answer["models"] == [{"model": "llama3.2", "loaded": ["h1"], "on_disk": []}]
    assert answer["tiers"][0]["state"] == "unknown"


async def test_unknown_tokens_are_null_and_a_guessed_price_says_so(asking):
    history = History()
    history.join("h1")

    def ran(**fields: Any) -> str:
        task = history.submit(repo=fields.pop("repo"))
        route = history.route(task, target="claude", endpoint="h1-claude")
        history.start(route)
        history.complete(route, **fields)
        return task

    unknown = ran(repo="a", tokens=(None, None), usd=None, cost_basis="unknown")
    guessed = ran(repo="b", usd=0.25, cost_basis="estimated", cache_read_tokens=7)
    sure = ran(repo="c", usd=0.5, cost_basis="reported")
    await asking.tell(history)

    async def row(task: str) -> tuple[Any, ...]:
        found = (await asking.ask("task", task_id=task))["task"]
        [attempt] = (await asking.ask("task", task_id=task))["attempts"]
        names = ("tokens_in", "tokens_out", "cost_basis", "cache_read_tokens")
        assert [attempt[name] for name in names] == [found[name] for name in names]
        return tuple(found[name] for name in names)

    assert await row(unknown) == (None, None, "unknown", 0)
    assert await row(guessed) == (100, 20, "estimated", 7)
    assert await row(sure) == (100, 20, "reported", 0)
    costs = await asking.ask("costs", by="repo")
    lines = {line["key"]: line for line in [*costs["lines"], costs["total"]]}
    counted = {
        key: (line["tokens_in"], line["unknown_tokens"], line["guessed"])
        for key, line in lines.items()
    }
    assert counted == {
        "a": (None, 1, 0),
        "b": (100, 0, 1),
        "c": (100, 0, 0),
        "total": (200, 1, 1),
    }


async def test_costs_are_summed_by_what_is_asked(asking):
    history = History()
    ran(history, repo="shop")
    ran(history, repo="shop")
    ran(history, repo="blog")
    await asking.tell(history)

    answer = await asking.ask("costs", by="repo")

    assert [(line["key"], line["cost_usd"]) for line in answer["lines"]] == [
        ("shop", 1.0),
        ("blog", 0.5),
    ]
    assert answer["total"]["cost_usd"] == 1.5
    by_day = await asking.ask("costs", by="day", since="2026-01-02")
    assert by_day["lines"] == []
    assert (await asking.ask("costs", by="day"))["lines"][0]["key"] == "2026-01-01"


async def test_the_cost_of_fallbacks_stands_by_itself(asking):
    history = History()
    ran(history)
    hopped = history.route(
        history.submit(),
        tier="complex",
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_reason="standard was down for 5.0 s",
        wait=c.Wait("standard", "2026-01-01T00:00:01.250000Z", 5.0, "taken"),
    )
    history.complete(hopped, usd=2.0)
    await asking.tell(history)

    hops = await asking.ask("costs", by="fallback", fallback=True)
    others = await asking.ask("costs", by="day", fallback=False)

    assert [(line["key"], line["cost_usd"]) for line in hops["lines"]] == [
        ("standard to complex: down since 2026-01-01T00:00:01Z", 2.0)
    ]
    assert others["total"]["cost_usd"] == 0.5


async def test_the_past_is_shown_as_it_was(asking):
    history = History()
    history.join("h1")
    task = history.submit()
    route = history.route(task)
    moment = history.last.event.at
    history.complete(route)
    history.lose("h1")
    await asking.tell(history)

    for at in (3, moment):
        assert (await asking.ask("queue", at=at))["under_way"] == {"routed": 1}
        hosts = await asking.ask("hosts", at=at)
        assert (hosts["seq"], hosts["hosts"][0]["state"]) == (3, "up")
    assert (await asking.ask("queue", at=2))["waiting"] == 1
    assert (await asking.ask("queue", at=0))["waiting"] == 0
    last = len(history.recorded)
    assert (await asking.ask("hosts", at=last))["hosts"][0]["state"] == "lost"
    for query in ("hosts", "queue", "stats", "alerts"):
        beyond = await asking.ask(query, at=99_999)
        assert (beyond["code"], beyond["path"]) == ("malformed", "at")
        assert f"at most {last}, where the log ends" in beyond["error"]
    assert (await asking.ask("stats", at=2))["states"] == {"waiting": 1}
    assert (await asking.ask("queue", at="noon"))["code"] == "malformed"
    was = await asking.ask("task", task_id=task, at=3, events=True)
    assert (was["seq"], was["task"]["state"]) == (3, "routed")
    assert [event["seq"] for event in was["events"]] == [2, 3]
    assert was["task"]["result"] is None
    assert (await asking.ask("task", task_id=task, at=1))["code"] == "not_found"


async def test_alerts_of_the_past_are_shown_the_newest_first(asking):
    history = History()
    for tier in ("standard", "complex"):
        history.tier(c.AlertRaised, tier, down_s=60.0)
    history.tier(c.AlertCleared, "standard", down_s=90.0)
    await asking.tell(history)

    answer = await asking.ask("alerts")

    assert answer["active"] == 1
    assert [alert["tier"] for alert in answer["alerts"]] == ["complex", "standard"]


async def test_why_a_task_waits_is_said_in_sentences(asking):
    history = History()
    history.join("h1")
    history.submit(priority="urgent")
    running = history.submit()
    history.route(running)
    history.submit()
    task = history.submit(assign_to="h1")
    history.tier(c.TierDown, "standard", reason="no endpoint is up")
    down = history.last.event.at
    await asking.tell(history)

    answer = await asking.ask("why", task_id=task)

    assert (answer["ahead"], answer["tier_state"]) == (2, "down")
    assert answer["because"] == [
        f"The standard tier is down since {down}: no endpoint is up.",
        "It may run on h1 only.",
        "2 others wait in the standard tier before it.",
        "1 task of the standard tier is under way.",
        f"Unless something takes it before, it expires at {answer['expires_at']}.",
    ]
    other = await asking.ask("why", task_id=running)
    assert other["because"] == ["It does not wait: it is routed on h1."]


async def test_a_tier_that_nobody_set_up_is_what_a_task_waits_for(asking):
    history = History()
    history.join("h1", models=())
    gone = history.incarnations["h1"]
    history.host_says(c.HostLeft, "h1", reason="r")
    bare = c.HostJoined(
        **history.head("host:h2"),
        host="h2",
        incarnation=gone,
        version="0.1.0",
        platform="linux",
        slots={"shell": 2},
        endpoints=[],
    )
    history.say(subjects.host("h2"), bare)
    standard = history.submit()
    complex_ = history.submit(tier="complex", ttl_s=60.0)
    nobody = history.submit(tier="trivial", assign_to="nobody")
    history.decide(c.TaskDeferred, nobody, reason="no host offers sidecar")
    left = history.submit(tier="trivial", assign_to="h1")
    only = history.submit(assign_to="h2")
    soon = history.submit(tier="trivial", deadline="2999-01-01T00:00:00.000000Z")
    await asking.tell(history)

    async def why(task: str) -> list[str]:
        return (await asking.ask("why", task_id=task))["because"]

    said = await why(standard)
    assert said[:2] == [
        "No host offers a local model (standard): set up Ollama or an OpenAI-compatible "
        "server on a host, or name one with `agentcom endpoints add`.",
        "No host offers Claude Code (complex) either, which could take it instead.",
    ]
    answer = await asking.ask("why", task_id=standard)
    began = instant(answer["waiting_since"])
    assert instant(answer["expires_at"]) == pytest.approx(began + 600)
    assert answer["expires_at"] in said[2]
    answer = await asking.ask("why", task_id=complex_)
    assert answer["because"][0].startswith("No host offers Claude Code (complex):")
    began = instant(answer["waiting_since"])
    assert instant(answer["expires_at"]) == pytest.approx(began + 60)
    said = await why(nobody)
    assert said[0] == (
        "It waits for host nobody, which is not known: none of that name joined."
    )
    assert "it expires at" in said[-1]
    assert not any("sidecar" in sentence for sentence in said)
    assert (await why(left))[0].startswith("It waits for host h1, which is away since")
    only_h2 = "It may run on h2 only, which does not offer a local model (standard)."
    assert only_h2 in await why(only)
    assert (await why(soon))[-1].endswith("expires at 2999-01-01T00:00:00.000000Z.")


async def test_a_tier_that_was_never_up_is_down(asking):
    history = History()
    history.join("h1")
    name = "h1-ollama"
    history.host_says(
        c.EndpointDown, "h1", endpoint=name, kind="ollama", reason="refused"
    )
    since = history.last.event.at
    task = history.submit()
    await asking.tell(history)

    answer = await asking.ask("why", task_id=task)

    assert answer["because"][0] == (
        f"The standard tier is down: nothing answers at h1-ollama on h1 since {since} "
        "(refused)."
    )


async def test_a_drained_host_is_named_with_the_reason_and_the_way_back(asking):
    history = History()
    history.join("h1")
    drained = history.host_says(c.HostDraining, "h1", reason="new disk").event.at
    history.tier(c.TierDown, "standard", reason=NOT_EVEN)
    plain = history.submit()
    only = history.submit(assign_to="h1")
    command = history.submit(tier="trivial")
    history.decide(c.TaskDeferred, only, reason="1 × draining")
    await asking.tell(history)

    for task in (plain, command):
        because = (await asking.ask("why", task_id=task))["because"]
        assert because[0] == (
            f"Host h1 is drained since {drained} (new disk); "
            "`agentcom resume h1` has it take work again."
        )
        assert not any(NOT_EVEN in sentence for sentence in because)
    because = (await asking.ask("why", task_id=only))["because"]
    assert because[0] == (
        f"It waits for host h1, which is drained since {drained} (new disk); "
        "`agentcom resume h1` has it take work again."
    )
    assert not any("Last said" in sentence for sentence in because)
    history.join("h2")
    await asking.tell(history)
    because = (await asking.ask("why", task_id=plain))["because"]
    assert not any("drained" in sentence for sentence in because)


async def test_an_unusable_claude_says_why_since_when_and_when_it_is_looked_at(asking):
    history = History()
    history.join("h1")
    claude = c.EndpointState(endpoint="h1-claude", kind="claude", up=True)
    history.host_says(c.EndpointUp, "h1", state=claude)
    history.host_says(
        c.EndpointDown,
        "h1",
        endpoint="h1-claude",
        kind="claude",
        reason="not logged in",
        again_at="2026-01-01T00:05:00.000000Z",
    )
    gone = history.last.event.at
    down = history.tier(c.TierDown, "complex", reason=NOT_EVEN).event.at
    task = history.submit(tier="complex")
    await asking.tell(history)

    because = (await asking.ask("why", task_id=task))["because"]

    assert because[0] == (
        f"The complex tier is down since {down}: h1-claude on h1 cannot be used since "
        f"{gone} (not logged in), and is looked at again at 2026-01-01T00:05:00.000000Z."
    )


async def test_a_model_that_nobody_has_is_said_once_with_those_there_are(asking):
    history = History()
    history.join("h1", models=("llama3.2:latest", "qwen3:8b"))
    nobody = history.submit(model="nosuch")
    somebody = history.submit(model="llama3.2")
    for task in (nobody, somebody):
        history.decide(c.TaskDeferred, task, reason="1 × does not have nosuch")
    await asking.tell(history)

    because = (await asking.ask("why", task_id=nobody))["because"]
    assert because[0] == (
        "Nobody has the model nosuch; there are: llama3.2:latest, qwen3:8b."
    )
    assert sum("nosuch" in sentence for sentence in because) == 1
    because = (await asking.ask("why", task_id=somebody))["because"]
    assert not any("Nobody has" in sentence for sentence in because)


async def test_status_counts_what_did_not_count(asking):
    history = History()
    history.complete(history.route(history.submit()))
    history.again(history.recorded[0])
    await asking.tell(history)
    asking.log.store_raw("agentcom.evt.policy", b"not an event")
    history.submit()
    await asking.tell(history)

    answer = await asking.ask("status")

    assert (answer["seq"], answer["lag"], answer["undecodable"]) == (6, 0, 1)
    assert answer["standings"] == {"taken": 4, "void": 1}


async def test_output_is_read_from_the_output_stream(asking):
    history = History()
    task = history.submit()
    await asking.tell(history)

    every = await asking.ask("output", task_id=task)
    later = await asking.ask("output", task_id=task, route="r", after_n=1)

    assert [chunk["text"] for chunk in every["chunks"]] == [
        "line 0",
        "line 1",
        "line 2",
    ]
    assert [chunk["n"] for chunk in later["chunks"]] == [2]


async def test_events_that_do_not_fit_are_left_out_and_counted(asking):
    history = History()
    task = history.submit("x" * 10_000)
    route = history.route(task)
    for n in range(3):
        history.report(c.TaskErrorLine, route, text="y" * 400_000, n=n)
    await asking.tell(history)

    answer = await asking.ask("task", task_id=task, events=True)

    assert (len(answer["events"]), answer["events_left_out"]) == (4, 1)
    rest = await asking.ask("task", task_id=task, events=True, events_from=5)
    assert [e["seq"] for e in rest["events"]] == [5]


async def test_every_query_answers_after_any_history(asking):
    history = History()
    history.recorded = plausible(7)
    await asking.tell(history)

    for query in ("tasks", "queue", "hosts", "costs", "stats", "status"):
        answer = await asking.ask(query)
        assert answer["seq"] == len(history.recorded), query


def test_a_refusal_stands_in_the_headers_too():
    data, headers = encode_answer(refuse("not_found", "no täsk\n"))

    assert msgspec.json.decode(data)["code"] == "not_found"
    assert headers == {
        "Nats-Service-Error-Code": "404",
        "Nats-Service-Error": "no t?sk ",
    }
