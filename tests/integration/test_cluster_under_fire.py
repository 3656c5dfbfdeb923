"""`make chaos-cluster`: a broker of three servers and its roles, and all that can befall them.

CHAOS_S seconds, 1,200 as a rule; CHAOS_SEED draws other troubles; CHAOS_KINDS names some of
them, by commas. Figures on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentcom import AsyncClient
from agentcom.errors import AgentComError
from events.nats.link import Address, Link
from tests.integration.test_crashes import fold_final
from tests.support.command import PATIENCE_S
from tests.support.fire import KINDS, Fleet, Network, Plan, first_of_four, judge
from tests.support.ring import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LONGEST_S = 15.0
"""No submission may wait longer for its answer, whatever happens."""


# -- the judge -------------------------------------------------------------------------


def said(kind: str, task: str, **more: Any) -> dict[str, Any]:
    return {"type": f"{kind}.v1", "task_id": task, **more}


WHOLE = [
    said("task.submitted", "t"),
    said("task.accepted", "t", route="r"),
    said("task.completed", "t"),
]


@pytest.mark.parametrize(
    ("tasks", "ran", "events", "ends", "found"),
    [
        ({"t"}, ["r"], WHOLE, ["task.completed"], None),
        ({"t"}, ["q", "r"], WHOLE, ["task.completed"], None),
        # It ran, its host died before anybody knew, and it ran again.
        ({"t"}, ["r", "r"], WHOLE, ["task.completed"], None),
        ({"t"}, ["r", "r"], [*WHOLE, WHOLE[1]], ["task.completed"], "twice"),
        ({"t", "u"}, ["r"], WHOLE, ["task.completed"], "twice"),
        ({"t"}, ["r"], WHOLE, ["task.completed"] * 2, "twice"),
        ({"t"}, ["r"], WHOLE[:2], [], "stuck"),
        ({"t"}, [], WHOLE, ["task.completed"], "lost"),
        ({"t"}, ["r"], WHOLE[1:], ["task.completed"], "lost"),
        ({"t"}, ["r"], WHOLE, ["task.failed"], "unfinished"),
    ],
)
def test_what_is_counted(
    tasks: set[str],
    ran: list[str],
    events: list[dict[str, Any]],
    ends: list[str],
    found: str | None,
) -> None:
    verdict = judge({"k": tasks}, {"k": ran}, events, {"t": ends})
    assert [name for name, keys in verdict._asdict().items() if keys] == [
        each for each in [found] if each
    ]


def test_every_kind_of_trouble_comes_in_its_turn() -> None:
    plan = Plan(KINDS, random.Random(1))
    drawn = [plan.draw() for _ in range(10 * len(KINDS))]
    assert Counter(each.kind for each in drawn) == dict.fromkeys(KINDS, 10)
    for each in drawn:
        victims, least, most = KINDS[each.kind]
        assert each.victim in victims
        assert least <= each.lasts_s <= most
        assert bool(each.step_s) == (each.kind == "clock stepped")
    assert Plan(KINDS, random.Random(1)).draw() == drawn[0]


# -- the run ---------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        network = None
        if Network.is_allowed():
            network = stack.enter_context(Network())
        fleet = Fleet(tmp_path, network, first_of_four())
        stack.callback(fleet.close)
        fleet.start_all()
        yield fleet


class Submitting:
    """One after the other through one door, each until it is accepted."""

    def __init__(self, name: str, client: AsyncClient, marks: Path) -> None:
        self.accepted: dict[str, set[str]] = {}
        self.waited: list[float] = []
        self.count = 0
        self.over = False
        self._name = name
        self._client = client
        self._marks = marks

    def _submission(self, number: int) -> tuple[str, str]:
        """The key and the command of a number: the same again whenever it is asked."""
        key = f"{self._name}-{number}"
        nap = (0, 0, 0, 0.5, 2)[number % 5]
        return key, f"echo $AGENTCOM_ROUTE >> {self._marks}/{key}; sleep {nap}"

    async def _submit(self, number: int) -> None:
        key, command = self._submission(number)
        task = await self._client.submit(
            shell=command, cwd="/", max_attempts=100, idempotency_key=key
        )
        self.accepted.setdefault(key, set()).add(task.task_id)

    async def go_on(self) -> None:
        """Submit until it is over; whoever gets no answer asks again."""
        while not self.over:
            self.count += 1
            began = time.monotonic()
            while time.monotonic() - began < 10 * PATIENCE_S:
                with contextlib.suppress(AgentComError):
                    await self._submit(self.count)
                    break
                await asyncio.sleep(0.1)
            self.waited.append(time.monotonic() - began)
            await asyncio.sleep(0.4)

    async def ask_again(self) -> None:
        """Submit everything a second time: no key may be a second task."""
        for number in range(1, self.count + 1):
            await self._submit(number)


def ends_of(observer: Observer) -> dict[str, list[str]]:
    """Each task's ends that counted, as the scheduler reads the log."""
    elections = [each for each in observer.events if "task_id" not in each[1]]
    elections = [
        each for each in elections if each[1]["type"].startswith("scheduler.elected")
    ]
    of: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for seq, event in observer.events:
        if task := event.get("task_id"):
            of[task].append((seq, event))
    ends = {}
    for task, events in of.items():
        alone = SimpleNamespace(events=sorted(elections + events, key=lambda e: e[0]))
        final = fold_final(cast("Observer", alone), task)
        ends[task] = [each["type"].rpartition(".")[0] for each in final]
    return ends


def gap(moments: Sequence[float]) -> float:
    """The longest time between two of them."""
    return max((b - a for a, b in itertools.pairwise(moments)), default=0.0)


@pytest.mark.chaos
@pytest.mark.skipif("not config.getoption('-m')", reason="a long run: -m chaos")
async def test_a_cluster_under_fire(fleet: Fleet) -> None:
    lasts = float(os.environ.get("CHAOS_S", "1200"))
    chance = random.Random(os.environ.get("CHAOS_SEED", "1"))
    named = os.environ.get("CHAOS_KINDS")
    kinds = fleet.kinds & set(named.split(",")) if named else fleet.kinds
    marks = fleet.data / "marks"
    marks.mkdir()
    tokens = fleet.data / "web-tokens.json"
    async with asyncio.timeout(PATIENCE_S):
        while not tokens.exists():
            await asyncio.sleep(0.1)
    await fleet.recover()
    operator = fleet.data / "keys" / "operator.nk"
    url = fleet.instance.url
    seen: list[float] = []
    suffered: Counter[str] = Counter()
    link = await Link.connect(
        Address(url=url, seed=operator, inbox="_INBOX_operator", name="observer")
    )
    observer = Observer(link)
    await observer.watch()
    async with (
        AsyncClient(nats=url, creds=operator) as nats,
        AsyncClient(
            url=fleet.page, token=json.loads(tokens.read_text())["operator"]
        ) as http,
    ):
        doors = {
            "nats": Submitting("nats", nats, marks),
            "http": Submitting("http", http, marks),
        }
        loads = [asyncio.create_task(door.go_on()) for door in doors.values()]

        async def fire() -> None:
            plan = Plan(kinds, chance)
            ends = time.monotonic() + lasts
            while time.monotonic() < ends:
                trouble = plan.draw()
                began = [len(door.waited) for door in doors.values()]
                done = len(observer.of("task.completed"))
                start = time.monotonic()
                await fleet.suffer(trouble, chance)
                await fleet.recover()
                suffered[f"{trouble.kind} {trouble.victim.split('-')[0]}"] += 1
                await asyncio.sleep(chance.uniform(1, 4))
                worst = {
                    name: round(max(door.waited[n:], default=-1.0), 1)
                    for n, (name, door) in zip(began, doors.items(), strict=True)
                }
                print(
                    f"{time.strftime('%X')} {trouble.kind} {trouble.victim} "
                    f"{trouble.lasts_s:.1f} s {trouble.step_s or ''}: over after "
                    f"{time.monotonic() - start:.1f} s, waits {worst}, "
                    f"{len(observer.of('task.completed')) - done} completed",
                    flush=True,
                )

        async def hear() -> None:
            read = 0
            while True:
                observer.news.clear()
                await observer.news.wait()
                fresh, read = observer.events[read:], len(observer.events)
                if any(
                    event["type"].startswith("task.completed") for _, event in fresh
                ):
                    seen.append(time.monotonic())

        hearing = asyncio.create_task(hear())
        try:
            await fire()
            for door in doors.values():
                door.over = True
            await asyncio.gather(*loads)
            longest_without = gap(seen)
            for door in doors.values():
                await door.ask_again()
            tasks = {
                task
                for door in doors.values()
                for each in door.accepted.values()
                for task in each
            }
            final = ("completed", "failed", "dead_lettered", "expired", "cancelled")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5 * PATIENCE_S):
                    while not tasks <= {
                        event["task_id"]
                        for end in final
                        for event in observer.of(f"task.{end}")
                    }:
                        await asyncio.sleep(0.5)
        finally:
            for each in (hearing, *loads):
                each.cancel()
            await asyncio.gather(hearing, *loads, return_exceptions=True)
            await observer.follower.stop()
            await link.close()

    accepted = {
        key: ids for door in doors.values() for key, ids in door.accepted.items()
    }
    ran = {each.name: each.read_text().split() for each in marks.iterdir()}
    verdict = judge(
        accepted, ran, [event for _, event in observer.events], ends_of(observer)
    )
    longest = {name: round(max(door.waited), 1) for name, door in doors.items()}
    print(
        json.dumps(
            {
                "submitted": {n: len(door.accepted) for n, door in doors.items()},
                "lost": len(verdict.lost),
                "twice": len(verdict.twice),
                "stuck": len(verdict.stuck),
                "longest wait for an answer, s": longest,
                "longest without a completion, s": round(longest_without, 1),
                "run again on another route": sum(
                    len(set(routes)) - 1 for routes in ran.values()
                ),
                "elections": len(observer.of("scheduler.elected")),
                "troubles": dict(sorted(suffered.items())),
                "without": fleet.without,
            },
            indent=1,
        )
    )
    assert verdict == ([], [], [], []), observer.unfinished()
    assert longest["nats"] < LONGEST_S
    checked = await asyncio.to_thread(
        fleet.system.run, "verify", patience_s=10 * PATIENCE_S
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
