"""What is held: tasks that wait for a time or for other tasks, outside the queue.

A held task is offered to nobody, does not age and has no time to live; its deadline holds.
When what it is held for has come, the leader says so in the log (`task.released`), and with
the fold of that it begins to wait as others do. Where a task that it comes after did not
complete, it is cancelled, and so what comes after it.

What became of a task is kept while a held one comes after it. What was over before that, or
before this process began to fold, is read from the log by whoever leads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from actors import lifecycle
from actors.rules.prompt import BYTES_A_TOKEN
from actors.scheduler.live import Hold
from actors.scheduler.outputs import OutcomeNeeded, about_task
from events import catalogue as c
from events.codec import instant
from events.lifecycle import FINAL, is_held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.lifecycle import Epochs, TaskState
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.outputs import Decision
    from actors.scheduler.state import SchedulerState
    from events.log import EventLog

AT_ONCE: Final = 1_000
"""At most so many tasks are decided about in one turn; the rest follow in the next."""


class TaskEnd(NamedTuple):
    """What became of a task: its final phase, where in the log, and how much it put out.

    `absent` is one that was never submitted.
    """

    phase: str
    seq: int = 0
    characters: int = 0


def outcome_of(task: TaskState, recorded: c.Recorded) -> TaskEnd:
    """Return what became of a task, from the event that ended it."""
    result = getattr(recorded.event, "result", None)
    size = len(result.output) if isinstance(result, c.Result) else 0
    return TaskEnd(task.phase, recorded.seq, size)


def outcome_in(
    task_id: str, history: Iterable[c.Recorded], epochs: Epochs
) -> TaskEnd | None:
    """Return what became of a task by its whole history, None while it is not over."""
    found: TaskEnd | None = None
    task = lifecycle.initial(task_id)
    for recorded in history:
        parts = recorded.subject.split(".")
        host = parts[3] if parts[2] == "run" else ""
        epoch = epochs.at(recorded.seq)
        step = lifecycle.evolve(task, recorded, epoch=epoch, host=host)
        if step.verdict == "applied":
            over = step.state.phase in FINAL and task.phase not in FINAL
            if over:
                found = outcome_of(step.state, recorded)
        task = step.state
    if task.phase == "absent":
        return TaskEnd("absent")
    return found if task.phase in FINAL else None


async def outputs_of(
    log: EventLog, inputs: Iterable[tuple[str, int]]
) -> dict[str, str]:
    """Read the outputs of tasks, each at its place in the log."""
    found = {}
    for task_id, seq in inputs:
        recorded = await log.get(seq)
        result = getattr(recorded.event, "result", None) if recorded else None
        found[task_id] = result.output if isinstance(result, c.Result) else ""
    return found


def hold_of(spec: c.TaskSpec) -> Hold | None:
    """Return what a task is to be held for, None where it is not."""
    if not is_held(spec):
        return None
    return Hold(
        at=None if spec.at is None else instant(spec.at),
        completed=tuple(dict.fromkeys((*spec.after, *spec.input_from))),
        over=tuple(spec.after_any),
        inputs=tuple(spec.input_from),
    )


class HeldTasks:
    """The held tasks, and what is known of those that they come after.

    `tasks` are those about which nothing is on its way to the log; `look_at` are those of
    them that a leader has to look at. `followers` are all held tasks by what
    they come after, `missing` is what each still waits for. `unknown` are those of which
    nothing is known here, `asked` those whose history this leader has had read.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, LiveTask] = {}
        self.look_at: set[str] = set()
        self.followers: dict[str, set[str]] = {}
        self.missing: dict[str, set[str]] = {}
        self.outcomes: dict[str, TaskEnd] = {}
        self.unknown: set[str] = set()
        self.asked: set[str] = set()

    # -- what waits --------------------------------------------------------------------

    def add(self, live: LiveTask) -> None:
        """Hold a task; one that is held already is looked at again."""
        self.tasks[live.task.task_id] = live
        self.look_at.add(live.task.task_id)

    def remove(self, task_id: str) -> None:
        """Let go of a task, if it is held."""
        if self.tasks.pop(task_id, None) is not None:
            self.look_at.discard(task_id)

    def look_again(self, task_id: str) -> None:
        """Have a leader look at a task, if it is held."""
        if task_id in self.tasks:
            self.look_at.add(task_id)

    def look_at_all(self) -> None:
        """Have a leader look at all: it is a new one, or its clock was put elsewhere."""
        self.look_at.update(self.tasks)

    # -- what they wait for ------------------------------------------------------------

    def watch(self, task_id: str, live: LiveTask) -> None:
        """Follow what a task comes after."""
        if live.hold is None:
            return
        before = (*live.hold.completed, *live.hold.over)
        for each in before:
            self.followers.setdefault(each, set()).add(task_id)
        self.missing[task_id] = {one for one in before if one not in self.outcomes}

    def settle(self, live: LiveTask) -> None:
        """Follow no more what a task came after that is not held, or is over."""
        if live.hold is None or (live.task.held and live.task.phase not in FINAL):
            return
        task_id = live.task.task_id
        if self.missing.pop(task_id, None) is None:
            return
        for each in (*live.hold.completed, *live.hold.over):
            following = self.followers[each]
            following.discard(task_id)
            if not following:
                del self.followers[each]
                self.outcomes.pop(each, None)
                self.asked.discard(each)

    def ended(self, task_id: str, outcome: TaskEnd) -> None:
        """Note what became of a task, if a held one comes after it."""
        following = self.followers.get(task_id)
        if not following:
            return
        self.outcomes[task_id] = outcome
        for each in following:
            missing = self.missing[each]
            missing.discard(task_id)
            if not missing or outcome.phase != "completed":
                self.look_again(each)

    def learned(self, task_id: str, outcome: TaskEnd) -> None:
        """Note what the log was found to say, unless the fold has said it meanwhile."""
        if task_id not in self.outcomes:
            self.ended(task_id, outcome)

    def unsure_of(self, task_id: str) -> None:
        """Have a leader look anew at what comes after a retried task, whose history has been
        read: the retry may be void, and the task still over."""
        self.asked.discard(task_id)
        for each in self.followers.get(task_id, ()):
            self.look_again(each)

    def begun_again(self, task_id: str) -> None:
        """A task that was over is tried anew."""
        if self.outcomes.pop(task_id, None) is not None:
            for each in self.followers[task_id]:
                self.missing[each].add(task_id)


def outcomes_needed(state: SchedulerState) -> list[OutcomeNeeded]:
    """Return of which tasks the histories have to be read, each once in a leadership."""
    held = state.held
    needed = []
    for task_id in sorted(held.unknown):
        if task_id in held.followers and task_id not in held.asked:
            held.asked.add(task_id)
            needed.append(OutcomeNeeded(task_id))
    held.unknown.clear()
    return needed


def decide_held(state: SchedulerState, lead: Leadership, now: float) -> list[Decision]:
    """Release the held tasks for which all has come, or cancel them; time the others."""
    decisions: list[Decision] = []
    for task_id in sorted(state.held.look_at):
        if len(decisions) >= AT_ONCE:
            break
        state.held.look_at.discard(task_id)
        live = state.held.tasks[task_id]
        if live.deadline is not None:
            lead.wake_at(live.deadline - state.time.ahead_s, task_id=task_id)
        event = _decide(state, lead, live, now)
        if event is not None:
            state.in_flight(live, event)
            decisions.append(about_task(event, live.task))
    return decisions


def _decide(
    state: SchedulerState, lead: Leadership, live: LiveTask, now: float
) -> c.TaskEvent | None:
    """Decide about one held task; None where it goes on waiting."""
    hold, held = live.hold or Hold(), state.held
    task_id = live.task.task_id
    for each in hold.completed:
        outcome = held.outcomes.get(each)
        if outcome is not None and outcome.phase != "completed":
            return lead.write(
                now,
                c.TaskCancelled,
                task_id=task_id,
                reason=f"task {each}, which it comes after, {_ENDED[outcome.phase]}",
                requested_by="scheduler",
                generation=live.task.generation,
                predecessor=each,
            )
    missing = held.missing.get(task_id)
    if missing:
        for each in missing:
            if each not in state.tasks and each not in state.coming_back:
                held.unknown.add(each)
        return None
    if hold.at is not None and hold.at > now + state.time.ahead_s:
        lead.wake_at(hold.at - state.time.ahead_s, task_id=task_id)
        return None
    inputs = {each: held.outcomes[each] for each in hold.inputs}
    characters = sum(one.characters for one in inputs.values())
    return lead.write(
        now,
        c.TaskReleased,
        task_id=task_id,
        reason="its time has come" if hold.at else "what it comes after is over",
        inputs={each: one.seq for each, one in inputs.items()},
        input_tokens_estimate=-(-characters // BYTES_A_TOKEN),
    )


_ENDED: Final = {
    "failed": "has failed",
    "dead": "is dead: its attempts are used up",
    "cancelled": "was cancelled",
    "expired": "has expired",
    "absent": "does not exist",
}
