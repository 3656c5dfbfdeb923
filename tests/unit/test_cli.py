"""What the command line decides by itself, without a broker."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from cli.client.connection import QUESTION_S, not_utf8
from cli.client.spans import point
from cli.commands.ask import classify, route
from cli.commands.log import events, pattern_of
from cli.commands.submit import submit
from cli.commands.task_file import read_tasks
from cli.local.instance import Instance, NoAddress
from cli.main import COMMANDS, GROUPS, agentcom, main
from cli.render.display import Screen
from cli.render.tasks import task_table
from cli.render.terminal import (
    EXIT_UNREACHABLE,
    Problem,
    cell,
    exit_code_of,
    harmless,
    line_of,
    sentence_of,
)
from events.catalogue import Chunk
from events.errors import LogUnavailable
from projections.answers import TasksAnswer
from projections.queries import WAIT_LIMIT_S
from tests.support.command import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_a_question_outlasts_what_the_read_models_wait() -> None:
    assert QUESTION_S >= WAIT_LIMIT_S + 2


def test_log_lines_of_commands_go_to_stderr() -> None:
    code = (
        "from events.diagnostics import Diagnostics\n"
        "Diagnostics('agentcom.link').warning('a line')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert "a line" in done.stderr


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("task.*", "agentcom.evt.task.*"),
        ("run.h-1.>", "agentcom.evt.run.h-1.>"),
        ("policy", "agentcom.evt.policy"),
        ("agentcom.evt.>", "agentcom.evt.>"),
        ("agentcom.>", "agentcom.>"),
        ("agentcom.*.policy", "agentcom.*.policy"),
        (">", ">"),
    ],
)
def test_a_subject_is_spelled_out(said: str, meant: str) -> None:
    assert pattern_of(said) == meant


@pytest.mark.parametrize(
    "said",
    [
        *("", " ", "foo bar", "foo..bar", ".foo", "foo.", "run.>.x", "ta*", "a>"),
        *("tab\there", "new\nline", "agentcom", "agentcom.evt", "agentcom.out.x"),
        "\udcff",
    ],
)
def test_a_subject_that_can_match_nothing_is_refused(said: str) -> None:
    with pytest.raises(click.UsageError, match="expected parts of letters") as refused:
        pattern_of(said)
    refused.value.message.encode()


HIDDEN = [
    *(0x61C, 0xFEFF, *range(0x200B, 0x2010)),
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_hides_or_reorders_text_is_shown_as_its_code(hidden: int) -> None:
    said = f"evil{chr(hidden)}txt.exe"
    seen = f"evil⟨{hidden:04X}⟩txt.exe"
    assert line_of(said) == harmless(said) == cell(said).plain == seen


class Terminal(io.StringIO):
    """Text that thinks it is on a screen."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdout", "seen"),
    [(Terminal(), "a⟨202E⟩\n⟨200B⟩b\n"), (io.StringIO(), "a\u202e\n\u200bb\n")],
)
def test_output_is_raw_but_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stdout: io.StringIO, seen: str
) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    chunk = Chunk(
        task_id="t",
        event_type="stdout",
        text="a\u202e\n\u200bb\n",
        timestamp="",
        route="",
        generation=1,
        attempt=1,
        segment=0,
        n=1,
    )
    Screen(notes=io.StringIO()).chunk(chunk)
    assert stdout.getvalue() == seen


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"fine": "é", "description": "\udcff bad"}, "description"),
        ({"shell": {"env": {"A": "\udcff"}}}, "shell.env.A"),
        ({"file_hints": [{"path": "a"}, {"path": "\udcff"}]}, "file_hints[1].path"),
        ({"needs": ["a", "\udcff"]}, "needs[1]"),
        ({"metadata": {"\udcff": 1}}, "metadata"),
    ],
)
def test_what_is_not_utf8_is_named(body: object, place: str) -> None:
    assert not_utf8(body) == place


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (("submit", "-"), b"one\n\xff\xfe bad", "stdin, line 2: the byte 0xFF is not"),
        (("submit", "-f", "-"), b'{"description": "\xfe"}', "stdin, line 1: the byte"),
        (
            ("submit", "-f", "FILE"),
            b'\n{"description": "\xfe"}',
            "tasks.jsonl, line 2: ",
        ),
        (("submit", "--file", "FILE"), b"", "-f FILE submits a file of tasks"),
        (("submit", "-f", "FILE", "--follow"), b"", "-f and --follow do not go"),
        (("submit", "x", "--metadata", '{"a": "\udcff"}'), b"", "--metadata: expected"),
        (("restore", "/nonexist"), b"", "File '/nonexist' does not exist"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: tuple[str, ...],
    typed: bytes,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(typed)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
    given = [str(file) if each == "FILE" else each for each in arguments]
    assert main(given) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_file_s_misspelt_field_is_named_and_not_the_one_missing_for_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        '{"description": "x", "of_a_newer_gateway": 1}\n{"descripton": "x"}'
    )
    with pytest.raises(Problem, match=r"line 2: descripton: .* mean description"):
        read_tasks(file)


@pytest.mark.parametrize(
    ("arguments", "command", "text"),
    [
        (["--shell", "echo hi"], "echo hi", ()),
        (["say hi", "--shell", "echo"], "echo", ("say hi",)),
        (["--shell", "echo hi", "say hi"], "echo hi", ("say hi",)),
        (["--shell=true", "--wait"], "true", ()),
        (["--wait", "--shell", "--", "echo", "a b", "-n"], "echo 'a b' -n", ()),
        (["--shell", "--", "ls | head"], "ls | head", ()),
    ],
)
def test_a_shell_command_is_one_argument_or_all_behind_two_dashes(
    arguments: list[str], command: str, text: tuple[str, ...]
) -> None:
    context = submit.make_context("submit", arguments)
    assert (context.params["shell"], context.params["text"]) == (command, text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shell", "echo", "hi"],
        ["--shell=echo", "hi"],
        ["--wait", "--shell", "echo", "hi"],
    ],
)
@pytest.mark.parametrize("command", [submit, classify, route])
def test_an_unquoted_shell_command_is_refused_with_the_way_out(
    command: click.Command, arguments: list[str]
) -> None:
    if command is not submit:
        arguments = [each for each in arguments if each != "--wait"]
    with pytest.raises(click.UsageError) as refused:
        command.make_context("x", arguments)
    assert "--shell 'echo hi'" in refused.value.message
    assert "--shell -- echo hi" in refused.value.message


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("task.faild", "task.failed"), ("tsk.*", "task.*"), ("host.lots", "host.lost")],
)
def test_a_type_that_no_event_has_is_refused_with_what_is_near(
    argument: str, hint: str
) -> None:
    ended = CliRunner().invoke(events, ["--type", argument])
    assert ended.exit_code == 2
    assert "no event has this type" in ended.output
    assert "Did you mean" in ended.output
    assert hint in ended.output


def test_a_command_that_is_none_is_refused_with_what_is_near() -> None:
    ended = CliRunner().invoke(agentcom, ["taks"])
    assert ended.exit_code == 2
    assert "No such command 'taks'. Did you mean tasks" in ended.output


def test_every_command_stands_under_one_heading() -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    shown = CliRunner().invoke(agentcom, ["--help"]).output
    for name, (_, about) in COMMANDS.items():
        assert shown.count(f"  {name} ") == 1, name
        assert about.split()[0] in shown


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (
            150,
            ["id", "state", "tier", "where", "age", "tries", "tokens", "cost", "task"],
        ),
        (100, ["id", "state", "tier", "where", "age", "task"]),
        (70, ["id", "state", "tier", "age", "task"]),
        (50, ["id", "state", "age", "task"]),
    ],
)
def test_a_narrow_terminal_keeps_what_a_task_is(monkeypatch, width, columns) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    answer = TasksAnswer(seq=1, total=0, tasks=[], states={})
    table = task_table(answer, datetime.now(UTC))
    assert [column.header for column in table.columns] == columns


@pytest.mark.parametrize(
    ("zone", "said", "meant"),
    [
        ("UTC", "today", "2026-11-27T00:00:00Z"),
        ("Europe/Berlin", "today", "2026-11-26T23:00:00Z"),
        ("Europe/Berlin", "yesterday", "2026-11-25T23:00:00Z"),
        ("Asia/Tokyo", "today", "2026-11-27T15:00:00Z"),
        ("Europe/Berlin", "2026-07-01", "2026-06-30T22:00:00Z"),
        ("Europe/Berlin", "2h", "2026-11-27T15:30:00Z"),
        ("Europe/Berlin", "2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        ("Europe/Berlin", "812", 812),
    ],
)
def test_days_are_those_of_whoever_types_them(monkeypatch, zone, said, meant) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        now = datetime(2026, 11, 27, 17, 30, tzinfo=UTC)
        assert point(said, lambda: now) == meant
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "said", ["tomorrow", "2026-13-01", "2026-01-31T10:00:00", "7y"]
)
def test_a_time_that_is_none_is_refused(said) -> None:
    with pytest.raises(click.BadParameter, match="yesterday"):
        point(said)


def test_what_the_system_refuses_is_told_by_the_files_name() -> None:
    wrong = FileNotFoundError(2, "No such file or directory", "/nowhere/x.json")
    assert sentence_of(wrong) == "/nowhere/x.json: No such file or directory"


def test_a_role_that_finds_no_broker_ends_as_every_command_does() -> None:
    # A role runs several things side by side; what one of them raises comes in a group.
    away = LogUnavailable("connect to nats://127.0.0.1:4222", "refused")
    group = ExceptionGroup("of a role", [ValueError("else"), away])
    assert exit_code_of(away) == exit_code_of(group) == EXIT_UNREACHABLE


def test_a_data_folder_that_is_none_holds_no_instance(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoAddress):
        _ = Instance(tmp_path / "file").url
