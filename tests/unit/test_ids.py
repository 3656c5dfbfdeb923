"""Ids: sortable, derivable, and nothing else ever becomes part of a subject."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from events.errors import BadToken
from events.ids import IdSource, derived, is_token, token, ulid
from tests.support.strategies import TEXTS, TOKENS

MILLISECONDS = st.integers(0, 2**48 - 1)
CHANCE = st.integers(0, 2**80 - 1)


@given(MILLISECONDS, CHANCE)
def test_a_ulid_is_what_the_public_library_says_it_is(millisecond, chance):
    spelled = ulid(millisecond / 1000, chance)
    read = ULID.from_str(spelled)
    assert abs(read.milliseconds - millisecond) <= 1  # the clock is a float
    assert int(read) & (2**80 - 1) == chance
    assert is_token(spelled)


@given(TOKENS)
def test_a_token_is_given_back_as_it_is(value):
    assert token(value) == value


@pytest.mark.parametrize(
    "value",
    ["", "a.b", "*", ">", "a b", "a\n", "\r\nPUB x", "é", "a/b", "x" * 65, "\x00"],
)
def test_what_is_no_token_is_refused_by_name(value):
    assert not is_token(value)
    with pytest.raises(BadToken) as refused:
        token(value, "host")
    assert refused.value.path == "host"
    assert str(refused.value).startswith(
        "host: expected 1 to 64 letters, digits, '_' or '-', got "
    )


@given(TEXTS)
def test_whatever_passes_as_a_token_has_no_meaning_in_a_subject(value):
    if is_token(value):
        assert not set(value) & set(".*> \t\r\n\x00")
        assert value.isascii()
        assert 1 <= len(value) <= 64


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, min_size=1, max_size=3))
def test_the_same_parts_and_only_they_derive_the_same_id(one, other):
    assert (derived(*one) == derived(*other)) == (one == other)
    assert is_token(derived(*one))
    assert len(derived(*one)) == 26


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20), CHANCE)
def test_one_source_s_ids_rise_whatever_the_clock_does(clock, chance):
    ticks = iter(clock)
    source = IdSource(lambda: next(ticks), lambda: chance)
    ids = [source() for _ in clock]
    assert ids == sorted(set(ids))


@given(MILLISECONDS, st.integers(0, 2**79 - 2))
def test_a_source_s_ids_are_ulids_of_its_clock_and_chance(millisecond, chance):
    source = IdSource(lambda: millisecond / 1000, lambda: chance)
    first, second = ULID.from_str(source()), ULID.from_str(source())
    assert first == ULID.from_str(ulid(millisecond / 1000, chance))
    assert int(second) == int(first) + 1
