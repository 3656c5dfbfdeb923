"""What is told: which event is which notice, whom a rule means, and in which words.

Outputs of tasks are in no notice: whoever wants one asks for the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from events import catalogue as c
from events.filters import label_of
from events.ids import derived
from events.secretive import PASSWORD_IN_ADDRESS, SHAPES

if TYPE_CHECKING:
    from projections.record import TaskRecord
    from web.notify.config import Rule

NAMES: Final[dict[str, tuple[type[c.Event], ...]]] = {
    "task.completed": (c.TaskCompleted,),
    "task.failed": (c.TaskFailed,),
    "task.dead": (c.TaskDeadLettered,),
    "task.expired": (c.TaskExpired,),
    "task.cancelled": (c.TaskCancelled,),
    "budget.reached": (c.TaskFailed, c.TierBudgetSpent),
    "alert.raised": (c.AlertRaised, c.HostAlertRaised),
    "alert.cleared": (c.AlertCleared, c.HostAlertCleared),
    "tier.down": (c.TierDown,),
    "tier.up": (c.TierUp,),
    "tier.limited": (c.TierLimited,),
    "host.lost": (c.HostLost,),
    "host.joined": (c.HostJoined,),
    "host.left": (c.HostLeft,),
}
"""What a rule may name, and the events that it is said of."""

BUDGET: Final = "budget"
"""The code of a run that ended because its task's budget was spent."""
_DESCRIPTION: Final = 200


class TaskSaid(Struct, frozen=True, kw_only=True):
    """The task that a notice is about."""

    task_id: str
    description: str
    state: str
    tier: str
    host: str
    labels: dict[str, str]


class Notice(Struct, frozen=True, kw_only=True):
    """One delivery. `id` belongs to this event and target: said again, it is the same."""

    id: str
    type: str
    at: str
    seq: int
    text: str
    tier: str = ""
    host: str = ""
    task: TaskSaid | None = None


def names_of(event: c.Event) -> list[str]:
    """Return what a rule may call this event; of several, the closest first."""
    found = [name for name, kinds in NAMES.items() if isinstance(event, kinds)]
    if isinstance(event, c.TaskFailed):
        found.remove("budget.reached")
        error = event.result.error
        if error is not None and error.code == BUDGET:
            found.insert(0, "budget.reached")
    return found


def about_task(event: c.Event) -> str:
    """Return the task that an event is about, "" for none."""
    return event.task_id if isinstance(event, c.TaskEvent | c.RunEvent) else ""


def notice_of(
    recorded: c.Recorded, task: TaskRecord | None, rules: list[Rule], target: str
) -> Notice | None:
    """Return what a target is told of an event, None where no rule means it."""
    event = recorded.event
    tier: str = task.tier if task is not None else getattr(event, "tier", "")
    host: str = getattr(event, "host", "") or (task.host if task is not None else "")
    labels = task.labels if task is not None else {}
    name = next(
        (
            name
            for name in names_of(event)
            for rule in rules
            if name in rule.on and _means(rule, tier, host, labels)
        ),
        None,
    )
    if name is None:
        return None
    said = None
    if task is not None:
        said = TaskSaid(
            task_id=task.id,
            description=hushed(task.description[:_DESCRIPTION]),
            state=task.phase,
            tier=tier,
            host=host,
            labels=labels,
        )
    return Notice(
        id=derived("notify", target, event.id),
        type=name,
        at=event.at,
        seq=recorded.seq,
        text=hushed(_text(name, event, said)),
        tier=tier,
        host=host,
        task=said,
    )


def _means(rule: Rule, tier: str, host: str, labels: dict[str, str]) -> bool:
    for text in rule.label:
        key, value = label_of(text)
        if key not in labels or value not in (None, labels[key]):
            return False
    return (not rule.tier or rule.tier == tier) and (not rule.host or rule.host == host)


def _text(name: str, event: Any, task: TaskSaid | None) -> str:
    why = getattr(event, "reason", "") or getattr(event, "text", "")
    if isinstance(event, c.TaskFailed) and event.result.error is not None:
        why = event.result.error.message
    because = f": {why[:500]}" if why else ""
    if task is not None:
        words = {
            "task.completed": "is completed",
            "task.failed": "has failed",
            "task.dead": "is given up",
            "task.expired": "has expired",
            "task.cancelled": "is cancelled",
            "budget.reached": "has spent its budget",
        }
        where = f" on {task.host}" if task.host else ""
        return f"Task {task.task_id} ({task.description}) {words[name]}{where}{because}"
    match event:
        case c.TierBudgetSpent():
            return (
                f"Today's ${event.budget_usd:.2f} for tasks that leave their tier for "
                f"{event.tier} are spent (${event.spent_usd:.2f})"
            )
        case c.TierEvent():
            words = {
                "alert.raised": "has been down for long",
                "alert.cleared": "is up again, and its alert over",
                "tier.down": "is down",
                "tier.up": "is up again",
                "tier.limited": "is limited",
            }
            return f"Tier {event.tier} {words[name]}{because}"
        case c.HostAlertCleared():
            return f"Host {event.host}: {event.code} is over"
        case c.HostAlertRaised():
            return f"Host {event.host} needs attention ({event.code}){because}"
        case _:
            return f"Host {event.host} {name.partition('.')[2]}{because}"


def hushed(text: str) -> str:
    """Take out what looks like a key, a token or a password."""
    for shape in SHAPES:
        text = shape.sub("[redacted]", text)
    return PASSWORD_IN_ADDRESS.sub(r"\1:[redacted]@", text)


def trial_notice(target: str, at: str, chance: str) -> Notice:
    """Make a notice by which somebody tries a target."""
    return Notice(
        id=derived("notify-test", target, chance),
        type="test",
        at=at,
        seq=0,
        text="This is a test of AgentCom's notifications.",
    )
