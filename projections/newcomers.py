"""A task's record as its submission makes it, and what becomes of it with children."""

from __future__ import annotations

from typing import Final

from events import catalogue as c
from events.lifecycle import is_held, may_not_hop
from projections.record import TaskRecord

DESCRIPTION_KEPT: Final = 1_000
"""Characters of a description that lists and searches see; the log has all of it."""


def new_record(event: c.TaskSubmitted, seq: int) -> TaskRecord:
    """Make the record of a task that was submitted at this place in the log."""
    spec, classed = event.spec, event.classification
    return TaskRecord(
        id=event.task_id,
        seq=seq,
        updated_seq=seq,
        phase_seq=seq,
        own_seq=seq,
        description=spec.description[:DESCRIPTION_KEPT],
        priority=spec.priority,
        tier=classed.effective_tier,
        preferred_tier=classed.effective_tier,
        explicit_tier=classed.explicit_tier,
        repo=spec.repo or "",
        executor=spec.executor or "",
        assign_to=spec.assign_to or "",
        max_attempts=spec.max_attempts,
        deadline=spec.deadline or "",
        submitter=event.submitter,
        submitted_at=event.at,
        waiting_since=event.at,
        ttl_s=spec.ttl_s,
        of_a_model=bool(c.chat_options(spec)),
        has_command=spec.shell is not None,
        labels=dict(sorted(spec.labels.items())) if spec.labels else {},
        wanted_model=spec.model or "",
        needs=tuple(spec.needs),
        not_before=spec.at or "",
        held=is_held(spec),
        name=spec.name or "",
        parent=event.parent,
        root=event.root,
        depth=event.depth,
        schedule=event.schedule,
        stays=may_not_hop(event.tier_limit),
    )


def delegated(
    record: TaskRecord, routing: object, event: c.TaskDelegated, seq: int
) -> None:
    """Count a child that a run of it has submitted."""
    record.children += 1
