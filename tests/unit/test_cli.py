"""What the command line decides by itself, without a broker."""

from __future__ import annotations

from cli.client import QUESTION_S
from projections.queries import WAIT_LIMIT_S


def test_a_question_outlasts_what_the_read_models_wait() -> None:
    assert QUESTION_S >= WAIT_LIMIT_S + 2
