"""The tour: it ends by itself, everything in it is true, and nothing is left of it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from tests.support.command import System, family, survivors

if TYPE_CHECKING:
    from pathlib import Path


def test_the_tour_goes_through_everything_and_ends(tmp_path: Path) -> None:
    system = System(tmp_path)
    tour = system.run("demo", "--simulated", TMPDIR=str(tmp_path))
    assert tour.returncode == 0, tour.stdout + tour.stderr
    for said in (
        "trivial on demo",
        "line 3",
        "standard on demo by demo-ollama",
        "complex on demo by demo-claude",
        "Ollama retry 1/2...",
        "fallback from standard",
        "waited 5.0 s for standard: taken",
        "[simulated]",
        "total",
        "All of it went as it should",
    ):
        assert said in tour.stdout
    assert list(tmp_path.glob("agentcom-demo-*")) == []


def test_a_tour_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.env["TMPDIR"] = str(tmp_path)
    with system.running("demo", "--simulated") as tour:
        tour.until("2. Standard")
        tree = family(tour.process.pid)
        tour.signal(signal.SIGINT)
        assert tour.end() == 130
    assert survivors(tree) == []
    assert list(tmp_path.glob("agentcom-demo-*")) == []


def test_a_tour_that_stays_keeps_marked_work_coming(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.env["TMPDIR"] = str(tmp_path)
    with system.running("demo", "--stay", "--simulated") as tour:
        tour.until("A little simulated work keeps coming")
        (data,) = tmp_path.glob("agentcom-demo-*/instance")
        mine = ("--data", str(data), "tasks", "--label", "demo=simulated", "--json")
        kinds = ("--type", "task.submitted", "--from", "1", "--json")
        with system.running("--data", str(data), "events", "--follow", *kinds) as come:
            for _ in range(3):
                come.until('"demo":"simulated"')
        for _ in range(100):
            listed = json.loads(system.run(*mine).stdout)
            if listed["total"] >= 3:
                break
        assert listed["total"] >= 3
        tour.signal(signal.SIGINT)
        assert tour.end() == 0
    assert list(tmp_path.glob("agentcom-demo-*")) == []


def test_a_tour_cannot_end_and_stay(tmp_path: Path) -> None:
    refused = System(tmp_path).run("demo", "--once", "--stay")
    assert refused.returncode == 2
    assert "one of them" in refused.stderr
