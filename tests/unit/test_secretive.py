"""What is taken for a secret, and what a variable of a task may hold."""

from __future__ import annotations

import pytest

from actors.gateway.validate import VARIABLE_LIMIT, check
from events import catalogue as c
from events.errors import Malformed
from events.secretive import is_secret, is_secret_name


@pytest.mark.parametrize(
    "name",
    [
        "ANTHROPIC_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "GITHUB_TOKEN",
        "github_token",
        "PGPASSWORD",
        "CLIENT_SECRET",
        "GITHUB_PAT",
        "ANTHROPIC_CUSTOM_HEADERS",
    ],
)
def test_a_secret_s_name_is_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["PATH", "PWD", "MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "SECRETARY"],
)
def test_another_name_is_none(name: str) -> None:
    assert not is_secret(name, "x")


def test_a_password_in_an_address_is_a_secret() -> None:
    assert is_secret("DATABASE_URL", "postgres://me:hush@db/x")
    assert not is_secret("DATABASE_URL", "postgres://me@db/x")


def spec(**shell: object) -> c.TaskSpec:
    return c.TaskSpec(description="x", shell=c.Shell(command="x", **shell))  # type: ignore[arg-type]


def test_a_variable_is_measured_in_bytes_with_its_name() -> None:
    check(spec(env={"A": "日" * ((VARIABLE_LIMIT - 2) // 3)}), 0.0)
    with pytest.raises(Malformed, match=r"shell\.env\.A.*131,071 bytes"):
        check(spec(env={"A": "日" * (VARIABLE_LIMIT // 3)}), 0.0)


def test_a_name_cannot_be_set_and_be_the_host_s_secret() -> None:
    check(spec(env={"A": "x"}, secret_env=["B"]), 0.0)
    with pytest.raises(Malformed, match=r"shell\.secret_env"):
        check(spec(env={"A": "x"}, secret_env=["A"]), 0.0)
