"""Which texts are verification steps: commands, and no sentences."""

from __future__ import annotations

import pytest

from actors.gateway.validate import check
from actors.rules.steps import not_a_command
from events import catalogue as c
from events.errors import Malformed


@pytest.mark.parametrize(
    "step",
    [
        "make test",
        "make test all",
        "pytest -q tests/unit",
        "test -s answer.md",
        "! grep -q TODO src/login.py",
        "echo this is the end",
        "git log the branch",
        "cd web && npm test",
        "[ -e seen ]",
        "exit 1",
        "./check.sh",
        "Rscript check.R",
        "python -c 'import shop; shop.check()'",
        "set -e\nmake lint\nmake test",
    ],
)
def test_a_command_is_a_step(step: str) -> None:
    assert not_a_command(step) is None


@pytest.mark.parametrize(
    "step",
    [
        "all tests pass",
        "make sure the tests pass",
        "The login works.",
        "Tests pass",
        "the button is blue",
        "it's green",
        "   ",
        "# nothing",
    ],
)
def test_a_sentence_is_refused(step: str) -> None:
    spec = c.TaskSpec(description="x", verification_steps=["make test", step])
    with pytest.raises(Malformed) as refused:
        check(spec, 0.0)
    assert refused.value.path == "verification_steps[1]"
