"""A graph of a thousand tasks, with fan-out and fan-in, while everybody dies now and then.

A world of the simulator like any other, but for its size: the graph comes as one batch, the
hosts are quick, and the schedulers are looked into every so often only. That everything
ran in its order is read from the log again, by nothing but where reports stand in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events import catalogue as c
from tests.simulation.plan import POLICY, Plan, Step
from tests.simulation.simulation import Outcome, Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from events.catalogue import Recorded

TASKS = 1_000
WIDE = 40
"""Tasks side by side; after every other row comes a single one that waits for all of it."""
BREAKS_S = 60.0
HOSTS = ("h1", "h2", "h3", "h4")
GRAPH_POLICY = {**POLICY, "task_ttl_s": 600.0, "ageing_s": 600.0}


def graph(chance: Random, size: int) -> list[dict[str, Any]]:
    """Draw a graph: rows of tasks, each after some of the row before, and joints."""
    tasks: list[dict[str, Any]] = []
    before: list[str] = []
    wide = True
    while len(tasks) < size:
        row: list[str] = []
        for _ in range(min(WIDE if wide else 1, size - len(tasks))):
            name = f"t{len(tasks)}"
            some = before if not wide else chance.sample(before, min(len(before), 3))
            how = "after_any" if chance.random() < 0.1 else "after"
            tasks.append(
                {
                    "name": name,
                    "description": "x",
                    "tier": "trivial",
                    "shell": {"command": "true"},
                    "max_attempts": 30,
                    **({how: some} if some else {}),
                }
            )
            row.append(name)
        before, wide = row, not wide
    chance.shuffle(tasks)
    return tasks


def disorder(log: list[Recorded]) -> Iterator[str]:
    """Say which task began before one that it comes after was over."""
    comes_after: dict[str, c.TaskSpec] = {}
    completed: set[str] = set()
    over: set[str] = set()
    for recorded in log:
        event = recorded.event
        match event:
            case c.TaskSubmitted():
                comes_after[event.task_id] = event.spec
            case c.TaskStarted():
                spec = comes_after[event.task_id]
                early = {*spec.after} - completed | {*spec.after_any} - over
                if early:
                    yield f"seq {recorded.seq}: {event.task_id} before {sorted(early)}"
            case c.TaskCompleted():
                completed.add(event.task_id)
                over.add(event.task_id)
            case c.TaskFailed() | c.TaskCancelled() | c.TaskDeadLettered():
                over.add(event.task_id)
            case _:
                pass


class Graph(Simulation):
    """One graph: with `seed` its edges differ, and what breaks when."""

    calm_at = BREAKS_S
    looks_every = 50
    policy = GRAPH_POLICY

    def __init__(self, seed: int, size: int = TASKS) -> None:
        self.size = size
        super().__init__(seed)

    def _begins(self) -> float:
        return 1_700_000_000.0

    def _drawn(self) -> Plan:
        chance = self.chance
        names = ("s1", "s2", *HOSTS)
        steps = [Step(0.0, "start", name, {}) for name in names]
        steps.append(Step(0.01, "ask", "policy.set", {"policy": GRAPH_POLICY}))
        tasks = graph(chance, self.size)
        steps.append(Step(2.0, "batch", "", {"n": 0, "tasks": tasks}))
        for _ in range(40):
            at = chance.uniform(2.0, BREAKS_S - 8)
            lasts = chance.choice((0.3, 2.0, 6.0)) * chance.uniform(0.5, 1.2)
            whom = chance.choice(("s1", "s1", "s2", "s2", *names))
            kill = {"steps": chance.choice((1, 5, 20, 80))}
            steps += chance.choice(
                (
                    [Step(at, "kill", whom, kill), Step(at + lasts, "start", whom, {})],
                    [Step(at, "kill", whom, kill), Step(at + lasts, "start", whom, {})],
                    [Step(at, "freeze", whom, {}), Step(at + lasts, "thaw", whom, {})],
                    [
                        Step(at, "cut", whom, {"notice": 0.5}),
                        Step(at + lasts, "heal", whom, {"after": 0.1}),
                    ],
                )
            )
        looks = [
            Step(float(at), "start", name, {})
            for at in range(5, int(BREAKS_S), 5)
            for name in names
        ]
        steps += [*looks, Step(BREAKS_S, "calm", "", {})]
        steps.sort(key=lambda step: step.at)
        return Plan(len(HOSTS), 0.0, ("graph",), steps)

    def _draw_apart(self) -> None:
        self.temper.takes, self.temper.slow = (0.05, 0.4), 0.0
        self.temper.hangs = self.temper.unfit = self.temper.fails = 0.0
        for machine in self.machines.values():
            machine.shell_slots = 4
            machine.delegates, machine.verifies = False, True

    def _finally(self) -> None:
        super()._finally()
        for wrong in disorder(self.server.entries):
            self.judge.complain("a graph is gone through in its order", wrong)
        ended = [r for r in self.server.entries if isinstance(r.event, c.TaskCompleted)]
        done = {r.event.task_id for r in ended}  # type: ignore[attr-defined]
        if len(done) != self.size:
            self.judge.complain("all of a graph is done", f"{len(done)} tasks are")


def play_graph(seed: int, size: int = TASKS) -> Outcome:
    """Make a graph from a seed and play it to its end."""
    outcome = Graph(seed, size).run()
    return outcome._replace(again="python -m tests.simulation --graphs ")
