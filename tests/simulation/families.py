"""What must hold of parents and children, judged from the log and from the leaders' turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events import catalogue as c
from events.lifecycle import FINAL, ON_HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actors.lifecycle import TaskState
    from actors.scheduler.decide import Scheduler
    from events.catalogue import Recorded

UNDER_WAY = ("routed", "accepted", "running")
RANK = {"trivial": 0, "standard": 1, "complex": 2}


class FamilyJudge:
    """Takes in what the log says of children, and looks at the leaders."""

    def __init__(
        self, complain: Callable[[str, str], None], states: Mapping[str, TaskState]
    ) -> None:
        self._complain = complain
        self._states = states
        self._children: dict[str, c.TaskSubmitted] = {}
        self._promised: set[tuple[str, str]] = set()
        self._free: set[str] = set()
        self._counts: dict[str, int] = {}
        # The most that a policy has allowed since there was one: children, and depth.
        self._most = (0, 0)
        self.parents: set[str] = set()

    def stored(self, recorded: Recorded) -> None:
        """Take in one more event of the log."""
        event = recorded.event
        match event:
            case c.PolicyChanged():
                most = event.policy.get("max_children_per_task", 32)
                deep = event.policy.get("max_delegation_depth", 3)
                self._most = (max(self._most[0], most), max(self._most[1], deep))
            case c.TaskDelegated():
                self._promised.add((event.task_id, event.child))
            case c.TaskSubmitted() if event.parent:
                self._born(event, f"seq {recorded.seq}, {event.task_id}")
            case c.TaskRetried():
                self._free.add(event.task_id)
            case c.TaskRouted() if event.task_id in self._children:
                limit = self._children[event.task_id].tier_limit
                if limit and RANK[event.effective_tier] > RANK[limit]:
                    self._complain(
                        "no child runs above its parent's tier",
                        f"seq {recorded.seq}: {event.effective_tier}, limit {limit}",
                    )
            case _:
                pass

    def _born(self, event: c.TaskSubmitted, where: str) -> None:
        parent = self._states.get(event.parent)
        if (event.parent, event.task_id) not in self._promised:
            self._complain("a child comes with its parent's word", where)
        self._children[event.task_id] = event
        self.parents.add(event.parent)
        count = self._counts[event.parent] = self._counts.get(event.parent, 0) + 1
        most, deep = self._most
        if count > most:
            self._complain(
                "no task has more children than the policy allows",
                f"{where}: {count} of {most}",
            )
        above = self._children.get(event.parent)
        depth = 1 if above is None else above.depth + 1
        if event.depth != depth or depth > deep:
            self._complain(
                "no child is deeper than the policy allows",
                f"{where}: {event.depth}, it is {depth}, at most {deep}",
            )
        root = event.parent if above is None else above.root
        if event.root != root:
            self._complain("a child knows its root", f"{where}: {event.root}")
        if (
            parent is not None
            and RANK[event.classification.effective_tier] > (RANK[parent.preferred])
        ):
            self._complain("no child is dearer than its parent", where)

    def scheduler(self, scheduler: Scheduler, *, able: bool) -> None:
        """Look at a scheduler that has come to rest."""
        state = scheduler.state
        lending: dict[int, int] = {}
        with_children = set()
        for task_id, live in state.tasks.items():
            event = self._children.get(task_id)
            if event is None or not live.base.child:
                continue
            parent = state.tasks.get(event.parent)
            runs = (
                parent is not None
                and parent.task.route == event.parent_route
                and parent.task.phase in UNDER_WAY
            )
            with_children.add(event.parent)
            if runs or live.deciding or live.task.phase in ("cancelling", *FINAL):
                continue
            if able and scheduler.leading:
                self._complain(
                    "no child outlives its parent's run",
                    f"{scheduler.name}: {task_id} is {live.task.phase}",
                )
        for task_id in with_children:
            live_parent = state.tasks.get(task_id)
            if live_parent is not None and live_parent.task.phase in ON_HOST:
                one = live_parent.task
                slots = state.fleet.slots_of(one.host, one.endpoint, live_parent.kind)
                lending[id(slots)] = lending.get(id(slots), 0) + 1
        for host in state.fleet.hosts.values():
            for what, slots in host.slots.items():
                real = lending.get(id(slots), 0)
                if slots.lent != real:
                    self._complain(
                        "slots are lent by who has children",
                        f"{scheduler.name}: {what} of {host.name}: {slots.lent}, it is "
                        f"{real}",
                    )

    def at_rest(self) -> None:
        """Look at the end: whose parent's run is over, is over."""
        for child, event in self._children.items():
            phase = self._states[child].phase
            if phase not in FINAL and child not in self._free:
                self._complain(
                    "no child outlives its parent's run",
                    f"{child} of {event.parent} is {phase} at rest",
                )
