"""The command line beside a broker alone: nobody decides, nobody answers questions."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.histories import History
from tests.support.livelog import ROOT, command, writing

PATIENCE_S = 60


@pytest.fixture
async def told(broker, monkeypatch):
    """A broker with a task in its log."""
    monkeypatch.setenv("AGENTCOM_DATA", str(broker.instance.data))
    history = History()
    history.elect(1)
    history.submit()
    history.submit()
    async with writing(broker) as write:
        await write.tell(history.recorded)
    return history


async def test_doctor_says_that_no_scheduler_answers(told):
    done = await command("doctor", "--json")
    checks = {each["name"]: each for each in json.loads(done.output)["checks"]}
    for name in ("scheduler", "leader"):
        assert checks[name]["status"] == "fail"
        assert checks[name]["found"] == "no scheduler answers"
        assert "agentcom scheduler" in checks[name]["advice"]
    assert done.exit_code == 1


def _stepping(ends: bytes) -> tuple[int, str]:
    """Replay on a terminal; type `ends` after the second event."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentcom", "replay", "--step"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(slave)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        os.write(master, b"\n")
        said += process.stdout.readline()
        if ends == b"\x03":
            process.send_signal(signal.SIGINT)
        else:
            os.write(master, ends)
        rest, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said + rest + errors
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        os.close(master)


@pytest.mark.parametrize(("typed", "code"), [(b"\x03", 130), (b"q\n", 0)])
async def test_a_stepped_replay_ends_when_it_is_told(told, typed, code):
    ended, said = await asyncio.to_thread(_stepping, typed)
    assert ended == code, said
    # Where Ctrl-C comes between two waits, click ends the line it was typed in.
    assert len([line for line in said.splitlines() if line]) == 2
    assert "Traceback" not in said


def _submitting() -> tuple[int, str, str]:
    """Submit with stderr on a terminal; Ctrl-C once it is said what is waited for."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentcom", "submit", "--shell", "true", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(slave)
    told = b""
    try:
        while b"waiting for the scheduler" not in told:
            told += os.read(master, 1_000)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
        with suppress(OSError):  # the terminal's other end is gone
            while more := os.read(master, 1_000):
                told += more
        return process.returncode, said, told.decode()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        os.close(master)


async def test_a_command_that_waits_for_a_scheduler_says_so_and_can_be_given_up(told):
    ended, said, told_so = await asyncio.to_thread(_submitting)
    assert (ended, said) == (130, ""), told_so
    assert "Traceback" not in told_so
