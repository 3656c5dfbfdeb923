"""`python -m tests.support.decisions 100000`: recorded decisions, each decided again.

Random fleets of up to 60 hosts change under a scheduler's eyes; what is routed meanwhile
is written as the log has it, read back, and decided again from the record alone, as
`agentcom explain --check` does.
"""

from __future__ import annotations

import sys
from random import Random
from typing import TYPE_CHECKING

from actors.rules.policy import Policy, Scoring
from actors.rules.routing import Routable, route
from actors.scheduler.fleet import Fleet
from actors.scheduler.queue import Requirement
from actors.stamp import Stamp
from analysis.explain import recheck
from events import catalogue as c
from events.codec import decode_event, encode, rfc3339
from tests.support.world import START, ollama

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = (
    Requirement(kind="sidecar", tier="trivial"),
    Requirement(kind="local", tier="standard"),
    Requirement(kind="local", tier="standard", model="llama3.2"),
)
DECISIONS_OF_A_FLEET = 250


def decisions(seed: int) -> Iterator[tuple[c.TaskRouted, Policy]]:
    """Yield the decisions of one fleet, as its log has them, and their policy."""
    chance = Random(seed)
    policy = Policy(
        recorded_candidates=chance.choice((1, 3, 8, 16)),
        scoring=chance.choice((Scoring(), Scoring(warm=2.5, affinity=1.7))),
    )
    fleet, seq = Fleet(policy), 0
    hosts = [f"h{n}" for n in range(chance.choice((1, 4, 20, 60)))]
    for name in hosts:
        fleet.joined(_joined(name, chance), seq := seq + 1, START)
    running: list[c.TaskRouted] = []
    for n in range(DECISIONS_OF_A_FLEET):
        name = chance.choice(hosts)
        if chance.random() < 0.3:
            fleet.beat(_beat(name, chance), START)
        task = Routable(
            task_id=f"task-{seed}-{n}",
            generation=1,
            attempt=1,
            repo=chance.choice((None, "web")),
            barred=chance.choice(({}, {name: "suspect"}, {f"{name}-o": "failed"})),
            classification_reason="drawn",
        )
        stamp = Stamp(f"R{n}", rfc3339(START), "test")
        pool = fleet.pool(chance.choice(WANTED))
        routed = route(
            task, pool, policy, stamp, epoch=1, policy_version=0, log_seq=seq
        )
        if routed is not None:
            event, place = routed
            place.slots.in_flight += 1
            fleet.slots_changed(place.host.name, place.endpoint, place.kind)
            running.append(event)
            stored = decode_event(encode(event))
            assert isinstance(stored, c.TaskRouted)
            yield stored, policy
        while running and (routed is None or chance.random() < 0.45):
            over = running.pop(chance.randrange(len(running)))
            kind = "local" if over.selected_endpoint else "sidecar"
            slots = fleet.slots_of(over.selected_host, over.selected_endpoint, kind)
            slots.in_flight -= 1
            fleet.slots_changed(over.selected_host, over.selected_endpoint, kind)
            if routed is None:
                break


def _joined(name: str, chance: Random) -> c.HostJoined:
    state = ollama(
        f"{name}-o", slots=chance.choice((1, 3)), loaded=chance.choice(((), ("llama3.2",)))
    )  # fmt: skip
    return c.HostJoined(
        id=name, at=rfc3339(START), by="test", host=name, incarnation="i", version="1",
        slots={"shell": chance.choice((1, 4))}, repos=chance.choice(([], ["web"])),
        endpoints=[state], ram_bytes=chance.choice((None, 8 << 30, 64 << 30)),
    )  # fmt: skip


def _beat(name: str, chance: Random) -> c.Beat:
    gpus = [c.Gpu("g", 100, chance.choice((20, 90)))] if chance.random() < 0.5 else []
    resources = c.Resources(
        cpu=chance.choice((None, 0.0, 0.5, 0.99)), ram_total_bytes=16 << 30, gpus=gpus
    )
    return c.Beat(
        host=name, incarnation="i", n=1, at=rfc3339(START), resources=resources
    )


def check(wanted: int) -> tuple[int, list[str]]:
    """Decide so many decisions again; return how many came out alike, and the others."""
    alike, others, seed = 0, [], 0
    while alike + len(others) < wanted:
        for event, policy in decisions(seed):
            if recheck(event, policy).agrees:
                alike += 1
            else:
                others.append(f"seed {seed}: {event.id} of {event.task_id}")
        seed += 1
    return alike, others


if __name__ == "__main__":
    agreeing, differing = check(int(sys.argv[1]))
    print(f"{agreeing:,} decisions come out as recorded, {len(differing)} do not")
    print("\n".join(differing[:20]))
    sys.exit(bool(differing))
