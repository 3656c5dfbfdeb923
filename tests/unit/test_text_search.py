"""A text is looked for once: the count and the page come from the same look."""

from __future__ import annotations

import pytest

from events.log import MemoryLog
from projections.runner import Runner
from projections.store import Filter, Store, tasks
from tests.histories import History, tell


@pytest.mark.parametrize("sort", ["-submitted", "submitted", "-cost", "-updated"])
async def test_a_page_of_what_a_text_finds_is_a_part_of_all_of_it(sort):
    history = History()
    history.join("h1")
    for n in range(30):
        task = history.submit(f"{'Needle' if n % 3 else 'hay'} {n}")
        route = history.route(task)
        history.start(route)
        history.complete(route, usd=n % 4)
    log, store = MemoryLog(), Store()
    runner = Runner(log, store)
    await runner.start()
    assert await runner.wait_for(await tell(log, history.recorded), 20)
    runner.save()

    async def find(**wanted):
        total, records = await store.look(tasks(Filter(sort=sort, **wanted)))
        return total, [record.description for record in records]

    _, everything = await find(limit=100)
    wanted = [each for each in everything if "Needle" in each]
    assert await find(text="needle", limit=100) == (20, wanted)
    assert await find(text="needle", limit=7, offset=5) == (20, wanted[5:12])
    assert await find(text="needle", limit=7, offset=20) == (20, [])
    assert await find(text="needle", limit=0) == (20, [])
    assert await find(text="nowhere", limit=7) == (0, [])
    await runner.stop()
