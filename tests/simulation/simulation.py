"""One seed: a world of schedulers, hosts and a client, what happens to it, and its end.

Everything that happens is drawn from the seed: first the plan (what is asked for, and
what breaks, when), then each delay and each run's end as it comes. After a while nothing
breaks any more; then the world has to come to rest, and everything to its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from actors.host import state as host_state
from actors.scheduler.lease import LEASE_TTL_S
from actors.scheduler.role import SchedulerRole
from events import catalogue as c
from events import mail as m
from events import subjects
from events.codec import encode, rfc3339
from events.commands import ONCE
from events.errors import Unreachable
from events.ids import IdSource
from events.lifecycle import FINAL
from tests.simulation.invariants import Broken, Judge
from tests.simulation.kept import SHARE as KEPT_SHARE
from tests.simulation.kept import KeptState
from tests.simulation.loop import Process, SimLoop, Stuck
from tests.simulation.machine import (
    Machine,
    SidecarProcess,
    Temper,
    live,
    simulated_edges,
)
from tests.simulation.network import Link, Server, Weather
from tests.simulation.plan import (
    CALM_AT,
    POISON,
    POLICY,
    REQUEST_USD,
    Plan,
    Step,
    clock_steps,
    draw,
    poisons,
    sleeps,
)
from tests.simulation.planned import begins, schedules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from actors.scheduler.outputs import Decision
    from events.catalogue import Recorded
    from sidecar.host import Sidecar

SETTLES_WITHIN = 150.0
"""After the last fault everything must have come to its end within so many seconds."""

FAMILIES = 0.35
"""In so many seeds runs of Claude Code submit tasks of their own."""

DAY_BUDGETS = 4
"""Every tenth world, from this one on, has a budget for a day's escalations."""

QUIET_S = 2.5
"""And then stay so for a while."""


class Line(NamedTuple):
    """One line of the history: when, what kind of thing, and who did what."""

    at: float
    kind: str
    said: str

    def __str__(self) -> str:
        return f"{self.at:9.4f}  {self.kind:<6} {self.said}"


class Outcome(NamedTuple):
    """What came of a seed. `broken` is None for a clean one."""

    seed: int
    broken: Broken | None
    events: int
    seconds: float
    digest: str
    history: list[Line]
    seen: dict[str, int]
    again: str = "make simulate SEEDS="

    def report(self) -> str:
        """Spell a failure: the seed, what was broken, how to see it again, all of it."""
        lines = "\n".join(str(line) for line in self.history)
        return (
            f"seed {self.seed}: {self.broken}\n"
            f"again: {self.again}{self.seed}\n"
            f"history ({len(self.history)} lines):\n{lines}\n"
            f"seed {self.seed}: {self.broken}"
        )


class WatchedRole(SchedulerRole):
    """A scheduler's role, looked at whenever it has come to rest."""

    judge: Judge
    process: Process
    looks_every = 1
    turns = 0

    def _append(self, decision: Decision) -> None:
        if self.process.alive:
            self.judge.decided(self.scheduler, decision, self.process.loop.elapsed())
            if not self.scheduler.state.time.unsaid_s:
                self.judge.stamped(self.scheduler, decision, self._clock())
        super()._append(decision)

    def _on_beat(self, message: Any) -> None:
        super()._on_beat(message)
        if self.process.alive:
            self.judge.beaten(
                self.scheduler, message.subject, self.process.loop.elapsed()
            )

    def _take_turn(self) -> None:
        super()._take_turn()
        self.turns += 1
        if self.process.alive and self.turns % self.looks_every == 0:
            able = self.lease.ours and self._bus.connected
            self.judge.scheduler(self.scheduler, able=able)


class SchedulerProcess(Process):
    """One scheduler, from its start to its end."""

    role: WatchedRole | None = None


class Simulation:
    """A world made from a seed. `run` plays it to its end.

    `calm_at` is when nothing breaks any more, `settles_within` how long it may then take;
    `lease_ttl` is the schedulers' own; `patience` is how often a command is said again,
    `looks_every` at which turns of a scheduler the judge looks into it.
    """

    calm_at = CALM_AT
    settles_within = SETTLES_WITHIN
    lease_ttl: float = LEASE_TTL_S
    patience = 20
    looks_every = 1
    policy: Mapping[str, Any] = POLICY

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.begin = self._begins()
        self.loop = SimLoop(self.begin)
        self.weather = Weather()
        self.temper = Temper()
        self.temper.unfit = random.Random(f"unfit {seed}").choice((0.0,) * 5 + (0.3,))
        self.judge = Judge()
        self.history: list[Line] = []
        self.server = Server(self.loop, self.chance, self.weather)
        self.server.on_stored = self._stored
        self.server.on_mail = self._mailed
        self.server.on_answer = self.judge.answered
        self.judge.given_up = self.server.given_up
        self.plan = self._drawn()
        self.machines = {
            f"h{n + 1}": Machine(f"h{n + 1}", self.loop, self.chance, self.temper)
            for n in range(self.plan.hosts)
        }
        for name, machine in self.machines.items():
            machine.verifies = random.Random(f"old {name} {seed}").random() > 0.1
        for machine in self.machines.values():
            machine.on_run = self._ran
            machine.on_checked = self.judge.verification.checked
            machine.on_worked = self.judge.verification.worked
            machine.on_command = self.judge.commanded
            machine.on_cloned = self._cloned
            machine.on_handled = self._handled
            machine.wanted = self.judge.wanted
            machine.over = self.judge.over
            machine.delegates = Random(f"families {seed}").random() < FAMILIES
        self.links: dict[str, Link] = {}
        self.processes: dict[str, Process] = {}
        self.skews = {
            name: self.chance.uniform(-self.plan.skew, self.plan.skew)
            for name in ("s1", "s2", *self.machines)
        }
        self.clock_steps: list[Step] = []
        self.sleeps: list[Step] = []
        self.schedules: list[tuple[float, str, dict[str, Any]]] = []
        self.poisons: list[Step] = []
        self._draw_apart()
        self.deadly = random.Random(f"deadly {seed}")
        kept = random.Random(f"kept {seed}")
        self.kept = KeptState(kept) if kept.random() < KEPT_SHARE else None
        self.task_ids: dict[int, str] = {}
        # Whatever is called in here belongs to no process.
        self.world = contextvars.copy_context()
        self.asking = 0
        self.asked = 0
        self._quiet_since: float | None = None
        self._settled_at_step = 0

    # -- what is drawn -----------------------------------------------------------------

    def _begins(self) -> float:
        return begins(random.Random(f"begins {self.seed}"))

    def _drawn(self) -> Plan:
        return draw(self.chance)

    def _draw_apart(self) -> None:
        """Draw what is apart, so that other accidents are the same with and without it."""
        seed, hosts = self.seed, self.plan.hosts
        self.clock_steps = clock_steps(random.Random(f"clocks {seed}"), hosts)
        self.sleeps = sleeps(random.Random(f"sleeps {seed}"), hosts)
        chance = random.Random(f"schedules {seed}")
        self.schedules = schedules(chance, self.calm_at, self.begin)
        self.poisons = poisons(random.Random(f"poisons {seed}"))
        if seed % 10 == DAY_BUDGETS:
            day = {"policy": {"escalation_budget_usd_per_day": REQUEST_USD / 2}}
            self.schedules.append((0.5, "policy.set", day))

    # -- what is noted -----------------------------------------------------------------

    def say(self, kind: str, said: str) -> None:
        self.history.append(Line(round(self.loop.elapsed(), 4), kind, said))

    def _stored(self, recorded: Recorded, by: str) -> None:
        event = recorded.event
        self.say(
            "log",
            f"{recorded.seq:>4} {by:<4} {recorded.subject[12:]:<34} "
            f"{c.name(event)} {_brief(event)}",
        )
        self.judge.stored(recorded, self.loop.elapsed())

    def _mailed(self, link: Link, message: Any) -> None:
        if message.subject.startswith("agentcom.mbx."):
            body = msgspec.json.decode(message.data)
            shown = {
                key: body[key]
                for key in ("type", "epoch", "task_id", "route", "incarnation")
                if key in body
            }
            self.say("mail", f"{message.by} to {link.process.name}: {shown}")
        self.judge.mail(link, message)

    def _ran(self, process: SidecarProcess, assign: m.Assign) -> None:
        if not process.alive:
            return
        self.say("run", f"{process.name} runs {assign.task_id} on {assign.route}")
        self.judge.ran(process, assign)
        if assign.spec.description == POISON and not self.temper.calm:
            process.die_within(self.deadly.choice((20, 100, 300)))
            again_at = self.loop.elapsed() + self.deadly.uniform(0.5, 2.0)
            step = Step(again_at, "start", process.name, {})
            self.world.run(self.loop.call_at, again_at, self.do, step)

    def _cloned(self, host: str, repo: str) -> None:
        if not self.machines[host].may_work_on(repo):
            self.judge.complain("a host clones what it may", f"{host}: {repo}")

    def _handled(self, sidecar: Sidecar) -> None:
        self.judge.host(sidecar.state)

    # -- processes ---------------------------------------------------------------------

    def _ids(self, process: Process) -> Callable[[], str]:
        return IdSource(process.clock, lambda: self.chance.getrandbits(79))

    def start_scheduler(self, name: str) -> None:
        if name in self.processes:
            return
        process = SchedulerProcess(self.loop, name, skew=self.skews[name])
        link = self._enter(process)

        async def be() -> None:
            role = WatchedRole(
                name, link, link, link,
                ids=self._ids(process), version="0", clock=process.clock,
                monotonic=self.loop.time, lease_ttl=self.lease_ttl,
                checkpoint=self.kept,  # type: ignore[arg-type]
            )  # fmt: skip
            role.judge, role.process = self.judge, process
            role.looks_every = self.looks_every
            role.scheduler._ticks = lambda: 0.0  # type: ignore[attr-defined]
            process.role = role
            await role.run(asyncio.Event())

        self.say("start", name)
        self._watch(process, process.spawn(be()))

    def start_host(self, name: str) -> None:
        machine = self.machines[name]
        if name in self.processes or machine.gone_for_good:
            return
        process = SidecarProcess(machine, skew=self.skews[name])
        link = self._enter(process)
        self.say("start", name)
        self._watch(process, process.spawn(live(process, link)))

    def _enter(self, process: Process) -> Link:
        link = Link(self.server, process)
        self.processes[process.name] = process
        self.links[process.name] = link
        process.on_death = lambda: self._died(process, link)
        return link

    def _died(self, process: Process, link: Link) -> None:
        self.say("end", f"{process.name} is gone")
        if isinstance(process, SidecarProcess):
            self.judge.died(process, self.loop.elapsed())
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
            del self.links[process.name]
        link.close()

    def _watch(self, process: Process, task: asyncio.Task[None]) -> None:
        def ended(done: asyncio.Task[None]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            if error is not None and process.alive:
                self.judge.complain("no process fails", f"{process.name}: {error!r}")

        task.add_done_callback(ended)

    # -- the client --------------------------------------------------------------------

    async def ask(self, name: str, body: Any, tries: int = 10_000) -> dict[str, Any]:
        """Send a command until it is answered for good, under an id as our doors do."""
        link = self.links["client"]
        if name in ONCE:
            self.asked += 1
            body = {"id": f"asked-{self.asked}", **body}
        answer: dict[str, Any] = {}
        self.asking += 1
        try:
            for _ in range(tries):
                try:
                    raw = await link.request(
                        subjects.command(name), encode(body), timeout=1.5
                    )
                except Unreachable:
                    await asyncio.sleep(0.3)
                    continue
                answer = msgspec.json.decode(raw)
                passing = ("log_unavailable", "busy", "conflict", "unreachable")
                if answer.get("code", "") not in passing:
                    break
                await asyncio.sleep(0.3)
        finally:
            self.asking -= 1
        self.say("asked", f"{name}: {answer.get('code') or answer}")
        return answer

    async def _ask(self, name: str, fields: dict[str, Any]) -> None:
        answer = await self.ask(name, fields, tries=self.patience)
        added = name == "schedule.add" and answer.get("event") == "schedule.added"
        if added and self.loop.elapsed() >= self.calm_at:
            # Its first copy never came, and so it was not there to be removed.
            await self.ask("schedule.remove", {"schedule": fields["schedule"]})

    async def submit(self, n: int, fields: dict[str, Any]) -> None:
        deadline = fields.pop("deadline_in", None)
        if deadline is not None:
            fields["deadline"] = rfc3339(self.loop.wall() + deadline)
        if (starts := fields.pop("at_in", None)) is not None:
            fields["at"] = rfc3339(self.loop.wall() + starts)
        for path, others in fields.pop("comes_after", {}).items():
            fields[path] = [self.task_ids[k] for k in others if k in self.task_ids]
        body = {"idempotency_key": f"task-{n}", **fields}
        answer = await self.ask("task.submit", body)
        if "task_id" in answer:
            self.task_ids[n] = answer["task_id"]
            self.judge.acknowledged.add(answer["task_id"])
        elif answer.get("path") == "repo":
            if all(m.may_work_on(fields["repo"]) for m in self.machines.values()):
                self.judge.complain("what a host has is taken", f"{answer}")
        elif answer.get("path") == "description":
            # No context of the world's models holds it.
            if len(fields["description"]) < 4 * 2_048:
                self.judge.complain("what fits a context is taken", f"{answer}")
        elif deadline is None:
            self.judge.complain("what is well formed is taken", f"{answer}")

    async def batch(self, first: int, tasks: list[dict[str, Any]]) -> None:
        keyed = [
            {"idempotency_key": f"task-{first + n}", **fields}
            for n, fields in enumerate(tasks)
        ]
        answer = await self.ask("task.batch", {"tasks": keyed})
        for n, task_id in enumerate(answer.get("task_ids", [])):
            self.task_ids[first + n] = task_id
            self.judge.acknowledged.add(task_id)

    async def about_task(self, name: str, n: int, fields: dict[str, Any]) -> None:
        task_id = self.task_ids.get(n)
        if task_id is not None:
            await self.ask(name, {"task_id": task_id, **fields}, tries=20)

    # -- what happens ------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Let one step of the plan happen."""
        self.say("plan", f"{step.what} {step.whom} {_short(step.fields)}")
        client = self.processes["client"]
        process, link = self.processes.get(step.whom), self.links.get(step.whom)
        fields = dict(step.fields)
        match step.what:
            case "submit":
                client.spawn(self.submit(fields.pop("n"), fields))
            case "batch":
                client.spawn(self.batch(fields["n"], fields["tasks"]))
            case "task.cancel" | "task.retry" | "task.reassign":
                client.spawn(self.about_task(step.what, fields.pop("n"), fields))
            case "ask":
                client.spawn(self._ask(step.whom, fields))
            case "start":
                self._start(step.whom)
            case "kill":
                if process is not None:
                    process.die_within(fields["steps"])
            case "vanish":
                self.machines[step.whom].gone_for_good = True
                if process is not None:
                    process.kill()
            case "leave":
                if isinstance(process, SidecarProcess):
                    process.call(process.stop.set)
            case "freeze":
                if process is not None:
                    process.freeze()
            case "thaw":
                if process is not None:
                    process.thaw()
            case "suspend":
                for one in self._asleep_together(step.whom):
                    one.suspend()
            case "resume":
                for one in self._asleep_together(step.whom):
                    self._resume(one, clock_moved=fields["clock_moved"])
            case "cut":
                if link is not None:
                    link.cut(fields["notice"])
            case "heal":
                if link is not None:
                    link.heal(fields["after"])
            case "slow":
                if link is not None:
                    link.slowness = fields["times"]
            case "outage":
                for one in list(self.links.values()):
                    one.cut(fields["notice"])
            case "outage over":
                for one in list(self.links.values()):
                    one.heal(fields["after"])
            case "disk":
                self.machines[step.whom].disk.full = fields["full"]
            case "endpoint":
                self._toggle(step.whom, fields)
            case "weather":
                for name, value in fields.items():
                    setattr(self.weather, name, value)
            case "step":
                self._step_clock(step.whom, fields["by"])
            case "calm":
                self._calm()
            case _:
                raise AssertionError(step.what)

    def _start(self, name: str) -> None:
        if name in self.machines:
            self.start_host(name)
        else:
            self.start_scheduler(name)

    def _step_clock(self, whom: str, by: float) -> None:
        if whom == "world":
            self.loop.step(by)
            return
        self.skews[whom] += by
        if whom in self.processes:
            self.processes[whom].skew += by

    def _asleep_together(self, whom: str) -> list[Process]:
        """Find who sleeps when one's machine does; `all` but the server and the client."""
        names = ("s1", "s2", *self.machines) if whom == "all" else (whom,)
        return [self.processes[name] for name in names if name in self.processes]

    def _resume(self, process: Process, *, clock_moved: bool) -> None:
        self.skews[process.name] -= process.resume(clock_moved=clock_moved)

    def _toggle(self, name: str, fields: dict[str, Any]) -> None:
        machine = self.machines[name]
        names = sorted(machine.endpoints)
        if names:
            machine.toggle(names[fields["n"] % len(names)], fields["up"])

    def _calm(self) -> None:
        """Nothing breaks from here on, and what was broken is made whole."""
        self.weather.calm()
        self.temper.calm = True
        for process in list(self.processes.values()):
            process.dies_at = 0
            process.thaw()
            if process.name in self.skews:
                self._resume(process, clock_moved=True)
        for link in self.links.values():
            link.slowness = 1.0
            link.heal(0.1)
        client = self.processes["client"]
        for name, machine in self.machines.items():
            machine.disk.full = False
            for endpoint, state in machine.endpoints.items():
                if not state.up:
                    machine.toggle(endpoint, True)
            if not machine.gone_for_good:
                client.spawn(self._come_back(name))
        for name in ("s1", "s2"):
            self.start_scheduler(name)
        client.spawn(self._give_up_what_is_far_off())
        # A policy that allows no escalation may keep a task waiting for ever, rightly.
        policy = {
            **self.policy,
            "max_escalations_in_flight": 4,
            "escalation_budget_usd_per_day": None,
        }
        client.spawn(self.ask("policy.set", {"policy": policy}))

    async def _give_up_what_is_far_off(self) -> None:
        """Cancel what starts in hours only, because the world's clock was put back."""
        await asyncio.sleep(8.0)
        behind = min(self.skews.get(name, 0.0) for name in ("s1", "s2"))
        for task_id in self.judge.later.far_off(self.loop.wall() + behind + 60.0):
            await self.ask("task.cancel", {"task_id": task_id}, tries=20)
        for task_id in self.judge.planned.open_tasks():
            await self.ask("task.cancel", {"task_id": task_id}, tries=20)

    async def _come_back(self, name: str) -> None:
        process = self.processes.get(name)
        while isinstance(process, SidecarProcess) and process.stop.is_set():
            await asyncio.sleep(0.5)
            process = self.processes.get(name)
        self.start_host(name)
        await asyncio.sleep(1.0)
        await self.ask("host.resume", {"host": name})

    # -- the end -----------------------------------------------------------------------

    def _over(self) -> bool:
        if self.judge.broken is not None:
            return True
        now = self.loop.elapsed()
        if now < self.calm_at or self.loop.steps < self._settled_at_step:
            return False
        self._settled_at_step = self.loop.steps + 32
        if self.asking or not self._at_rest():
            self._quiet_since = None
            return False
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since >= QUIET_S

    def _at_rest(self) -> bool:
        if any(s.phase not in FINAL for s in self.judge.states.values()):
            return False
        end = len(self.server.entries)
        roles = self._roles()
        if len(roles) < 2 or any(r.scheduler.state.position < end for r in roles):
            return False
        if sum(r.scheduler.leading for r in roles) != 1:
            return False
        if any(r.scheduler.state.tasks for r in roles):
            return False
        if any(link.pending for link in self.links.values()):
            return False
        for machine in self.machines.values():
            process = self.processes.get(machine.name)
            if machine.gone_for_good:
                continue
            if not isinstance(process, SidecarProcess) or process.sidecar is None:
                return False
            if (
                process.runs
                or process.sidecar.outbox.pending
                or process.sidecar.state.runs
            ):
                return False
        return True

    def _roles(self) -> list[WatchedRole]:
        return [
            process.role
            for process in self.processes.values()
            if isinstance(process, SchedulerProcess) and process.role is not None
        ]

    def _why_not_at_rest(self) -> str:
        said: list[str] = []
        for task_id, state in self.judge.states.items():
            if state.phase not in FINAL:
                said.append(f"{task_id} is {state.phase} ({state.host})")
        for role in self._roles():
            scheduler = role.scheduler
            said.append(
                f"{scheduler.name}: leading {scheduler.leading}, epoch {scheduler.state.epochs.current}, "
                f"at {scheduler.state.position} of {len(self.server.entries)}, "
                f"{len(scheduler.state.tasks)} tasks, {len(scheduler.state.queue)} queued"
            )
        for process in self.processes.values():
            if isinstance(process, SidecarProcess) and process.sidecar is not None:
                held = host_state.runs_held(process.sidecar.state)
                said.append(
                    f"{process.name}: runs {sorted(process.runs)}, holds {held}, "
                    f"outbox {process.sidecar.outbox.pending}"
                )
        if self.asking:
            said.append(f"{self.asking} commands not answered")
        return "; ".join(said)

    def _finally(self) -> None:
        judge = self.judge
        log = self.server.entries
        for task_id in sorted(judge.acknowledged):
            if task_id not in judge.states:
                judge.complain("no acknowledged task is lost", task_id)
        judge.booked()
        judge.planned.finally_there()
        judge.families.at_rest()
        for role in self._roles():
            judge.scheduler(role.scheduler, able=True)
            judge.same(role.scheduler, log)
            if role.scheduler.leading:
                judge.left_over(role.scheduler)
                for process in self.processes.values():
                    if (
                        isinstance(process, SidecarProcess)
                        and process.sidecar is not None
                    ):
                        judge.told(role.scheduler, process.sidecar.state)

    def run(self) -> Outcome:
        """Play the seed to its end."""
        with _quiet_logs(self), simulated_edges():
            client = Process(self.loop, "client")
            self._enter(client)
            for at, name, fields in self.schedules:
                self.loop.call_at(at, self.do, Step(at, "ask", name, fields))
            for step in (
                *self.plan.steps,
                *self.clock_steps,
                *self.sleeps,
                *self.poisons,
            ):
                self.loop.call_at(step.at, self.do, step)
            try:
                self.loop.run(until=self.calm_at + self.settles_within, done=self._over)
                if self.judge.broken is None and self._quiet_since is None:
                    self.judge.complain(
                        "after the faults everything comes to its end",
                        self._why_not_at_rest(),
                    )
                for process, context in self.loop.faults:
                    self.judge.complain(
                        "no callback fails",
                        f"{process.name if process else 'world'}: {context}",
                    )
                if self.judge.broken is None:
                    self._finally()
            except Stuck:
                self.judge.complain("the world goes on", self._why_not_at_rest())
            finally:
                seconds = self.loop.elapsed()
                said = list(self.history)
                for process in list(self.processes.values()):
                    process.kill()
                self.loop.drain()
                self.loop.close()
        digest = hashlib.sha256("\n".join(map(str, said)).encode()).hexdigest()
        return Outcome(
            self.seed, self.judge.broken, len(self.server.entries),
            seconds, digest[:16], said, self.judge.verdicts,
        )  # fmt: skip


def play(seed: int) -> Outcome:
    """Make a world from a seed and play it to its end."""
    return Simulation(seed).run()


@contextmanager
def _quiet_logs(world: Simulation) -> Iterator[None]:
    """Take the processes' log lines into the history."""

    def note(_logger: Any, level: str, line: dict[str, Any]) -> Any:
        if level != "debug":
            world.say("said", " ".join(f"{k}={v}" for k, v in line.items()))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note])
    try:
        yield
    finally:
        structlog.configure(**before)


def _brief(event: c.Event) -> str:
    said = []
    for name in (
        "epoch", "generation", "selected_host", "selected_endpoint", "effective_tier",
        "fallback_from_tier", "host", "reason", "exclude", "tier", "attempt", "until",
        "incarnation", "endpoint", "leaderless_s", "held", "step_s",
    ):  # fmt: skip
        value = getattr(event, name, None)
        if value not in (None, "", [], False):
            said.append(f"{name}={value}")
    route = getattr(event, "route", "")
    if isinstance(event, c.TaskRouted):
        route = event.id
    if isinstance(event, c.EndpointUp | c.EndpointChanged):
        said.append(f"endpoint={event.state.endpoint}")
    return " ".join([*said, f"route={route}" if route else ""])


def _short(fields: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in fields.items())[:200]
