"""The short ways through nats-py's client: what is spelled, and what is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from events.nats.wire import Messages, _nobody, frame, headers_of, status_of

ROOT = Path(__file__).parents[2]


def test_a_frame_without_headers():
    assert frame("a.b", "", b"x\r\ny", None) == b"PUB a.b  4\r\nx\r\ny\r\n"
    assert frame("a.b", "in.1", b"", {}) == b"PUB a.b in.1 0\r\n\r\n"


def test_a_frame_with_headers_counts_them():
    made = frame("a", "r", b"xyz", {"Nats-TTL": "5s"})
    block = b"NATS/1.0\r\nNats-TTL: 5s\r\n\r\n"
    assert made == b"HPUB a r %d %d\r\n" % (len(block), len(block) + 3) + block + (
        b"xyz\r\n"
    )


@pytest.mark.parametrize(
    "subject", ["", "a b", "a\r\nPUB x 0", "a\tb", "a\n", "a\x00b", "a\u2028b"]
)
def test_a_subject_cannot_end_its_line(subject):
    with pytest.raises(ValueError, match="not a subject"):
        frame(subject, "", b"", None)
    if subject:
        with pytest.raises(ValueError, match="not a subject"):
            frame("a", subject, b"", None)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb"])
def test_a_header_name_cannot_end_its_line(name):
    with pytest.raises(ValueError, match="not a header name"):
        frame("a", "", b"", {name: "x"})


def test_a_header_value_cannot_end_its_line():
    made = frame("a", "", b"", {"A": "b\r\nEvil: c\rd\ne"})
    assert headers_of(made.partition(b"\r\n")[2]) == {"A": "b Evil: c d e"}


@pytest.mark.parametrize(
    ("raw", "status", "headers"),
    [
        (b"", "", {}),
        (b"NATS/1.0\r\nA: b\r\n\r\n", "", {"A": "b"}),
        (b"NATS/1.0 503\r\n\r\n", "503", {"Status": "503"}),
        (
            b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n",
            "409",
            {"Status": "409", "Description": "Message Size Exceeds MaxBytes"},
        ),
        (
            b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 7\r\nNats-Sequence:3\r\n\r\n",
            "204",
            {
                "Status": "204",
                "Description": "EOB",
                "Nats-Num-Pending": "7",
                "Nats-Sequence": "3",
            },
        ),
        (b"NATS/1.0\r\nA: b: c\r\nno colon\r\nUni: \xff\r\n\r\n", "", None),
    ],
)
def test_headers_are_read_as_the_library_reads_them(raw, status, headers):
    assert status_of(raw) == status
    if headers is None:
        headers = {"A": "b: c", "Uni": "\ufffd"}
    assert headers_of(raw) == headers


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z-]{0,20}", fullmatch=True),
        st.text(max_size=40).map(lambda text: " ".join(text.split())),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_spelled_is_read_back(headers):
    made = frame("a", "", b"data", headers)
    size = int(made.split(b" ", 4)[3].split(b" ")[0])
    block = made.partition(b"\r\n")[2][:size]
    assert headers_of(block) == headers
    # And as the library's own reader understands it.
    assert Client._parse_header_lines(block[len(b"NATS/1.0\r\n") :]) == headers


def test_speaking_to_nats_imports_no_web_client():
    """A command of the command line would pay a tenth of a second for it."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, events.nats.link; print('aiohttp' in sys.modules);"
            "import aiohttp; print(bool(aiohttp.ClientSession))",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert said.stdout.split() == ["False", "True"]


LINES = st.lists(
    st.one_of(
        st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'x'\r\n"]),
        st.tuples(
            st.sampled_from([b"1", b"2", b"3"]),
            st.sampled_from([b"", b"in.box"]),
            st.binary(max_size=40),
            st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n"]),
        ),
    ),
    max_size=12,
)


def written(line) -> bytes:
    if isinstance(line, bytes):
        return line
    sid, reply, data, headers = line
    sizes = b"%d %d" % (len(headers), len(headers) + len(data))
    words = [b"HMSG" if headers else b"MSG", b"a.b", sid, reply]
    words.append(sizes if headers else b"%d" % len(data))
    return b" ".join(word for word in words if word) + b"\r\n%b%b\r\n" % (headers, data)


@given(LINES, st.lists(st.integers(1, 30), max_size=40))
def test_messages_are_taken_out_wherever_the_bytes_are_cut(lines, cuts):
    """Subscription 1 is taken straight, 2 is nats-py's, 3 has ended."""
    taken, left = [], []

    def take(*message):
        taken.append(message)

    handlers = {b"1": take, b"2": None}
    messages = Messages(lambda sid: handlers.get(sid, _nobody), left.append)
    whole = b"".join(map(written, lines))
    for cut in [*cuts, len(whole) + 1]:
        messages.feed(whole[:cut])
        whole = whole[cut:]
    assert taken == [
        ("a.b", reply.decode(), data, headers)
        for sid, reply, data, headers in (
            one for one in lines if isinstance(one, tuple)
        )
        if sid == b"1"
    ]
    assert left == [
        written(line) for line in lines if isinstance(line, bytes) or line[0] == b"2"
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 x\r\n",
        b"HMSG a 1 5\r\nabcde\r\n",
        b"MSG a 1 -9\r\n",
        b"HMSG a 1 9 2\r\n",
    ],
)
def test_a_message_that_makes_no_sense_is_left_to_the_library(line):
    left = []
    Messages(lambda sid: _nobody, left.append).feed(line + b"PING\r\n")
    assert left == [line + b"PING\r\n"]
