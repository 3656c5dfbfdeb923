"""What a task may wish of Claude Code, and how a wish that nobody knows is refused."""

from __future__ import annotations

import pytest

from actors.gateway.validate import check
from actors.rules.prices import listed_model, price
from cli.commands.submit import submit
from events import catalogue as c
from events.codec import Reader
from events.commands import Submit
from events.errors import Malformed

_submits: Reader[Submit] = Reader(Submit)


@pytest.mark.parametrize(
    ("wishes", "refusal"),
    [
        (
            '{"permision_mode": "plan"}',
            "claude.permision_mode: unknown field; did you mean permission_mode?",
        ),
        ('{"permission_mode": "yolo"}', "claude.permission_mode: expected one of "),
        ('{"max_turns": 0}', "claude.max_turns: expected"),
        ('{"allowed_tools": "Bash"}', "claude.allowed_tools: expected a list"),
    ],
)
def test_an_unknown_wish_is_refused_with_what_was_meant(wishes, refusal) -> None:
    with pytest.raises(Malformed) as error:
        _submits.decode(f'{{"description": "x", "claude": {wishes}}}'.encode())
    assert str(error.value).startswith(refusal)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"metadata": {"claude": {"permision_mode": "plan"}}},
            "metadata.claude.permision_mode",
        ),
        ({"metadata": {"claude": "plan"}}, "metadata.claude"),
        ({"metadata": {"claude": {}}, "claude": c.ClaudeWishes()}, "metadata.claude"),
        ({"shell": c.Shell("ls"), "claude": c.ClaudeWishes()}, "claude"),
    ],
)
def test_a_wish_in_the_wrong_place_is_refused(fields, path) -> None:
    with pytest.raises(Malformed) as error:
        check(c.TaskSpec(description="x", **fields), 0.0)
    assert error.value.path == path


def test_older_wishes_that_are_right_are_taken() -> None:
    check(c.TaskSpec(description="x", metadata={"claude": {"max_turns": 3}}), 0.0)


def test_an_alias_has_the_price_of_the_newest_model_of_its_family() -> None:
    model = listed_model("sonnet")
    assert model.startswith("claude-sonnet-")
    assert listed_model("claude-sonnet-4-5") == "claude-sonnet-4-5"
    assert price("sonnet", tokens_in=10, tokens_out=5) == price(
        model, tokens_in=10, tokens_out=5
    )
    assert price("sonnet[1m]", tokens_in=10, tokens_out=5)


def test_every_wish_has_an_option() -> None:
    names = {parameter.name for parameter in submit.params}
    assert set(c.ClaudeWishes.__struct_fields__) <= names
