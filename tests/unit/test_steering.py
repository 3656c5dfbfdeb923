"""What a steering command answers is what the log's fold makes of it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from actors.gateway.gateway import Gateway
from events import catalogue as c
from events import subjects
from events.codec import encode
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import START, History


class Overtaken(MemoryLog):
    """A log in which a host's report comes in just before the next decision."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[c.Recorded] = []

    async def append(self, subject, event, **more):
        first, self.first = self.first, []
        for recorded in first:
            await super().append(recorded.subject, recorded.event)
        return await super().append(subject, event, **more)


class Fleetless:
    """No scheduler's fold: nothing here asks it."""


@pytest.fixture
def log():
    return Overtaken()


@pytest.fixture
def gateway(log):
    numbers = itertools.count()
    return Gateway(
        "g1",
        log,
        MemoryBus(MemoryBroker()),
        ids=lambda: f"id-{next(numbers)}",
        clock=lambda: START,
        view=Fleetless(),
    )


async def tell(log: Overtaken, history: History) -> None:
    for recorded in history.recorded:
        await log.append(recorded.subject, recorded.event)


def running() -> tuple[History, str, object]:
    history = History()
    task = history.submit(task_id="t1")
    route = history.route(task)
    history.accept(route)
    history.start(route)
    return history, task, route


async def ask(gateway: Gateway, command: str, **body: str):
    return await gateway.answer(command, encode(body), "alice")


@pytest.mark.parametrize("command", ["task.cancel", "task.reassign"])
async def test_a_task_that_ended_first_is_not_said_to_be_steered(
    gateway, log, command, monkeypatch
):
    history, task, route = running()
    await tell(log, history)
    log.first = [history.complete(route)]
    fleet = SimpleNamespace(has_joined=lambda name: name == "h2")
    monkeypatch.setattr(Fleetless, "fleet", fleet, raising=False)
    more = {"host": "h2"} if command == "task.reassign" else {}

    answer = await ask(gateway, command, task_id=task, **more)

    assert (answer.ok, answer.code, answer.status) == (False, "too_late", 409)
    assert "is completed" in answer.error


async def test_a_cancellation_says_whether_something_ran(gateway, log):
    history, task, _ = running()
    waiting = history.submit(task_id="t2")
    await tell(log, history)

    stopped = await ask(gateway, "task.cancel", task_id=task)
    assert (stopped.event, stopped.state) == ("task.cancelled", "cancelling")
    dropped = await ask(gateway, "task.cancel", task_id=waiting)
    assert (dropped.event, dropped.state) == ("task.cancelled", "cancelled")
    again = await ask(gateway, "task.cancel", task_id=task)
    assert (again.seq, again.state) == (0, "cancelling")


async def test_a_run_that_was_given_back_first_is_cancelled_for_good(gateway, log):
    history, task, route = running()
    await tell(log, history)
    log.first = [history.give_back(route)]

    answer = await ask(gateway, "task.cancel", task_id=task)

    assert (answer.event, answer.state) == ("task.cancelled", "cancelled")
    assert len(await log.read(subjects.task(task))) == 3
