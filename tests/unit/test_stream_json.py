"""What Claude Code really printed, read however its lines were cut."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.executors.claude.stream_json import (
    Begun,
    Delta,
    RateLimit,
    Requesting,
    RunEnd,
    StreamJson,
    ToolDenied,
    ToolResult,
    WholeMessage,
    read,
)
from sidecar.executors.claude.verdict import verdict_on
from sidecar.executors.ndjson import Broken

GOLDEN = Path(__file__).parents[1] / "golden" / "claude-code"
FILES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))


@cache
def raw(case: str) -> bytes:
    return (GOLDEN / f"{case}.jsonl").read_bytes()


def events(data: bytes, step: int | None = None) -> list[Any]:
    machine = StreamJson()
    pieces = [data] if step is None else []
    if step is not None:
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return [
        event for piece in pieces for event in machine.feed(piece)
    ] + machine.close()


def ended(case: str) -> RunEnd:
    last = events(raw(case))[-1]
    assert isinstance(last, RunEnd)
    return last


@given(st.sampled_from(FILES), st.integers(1, 5000))
def test_recorded_streams_read_the_same_however_cut(case: str, step: int) -> None:
    assert events(raw(case), step) == events(raw(case))


@pytest.mark.parametrize("case", FILES)
def test_no_recorded_line_is_broken(case: str) -> None:
    found = events(raw(case))
    assert isinstance(found[0], Begun)
    assert not any(isinstance(event, Broken) for event in found)


def test_text_comes_in_deltas_and_the_cost_in_the_result() -> None:
    found = events(raw("ok"))
    text = "".join(event.text for event in found if isinstance(event, Delta))
    assert text == "tok0 tok1 tok2 "
    end = ended("ok")
    assert (end.text, end.cost_usd, end.is_error) == (text, 0.01005, False)
    assert end.since is not None
    (use,) = end.since
    assert (use.tokens_in, use.tokens_out, use.cache_read) == (25, 15, 20000)
    assert use.priced


def test_a_tool_call_its_denial_and_its_result_are_seen() -> None:
    found = events(raw("tool"))
    calls = [
        call
        for event in found
        if isinstance(event, WholeMessage)
        for call in event.calls
    ]
    assert [call.name for call in calls] == ["Bash"]
    assert [e.tool for e in found if isinstance(e, ToolDenied)] == ["Bash"]
    assert [e.is_error for e in found if isinstance(e, ToolResult)] == [True]


@pytest.mark.parametrize(
    ("case", "code", "again", "unusable"),
    [
        ("ok", "", False, False),
        ("r429once", "", False, False),
        ("r429", "rate_limit", True, False),
        ("o529", "server_error", True, False),
        ("e500", "server_error", True, False),
        ("middrop", "server_error", True, False),
        ("a401", "authentication_failed", False, True),
        ("nokey", "authentication_failed", False, True),
        ("n404", "model_not_found", False, False),
        ("p400", "prompt_too_long", False, False),
        ("maxturns", "max_turns", False, False),
        ("budget", "budget", False, False),
        ("tool", "permission_denied", False, False),
    ],
)
def test_every_recorded_end_has_its_meaning(
    case: str, code: str, again: bool, unusable: bool
) -> None:
    names = [
        e.error for e in events(raw(case)) if isinstance(e, WholeMessage) and e.error
    ]
    verdict = verdict_on(ended(case), names[-1] if names else None, [])
    assert verdict is not None
    assert (verdict.code, verdict.again, verdict.unusable) == (code, again, unusable)


@pytest.mark.parametrize(
    ("error", "status", "code", "again"),
    [
        ("billing_error", 400, "credit", False),
        ("overloaded", 529, "overloaded", True),
        ("account_on_hold", 403, "account_on_hold", False),
        ("something_new", None, "something_new", False),
        (None, None, "unknown", True),
        ("unknown", None, "unknown", True),
        ("unknown", 400, "bad_request", False),  # a local server's own words
        ("unknown", 500, "server_error", True),
        (None, 429, "rate_limit", True),
        (None, 503, "server_error", True),
        (None, 418, "bad_request", False),
    ],
)
def test_names_and_statuses_decide_what_is_worth_a_retry(
    error: str | None, status: int | None, code: str, again: bool
) -> None:
    line = {"type": "result", "subtype": "success", "is_error": True}
    (end,) = read({**line, "api_error_status": status})
    assert isinstance(end, RunEnd)
    verdict = verdict_on(end, error, [])
    assert verdict is not None
    assert (verdict.code, verdict.again) == (code, again)


def test_a_rate_limit_says_until_when() -> None:
    info = {"status": "rejected", "resetsAt": 1999999999, "rateLimitType": "five_hour"}
    (event,) = read({"type": "rate_limit_event", "rate_limit_info": info})
    assert event == RateLimit("rejected", 1999999999.0, "five_hour")


def test_an_invented_price_is_marked() -> None:
    line = json.loads(raw("ok").splitlines()[-1])
    for usage in (line["modelUsage"], line["model_usage_since_last_result"]):
        usage["claude-sonnet-4-5"]["costBasis"] = "unknown"
    (end,) = read(line)
    assert isinstance(end, RunEnd)
    assert end.since is not None
    assert not end.since[0].priced


@pytest.mark.parametrize("usd", [-5.0, float("nan"), float("inf"), 1e300, True, "1"])
def test_dollars_that_are_no_amount_are_unknown_and_buy_nothing(usd: Any) -> None:
    line = json.loads(raw("ok").splitlines()[-1])
    (end,) = read({**line, "total_cost_usd": usd})
    assert isinstance(end, RunEnd)
    assert end.cost_usd is None


def test_unknown_types_are_passed_over_and_end_nothing() -> None:
    known = b'{"type":"system","subtype":"status","status":"requesting"}\n'
    data = b'{"type":"news","x":1}\n[1]\n{"a":1}\n' + known
    broken, asks = StreamJson().feed(data)
    assert isinstance(broken, Broken)
    assert asks == Requesting()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
LINES = [json.loads(line) for case in FILES for line in raw(case).splitlines()[1:]]


@given(st.sampled_from(LINES), st.data())
def test_a_field_of_any_shape_is_borne(line: dict[str, Any], data: Any) -> None:
    changed = dict(line)
    name = data.draw(st.sampled_from(sorted(line)))
    inner = changed[name]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(inner)))
        changed[name] = {**inner, key: data.draw(values)}
    else:
        changed[name] = data.draw(values)
    for event in read(changed):
        if isinstance(event, RunEnd):
            assert verdict_on(event, None, []) is not None
