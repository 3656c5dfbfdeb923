"""What stdin, stdout and stderr may be, and what nobody's hearing ends."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

from cli.client import connection
from cli.local.process import ending_signals
from cli.local.role_logs import bound_log, open_log
from cli.local.unheard import unheard
from cli.render.terminal import EXIT_UNREAD
from tests.support.command import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-", ">&-"])
def test_a_command_runs_with_closed_streams(tmp_path: Path, closed: str) -> None:
    (tmp_path / "streams.py").write_text(
        "import asyncio, os, sys\n"
        "print('said'); print('heard', file=sys.stderr); sys.stdin.read(0)\n"
        "async def child():\n"
        "    it = await asyncio.create_subprocess_exec('true')\n"
        "    await it.wait()\n"
        "asyncio.run(child())\n"
        "file = open(sys.argv[1], 'w')\n"
        "assert file.fileno() > 2\n"
        "file.write('done')\n"
        "file.close()\n"
    )
    line = f'exec "{sys.executable}" -P -m agentcom -m streams "$1" {closed}'
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(
        ["sh", "-c", line, "sh", tmp_path / "out"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=env,
        check=False,
    )
    assert (done.returncode, (tmp_path / "out").read_text()) == (0, "done"), done


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_without_a_character_gets_another(encoding: str) -> None:
    code = "import sys; from agentcom.__main__ import standard_streams as s; s(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('5 \u20ac \u2192 \u4e16', flush=True)"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"5 ")


def test_a_command_whose_reader_has_gone_ends_quietly_and_says_so_by_its_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentcom", "schedule", "--help"],
            stdin=subprocess.DEVNULL,
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert (done.returncode, done.stderr) == (EXIT_UNREAD, b"")


def test_ctrl_c_while_a_command_is_only_being_loaded_shows_no_traceback(
    tmp_path: Path,
) -> None:
    (tmp_path / "click").mkdir()
    slow = "import time\nprint('loading', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "click" / "__init__.py").write_text(slow)
    # Where this process ignores it, those that it starts do so too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "agentcom", "hosts"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"loading\n"
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (process.returncode, *said) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_before_a_command_s_work_has_begun_ends_it_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        raise AssertionError("it never begins")

    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "loop_factory", lambda: interrupted)
    asked = work()
    with pytest.raises(KeyboardInterrupt):
        connection.run(asked)
    assert inspect.getcoroutinestate(asked) == inspect.CORO_CLOSED


def test_nobody_who_stops_reading_or_goes_away_holds_it_up() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as pipe:
        stream = unheard(pipe)
        stream.write("first\n")
        assert os.read(reading, 100) == b"first\n"
        # More than a pipe holds, and nobody reads.
        stream.write("x" * 300_000 + "\n")
        os.close(reading)
        stream.write("gone\n")
        stream.flush()


def test_a_full_disk_takes_no_output_and_ends_nothing() -> None:
    with open("/dev/full", "w") as disk:
        stream = unheard(disk)
        stream.write("no room\n")
        stream.flush()


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in ending_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in ending_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_is_put_aside_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "web.log"
    with open_log(path) as log:
        log.write(b"a" * 2_000 + b"\n")
        log.flush()
        bound_log(path, 5_000)
        assert path.stat().st_size == 2_001
        bound_log(path, 1_000)
        log.write(b"after\n")
        log.flush()
    assert path.read_bytes() == b"after\n"
    assert (path.with_suffix(".log.1")).read_bytes() == b"a" * 2_000 + b"\n"
    assert path.with_suffix(".log.1").stat().st_mode & 0o777 == 0o600
    bound_log(tmp_path / "none.log", 0)
