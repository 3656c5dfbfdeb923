"""What of a command's environment is written to the log."""

from __future__ import annotations

from events import catalogue as c
from sidecar.shown_env import BYTES_SHOWN, VALUE_SHOWN, VARIABLES_SHOWN, shown_env


def test_plain_variables_are_shown_by_name() -> None:
    assert list(shown_env({"PATH": "/bin", "HOME": "/h"}, None).items()) == [
        ("HOME", "/h"),
        ("PATH", "/bin"),
    ]


def test_what_is_or_looks_like_a_secret_is_hidden_with_its_name_kept() -> None:
    shell = c.Shell(command="true", secret_env=["PLAIN", "EMPTY"])
    env = {
        "PLAIN": "hunter2",
        "EMPTY": "",
        "API_KEY": "k",
        "PROXY": "http://me:pw@proxy:1",
        "COPY": "before hunter2 behind",
        "DB_PASS": "pw",
        "PROXY_AUTH": "x",
        "DATABASE_DSN": "x",
        "GIVEN": "ghp_0123456789abcdef0123",
        "CERT": "-----BEGIN PRIVATE KEY-----",
        "LANG": "C",
    }
    assert shown_env(env, shell) == {
        **dict.fromkeys(env, "…"),
        "LANG": "C",
    }


def test_what_only_sounds_like_a_secret_is_shown() -> None:
    env = {
        "SSH_AUTH_SOCK": "/run/agent",
        "PWD": "/work",
        "KEYBOARD": "de",
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "PYTEST_PASSED": "3",
    }
    assert shown_env(env, None) == env


def test_what_is_shown_is_bounded_in_count_in_bytes_and_in_each_value() -> None:
    many = shown_env({f"V{n:04}": "x" for n in range(1_000)}, None)
    assert len(many) == VARIABLES_SHOWN
    wide = shown_env({f"V{n:04}": "ä" * 400 for n in range(60)}, None)
    size = sum(len(name) + len(value.encode()) for name, value in wide.items())
    assert 0 < size <= BYTES_SHOWN
    assert shown_env({"LONG": "x" * 10_000}, None) == {
        "LONG": "x" * VALUE_SHOWN + "..."
    }


def test_bytes_that_are_no_text_are_shown_as_something_that_is() -> None:
    assert shown_env({"ODD": "a\udcffb"}, None) == {"ODD": "a?b"}
