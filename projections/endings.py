"""Who waits for tasks to end, and is told when one does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from events.lifecycle import FINAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from projections.judged import JudgedEvent
    from projections.record import TaskRecord
    from projections.runner import Runner


class Endings:
    """Waits for the end of any of some tasks, as the read models know them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        # By task, those who are to be woken.
        self._waiting: dict[str, set[asyncio.Event]] = {}
        runner.watch(self._on)

    def over(self, task_ids: Iterable[str]) -> list[TaskRecord]:
        """Return those of the tasks that are over now, in the order given."""
        tasks = self._runner.world.tasks
        records = (tasks.find(task_id) for task_id in task_ids)
        return [each for each in records if each is not None and each.phase in FINAL]

    async def wait(self, task_ids: list[str], seconds: float) -> list[TaskRecord]:
        """Return those that are over as soon as one is; none where it takes longer."""
        ended = self.over(task_ids)
        if ended or seconds <= 0:
            return ended
        woken = asyncio.Event()
        for task_id in task_ids:
            self._waiting.setdefault(task_id, set()).add(woken)
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            for task_id in task_ids:
                others = self._waiting.get(task_id, set())
                others.discard(woken)
                if not others:
                    self._waiting.pop(task_id, None)
        return self.over(task_ids)

    def _on(self, judged: JudgedEvent) -> None:
        task = judged.task
        if task is not None and self._waiting and task.phase in FINAL:
            for woken in self._waiting.get(task.id, ()):
                woken.set()
