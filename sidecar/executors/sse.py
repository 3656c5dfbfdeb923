"""Server-sent events as bytes come in (HTML standard, section 9.2.6).

Lines end in LF, CR LF or CR, wherever the network cut them. An event is dispatched by an
empty line; one that was never closed by it is given at the end all the same, because some
servers hang up right after their last `data:` line. A line that is JSON without a field's
name is an event too.
"""

from __future__ import annotations

from msgspec import Struct

from sidecar.executors.ndjson import LINE_LIMIT, Broken, excerpt


class ServerEvent(Struct, frozen=True):
    """One event: its data lines joined, its name (`message` unless it has one)."""

    data: str
    event: str = "message"


class Sse:
    """Collects events; one larger than the limit is `Broken` and left out."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._line = bytearray()
        self._first_line = True
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._too_large = False

    def feed(self, data: bytes) -> list[ServerEvent | Broken]:
        """The events that end in `data`."""
        items: list[ServerEvent | Broken] = []
        if self._after_cr and data:
            # The CR has ended a line already; its LF ends nothing more.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = data.endswith(b"\r")
        *ended, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            self._hold(piece, items)
            self._end_line(items)
        self._hold(rest, items)
        return items

    def close(self) -> list[ServerEvent | Broken]:
        """What was not ended by an empty line."""
        items: list[ServerEvent | Broken] = []
        if self._line:
            self._end_line(items)
        self._dispatch(items)
        return items

    def _hold(self, piece: bytes, items: list[ServerEvent | Broken]) -> None:
        if self._too_large or not piece:
            # Whether the line is empty must be known all the same.
            if piece and not self._line:
                self._line += b":"
            return
        self._line += piece
        if self._size + len(self._line) > self._limit:
            shown = excerpt(bytes(self._line[: self._limit - self._size + 1]))
            items.append(Broken(f"an event larger than {self._limit:,} bytes", shown))
            self._too_large = True
            self._line[:] = b":"
            self._data.clear()

    def _end_line(self, items: list[ServerEvent | Broken]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._first_line:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._first_line = False
        if not line:
            self._dispatch(items)
        elif line.startswith(b"{") and not self._too_large:
            # No field's name begins so: a server that forgot the frame, mostly for an
            # error in mid-stream.
            self._dispatch(items)
            self._data.append(line)
            self._dispatch(items)
        elif not self._too_large and not line.startswith(b":"):
            name, _, value = line.partition(b":")
            self._field(name, value.removeprefix(b" "))

    def _field(self, name: bytes, value: bytes) -> None:
        match name:
            case b"data":
                self._data.append(value)
                self._size += len(value) + 1
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case _:
                pass  # `id`, `retry`, and what nobody knows

    def _dispatch(self, items: list[ServerEvent | Broken]) -> None:
        if self._data and not self._too_large:
            text = b"\n".join(self._data).decode("utf-8", "replace")
            items.append(ServerEvent(text, self._event or "message"))
        self._data.clear()
        self._size = 0
        self._event = ""
        self._too_large = False
