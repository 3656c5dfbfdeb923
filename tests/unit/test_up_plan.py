"""What `agentcom up` chooses before it starts, and how it says what it found."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

import click
import pytest
from msgspec.structs import replace

from cli.commands.roles import web
from cli.commands.up import plan_for
from cli.local.holders import part_of_an_instance, require_free
from cli.local.instance import Instance
from cli.local.roles import host_credentials, sidecar_config, web_url
from cli.local.served import ServedRole
from cli.local.supervisor import SETTLED_S, SHARED_S, Everything, is_unsettled
from cli.render.fleet import _local
from cli.render.terminal import Problem
from projections.answers import HostRow, HostsAnswer, TierRow
from projections.fleet import EndpointView, SharedView
from sidecar.config import SidecarConfig


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setenv("AGENTCOM_DATA", str(tmp_path / "data"))
    return Instance(tmp_path / "data")


def chosen(
    instance: Instance, nats_port: int | None = None, listen: str | None = None
) -> str:
    plan = plan_for(instance, 8080, nats_port, listen, "h1", None)
    return f"{plan.nats_host}:{plan.nats_port}"


def test_the_broker_listens_on_loopback_at_first(instance: Instance) -> None:
    assert chosen(instance) == "127.0.0.1:4222"


@pytest.mark.parametrize("address", ["0.0.0.0:4522", "[::]:4522", "10.1.2.3:4522"])
def test_the_address_chosen_before_is_kept(instance: Instance, address: str) -> None:
    instance.prepare(address)

    assert chosen(instance) == address
    assert chosen(instance, nats_port=4600) == address.replace("4522", "4600")


@pytest.mark.parametrize(
    "line",
    [
        'LISTEN: "0.0.0.0:4522"',
        "LISTEN = '0.0.0.0:4522'  # for the others",
        'LISTEN "0.0.0.0:4522"',
        "  LISTEN: 0.0.0.0:4522;",
        'LISTEN: ":4522"',
        "LISTEN: 4522",
    ],
)
def test_what_a_person_writes_into_local_conf_is_kept(
    instance: Instance, line: str
) -> None:
    instance.prepare()
    own = instance.local_conf.read_text()
    instance.local_conf.write_text(own.replace('LISTEN: "127.0.0.1:4222"', line))

    assert chosen(instance) == "0.0.0.0:4522"


def test_an_address_that_is_said_wins(instance: Instance) -> None:
    instance.prepare("127.0.0.1:4333")

    assert chosen(instance, listen="0.0.0.0:4522") == "0.0.0.0:4522"
    assert not chosen(instance, listen="0.0.0.0:0").endswith(":0")


@pytest.mark.parametrize(
    "address", ["here", "0.0.0.0:", "0.0.0.0:http", "a b:1", "a:70000"]
)
def test_an_address_that_is_none_is_refused(instance: Instance, address: str) -> None:
    with pytest.raises(click.UsageError, match="HOST:PORT"):
        chosen(instance, listen=address)


def test_a_machine_that_is_called_otherwise_is_still_its_host(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "alpha.example.org")
    plan = plan_for(instance, 8080, 4222, None, None, None)
    assert plan.host == "alpha"
    instance.prepare("127.0.0.1:4222", ["alpha"])
    (instance.data / "journal-alpha.db").touch()
    monkeypatch.setattr("socket.gethostname", lambda: "beta")
    assert plan_for(instance, 8080, 4222, None, None, None).host == "alpha"
    assert host_credentials(SidecarConfig(), chosen=False).host == "alpha"
    # Also where a key for the new name was made meanwhile: it has never worked.
    instance.prepare("127.0.0.1:4222", ["beta"])
    assert plan_for(instance, 8080, 4222, None, None, None).host == "alpha"
    assert plan_for(instance, 8080, 4222, None, "gamma", None).host == "gamma"


def test_its_journal_is_looked_for_where_its_sidecar_keeps_it(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    instance.prepare("127.0.0.1:4222", ["alpha", "beta"])
    work = tmp_path / "work"
    work.mkdir()
    (work / "journal-alpha.db").touch()
    (instance.data / "sidecar.toml").write_text(f'data = "{work}"\n')
    monkeypatch.setattr("socket.gethostname", lambda: "beta")
    assert plan_for(instance, 8080, 4222, None, None, None).host == "alpha"
    config = sidecar_config(None, None)
    assert host_credentials(config, chosen=False).host == "alpha"


def test_the_port_is_said_once(instance: Instance) -> None:
    with pytest.raises(click.UsageError, match="--nats-port"):
        chosen(instance, nats_port=4222, listen="0.0.0.0:4522")


def test_an_address_of_another_machine_is_not_called_taken() -> None:
    with pytest.raises(Problem, match=r"nobody can listen on 192\.0\.2\.77:4522"):
        require_free(4522, "--nats-port", "192.0.2.77")


def test_the_dashboard_s_address_names_one_listener_and_keeps_its_token_to_itself(
    instance: Instance,
) -> None:
    everything = Everything(
        instance, plan_for(instance, 8080, 4222, None, "h1", None), print
    )
    instance.data.mkdir()
    assert everything.url == "http://127.0.0.1:8080"
    (instance.data / "web-tokens.json").write_text(
        json.dumps({"operator": "a+b/c&d=" * 4, "viewer": "v" * 16})
    )
    bare, _, fragment = everything.url.partition("#")
    assert bare == "http://127.0.0.1:8080/"
    assert parse_qs(fragment) == {"token": ["a+b/c&d=" * 4]}


def test_web_is_started_with_the_dashboard_s_names_and_path(instance: Instance) -> None:
    plan = plan_for(instance, 8080, 4222, None, "h1", None)
    names = ("fleet.example", "*")
    everything = Everything(
        instance, replace(plan, web_names=names, base="/fleet"), print
    )
    assert everything.url == "http://127.0.0.1:8080/fleet"
    arguments = everything.children["web"].arguments
    context = web.make_context("web", list(arguments))
    assert context.params["names"] == names
    assert context.params["base"] == "/fleet"


@pytest.mark.parametrize(
    ("path", "base"),
    [("", ""), ("/", ""), ("fleet", "/fleet"), ("/a/b.c/", "/a/b.c"), ("..", None),
     ("/a/../b", None), ("/a//b", None), ("/a?b", None), ("/{x}", None), ("//h", "/h")],
)  # fmt: skip
def test_a_base_path_is_a_plain_one(path: str, base: str | None) -> None:
    if base is None:
        with pytest.raises(click.BadParameter, match="not a path"):
            web.make_context("web", ["--base-path", path])
    else:
        assert web.make_context("web", ["--base-path", path]).params["base"] == base


def test_the_name_option_of_web_stays(instance: Instance) -> None:
    context = web.make_context("web", ["--name", "a", "--web-name", "b"])
    assert context.params["names"] == ("a", "b")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("10.1.2.3", "http://10.1.2.3:80"),
    ],
)
def test_an_address_is_said_as_it_is_listened_on(address: str, url: str) -> None:
    assert web_url(address, 80) == url


def test_a_shared_server_that_was_never_reached_is_named_with_its_address() -> None:
    down = EndpointView("gpu", "ollama", up=False, since="", reason="refused")

    _, said, _ = _local([down], {"gpu": "http://gpu.example:11434"})
    assert said == "ollama at http://gpu.example:11434 is down: refused"
    _, said, _ = _local([down], {})
    assert said == "ollama at gpu is down: refused"


def test_a_shared_server_that_hangs_is_named_beside_those_that_answer() -> None:
    lab = EndpointView(
        "lab", "ollama", up=True, since="", url="http://x:1", models=["m"]
    )
    _, said, _ = _local([lab], {"lab": "http://x:1", "gpu": "http://gpu:11434"})
    assert said == (
        "ollama at http://x:1: m; gpu at http://gpu:11434 has not answered yet "
        "(`agentcom endpoints list`)"
    )


def test_a_server_of_another_kind_is_not_called_ollama() -> None:
    lab = EndpointView(
        "lab", "openai", up=True, since="", url="http://x:1", models=["m"]
    )
    gpu = EndpointView("gpu", "ollama", up=False, since="", reason="refused")
    assert _local([lab], {}) == ("Models", "openai at http://x:1: m", "")
    assert _local([gpu, lab], {})[0] == "Models"
    assert _local([gpu], {})[0] == "Ollama"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("kill -9 $$", "web was ended by SIGKILL; starting it again in 0.2 s"),
        ("exit 3", "web ended with status 3; starting it again in 0.2 s: old news"),
    ],
)
async def test_a_killed_role_is_not_explained_by_an_old_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, said: str
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{last}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    log = tmp_path / "logs" / "web.log"
    log.parent.mkdir()
    log.write_text("old news\n")
    heard: list[str] = []
    child: ServedRole

    def hear(text: str) -> None:
        heard.append(text)
        child._stopping = True

    child = ServedRole("web", [], log, hear)
    child.start()
    assert child._keeping is not None
    await child._keeping

    (line,) = heard
    assert line.startswith(said)
    assert ("old news" in line) == ("status" in line)


def test_a_command_line_tells_which_instance_has_a_port(tmp_path: Path) -> None:
    Instance(tmp_path).prepare("127.0.0.1:4333")
    broker = ["/usr/bin/nats-server", "-c", str(tmp_path / "nats.conf"), "-l", "x.log"]
    assert part_of_an_instance(broker, 4333) == ("broker", tmp_path)
    assert part_of_an_instance(broker, 433) is None
    somebodys = ["nats-server", "-c", "/etc/nats/nats.conf"]
    assert part_of_an_instance(somebodys, 4333) is None
    web = ["python", "-P", "-m", "agentcom", "web", "--data", "/d", "--port=4000"]
    assert part_of_an_instance(web, 4000) == ("dashboard", Path("/d"))
    assert part_of_an_instance(web, 400) is None
    assert part_of_an_instance(["/bin/agentcom", *web[4:]], 4000) is not None
    assert part_of_an_instance(["python", "-m", "http.server", "4000"], 4000) is None
    assert part_of_an_instance([], 4000) is None


def test_a_port_that_nobody_explains_is_taken_by_another_program() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Problem, match=f"port {port} is taken by") as refused:
            require_free(port, "--port")
        assert f"process {os.getpid()}" in refused.value.message


@pytest.mark.parametrize(
    ("state", "offered", "shared", "unsettled_s"),
    [
        ("unknown", "up", "", 0),
        ("up", "up", "", 0),
        ("down", "down", "", 0),
        ("down", "up", "", SETTLED_S),
        ("up", "up", "gpu", SHARED_S),
        ("down", "up", "gpu", SETTLED_S),
        ("up", "up", "o1", 0),
    ],
)
def test_up_says_how_tiers_stand_once_the_log_says_what_the_host_has(
    state: Literal["unknown", "up", "down"],
    offered: str,
    shared: str,
    unsettled_s: float,
) -> None:
    row = HostRow(
        host="h1", state="up", since="", reason="", incarnation="", joined_at="",
        version="", platform="", slots={}, in_flight=0, in_flight_by_endpoint={},
        capabilities=[], repos=[], default_repo=None,
        endpoints=[EndpointView("o1", "ollama", up=True, since="")],
        resources=None, outbox=None, ram_bytes=None,
    )  # fmt: skip
    added = [SharedView(shared, "ollama", "", 1, "")] if shared else []
    tier = TierRow("standard", state, offered=offered)
    fleet = HostsAnswer(
        seq=1, hosts=[row], shared_endpoints=added, models=[], tiers=[tier],
        alerts=[], leader="", epoch=1, policy_version=0,
    )  # fmt: skip
    times = (0.0, SHARED_S, SETTLED_S)
    waits = [is_unsettled(fleet, "h1", waited_s) for waited_s in times]
    assert waits == [waited_s < unsettled_s for waited_s in times]


def test_a_host_that_was_forgotten_meanwhile_ends_no_start() -> None:
    added = [SharedView("gpu", "ollama", "", 1, "")]
    fleet = HostsAnswer(
        seq=1, hosts=[], shared_endpoints=added, models=[], tiers=[],
        alerts=[], leader="", epoch=1, policy_version=0,
    )  # fmt: skip
    assert is_unsettled(fleet, "h1", 0.0)
    assert not is_unsettled(fleet, "h1", SHARED_S)
