"""What the command line decides by itself, without a broker."""

from __future__ import annotations

import subprocess
import sys

from cli.client import QUESTION_S
from projections.queries import WAIT_LIMIT_S
from tests.command import ROOT


def test_a_question_outlasts_what_the_read_models_wait() -> None:
    assert QUESTION_S >= WAIT_LIMIT_S + 2


def test_log_lines_of_commands_go_to_stderr() -> None:
    code = (
        "import structlog\n"
        "from cli.client import logs_to_stderr\n"
        "logs_to_stderr()\n"
        "structlog.get_logger('agentcom.link').warning('a line')\n"
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
