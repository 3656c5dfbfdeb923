"""The parsers of streams: where the network cuts makes no difference."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.executors.ndjson import Broken, Lines, Ndjson
from sidecar.executors.sse import ServerEvent, Sse

PIECES = b"""data: a|data:b|:comment|event: x|id:1|retry|{"a":1}|[""".split(b"|")
ENDS = [b"\n", b"\r\n", b"\r", b"", b"\xff\xfe", "\u20ac".encode(), b"\xef\xbb\xbf"]
streams = st.lists(st.sampled_from(PIECES + ENDS), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=20)


def fed(machine: Any, data: bytes, places: list[int]) -> list[Any]:
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    items = []
    for start, end in pairwise(bounds):
        items += machine.feed(data[start:end])
    return items + machine.close()


@given(streams | st.binary(max_size=300), cuts, st.integers(1, 60))
def test_lines_are_the_same_however_they_were_cut(
    data: bytes, places: list[int], limit: int
) -> None:
    assert fed(Lines(limit), data, places) == fed(Lines(limit), data, [])


@given(streams | st.binary(max_size=300), cuts, st.integers(1, 60))
def test_server_events_are_the_same_however_they_were_cut(
    data: bytes, places: list[int], limit: int
) -> None:
    assert fed(Sse(limit), data, places) == fed(Sse(limit), data, [])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(values), cuts, st.booleans())
def test_every_value_of_a_stream_comes_out(
    said: list[Any], places: list[int], ascii_: bool
) -> None:
    data = b"".join(
        json.dumps(each, ensure_ascii=ascii_).encode("utf-8", "replace") + b"\r\n"
        for each in said
    )
    if not any("\ufffd" in str(each) for each in said):
        assert fed(Ndjson(object), data, places) == said


@given(st.binary(max_size=300), cuts)
def test_no_bytes_can_make_a_parser_raise(data: bytes, places: list[int]) -> None:
    fed(Ndjson(dict[str, Any]), data, places)
    fed(Sse(), data, places)


@given(st.lists(st.text(alphabet="ab\u20ac ", min_size=1)), cuts)
def test_events_survive_their_encoding(said: list[str], places: list[int]) -> None:
    data = "".join(f"data: {text}\n\n" for text in said).encode()
    assert fed(Sse(), data, places) == [ServerEvent(text) for text in said]


def test_a_line_without_end_is_reported_once_and_not_kept() -> None:
    lines = Lines(1000)
    items = [item for _ in range(1000) for item in lines.feed(b"x" * 1000)]
    assert [type(item) for item in items] == [Broken]
    assert "longer than 1,000 bytes" in str(items[0])
    assert lines.feed(b"\nnext\n") == [b"next"]


def test_an_event_without_end_is_reported_once_and_not_kept() -> None:
    sse = Sse(1000)
    items = [
        item for _ in range(100) for item in sse.feed(b"data: " + b"x" * 99 + b"\n")
    ]
    assert [type(item) for item in items] == [Broken]
    assert sse.feed(b"\n\ndata: next\n\n") == [ServerEvent("next")]


def test_broken_utf8_inside_a_value_is_replaced() -> None:
    assert fed(Ndjson(object), b'{"a":"\xff"}\n', []) == [{"a": "\ufffd"}]


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert fed(Ndjson(object), b'{"a":"\\ud83d!"}\n', []) == [{"a": "\ufffd!"}]


@pytest.mark.parametrize("line", [b'{"a":', b"[1,2", b"nonsense", b"[" * 5000])
def test_a_broken_line_is_an_item_and_the_next_line_is_read(line: bytes) -> None:
    first, second = fed(Ndjson(object), line + b"\n1\n", [])
    assert isinstance(first, Broken)
    assert second == 1


def test_several_data_lines_are_one_event() -> None:
    data = b"event: x\nid: 7\ndata: a\ndata: b\n\n"
    assert fed(Sse(), data, []) == [ServerEvent("a\nb", "x")]


def test_an_event_that_the_stream_never_closed_is_given_at_its_end() -> None:
    assert fed(Sse(), b"data: [DONE]", []) == [ServerEvent("[DONE]")]
