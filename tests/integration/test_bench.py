"""The bench in its short form: it runs to its end and says all it should."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench.growth import AXES, axes_of
from bench.main import ALL, bench, parts, show
from bench.peers import PEERS
from bench.shown import PARTS
from docs.make_benchmarks import filled
from tests.support.command import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Peers, shell and growth, each as small as it goes."""
    del tmp_path_factory
    grown = {
        "queued": "40,80",
        "hosts": "3",
        "watchers": "2",
        "log": "200",
        "web": "40",
    }
    growth = [word for name in grown for word in ("--growth", f"{name}={grown[name]}")]
    words = ["--only", "--peers", "1", "--shell", "20", "-n", "60", "--json", *growth]
    words += ["--bulk", "40"]
    done = CliRunner().invoke(bench, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict = json.loads(done.stdout)
    return found


def test_ours_is_compared_with_bare_and_with_each_peer(report: dict) -> None:
    peers = report["peers"]
    assert peers["medians"].keys() == {"ring", "bare", *PEERS}
    assert peers["ratios"].keys() == {"bare", *PEERS}
    assert all(each["tasks_per_s"] > 0 for each in peers["medians"].values())
    assert peers["versions"].keys() >= set(PEERS)


def test_commands_ran_and_left_nothing(report: dict) -> None:
    shell = report["shell"]
    assert shell["ring"]["descendants_left"] == 0
    assert shell["ring"]["tasks_per_s"] > 0
    assert shell["taskiq"]["tasks_per_s"] > 0


def test_one_command_cancels_them_all(report: dict) -> None:
    bulk = report["bulk"]
    assert (bulk["tasks"], len(bulk["seconds"])) == (40, 3)
    assert bulk["us_per_task"] > 0
    assert bulk["cpu_us_per_task"].keys() == {"scheduler", "web"}


def test_each_axis_grows_to_the_sizes_that_were_asked_for(report: dict) -> None:
    axes = report["growth"]["axes"]
    assert axes.keys() == AXES.keys()
    assert [point["size"] for point in axes["queued"]] == [40, 80]
    assert all(
        point["scheduler_us_per_task"] >= 0
        for name in axes.keys() - {"web"}
        for point in axes[name]
    )
    web = axes["web"][0]
    assert 0 < web["first_rss"] <= web["first_peak_rss"]
    assert web["asked_rss"] > 0


def test_a_report_can_be_shown_and_put_into_the_page(report: dict) -> None:
    show(report)
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    _, pictures = filled(page, report)
    assert {"peers.svg", "growth-queued.svg"} <= pictures.keys()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (("tasks",), "does not grow here"),
        (("queued=many",), "expected numbers"),
        (("hosts=0",), "expected sizes from 1"),
    ],
)
def test_what_cannot_grow_is_said_in_a_sentence(
    said: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        axes_of(said)


def test_without_the_peers_the_way_to_them_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    done = CliRunner().invoke(bench, ["--only", "--peers", "1"])
    assert done.exit_code == 2
    assert "agentcom[bench-peers]" in done.output


def test_a_part_that_fails_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> dict:
        raise TimeoutError("nobody answered")

    monkeypatch.setattr("bench.shell.measure_shell", fails)
    monkeypatch.setattr("bench.streams.measure_streams", lambda *_, **__: {"lost": 0})
    words = ["--only", "--shell", "1", "--streams", "1", "--json"]
    done = CliRunner().invoke(bench, words)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["streams"] == {"lost": 0}
    assert found["failed"] == {"shell": "TimeoutError: nobody answered"}
    assert "shell failed: TimeoutError" in done.stderr


def test_all_is_what_the_page_has_a_place_for() -> None:
    for sizes in ALL.values():
        named = {name.partition(" ")[0] for name, _ in parts(sizes, (), only=False)}
        # The bare pipeline, replay and router come with the ring.
        assert named | {"router"} == PARTS.keys() - {"openai"}
