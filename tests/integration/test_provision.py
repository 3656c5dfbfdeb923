"""The streams and the lease bucket, made and checked on a real server."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from events.log import MAX_EVENT_BYTES
from events.nats.provision import (
    ApiRefused,
    Retention,
    UnsafeStream,
    events_config,
    files_config,
    output_config,
    provision,
)
from tests.support.broker import SMALL, LiveBroker


@pytest.fixture
async def bare(tmp_path):
    """A broker without streams, and the admin's connection to it."""
    broker = LiveBroker(tmp_path / "instance")
    broker.start()
    try:
        yield await broker.connect("admin")
    finally:
        await broker.close()


async def api(connection, subject, body=None):
    payload = b"" if body is None else json.dumps(body).encode()
    return json.loads((await connection.request(f"$JS.API.{subject}", payload)).data)


async def config(connection, stream):
    return (await api(connection, f"STREAM.INFO.{stream}"))["config"]


async def test_the_streams_are_as_described(bare):
    await provision(bare, SMALL)

    for wanted in (events_config(SMALL), output_config(SMALL), files_config(SMALL)):
        found = await config(bare, wanted["name"])
        assert {key: found.get(key) for key in wanted} == {
            # The server spells "no limit" its own way and leaves zeros as they are.
            **wanted
        }


async def test_provisioning_again_changes_nothing(bare):
    await provision(bare, SMALL)
    before = await api(bare, "STREAM.INFO.AGENTCOM_EVENTS")

    await provision(bare, SMALL)

    after = await api(bare, "STREAM.INFO.AGENTCOM_EVENTS")
    assert (after["config"], after["created"]) == (before["config"], before["created"])


async def test_new_retention_reaches_an_existing_output_stream(bare):
    await provision(bare, SMALL)

    await provision(bare, Retention(output_max_age_s=3600, output_max_bytes=1024**2))

    found = await config(bare, "AGENTCOM_OUTPUT")
    assert (found["max_age"], found["max_bytes"]) == (3600 * 10**9, 1024**2)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"deny_delete": False}, "deny_delete"),
        ({"deny_purge": False}, "deny_purge"),
        ({"max_age": 3600 * 10**9}, "max_age"),
        ({"max_msgs": 10, "discard": "old"}, "max_msgs"),
        ({"allow_msg_ttl": True}, "allow_msg_ttl"),
        ({"allow_rollup_hdrs": True, "deny_purge": False}, "allow_rollup_hdrs"),
        ({"storage": "memory"}, "storage"),
    ],
)
async def test_an_events_stream_that_could_lose_events_is_refused(bare, changed, named):
    made = await api(
        bare, "STREAM.CREATE.AGENTCOM_EVENTS", {**events_config(SMALL), **changed}
    )
    assert "error" not in made

    with pytest.raises(UnsafeStream, match=named) as refused:
        await provision(bare, SMALL)

    assert named in refused.value.wrong


async def test_the_lease_of_a_process_that_is_gone_leaves_nothing(bare):
    await provision(bare, SMALL)

    found = await config(bare, "KV_AGENTCOM_LEASE")

    assert found["max_msgs_per_subject"] == 1
    assert found["allow_msg_ttl"] is True
    assert not found.get("subject_delete_marker_ttl")


async def test_too_little_room_is_said_with_what_to_do(bare):
    with pytest.raises(ApiRefused, match="max_file") as refused:
        await provision(bare, Retention(output_max_bytes=2 * 1024**4))

    assert refused.value.error_code == 10047


async def test_the_streams_survive_a_restart(broker):
    broker.restart()
    admin = await broker.connect("admin")

    assert (await config(admin, "AGENTCOM_EVENTS"))["deny_purge"] is True


async def test_what_is_not_named_stays_as_it_is(bare):
    first = Retention(output_max_age_s=3600, output_max_bytes=1024**2)
    await provision(bare, first)

    await provision(bare, Retention(output_max_age_s=7200))
    after_days = await config(bare, "AGENTCOM_OUTPUT")
    await provision(bare)
    after_none = await config(bare, "AGENTCOM_OUTPUT")

    assert (after_days["max_age"], after_days["max_bytes"]) == (7200 * 10**9, 1024**2)
    assert after_none == after_days


class Cluster:
    """Answers as three servers would: what is asked for is what there is."""

    def __init__(self) -> None:
        self.streams: dict[str, dict] = {}

    async def request(self, subject, payload, timeout):
        verb, name = subject.removeprefix("$JS.API.STREAM.").split(".")
        if verb != "INFO":
            self.streams[name] = json.loads(payload)
        elif name not in self.streams:
            error = {"code": 404, "err_code": 10059, "description": "stream not found"}
            return SimpleNamespace(data=json.dumps({"error": error}).encode())
        answer = {"config": self.streams[name]}
        return SimpleNamespace(data=json.dumps(answer).encode())

    @property
    def replicas(self):
        return {name: config["num_replicas"] for name, config in self.streams.items()}


async def test_nobody_lowers_replicas_without_naming_them():
    cluster = Cluster()
    await provision(cluster, Retention(replicas=3))
    assert set(cluster.replicas.values()) == {3}

    await provision(cluster, Retention(output_max_age_s=7 * 24 * 3600))
    assert set(cluster.replicas.values()) == {3}

    # As a scheduler does that finds one missing.
    del cluster.streams["AGENTCOM_OUTPUT"]
    await provision(cluster, Retention())
    assert set(cluster.replicas.values()) == {3}

    await provision(cluster, Retention(replicas=1))
    assert set(cluster.replicas.values()) == {1}


@pytest.mark.parametrize("taken", ["agentcom.evt.>", "agentcom.out.h1.*", ">"])
async def test_a_stream_that_has_our_subjects_is_named(bare, taken):
    theirs = {"name": "THEIRS", "subjects": [taken], "storage": "file"}
    if taken == ">":
        theirs["no_ack"] = True
    made = await api(bare, "STREAM.CREATE.THEIRS", theirs)
    assert "error" not in made

    with pytest.raises(ApiRefused, match=r"overlap.*: THEIRS holds agentcom\."):
        await provision(bare, SMALL)


async def test_a_host_can_write_nothing_larger_than_an_event(broker):
    host = await broker.connect("host-h1")
    admin = await broker.connect("admin")
    for size, taken in ((MAX_EVENT_BYTES, True), (MAX_EVENT_BYTES + 8192, False)):
        answer = await host.request("agentcom.evt.host.h1", b" " * size, timeout=60)
        assert ("error" not in json.loads(answer.data)) is taken
    assert (await api(admin, "STREAM.INFO.AGENTCOM_EVENTS"))["state"]["messages"] == 1
