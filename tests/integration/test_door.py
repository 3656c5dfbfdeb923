"""The door: strangers' connections, floods, and what they may have written to the log."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import structlog

from tests.integration.test_api import serving
from web import door
from web import server as edge
from web.door import Complaints, Door, allow_files

ENDS_S = 60.0
SECRET = "a-token-that-nobody-may-read-in-a-log"


@pytest.fixture
def short(monkeypatch):
    """Strangers and bodies have little time."""
    monkeypatch.setattr(door, "STRANGER_S", 0.4)
    monkeypatch.setattr(edge, "BODY_S", 0.4)


async def connect(site, sent: bytes = b""):
    port = urlsplit(site.base).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


async def ended(reader) -> bytes:
    """Read until the other side ends the connection."""
    async with asyncio.timeout(ENDS_S):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def flood(site, sent: bytes, count: int):
    """So many connections that each send something and stay."""
    opened = [await connect(site, sent) for _ in range(count)]
    yield opened
    for _, writer in opened:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api/v1/me HT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
    ],
    ids=["silent", "line", "header", "body", "idle", "unread"],
)
async def test_a_stranger_s_connection_ends_whatever_it_does(tmp_path, short, sent):
    async with serving(tmp_path) as site:
        reader, writer = await connect(site, sent)
        await ended(reader)
        writer.close()


async def test_drop_by_drop_is_no_longer_life(tmp_path, short):
    async with serving(tmp_path) as site:
        reader, writer = await connect(site, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        end = asyncio.create_task(ended(reader))
        began = time.monotonic()
        while not end.done() and time.monotonic() - began < ENDS_S:
            writer.write(b"X-Drop: 1\r\n")
            await asyncio.wait([end], timeout=0.05)
        assert end.done()
        await end
        writer.close()


async def test_the_operator_s_slow_body_is_refused_in_words(tmp_path, short):
    async with serving(tmp_path) as site:
        head = (
            "POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            f"Content-Type: application/json\r\n"
            f"Authorization: Bearer {site.tokens.operator}\r\n\r\n{{"
        )
        reader, writer = await connect(site, head.encode())
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"expired"' in answer
        writer.close()


async def test_silent_strangers_leave_room_for_who_has_a_token(tmp_path):
    async with serving(tmp_path) as site, flood(site, b"GET / HT", 600) as opened:
        token = site.tokens.operator
        assert (await site.ask("GET", "/api/v1/me", token=token))[0] == 200
        oldest, _ = opened[0]
        assert await ended(oldest) == b""
        newest, _ = opened[-1]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(newest.read(1), 0.05)


async def test_a_known_connection_is_no_stranger_s(tmp_path, short):
    async with serving(tmp_path) as site:
        request = (
            "GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {site.tokens.viewer}\r\n\r\n"
        )
        reader, writer = await connect(site, request.encode())
        await reader.readuntil(b"}")
        async with flood(site, b"", 300) as opened:
            assert await ended(opened[0][0]) == b""
            await ended(opened[-1][0])
        writer.write(request.encode())
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_flood_of_strangers_leaves_the_operator_served(tmp_path):
    async with serving(tmp_path) as site:
        request = b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n"
        wrong = request[:-2] + b"Authorization: Bearer " + b"x" * 32 + b"\r\n\r\n"
        for sent in (request, wrong):
            reader, writer = await connect(site, sent * 3_000)
            await reader.readuntil(b"HTTP/1.1 4")
            for _ in range(2_500):
                await reader.readuntil(b"HTTP/1.1 4")
            assert (await site.ask("GET", "/api/v1/me", token=site.tokens.operator))[
                0
            ] == 200
            assert (await site.ask("GET", "/"))[0] != 429
            writer.close()


async def test_a_flood_of_viewers_leaves_the_operator_served(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "KNOWN", 20)
    async with serving(tmp_path) as site:
        request = (
            "GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {site.tokens.viewer}\r\n\r\n"
        ).encode()
        async with flood(site, request, 30) as opened:
            answers = [await reader.readuntil(b"}") for reader, _ in opened]
            assert [b" 200 " in each for each in answers] == [True] * 20 + [False] * 10
            assert b"too many connections" in answers[-1]
            reader, writer = opened[0]
            writer.write(request * 3_000)
            while b" 429 " not in await reader.readuntil(b"}"):
                pass
            token = site.tokens.operator
            assert (await site.ask("GET", "/api/v1/me", token=token))[0] == 200


async def test_what_is_no_request_costs_one_short_line_without_what_it_held(
    tmp_path, caplog
):
    with structlog.testing.capture_logs() as lines:
        async with serving(tmp_path) as site:
            for sent in (
                f"GET /?token={SECRET} HTTP/9.9.9\r\n\r\n",
                f"GET / HTTP/1.1\r\nHost: a\r\nX Y: {SECRET}\r\n\r\n",
                f"GET / HTTP/1.1\r\nAuthorization: Bearer {SECRET}\x00\r\n\r\n",
                f"POST / HTTP/1.1\r\nContent-Length: {SECRET}\r\n\r\n",
                "GET /" + SECRET * 1_000 + " HTTP/1.1\r\n\r\n",
                f"\x16\x03\x01{SECRET}\r\n\r\n",
            ):
                for _ in range(20):
                    reader, writer = await connect(site, sent.encode())
                    answer = await ended(reader)
                    assert b" 400 " in answer.partition(b"\r\n")[0]
                    assert b"nosniff" in answer
                    assert SECRET.encode() not in answer
                    writer.close()
    assert caplog.records == []
    assert 1 <= len(lines) <= 6
    for line in lines:
        assert len(str(line)) < 200
        assert SECRET not in str(line)


async def test_a_broken_body_is_refused_and_no_fault(tmp_path, caplog):
    with structlog.testing.capture_logs() as lines:
        async with serving(tmp_path) as site:
            for more, body in (
                ("Transfer-Encoding: chunked", "zz\r\n"),
                ("Content-Encoding: gzip\r\nContent-Length: 4", "gzip"),
            ):
                head = (
                    f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"
                    "Content-Type: application/json\r\n"
                    f"Authorization: Bearer {site.tokens.operator}\r\n\r\n{body}"
                )
                reader, writer = await connect(site, head.encode())
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), ENDS_S)
                assert b" 400 " in answer
                writer.close()
    assert caplog.records == []
    assert {line["event"] for line in lines} <= {"no HTTP request"}


async def test_a_fault_of_ours_is_a_refusal_and_is_logged_once(tmp_path, monkeypatch):
    async def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("web.api.Api.events", fails)
    with structlog.testing.capture_logs() as lines:
        async with serving(tmp_path) as site:
            for _ in range(5):
                status, answer = await site.ask(
                    "GET", "/api/v1/events", token=site.tokens.operator
                )
                assert (status, answer["code"]) == (500, "internal")
    assert [line["event"] for line in lines] == ["a request failed"]


def test_equal_complaints_are_counted_and_said_now_and_then():
    now = 0.0
    with structlog.testing.capture_logs() as lines:
        complaints = Complaints(lambda: now)
        for _ in range(7):
            complaints.about(ValueError())
        complaints.about(KeyError())
        now = door.QUIET_S + 1
        complaints.about(ValueError())
    assert [(line["kind"], line["more"]) for line in lines] == [
        ("ValueError", 0),
        ("KeyError", 0),
        ("ValueError", 6),
    ]


def test_few_files_are_shared_out_and_more_are_asked_for():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        small = Door(time.monotonic)
        assert small.strangers + 2 * small.known < 256
        allow_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(door.FILES, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
