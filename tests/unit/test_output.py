"""What is kept of output without end."""

from __future__ import annotations

import hashlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from events import catalogue as c
from sidecar.output import HeadTail, Utf8, cut, fitting


def kept(pieces: list[bytes], limit: int) -> HeadTail:
    output = HeadTail(limit)
    for piece in pieces:
        output.feed(piece)
    return output


@given(st.lists(st.binary(max_size=60)), st.integers(0, 400))
def test_any_chunking_keeps_the_same(pieces: list[bytes], limit: int) -> None:
    whole = kept([b"".join(pieces)], limit)
    cut_up = kept(pieces, limit)
    assert cut_up.text() == whole.text()
    assert cut_up.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert (cut_up.size, cut_up.truncated) == (whole.size, whole.truncated)


@given(st.binary(max_size=2000), st.integers(200, 600))
def test_the_text_never_takes_more_than_the_limit(data: bytes, limit: int) -> None:
    assert len(kept([data], limit).text().encode()) <= limit


@given(st.text(max_size=2000), st.integers(200, 600))
def test_a_cut_text_fits_and_an_uncut_one_is_unchanged(text: str, limit: int) -> None:
    assert len(cut(text, limit).encode()) <= limit
    if len(text.encode()) <= limit:
        assert cut(text, limit) == text


def test_head_and_tail_survive_and_the_cut_is_visible() -> None:
    output = kept([b"first\n", b"x" * 100_000, b"\nlast"], 1000)
    text = output.text()
    assert text.startswith("first\n")
    assert text.endswith("\nlast")
    assert "bytes left out here" in text
    assert output.size == 100_011


def test_twenty_megabytes_in_small_pieces_take_no_room() -> None:
    output = HeadTail(10_000)
    for _ in range(20_000):
        output.feed(b"y" * 1024)
    held = len(output._head) + sum(map(len, output._tail))
    assert output.size == 20_000 * 1024
    assert held <= 12_000


@given(st.lists(st.binary(max_size=8)))
def test_text_is_the_same_however_its_bytes_were_cut(pieces: list[bytes]) -> None:
    decoder = Utf8()
    text = "".join(decoder.feed(piece) for piece in pieces) + decoder.close()
    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(st.sampled_from(["x", "\0", "\u20ac", '"']), st.integers(0, 400_000))
def test_a_result_is_cut_to_what_an_event_may_hold(character: str, count: int) -> None:
    text = character * count
    error = c.RunError("exit_code", text[:1000])
    result = c.Result(status="failed", output=text, stderr=text, error=error)
    small = fitting(result, 300_000)
    assert len(msgspec.json.encode(small)) <= 300_000
    if len(msgspec.json.encode(result)) <= 300_000:
        assert small == result
