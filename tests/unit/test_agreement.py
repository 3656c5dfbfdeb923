"""Write side and read side fold the same histories to the same phases and verdicts."""

from __future__ import annotations

import pytest

from actors import lifecycle as write
from events import catalogue as c
from events import subjects
from events.errors import UnknownSubject
from events.lifecycle import TABLE
from projections import tasks
from projections.steps import EFFECTS
from projections.world import World
from tests.support.histories import plausible

SHARED = ("applied", "repeat", "void")


def test_every_event_about_a_task_has_its_place_in_the_table():
    about_tasks = {
        kind
        for kind in c.types().values()
        if issubclass(kind, c.TaskEvent | c.RunEvent) and kind is not c.TaskSubmitted
    }

    assert {kind for _, kind in TABLE} - {c.TaskSubmitted} == about_tasks
    assert set(EFFECTS) == about_tasks


@pytest.mark.parametrize("seed", range(30))
def test_both_folds_agree_after_every_event(seed):
    world, epochs = World(), write.Epochs()
    lives: dict[str, write.TaskState] = {}
    for recorded in plausible(seed, tasks=40, odd=0.1):
        judged = world.fold(recorded)
        event = recorded.event
        if isinstance(event, c.SchedulerElected):
            epochs.observe(recorded.seq, event.epoch)
        try:
            place = subjects.parse(recorded.subject)
        except UnknownSubject:
            continue
        if place.kind not in ("task", "run"):
            continue
        before = lives.get(place.task, write.initial(place.task))
        after, verdict = write.evolve(
            before, recorded, epoch=epochs.current, host=place.host
        )
        lives[place.task] = after
        record = world.tasks.find(place.task)
        where = f"{recorded.seq}: {c.tag(event)} {judged.verdict} {judged.reason}"
        assert (record.phase if record else "absent") == after.phase, where
        if judged.verdict in SHARED and type(event) not in tasks.NUMBERED:
            assert judged.verdict == verdict, where
        if record is not None and record.phase != "dead":
            assert (record.attempts, record.generation) == (
                after.attempts,
                after.generation,
            ), where
