"""The tour: it ends by itself, everything in it is true, and nothing is left of it."""

from __future__ import annotations

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
