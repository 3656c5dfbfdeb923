"""Commands of a task's run: submit a child task, cancel one. See docs/delegation.md.

A host asks for the runs that it has, on a subject of its own (`events.subjects`), so who
asks is known by the broker. Whether the run may ask is read from the log, each time: the
right to do so begins with a run and ends with it, and no secret is involved.

A child's submission is stored together with its parent's `task.delegated`, each where its
subject stood: so a parent that is cancelled meanwhile gets no child, and none gets one
more than the policy allows, however many ask at once. Nor is a dollar of its budget given
twice: what a child may spend is taken off it by the same event, and not given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from actors import lifecycle
from actors.gateway.tasks import DECIDE_AGAIN, GatewayCommands, digest_of
from events import catalogue as c
from events import commands as m
from events import subjects
from events.codec import Reader
from events.errors import Conflict, shown
from events.ids import derived
from events.lifecycle import UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from actors.gateway.tasks import GatewayTools, TaskCommands

LEAST_USD: Final = 0.000001
"""A budget with which nothing can be bought."""

_RANK: Final = {tier: n for n, tier in enumerate(get_args(c.Tier))}


class OfARun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every command of a run says: whose it is."""

    parent: c.Token
    route: c.Token


class SubmitChild(OfARun, frozen=True, kw_only=True):
    """`submit`, and `route`, which asks where it would go."""

    task: m.Submit


class CancelChild(OfARun, frozen=True, kw_only=True):
    """`cancel`."""

    task_id: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class Parent(NamedTuple):
    """A task whose run asks: its submission, and its state."""

    submitted: c.TaskSubmitted
    state: lifecycle.TaskState

    @property
    def name(self) -> str:
        """Who submits its children."""
        return f"task:{self.state.task_id}"


class Delegation(GatewayCommands):
    """Carries out what runs ask for."""

    def __init__(self, tools: GatewayTools, tasks: TaskCommands) -> None:
        super().__init__(tools)
        self._tasks = tasks
        self._table: dict[str, tuple[Reader[Any], _Handler]] = {
            "submit": (Reader(SubmitChild), self._submit),
            "route": (Reader(SubmitChild), self._route),
            "cancel": (Reader(CancelChild), self._cancel),
        }

    async def answer(self, host: str, verb: str, body: bytes) -> Struct:
        """Carry out a command of a run on this host, or refuse it; raises Malformed."""
        if verb not in self._table:
            return m.refuse("unknown_command", f"a run has no command {shown(verb)}")
        reader, handler = self._table[verb]
        command = reader.decode(body)
        parent = await self._parent(host, command)
        if isinstance(parent, m.Refusal):
            return parent
        return await handler(parent, command, host)

    async def _parent(self, host: str, command: OfARun) -> Parent | m.Refusal:
        """Find the task whose run asks; refuse where it does not run there."""
        history, epochs = await self._tasks.history(command.parent)
        state = lifecycle.fold(command.parent, history, epochs)
        first = history[0].event if history else None
        runs = (state.route, state.host) == (command.route, host)
        if not isinstance(first, c.TaskSubmitted) or not runs:
            return m.refuse("denied", f"task {command.parent} does not run on {host}")
        if state.phase not in UNDER_WAY:
            return m.refuse("denied", f"task {command.parent} is {state.phase}")
        return Parent(first, state)

    async def _submit(
        self, parent: Parent, command: SubmitChild, host: str
    ) -> m.Submitted | m.Refusal:
        spec, asked_usd = inherited(command.task, parent), command.task.max_budget_usd
        key = spec.idempotency_key or command.task.id
        child = derived(parent.name, key) if key else self._ids()
        event = self._tasks.submission(child, spec, parent.name, command.task.id)
        event = replace(
            event,
            parent=parent.state.task_id,
            parent_route=command.route,
            root=parent.submitted.root or parent.state.task_id,
            depth=parent.submitted.depth + 1,
            tier_limit=parent.state.preferred,
            # Of what was asked: what is inherited changes while the parent runs.
            body_digest=digest_of(command.task) if key else "",
        )
        if (refusal := self._refusal(event)) is not None:
            return refusal
        await self._tasks.check_named(spec)
        for _ in range(DECIDE_AGAIN):
            if key and await self._log.read(subjects.task(child), limit=1):
                return await self._tasks.existing(event)
            most = self._view.fleet.policy.max_children_per_task
            if parent.state.delegated >= most:
                return m.refuse(
                    "refused",
                    f"task {parent.state.task_id} has submitted {most} tasks already, "
                    "which is as many as the policy's max_children_per_task allows",
                )
            mine = self._with_its_part(event, asked_usd, parent)
            if isinstance(mine, m.Refusal):
                return mine
            told = self._stamp().on(
                c.TaskDelegated,
                task_id=parent.state.task_id,
                child=child,
                route=command.route,
                budget_usd=mine.spec.max_budget_usd or 0.0,
            )
            try:
                _, seq = await self._log.append_batch(
                    [
                        (
                            subjects.task(parent.state.task_id),
                            told,
                            parent.state.last_seq,
                        ),
                        (subjects.task(child), mine, 0),
                    ]
                )
            except Conflict:
                again = await self._parent(host, command)
                if isinstance(again, m.Refusal):
                    return again
                parent = again
                continue
            return self._tasks.answered(mine, seq)
        return m.refuse("conflict", "too many tasks at once; try again")

    def _with_its_part(
        self, child: c.TaskSubmitted, asked_usd: float | None, parent: Parent
    ) -> c.TaskSubmitted | m.Refusal:
        """Part the parent's budget: what a child may spend is no longer its parent's.

        That is what it asks for, as far as it is left; a complex one that does not say gets half
        of what is left, another none, and so never runs on the complex tier.
        """
        most = self._view.fleet.policy.max_budget_usd_per_task
        left = lifecycle.budget_left(parent.state, most)
        if left is None:
            return child
        if asked_usd is None and child.classification.effective_tier != "complex":
            limit: c.Tier = child.tier_limit or "standard"
            return replace(
                child, tier_limit=min(limit, "standard", key=_RANK.__getitem__)
            )
        if left < LEAST_USD:
            return m.refuse(
                "refused",
                f"max_budget_usd: nothing is left of the budget of task "
                f"{parent.state.task_id}, whose tasks spend of it: do it in this task, or "
                "name a tier that costs nothing",
                "max_budget_usd",
            )
        part = left / 2 if asked_usd is None else min(asked_usd, left)
        spec = replace(child.spec, max_budget_usd=max(round(part, 9), LEAST_USD))
        return replace(child, spec=spec)

    def _refusal(self, child: c.TaskSubmitted) -> m.Refusal | None:
        """Refuse what a child may not be, whoever its parent's submitter was."""
        most = self._view.fleet.policy.max_delegation_depth
        if child.depth > most:
            return m.refuse(
                "refused",
                f"it would be at depth {child.depth}, and the policy's "
                f"max_delegation_depth is {most}: do it in this task",
            )
        tier, limit = child.classification.effective_tier, child.tier_limit
        if limit is not None and _RANK[tier] > _RANK[limit]:
            said = child.classification.source
            hint = "" if said == "explicit" else ", as it reads; name a tier"
            return m.refuse(
                "refused",
                f"tier: it is {tier}{hint}; the task that submits it is {limit}, and may "
                "use no dearer tier",
                "tier",
            )
        if child.parent in c.predecessors(child.spec):
            return m.refuse(
                "refused",
                "after: it may not come after the task that submits it",
                "after",
            )
        if child.spec.executor == "agent":
            return m.refuse(
                "refused", "executor: a task's run may wake no agent", "executor"
            )
        return None

    async def _route(
        self, parent: Parent, command: SubmitChild, host: str
    ) -> m.WouldRoute:
        del host
        fields = {
            name: getattr(command.task, name) for name in command.task.__struct_fields__
        }
        return await self._tasks.route(m.Classify(**fields), parent.name)

    async def _cancel(
        self, parent: Parent, command: CancelChild, host: str
    ) -> m.Done | m.Refusal:
        del host
        first = await self._log.read(subjects.task(command.task_id), limit=1)
        event = first[0].event if first else None
        if not isinstance(event, c.TaskSubmitted) or (
            event.parent != parent.state.task_id
        ):
            return m.refuse(
                "denied", f"task {command.task_id} is no child of this task"
            )
        decide = self._tasks.deciding("cancel", command.reason, parent.name)
        return await self._tasks.decided(command.task_id, decide)


if TYPE_CHECKING:
    _Handler = Callable[[Parent, Any, str], Awaitable[Struct]]


def inherited(asked: m.Submit, parent: Parent) -> c.TaskSpec:
    """Return a child's specification, with what it has from its parent.

    The parent's labels, unless it names others, and what the parent may do in Claude Code,
    where that was narrowed. Dollars are parted when it is stored.
    """
    return replace(
        asked,
        id=None,
        expires_at=None,
        labels={**parent.submitted.spec.labels, **asked.labels},
        claude=parent.submitted.spec.claude or asked.claude,
    )
