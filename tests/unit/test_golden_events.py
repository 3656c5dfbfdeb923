"""Every tag that was ever written can still be read; the lines in tests/golden say so."""

from __future__ import annotations

import json

import pytest

from events import catalogue as c
from events.codec import UPCASTERS, decode_event, encode
from tests.golden.make_events import golden_lines

LINES = golden_lines()
TAGS = [json.loads(line)["type"] for line in LINES]


@pytest.mark.parametrize(("tag", "line"), list(zip(TAGS, LINES, strict=True)))
def test_a_line_is_still_read_and_says_the_same(tag, line):
    event = decode_event(line)
    assert not isinstance(event, c.Unknown)
    if tag in c.types():
        assert json.loads(encode(event)) == json.loads(line)
    else:
        assert tag in UPCASTERS


def test_every_tag_of_the_catalogue_has_a_line():
    missing = c.types().keys() - set(TAGS)
    assert not missing, (
        "run `python -m tests.golden.make_events` and commit what it adds"
    )


def test_a_tag_has_another_line_only_for_fields_that_came_later():
    fields_of = {}
    for tag, line in zip(TAGS, LINES, strict=True):
        fields = json.loads(line).keys()
        assert not fields <= fields_of.get(tag, set()), tag
        fields_of[tag] = fields_of.get(tag, set()) | fields


def test_the_lines_spell_every_field_of_their_class_and_no_other():
    fields_of = {tag: set() for tag in TAGS}
    for tag, line in zip(TAGS, LINES, strict=True):
        fields_of[tag] |= json.loads(line).keys() - {"type"}
    for tag, fields in fields_of.items():
        if tag in c.types():
            assert fields == set(c.types()[tag].__struct_fields__), tag
