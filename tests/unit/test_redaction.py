"""No secret reaches a log; what only looks a little like one does."""

from __future__ import annotations

import io
import json
import logging
import sys
import time

import pytest
import structlog

from cli.local.process import set_up_logs
from cli.render.redaction import (
    REDACTED,
    keep_out,
    redact,
    redacted,
    without_secrets,
)

SEED = "SU" + "A2" * 28
PLAIN = "plain-words-secret"
TEXTS = [
    "sk-ant-api03-abcdefghijklmnopqrstuvwxyz",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    SEED,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "Authorization: Bearer abcdef0123456789",
    "postgres://joe:hunter22@db/shop",
    "ANTHROPIC_API_KEY=abcdef123",
    'api_key: "abc def"',
    "GET /?token=abcdef0123456789 HTTP/1.1",
    "GET /%3Ftoken%3Dabcdef0123456789&x=1",
    "http://127.0.0.1:4000/#token=abcdef0123456789",
    "access_token=abcdef0123456789&state=x",
    '{"refresh_token": "abcdef0123456789"}',
    r"{\"token\": \"abcdef0123456789\"}",
    "{'Cookie': 'a=abcdef0123456789; b=abcdef0123456789'}",
    "Cookie: a=1; b=abcdef0123456789",
    "Sec-WebSocket-Protocol: agentcom, token.abcdef0123456789",
    "nkey = abcdef0123456789",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
]
SECRETS = [
    "abcdefghij",
    "AKIA",
    "A2A2",
    "eyJ",
    "0123456789",
    "hunter22",
    "abcdef123",
    "abc def",
    "MIIE",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_secret_is_left_out_of_texts(text):
    said = without_secrets(f"before {text} after")
    assert REDACTED in said
    assert said.startswith("before ")
    assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize(
    "name",
    ["api_key", "X-Api-Key", "ANTHROPIC_API_KEY", "Authorization", "password",
     "auth_token", "token", "seed", "creds", "Set-Cookie", "client_secret"],
)  # fmt: skip
def test_a_field_that_is_named_like_a_secret_is_left_out(name):
    assert redact(None, "info", {name: "x1"}) == {name: REDACTED}


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens_in", 12), ("task_id", "01KAAAAAAAAAAAAAAAAAAAAAAA"), ("key", "t1"),
     ("idempotency_key", "nightly"), ("url", "http://localhost:4000/a:b@c"),
     ("event", "the token was refused"), ("event", "tokens: 12, tokens_in=3"),
     ("event", "max_tokens=512"), ("event", "seed: 7"), ("password", None), ("ok", True)],
)  # fmt: skip
def test_everything_else_stays(name, value):
    assert redact(None, "info", {name: value}) == {name: value}


def test_values_are_looked_through():
    said = redacted({"env": {"API_KEY": "x", "HOME": "/root"}, "argv": [TEXTS[0]]})
    assert said == {"env": {"API_KEY": REDACTED, "HOME": "/root"}, "argv": [REDACTED]}
    assert redacted(b"password=abc") == f"password={REDACTED}"
    assert SEED not in str(redacted(ValueError(SEED)))
    deep: list[object] = []
    deep.append(deep)
    assert REDACTED in str(redacted(deep))


@pytest.fixture
def logged(monkeypatch):
    """What a role writes to stderr, line by line."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    set_up_logs(debug=False)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_logs_are_json_with_task_ids_and_without_secrets(logged):
    structlog.get_logger("test").info("ran", task_id="t1", api_key="x")
    structlog.contextvars.bind_contextvars(task_id="t2")
    structlog.get_logger("test").warning(f"said {TEXTS[0]}")
    logging.getLogger("somebody").warning("password=%s", "hunter22")

    first, second, third = logged()

    assert (first["task_id"], first["api_key"]) == ("t1", REDACTED)
    assert (second["task_id"], second["event"]) == ("t2", f"said {REDACTED}")
    assert (third["logger"], third["level"]) == ("somebody", "warning")
    assert third["event"] == f"password={REDACTED}"


def fails_with(secret):
    """Fail in a frame whose locals hold a secret that looks like none."""
    parts = [secret, {"deep": secret}]
    raise ValueError(f"{len(parts)} parts")


def test_a_traceback_holds_no_variables(logged):
    try:
        fails_with(PLAIN)
    except ValueError:
        structlog.get_logger("test").exception("failed")
        logging.getLogger("somebody").exception("failed")

    entries = logged()

    for entry in entries:
        assert "fails_with" in json.dumps(entry)
        assert PLAIN not in json.dumps(entry)
    assert len(entries) == 2


def test_a_traceback_on_a_terminal_holds_none_either(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        set_up_logs(debug=False)
        try:
            fails_with(PLAIN)
        except ValueError:
            structlog.get_logger("test").exception(f"failed {TEXTS[0]}")
    finally:
        structlog.reset_defaults()

    assert "fails_with" in stream.getvalue()
    assert PLAIN not in stream.getvalue()
    assert "abcdefghij" not in stream.getvalue()


@pytest.mark.parametrize("piece", ["a-", "eyJ-", "a+", "token", "cookie ", 'x="', "a:"])
def test_a_long_text_is_looked_through_once(piece):
    began = time.process_time()
    without_secrets(piece * 50_000)
    assert time.process_time() - began < 5


def test_a_secret_of_our_own_is_left_out_however_it_is_written():
    keep_out("Our_own-secret/+0123456789")
    for text in (
        "Our_own-secret/+0123456789",
        "x%3DOur_own-secret%2F%2B0123456789",
        "['Our_own-secret/+0123456789']",
    ):
        assert "0123456789" not in without_secrets(text)
    assert redact(None, "info", {"anything": "Our_own-secret/+0123456789"}) == {
        "anything": REDACTED
    }


def test_tracebacks_are_redacted_too(logged):
    try:
        raise ValueError(f"refused {TEXTS[0]}")
    except ValueError:
        structlog.get_logger("test").exception("failed")

    (entry,) = logged()

    assert "ValueError" in json.dumps(entry)
    assert "abcdefghij" not in json.dumps(entry)
