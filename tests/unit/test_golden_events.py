"""Every tag that was ever written can still be read; the lines in tests/golden say so."""

from __future__ import annotations

import json

import pytest

from events import catalogue as c
from events.codec import UPCASTERS, decode_event, encode
from tests.golden.make_events import golden_lines

LINES = {json.loads(line)["type"]: line for line in golden_lines()}


@pytest.mark.parametrize("tag", LINES)
def test_a_line_is_still_read_and_says_the_same(tag):
    event = decode_event(LINES[tag])
    assert not isinstance(event, c.Unknown)
    if tag in c.types():
        assert json.loads(encode(event)) == json.loads(LINES[tag])
    else:
        assert tag in UPCASTERS


def test_every_tag_of_the_catalogue_has_a_line():
    missing = c.types().keys() - LINES.keys()
    assert not missing, (
        "run `python -m tests.golden.make_events` and commit what it adds"
    )


def test_no_tag_has_two_lines():
    assert len(golden_lines()) == len(LINES)


def test_a_line_spells_every_field_that_its_class_had():
    for tag, line in LINES.items():
        if tag in c.types():
            spelled = json.loads(line).keys() - {"type"}
            assert spelled <= set(c.types()[tag].__struct_fields__), tag
