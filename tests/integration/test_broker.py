"""The broker as a child process: its store, its lock, its end."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from cli.local.broker import (
    Broker,
    FolderInUse,
    NoServer,
    ReloadRefused,
    StartFailed,
    find_server,
    machine_memory,
    reload,
    running_pid,
    server_environment,
)
from cli.local.instance import Instance


@pytest.fixture
def instance(tmp_path):
    instance = Instance(tmp_path / "instance")
    instance.prepare("127.0.0.1:-1", ["h1"])
    return instance


def ended(pid, timeout=60):
    """Wait for a process, ours or not, to be gone."""
    try:
        psutil.Process(pid).wait(timeout)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


async def test_an_acknowledged_event_survives_a_killed_server(broker):
    scheduler = await broker.connect("scheduler")
    stored = await scheduler.jetstream().publish("agentcom.evt.task.t1", b"{}")
    url = broker.url
    broker.kill()
    broker.restart()

    reader = await broker.connect("projections")
    found = await reader.jetstream().get_msg("AGENTCOM_EVENTS", stored.seq)

    assert found.subject == "agentcom.evt.task.t1"
    assert broker.url == url


async def test_a_paused_server_goes_on_where_it_stopped(broker):
    scheduler = await broker.connect("scheduler")
    broker.pause()
    storing = scheduler.jetstream().publish("agentcom.evt.task.t1", b"{}", timeout=60)
    broker.resume()

    assert (await storing).seq == 1


async def test_a_paused_server_can_be_stopped(broker):
    broker.pause()
    broker.stop()

    assert broker.pid is None


def test_a_second_server_on_the_same_store_is_refused(instance):
    first = Broker(instance)
    first.start()
    try:
        with pytest.raises(FolderInUse) as refused:
            Broker(Instance(instance.data)).start()
        assert refused.value.pid == first.pid
        assert str(instance.store) in str(refused.value)
    finally:
        first.stop()


def test_the_lock_goes_with_the_server_however_it_ends(instance):
    first = Broker(instance)
    first.start()
    first.kill()

    second = Broker(instance)
    second.start()
    second.stop()

    assert not second.running


@pytest.fixture
def by_hand(instance):
    """A server on the instance that AgentCom did not start: its log is elsewhere."""
    server = subprocess.Popen(
        [find_server(), "-c", "nats.conf"],
        cwd=instance.data,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in server.stderr:
            if "Server is ready" in line:
                break
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_a_server_started_by_hand_is_noticed(instance, by_hand):
    with pytest.raises(FolderInUse) as refused:
        Broker(instance).start()

    assert refused.value.pid == by_hand.pid


def test_a_server_started_by_hand_is_seen_to_reload(instance, by_hand):
    instance.record_url("nats://127.0.0.1:4222")
    instance.add_host("h2")
    assert reload(instance) is True

    instance.hosts_conf.write_text("users: [ { nkey: nonsense } ]\n")
    with pytest.raises(ReloadRefused, match=f"process {by_hand.pid} did not reload"):
        reload(instance, timeout=0.5)


def test_a_refused_reload_is_said_in_the_server_s_words(instance):
    server = Broker(instance)
    server.start()
    try:
        instance.add_host("h2")
        assert reload(instance) is True
        instance.hosts_conf.write_text("users: [ { nkey: nonsense } ]\n")
        with pytest.raises(
            ReloadRefused, match=r"Failed to reload.*Not a valid public"
        ):
            reload(instance)
        # An old refusal in the log is not the answer to a new signal.
        instance.add_host("h3")
        assert reload(instance) is True
    finally:
        server.stop()
    assert reload(instance) is False


PARENT = """
import sys, pathlib, time
from cli.local.broker import Broker
from cli.local.instance import Instance
broker = Broker(Instance(pathlib.Path(sys.argv[1])))
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_dies_with_its_parent(instance, number):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, instance.data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        ready, _, _ = select.select([parent.stdout], [], [], 30)
        assert ready
        server = int(parent.stdout.readline())
        os.kill(parent.pid, number)

    assert ended(server)


def test_a_port_that_is_taken_is_said_in_the_server_s_words(instance, tmp_path):
    first = Broker(instance)
    first.start()
    try:
        second = Instance(tmp_path / "second")
        second.prepare(first.instance.url.removeprefix("nats://"), ["h1"])
        with pytest.raises(StartFailed, match="address already in use"):
            Broker(second).start()
    finally:
        first.stop()


def test_a_broken_configuration_is_said_in_the_server_s_words(instance):
    instance.hosts_conf.write_text("users: [ { nkey: nonsense } ]\n")
    broker = Broker(instance)

    with pytest.raises(StartFailed, match="Not a valid public nkey"):
        broker.start()
    assert not broker.running


def test_a_named_program_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("AGENTCOM_NATS_SERVER", "/no/such/program")

    with pytest.raises(NoServer, match="/no/such/program"):
        find_server()


def test_the_wheel_s_program_is_found_without_a_path(monkeypatch):
    monkeypatch.delenv("AGENTCOM_NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")

    assert find_server().name == "nats-server"


@pytest.mark.parametrize(
    ("given", "cores", "threads"),
    [
        ({}, 1, "1"),
        ({}, 2, "1"),
        ({}, 3, None),
        ({}, 64, None),
        ({"GOMAXPROCS": "2"}, 2, "2"),
    ],
)
def test_a_small_machine_s_server_works_with_one_thread(given, cores, threads):
    made = server_environment({"PATH": "/bin", **given}, cores, 2**30)
    assert made["PATH"] == "/bin"
    assert made.get("GOMAXPROCS") == threads


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({}, str(4 * 2**30)),
        ({"GOMEMLIMIT": "1GiB"}, "1GiB"),
        ({"GOMEMLIMIT": "off"}, "off"),
    ],
)
def test_the_server_has_a_quarter_of_the_memory_or_what_the_operator_says(given, limit):
    assert server_environment(given, 4, 16 * 2**30)["GOMEMLIMIT"] == limit


@pytest.mark.parametrize(("given", "garbage"), [({}, "40"), ({"GOGC": "100"}, "100")])
def test_the_server_lets_little_garbage_lie_or_what_the_operator_says(given, garbage):
    assert server_environment(given, 4, 16 * 2**30)["GOGC"] == garbage


def test_the_server_is_started_with_that_environment(instance):
    server = Broker(instance)
    server.start()
    try:
        assert server.pid is not None
        there = psutil.Process(server.pid).environ()
        wanted = server_environment(os.environ, os.cpu_count() or 1, machine_memory())
        for name in ("GOMAXPROCS", "GOMEMLIMIT", "GOGC"):
            assert there.get(name) == wanted.get(name)
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["meta.inf", "meta.sum"])
async def test_a_stream_whose_description_is_damaged_is_made_whole(broker, name):
    scheduler = await broker.connect("scheduler")
    for n in range(3):
        await scheduler.jetstream().publish(f"agentcom.evt.task.t{n}", b"{}")
    await scheduler.close()
    broker.stop()
    (damaged,) = broker.instance.store.rglob(f"AGENTCOM_EVENTS/{name}")
    damaged.write_bytes(b"")

    broker.start()
    assert "AGENTCOM_EVENTS" in broker._broker.unrecovered
    await broker.provision()

    reader = await broker.connect("projections")
    info = await reader.jetstream().stream_info("AGENTCOM_EVENTS")
    assert (info.state.messages, info.state.last_seq) == (3, 3)
    assert info.config.deny_delete
    await reader.close()
    broker.restart()
    assert broker._broker.unrecovered == ""


def test_a_server_that_stays_sick_is_asked_seldom_and_its_reason_said(
    instance, monkeypatch
):
    asked = []

    def sick(monitoring, path):
        asked.append(path)
        return 503, b'{"status":"unavailable","error":"JetStream is not current"}'

    monkeypatch.setattr("cli.local.broker._get", sick)
    with pytest.raises(
        StartFailed, match=r"not healthy yet \(JetStream is not current"
    ):
        Broker(instance).start(timeout=2)
    assert len(asked) < 25


def test_a_number_that_belongs_to_another_s_server_is_not_ours(instance, tmp_path):
    other = Instance(tmp_path / "other")
    other.prepare("127.0.0.1:-1", ["h1"])
    stranger = Broker(other)
    stranger.start()
    try:
        instance.pid_file.write_text(other.pid_file.read_text())
        assert running_pid(instance) is None
        assert running_pid(other) == stranger.pid
        # Neither told to read its configuration anew, nor in the way.
        assert reload(instance) is False
        server = Broker(instance)
        server.start()
        assert running_pid(instance) == server.pid
        server.stop()
        assert "eload" not in other.log_file.read_text()
    finally:
        stranger.stop()


@pytest.mark.parametrize(
    "text",
    ["1", pytest.param(str(os.getpid()), id="ours"), "-3", "9" * 30, "", "x"],
)
def test_a_number_that_is_no_server_s_is_not_ours(instance, text):
    instance.pid_file.write_text(text)
    assert running_pid(instance) is None


def test_a_server_with_a_configuration_of_its_own_is_known_by_its_store(instance):
    own = instance.data / "mine.conf"
    own.write_text(
        f'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
        f'pid_file: "{instance.pid_file}"\njetstream: {{store_dir: "{instance.store}"}}\n'
    )
    server = subprocess.Popen(
        [find_server(), "-c", own], stderr=subprocess.PIPE, text=True
    )
    try:
        for line in server.stderr:
            if "Server is ready" in line:
                break
        assert running_pid(instance) == server.pid
    finally:
        server.terminate()
        server.communicate(timeout=60)


async def test_the_server_s_own_log_is_bounded_while_it_runs(instance):
    instance.site_conf.write_text("logfile_size_limit: 4KB\ndebug: true\n")
    server = Broker(instance)
    server.start()
    try:
        port = int(instance.url.rpartition(":")[2])
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readline()
            writer.close()
            await writer.wait_closed()
        logs = list(instance.data.glob("nats-server.log*"))
        assert len(logs) > 1
        assert all(each.stat().st_size < 16_384 for each in logs)
        assert len(logs) <= 3
        instance.add_host("h2")
        assert reload(instance) is True
    finally:
        server.stop()
