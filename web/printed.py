"""All that a task has put out, however much, as one answer that is never held whole.

`output.ndjson` has every piece, a JSON object a line, as `execution_event`s, each with its
place in the store as `seq`; `?start=` one of those begins there. `output.txt` has
the text alone, byte for byte as it was printed (what was no UTF-8 is U+FFFD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from events.commands import Refusal, refuse
from events.errors import AgentComError, Malformed, shown
from web.access import HEADERS
from web.api import is_number, response_of
from web.live import encode_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from events import catalogue as c
    from projections.output import OutputReader
    from projections.queries import Queries

AT_ONCE: Final = 256 * 1024
"""Bytes that are written together."""
TEXT: Final = frozenset({"stdout", "stderr", "token"})
STREAMS: Final = ("stdout", "stderr")


class Printed:
    """Answers with the whole of a task's output."""

    def __init__(self, queries: Queries, output: OutputReader | None) -> None:
        self._queries = queries
        self._output = output

    async def pieces(self, request: web.Request) -> web.StreamResponse:
        """Answer with every piece, one a line; from `start` on, where that is said."""
        start = request.query.get("start", "1")
        if not is_number(start):
            raise Malformed("start", "the seq of a piece", shown(start[:40]))

        def line_of(seq: int, chunk: c.Chunk) -> bytes:
            return encode_chunk(chunk)[:-1] + b',"seq":%d}\n' % seq

        return await self._stream(
            request, "application/x-ndjson", line_of, max(int(start), 1)
        )

    async def text(self, request: web.Request) -> web.StreamResponse:
        """Answer with the text; `stream` names one of stdout and stderr."""
        stream = request.query.get("stream", "")
        if stream and stream not in STREAMS:
            raise Malformed("stream", "stdout or stderr", shown(stream[:40]))
        kinds = {stream} if stream else TEXT

        def text_of(_seq: int, chunk: c.Chunk) -> bytes:
            return chunk.text.encode() if chunk.event_type in kinds else b""

        return await self._stream(request, "text/plain; charset=utf-8", text_of)

    async def _stream(
        self,
        request: web.Request,
        kind: str,
        encoded: Callable[[int, c.Chunk], bytes],
        start: int = 1,
    ) -> web.StreamResponse:
        if self._output is None:
            return response_of(refuse("unavailable", "live output is not read here"))
        task_id = await self._queries.full_id(request.match_info["task_id"])
        if isinstance(task_id, Refusal):
            return response_of(task_id)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": kind})
        gathered = bytearray()
        try:
            async for seq, chunk in self._output.placed(task_id, start=start):
                gathered += encoded(seq, chunk)
                if len(gathered) >= AT_ONCE:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(bytes(gathered))
                    gathered.clear()
        except AgentComError:
            if not response.prepared:
                raise
            # Half of it must not be taken for the whole.
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
            return response
        if not response.prepared:
            await response.prepare(request)
        await response.write(bytes(gathered))
        await response.write_eof()
        return response
