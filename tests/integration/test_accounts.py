"""Who may do what, as the broker sees it: nats.conf, row by row.

Every row is tried against a running server. "May" means that it had its effect, "may
not" that the server refused it aloud or that nothing came of it.
"""

from __future__ import annotations

import json

import nats.errors
import pytest
from nats.js.api import ConsumerConfig
from nats.micro import ServiceConfig, add_service

from events.nats.link import Link
from events.nats.readers import ReadersGate

EVENTS = "AGENTCOM_EVENTS"
OUTPUT = "AGENTCOM_OUTPUT"
READERS = ["watcher", "operator"]
EVERYBODY = [
    "admin",
    "scheduler",
    "projections",
    "submitter",
    "operator",
    "watcher",
    "host-h1",
]


async def request(connection, subject, body=b"", **more):
    """Ask and decode the JSON answer."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await connection.request(subject, payload, timeout=60, **more)
    return json.loads(reply.data)


async def settled(connection):
    """Everything that this connection sent has been dealt with, refusals told."""
    await connection.flush()
    await connection.flush()


async def refused(broker, connection, subject):
    """Whether the server says that publishing there is not this role's business."""
    before = len(broker.refusals)
    await connection.publish(subject, b"{}")
    await settled(connection)
    # Not by subject: for readers the server names what it maps the subject to.
    return any("for publish to" in said.lower() for said in broker.refusals[before:])


async def listening_refused(broker, connection, subject):
    before = len(broker.refusals)
    await connection.subscribe(subject)
    await settled(connection)
    return len(broker.refusals) > before


async def stored(broker):
    """The subjects of all events in the log, in order."""
    admin = await broker.connect("admin")
    info = await request(admin, f"$JS.API.STREAM.INFO.{EVENTS}")
    js = admin.jetstream()
    first, last = info["state"]["first_seq"], info["state"]["last_seq"]
    return [
        (await js.get_msg(EVENTS, n)).subject for n in range(max(first, 1), last + 1)
    ]


# -- writing the log -------------------------------------------------------------------

MAY_STORE = [
    ("scheduler", "agentcom.evt.task.t1"),
    ("scheduler", "agentcom.evt.fleet.h1"),
    ("scheduler", "agentcom.evt.tier.standard"),
    ("scheduler", "agentcom.evt.policy"),
    ("scheduler", "agentcom.evt.scheduler"),
    ("host-h1", "agentcom.evt.run.h1.t1"),
    ("host-h1", "agentcom.evt.host.h1"),
    ("host-h1", "agentcom.out.h1.t1"),
]


@pytest.mark.parametrize(("role", "subject"), MAY_STORE)
async def test_a_role_may_write_its_own_subjects(broker, role, subject):
    connection = await broker.connect(role)

    acknowledged = await request(connection, subject, {})

    assert acknowledged["seq"] == 1


MAY_NOT_PUBLISH = [
    *[
        (role, f"$O.AGENTCOM_FILES.{kind}.x")
        for role in ("submitter", "operator", "watcher", "projections", "host-h1")
        for kind in ("C", "M")
    ],
    ("submitter", "$JS.API.DIRECT.GET.OBJ_AGENTCOM_FILES"),
    ("watcher", "$JS.API.DIRECT.GET.OBJ_AGENTCOM_FILES"),
    *[
        (role, f"agentcom.evt.{rest}")
        for role in ("submitter", "operator", "watcher", "projections", "admin")
        for rest in ("task.t1", "run.h1.t1", "host.h1", "policy", "scheduler")
    ],
    ("scheduler", "agentcom.evt.run.h1.t1"),
    ("scheduler", "agentcom.evt.host.h1"),
    ("scheduler", "agentcom.evt.other"),
    ("scheduler", "agentcom.log.task.t1"),
    ("projections", "agentcom.log.task.t1"),
    ("projections", "agentcom.mbx.host.h1"),
    ("projections", "$KV.AGENTCOM_LEASE.leader"),
    ("host-h1", "agentcom.evt.task.t1"),
    ("host-h1", "agentcom.evt.run.h2.t1"),
    ("host-h1", "agentcom.evt.run.h1.t1.more"),
    ("host-h1", "agentcom.evt.host.h2"),
    ("host-h1", "agentcom.out.h2.t1"),
    ("host-h1", "agentcom.beat.h2"),
    ("host-h1", "agentcom.mbx.host.h2"),
    ("host-h1", "agentcom.cmd.task.submit"),
    ("host-h1", "$KV.AGENTCOM_LEASE.leader"),
    ("host-h1", f"$JS.API.STREAM.INFO.{EVENTS}"),
    ("submitter", "agentcom.cmd.policy.set"),
    ("submitter", "agentcom.cmd.host.drain"),
    ("submitter", "agentcom.cmd.host.fetch"),
    ("submitter", f"$JS.API.STREAM.MSG.GET.{EVENTS}"),
    ("submitter", f"$JS.API.DIRECT.GET.{EVENTS}"),
    ("submitter", "agentcom.mbx.host.h1"),
    ("operator", "agentcom.mbx.host.h1"),
    ("submitter", "agentcom.read.delete.some-consumer"),
    ("submitter", f"$JS.API.CONSUMER.CREATE.{EVENTS}.some-consumer"),
    ("host-h1", "agentcom.read.create.some-consumer"),
    ("watcher", "agentcom.cmd.task.submit"),
    ("watcher", "agentcom.mbx.host.h1"),
    ("watcher", f"$JS.API.CONSUMER.CREATE.{OUTPUT}"),
    ("operator", f"$JS.API.CONSUMER.CREATE.{OUTPUT}.some-consumer"),
]


async def test_nobody_may_write_what_is_another_s(broker):
    connections = {
        role: await broker.connect(role) for role in {row[0] for row in MAY_NOT_PUBLISH}
    }

    allowed = [
        (role, subject)
        for role, subject in MAY_NOT_PUBLISH
        if not await refused(broker, connections[role], subject)
    ]

    assert allowed == []
    assert await stored(broker) == []


DESTRUCTIVE = [
    f"$JS.API.STREAM.{verb}.{EVENTS}" for verb in ("DELETE", "PURGE", "MSG.DELETE")
]


@pytest.mark.parametrize("role", EVERYBODY)
async def test_nobody_may_delete_or_purge(broker, role):
    connection = await broker.connect(role)

    assert [
        subject
        for subject in DESTRUCTIVE
        if not await refused(broker, connection, subject)
    ] == []


@pytest.mark.parametrize("role", [role for role in EVERYBODY if role != "admin"])
async def test_only_the_admin_may_change_streams(broker, role):
    connection = await broker.connect(role)
    subjects = [
        f"$JS.API.STREAM.UPDATE.{EVENTS}",
        "$JS.API.STREAM.CREATE.OTHER",
        f"$JS.API.STREAM.PURGE.{OUTPUT}",
        f"$JS.API.STREAM.SNAPSHOT.{EVENTS}",
        "$JS.API.STREAM.DELETE.KV_AGENTCOM_LEASE",
        f"$JS.API.CONSUMER.PAUSE.{EVENTS}.c",
    ]

    assert [s for s in subjects if not await refused(broker, connection, s)] == []


# -- forged reply subjects -------------------------------------------------------------

FORGED = [
    "agentcom.evt.task.t1",
    "agentcom.evt.run.h2.t1",
    "agentcom.evt.host.h2",
    "agentcom.evt.scheduler",
    "agentcom.cmd.task.submit",
    "agentcom.log.task.t1",
    "$KV.AGENTCOM_LEASE.leader",
    f"$JS.API.STREAM.PURGE.{EVENTS}",
]


@pytest.mark.parametrize("reply", FORGED)
async def test_a_host_cannot_write_through_a_reply_subject(broker, reply):
    host = await broker.connect("host-h1")
    scheduler = await broker.connect("scheduler")
    heard = await scheduler.subscribe("agentcom.cmd.>")
    await settled(scheduler)

    await host.publish("agentcom.evt.run.h1.t1", b"{}", reply=reply)
    # Acknowledged: the forged answer before it has been dealt with.
    await request(host, "agentcom.evt.run.h1.t2", {})
    await settled(scheduler)

    assert await stored(broker) == ["agentcom.evt.run.h1.t1", "agentcom.evt.run.h1.t2"]
    assert heard.pending_msgs == 0
    with pytest.raises(nats.errors.Error):
        await scheduler.jetstream().get_last_msg(
            "KV_AGENTCOM_LEASE", "$KV.AGENTCOM_LEASE.leader"
        )


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("reply", ["agentcom.evt.task.t1", "agentcom.cmd.task.submit"])
async def test_a_reader_cannot_write_through_a_reply_subject(broker, role, reply):
    scheduler = await broker.connect("scheduler")
    await request(scheduler, "agentcom.evt.task.t0", {})
    heard = await scheduler.subscribe("agentcom.cmd.>")
    await settled(scheduler)
    reader = await broker.connect(role)

    await reader.publish(f"$JS.API.DIRECT.GET.{EVENTS}", b'{"seq": 1}', reply=reply)
    await reader.publish(f"$JS.API.STREAM.INFO.{EVENTS}", b"", reply=reply)
    await request(reader, f"$JS.API.STREAM.INFO.{EVENTS}")
    await settled(scheduler)

    assert await stored(broker) == ["agentcom.evt.task.t0"]
    assert heard.pending_msgs == 0


# -- listening -------------------------------------------------------------------------

MAY_NOT_LISTEN = [
    ("submitter", "agentcom.evt.>"),
    ("submitter", "agentcom.out.>"),
    ("submitter", "_INBOX_operator.>"),
    ("operator", "_INBOX_submitter.>"),
    ("operator", "agentcom.cmd.>"),
    ("watcher", "agentcom.beat.*"),
    ("watcher", ">"),
    ("host-h1", "agentcom.mbx.host.h2"),
    ("host-h1", "agentcom.mbx.task.h2.*"),
    ("host-h1", "agentcom.evt.>"),
    ("host-h1", "_INBOX_h2.>"),
    ("host-h1", "_INBOX_h1"),
    ("projections", "_INBOX_scheduler.>"),
    ("projections", "agentcom.cmd.>"),
    ("scheduler", "_INBOX_projections.>"),
]


async def test_nobody_may_listen_to_what_is_another_s(broker):
    connections = {
        role: await broker.connect(role) for role in {row[0] for row in MAY_NOT_LISTEN}
    }

    assert [
        row
        for row in MAY_NOT_LISTEN
        if not await listening_refused(broker, connections[row[0]], row[1])
    ] == []


@pytest.mark.parametrize("role", READERS)
async def test_a_reader_follows_what_was_stored_and_only_that(broker, role):
    reader = await broker.connect(role)
    events = await reader.subscribe("agentcom.evt.>")
    output = await reader.subscribe("agentcom.out.>")
    await settled(reader)
    scheduler = await broker.connect("scheduler")
    host = await broker.connect("host-h1")

    await request(scheduler, "agentcom.evt.task.t1", b'{"n": 1}')
    again = await request(
        scheduler,
        "agentcom.evt.task.t1",
        b'{"n": 2}',
        headers={"Nats-Expected-Last-Subject-Sequence": "0"},
    )
    await request(host, "agentcom.evt.run.h1.t1", b'{"n": 3}')
    await request(host, "agentcom.out.h1.t1", b'{"n": 4}')

    seen = [await events.next_msg(timeout=60) for _ in range(2)]
    said = await output.next_msg(timeout=60)
    assert again["error"]["err_code"] == 10071
    assert [(m.subject, m.data) for m in seen] == [
        ("agentcom.evt.task.t1", b'{"n": 1}'),
        ("agentcom.evt.run.h1.t1", b'{"n": 3}'),
    ]
    assert [m.headers["Nats-Sequence"] for m in seen] == ["1", "2"]
    assert (said.subject, said.data) == ("agentcom.out.h1.t1", b'{"n": 4}')


# -- commands, queries, mailboxes ------------------------------------------------------


async def test_commands_say_who_asked_and_nobody_can_forge_it(broker):
    scheduler = await broker.connect("scheduler")
    commands = await scheduler.subscribe("agentcom.cmd.>")
    await settled(scheduler)
    submitter = await broker.connect("submitter")

    await submitter.publish(
        "agentcom.cmd.task.submit",
        b"{}",
        reply=submitter.new_inbox(),
        headers={"Nats-Request-Info": '{"acc": "CORE", "user": "admin"}'},
    )
    command = await commands.next_msg(timeout=60)

    info = json.loads(command.headers["Nats-Request-Info"])
    assert info["acc"] == "CLIENTS"
    assert info["user"] == broker.instance.public_key("submitter")


@pytest.mark.parametrize("role", ["submitter", "operator"])
async def test_a_client_s_command_is_answered(broker, role):
    scheduler = await broker.connect("scheduler")

    async def answer(message):
        await message.respond(b'{"ok": true}')

    await scheduler.subscribe("agentcom.cmd.>", cb=answer)
    await settled(scheduler)
    client = await broker.connect(role)

    assert await request(client, "agentcom.cmd.task.submit", {}) == {"ok": True}


@pytest.mark.parametrize("role", ["submitter", "operator", "watcher", "scheduler"])
async def test_a_query_is_answered_by_the_projections(broker, role):
    projections = await broker.connect("projections")

    async def answer(message):
        await message.respond(b'{"rows": []}')

    await projections.subscribe("agentcom.query.>", cb=answer)
    await settled(projections)
    client = await broker.connect(role)

    if role == "scheduler":
        assert await refused(broker, client, "agentcom.query.queue")
    else:
        assert await request(client, "agentcom.query.queue") == {"rows": []}


async def test_a_host_answers_its_mailbox_and_beats(broker):
    host = await broker.connect("host-h1")

    async def answer(message):
        await message.respond(message.subject.encode())

    await host.subscribe("agentcom.mbx.host.h1", cb=answer)
    await host.subscribe("agentcom.mbx.task.h1.*", cb=answer)
    await settled(host)
    scheduler = await broker.connect("scheduler")
    beats = await scheduler.subscribe("agentcom.beat.*")
    await settled(scheduler)

    answers = [
        (await scheduler.request(subject, b"{}", timeout=60)).data.decode()
        for subject in ("agentcom.mbx.host.h1", "agentcom.mbx.task.h1.t1")
    ]
    await host.publish("agentcom.beat.h1", b"beat")

    assert answers == ["agentcom.mbx.host.h1", "agentcom.mbx.task.h1.t1"]
    assert (await beats.next_msg(timeout=60)).data == b"beat"


async def test_an_absent_host_is_known_at_once(broker):
    scheduler = await broker.connect("scheduler")

    with pytest.raises(nats.errors.NoRespondersError):
        await scheduler.request("agentcom.mbx.host.h2", b"{}", timeout=60)


async def test_a_host_named_like_a_role_stays_a_host(broker):
    broker.add_host("operator")
    host = await broker.connect("host-operator")

    await request(host, "agentcom.evt.host.operator", {})

    assert await refused(broker, host, "agentcom.cmd.host.drain")
    assert await stored(broker) == ["agentcom.evt.host.operator"]


async def test_a_host_added_while_the_broker_runs_may_connect(broker):
    broker.add_host("h3")
    host = await broker.connect("host-h3")

    assert (await request(host, "agentcom.evt.host.h3", {}))["seq"] == 1


# -- what the processes need of JetStream ----------------------------------------------


@pytest.mark.parametrize("role", ["scheduler", "projections"])
@pytest.mark.parametrize("stream", [EVENTS, OUTPUT])
async def test_a_core_process_replays_a_stream_with_a_consumer_of_its_own(
    broker, role, stream
):
    host = await broker.connect("host-h1")
    subject = "agentcom.evt.run.h1.t1" if stream == EVENTS else "agentcom.out.h1.t1"
    await request(host, subject, {})
    reader = await broker.connect(role)
    js = reader.jetstream()
    consumer = await js.add_consumer(
        stream,
        ConsumerConfig(ack_policy="none", mem_storage=True, inactive_threshold=60),
    )
    inbox = await reader.subscribe(reader.new_inbox())

    await reader.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer.name}",
        b'{"batch": 1}',
        reply=inbox.subject,
    )
    message = await inbox.next_msg(timeout=60)

    assert message.reply.startswith(f"$JS.ACK.{stream}.")
    assert (await js.consumer_info(stream, consumer.name)).delivered.stream_seq == 1
    assert await js.delete_consumer(stream, consumer.name)


async def test_the_scheduler_takes_and_renews_the_lease(broker):
    scheduler = await broker.connect("scheduler")
    js = scheduler.jetstream()
    expect = "Nats-Expected-Last-Subject-Sequence"

    first = await js.publish(
        "$KV.AGENTCOM_LEASE.leader", b"me", msg_ttl=5, headers={expect: "0"}
    )
    again = await js.publish(
        "$KV.AGENTCOM_LEASE.leader", b"me", msg_ttl=5, headers={expect: str(first.seq)}
    )
    held = await js.get_last_msg("KV_AGENTCOM_LEASE", "$KV.AGENTCOM_LEASE.leader")

    assert (held.seq, held.data) == (again.seq, b"me")


async def test_the_scheduler_stores_a_batch_all_or_nothing(broker):
    scheduler = await broker.connect("scheduler")

    async def batch(name, tasks):
        for number, task in enumerate(tasks, 1):
            headers = {
                "Nats-Batch-Id": name,
                "Nats-Batch-Sequence": str(number),
                "Nats-Expected-Last-Subject-Sequence": "0",
            }
            subject = f"agentcom.evt.task.{task}"
            if number < len(tasks):
                await scheduler.publish(subject, b"{}", headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            return await request(scheduler, subject, {}, headers=headers)
        return None

    first = await batch("b1", ["t1", "t2"])
    second = await batch("b2", ["t3", "t1"])

    assert first["count"] == 2
    assert "error" in second
    assert await stored(broker) == ["agentcom.evt.task.t1", "agentcom.evt.task.t2"]


# -- the nats command line -------------------------------------------------------------


@pytest.mark.parametrize("role", [*READERS, "submitter"])
async def test_nats_micro_finds_the_service(broker, role):
    scheduler = await broker.connect("scheduler")
    service = await add_service(
        scheduler, ServiceConfig(name="agentcom", version="1.0.0")
    )
    group = service.add_group(name="agentcom.cmd")

    async def answer(message):
        await message.respond(b"{}")

    await group.add_endpoint(name="submit", subject="task.submit", handler=answer)
    await settled(scheduler)
    client = await broker.connect(role)
    found = [
        await request(client, subject)
        for subject in (
            "$SRV.PING",
            "$SRV.INFO",
            "$SRV.INFO.agentcom",
            f"$SRV.STATS.agentcom.{service.id}",
        )
    ]
    await service.stop()

    assert {one["name"] for one in found} == {"agentcom"}


@pytest.mark.parametrize("role", READERS)
async def test_nats_stream_get_and_info_work_for_readers(broker, role):
    scheduler = await broker.connect("scheduler")
    await request(scheduler, "agentcom.evt.task.t1", b'{"n": 1}')
    reader = await broker.connect(role)

    info = await request(reader, f"$JS.API.STREAM.INFO.{EVENTS}")
    names = await request(reader, "$JS.API.STREAM.NAMES")
    got = await request(reader, f"$JS.API.STREAM.MSG.GET.{EVENTS}", {"seq": 1})
    direct = await reader.request(
        f"$JS.API.DIRECT.GET.{EVENTS}", b'{"seq": 1}', timeout=60
    )
    last = await reader.request(
        f"$JS.API.DIRECT.GET.{EVENTS}.agentcom.evt.task.t1", b"", timeout=60
    )

    assert info["state"]["messages"] == 1
    assert {EVENTS, OUTPUT} <= set(names["streams"])
    assert got["message"]["subject"] == "agentcom.evt.task.t1"
    assert direct.data == last.data == b'{"n": 1}'


@pytest.fixture
async def gate(broker):
    bus = await Link.connect(broker.credentials("projections").address())
    gate = ReadersGate(bus)
    await gate.open()
    yield gate
    await gate.close()
    await bus.close()


PAGER = "jsm_stream_pager_12341700000000000"


def pager_request(**more):
    """What `nats stream view` asks for: a durable, pulled from, one page at a time."""
    return {
        "stream_name": EVENTS,
        "config": {
            "durable_name": PAGER,
            "name": PAGER,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": 30_000_000_000,
            "max_deliver": -1,
            "replay_policy": "instant",
            "num_replicas": 0,
            **more,
        },
        "action": "create",
    }


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("verb", ["CREATE", "DURABLE.CREATE"])
async def test_nats_stream_view_pages_through_the_log(broker, role, verb):
    scheduler = await broker.connect("scheduler")
    for task in ("t1", "t2", "t3"):
        await request(scheduler, f"agentcom.evt.task.{task}", {})
    reader = await broker.connect(role)
    api = "$JS.API.CONSUMER"

    made = await request(reader, f"{api}.{verb}.{EVENTS}.{PAGER}", pager_request())
    page = await reader.subscribe(reader.new_inbox())
    await reader.publish(
        f"{api}.MSG.NEXT.{EVENTS}.{PAGER}",
        b'{"batch": 25, "no_wait": true}',
        reply=page.subject,
    )
    seen = [await page.next_msg(timeout=60) for _ in range(3)]
    end = await page.next_msg(timeout=60)
    info = await request(reader, f"{api}.INFO.{EVENTS}.{PAGER}")
    deleted = await request(reader, f"{api}.DELETE.{EVENTS}.{PAGER}")

    assert (made["name"], made["config"]["ack_policy"]) == (PAGER, "none")
    assert "durable_name" not in made["config"]
    assert [m.subject[-2:] for m in seen] == ["t1", "t2", "t3"]
    assert end.headers["Status"] in {"404", "408"}
    assert info["name"] == PAGER
    assert deleted["success"] is True


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("name", [f".{PAGER}", ""])
async def test_a_reader_s_consumer_cannot_deliver_anywhere(broker, role, name):
    reader = await broker.connect(role)
    subject = f"$JS.API.CONSUMER.CREATE.{EVENTS}{name}"

    answers = [
        await request(reader, subject, pager_request(deliver_subject=target))
        for target in ("agentcom.mbx.host.h1", "$KV.AGENTCOM_LEASE.leader")
    ]

    assert [answer["error"]["code"] for answer in answers] == [403, 403]


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
async def test_a_reader_cannot_touch_another_s_consumer(broker, role):
    scheduler = await broker.connect("scheduler")
    await scheduler.jetstream().add_consumer(
        EVENTS, ConsumerConfig(name="schedulers-own", ack_policy="none")
    )
    reader = await broker.connect(role)
    api = "$JS.API.CONSUMER"

    deleted = await request(reader, f"{api}.DELETE.{EVENTS}.schedulers-own")
    changed = await request(
        reader, f"{api}.CREATE.{EVENTS}.schedulers-own", pager_request()
    )

    assert "error" in deleted
    assert "error" in changed
    found = await scheduler.jetstream().consumer_info(EVENTS, "schedulers-own")
    assert found.name == "schedulers-own"


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("body", [b"", b"[]", b'{"config": 1}', b"{"])
async def test_nonsense_asked_of_the_gate_is_refused(broker, role, body):
    reader = await broker.connect(role)

    answer = await request(reader, f"$JS.API.CONSUMER.CREATE.{EVENTS}.{PAGER}", body)

    assert answer["error"]["code"] == 403


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
async def test_a_durable_is_refused_in_words_not_made_ephemeral(broker, role):
    reader = await broker.connect(role)
    asked = {"stream_name": EVENTS, "config": {"durable_name": "archive-job"}}
    for verb in ("CREATE", "DURABLE.CREATE"):
        answer = await request(
            reader, f"$JS.API.CONSUMER.{verb}.{EVENTS}.archive-job", asked
        )
        assert answer["error"]["code"] == 403
        assert "leave durable_name out" in answer["error"]["description"]


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"filter_subject": "agentcom.evt.task.*"},
        {"filter_subjects": ["agentcom.evt.task.t1", "agentcom.evt.task.t3"]},
    ],
)
async def test_a_usual_client_reads_with_a_nameless_consumer(broker, role, filters):
    scheduler = await broker.connect("scheduler")
    for task in ("t1", "t2", "t3"):
        await request(scheduler, f"agentcom.evt.task.{task}", {})
    reader = await broker.connect(role)
    # What clients ask before anything else.
    account = await reader.jsm().account_info()
    assert account.streams == 4

    config = ConsumerConfig(ack_policy="none", **filters)
    made = await reader.jsm().add_consumer(EVENTS, config)
    page = await reader.subscribe(reader.new_inbox())
    await reader.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.{made.name}",
        b'{"batch": 25, "no_wait": true}',
        reply=page.subject,
    )
    wanted = filters.get("filter_subjects", ["t1", "t2", "t3"])
    seen = [(await page.next_msg(timeout=60)).subject for _ in wanted]

    assert [each.split(".")[-1] for each in seen] == [w.split(".")[-1] for w in wanted]
    assert (await reader.jsm().consumer_info(EVENTS, made.name)).name == made.name
    assert await reader.jsm().delete_consumer(EVENTS, made.name)
