"""Children of a task's run: they end with it, and no slot is waited for in a circle."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from actors import lifecycle
from actors.gateway.gateway import Gateway
from actors.rules.classification import classify
from actors.rules.policy import Policy, document
from events import catalogue as c
from events import subjects
from events.codec import encode
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.world import World, claude, ollama


def delegate(
    w: World, parent: str, child: str, tier: str = "complex", **fields
) -> None:
    """Let a task's run submit a child, as the gateway stores it."""
    route = w.routes(parent)[-1].id
    w.store(
        subjects.task(parent),
        c.TaskDelegated(**w.head(), task_id=parent, child=child, route=route),
    )
    spec = c.TaskSpec(description="a part of it", tier=tier, **fields)
    w.store(
        subjects.task(child),
        c.TaskSubmitted(
            **w.head(),
            task_id=child,
            spec=spec,
            classification=classify(spec),
            parent=parent,
            parent_route=route,
            root=parent,
            depth=1,
            tier_limit="complex",
        ),
    )
    w.turn()


def parents(*names: str, slots: int = 2) -> World:
    """Have these tasks run on the slots of one Claude Code."""
    w = World()
    w.join("h1", endpoints=[claude(slots=slots)], slots={"shell": 1, "claude": slots})
    for name in names:
        w.submit(name, "think", tier="complex")
        w.report(name, c.TaskStarted, executor="claude")
    return w


def running(w: World) -> set[str]:
    return {
        task_id
        for task_id in w.scheduler.state.on_host.get("h1", {})
        if w.phase(task_id) in ("routed", "accepted", "running")
    }


def test_a_child_that_may_hop_hears_of_the_lent_slot_when_the_others_have_gone():
    w = parents("p1", slots=1)
    delegate(w, "p1", "c1")
    delegate(w, "p1", "c2", tier="standard")
    delegate(w, "p1", "c3")
    assert [w.phase(f"c{n}") for n in (1, 2, 3)] == ["routed", "waiting", "waiting"]
    w.store(subjects.task("c3"), c.TaskCancelled(**w.head(), task_id="c3"))
    w.turn()
    w.run("c1")
    assert w.phase("c2") == "routed"


def test_two_parents_on_two_slots_with_eight_children_do_not_stall():
    w = parents("p1", "p2")
    children = [f"c{n}" for n in range(8)]
    for n, child in enumerate(children):
        delegate(w, f"p{n % 2 + 1}", child)
    ended = 0
    while ready := sorted(running(w) - {"p1", "p2"}):
        assert len(ready) <= 2, "a lent slot is lent once"
        for child in ready:
            w.run(child)
            ended += 1
    assert ended == 8
    for parent in ("p1", "p2"):
        w.report(parent, c.TaskCompleted, result=c.Result(status="success"))
    slots = w.scheduler.state.fleet.hosts["h1"].slots["endpoint:claude"]
    assert (slots.in_flight, slots.reserved, slots.lent) == (0, 0, 0)


def test_a_lent_slot_is_free_to_no_task_but_children():
    w = parents("p1", slots=1)
    delegate(w, "p1", "c1", tier="trivial", shell=c.Shell(command="true"))
    w.submit("stranger", "think", tier="complex")
    assert w.routes("stranger") == []


def test_a_host_is_told_whose_slots_count_as_free():
    w = parents("p1", slots=1)
    delegate(w, "p1", "c1")
    (mail,) = w.assigned("c1")
    assert mail.message.lent == [w.routes("p1")[0].id]


def test_parents_that_wait_for_each_others_hosts_do_not_stall():
    w = World()
    for host in ("h1", "h2"):
        w.join(host, endpoints=[claude(f"claude-{host}")], slots={"claude": 1})
    w.submit("p1", "think", tier="complex", assign_to="h1")
    w.submit("p2", "think", tier="complex", assign_to="h2")
    delegate(w, "p1", "c1", assign_to="h2")
    delegate(w, "p2", "c2", assign_to="h1")
    assert len(w.routes("c1")) == len(w.routes("c2")) == 1


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (c.TaskCompleted, {"result": c.Result(status="success")}),
        (c.TaskFailed, {"result": c.Result(status="failed")}),
        (c.TaskReturned, {"reason": "interrupted"}),
    ],
)
def test_children_are_cancelled_when_their_parents_run_ends(kind, more):
    w = parents("p1")
    delegate(w, "p1", "runs")
    delegate(w, "p1", "waits", assign_to="nowhere")
    w.report("runs", c.TaskStarted, executor="claude")
    w.report("p1", kind, **more)
    assert (w.phase("runs"), w.phase("waits")) == ("cancelling", "cancelled")
    cancelled = [e for e in w.events(c.TaskCancelled) if e.task_id == "waits"]
    assert cancelled[0].requested_by == "task:p1"
    w.report("runs", c.TaskStopped)
    assert w.scheduler.state.families.children == {}
    assert w.scheduler.state.families.orphans == {}


def test_a_cancelled_parent_takes_children_and_grandchildren_with_it():
    w = parents("p1", slots=3)
    delegate(w, "p1", "c1")
    w.report("c1", c.TaskStarted, executor="claude")
    delegate(w, "c1", "g1")
    w.store(subjects.task("p1"), c.TaskCancelled(**w.head(), task_id="p1"))
    w.turn()
    assert [w.phase(one) for one in ("p1", "c1", "g1")] == ["cancelling"] * 3


def test_a_child_that_comes_after_its_parents_end_is_cancelled():
    w = parents("p1")
    route = w.routes("p1")[-1].id
    w.report("p1", c.TaskCompleted, result=c.Result(status="success"))
    spec = c.TaskSpec(description="late", tier="complex")
    event = c.TaskSubmitted(
        **w.head(),
        task_id="late",
        spec=spec,
        classification=classify(spec),
        parent="p1",
        parent_route=route,
        root="p1",
        depth=1,
    )
    w.store(subjects.task("late"), event)
    w.turn()
    assert w.phase("late") == "cancelled"


def test_a_cancellation_that_was_not_stored_is_decided_again():
    w = parents("p1")
    delegate(w, "p1", "c1", assign_to="nowhere")
    w.store(
        subjects.run("h1", "p1"),
        c.TaskCompleted(
            **w.head(), task_id="p1", host="h1", route=w.routes("p1")[-1].id,
            generation=1, attempt=1, incarnation="i1", result=c.Result(status="success"),
        ),
    )  # fmt: skip
    (decision,) = [
        d for d in w.scheduler.decide(w.now) if isinstance(d.event, c.TaskCancelled)
    ]
    w.scheduler.undecided(decision)
    w.turn()
    assert w.phase("c1") == "cancelled"


def test_a_retried_child_is_a_task_by_itself():
    w = parents("p1")
    delegate(w, "p1", "c1")
    w.report("p1", c.TaskCompleted, result=c.Result(status="success"))
    w.report("c1", c.TaskStopped)
    w.store(subjects.task("c1"), c.TaskRetried(**w.head(), task_id="c1"))
    history = [r for r in w.log if r.subject.endswith(".c1")]
    w.scheduler.adopt("c1", history)
    w.turn()
    assert w.phase("c1") == "routed"


def test_a_child_of_a_standard_task_falls_back_to_nothing_dearer():
    w = World()
    w.join("h1", endpoints=[ollama(), claude()], slots={"claude": 1})
    w.submit("p1", "think", tier="standard")
    w.report("p1", c.TaskStarted, executor="claude")
    spec = c.TaskSpec(description="a part", tier="standard", assign_to="nowhere")
    event = c.TaskSubmitted(
        **w.head(), task_id="c1", spec=spec, classification=classify(spec),
        parent="p1", parent_route=w.routes("p1")[0].id, root="p1", depth=1,
        tier_limit="standard",
    )  # fmt: skip
    w.store(subjects.task("c1"), event)
    assert w.scheduler.state.tasks["c1"].requirement(()).hopped


# -- the gateway ------------------------------------------------------------------------


class Door:
    """A gateway over a log in memory, asked as a host would ask."""

    def __init__(self, **policy) -> None:
        self.w = World()
        self.w.scheduler.state.fleet.policy = Policy(**policy)
        self.log = MemoryLog()
        numbers = itertools.count(1)
        self.gateway = Gateway(
            "gw",
            self.log,
            MemoryBus(MemoryBroker()),
            lambda: f"G{next(numbers):06d}",
            lambda: self.w.now,
            self.w.scheduler,
        )

    async def store(self, subject: str, event: c.Event) -> None:
        await self.log.append(subject, event)

    async def parent(
        self, task_id: str = "p1", tier: str = "complex", **fields
    ) -> None:
        """Have a task run on h1, on the route `r-<task>`."""
        await self.store(
            subjects.SCHEDULER, c.SchedulerElected(**self.w.head(), epoch=1, name="s1")
        )
        spec = c.TaskSpec(description="think", tier=tier, **fields)
        await self.store(
            subjects.task(task_id),
            c.TaskSubmitted(
                **self.w.head(),
                task_id=task_id,
                spec=spec,
                classification=classify(spec),
            ),
        )
        await self.route(task_id, tier)

    async def route(self, task_id: str, tier: str = "complex") -> None:
        routed = c.TaskRouted(
            id=f"r-{task_id}", at="2026-01-01T00:00:00.000000Z", by="s1", epoch=1,
            task_id=task_id, generation=1, attempt=1, effective_tier=tier,
            target_type="claude", selected_host="h1", classification_reason="",
            candidate_count=1, candidates=[], estimated_cost_tier="api",
            policy_version=0, log_seq=0,
        )  # fmt: skip
        await self.store(subjects.task(task_id), routed)

    async def ask(self, verb: str, parent: str = "p1", host: str = "h1", **body):
        raw = encode({"parent": parent, "route": f"r-{parent}", **body})
        answer = await self.gateway.answer(f"child.{host}.{verb}", raw, "x")
        return json.loads(encode(answer))

    async def submit(self, parent: str = "p1", host: str = "h1", **task):
        task.setdefault("description", "a part")
        task.setdefault("tier", "standard")
        return await self.ask("submit", parent, host, task=task)


async def test_a_run_submits_children_with_its_lineage_and_labels():
    door = Door()
    await door.parent(labels={"team": "search"})
    answer = await door.submit(labels={"step": "one"})
    assert answer["ok"], answer
    (stored,) = await door.log.read(subjects.task(answer["task_id"]))
    event = stored.event
    assert (event.parent, event.root, event.depth) == ("p1", "p1", 1)
    assert (event.parent_route, event.submitter) == ("r-p1", "task:p1")
    assert event.spec.labels == {"team": "search", "step": "one"}
    told = [
        r.event
        for r in await door.log.read(subjects.task("p1"))
        if isinstance(r.event, c.TaskDelegated)
    ]
    assert [one.child for one in told] == [answer["task_id"]]


async def test_the_same_submission_again_finds_the_same_child():
    door = Door()
    await door.parent()
    first = await door.submit(idempotency_key="k")
    again = await door.submit(idempotency_key="k")
    assert (again["task_id"], again["existing"]) == (first["task_id"], True)
    assert len(await door.log.read(subjects.task("p1"))) == 3


async def test_it_is_found_again_also_after_its_parent_has_spent_something():
    door = Door()
    await door.parent(max_budget_usd=0.5)
    first = await door.submit(idempotency_key="k", tier="complex")
    spent = c.TaskVerified(
        **door.w.head(), task_id="p1", host="h1", route="r-p1", generation=1, attempt=1,
        incarnation="i", text="", round=1, rounds=2, step=1, of=1, command="x",
        passed=False, spent=c.RoundSpent(estimated_cost_usd=0.2),
    )  # fmt: skip
    await door.store(subjects.run("h1", "p1"), spent)
    again = await door.submit(idempotency_key="k", tier="complex")
    assert (again.get("task_id"), again.get("existing")) == (first["task_id"], True)
    other = await door.submit(idempotency_key="k", tier="standard")
    assert other["code"] == "conflict"


@pytest.mark.parametrize(
    ("host", "route", "why"),
    [("h2", "r-p1", "does not run on h2"), ("h1", "r-other", "does not run on h1")],
)
async def test_only_the_host_and_the_run_that_has_the_parent_may_ask(host, route, why):
    door = Door()
    await door.parent()
    raw = encode(
        {
            "parent": "p1",
            "route": route,
            "task": {"description": "x", "tier": "standard"},
        }
    )
    answer = await door.gateway.answer(f"child.{host}.submit", raw, "x")
    assert answer.code == "denied"
    assert why in answer.error


async def test_the_right_ends_with_the_run():
    door = Door()
    await door.parent()
    await door.store(
        subjects.task("p1"), c.TaskCancelled(**door.w.head(), task_id="p1")
    )
    answer = await door.submit()
    assert (answer["code"], answer["error"]) == ("denied", "task p1 is cancelling")


async def test_a_dearer_tier_is_refused_with_the_reason():
    door = Door()
    await door.parent(tier="standard")
    answer = await door.submit(tier="complex")
    assert answer["code"] == "refused"
    assert answer["error"] == (
        "tier: it is complex; the task that submits it is standard, and may use no "
        "dearer tier"
    )


async def test_depth_four_is_refused_with_the_reason():
    door = Door()
    await door.parent("p1")
    parent = "p1"
    for depth in (1, 2, 3):
        answer = await door.submit(parent, tier="complex", description=f"depth {depth}")
        assert answer["ok"], answer
        parent = answer["task_id"]
        await door.route(parent)
    answer = await door.submit(parent, tier="complex")
    assert answer["code"] == "refused"
    assert "at depth 4, and the policy's max_delegation_depth is 3" in answer["error"]
    last = (await door.log.read(subjects.task(parent)))[0].event
    assert (last.root, last.depth) == ("p1", 3)


async def test_however_many_ask_at_once_none_is_let_in_too_many():
    door = Door(max_children_per_task=3)
    await door.parent()
    answers = await asyncio.gather(
        *(door.submit(description=f"part {n}") for n in range(8))
    )
    assert sum(one["ok"] for one in answers) == 3
    refused = [one for one in answers if not one["ok"]]
    assert {one["code"] for one in refused} == {"refused"}
    assert "max_children_per_task" in refused[0]["error"]


async def test_a_run_cancels_its_own_children_and_no_other_task():
    door = Door()
    await door.parent("p1")
    await door.parent("p2")
    child = (await door.submit("p1"))["task_id"]
    other = await door.ask("cancel", "p2", task_id=child)
    assert (other["code"], other["error"]) == (
        "denied",
        f"task {child} is no child of this task",
    )
    done = await door.ask("cancel", "p1", task_id=child, reason="enough")
    assert (done["ok"], done["phase"]) == (True, "cancelled")


async def test_the_dollars_of_a_tree_are_parted_and_none_is_given_twice():
    door = Door()
    await door.parent(max_budget_usd=0.5)
    parts = []
    for n, asked in enumerate((0.1, None, None, 9.0)):
        more = {} if asked is None else {"max_budget_usd": asked}
        answer = await door.submit(tier="complex", description=f"part {n}", **more)
        (stored,) = await door.log.read(subjects.task(answer["task_id"]))
        assert stored.event.spec.max_budget_usd == answer["max_budget_usd"]
        parts.append(answer["max_budget_usd"])
    assert parts == [0.1, 0.2, 0.1, 0.1]
    refused = await door.submit(tier="complex", description="one more")
    assert (refused["code"], refused["path"]) == ("refused", "max_budget_usd")
    assert "nothing is left of the budget of task p1" in refused["error"]
    history, epochs = await door.gateway._tasks.history("p1")
    state = lifecycle.fold("p1", history, epochs)
    assert lifecycle.budget_left(state, None) == 0.0


async def test_a_child_that_may_spend_nothing_never_runs_on_the_dearer_tier():
    door = Door(max_budget_usd_per_task=1.0)
    await door.parent()
    answer = await door.submit(tier="standard")
    (stored,) = await door.log.read(subjects.task(answer["task_id"]))
    event = stored.event
    assert (event.tier_limit, event.spec.max_budget_usd) == ("standard", None)
    dear = await door.submit(tier="standard", max_budget_usd=0.25)
    (stored,) = await door.log.read(subjects.task(dear["task_id"]))
    event = stored.event
    assert (event.tier_limit, event.spec.max_budget_usd) == ("complex", 0.25)


async def test_the_same_child_said_again_takes_no_second_part():
    door = Door()
    await door.parent(max_budget_usd=0.5)
    for _ in range(2):
        await door.submit(tier="complex", idempotency_key="k", max_budget_usd=0.3)
    assert (await door.submit(tier="complex"))["max_budget_usd"] == 0.1


def test_the_policy_says_how_deep_and_how_many():
    plain = document(Policy())
    assert plain["max_delegation_depth"] == 3
    assert plain["max_children_per_task"] == 32


# -- the tree ---------------------------------------------------------------------------


def row(
    task_id: str, parent: str = "", tokens: int | None = 1, usd: float | None = 0.5
):
    from projections.mapping import row as row_of
    from projections.record import TaskRecord

    plain = TaskRecord(
        id=task_id, seq=ord(task_id), updated_seq=1, description=task_id, priority="",
        tier="", preferred_tier="", explicit_tier=None,
        repo="", executor="", assign_to="", max_attempts=1,
        deadline="", submitter="", submitted_at="", waiting_since="", parent=parent,
    )  # fmt: skip
    made = row_of(plain)
    made.tokens_in = made.tokens_out = tokens
    made.estimated_cost_usd = usd
    return made


def test_what_is_below_a_task_is_summed_up_and_unknown_stays_unknown():
    from cli.render.tree import tree_of

    rows = [row("a"), row("b", "a"), row("c", "a"), row("d", "c", None, None)]
    top = tree_of(rows, "a")
    assert [each.task.task_id for each in top.children] == ["b", "c"]
    assert (top.below, top.tokens, top.estimated_cost_usd) == (3, None, None)
    assert (top.children[0].tokens, top.children[0].estimated_cost_usd) == (2, 0.5)
    whole = tree_of(rows[:3], "a")
    assert (whole.below, whole.tokens, whole.estimated_cost_usd) == (2, 6, 1.5)


# -- the host ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "may"),
    [
        ({}, False),
        ({"allowed_tools": ("Bash(git log:*)",)}, False),
        ({"allowed_tools": ("Bash",)}, True),
        ({"allowed_tools": ("Bash",), "disallowed_tools": ("Bash",)}, False),
        ({"permission_mode": "bypassPermissions"}, True),
    ],
)
def test_commands_are_delegated_only_by_who_may_run_them(options, may):
    from sidecar.delegation import refused_here
    from sidecar.executors.claude.command import ClaudeOptions, runs_commands

    free = runs_commands(ClaudeOptions(**options))
    assert free is may
    for field in ({"shell": "true"}, {"verification_steps": ["true"]}):
        refusal = refused_here(field, free)
        assert (refusal is None) is may
    assert refused_here({"description": "think"}, free) is None


async def test_a_token_is_good_for_its_run_alone_and_ends_with_it():
    import aiohttp

    from sidecar.delegation import RunsDoor
    from tests.support.hosting import assign

    asked, given = [], []

    def request(subject: str, data: bytes, timeout: float):
        asked.append((subject, json.loads(data)))
        future = asyncio.get_running_loop().create_future()
        future.set_result(b'{"ok":false,"code":"denied","error":"no","status":403}')
        return future

    door = RunsDoor("h1", request)
    async with aiohttp.ClientSession() as client:

        async def post(path: str, token: str, **body):
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{access.url}/api/v1/{path}"
            async with client.post(url, json=body, headers=headers) as answer:
                return answer.status

        async with door.lent(
            assign("p1"), lambda: None, given.append, runs_commands=False
        ) as access:
            assert await post("tasks", "", description="x") == 401
            assert await post("tasks", access.token, description="x") == 403
            assert await post("tasks/T1/cancel", access.token, task_id="T2") == 403
            assert await post("tasks", access.token, shell="true") == 403
            for no_time in ("nan", "-1", [1]):
                asked_of = {"task_ids": ["T1"], "wait": no_time}
                assert await post("tasks/ended", access.token, **asked_of) == 400
        assert await post("tasks", access.token, description="x") == 401
    await door.close()
    whose = {"parent": "p1", "route": "p1-r1"}
    assert asked == [
        ("agentcom.cmd.child.h1.submit", {**whose, "task": {"description": "x"}}),
        ("agentcom.cmd.child.h1.cancel", {**whose, "task_id": "T1"}),
    ]


async def test_a_run_is_told_what_its_tasks_may_spend_once_for_each_of_them():
    import aiohttp

    from sidecar.delegation import RunsDoor
    from tests.support.hosting import assign

    answers = [
        {"ok": True, "task_id": "a", "max_budget_usd": 0.25},
        {"ok": True, "task_id": "a", "max_budget_usd": 0.25, "existing": True},
        {"ok": True, "task_id": "b", "max_budget_usd": None},
        {"ok": True, "task_id": "c", "max_budget_usd": 0.5},
        {"ok": False, "code": "refused", "error": "no", "status": 409},
    ]

    def request(subject: str, data: bytes, timeout: float):
        future = asyncio.get_running_loop().create_future()
        future.set_result(encode(answers.pop(0)))
        return future

    given: list[float] = []
    door = RunsDoor("h1", request)
    async with aiohttp.ClientSession() as client:
        lent = door.lent(assign("p1"), lambda: None, given.append, runs_commands=False)
        async with lent as access:
            headers = {"Authorization": f"Bearer {access.token}"}
            while answers:
                url = f"{access.url}/api/v1/tasks"
                async with client.post(url, json={}, headers=headers):
                    pass
        # Another round of the same run begins with what is given already.
        lent = door.lent(assign("p1"), lambda: None, given.append, runs_commands=False)
        async with lent:
            pass
    await door.close()
    assert given == [0.0, 0.25, 0.75, 0.75]


def test_what_a_run_has_given_is_no_longer_its_own_to_spend():
    from sidecar.executors.claude.purse import Purse, cost_of
    from sidecar.executors.claude.reading import ClaudeUsage

    purse = Purse(1.0)
    assert purse.left_usd(0.25) == 0.75
    purse.gave(0.5)
    assert purse.left_usd(0.25) == 0.25
    assert purse.left_usd(0.5) == purse.left_usd(float("inf")) == 0.0
    assert Purse(None).left_usd(9.0) is None
    assert cost_of(ClaudeUsage(usd=0.25), "x") == 0.25
    used = ClaudeUsage(usd=None, tokens_in=100_000, tokens_out=0)
    assert cost_of(used, "no such model") is None
    assert cost_of(used, "claude-sonnet-4-5") == pytest.approx(0.3)


def test_what_marks_a_sidecars_processes_does_not_say_where_its_journal_is(tmp_path):
    from sidecar.assembly import assemble
    from sidecar.config import ClaudeConfig, SidecarConfig

    def mark(folder, host):
        config = SidecarConfig(name=host, claude=ClaudeConfig(enabled=False))
        return assemble(config, folder).processes.sidecar

    first = mark(tmp_path, "h1")
    assert "/" not in first
    assert first == mark(tmp_path, "h1")
    assert len({first, mark(tmp_path, "h2"), mark(tmp_path / "other", "h1")}) == 3


def test_a_host_that_cannot_serve_the_tools_says_what_it_needs(monkeypatch, tmp_path):
    from sidecar.assembly import assemble
    from sidecar.config import ClaudeConfig, ConfigError, SidecarConfig

    config = SidecarConfig(name="h1", claude=ClaudeConfig(delegate=True))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'agentcom\[mcp\]'"):
        assemble(config, tmp_path)
