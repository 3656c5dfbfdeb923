"""What happens in a seed, drawn before it begins: the work, and what breaks when.

A seed has a climate: it picks a few kinds of faults and leaves the others out, so that
rare combinations come up undisturbed by everything else at once.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

REQUEST_USD = 0.25
"""What a run of Claude Code costs here."""

WORK_UNTIL = 18.0
CALM_AT = 26.0

FAULTS = (
    "scheduler dies",
    "scheduler hangs",
    "scheduler cut off",
    "host dies",
    "host hangs",
    "host cut off",
    "host leaves",
    "host vanishes",
    "outage",
    "disk full",
    "endpoint down",
    "lossy",
    "slow",
    "unacknowledged",
)

THEMES = (
    ("scheduler hangs", "scheduler cut off", "slow"),
    ("scheduler cut off", "scheduler dies", "lossy", "slow"),
    ("unacknowledged", "slow", "host cut off"),
    ("host dies", "host leaves", "outage"),
)
"""Some seeds have a theme instead of a climate: a few kinds of faults, many of each."""

POLICY = {
    "host_lease_s": 6.0,
    "accept_timeout_s": 2.0,
    "fallback_wait_s": 2.0,
    "tier_alert_after_s": 6.0,
    "limited_initial_s": 2.0,
    "limited_cap_s": 6.0,
    "task_ttl_s": 12.0,
    "ageing_s": 15.0,
    "beat_interval_s": 1.0,
    "max_children_per_task": 4,
    "max_delegation_depth": 2,
}
"""Shorter than the defaults, so that more happens in a simulated minute."""


STEPS_S = (2.0, 30.0, 90.0, 3_600.0, 86_400.0, 3 * 86_400.0)
"""How far a wall clock is put forward, or back."""


POISON = "end whoever runs this"
POISON_FROM = 1_000
"""Such tasks' description; and the first one's number, above those of all others."""

URLS = (
    "https://git.example/team/app",
    "https://git.example/team/app",
    "https://git.example/team-b/app",
)
"""Repositories of which no machine has a checkout; the last one none may clone."""


class Step(NamedTuple):
    """At a time, something happens to somebody."""

    at: float
    what: str
    whom: str
    fields: dict[str, Any]


class Plan(NamedTuple):
    """How many hosts, how far clocks may be off (seconds), and what happens."""

    hosts: int
    skew: float
    faults: tuple[str, ...]
    steps: list[Step]


class _Drawing:
    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.steps: list[Step] = []

    def add(self, at: float, what: str, whom: str = "", **fields: Any) -> None:
        self.steps.append(Step(round(at, 4), what, whom, fields))


def draw(chance: Random) -> Plan:
    """Draw a plan."""
    drawing = _Drawing(chance)
    hosts = [f"h{n + 1}" for n in range(chance.choice((1, 2, 2, 3, 3, 4)))]
    themed = chance.random() < 0.3
    faults = chance.choice(THEMES)
    if not themed:
        faults = tuple(f for f in FAULTS if chance.random() < 0.3)
    drawing.add(0.0, "start", "s1")
    drawing.add(chance.uniform(0.0, 1.0), "start", "s2")
    for host in hosts:
        drawing.add(chance.uniform(0.0, 2.0), "start", host)
    drawing.add(0.01, "ask", "policy.set", policy=POLICY)
    _work(drawing, hosts)
    for fault in faults:
        for _ in range(chance.choice((2, 3, 5) if themed else (1, 1, 2, 3))):
            _fault(drawing, fault, hosts)
    if "host vanishes" in faults and len(hosts) > 1:
        drawing.add(chance.uniform(4, CALM_AT - 2), "vanish", chance.choice(hosts))
    drawing.add(CALM_AT, "calm")
    skew = chance.choice((0.0, 0.0, 0.5, 3.0))
    steps = sorted(drawing.steps, key=lambda step: step.at)
    return Plan(len(hosts), skew, faults, steps)


def clock_steps(chance: Random, hosts: int) -> list[Step]:
    """Draw whose wall clock is put forward and back when; in most seeds nobody's.

    `world` is everybody's: a machine that slept with all of them on it, if it is forward.
    """
    if chance.random() < 0.6:
        return []
    names = ["s1", "s2", "world", *(f"h{n + 1}" for n in range(hosts))]
    drawing = _Drawing(chance)
    only = chance.choice(("any", "s1", "world"))
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        by = chance.choice(STEPS_S) * chance.choice((1, -1))
        whom = chance.choice(names) if only == "any" else only
        drawing.add(chance.uniform(2.0, CALM_AT + 5), "step", whom, by=by)
    return drawing.steps


def poisons(chance: Random) -> list[Step]:
    """Draw tasks that end the host on which they run; in most seeds there is none."""
    if chance.random() < 0.9:
        return []
    drawing = _Drawing(chance)
    for n in range(chance.choice((1, 2, 2, 3))):
        at = chance.uniform(1.0, 6.0)
        drawing.add(
            at, "submit", n=POISON_FROM + n, description=POISON,
            tier="trivial", shell={"command": "true"}, max_attempts=4,
            ttl_s=60,
        )  # fmt: skip
    return drawing.steps


def sleeps(chance: Random, hosts: int) -> list[Step]:
    """Draw whose machine is suspended when, and for how long; in most seeds nobody's.

    Its monotonic clock stands still meanwhile. Its wall clock has moved on when it wakes,
    but for a virtual machine that was paused.
    """
    if chance.random() < 0.7:
        return []
    names = ["s1", "s2", "all", *(f"h{n + 1}" for n in range(hosts))]
    drawing = _Drawing(chance)
    only = chance.choice(("any", "s1", "hosts"))
    if only != "any":
        names = [name for name in names if name[0] == only[0]]
    for _ in range(chance.choice((1, 2, 3, 5))):
        at, whom = chance.uniform(1.5, CALM_AT - 2), chance.choice(names)
        lasts = chance.choice((chance.uniform(0.3, 4), chance.uniform(4, 15)))
        drawing.add(at, "suspend", whom)
        moved = chance.random() < 0.7
        drawing.add(min(at + lasts, CALM_AT - 0.5), "resume", whom, clock_moved=moved)
    return drawing.steps


def _work(drawing: _Drawing, hosts: list[str]) -> None:
    chance = drawing.chance
    count = chance.choice((3, 6, 10, 14))
    n = 0
    while n < count:
        at = chance.uniform(0.0, WORK_UNTIL)
        if chance.random() < 0.15:
            tasks = [
                _task(chance, hosts, f"{at}/{i}")
                for i in range(chance.choice((2, 3, 4)))
            ]
            for fields in tasks:
                fields.pop("deadline_in", None)
                fields.pop("at_in", None)
            _graph(Random(f"graph {at}"), tasks)
            drawing.add(at, "batch", n=n, tasks=tasks)
            made = len(tasks)
        else:
            fields = _task(chance, hosts, str(at))
            _comes_after(Random(f"after {at}"), fields, range(n))
            drawing.add(at, "submit", n=n, **fields)
            made = 1
        for which in range(n, n + made):
            _steer(drawing, which, at, hosts)
        n += made
    for _ in range(chance.choice((0, 0, 1, 2))):
        host = chance.choice(hosts)
        at = chance.uniform(2.0, WORK_UNTIL)
        drawing.add(at, "ask", "host.drain", host=host)
        back = at + chance.uniform(0.5, 6)
        drawing.add(back, "ask", "host.resume", host=host)
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.uniform(1.0, WORK_UNTIL)
        drawing.add(at, "ask", "policy.set", policy=_policy(chance))
    if chance.random() < 0.25:
        at = chance.uniform(0.5, WORK_UNTIL)
        drawing.add(
            at, "ask", "endpoint.add",
            endpoint="pool", kind="ollama", url="http://pool", slots=2,
        )  # fmt: skip
        if chance.random() < 0.4:
            at += chance.uniform(1, 6)
            drawing.add(at, "ask", "endpoint.remove", endpoint="pool")


def _task(chance: Random, hosts: list[str], mark: str) -> dict[str, Any]:
    """Draw a task. What it is for draws of a chance of its own, which `mark` begins."""
    fields: dict[str, Any] = {"description": "do this thing"}
    own = Random(mark)
    if own.random() < 0.1:
        fields["description"] *= 1_500
    match chance.choices(
        ("shell", "standard", "complex", "both", "agent", "noop"),
        (35, 30, 15, 8, 5, 7),
    )[0]:
        case "shell":
            fields |= {"tier": "trivial", "shell": {"command": "true"}}
        case "both":
            fields |= {"tier": "standard", "shell": {"command": "true"}}
        case "agent":
            fields |= {"executor": "agent", "tier": "standard"}
        case "noop":
            fields |= {"executor": "noop", "tier": "standard"}
        case tier:
            fields["tier"] = tier
            if own.random() < 0.3:
                fields["mode"] = "work"
    if own.random() < 0.25 and fields.get("executor") is None:
        fields["verification_steps"] = ["first", "second"][: own.choice((1, 2))]
        if own.random() < 0.3:
            fields["verify_rounds"] = own.choice((1, 3))
    if chance.random() < 0.5:
        fields["priority"] = chance.choice(("urgent", "high", "normal", "low"))
    if chance.random() < 0.3:
        fields["max_attempts"] = chance.choice((1, 2, 4))
        if fields["max_attempts"] > 1:
            fields["max_budget_usd"] = 1.5 * REQUEST_USD
    if chance.random() < 0.15:
        fields["repo"] = chance.choice(("web", "api"))
    elif own.random() < 0.1:
        fields["repo"] = own.choice(URLS)
    if "shell" in fields and own.random() < 0.3:
        most = fields.get("max_attempts", 3) - 1
        fields["retries"] = min(own.choice((0, 1, 2)), most)
    if chance.random() < 0.08:
        fields["needs"] = [chance.choice(("gpu", "docker", "tpu"))]
    if chance.random() < 0.08:
        fields["assign_to"] = chance.choice(hosts)
    if chance.random() < 0.08 and fields["tier"] == "standard":
        fields["model"] = chance.choice(("qwen3", "llama3.2", "mistral"))
    if chance.random() < 0.08:
        fields["ttl_s"] = chance.choice((1, 4, 20))
    if chance.random() < 0.08:
        fields["deadline_in"] = chance.choice((4, 8, 15))
    elif own.random() < 0.12:
        fields["at_in"] = own.choice((-5, 1, 4, 12, 40))
    return fields


def _path(own: Random, fields: dict[str, Any]) -> str:
    paths = ["after", "after", "after_any"]
    if "shell" not in fields and fields.get("executor") != "noop":
        paths.append("input_from")
    return own.choice(paths)


def _comes_after(own: Random, fields: dict[str, Any], others: range) -> None:
    """Have a task come after some that were submitted before it, by their numbers."""
    if own.random() < 0.3 and others:
        some = own.sample(others, min(len(others), own.choice((1, 1, 2, 3))))
        fields["comes_after"] = {_path(own, fields): some}


def _graph(own: Random, tasks: list[dict[str, Any]]) -> None:
    """Make a graph of some batches, and a cycle of a few of these."""
    if own.random() < 0.5:
        return
    for n, fields in enumerate(tasks):
        fields["name"] = f"t{n}"
        some = [f"t{k}" for k in range(n) if own.random() < 0.6]
        if some:
            fields[_path(own, fields)] = some
    if own.random() < 0.15 and "after" in tasks[-1] and len(tasks[-1]["after"]) > 1:
        tasks[0]["after_any"] = [tasks[-1]["name"]]
    elif own.random() < 0.3:
        tasks.reverse()


def _steer(drawing: _Drawing, n: int, at: float, hosts: list[str]) -> None:
    """What people do about a task after they have submitted it."""
    chance = drawing.chance

    def later() -> float:
        return min(at + chance.expovariate(1 / 3), CALM_AT - 0.1)

    if chance.random() < 0.22:
        drawing.add(later(), "task.cancel", n=n)
        if chance.random() < 0.3:
            drawing.add(later() + 2, "task.retry", n=n)
    if chance.random() < 0.2:
        drawing.add(later() + 3, "task.retry", n=n)
    if chance.random() < 0.1:
        drawing.add(later(), "task.reassign", n=n, host=chance.choice(hosts))


def _policy(chance: Random) -> dict[str, Any]:
    return chance.choice(
        (
            {"allow_downgrade": True},
            {"fallback_wait_s": chance.choice((0.0, 0.5, 4.0))},
            {"max_escalations_in_flight": chance.choice((0, 1, 2))},
            {"accept_timeout_s": chance.choice((0.5, 4.0))},
            {"host_lease_s": chance.choice((4.0, 9.0))},
            {"task_ttl_s": chance.choice((2.0, 20.0))},
            {"ageing_s": 2.0},
            {"scoring": {"warm": 3.0}},
            {"local_models": ["qwen3"]},
        )
    )


def _fault(drawing: _Drawing, fault: str, hosts: list[str]) -> None:
    chance, add = drawing.chance, drawing.add
    at = chance.uniform(1.0, CALM_AT - 2)
    scheduler, host = chance.choice(("s1", "s2")), chance.choice(hosts)
    long = at + chance.choice((chance.uniform(0.1, 2), chance.uniform(2, 9)))
    match fault:
        case "scheduler dies" | "host dies":
            whom = scheduler if fault.startswith("scheduler") else host
            add(at, "kill", whom, steps=chance.choice((1, 3, 10, 40)))
            add(long, "start", whom)
        case "scheduler hangs" | "host hangs":
            whom = scheduler if fault.startswith("scheduler") else host
            add(at, "freeze", whom)
            add(long, "thaw", whom)
        case "scheduler cut off" | "host cut off":
            whom = scheduler if fault.startswith("scheduler") else host
            add(at, "cut", whom, notice=chance.choice((0.0, 0.5, 3.0)))
            add(long, "heal", whom, after=chance.uniform(0.0, 0.5))
        case "host leaves":
            add(at, "leave", host)
            add(long + 4, "start", host)
        case "outage":
            add(at, "outage", notice=chance.choice((0.0, 1.0)))
            add(min(long, at + 5), "outage over", after=chance.uniform(0.0, 0.5))
        case "disk full":
            add(at, "disk", host, full=True)
            add(min(long, CALM_AT - 1), "disk", host, full=False)
        case "endpoint down":
            which = chance.randrange(8)
            add(at, "endpoint", host, n=which, up=False)
            add(long, "endpoint", host, n=which, up=True)
        case "lossy":
            odds = chance.choice((0.01, 0.05, 0.2))
            add(
                at, "weather",
                lost=odds, twice=chance.choice((0.0, 0.05)), gives_up=odds,
            )  # fmt: skip
            add(long, "weather", lost=0.0, twice=0.0, gives_up=0.0)
        case "slow":
            add(at, "weather", slow=chance.choice((0.01, 0.05, 0.1)))
            add(at, "slow", host, times=chance.choice((1, 20, 200)))
            add(long, "slow", host, times=1.0)
        case "unacknowledged":
            odds = chance.choice((0.02, 0.1))
            add(at, "weather", unacknowledged=odds, gives_up=0.4)
            add(long, "weather", unacknowledged=0.0, gives_up=0.0)
        case _:
            pass
