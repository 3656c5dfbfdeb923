"""A recorded history that has every event in it, and the read models it makes.

    python -m tests.golden.make_log          makes what is missing
    python -m tests.golden.make_log models   makes the read models anew

`log.jsonl` is written once and then kept: it stands for logs that are out there. Event
types that come later are added at its end. `read-models.json.gz` changes only when a fold
was meant to change (its version then rises), and the difference is part of the review.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from events import catalogue as c
from events import subjects
from events.catalogue import Recorded
from events.codec import decode_event, encode
from projections.store import Store
from tests.support.histories import History, endpoint_state, plausible

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent
LOG = HERE / "log.jsonl"
MODELS = HERE / "read-models.json.gz"
SEED = 2026


def recorded() -> list[Recorded]:
    """Read the golden log."""
    history = []
    for line in LOG.read_text().splitlines():
        at = json.loads(line)
        event = decode_event(json.dumps(at["event"]).encode())
        history.append(Recorded(at["seq"], at["subject"], event))
    return history


def models_of(history: Iterable[Recorded]) -> bytes:
    """Spell the read models of a history, every byte of them."""
    store = Store()
    world = store.load()
    for each in history:
        world.fold(each)
    store.save(world)
    try:
        return json.dumps(store.dump(), sort_keys=True, indent=0).encode()
    finally:
        store.close()


def kept_models() -> bytes:
    """Read the read models that were kept."""
    return gzip.decompress(MODELS.read_bytes())


def _made() -> list[Recorded]:
    """Make up the history: lives from a seed, then whatever they did not bring."""
    history = History(SEED)
    history.recorded = plausible(SEED, tasks=60, odd=0.08)
    history.now += 86_400
    history.epoch = max(
        (
            r.event.epoch
            for r in history.recorded
            if isinstance(r.event, c.SchedulerElected)
        ),
        default=0,
    )
    _the_rest(history)
    return history.recorded


def _the_rest(history: History) -> None:
    """Bring what lives from a seed do not, each where it has an effect."""
    history.join("h4")
    shared = endpoint_state("shared-1", ("qwen3",))
    for kind, fields in (
        (c.EndpointUp, {"state": shared}),
        (c.EndpointChanged, {"state": endpoint_state("h4-ollama", ("qwen3", "x"))}),
        (c.EndpointDown, {"endpoint": "h4-ollama", "kind": "ollama", "reason": "gone"}),
        (c.HostDraining, {"reason": "work on the roof"}),
        (c.HostResumed, {}),
    ):
        history.host_says(kind, "h4", **fields)
    added = {"endpoint": "shared-1", "kind": "ollama", "url": "http://10.0.0.1:11434"}
    for kind, fields in (
        (c.EndpointAdded, {**added, "requested_by": "alice"}),
        (c.EndpointRemoved, {"endpoint": "shared-1", "requested_by": "alice"}),
    ):
        event = kind(**history.head("gateway"), **fields)
        history.say(subjects.fleet("shared-1"), event)
    history.tier(c.TierLimited, "complex", until="2026-01-03T00:00:00Z", reason="429")
    history.tier(c.TierDown, "standard", reason="no endpoint is up")
    history.tier(c.AlertRaised, "standard", down_s=60.0, reason="no endpoint is up")
    history.tier(c.AlertAcknowledged, "standard", requested_by="alice")
    history.tier(c.TierUp, "standard", down_s=90.0)
    history.tier(c.AlertCleared, "standard", down_s=90.0)
    changed = c.PolicyChanged(
        **history.head("gateway"),
        version=1,
        policy={"fallback_wait_s": 7},
        changed=["fallback_wait_s"],
        requested_by="alice",
    )
    history.say(subjects.POLICY, changed)
    _tasks(history)
    history.lose("h4")
    history.host_says(c.HostRecovered, "h4")
    history.host_says(c.HostLeft, "h4", reason="stopped")
    history.say(
        "agentcom.evt.policy",
        decode_event(b'{"type":"from.the.future.v7","id":"x","at":"","by":"y","n":1}'),
    )


def _tasks(history: History) -> None:
    task = history.submit("one that has seen everything", repo="shop", tier="complex")
    history.decide(c.TaskDeferred, task, reason="nobody has the model")
    route = history.route(task, "h4")
    history.decide(c.TaskReassigned, task, host="h4", reason="there", epoch=0)
    route = history.route(task, "h4")
    history.accept(route)
    history.start(route)
    history.report(c.TaskStep, route, step="waking")
    history.report(c.TaskErrorLine, route, text="it failed", code="exit", n=1)
    history.report(c.TaskRetrying, route, text="retry 1/2...", retry=1, of=2, n=2)
    history.give_back(route, exclude="h4-ollama")
    history.requeue(route, "endpoint_failed", counts=True, exclude="h4-ollama")
    route = history.route(
        task,
        "h4",
        tier="complex",
        target="claude",
        endpoint="",
        model="claude-sonnet-4-5",
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_reason="standard was down for 7.0 s",
        wait=c.Wait("standard", "2026-01-02T00:00:00.000000Z", 7.0, "taken"),
    )
    history.start(route)
    history.complete(route, usd=0.125, equivalent=0.5, model="claude-sonnet-4-5")
    doomed = history.route(history.submit("one that has no luck"), "h4")
    history.start(doomed)
    history.give_back(doomed)
    history.dead(doomed)
    history.submit("one that still waits", priority="urgent")


def line_of(each: Recorded) -> str:
    """Spell an event with its place."""
    event = each.event
    body = {"type": event.tag, **event.body} if isinstance(event, c.Unknown) else event
    said = {"seq": each.seq, "subject": each.subject, "event": body}
    return encode(said).decode()


def main(what: str = "") -> None:
    if not LOG.exists():
        LOG.write_text("".join(line_of(each) + "\n" for each in _made()))
    if what == "models" or not MODELS.exists():
        MODELS.write_bytes(gzip.compress(models_of(recorded()), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
