"""A text is looked for once: the count and the page come from the same look."""

from __future__ import annotations

import pytest

from projections.runner import Runner
from projections.search import TaskPage, tasks
from projections.store import Store
from tests.support.fakes import MemoryLog
from tests.support.histories import History, tell


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
    assert await runner.wait_for(await tell(log, history.recorded), 60)
    runner.save()

    async def find(**filters):
        total, records, _ = await store.look(tasks(TaskPage(sort=sort, **filters)))
        return total, [record.description for record in records]

    _, everything = await find(limit=100)
    expected = [each for each in everything if "Needle" in each]
    assert await find(text="needle", limit=100) == (20, expected)
    assert await find(text="needle", limit=7, offset=5) == (20, expected[5:12])
    assert await find(text="needle", limit=7, offset=20) == (20, [])
    assert await find(text="needle", limit=0) == (20, [])
    assert await find(text="nowhere", limit=7) == (0, [])
    await runner.stop()


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("ÄÖ", ["Prüfe die äöü", "ÄÖ GROSS"]),
        ("äö", ["Prüfe die äöü", "ÄÖ GROSS"]),
        ("STRASSE", ["strasse"]),
        ("straße", ["strasse"]),
        ("задача", ["Задача 1"]),
        ("100%", ["100% of a_b"]),
        ("0% OF A_B", ["100% of a_b"]),
        ("a%b", []),
        ("aXb", []),
        ("\\", ["back\\slash"]),
        ("\0", []),
        ("'; drop table task; --", []),
    ],
)
async def test_a_text_is_found_whatever_its_case_and_letters(text, matches):
    history = History()
    history.join("h1")
    for description in (
        "Prüfe die äöü",
        "ÄÖ GROSS",
        "strasse",
        "Задача 1",
        "100% of a_b",
        "back\\slash",
    ):
        history.submit(description)
    log, store = MemoryLog(), Store()
    runner = Runner(log, store)
    await runner.start()
    assert await runner.wait_for(await tell(log, history.recorded), 60)
    runner.save()

    search = tasks(TaskPage(sort="submitted", text=text, limit=10))
    total, records, _ = await store.look(search)
    assert [record.description for record in records] == matches
    assert total == len(matches)
    await runner.stop()
