"""What a task may say of its time and its tries, and how that is read and counted."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
import pytest
from click.testing import CliRunner

from actors import lifecycle
from actors.gateway.validate import check_limits
from actors.rules.policy import Policy, with_changes
from agentcom.times import instant_of
from cli.client.spans import point, span
from cli.commands.submit import submit
from cli.commands.task_file import read_tasks
from cli.render.terminal import Problem
from events import catalogue as c
from events import subjects
from events.errors import Malformed
from events.spans import span_s
from projections.world import World
from tests.support.histories import History


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ("90s", 90), ("1.5", 1.5), ("5m", 300), ("2h", 7200), ("1d", 86_400)],
)
def test_a_span_is_a_number_with_a_unit(written: str, seconds: float) -> None:
    assert span(written) == seconds


@pytest.mark.parametrize("written", ["", "m", "5 minutes", "-3", "1e9", "5x", "nan"])
def test_what_is_no_span_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(click.BadParameter, match="90, 5m, 2h or 3d"):
        span(written)


def test_help_names_the_defaults_that_decide_outcomes() -> None:
    said = " ".join(CliRunner().invoke(submit, ["--help"]).output.split())
    for default in ("60 s for a shell command", "[default: 3]", "policy: 600 s"):
        assert default in said
    assert "[default: normal]" in said


def test_a_line_with_a_command_alone_takes_it_as_its_title(tmp_path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"shell": {"command": "make test"}}\r\n')
    assert read_tasks(file) == [
        (1, {"shell": {"command": "make test"}, "description": "make test"})
    ]


def test_a_line_without_anything_to_do_is_refused(tmp_path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"priority": "high"}\n')
    with pytest.raises(Problem, match=r"line 1.*description"):
        read_tasks(file)


def test_an_option_behind_shell_is_no_command() -> None:
    said = CliRunner().invoke(submit, ["--shell", "--wait", "--", "sh", "-c", "exit 3"])
    assert said.exit_code == 2
    assert "not the option --wait" in said.output


def spec(**fields) -> c.TaskSpec:
    return c.TaskSpec(description="x", **fields)


COMMAND = c.Shell(command="make")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 5, "shell": c.Shell("x", timeout_s=6)}, "shell.timeout_s"),
        ({"retries": 1}, "retries"),
        ({"retries": 3, "shell": COMMAND}, "retries"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(fields, path) -> None:
    with pytest.raises(Malformed) as refused:
        check_limits(spec(**fields), Policy())
    assert refused.value.path == path


def test_no_time_limit_is_the_policys_to_allow() -> None:
    check_limits(spec(timeout_s=0), with_changes(Policy(), {"allow_no_timeout": True}))
    check_limits(spec(retries=2, shell=COMMAND), Policy())


@pytest.mark.parametrize(("target", "attempts"), [("sidecar", 2), ("claude", 1)])
def test_a_command_that_is_started_again_is_one_more_attempt(target, attempts) -> None:
    history, world = History(), World()
    history.elect(1)
    task = history.submit("trivial")
    route = history.route(task, target=target)
    history.start(route)
    for retry in (1, 1):
        history.report(c.TaskRetrying, route, text="again", retry=retry, of=1, n=retry)
    state, epochs = lifecycle.initial(task), lifecycle.Epochs()
    epochs.observe(1, 1)
    for recorded in history.recorded:
        world.fold(recorded)
        place = subjects.parse(recorded.subject)
        if place.kind in ("task", "run"):
            state = lifecycle.evolve(state, recorded, epoch=1, host=place.host).state
    assert state.attempts == attempts - 1
    record = world.tasks.find(task)
    assert record is not None
    assert record.attempts_begun == attempts


@pytest.mark.parametrize(
    ("said", "instant"),
    [
        ("90s", "2026-03-29T11:58:30Z"),
        ("2h", "2026-03-29T10:00:00Z"),
        ("7d", "2026-03-22T12:00:00Z"),
        # The night before, Berlin's clocks went from 2 to 3.
        ("today", "2026-03-28T23:00:00Z"),
        ("Yesterday", "2026-03-27T23:00:00Z"),
        ("2026-03-30", "2026-03-29T22:00:00Z"),
        ("2026-13-30", "2026-13-30"),
        ("soon", "soon"),
        ("2026-03-29T09:00:00+02:00", "2026-03-29T09:00:00+02:00"),
    ],
)
def test_a_program_says_since_when_as_a_person_does(said: str, instant: str) -> None:
    now = datetime(2026, 3, 29, 14, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert instant_of(said, now) == instant


def test_a_point_of_the_log_takes_the_spans_of_everywhere() -> None:
    now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    for said in ("90s", "1.5h", "3d", "2w"):
        seconds = span_s(said, "")
        then = datetime.fromisoformat(str(point(said, lambda: now)))
        assert (now - then).total_seconds() == seconds
    assert point("90") == 90
