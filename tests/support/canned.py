"""A model server whose answers are given as bytes: for what real servers do oddly."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def whole(body: Any, status: str = "200 OK", more: str = "") -> bytes:
    """An answer with its length, as JSON."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def streamed(*pieces: str, kind: str = "text/event-stream", ends: bool = True) -> bytes:
    """A chunked answer; without its end, the connection is dropped."""
    out = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n".encode()
    out += b"Transfer-Encoding: chunked\r\n\r\n"
    for piece in pieces:
        data = piece.encode()
        out += b"%x\r\n" % len(data) + data + b"\r\n"
    return out + (b"0\r\n\r\n" if ends else b"")


def sse(value: Any) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def chunk(delta: Any, reason: str | None = None, **more: Any) -> str:
    """One chunk of a completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return sse({"model": "m", "choices": [choice], **more})


def lines(*values: Any) -> bytes:
    """An answer of Ollama's, a line for each value."""
    texts = [json.dumps(value) + "\n" for value in values]
    return streamed(*texts, kind="application/x-ndjson")


def said(text: Any, **more: Any) -> dict[str, Any]:
    """One line of Ollama's chat."""
    message = {"role": "assistant", "content": text, **more}
    return {"model": "m", "message": message, "done": False}


def done(reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The last line of Ollama's chat."""
    counts = {"prompt_eval_count": 11, "eval_count": 7, **more}
    return {**said(""), "done": True, "done_reason": reason, **counts}


@dataclass
class Canned:
    """The server: `answers` by path, each in turn and the last for ever."""

    answers: dict[str, list[bytes]]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    hang: bool = False  # leave the connection open after a streamed answer

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.asked.append(path)
            self.heads.append(head)
            length = [
                int(line.split(":")[1])
                for line in head.split("\r\n")
                if line.lower().startswith("content-length")
            ]
            await reader.readexactly(length[0] if length else 0)
            answers = self.answers.get(path) or [whole({}, "404 Not Found")]
            writer.write(answers.pop(0) if len(answers) > 1 else answers[0])
            await writer.drain()
            if self.hang:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def canned(
    answers: dict[str, list[bytes]], *, hang: bool = False
) -> AsyncIterator[Canned]:
    """Serve these answers on a free port of loopback."""
    made = Canned({path: list(each) for path, each in answers.items()}, hang=hang)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
