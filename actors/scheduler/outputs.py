"""What the scheduler gives out: decisions to append to the log, and effects to perform.

A decision is an event and a condition. It counts only once it has come back from the log
and was valid there. An effect changes nothing by itself and may get lost: whatever it was
for is tried again, or given to somebody else after a time-out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from events import subjects

if TYPE_CHECKING:
    from actors.lifecycle import TaskState
    from events import catalogue as c
    from events.mail import HostMail


class Decision(NamedTuple):
    """An event to append, and the sequence at which its subject must stand for that.

    Anywhere else somebody was first, and the decision is made anew. With `expect` None
    the subject may stand anywhere.
    """

    subject: str
    event: c.Event
    expect: int | None


def about_task(event: c.TaskEvent, task: TaskState) -> Decision:
    """Return a decision about a task, good while that stands as it was looked at."""
    return Decision(subjects.task(task.task_id), event, task.last_seq)


class Mail(NamedTuple):
    """A message to a host's mailbox."""

    host: str
    message: HostMail


class SpecNeeded(NamedTuple):
    """An assignment whose task has to be read from the log before it can be mailed.

    `seq` is where its submission stands, `inputs` name the tasks whose output goes into its
    prompt, with where that stands.
    """

    task_id: str
    route: str
    seq: int
    inputs: tuple[tuple[str, int], ...] = ()


class HistoryNeeded(NamedTuple):
    """A retried task: its whole history has to be read, and handed to `adopt`."""

    task_id: str


class OutcomeNeeded(NamedTuple):
    """A held task comes after this one, which is over: its history has to be read, and what
    became of it handed to `outcome`."""

    task_id: str


Effect = Mail | SpecNeeded | HistoryNeeded | OutcomeNeeded
