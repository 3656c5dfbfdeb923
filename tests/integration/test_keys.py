"""`agentcom keys` and `agentcom host`: files, modes, and whether the broker agrees."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import stat
import subprocess

import nats
import pytest
from click.testing import CliRunner

from cli.commands.keys import host, keys, provision
from cli.local.broker import Broker, find_server
from cli.local.instance import (
    ROLES,
    Instance,
    NoAddress,
    NoCredentials,
    UnknownRole,
    data_folder,
    explicit_credentials,
    shipped_conf,
)
from events.errors import BadToken, LogUnavailable
from events.nats.link import Link
from tests.support.ports import free_port


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    monkeypatch.setenv("AGENTCOM_DATA", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def run(command, *arguments):
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_the_owner_s_alone(data):
    run(keys, "--host", "h1")

    seeds = sorted(path.name for path in (data / "keys").glob("*.nk"))
    assert seeds == sorted([*(f"{role}.nk" for role in ROLES), "host-h1.nk"])
    assert {mode(data), mode(data / "keys")} == {0o700}
    assert {mode(path) for path in (data / "keys").iterdir()} == {0o600}


def test_keys_once_made_are_kept(data):
    run(keys)
    before = {path.name: path.read_text() for path in (data / "keys").iterdir()}

    run(keys)

    assert {p.name: p.read_text() for p in (data / "keys").iterdir()} == before


def test_each_role_is_shown_with_its_nats_command_line(data):
    shown = json.loads(run(keys, "--json", "--listen", "127.0.0.1:4333"))

    operator = next(one for one in shown["roles"] if one["role"] == "operator")
    assert operator["nats"] == (
        "nats --server nats://127.0.0.1:4333 "
        f"--nkey {data}/keys/operator.nk --inbox-prefix _INBOX_operator"
    )
    assert operator["nats"] in run(keys)


def test_the_shipped_configuration_runs_where_it_lies(data, tmp_path):
    (tmp_path / "nats.conf").write_bytes(shipped_conf().read_bytes())

    shown = run(keys, "--host", "h1")

    assert f"broker        {find_server()} -c {tmp_path}/nats.conf\n" in shown
    for folder in (tmp_path, data):
        checked = subprocess.run(
            [find_server(), "-c", "nats.conf", "-t"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr


def test_a_file_in_the_way_of_a_link_is_left_alone(data, tmp_path):
    (tmp_path / "nats.conf").write_bytes(shipped_conf().read_bytes())
    (tmp_path / "local.conf").write_text("mine")

    done = CliRunner().invoke(keys)

    assert done.exit_code == 1
    assert "local.conf" in done.output
    assert (tmp_path / "local.conf").read_text() == "mine"


def test_another_s_nats_conf_gets_no_links(data, tmp_path):
    (tmp_path / "nats.conf").write_text("port: 4222\n")

    run(keys)

    assert not (tmp_path / "local.conf").exists()


def test_a_host_is_added_once_and_can_be_removed(data):
    run(keys, "--host", "h1")
    added = json.loads(run(host, "add", "h2", "--json"))
    run(host, "add", "h2")

    assert json.loads(run(host, "keys", "--json")) == ["h1", "h2"]
    assert added["inbox_prefix"] == "_INBOX_h2"
    assert added["broker_reloaded"] is False
    run(host, "remove", "h2")
    assert json.loads(run(host, "keys", "--json")) == ["h1"]
    assert "h2" not in (data / "hosts.conf").read_text()


@pytest.mark.parametrize("name", ["h.1", "h 1", "", "h*", ">", "ü", "x" * 65])
def test_a_host_s_name_is_a_token(data, name):
    done = CliRunner().invoke(host, ["add", "--", name])

    assert done.exit_code == 2
    with pytest.raises(BadToken):
        Instance(data).add_host(name)


def test_a_host_whose_seed_has_moved_away_may_still_connect(data):
    run(keys, "--host", "h1")
    seed = data / "keys" / "host-h1.nk"
    listed = (data / "hosts.conf").read_text()
    seed.unlink()

    run(host, "add", "h1")

    assert not seed.exists()
    assert (data / "hosts.conf").read_text() == listed


@pytest.mark.parametrize("damage", [b"garbage\n", b"", b"\xff\xfe\x00", None])
def test_a_file_that_holds_no_key_is_named(data, damage):
    run(keys)
    seed = data / "keys" / "operator.nk"
    whole = seed.read_bytes()
    seed.write_bytes(whole.replace(b"SU", b"SUA", 1) if damage is None else damage)
    with pytest.raises(NoCredentials, match=r"operator\.nk holds no key \(expected"):
        Instance(data).credentials("operator").address()
    with pytest.raises(NoCredentials, match="holds no key"):
        explicit_credentials(None, seed)
    with pytest.raises(NoCredentials, match=r"operator\.nk holds no key \(expected"):
        Instance(data).prepare()
    seed.write_bytes(whole)
    assert explicit_credentials(None, seed).address().seed == seed


def test_the_streams_of_a_running_broker_are_made_by_command(broker):
    shown = run(
        provision,
        *("--data", str(broker.instance.data), "--output-gib", "0.05"),
    )

    assert shown == "streams ready\n"


def test_the_streams_of_a_broker_elsewhere_are_made_where_it_is_said_to_be(
    broker, tmp_path, monkeypatch
):
    """As in compose.yaml: the folder knows the keys, another machine is the broker."""
    there, here = broker.instance, Instance(tmp_path / "copied")
    shutil.copytree(there.keys, here.keys)
    here.record_url("nats://127.0.0.1:1")
    monkeypatch.setenv("AGENTCOM_DATA", str(here.data))
    monkeypatch.setenv("AGENTCOM_NATS", there.url)
    assert run(provision) == "streams ready\n"
    here.keys.joinpath("admin.nk").rename(tmp_path / "admin.nk")
    monkeypatch.setenv("AGENTCOM_CREDS", str(tmp_path / "admin.nk"))
    assert run(provision) == "streams ready\n"


def test_a_broker_that_is_not_there_is_said(broker):
    broker.stop()

    done = CliRunner().invoke(provision, ["--data", str(broker.instance.data)])

    assert done.exit_code == 1
    assert broker.url in done.output


async def test_a_running_broker_is_told_of_a_new_host(broker):
    added = run(host, "add", "h9", "--json", "--data", str(broker.instance.data))

    assert json.loads(added)["broker_reloaded"] is True


async def test_a_seed_file_alone_is_enough_elsewhere(broker, tmp_path):
    moved = tmp_path / "host-h1.nk"
    moved.write_bytes((broker.instance.keys / "host-h1.nk").read_bytes())

    credentials = explicit_credentials(broker.url, moved)
    connection = await nats.connect(**credentials.connect_options())
    stored = await connection.request("agentcom.evt.host.h1", b"{}")
    await connection.close()

    assert credentials.host == "h1"
    assert json.loads(stored.data)["seq"] == 1


def test_a_seed_file_named_after_no_role_is_refused(tmp_path):
    stray = tmp_path / "somebody.nk"
    stray.write_text("SU")

    with pytest.raises(UnknownRole, match=r"host-NAME\.nk"):
        explicit_credentials("nats://127.0.0.1:4222", stray)
    with pytest.raises(NoCredentials, match=r"none\.nk"):
        explicit_credentials("nats://127.0.0.1:4222", tmp_path / "none.nk")


def test_the_data_folder_is_the_option_s_then_the_environment_s(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTCOM_DATA", str(tmp_path / "environment"))

    assert data_folder(tmp_path / "option") == tmp_path / "option"
    assert data_folder() == tmp_path / "environment"
    monkeypatch.delenv("AGENTCOM_DATA")
    assert data_folder().name == "agentcom"


def test_an_instance_that_was_never_started_says_so(tmp_path):
    with pytest.raises(NoAddress, match="agentcom up"):
        Instance(tmp_path).credentials("operator")


@pytest.fixture
def certificate(data):
    """A certificate for this machine, and its key, as TLS in the operator's file."""
    run(keys, "--host", "h1", "--listen", f"0.0.0.0:{free_port()}")
    pem, key = data / "server.pem", data / "server-key.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", key, "-out", pem),
        ],
        check=True,
        capture_output=True,
    )
    (data / "site.conf").write_text(
        f'tls: {{ cert_file: "{pem}", key_file: "{key}" }}\n'
    )
    return pem


async def test_tls_in_the_operator_s_file_stays_and_takes_effect(
    data, certificate, monkeypatch
):
    instance = Instance(data)
    before = instance.site_conf.read_text()
    run(keys, "--listen", instance.listen)
    run(host, "add", "h2")
    assert instance.site_conf.read_text() == before

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Broker(instance)
    server.start()
    try:
        assert instance.url.startswith("tls://127.0.0.1:")
        link = await Link.connect(instance.credentials("host-h2").address())
        ended = link._client._transport._io_writer.transport.get_protocol()
        # What returns true here has the loop warn on each command's stderr.
        assert not ended.eof_received()
        await link.close()
        monkeypatch.delenv("SSL_CERT_FILE")
        # It is said at once: an hour would change nothing.
        async with asyncio.timeout(60):
            with pytest.raises(
                LogUnavailable, match="issuer is not known here: SSL_CERT_FILE"
            ):
                await Link.connect(
                    instance.credentials("host-h2").address(), timeout=3600
                )
    finally:
        server.stop()
    # What the command line tells other machines is the same.
    assert "tls://127.0.0.1:" in run(keys)


def changed_address(instance):
    """Let the operator choose another address while the broker runs."""
    instance.prepare(f"127.0.0.1:{free_port()}")
    instance.record_url("nats://127.0.0.1:4222")


async def test_a_broker_that_refuses_to_reload_is_not_said_to_know_the_host(broker):
    where = ("--data", str(broker.instance.data))
    changed_address(broker.instance)

    added = CliRunner().invoke(host, ["add", "h9", *where])
    shown = CliRunner().invoke(host, ["add", "h9", "--json", *where])
    removed = CliRunner().invoke(host, ["remove", "h1", *where])

    assert [each.exit_code for each in (added, shown, removed)] == [1, 1, 1]
    assert "knows it now" not in added.output
    assert "must be restarted to know it: Failed to reload server" in added.output
    assert json.loads(shown.output)["broker_reloaded"] is False
    assert "not supported" in json.loads(shown.output)["broker_refused"]
    assert "still lets h1 in and must be restarted: Failed" in removed.output


@pytest.mark.parametrize(
    ("listen", "said", "url"),
    [
        ("127.0.0.1:4333", "other machines cannot", None),
        ("[::1]:4333", "other machines cannot", None),
        ("0.0.0.0:4333", "nats://broker.example:4333", "nats://broker.example:4333"),
        ("[::]:4333", "nats://broker.example:4333", "nats://broker.example:4333"),
        ("10.1.2.3:4333", "nats://10.1.2.3:4333", "nats://10.1.2.3:4333"),
    ],
)
def test_a_new_machine_is_told_an_address_that_it_can_reach(
    data, monkeypatch, listen, said, url
):
    monkeypatch.setattr(socket, "gethostname", lambda: "broker.example")
    run(keys, "--host", "h1", "--listen", listen)

    shown = run(host, "add", "h2")

    assert said in shown
    assert ("127.0.0.1" in shown) == (listen == "127.0.0.1:4333")
    assert json.loads(run(host, "add", "h2", "--json"))["remote_url"] == url


@pytest.mark.parametrize("name", ["localhost", "localhost.localdomain", ""])
def test_a_machine_without_a_name_gets_a_word_to_replace(data, monkeypatch, name):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    run(keys, "--host", "h1", "--listen", "0.0.0.0:4333")

    assert "--nats nats://THIS-HOST:4333" in run(host, "add", "h2")


async def test_a_key_s_file_may_name_the_servers(broker, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTCOM_DATA", str(tmp_path / "nowhere"))
    moved = tmp_path / "operator.nk"
    seed = broker.credentials("operator").seed_path.read_text()
    dead = "nats://127.0.0.1:1"
    moved.write_text(f"# the cluster\n{dead}\n{broker.url}\n\n{seed}\n")

    credentials = explicit_credentials(None, moved)
    assert credentials.url == f"{dead},{broker.url}"
    for url in (None, f"{dead}, {broker.url}"):
        link = await Link.connect(explicit_credentials(url, moved).address())
        assert link.up
        await link.close()
    connection = await nats.connect(**credentials.connect_options())
    await connection.close()
