"""The policy: whole and valid, or refused with the place that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.policy import Policy, differences, document, parse
from actors.rules.policy_words import explained, flat
from events.codec import encode
from events.errors import Malformed
from events.mail import Limits
from tests.support.strategies import JSON, TEXTS, structs

ROOT = Path(__file__).parents[2]


def test_the_defaults_are_the_specification_s():
    policy = Policy()
    assert (policy.fallback_wait_s, policy.task_ttl_s, policy.host_lease_s) == (
        5,
        600,
        15,
    )
    assert (policy.tier_alert_after_s, policy.accept_timeout_s) == (60, 5)
    assert (policy.max_escalations_in_flight, policy.allow_downgrade) == (4, False)
    assert policy.escalation_budget_usd_per_day is None
    assert (policy.claude_model, policy.equivalent) == (
        "sonnet",
        "sonnet",
    )
    assert (policy.limited_initial_s, policy.limited_cap_s) == (60, 900)
    assert policy.limits.claude_backoff_s == [2, 4, 8]
    assert policy.limits.wake_backoff_s == [5, 15, 30]


def test_a_document_names_every_field_and_is_read_back():
    whole = document(Policy())
    assert set(whole) == set(Policy.__struct_fields__)
    assert set(whole["limits"]) == set(Limits.__struct_fields__)
    assert parse(whole) == Policy()
    assert parse({}) == Policy()


@given(structs(Policy))
def test_a_policy_is_read_back_or_refused_for_a_limit(policy):
    try:
        read = parse(document(policy))
    except Malformed as error:
        where = error.path
    else:
        where = "limits."
        assert read == policy
    assert where.startswith("limits.")


@given(st.dictionaries(TEXTS, JSON, max_size=4))
def test_any_other_document_is_refused(found):
    if set(found) <= set(Policy.__struct_fields__):
        return
    with pytest.raises(Malformed):
        parse(found)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"nope": 1}, "nope"),
        ({"fallback_wait_s": -1}, "fallback_wait_s"),
        ({"fallback_wait_s": "5"}, "fallback_wait_s"),
        ({"task_ttl_s": 0}, "task_ttl_s"),
        ({"local_models": ["a", 1]}, "local_models[1]"),
        ({"claude_model": ""}, "claude_model"),
        ({"recorded_candidates": 0}, "recorded_candidates"),
        ({"scoring": {"warm": -1}}, "scoring.warm"),
        ({"scoring": {"cold": 1}}, "scoring.cold"),
        ({"limits": {"nope": 1}}, "limits.nope"),
        ({"limits": None}, "limits"),
        ({"limits": {"shell_retries": -1}}, "limits.shell_retries"),
        ({"limits": {"model_retries": 1_000}}, "limits.model_retries"),
        ({"limits": {"run_timeout_s": 0}}, "limits.run_timeout_s"),
        ({"limits": {"idle_timeout_s": 1e300}}, "limits.idle_timeout_s"),
        ({"limits": {"shell_term_grace_s": -1}}, "limits.shell_term_grace_s"),
        ({"limits": {"output_limit_bytes": 0}}, "limits.output_limit_bytes"),
        ({"limits": {"num_ctx": -5}}, "limits.num_ctx"),
        ({"limits": {"claude_backoff_s": []}}, "limits.claude_backoff_s"),
        ({"limits": {"claude_backoff_s": [1, -1]}}, "limits.claude_backoff_s"),
        ({"limits": {"wake_backoff_s": ["1"]}}, "limits.wake_backoff_s[0]"),
    ],
)
def test_an_invalid_policy_is_refused_whole_and_by_name(change, path):
    with pytest.raises(Malformed) as refused:
        parse(change)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {"shell_retries": 0, "shell_term_grace_s": 0}},
        {"limits": {"claude_backoff_s": [0]}},
        {"fallback_wait_s": 0, "max_escalations_in_flight": 0},
        {"escalation_budget_usd_per_day": 0},
    ],
)
def test_nought_is_allowed_where_it_means_something(change):
    parse(change)


def test_differences_are_named_to_the_field():
    new = parse(
        {"allow_downgrade": True, "scoring": {"warm": 2}, "limits": {"num_ctx": 1}}
    )
    assert differences(Policy(), new) == [
        "allow_downgrade",
        "limits.num_ctx",
        "scoring.warm",
    ]
    assert differences(new, new) == []


def test_a_document_is_plain_json():
    assert b"claude_backoff_s" in encode(document(Policy()))


def test_every_number_is_explained_and_read_where_that_says():
    names = [name for name, _ in flat("", document(Policy()))]
    rows = explained()
    assert [row.name for row in rows] == names
    for row in rows:
        text = (ROOT / row.read_by).read_text()
        assert re.search(rf"\.{row.name.rpartition('.')[2]}\b", text), row
