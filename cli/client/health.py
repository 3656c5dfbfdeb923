"""What `agentcom doctor` asks of the running system: each check is one finding."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from cli.client.connection import ABSENT_FOR_S, NotRunning, Session
from cli.render.fleet import tier_state
from cli.render.terminal import Problem, many, size
from events import subjects
from events.beats import SKEW_S
from events.codec import instant
from events.commands import Classified
from events.errors import AgentComError, LogUnavailable, Unreachable
from events.nats.api import STREAM_NOT_FOUND

if TYPE_CHECKING:
    from events.nats.link import LinkMessage
    from projections.answers import HostsAnswer, StatusAnswer

Status = Literal["ok", "warn", "fail"]
LEADER_S: Final = 1.0
OTHERS_S: Final = 0.3
"""Those that stand by may answer so much later than the leader."""
NO_SCHEDULER: Final = "no scheduler answers"
START_SCHEDULER: Final = "start `agentcom scheduler`, or everything with `agentcom up`"
PROBE_S: Final = 5.0
"""How long a server or program may take to answer."""
FILES_FULL: Final = 0.8
"""Of its store: from here on files are warned of."""


class Check(Struct, frozen=True):
    """One finding. `advice` says what to do where it is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""


async def streams(client: Session) -> Check:
    """Whether log and output have their streams, whole and safe from being shortened."""
    if not client.may_read:
        return Check("streams", "ok", f"not looked at: {client.role} may not")
    try:
        info = await _stream(client, subjects.EVENTS)
        output = await _stream(client, subjects.OUTPUT)
    except AgentComError as error:
        return Check("streams", "fail", str(error), _way_out(error))
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


def _way_out(error: AgentComError) -> str:
    """Say what to do about a stream that does not answer, or is not there."""
    if isinstance(error, LogUnavailable | Unreachable):
        return (
            "wait a few seconds: servers of a cluster may be choosing a leader; if it "
            "stays so, start those that are down, and look at the brokers' logs"
        )
    return "make them with `agentcom provision`"


SILENT_S: Final = 6.0
"""A server of a cluster that its leader has not heard for longer is down: it answers each second."""


def replicas_unwell(info: dict[str, Any]) -> tuple[Status, str, str] | None:
    """Judge a replicated stream by what the server says of it: status, finding, advice.

    None where every server has all of it. The fields are those of `STREAM.INFO`:
    https://docs.nats.io/reference/reference-protocols/nats_api_reference
    """
    cluster = info.get("cluster", {})
    others = cluster.get("replicas") or []
    copies = info["config"].get("num_replicas", 1)
    # One that was killed is called offline only much later.
    silent_s = _leads_s(info)
    down = [
        each["name"]
        for each in others
        if each.get("offline")
        or each.get("active", 0) > SILENT_S * 1e9
        # A leader says 0 of a server that it has never heard since it leads.
        or (each.get("active") == 0 and not each.get("current") and silent_s > SILENT_S)
    ]
    late = [
        f"{each['name']} by {each.get('lag', 0):,}"
        for each in others
        if each["name"] not in down and not each.get("current")
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
        finding = f"led by {leader}; behind: {', '.join(late)}"
        return "warn", finding, "wait for them before you stop another server"
    return None


def _leads_s(info: dict[str, Any]) -> float:
    """For how long a stream's leader leads, by its own clock; 0 where it does not say."""
    since, at = info["cluster"].get("leader_since"), info.get("ts")
    return instant(at) - instant(since) if since and at else 0.0


async def files(client: Session) -> list[Check]:
    """How full the store of files is: a full one refuses what is attached."""
    if not client.may_read:
        return []
    try:
        info = await _stream(client, subjects.FILES_STREAM)
    except AgentComError as error:
        advice = f"{_way_out(error)}; until then no file can be attached"
        return [Check("files", "warn", str(error), advice)]
    return [fullness(info)]


def fullness(info: dict[str, Any]) -> Check:
    """Judge how full the store is, by what the server says of its stream."""
    used, room = info["state"]["bytes"], info["config"].get("max_bytes", -1)
    if room <= 0:
        return Check("files", "ok", f"{size(used)} of tasks' files, without a limit")
    finding = f"{size(used)} of {size(room)} for tasks' files, {used * 100 // room} %"
    if used < room * FILES_FULL:
        return Check("files", "ok", finding)
    days = info["config"].get("max_age", 0) // 10**9 // 86_400
    forgotten = f"each file goes {days} days after it came; " if days else ""
    return Check(
        "files",
        "warn",
        finding,
        f"{forgotten}once it is full, tasks with new files are refused",
    )


async def _stream(client: Session, name: str) -> dict[str, Any]:
    answer = await client.link.call(f"$JS.API.STREAM.INFO.{name}", b"", timeout=PROBE_S)
    info = msgspec.json.decode(answer.data, type=dict[str, Any])
    problem = info.get("error")
    if problem and problem.get("err_code") != STREAM_NOT_FOUND:
        raise LogUnavailable(f"look at {name}", str(problem.get("description")))
    if problem:
        raise AgentComError(f"there is no stream {name}")
    return info


async def rights(client: Session) -> Check:
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


async def scheduler(client: Session) -> list[Check]:
    """Whether a scheduler answers, and by the same clock as this machine's."""
    began = time.monotonic()
    try:
        await client.command(
            "task.classify",
            {"description": "doctor"},
            Classified,
            absent_for=ABSENT_FOR_S,
        )
    except NotRunning:
        return [Check("scheduler", "fail", NO_SCHEDULER, START_SCHEDULER)]
    except Problem as error:
        return [Check("scheduler", "fail", error.message, START_SCHEDULER)]
    took = (time.monotonic() - began) * 1000
    checks = [Check("scheduler", "ok", f"answers, {took:.1f} ms")]
    told = await client.schedulers_time()
    if told is None:
        unknown = "the scheduler does not tell its time"
        advice = "one of an older version does not: update it"
        return [*checks, Check("clock", "warn", unknown, advice)]
    ahead_s = told - time.time()
    if abs(ahead_s) <= SKEW_S:
        return [
            *checks,
            Check("clock", "ok", f"within {SKEW_S:g} s of the scheduler's"),
        ]
    where = "ahead of" if ahead_s > 0 else "behind"
    skew = f"the scheduler's clock is {abs(ahead_s):.1f} s {where} this one"
    advice = "set both machines' clocks by NTP: deadlines and waits rely on them"
    return [*checks, Check("clock", "warn", skew, advice)]


async def leader(client: Session) -> Check:
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
        if answers:
            await asyncio.sleep(OTHERS_S)
    except TimeoutError:
        advice = (
            "wait a few seconds; if it stays so, the log takes no writes: look at the "
            "broker's log and its disk (a broker that met a full disk must be restarted)"
        )
        problem = (
            f"none of {many(len(answers), 'scheduler')} leads"
            if answers
            else NO_SCHEDULER
        )
        return Check("leader", "fail", problem, advice)
    finally:
        await listening.stop()
    if not answers:
        return Check("leader", "fail", NO_SCHEDULER, START_SCHEDULER)
    (name,) = [one["instance"] for one in answers if one.get("leading") == "true"][:1]
    standing_by = len(answers) - 1
    more = f", {standing_by} standing by" if standing_by else ""
    return Check("leader", "ok", name + more)


def read_models(status: StatusAnswer) -> Check:
    """Whether the read models know all of the log, and understand it."""
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


def fleet(fleet: HostsAnswer) -> list[Check]:
    """What is to be said of the hosts, their clocks, journals and models, and the tiers."""
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
            finding = f"{each.host}: {each.journal_lost}"
            advice = "results that it had not delivered are gone; look at its disk"
            checks.append(Check("journal", "warn", finding, advice))
        notices = [one.notice for one in each.endpoints if one.notice]
        if notices and each.state in ("up", "draining"):
            finding = f"{each.host}: {'; '.join(notices)}"
            advice = (
                "name a model that is there: `agentcom policy set claude_model=sonnet`; "
                "the next run shows whether it is"
            )
            checks.append(Check("Claude model", "warn", finding, advice))
        ahead_s = each.clock_ahead_s
        if ahead_s is not None and abs(ahead_s) > SKEW_S:
            where = "ahead" if ahead_s > 0 else "behind"
            finding = f"the clock of {each.host} is {abs(ahead_s):.1f} s {where}"
            advice = "set its clock by NTP: times that it writes are read by people"
            checks.append(Check("clock", "warn", finding, advice))
    for tier in fleet.tiers:
        status: Status = "warn" if tier.condition in ("down", "limited") else "ok"
        checks.append(Check(f"tier {tier.tier}", status, tier_state(tier)))
    return checks
