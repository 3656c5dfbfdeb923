"""The fleet for people: hosts, endpoints, tiers, and what `agentcom up` has found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from cli.render.terminal import (
    STATE_STYLE,
    TIER_STYLE,
    age,
    cell,
    columns_for,
    console,
    line_of,
    local,
    local_time,
    size,
    table,
    utc_now,
)
from events.beats import SKEW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from projections.answers import HostRow, HostsAnswer, TierRow
    from projections.fleet import EndpointView


def describe(
    fleet: HostsAnswer, name: str, places: Mapping[str, str], *, hint: bool = True
) -> None:
    """Print what the host `name` has found; `places` say where the rest is.

    With a hint of what to do with it.
    """
    screen = console()
    host = next(each for each in fleet.hosts if each.host == name)
    slots = ", ".join(f"{count} {kind}" for kind, count in host.slots.items())
    lines: list[tuple[str, str, str]] = [("host", f"{host.host}: {slots} at once", "")]
    shared = {each.endpoint: each.url for each in fleet.shared_endpoints}
    lines += [_local(host.endpoints, shared), _claude(host.endpoints)]
    lines += [
        (tier.tier, tier_state(tier), TIER_STYLE.get(tier.tier, ""))
        for tier in fleet.tiers
    ]
    lines += [
        (what, where, "bold" if what == "dashboard" else "")
        for what, where in places.items()
    ]
    from rich.text import Text

    for name, value, style in lines:
        line = Text(f"{name:<12}", style="dim")
        line.append(line_of(value), style=style)
        screen.print(line, soft_wrap=True)
    sys.stdout.flush()
    if not hint:
        return
    screen.print(
        "\nTry, in another terminal:  agentcom submit --shell 'uname -a' --follow",
        style="dim",
        soft_wrap=True,
    )


def _local(
    endpoints: Sequence[EndpointView], shared: Mapping[str, str]
) -> tuple[str, str, str]:
    servers, label = [], "Ollama"
    for each in endpoints:
        if each.kind == "claude":
            continue
        if each.kind != "ollama":
            label = "Models"
        mark = " (simulated)" if each.simulated else ""
        # Of a shared one that was never reached, its host does not tell the address.
        where = each.url or shared.get(each.endpoint) or each.endpoint
        if each.up:
            models = ", ".join(each.models) or "no models yet: `ollama pull llama3.2`"
            about = f"{each.kind} {each.version}".rstrip()
            servers.append(f"{about} at {where}{mark}: {models}")
        else:
            servers.append(
                f"{each.kind} at {where} is down: {local(each.reason)}{mark}"
            )
    heard_of = {each.endpoint for each in endpoints}
    servers += [
        f"{name} at {url} has not answered yet (`agentcom endpoints list`)"
        for name, url in shared.items()
        if name not in heard_of
    ]
    if not servers:
        return "Ollama", "not found: install it from ollama.com for standard tasks", ""
    return label, "; ".join(servers), ""


def _claude(endpoints: Iterable[EndpointView]) -> tuple[str, str, str]:
    for each in endpoints:
        if each.kind == "claude":
            mark = " (simulated)" if each.simulated else ""
            state = each.version if each.up else f"is not usable: {local(each.reason)}"
            return "Claude Code", f"{state}{mark}", ""
    return (
        "Claude Code",
        "not found: npm install -g @anthropic-ai/claude-code for complex tasks",
        "",
    )


def tier_words(tier: TierRow, clock: Callable[[str], str] = local_time) -> str:
    """Say how a tier stands, as the read models word it; `clock` writes the instant."""
    text = tier.wording or tier.state
    return f"{text} {clock(tier.wording_at)}" if tier.wording_at else text


def tier_state(tier: TierRow, clock: Callable[[str], str] = local_time) -> str:
    """Say how a tier stands, and why where it is down."""
    text = tier_words(tier, clock)
    return (
        f"{text}: {local(tier.reason)}"
        if tier.condition == "down" and tier.reason
        else text
    )


_HOST_COLUMNS: Final = (
    *("host", "state", "since", "running", "slots", "cpu", "ram free", "vram free"),
)
_ENDPOINT_COLUMNS: Final = (
    *("endpoint", "host", "kind", "state", "version", "can", "models"),
)
_ENDPOINTS_LEAVE: Final = ((80, ("version", "can")), (60, ("kind", "host")))
_HOSTS_LEAVE: Final = ((80, ("slots", "vram free")), (60, ("ram free", "since")))
"""Below which width of a terminal which columns go."""


def host_table(rows: list[HostRow]) -> Table:
    columns = columns_for(_HOST_COLUMNS, _HOSTS_LEAVE)
    hosts = table(columns, right=("since", "running", "cpu", "ram free", "vram free"))
    now = utc_now()
    for row in rows:
        resources = row.resources
        gpus = resources.gpus if resources is not None else []
        slots = " ".join(f"{kind}:{count}" for kind, count in row.slots.items())
        cells = {
            "host": cell(row.host, style="bold"),
            "state": cell(
                "takes nothing" if row.fault and row.state == "up" else row.state,
                style="red" if row.fault else STATE_STYLE.get(row.state, ""),
            ),
            "since": age(row.since, now),
            "running": str(row.in_flight),
            "slots": cell(slots),
            "cpu": "unknown"
            if resources is None or resources.cpu is None
            else f"{resources.cpu:.0%}",
            "ram free": size(
                resources.ram_free_bytes if resources is not None else None
            ),
            "vram free": size(sum(gpu.vram_free_bytes for gpu in gpus)) if gpus else "",
        }
        hosts.add_row(*(cells[name] for name in columns))
    return hosts


def host_notes(rows: list[HostRow]) -> list[str]:
    """Say of hosts what their journals have lost, why they take no work, the way back."""
    return (
        [
            line_of(f"{row.host}: {local(row.journal_lost)}; results may be gone")
            for row in rows
            if row.journal_lost
        ]
        + [
            line_of(
                f"{row.host} is {row.state}: {local(row.reason) or 'no reason given'}"
            )
            + (f"; `agentcom resume {row.host}`" if row.state == "draining" else "")
            for row in rows
            if row.state == "draining" or (row.state != "up" and row.reason)
        ]
        + [
            line_of(
                f"{each.endpoint} on {row.host} cannot be used since {local_time(each.since)}: "
                f"{local(each.reason)}; looked at again at {local_time(each.again_at)}, or at once with "
                f"`agentcom resume {row.host}`"
            )
            for row in rows
            for each in row.endpoints
            if not each.up and each.again_at
        ]
        + [
            line_of(f"{each.endpoint} on {row.host}: {local(each.notice)}")
            for row in rows
            for each in row.endpoints
            if each.notice
        ]
    )


def endpoint_table(answer: HostsAnswer) -> Table | None:
    """Make a table of every endpoint as its hosts see it; None where there is none."""
    views = [(row.host, each) for row in answer.hosts for each in row.endpoints]
    if not views:
        return None
    columns = columns_for(_ENDPOINT_COLUMNS, _ENDPOINTS_LEAVE)
    endpoints = table(columns, elastic=("version", "can", "models"))
    for host, each in views:
        state = "up" if each.up else "down"
        cells = {
            "endpoint": cell(
                each.endpoint + (" [simulated]" if each.simulated else "")
            ),
            "host": cell(host),
            "kind": cell(each.kind),
            "state": cell(state, style=STATE_STYLE[state]),
            "version": cell(each.version, 24),
            "can": cell(", ".join(each.capabilities), 40),
            "models": cell(_models(each) if each.up else local(each.reason), 80),
        }
        endpoints.add_row(*(cells[name] for name in columns))
    return endpoints


def _models(each: EndpointView) -> str:
    named = [
        f"{name} ({', '.join(about)})" if (about := _about(each, name)) else name
        for name in sorted({*each.models, *each.loaded})
    ]
    return ", ".join([*named, *(f"{name} (embeds)" for name in each.embedders)])


def _about(each: EndpointView, model: str) -> list[str]:
    """Say what is to be known of a model: how much it reads, and what it cannot do."""
    tokens = each.context_tokens.get(model)
    can = each.model_capabilities.get(model)
    lacks = [] if can is None else [w for w in ("tools", "vision") if w not in can]
    return [
        *(["loaded"] if model in each.loaded else []),
        *([f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)] if tokens else []),
        *(f"no {word}" for word in lacks if word in each.capabilities),
    ]


def show_tiers(
    screen: Console, answer: HostsAnswer, role_of: Callable[[str], str]
) -> None:
    from rich.text import Text

    for tier in answer.tiers:
        line = Text(f"{tier.tier:<10}", style=TIER_STYLE.get(tier.tier, ""))
        line.append(tier_state(tier))
        screen.print(line)
    for row in answer.hosts:
        if row.fault:
            screen.print(
                line_of(f"{row.host} takes nothing: {local(row.fault)}"), style="red"
            )
        ahead_s = row.clock_ahead_s
        if ahead_s is not None and abs(ahead_s) > SKEW_S:
            where = "ahead" if ahead_s > 0 else "behind"
            warning = f"{row.host}: its clock is {abs(ahead_s):.1f} s {where}; use NTP"
            screen.print(line_of(warning), style="red")
    for alert in answer.alerts:
        seen_by = role_of(alert.acknowledged_by)
        by = f", seen by {seen_by}" if seen_by else ""
        about = f"host {alert.host}" if alert.host else f"{alert.tier} down"
        screen.print(
            line_of(
                f"alert: {about} since {local_time(alert.raised_at)}: "
                f"{local(alert.reason)}{by}"
            ),
            style="red",
        )
    screen.print(
        line_of(
            f"leader {answer.leader or 'none'} (epoch {answer.epoch}), "
            f"policy version {answer.policy_version}"
        ),
        style="dim",
    )
