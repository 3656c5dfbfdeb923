"""A log from this repository makes the same read models, byte by byte, on every run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from events import catalogue as c
from projections.runner import Runner
from projections.store import Store
from projections.world import VERSIONS
from tests.golden.make_log import LOG, kept_models, line_of, models_of, recorded
from tests.support.fakes import MemoryLog

ROOT = Path(__file__).parents[2]


def test_every_event_of_the_catalogue_is_in_the_golden_log():
    there = {c.tag(each.event) for each in recorded()}
    assert not c.types().keys() - there, (
        "add a line of it at the end of tests/golden/log.jsonl, then run "
        "`python -m tests.golden.make_log models`"
    )


def test_the_golden_log_still_says_what_it_said():
    lines = LOG.read_text().splitlines()
    assert [line_of(each) for each in recorded()] == lines
    assert [each.seq for each in recorded()] == list(range(1, len(lines) + 1))


def test_its_read_models_are_the_same_byte_by_byte():
    assert models_of(recorded()) == kept_models(), (
        "a fold has changed: raise its version, look at the difference, and run "
        "`python -m tests.golden.make_log models`"
    )


@pytest.mark.parametrize("seed", ["0", "1"])
def test_they_are_the_same_in_every_process(seed):
    code = (
        "import sys; from tests.golden.make_log import models_of, recorded; "
        "sys.stdout.buffer.write(models_of(recorded()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
    )
    assert made.stdout == kept_models()


@pytest.mark.parametrize("group", [1, 7, 5_000])
async def test_they_are_the_same_however_they_are_saved(tmp_path, group):
    log = MemoryLog()
    for each in recorded():
        body = each.event.body if isinstance(each.event, c.Unknown) else None
        if body is None:
            await log.append(each.subject, each.event)
        else:
            from events.codec import encode

            log.store_raw(each.subject, encode(body))
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store, group_events=group)
    await runner.start()
    await runner.until(len(recorded()))
    await runner.stop()
    kept = store.dump()
    store.close()

    plain = Store()
    world = plain.load()
    for each in recorded():
        world.fold(each)
    plain.save(world)
    assert kept == plain.dump()
    plain.close()


def test_the_folds_have_the_versions_that_made_them():
    assert VERSIONS == {
        "tasks": 20,
        "fleet": 12,
        "queue": 2,
        "costs": 7,
        "stats": 3,
        "schedules": 2,
    }
