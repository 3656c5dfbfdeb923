"""Both streams in one file: every message with its sequence, subject, time and bytes.

    {"format": "agentcom-archive.v1", "streams": {"AGENTCOM_EVENTS": {...}, ...}, ...}
    {"s": "AGENTCOM_EVENTS", "q": 1, "j": "agentcom.evt.…", "t": "2026-…", "d": "{…}"}
    ...
    {"sha256": "…", "messages": {"AGENTCOM_EVENTS": 1, ...}}

One JSON object a line, compressed by gzip, so that `zcat FILE | jq` reads it. `d` is the
message where it is text and `b` its base64 where it is not; the last line's digest is
over all lines before it. A file is written beside its place and moved there when it is
whole; one that was cut off has no last line, and is refused.

It is filled into a log by whoever owns its disk: with the broker stopped, a private one
is started on the store, which nobody else can reach. Sequences stay what they were;
the time at which the broker stored a message becomes that of the restoring.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import secrets
from collections import deque
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from cli.local.broker import Broker
from cli.local.instance import Credentials, Instance
from events import header, subjects
from events.codec import encode
from events.errors import AgentComError, LogUnavailable
from events.nats.api import ALL, PubAck, direct

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from events.nats.link import Link, LinkMessage

    Progress = Callable[[str, int, int], None]
    """Told the stream, how many of its messages are done, and how many there are."""

FORMAT: Final = "agentcom-archive.v1"
STREAMS: Final = (subjects.EVENTS, subjects.OUTPUT)
ALL_OF: Final = {
    subjects.EVENTS: subjects.ALL_EVENTS,
    subjects.OUTPUT: subjects.ALL_OUTPUT,
}
LEVEL: Final = 5
WINDOW: Final = 512
"""Messages on their way at once while restoring."""
TOLD_EVERY: Final = 2_000
TIMEOUT_S: Final = 10.0


class ArchiveError(AgentComError):
    """An archive cannot be read, or a log cannot take it."""

    code = "archive"


class Span(Struct, frozen=True):
    """What of a stream is in an archive: first and last sequence (0, 0: nothing)."""

    first: int
    last: int


class Header(Struct, frozen=True, kw_only=True):
    """The first line."""

    format: str
    agentcom: str
    made_at: str
    streams: dict[str, Span]


class Entry(Struct, frozen=True, omit_defaults=True):
    """A message: stream, sequence, subject, time stored, and its bytes."""

    s: str
    q: int
    j: str
    t: str = ""
    d: str | None = None
    b: str | None = None

    @property
    def data(self) -> bytes:
        """The message's bytes."""
        if self.b is not None:
            return base64.b64decode(self.b)
        return (self.d or "").encode()


class Footer(Struct, frozen=True):
    """The last line."""

    sha256: str
    messages: dict[str, int]


class State(Struct):
    """How far a stream is."""

    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0


class Found(Struct):
    """The answer of STREAM.INFO."""

    state: State | None = None
    error: dict[str, Any] | None = None


async def state_of(link: Link, stream: str) -> State:
    """Return how far a stream is; raises LogUnavailable."""
    answer = await link.call(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=TIMEOUT_S)
    found = msgspec.json.decode(answer.data, type=Found)
    if found.state is None:
        reason = str((found.error or {}).get("description", "no state"))
        raise LogUnavailable(f"look at {stream}", reason)
    return found.state


def nobody(stream: str, done: int, of: int) -> None:
    """Hear nothing of the progress."""


# -- writing ---------------------------------------------------------------------------


class Writer:
    """Writes lines and keeps their digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.messages: dict[str, int] = dict.fromkeys(STREAMS, 0)

    def line(self, said: Any) -> None:
        """Write a line that counts into the digest."""
        raw = encode(said) + b"\n"
        self._digest.update(raw)
        self._file.write(raw)

    def end(self) -> Footer:
        """Write the last line."""
        footer = Footer(self._digest.hexdigest(), self.messages)
        self._file.write(encode(footer) + b"\n")
        return footer


async def archive(
    link: Link,
    target: Path,
    *,
    agentcom: str,
    made_at: str,
    progress: Progress = nobody,
) -> tuple[Header, Footer]:
    """Write both streams, as far as they are now, to `target`.

    Nothing stands at `target` until all of it does. Raises ArchiveError where a sequence
    is missing, LogUnavailable, OSError.
    """
    spans = {}
    for stream in STREAMS:
        state = await state_of(link, stream)
        empty = not state.messages
        spans[stream] = Span(0, 0) if empty else Span(state.first_seq, state.last_seq)
    header = Header(format=FORMAT, agentcom=agentcom, made_at=made_at, streams=spans)
    with _beside(target) as file:
        writer = Writer(file)
        writer.line(header)
        for stream, span in spans.items():
            await _write_stream(link, stream, span, writer, progress)
        footer = writer.end()
    return header, footer


async def _write_stream(
    link: Link, stream: str, span: Span, writer: Writer, progress: Progress
) -> None:
    if not span.last:
        return
    expected, total = span.first, span.last - span.first + 1
    async for message in direct(
        link, stream, ALL_OF[stream], start=span.first, limit=ALL
    ):
        entry = _entry(stream, message)
        if entry.q > span.last:
            break
        if stream == subjects.EVENTS and entry.q != expected:
            raise ArchiveError(
                f"{stream}: expected sequence {expected}, got {entry.q}: an event is "
                "missing, and the log could not be restored as it is"
            )
        expected = entry.q + 1
        writer.line(entry)
        writer.messages[stream] += 1
        if not writer.messages[stream] % TOLD_EVERY:
            progress(stream, writer.messages[stream], total)
    if stream == subjects.EVENTS and expected != span.last + 1:
        raise ArchiveError(f"{stream}: ends at {expected - 1} instead of {span.last}")
    progress(stream, total, total)


def _entry(stream: str, message: LinkMessage) -> Entry:
    headers = message.headers
    seq, subject = (
        int(headers[header.SEQUENCE]),
        headers.get(header.SUBJECT, message.subject),
    )
    stamp = headers.get(header.TIME_STAMP, "")
    try:
        return Entry(stream, seq, subject, stamp, d=message.data.decode())
    except UnicodeDecodeError:
        spelled = base64.b64encode(message.data).decode()
        return Entry(stream, seq, subject, stamp, b=spelled)


@contextmanager
def _beside(target: Path) -> Iterator[IO[bytes]]:
    """Open a compressed file that takes `target`'s place once it is whole."""
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file:
                yield file  # type: ignore[misc]
            raw.flush()
            os.fsync(raw.fileno())
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


# -- reading ---------------------------------------------------------------------------

_headers: Final = msgspec.json.Decoder(Header)
_entries: Final = msgspec.json.Decoder(Entry)
_footers: Final = msgspec.json.Decoder(Footer)


def lines_of(source: Path) -> Iterator[bytes]:
    """Yield an archive's lines; raises ArchiveError where it is not one."""
    try:
        with gzip.open(source, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ArchiveError(f"{source} is damaged or cut off: {error}") from error


def check(source: Path) -> tuple[Header, Footer]:
    """Read an archive through; raises ArchiveError unless it is whole and unchanged."""
    digest, counts = hashlib.sha256(), dict.fromkeys(STREAMS, 0)
    header: Header | None = None
    last, footer = b"", None
    places: dict[str, int] = {}
    try:
        for line in lines_of(source):
            if header is None:
                header = _headers.decode(line)
                if header.format != FORMAT:
                    raise ArchiveError(
                        f"{source}: expected {FORMAT}, got {header.format}"
                    )
                digest.update(line)
                continue
            if last:
                digest.update(last)
                entry = _entries.decode(last)
                counts[entry.s] = counts.get(entry.s, 0) + 1
                if entry.q <= places.get(entry.s, 0):
                    raise ArchiveError(f"{source}: {entry.s} goes back to {entry.q}")
                places[entry.s] = entry.q
            last = line
        footer = _footers.decode(last)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{source} is no archive, or is cut off: {error}") from error
    if header is None:
        raise ArchiveError(f"{source} is empty")
    if footer.sha256 != digest.hexdigest() or footer.messages != counts:
        raise ArchiveError(f"{source} has been changed: its digest does not agree")
    return header, footer


def entries(source: Path) -> Iterator[Entry]:
    """Yield the messages of an archive that has been checked."""
    lines = lines_of(source)
    next(lines)
    before = next(lines, None)
    for line in lines:
        if before is not None:
            yield _entries.decode(before)
        before = line


# -- restoring -------------------------------------------------------------------------


class PrivateInstance(Instance):
    """An instance whose broker only the owner of its disk can reach."""

    def __init__(self, data: Path | None = None) -> None:
        super().__init__(data)
        self._url = ""

    @property
    def conf(self) -> Path:
        return self.data / "restore.conf"

    @property
    def log_file(self) -> Path:
        return self.data / "restore.log"

    @property
    def url(self) -> str:
        return self._url

    def record_url(self, url: str) -> None:
        self._url = url

    def write_conf(self) -> None:
        """Write the configuration: the log's account, the admin's key, loopback."""
        text = {
            "store_dir": str(self.store),
            "pid_file": str(self.pid_file),
            "nkey": self.public_key("admin"),
        }
        spelled = {name: encode(value).decode() for name, value in text.items()}
        self._write(
            self.conf,
            "# Written by `agentcom restore`; nobody but the admin's key gets in.\n"
            'server_name: agentcom-1\nlisten: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
            f"pid_file: {spelled['pid_file']}\nmax_payload: 1MB\n"
            f"jetstream: {{ store_dir: {spelled['store_dir']}\n"
            '  max_mem: 512MB, max_file: 1TB, sync_interval: "10s" }\n'
            "accounts: { CORE: { jetstream: enabled\n"
            f"  users: [ {{ nkey: {spelled['nkey']} }} ] }} }}\n",
        )


@contextmanager
def private_broker(data: Path) -> Iterator[Credentials]:
    """Run a broker of one's own on an instance's store; yields the admin's credentials.

    Raises StoreInUse while the instance's own broker runs.
    """
    instance = PrivateInstance(data)
    instance.write_conf()
    broker = Broker(instance)
    try:
        broker.start()
        yield Credentials(instance.url, instance.keys / "admin.nk", "admin")
    finally:
        broker.stop(60)
        for path in (instance.conf, instance.log_file):
            with suppress(FileNotFoundError):
                path.unlink()


async def restore(
    link: Link, source: Path, header: Header, *, progress: Progress = nobody
) -> dict[str, int]:
    """Fill empty streams from an archive that has been checked; return what was stored.

    One that was interrupted goes on where it stopped: streams that hold the beginning
    of this very archive count as empty. Raises ArchiveError for any other, and where a
    message got another sequence.
    """
    stands = {stream: await _standing(link, stream, header) for stream in STREAMS}
    stored = dict.fromkeys(STREAMS, 0)
    window: deque[tuple[Entry, asyncio.Future[LinkMessage]]] = deque()
    for entry in entries(source):
        span = header.streams.get(entry.s)
        if span is None or entry.s not in stands:
            continue
        if entry.q <= stands[entry.s]:
            if entry.q == stands[entry.s]:
                await _same(link, entry)
            continue
        future = link.call(entry.j, entry.data, timeout=TIMEOUT_S)
        window.append((entry, future))
        stored[entry.s] += 1
        if len(window) >= WINDOW:
            await _stored(*window.popleft())
        if not stored[entry.s] % TOLD_EVERY:
            progress(entry.s, entry.q - span.first + 1, span.last - span.first + 1)
    while window:
        await _stored(*window.popleft())
    for stream, span in header.streams.items():
        total = span.last - span.first + 1 if span.last else 0
        progress(stream, total, total)
    return stored


async def _standing(link: Link, stream: str, header: Header) -> int:
    """Return the last sequence that is there already; make an empty stream begin right."""
    state = await state_of(link, stream)
    span = header.streams.get(stream, Span(0, 0))
    if state.last_seq > span.last or (state.messages and not span.last):
        raise ArchiveError(
            f"{stream} is not empty: it holds {state.messages} messages; restore into "
            "a folder of its own with --data DIR"
        )
    if span.first <= 1 or state.last_seq >= span.first - 1:
        return state.last_seq
    if state.messages:
        raise ArchiveError(f"{stream} is not empty, and is not of this archive")
    # What the output stream had forgotten stays forgotten; its numbers go on.
    answer = await link.call(
        f"$JS.API.STREAM.PURGE.{stream}",
        encode({"seq": span.first}),
        timeout=TIMEOUT_S,
    )
    refused = msgspec.json.decode(answer.data, type=Found).error
    if refused is not None:
        raise ArchiveError(f"{stream}: {refused.get('description', refused)}")
    return (await state_of(link, stream)).last_seq


async def _same(link: Link, entry: Entry) -> None:
    async for message in direct(link, entry.s, ALL_OF[entry.s], start=entry.q, limit=1):
        found = _entry(entry.s, message)
        if (found.q, found.j, found.data) == (entry.q, entry.j, entry.data):
            return
    raise ArchiveError(
        f"{entry.s} is not empty, and what it holds is not of this archive: restore "
        "into a folder of its own with --data DIR"
    )


async def _stored(entry: Entry, future: asyncio.Future[LinkMessage]) -> None:
    ack = msgspec.json.decode((await future).data, type=PubAck)
    if ack.error is not None:
        raise ArchiveError(f"{entry.s} {entry.q}: {ack.error.description}")
    if entry.s == subjects.EVENTS and ack.seq != entry.q:
        raise ArchiveError(
            f"{entry.s}: {entry.q} became {ack.seq}: somebody else writes there"
        )
