"""Events as lines: for people, and as JSON."""

from __future__ import annotations

import sys
from typing import Any, Final

from cli.render.display import route_line
from cli.render.terminal import (
    clock_time,
    duration,
    line_of,
    local,
    painted,
    priced,
    tokens,
)
from events import catalogue as c
from events import subjects
from events.codec import encode


def json_line(recorded: c.Recorded) -> str:
    """Encode an event with its place as one line of JSON."""
    event = recorded.event
    body: Any = event.body if isinstance(event, c.Unknown) else event
    return encode(
        {"seq": recorded.seq, "subject": recorded.subject, "event": body}
    ).decode()


def event_line(seq: int, subject: str, event: Any) -> str:
    """Write an event as a line for people."""
    if isinstance(event, dict):
        # As the read models pass it on: plain JSON.
        from events.codec import decode_event

        event = decode_event(encode(event))
    name = c.name(event) or "unknown"
    about = subject.removeprefix(subjects.EVENT_PREFIX)
    head = f"{seq:>7}  {clock_time(event.at)}  "
    kind = painted(f"{name:<20}", _style(name), sys.stdout)
    return f"{head}{kind} {line_of(about)}  {line_of(local(gist(event)), 400)}".rstrip()


def _style(name: str) -> str:
    if name.endswith((".completed", ".up", ".joined", ".cleared", ".resumed")):
        return "good"
    if name.endswith((".failed", ".dead_lettered", ".down", ".lost", ".error")):
        return "bad"
    if name.endswith((".retrying", ".requeued", ".returned", ".limited", ".raised")):
        return "warn"
    return ""


def gist(event: c.Event) -> str:
    """Say in a few words what an event says."""
    match event:
        case c.TaskSubmitted():
            tier = event.classification.effective_tier
            mode = f", {event.mode}" if event.mode else ""
            about = event.spec.description[:200]
            return f"{tier}, {event.spec.priority}{mode}: {about}"
        case c.TaskRouted():
            return f"#{event.generation} {route_line(event)}"
        case c.TaskCompleted() | c.TaskFailed():
            return _result(event.result)
        case c.TaskReturned():
            return f"{event.reason} {event.detail}"
        case c.TaskStatus() | c.TaskErrorLine() | c.TaskRetrying() | c.TaskVerified():
            return event.text
        case c.TaskExpired():
            tiers = ", ".join(
                f"{t.tier} {t.state}" + (f" {t.down_s:.0f} s" if t.down_s else "")
                for t in event.tiers
            )
            return f"{event.reason} {event.detail} {tiers}"
        case c.HostJoined():
            offered = ", ".join(each.endpoint for each in event.endpoints if each.up)
            return f"{event.platform}, slots {event.slots}, {offered or 'no endpoints'}"
        case c.EndpointUp() | c.EndpointChanged():
            return f"{event.state.endpoint} {', '.join(event.state.models)}"
        case c.EndpointDown():
            return f"{event.endpoint}: {event.reason}"
        case c.PolicyChanged():
            return f"version {event.version}: {', '.join(event.changed)}"
        case c.SchedulerElected():
            return f"epoch {event.epoch}: {event.name}"
        case c.BulkStarted():
            chosen = " ".join(f"{k}={v}" for k, v in (event.filter or {}).items())
            what = chosen if event.filter is not None else f"{event.ids} named"
            host = f" to {event.host}" if event.host else ""
            reason = f" ({event.reason})" if event.reason else ""
            return f"{event.action} {what}{host}{reason} by {event.requested_by}"
        case c.BulkAdvanced():
            counts = ", ".join(f"{n} {what}" for what, n in event.outcomes.items())
            end = "" if event.finished else ", to go on"
            return f"{event.matched} meant: {counts or 'none'}{end}"
        case c.ClockStepped():
            return f"{event.role} {event.name}: {event.step_s:+.1f} s"
        case c.Unknown():
            return f"a type that this version does not know: {event.tag}"
        case _:
            return _rest(event)


def _result(result: c.Result) -> str:
    parts = [duration(result.execution_ms), result.model_used]
    if result.model_used != "none":
        parts += [f"{tokens(result.tokens_in)} in, {tokens(result.tokens_out)} out"]
        parts += [priced(result.estimated_cost_usd, result.cost_basis)]
    if result.error is not None:
        parts.append(f"{result.error.code}: {result.error.message}")
    return ", ".join(parts)


_DULL: Final = frozenset(
    {
        "id",
        "at",
        "by",
        "task_id",
        "host",
        "tier",
        "route",
        "generation",
        "attempt",
        "incarnation",
        "epoch",
    }
)


def _rest(event: c.Event) -> str:
    """List the fields that are not said already by the subject."""
    return " ".join(
        f"{name}={value}"
        for name in event.__struct_fields__
        if name not in _DULL
        and (value := getattr(event, name)) not in ("", None, [], {}, False)
    )
