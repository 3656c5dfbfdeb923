"""Whatever is said to it, it answers what is wrong, stores nothing, and goes on working.

A real broker, a scheduler and a sidecar; whoever may speak there says the worst.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from events import catalogue as c
from events import mail as m
from events import subjects
from events.codec import encode, rfc3339
from events.errors import Denied
from events.nats.log import JetStreamLog
from sidecar.assembly import Parts
from sidecar.config import ClaudeConfig, SidecarConfig, SlotsConfig
from sidecar.executors.noop import NoopExecutor
from sidecar.executors.shell import ShellExecutor
from sidecar.main import run
from sidecar.processes.family import Processes
from tests.support.links import linked, until
from tests.support.scheduling import scheduling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from actors.scheduler.role import SchedulerRole
    from events.nats.link import Link
    from sidecar.host import Sidecar

AT = "2026-01-01T00:00:00.000000Z"
DEEP = b"[" * 20_000 + b"]" * 20_000
LONG = "x" * 880_000
NO_TOKENS = ["", "a.b", "*", ">", "a b", "a\r\nPUB x 0", "../x", "a\x00", "é", "x" * 65]
NO_PATHS = ["../up", "a/../../b", "--option", "a\x00b", "a\nb"]
NO_BRANCHES = [
    *NO_PATHS,
    "a b",
    "a..b",
    "/a",
    "a/",
    "a.lock",
    "a~1",
    "a:b",
    "@",
    "a@{1}",
]
WRONG = [None, True, -1, 10**30, 1.5, "text", [], {}, [[]], {"a": {"b": 1}}, ["\x00"]]

VALID: dict[str, dict[str, Any]] = {
    "task.submit": {"description": "x"},
    "task.batch": {"tasks": [{"description": "x"}]},
    "task.cancel": {"task_id": "t"},
    "task.retry": {"task_id": "t"},
    "task.reassign": {"task_id": "t", "host": "h9"},
    "task.bulk": {"action": "cancel", "ids": ["t"], "dry_run": True},
    "task.classify": {"description": "x"},
    "task.route": {"description": "x"},
    "host.drain": {"host": "h9"},
    "host.resume": {"host": "h9"},
    "task.attach": {"data": "eA=="},
    "host.fetch": {"task_id": "01JGFJJZ00A7C9E1G3J5M7P9R1"},
    "host.forget": {"host": "h9"},
    "endpoint.add": {"endpoint": "e", "kind": "ollama", "url": "http://x"},
    "endpoint.remove": {"endpoint": "e"},
    "alert.acknowledge": {"tier": "standard"},
    "tier.clear_limit": {"tier": "complex"},
    "policy.set": {"policy": {"task_ttl_s": 1}},
    "policy.validate": {"policy": {"task_ttl_s": 1}},
    "schedule.add": {
        "schedule": "s",
        "cron": "0 3 1 1 *",
        "task": {"description": "x", "shell": {"command": "true"}},
    },
    "schedule.change": {"schedule": "s", "cron": "0 4 1 1 *"},
    "schedule.pause": {"schedule": "s"},
    "schedule.resume": {"schedule": "s"},
    "schedule.remove": {"schedule": "s"},
    "schedule.run": {"schedule": "s"},
}
TOKENS = {"task_id", "host", "endpoint", "schedule"}

# Bytes that are wrong wherever they arrive.
ANYWHERE = [
    b"",
    b"\x00",
    b"\xff\xfe\xfd",
    b"null",
    b"true",
    b"[]",
    b'"text"',
    b"{}}",
    b"{",
    DEEP,
    b'{"a":' * 20_000,
    b'{"%s":1}' % LONG.encode(),
    b"9" * 5_000,
    b"1e999",
    b'{"type":"%s"}' % LONG.encode(),
    b'{"type":null}',
    b'{"type":"assign"}',
    b'{"id":"a.b"}',
    b'{"expires_at":7}',
    b'{"\\ud800":"\\udfff"}',
    b"\xef\xbb\xbf{}",
    b"PUB agentcom.evt.policy 2\r\n{}\r\n",
]

TASK = [
    {"description": d} for d in ("", "  ", "\x00", "a\x00b", "x" * 200_001, 7, None, [])
]
TASK += [{"description": "x", **more} for more in (
    {"nope": 1},
    {"priority": "URGENT"},
    {"tier": "huge"},
    {"tier": "trivial"},
    {"shell": {}},
    {"shell": {"command": ""}},
    {"shell": {"command": "a\x00b"}},
    {"shell": {"command": "ls", "timeout_s": 0}},
    {"shell": {"command": "ls", "timeout_s": 1e300}},
    {"shell": {"command": "ls", "env": {"A=B": "c"}}},
    {"shell": {"command": "ls", "env": {"": "c"}}},
    {"shell": {"command": "ls", "env": {"A": "\x00"}}},
    {"shell": {"command": "ls", "env": {"A": 1}}},
    {"file_hints": [{}]},
    {"file_hints": [{"path": ""}]},
    {"file_hints": [{"path": "a\x00"}]},
    {"file_hints": [{"path": "a", "line": 1}]},
    {"file_hints": [{"path": "a"}] * 1_001},
    {"success_criteria": "text"},
    {"verification_steps": ["x" * 10_001]},
    {"model": ""},
    {"model": "a\x00"},
    {"max_attempts": 0},
    {"max_attempts": 10**30},
    {"ttl_s": -1},
    {"ttl_s": 1e300},
    {"deadline": "2020-01-01T00:00:00Z"},
    {"deadline": "2999-02-30T00:00:00Z"},
    {"deadline": "\x00"},
    {"idempotency_key": ""},
    {"idempotency_key": "x" * 251},
    {"executor": "root"},
    {"metadata": {"a": "x" * 70_000}},
    {"metadata": {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}},
    {"success_criteria": ["x" * 9_000] * 80},
    {"messages": "hello"},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x", "nope": 1}]},
    {"messages": [{"role": "user", "content": [{"type": "picture", "digest": "x"}]}]},
    {"messages": [{"role": "user", "content": "x" * 400_000}]},
    {"messages": [{"role": "user"}], "shell": {"command": "ls"}},
    {"messages": [{"role": "user"}], "chat": {"tools": [{"type": "function"}]}},
    {"messages": [{"role": "user"}], "chat": {"stop": [""]}},
    {"chat": {"seed": 1}},
    *({"assign_to": name} for name in NO_TOKENS),
    *({"needs": [name]} for name in NO_TOKENS),
    *({"branch": name} for name in NO_BRANCHES),
    *({"repo": path} for path in NO_PATHS),
    *({"shell": {"command": "ls", "cwd": path}} for path in NO_PATHS),
)]  # fmt: skip


def bodies(command: str, chance: random.Random) -> list[bytes]:
    """Everything that is wrong with a command, as bytes."""
    good = VALID[command]
    made = list(ANYWHERE)
    made += [chance.randbytes(chance.randrange(1, 400)) for _ in range(30)]
    raw = encode(good)
    made += [raw[:n] for n in range(1, len(raw), 3)]
    made += [raw + raw, raw + b"\x00"]
    wrong: list[dict[str, Any]] = [{**good, "nope": 1}]
    wrong += [
        {**good, "id": one} for one in (*NO_TOKENS, *WRONG) if one not in (None, "text")
    ]
    wrong += [{**good, "expires_at": one} for one in WRONG if one is not None]
    for field in good:
        wrong.append({name: value for name, value in good.items() if name != field})
        wrong += [
            {**good, field: one}
            for one in WRONG
            if not isinstance(one, type(good[field]))
        ]
        if field in TOKENS:
            wrong += [{**good, field: name} for name in NO_TOKENS]
    if command in ("task.submit", "task.classify", "task.route"):
        # Only the log's own limit is not a dry run's.
        wrong += [
            one
            for one in TASK
            if command == "task.submit" or len(encode(one)) < 500_000
        ]
    if command == "task.batch":
        wrong += [{"tasks": []}, {"tasks": [{"description": "x"}] * 1_001}]
        wrong += [{"tasks": [{"description": "x"}, one]} for one in TASK]
    if command == "endpoint.add":
        wrong += [
            {**good, "url": url}
            for url in (
                "file:///etc/passwd",
                "http://",
                "http://a b",
                "javascript:1",
                "",
            )
        ]
        wrong += [{**good, "slots": n} for n in (0, -1, 10**9)]
    if command in ("policy.set", "policy.validate"):
        wrong += [
            {"policy": policy}
            for policy in (
                {"nope": 1},
                {"task_ttl_s": -1},
                {"task_ttl_s": None},
                {"scoring": []},
                {"scoring": {"warm": "hot"}},
                {"limits": {"shell_retries": -5}},
                {"limits": {"nope": 1}},
                {"local_models": [[]]},
            )
        ]
    return made + [encode(one) for one in wrong]


@dataclass
class Ring:
    """A scheduler and a host, and connections as everybody who may speak to them."""

    scheduler: SchedulerRole
    sidecar: Sidecar
    operator: Link
    core: Link
    host: Link
    log: JetStreamLog
    links: list[Link]

    async def command(self, name: str, raw: bytes) -> dict[str, Any]:
        message = await self.operator.call(subjects.command(name), raw, timeout=60)
        answer = json.loads(message.data)
        if not answer["ok"]:
            assert message.headers["Nats-Service-Error"]
            assert message.headers["Nats-Service-Error-Code"] == str(answer["status"])
        return answer

    async def tell(self, subject: str, raw: bytes) -> dict[str, Any]:
        return json.loads(await self.core.request(subject, raw, timeout=60))

    async def stored(self) -> list[c.Recorded]:
        """What stands in the log, except what time alone writes."""
        return [
            recorded
            for recorded in await self.log.read(subjects.ALL_EVENTS)
            if not isinstance(recorded.event, c.TierEvent | c.SchedulerElected)
        ]

    async def still_works(self) -> None:
        """A task goes all the way, and nobody failed at a message meanwhile."""
        answer = await self.command("task.submit", encode(SHELL))
        task = answer["task_id"]
        async with asyncio.timeout(60):
            while True:
                ran = [r.event for r in await self.log.read(subjects.runs_of(task))]
                if done := [e for e in ran if isinstance(e, c.TaskCompleted)]:
                    break
                await asyncio.sleep(0.02)
        assert done[0].result.output == "alive\n"
        assert [link.faults for link in self.links] == [0] * len(self.links)
        assert self.scheduler.service.faults == 0


SHELL = {"description": "x", "shell": {"command": "echo alive"}}


@dataclass
class Connection:
    log: JetStreamLog
    bus: Link


@asynccontextmanager
async def living(link: Link, folder: Path) -> AsyncIterator[Sidecar]:
    """A sidecar as h1 that has joined."""
    config = SidecarConfig(
        name="h1",
        slots=SlotsConfig(shell=2),
        discover=False,
        claude=ClaudeConfig(enabled=False),
        noop=True,
        drain_timeout_s=0.0,
    )
    executors = {"sidecar": ShellExecutor(Processes()), "noop": NoopExecutor()}
    log = JetStreamLog(link, consumers=False)
    stop = asyncio.Event()
    ready: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
    role = asyncio.create_task(
        run(
            config,
            Connection(log, link),
            stop,
            parts=Parts(executors=executors),
            data=folder,
            ready=ready.set_result,
        )
    )
    try:
        await asyncio.wait({role, ready}, return_when=asyncio.FIRST_COMPLETED)
        if role.done():
            await role
        yield ready.result()
    finally:
        stop.set()
        await role
        await log.close()


@pytest.fixture
async def ring(broker, tmp_path):
    async with (
        scheduling(broker) as scheduler,
        linked(broker, "host-h1") as serving,
        linked(broker, "host-h1") as host,
        linked(broker, "operator") as operator,
        linked(broker, "scheduler") as core,
        linked(broker, "projections") as reading,
        living(serving, tmp_path) as sidecar,
    ):
        log = JetStreamLog(reading)
        links = [serving, scheduler._bus]
        made = Ring(scheduler, sidecar, operator, core, host, log, links)
        await made.still_works()
        yield made
        await log.close()


# -- commands --------------------------------------------------------------------------


@pytest.mark.parametrize("command", VALID)
async def test_a_wrong_command_is_refused_precisely_and_stores_nothing(ring, command):
    before = await ring.stored()
    worst = bodies(command, random.Random(command))
    answers: list[tuple[bytes, dict[str, Any]]] = []
    for n in range(0, len(worst), 20):
        window = worst[n : n + 20]
        said = await asyncio.gather(*(ring.command(command, raw) for raw in window))
        answers += zip(window, said, strict=True)
    for raw, answer in answers:
        assert not answer["ok"], raw[:200]
        allowed = ("malformed", "bad_token", "too_large")
        # Files are looked at where they go, filters by the read models: none are here.
        asks_others = command in ("task.attach", "task.bulk")
        nobody = answer["code"] == "unavailable" and asks_others
        assert answer["code"] in allowed or nobody, answer
        assert answer["error"]
        assert len(answer["error"]) < 500
    assert await ring.stored() == before
    await ring.still_works()


async def test_the_discovery_and_this_test_know_the_same_commands(ring):
    info = json.loads((await ring.operator.call("$SRV.INFO", b"", timeout=60)).data)
    assert {e["subject"] for e in info["endpoints"]} == {
        subjects.command(name) for name in VALID
    }


async def test_commands_that_do_not_exist_are_refused(ring):
    before = await ring.stored()
    names = ["task", "task.submit.now", "evt.policy", "x" * 500, "task.SUBMIT", "*é"]
    for name in names[:-1]:
        answer = await ring.command(name, b"{}")
        assert answer["code"] == "unknown_command"
        assert len(answer["error"]) < 600
    assert await ring.stored() == before
    await ring.still_works()


async def test_commands_that_want_no_answer_do_no_harm(ring):
    before = await ring.stored()
    for name in VALID:
        for raw in ANYWHERE:
            ring.operator.publish(subjects.command(name), raw)
        # Two megabytes each: all at once could cost whoever shares our loop its connection.
        assert (await ring.command("task.classify", encode(SHELL)))["ok"]
    await ring.still_works()
    assert [r.seq for r in await ring.stored()][: len(before)] == [
        r.seq for r in before
    ]
    submitted = [r for r in await ring.stored() if isinstance(r.event, c.TaskSubmitted)]
    assert len(submitted) == 2


async def test_more_than_the_broker_takes_never_leaves_the_client(ring):
    with pytest.raises(Denied):
        await ring.command("task.submit", b"x" * (ring.operator.max_payload + 1))
    answer = await ring.command("task.submit", b"x" * ring.operator.max_payload)
    assert (answer["code"], answer["status"]) == ("malformed", 400)
    assert answer["error"].startswith("expected at most 900000 bytes, got ")
    await ring.still_works()


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_discovery_answers_whatever_the_question_holds(ring, verb):
    for raw in ANYWHERE:
        answer = await ring.operator.call(f"$SRV.{verb}.agentcom", raw, timeout=60)
        assert json.loads(answer.data)["name"] == "agentcom"


# -- mailboxes -------------------------------------------------------------------------


def mails(chance: random.Random) -> list[bytes]:
    """What is no mail, and mail that names what must not be named."""
    good = {
        "type": "assign",
        "epoch": 2**40,
        "task_id": "t9",
        "route": "r9",
        "generation": 1,
        "attempt": 1,
        "spec": SHELL,
        "tier": "trivial",
        "target_type": "sidecar",
    }
    wrong: list[dict[str, Any]] = []
    for field in good:
        if field != "type":
            wrong.append({name: v for name, v in good.items() if name != field})
        wrong += [
            {**good, field: one}
            for one in WRONG
            if not isinstance(one, type(good[field]))
        ]
    wrong += [{**good, "task_id": name} for name in NO_TOKENS]
    wrong += [{**good, "route": name} for name in NO_TOKENS]
    wrong += [{**good, "epoch": n} for n in (-1, 2**63, 10**30)]
    wrong += [{**good, "tier": "huge"}, {**good, "target_type": "root"}]
    wrong += [{**good, "limits": {"shell_retries": "many"}}]
    wrong += [
        {"type": "cancel", "epoch": 1, "task_id": name}
        for name in (*NO_TOKENS, 7, None)
    ]
    wrong += [
        {"type": "cancel", "epoch": 1, "task_id": "t", "route": name}
        for name in NO_TOKENS
        if name
    ]
    wrong += [{"type": "drain", "epoch": 10**30}, {"type": "resume", "epoch": "x"}]
    wrong += [{"type": "endpoints", "epoch": 1, "endpoints": [{"endpoint": "x"}]}]
    wrong += [{"type": kind} for kind in ("", "Assign", "inspect ", "\x00")]
    made = [*ANYWHERE, *(encode(one) for one in wrong)]
    return made + [chance.randbytes(chance.randrange(1, 400)) for _ in range(30)]


MAILBOXES = {
    "host": subjects.host_mailbox("h1"),
    "task": subjects.task_mailbox("h1", "t1"),
}


@pytest.mark.parametrize("mailbox", MAILBOXES)
async def test_what_is_no_mail_is_refused_precisely_and_starts_nothing(ring, mailbox):
    before = await ring.stored()
    for raw in mails(random.Random(mailbox)):
        answer = await ring.tell(MAILBOXES[mailbox], raw)
        assert not answer["ok"], raw[:200]
        assert answer["code"] in ("malformed", "bad_token"), answer
        assert answer["detail"]
        assert len(answer["detail"]) < 500
    assert await ring.stored() == before
    await ring.still_works()


async def test_mail_that_wants_no_answer_does_no_harm(ring):
    before = await ring.stored()
    for subject in MAILBOXES.values():
        for raw in mails(random.Random("quiet")):
            ring.core.publish(subject, raw)
    info = await ring.tell(MAILBOXES["host"], encode(m.Inspect()))
    assert info["ok"]
    assert await ring.stored() == before
    await ring.still_works()


async def test_an_older_leader_s_mail_is_refused(ring):
    stale = m.Cancel(epoch=0, task_id="t1")
    answer = await ring.tell(MAILBOXES["host"], encode(stale))
    assert (answer["ok"], answer["code"]) == (False, "stale_epoch")


async def test_a_task_s_mailbox_takes_no_mail_for_another_task(ring):
    other = m.Cancel(epoch=2**40, task_id="t2")
    answer = await ring.tell(MAILBOXES["task"], encode(other))
    assert (answer["ok"], answer["code"]) == (False, "malformed")
    assert answer["detail"].startswith("task_id: expected t1, got t2")


# -- what a host may write -------------------------------------------------------------


async def test_signs_of_life_that_are_none_are_counted(ring):
    good = c.Beat(host="h1", incarnation="i", n=1, at=AT, resources=c.Resources())
    wrong = [
        *ANYWHERE,
        encode({**json.loads(encode(good)), "n": 10**30}),
        encode({**json.loads(encode(good)), "host": "h2"}),
        encode({**json.loads(encode(good)), "resources": {"cpu": "hot"}}),
    ]
    before = await ring.stored()
    for raw in wrong:
        ring.host.publish(subjects.beat("h1"), raw)
    await until(lambda: ring.scheduler.malformed_beats == len(wrong))
    assert await ring.stored() == before
    await ring.still_works()


def reports() -> list[tuple[str, bytes]]:
    """What a host that means ill may well put into the log, on its own subjects."""
    run_subject, host_subject = subjects.run("h1", "t9"), subjects.host("h1")
    head = {"id": "E", "at": AT, "by": "h1"}
    report = {
        **head,
        "task_id": "t9",
        "host": "h1",
        "route": "r9",
        "generation": 1,
        "attempt": 1,
        "incarnation": "i",
    }
    about = {**head, "host": "h1", "incarnation": "i9"}
    said: list[tuple[str, bytes]] = [
        (where, raw) for where in (run_subject, host_subject) for raw in ANYWHERE[1:-1]
    ]
    told: list[dict[str, Any]] = [
        {
            "type": "task.returned.v1",
            **report,
            "reason": "limited",
            "limited_until": "?",
        },
        {"type": "task.completed.v1", **report, "result": {"status": "success"}},
        {"type": "task.completed.v1", **report, "task_id": "t8", "result": {}},
        {"type": "task.accepted.v1", **report, "host": "h2"},
        {"type": "task.accepted.v1", **report, "generation": 10**30},
        {"type": "task.accepted.v1", **report, "at": "never"},
        {"type": "task.cancelled.v1", **head, "task_id": "t9"},
        {"type": "policy.changed.v1", **head, "version": 9, "policy": {"nope": 1}},
        {"type": "scheduler.elected.v1", **head, "epoch": 10**9, "name": "h1"},
        {"type": "made.up.v9", **head},
    ]
    said += [(run_subject, encode(one)) for one in told]
    told = [
        {"type": "host.joined.v1", **about, "version": "", "slots": {"shell": -5}},
        {"type": "host.joined.v1", **about, "host": "h2", "version": ""},
        {"type": "host.joined.v1", **about, "version": "", "slots": {"shell": 10**30}},
        {"type": "host.recovered.v1", **about, "held": [{"task_id": "?", "route": "?"}]},
        {"type": "host.draining.v1", **about},
        {"type": "endpoint.down.v1", **about, "endpoint": "?", "kind": "ollama", "reason": ""},
        {"type": "endpoint.up.v1", **about, "state": {"endpoint": "a.b*>", "kind": "claude", "up": True, "slots": -1}},
        {"type": "endpoint.changed.v1", **about, "state": {"endpoint": "", "kind": "ollama", "up": False}},
        {"type": "host.left.v1", **about, "at": "never"},
    ]  # fmt: skip
    return said + [(host_subject, encode(one)) for one in told]


async def test_what_a_host_writes_about_itself_ends_nobody_else(ring):
    """It may be believed about itself; a host that was never harmed still gets work."""
    for subject, raw in reports():
        message = await ring.host.call(subject, raw, timeout=60)
        assert "seq" in json.loads(message.data), (subject, raw[:100])
    again = c.HostJoined(
        id="E",
        at=rfc3339(0),
        by="h1",
        host="h1",
        incarnation=ring.sidecar.incarnation,
        version="1",
        slots={"shell": 2},
    )
    await ring.host.call(subjects.host("h1"), encode(again), timeout=60)
    ring.sidecar._beat()
    await ring.still_works()
