"""Commands over a real broker: what is asked, what is answered, what is stored."""

from __future__ import annotations

import asyncio
import json

import pytest

from actors.rules.policy import Policy
from events import catalogue as c
from events import subjects
from events.codec import encode
from events.errors import Denied
from events.mail import Reply
from events.nats.log import JetStreamLog
from tests.support.links import linked
from tests.support.scheduling import scheduling

PAST = "2020-01-01T00:00:00Z"
COMING = "2999-01-01T00:00:00Z"


class Client:
    """Asks as an operator, looks into the log as a watcher would."""

    def __init__(self, link, log, broker, role=None) -> None:
        self.link = link
        self.log = log
        self.broker = broker
        self.role = role

    async def folded(self, seq: int) -> None:
        """Return once the gateway has seen what stands there."""
        async with asyncio.timeout(60):
            while self.role.scheduler.state.position < seq:
                await asyncio.sleep(0.01)

    async def call(self, command: str, body: object = None):
        """The answer's body and its headers."""
        raw = body if isinstance(body, bytes) else encode(body or {})
        message = await self.link.call(subjects.command(command), raw, timeout=60)
        return json.loads(message.data), message.headers

    async def ask(self, command: str, **body):
        """The answer's body; its headers must say the same."""
        answer, headers = await self.call(command, body)
        if answer["ok"]:
            assert "Nats-Service-Error" not in headers
        else:
            assert headers["Nats-Service-Error-Code"] == str(answer["status"])
            assert headers["Nats-Service-Error"]
        return answer

    async def events(self, kind: type[c.Event] = c.Event) -> list:
        stored = await self.log.read(subjects.ALL_EVENTS)
        return [
            r.event
            for r in stored
            if isinstance(r.event, kind) and not isinstance(r.event, c.SchedulerElected)
        ]


async def joined(client: Client, host: str, **more) -> None:
    """Let a host join, and every gateway know it."""
    async with linked(client.broker, f"host-{host}") as link:
        log = JetStreamLog(link)
        event = c.HostJoined(
            id=f"joined-{host}",
            at="2026-01-01T00:00:00.000000Z",
            by=f"host:{host}",
            host=host,
            incarnation="life-1",
            version="1",
            platform="linux",
            slots={"shell": 1},
            endpoints=[],
            **more,
        )
        await client.folded(await log.append(subjects.host(host), event))
        await log.close()


@pytest.fixture
async def client(broker):
    async with (
        scheduling(broker) as role,
        linked(broker, "operator") as link,
        linked(broker, "projections") as reading,
    ):
        log = JetStreamLog(reading)
        yield Client(link, log, broker, role)
        await log.close()


# -- submitting ------------------------------------------------------------------------


async def test_a_submission_is_stored_with_who_asked_and_what_it_is(client):
    answer = await client.ask("task.submit", description="ls", shell={"command": "ls"})
    assert (answer["ok"], answer["existing"], answer["warnings"]) == (True, False, [])
    assert answer["effective_tier"] == "trivial"
    recorded = await client.log.get(answer["seq"])
    event = recorded.event
    assert recorded.subject == subjects.task(answer["task_id"])
    assert isinstance(event, c.TaskSubmitted)
    assert event.spec.shell == c.Shell("ls")
    assert event.submitter.startswith("U")
    assert len(event.submitter) == 56
    assert event.by == "s1"


async def test_many_steps_are_accepted_with_a_warning(client):
    steps = [f"s{n}" for n in range(11)]
    answer = await client.ask("task.submit", description="x", verification_steps=steps)
    assert answer["ok"]
    assert "11 are many" in answer["warnings"][0]


async def test_the_same_key_and_body_find_the_same_task(client):
    body = {"description": "once", "idempotency_key": "k 1"}
    first = await client.ask("task.submit", **body)
    again = await client.ask("task.submit", **body)
    assert again == {**first, "existing": True}
    assert len(await client.events(c.TaskSubmitted)) == 1


async def test_a_key_used_for_another_body_is_refused(client):
    await client.ask("task.submit", description="one", idempotency_key="k")
    answer = await client.ask("task.submit", description="two", idempotency_key="k")
    assert (answer["code"], answer["status"], answer["path"]) == (
        "conflict",
        409,
        "idempotency_key",
    )
    assert len(await client.events(c.TaskSubmitted)) == 1


async def test_the_same_command_sent_again_finds_the_same_task(client):
    first = await client.ask("task.submit", description="one", id="c1")
    again = await client.ask("task.submit", description="one", id="c1")
    assert again == {**first, "existing": True}
    other = await client.ask("task.submit", description="two", id="c1")
    assert (other["code"], other["path"]) == ("conflict", "id")
    keyed = await client.ask("task.submit", description="x", idempotency_key="id:c1")
    assert keyed["task_id"] != first["task_id"]


async def test_one_key_sent_many_times_at_once_is_one_task(client):
    body = {"description": "once", "idempotency_key": "k"}
    answers = await asyncio.gather(
        *(client.ask("task.submit", **body) for _ in range(20))
    )
    assert len({a["task_id"] for a in answers}) == 1
    assert [a["existing"] for a in answers].count(False) == 1
    assert len(await client.events(c.TaskSubmitted)) == 1


async def test_two_submitters_keys_are_apart(client):
    body = {"description": "mine", "idempotency_key": "k"}
    mine = await client.ask("task.submit", **body)
    async with linked(client.broker, "submitter") as link:
        theirs = await Client(link, client.log, client.broker).ask(
            "task.submit", **body
        )
    assert theirs["task_id"] != mine["task_id"]


async def test_without_a_key_each_submission_is_a_task_of_its_own(client):
    one = await client.ask("task.submit", description="x")
    other = await client.ask("task.submit", description="x")
    assert one["task_id"] != other["task_id"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "description: expected a value, got none"),
        (
            {"description": "x", "file_hints": [{"path": 1}]},
            "file_hints[0].path: expected text, got 1",
        ),
        ({"description": "x", "nope": 1}, "nope: unknown field"),
        (
            {"description": "  "},
            "description: expected some text, got white space alone",
        ),
        (
            {"description": "x", "tier": "trivial"},
            "shell: expected a command, because tier is trivial, got none",
        ),
        (
            {"description": "x", "deadline": PAST},
            f"deadline: expected a time to come, got {PAST}",
        ),
        (
            {"description": "x", "deadline": "soon"},
            "deadline: expected an RFC 3339 time such as '2026-01-31T18:00:00Z', got 'soon'",
        ),
        (
            {"description": "x", "shell": {"command": "x", "env": {"A=B": ""}}},
            "shell.env.A=B: expected an environment variable, got 'A=B'",
        ),
        (
            {"description": "x", "metadata": {"a": "x" * 65_536}},
            "metadata: expected at most 65536 bytes, got 65544",
        ),
        (
            {"description": "x", "branch": "--upload-pack=x"},
            "branch: expected a name that git takes, got '--upload-pack=x'",
        ),
    ],
)
async def test_a_submission_that_is_wrong_is_refused_by_its_place(client, body, error):
    answer = await client.ask("task.submit", **body)
    assert answer["error"] == error
    assert answer["path"] == error.partition(":")[0]
    assert (answer["code"], answer["status"]) == ("malformed", 400)
    assert await client.events() == []


async def test_a_submission_too_large_for_the_log_is_refused(client):
    criteria = ["x" * 10_000] * 60
    answer = await client.ask("task.submit", description="x", success_criteria=criteria)
    assert (answer["code"], answer["status"]) == ("too_large", 413)
    assert await client.events() == []


async def test_a_description_is_a_prompt_and_may_be_long(client):
    answer = await client.ask("task.submit", description="x" * 200_000)
    assert (answer["ok"], answer["mode"]) == (True, "answer")
    [event] = await client.events(c.TaskSubmitted)
    assert len(event.spec.description) == 200_000
    assert event.prompt_tokens_estimate == 50_000
    longer = await client.ask("task.submit", description="x" * 200_001)
    assert (longer["code"], longer["path"]) == ("malformed", "description")


async def test_a_mode_is_recorded_with_its_reason(client):
    await client.ask("task.submit", description="fix it", repo="shop")
    [event] = await client.events(c.TaskSubmitted)
    assert (event.mode, event.mode_reason) == ("work", "names repo")


# -- batches ---------------------------------------------------------------------------


async def test_a_batch_is_stored_in_its_order(client):
    tasks = [{"description": f"t{n}"} for n in range(200)]
    answer = await client.ask("task.batch", tasks=tasks)
    stored = await client.events(c.TaskSubmitted)
    assert [e.task_id for e in stored] == answer["task_ids"]
    assert [e.spec.description for e in stored] == [f"t{n}" for n in range(200)]


async def test_one_wrong_task_refuses_the_whole_batch(client):
    answer = await client.ask(
        "task.batch",
        tasks=[{"description": "good"}, {"description": "bad", "tier": "trivial"}],
    )
    assert answer["error"] == (
        "tasks[1].shell: expected a command, because tier is trivial, got none"
    )
    assert answer["path"] == "tasks[1].shell"
    assert await client.events() == []


async def test_the_same_batch_again_finds_the_same_tasks(client):
    tasks = [{"description": "a", "idempotency_key": "a"}, {"description": "b"}]
    first = await client.ask("task.batch", tasks=tasks, id="b1")
    again = await client.ask("task.batch", tasks=tasks, id="b1")
    assert again == {**first, "existing": True}
    assert len(await client.events(c.TaskSubmitted)) == 2


async def test_a_batch_that_is_only_partly_new_is_refused_whole(client):
    await client.ask("task.submit", description="a", idempotency_key="a")
    answer = await client.ask(
        "task.batch",
        tasks=[
            {"description": "a", "idempotency_key": "a"},
            {"description": "b", "idempotency_key": "b"},
        ],
    )
    assert (answer["code"], answer["path"]) == ("conflict", "tasks[1]")
    assert answer["error"].startswith("tasks[1]: is new, but others of this batch")
    assert len(await client.events(c.TaskSubmitted)) == 1


async def test_one_key_twice_in_a_batch_is_refused(client):
    tasks = [{"description": d, "idempotency_key": "k"} for d in "ab"]
    answer = await client.ask("task.batch", tasks=tasks)
    assert (answer["code"], answer["path"]) == ("malformed", "tasks")
    assert await client.events() == []


# -- what happens to a task ------------------------------------------------------------


async def test_a_waiting_task_is_cancelled_and_tried_again(client):
    task = (await client.ask("task.submit", description="x"))["task_id"]
    cancelled = await client.ask("task.cancel", task_id=task, reason="no more")
    assert (cancelled["event"], cancelled["task_id"]) == ("task.cancelled", task)
    again = await client.ask("task.cancel", task_id=task)
    assert (again["seq"], again["state"]) == (0, "cancelled")
    assert (await client.ask("task.retry", task_id=task))["event"] == "task.retried"
    waiting = await client.ask("task.retry", task_id=task)
    assert (waiting["seq"], waiting["state"]) == (0, "waiting")
    stored = [c.name(e) for e in await client.events(c.TaskEvent)]
    assert [n for n in stored if n != "task.deferred"] == [
        "task.submitted",
        "task.cancelled",
        "task.retried",
    ]
    [event] = await client.events(c.TaskCancelled)
    assert (event.reason, event.requested_by[0]) == ("no more", "U")


@pytest.mark.parametrize("command", ["task.cancel", "task.retry"])
async def test_a_task_that_is_not_there_cannot_be_steered(client, command):
    answer = await client.ask(command, task_id="T404")
    assert (answer["code"], answer["status"]) == ("not_found", 404)
    assert answer["error"].startswith("there is no task T404; ")
    assert "whole id (26 characters)" in answer["error"]
    assert answer["path"] == "task_id"


async def test_a_task_is_given_to_another_host(client):
    await joined(client, "h2")
    task = (await client.ask("task.submit", description="x"))["task_id"]
    answer = await client.ask("task.reassign", task_id=task, host="h2")
    assert answer["event"] == "task.reassigned"
    missing = await client.ask("task.reassign", task_id="T404", host="h2")
    assert missing["code"] == "not_found"


async def test_a_task_is_not_given_to_a_host_that_never_was(client):
    task = (await client.ask("task.submit", description="x"))["task_id"]
    answer = await client.ask("task.reassign", task_id=task, host="nope")
    assert (answer["code"], answer["path"], answer["status"]) == (
        "not_found",
        "host",
        404,
    )
    assert answer["error"].startswith("host: there is no host nope;")
    assert await client.events(c.TaskReassigned) == []


async def test_a_task_for_a_host_that_never_was_is_taken_with_a_warning(client):
    await joined(client, "h2")
    body = {"description": "x", "idempotency_key": "k"}
    answer = await client.ask("task.submit", **body, assign_to="nope")
    [warning] = answer["warnings"]
    assert warning.startswith("assign_to: no host nope has ever joined")
    again = await client.ask("task.submit", **body, assign_to="nope")
    assert again == {**answer, "existing": True}
    answer = await client.ask("task.submit", description="x", assign_to="h2")
    assert answer["warnings"] == []
    tasks = [{"description": "x"}, {"description": "y", "assign_to": "nope"}]
    batch = await client.ask("task.batch", tasks=tasks)
    assert batch["warnings"] == [f"tasks[1]: {warning}"]


# -- asking without doing --------------------------------------------------------------


async def test_classify_and_route_answer_and_store_nothing(client):
    words = " ".join(["word"] * 25)
    body = {"description": words, "file_hints": [{"path": "a"}, {"path": "b"}]}
    classified = await client.ask("task.classify", **body)
    assert classified["classification"]["reason"] == (
        "inferred:standard (confidence 0.67, words=25, files=2)"
    )
    routed = await client.ask("task.route", **body)
    assert routed["classification"] == classified["classification"]
    assert routed["decision"] is None
    assert routed["waiting_for"]
    wrong = await client.ask("task.classify", description=1)
    assert wrong["path"] == "description"
    assert await client.events() == []


# -- the policy ------------------------------------------------------------------------


async def test_a_policy_is_changed_by_version_and_its_changes_are_named(client):
    first = await client.ask("policy.set", policy={"fallback_wait_s": 7}, based_on=0)
    assert first["detail"] == "version 1: fallback_wait_s"
    stale = await client.ask("policy.set", policy={"task_ttl_s": 9}, based_on=0)
    assert (stale["code"], stale["path"], stale["status"]) == (
        "conflict",
        "based_on",
        409,
    )
    second = await client.ask("policy.set", policy={"scoring": {"warm": 2}}, based_on=1)
    assert second["detail"] == "version 2: scoring.warm"
    same = await client.ask("policy.set", policy={"fallback_wait_s": 7})
    assert same["seq"] == 0
    changes = await client.events(c.PolicyChanged)
    assert [e.version for e in changes] == [1, 2]
    assert changes[1].policy["fallback_wait_s"] == 7
    assert changes[1].policy["task_ttl_s"] == Policy().task_ttl_s


async def test_a_policy_is_validated_without_being_set(client):
    valid = await client.ask("policy.validate", policy={"allow_downgrade": True})
    assert valid["detail"] == "valid; differs from version 0 in: ['allow_downgrade']"
    wrong = await client.ask("policy.validate", policy={"scoring": {"cold": 1}})
    assert wrong["error"].startswith("scoring.cold: unknown field; there are ")
    refused = await client.ask("policy.set", policy={"limits": {"num_ctx": 0}})
    assert refused["path"] == "limits.num_ctx"
    assert await client.events() == []


async def test_changes_made_at_once_all_count(client):
    fields = ["fallback_wait_s", "task_ttl_s", "ageing_s", "accept_timeout_s"]
    answers = await asyncio.gather(
        *(client.ask("policy.set", policy={name: 11}) for name in fields)
    )
    assert all(answer["ok"] for answer in answers)
    last = (await client.events(c.PolicyChanged))[-1]
    assert [last.policy[name] for name in fields] == [11] * 4


# -- hosts, endpoints, alerts ----------------------------------------------------------


async def test_a_host_that_is_not_there_cannot_be_drained(client):
    answer = await client.ask("host.drain", host="h1")
    assert (answer["code"], answer["status"]) == ("not_found", 404)
    assert answer["error"] == "no host h1; hosts: none"
    await joined(client, "h1")
    answer = await client.ask("host.drain", host="nosuch")
    assert answer["error"] == "no host nosuch; hosts: h1"
    answer = await client.ask("host.drain", host="h1")
    assert answer["error"] == "host h1 does not answer; is its sidecar running?"
    assert (answer["code"], answer["status"]) == ("unreachable", 404)


async def test_only_a_host_that_is_gone_is_forgotten(client):
    unknown = await client.ask("host.forget", host="h1")
    assert (unknown["code"], unknown["error"]) == (
        "not_found",
        "no host h1; hosts: none",
    )
    await joined(client, "h1")
    living = await client.ask("host.forget", host="h1")
    assert (living["code"], living["path"]) == ("conflict", "host")
    async with linked(client.broker, "host-h1") as link:
        log = JetStreamLog(link)
        event = c.HostLeft(
            id="left-h1",
            at="2026-01-01T00:00:00.000000Z",
            by="host:h1",
            host="h1",
            incarnation="life-1",
        )
        await client.folded(await log.append(subjects.host("h1"), event))
        await log.close()
    done = await client.ask("host.forget", host="h1")
    assert done["ok"], done
    await client.folded(done["seq"])
    again = await client.ask("host.forget", host="h1")
    assert again["code"] == "not_found"


async def test_a_host_is_told_and_its_answer_is_passed_on(client):
    async with linked(client.broker, "host-h1") as host:
        heard = []
        answers = [
            encode(Reply(ok=True, detail="draining")),
            encode(Reply(ok=False, code="not_now", detail="busy")),
            b"what?",
            encode(Reply(ok=False, code="x" * 9_000, detail="y" * 900_000)),
        ]

        def on(message) -> None:
            mail = json.loads(message.data)
            if mail["type"] == "inspect":
                message.respond(encode(Reply(ok=True)))
                return
            heard.append(mail)
            message.respond(answers[len(heard) - 1])

        await host.listen(subjects.host_mailbox("h1"), on)
        drained = await client.ask("host.drain", host="h1", reason="r")
        assert (drained["ok"], drained["detail"]) == (True, "draining")
        refused = await client.ask("host.resume", host="h1")
        assert (refused["code"], refused["error"]) == ("not_now", "busy")
        nonsense = await client.ask("host.resume", host="h1")
        assert (nonsense["code"], nonsense["status"]) == ("bad_gateway", 502)
        endless = await client.ask("host.resume", host="h1")
        assert len(endless["error"]) <= 1_000
        assert [h["type"] for h in heard] == ["drain", "resume", "resume", "resume"]


@pytest.mark.parametrize("url", ["http://bob:geheim@x/", "http://x/v1?key=geheim"])
async def test_a_shared_endpoint_with_a_secret_in_its_address_is_refused(client, url):
    answer = await client.ask("endpoint.add", endpoint="big", kind="openai", url=url)
    assert (answer["code"], answer["path"]) == ("malformed", "url")
    assert "sidecar.toml" in answer["error"]
    assert await client.events(c.EndpointAdded) == []


async def test_a_shared_endpoint_is_added_once_and_removed_once(client):
    where = {"endpoint": "big", "kind": "ollama", "url": "http://big:11434/"}
    added = await client.ask("endpoint.add", **where)
    assert added["ok"]
    again = await client.ask("endpoint.add", **where)
    assert (again["seq"], again["detail"]) == (added["seq"], "was added before")
    other = await client.ask("endpoint.add", **{**where, "url": "http://small:1"})
    assert (other["code"], other["path"]) == ("conflict", "endpoint")
    assert (await client.ask("endpoint.remove", endpoint="big"))["ok"]
    gone = await client.ask("endpoint.remove", endpoint="big")
    assert (gone["code"], gone["status"]) == ("not_found", 404)
    assert (await client.ask("endpoint.add", **where))["ok"]
    [first, _] = await client.events(c.EndpointAdded)
    assert first.url == "http://big:11434"


async def test_an_alert_is_acknowledged_by_name(client):
    async with linked(client.broker, "scheduler") as link:
        log = JetStreamLog(link)
        async with asyncio.timeout(60):
            while not client.role.scheduler.leading:
                await asyncio.sleep(0.01)
        head = {
            "at": "2026-01-01T00:00:00.000000Z",
            "by": "s1",
            "tier": "standard",
            "epoch": client.role.scheduler.leadership.epoch,
            "reason": "standard is down",
        }
        subject = subjects.tier("standard")
        await log.append(subject, c.TierDown(id="a1", **head))
        raised = c.AlertRaised(id="a2", down_s=60.0, **head)
        await client.folded(await log.append(subject, raised))
        await log.close()
    assert (await client.ask("alert.acknowledge", tier="standard"))["ok"]
    wrong = await client.ask("alert.acknowledge", tier="huge")
    assert wrong["path"] == "tier"
    [event] = await client.events(c.AlertAcknowledged)
    assert event.requested_by.startswith("U")


async def test_where_there_is_no_alert_nothing_is_acknowledged(client):
    answer = await client.ask("alert.acknowledge", tier="standard")
    assert (answer["code"], answer["status"]) == ("not_found", 404)
    assert answer["error"] == "there is no alert about standard"
    assert await client.events(c.AlertAcknowledged) == []


# -- every command ---------------------------------------------------------------------


BODIES = {
    "host.fetch": {"task_id": "t1", "path": "a"},
    "task.attach": {"data": "eA=="},
    "task.submit": {"description": "x"},
    "task.batch": {"tasks": [{"description": "x"}]},
    "task.cancel": {"task_id": "t"},
    "task.retry": {"task_id": "t"},
    "task.reassign": {"task_id": "t", "host": "h1"},
    "task.bulk": {"action": "cancel", "ids": ["t"], "dry_run": True},
    "task.classify": {"description": "x"},
    "task.route": {"description": "x"},
    "host.drain": {"host": "h1"},
    "host.resume": {"host": "h1"},
    "host.forget": {"host": "h1"},
    "endpoint.add": {"endpoint": "e", "kind": "ollama", "url": "http://x"},
    "endpoint.remove": {"endpoint": "e"},
    "alert.acknowledge": {"tier": "standard"},
    "tier.clear_limit": {"tier": "complex"},
    "policy.set": {"policy": {}},
    "policy.validate": {"policy": {}},
    "schedule.add": {
        "schedule": "s",
        "cron": "0 3 * * *",
        "task": {"description": "x", "shell": {"command": "true"}},
    },
    "schedule.change": {"schedule": "s", "cron": "0 4 1 1 *"},
    "schedule.pause": {"schedule": "s"},
    "schedule.resume": {"schedule": "s"},
    "schedule.run": {"schedule": "s"},
    "schedule.remove": {"schedule": "s"},
}


@pytest.mark.parametrize("command", BODIES)
async def test_a_command_that_comes_too_late_is_not_carried_out(client, command):
    late = await client.ask(command, **BODIES[command], expires_at=PAST)
    assert (late["code"], late["status"]) == ("expired", 408)
    assert PAST in late["error"]
    unread = await client.ask(command, **BODIES[command], expires_at="tomorrow")
    assert (unread["code"], unread["path"]) == ("malformed", "expires_at")
    assert await client.events() == []
    in_time = await client.ask(command, **BODIES[command], expires_at=COMING)
    assert in_time.get("code") != "expired"


async def test_a_command_nobody_knows_is_refused_with_those_there_are(client):
    answer = await client.ask("task.juggle")
    assert (answer["code"], answer["status"]) == ("unknown_command", 404)
    assert all(name in answer["error"] for name in BODIES)


async def test_discovery_names_exactly_these_commands(client):
    message = await client.link.call("$SRV.INFO.agentcom", b"", timeout=60)
    info = json.loads(message.data)
    assert {e["subject"] for e in info["endpoints"]} == {
        subjects.command(name) for name in BODIES
    }
    ping = json.loads((await client.link.call("$SRV.PING", b"", timeout=60)).data)
    assert (ping["name"], ping["id"]) == ("agentcom", info["id"])


async def test_statistics_count_what_was_asked_and_refused(client):
    await client.ask("task.submit", description="x")
    await client.ask("task.submit", description=1)
    message = await client.link.call("$SRV.STATS.agentcom", b"", timeout=60)
    stats = json.loads(message.data)
    [submit] = [e for e in stats["endpoints"] if e["name"] == "task-submit"]
    assert (submit["num_requests"], submit["num_errors"]) == (2, 1)
    assert submit["last_error"] == "description: expected text, got 1"


async def test_commands_go_to_one_of_several_gateways_and_count_once(client):
    async with scheduling(client.broker, "s2"):
        answers = await asyncio.gather(
            *(client.ask("task.submit", description=f"t{n}") for n in range(40))
        )
        assert len({a["task_id"] for a in answers}) == 40
        by = {e.by for e in await client.events(c.TaskSubmitted)}
        assert by == {"s1", "s2"}


async def test_a_submitter_may_not_steer_the_fleet(client):
    async with linked(client.broker, "submitter") as link:
        for command in ("policy.set", "host.drain", "endpoint.add"):
            with pytest.raises(Denied):
                await link.call(subjects.command(command), b"{}", timeout=60)


async def test_a_repository_that_no_host_has_is_refused_with_the_known_ones(
    client: Client,
):
    early = await client.ask("task.submit", description="x", repo="shpo")
    (warning,) = early["warnings"]
    assert warning.startswith("repo: no host has ever joined")
    await joined(client, "h1", repos=["shop"])
    await joined(client, "h2", repos=["blog"], clones=["https://git.example.org/"])
    for command, body, path in (
        ("task.submit", {}, "repo"),
        ("task.route", {}, "repo"),
        ("task.classify", {}, "repo"),
    ):
        answer = await client.ask(command, description="x", repo="shpo", **body)
        assert (answer["code"], answer["path"]) == ("malformed", path)
        assert "(blog, shop)" in answer["error"]
        assert "did you mean 'shop'?" in answer["error"]
    both = [{"description": "x", "repo": name} for name in ("shop", "shpo")]
    answer = await client.ask("task.batch", tasks=both)
    assert answer["path"] == "tasks[1].repo"
    answer = await client.ask(
        "task.submit", description="x", repo="shop", assign_to="h2"
    )
    assert "(blog)" in answer["error"]
    for repo in ("shop", "blog", "https://git.example.org/x"):
        assert (await client.ask("task.submit", description="x", repo=repo))["ok"]
    for hostile in ("ext::sh -c id", "file:///etc", "https://evil.example/x"):
        answer = await client.ask("task.submit", description="x", repo=hostile)
        assert answer["code"] == "malformed"


async def test_what_was_taken_is_found_again_after_its_host_is_gone(client: Client):
    body = {"description": "x", "repo": "shop", "idempotency_key": "k"}
    first = await client.ask("task.submit", **body)
    await joined(client, "h1")
    again = await client.ask("task.submit", **body)
    assert again["existing"]
    assert again["task_id"] == first["task_id"]
    batch = [{**body, "idempotency_key": "k2"}]
    assert not (await client.ask("task.batch", tasks=batch))["ok"]
