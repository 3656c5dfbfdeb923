"""An archive: the log and the live output in one file, as a backup or to be read.

Two forms, told apart by how the file begins. A backup is a tar file with the broker's own
snapshot of each stream, so that times and headers are kept:

    AGENTCOM_EVENTS/backup.json     the stream's configuration and state
    AGENTCOM_EVENTS/stream.tar.s2   what the broker sent; `nats stream restore` takes both
    AGENTCOM_OUTPUT/...
    OBJ_AGENTCOM_FILES/...          files of tasks (not in older backups)
    archive.json                    who made it and when, and which sequences are in it
    SHA256SUMS                      of all of these; `sha256sum -c` reads it

The readable form has every message with its sequence, subject, time and bytes, one JSON
object a line, compressed by gzip (AgentCom 0.1.0 knew only this one):

    {"format": "agentcom-archive.v1", "streams": {"AGENTCOM_EVENTS": {...}, ...}, ...}
    {"s": "AGENTCOM_EVENTS", "q": 1, "j": <subject>, "t": "2026-…", "d": "{…}"}
    ...
    {"sha256": "…", "messages": {"AGENTCOM_EVENTS": 1, ...}}

It has no files of tasks. `d` is the message where it is text and `b` its base64 where it is
not; the last line's digest is over all lines before it.

A file of either form is written beside its place and moved there when it is whole. Both
end with their digests; one that was cut off lacks them, and is refused.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from events import subjects
from events.codec import encode
from events.errors import AgentComError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKUP: Final = "agentcom-archive.v2"
READABLE: Final = "agentcom-archive.v1"
STREAMS: Final = (subjects.EVENTS, subjects.OUTPUT)
"""What every archive has."""
BACKED_UP: Final = (*STREAMS, subjects.FILES_STREAM)
"""What a backup has, in this order: files are stored before an event names them."""

HEADER: Final = "archive.json"
SUMS: Final = "SHA256SUMS"
_GZIP: Final = b"\x1f\x8b"
CHUNK: Final = 128 * 1024
"""Bytes read, or asked for, at once."""


class ArchiveError(AgentComError):
    """An archive cannot be read, or a log cannot take it."""

    code = "archive"


class StreamSpan(Struct, frozen=True):
    """What of a stream is in an archive: first and last sequence (0, 0: nothing)."""

    first: int
    last: int


class ArchiveHeader(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an archive says of itself.

    `until` is the broker's clock when its snapshots were complete: what it stored after
    that is not in them. A backup has it, the readable form does not need it.
    """

    format: str
    agentcom: str
    made_at: str
    streams: dict[str, StreamSpan]
    until: str = ""


class ArchiveFooter(Struct, frozen=True):
    """The last line of the readable form."""

    sha256: str
    messages: dict[str, int]


class StreamBackup(Struct):
    """A stream's `backup.json`, as the broker gave it and takes it back."""

    config: dict[str, Any]
    state: dict[str, Any]


class ArchivedMessage(Struct, frozen=True, omit_defaults=True):
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


_headers: Final = msgspec.json.Decoder(ArchiveHeader)
_messages: Final = msgspec.json.Decoder(ArchivedMessage)
_footers: Final = msgspec.json.Decoder(ArchiveFooter)
_backups: Final = msgspec.json.Decoder(StreamBackup)


@contextmanager
def beside(target: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes `target`'s place once the block has ended well."""
    descriptor, name = tempfile.mkstemp(".part", f".{target.name}.", target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check(source: Path) -> ArchiveHeader:
    """Read an archive through; raises ArchiveError unless it is whole and unchanged."""
    with source.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    return _check_readable(source) if compressed else _check_backup(source)


# -- backups ---------------------------------------------------------------------------


def backup_name(stream: str) -> str:
    """Name the member that says what a stream was."""
    return f"{stream}/backup.json"


def snapshot_name(stream: str) -> str:
    """Name the member that holds what was in a stream."""
    return f"{stream}/stream.tar.s2"


class BackupWriter:
    """Writes a tar file whose members are as long as they turn out to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sums: dict[str, str] = {}

    @contextmanager
    def member(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Begin a member; yields what appends to it."""
        place = self._file.tell()
        # Its header, which says the length, is filled in at its end.
        self._file.write(bytes(tarfile.BLOCKSIZE))
        digest, length = hashlib.sha256(), 0

        def write(data: bytes) -> None:
            nonlocal length
            self._file.write(data)
            digest.update(data)
            length += len(data)

        yield write
        self._file.write(bytes(-length % tarfile.BLOCKSIZE))
        end = self._file.tell()
        about = tarfile.TarInfo(name)
        about.size, about.mode = length, 0o600
        self._file.seek(place)
        self._file.write(about.tobuf(tarfile.GNU_FORMAT))
        self._file.seek(end)
        self._sums[name] = digest.hexdigest()

    def end(self, header: ArchiveHeader) -> None:
        """Write what the archive says of itself, the digests, and the end."""
        with self.member(HEADER) as write:
            write(encode(header) + b"\n")
        listing = "".join(f"{digest}  {name}\n" for name, digest in self._sums.items())
        with self.member(SUMS) as write:
            write(listing.encode())
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))


def _check_backup(source: Path) -> ArchiveHeader:
    sums: dict[str, str] = {}
    small: dict[str, bytes] = {}
    try:
        with tarfile.open(source, "r:") as tar:
            for about in tar:
                member = tar.extractfile(about)
                assert member is not None
                digest = hashlib.sha256()
                while data := member.read(CHUNK):
                    digest.update(data)
                    if not about.name.endswith(".s2"):
                        small[about.name] = small.get(about.name, b"") + data
                sums[about.name] = digest.hexdigest()
    except (tarfile.TarError, AssertionError, EOFError) as error:
        raise ArchiveError(f"{source} is damaged or cut off: {error}") from error
    listing = small.get(SUMS, b"").decode("utf-8", "replace").splitlines()
    listed = {name: digest for digest, _, name in (e.partition("  ") for e in listing)}
    sums.pop(SUMS, None)
    if not listed:
        raise ArchiveError(f"{source} is cut off: it has no {SUMS}")
    if listed != sums:
        raise ArchiveError(f"{source} has been changed: its digests do not agree")
    try:
        header = _headers.decode(small.get(HEADER, b""))
        if header.format != BACKUP:
            raise ArchiveError(f"{source}: expected {BACKUP}, got {header.format}")
        for stream in header.streams:
            _backups.decode(small.get(backup_name(stream), b""))
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{source} is no archive: {error}") from error
    return header


def backup_of(source: Path, stream: str) -> StreamBackup:
    """Return what a stream was, from a backup that has been checked."""
    with tarfile.open(source, "r:") as tar:
        member = tar.extractfile(backup_name(stream))
        assert member is not None
        return _backups.decode(member.read())


def snapshot_of(source: Path, stream: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield a stream's snapshot piece by piece, with how far that is, of how much."""
    with tarfile.open(source, "r:") as tar:
        about = tar.getmember(snapshot_name(stream))
        member = tar.extractfile(about)
        assert member is not None
        done = 0
        while data := member.read(CHUNK):
            done += len(data)
            yield data, done, about.size


# -- the readable form -----------------------------------------------------------------


class LineWriter:
    """Writes the readable form's lines and keeps their digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.messages: dict[str, int] = dict.fromkeys(STREAMS, 0)

    def line(self, value: Any) -> None:
        """Write a line that counts into the digest."""
        raw = encode(value) + b"\n"
        self._digest.update(raw)
        self._file.write(raw)

    def end(self) -> None:
        """Write the last line."""
        footer = ArchiveFooter(self._digest.hexdigest(), self.messages)
        self._file.write(encode(footer) + b"\n")


def _lines_of(source: Path) -> Iterator[bytes]:
    """Yield the readable form's lines; raises ArchiveError where it is not one."""
    try:
        with gzip.open(source, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ArchiveError(f"{source} is damaged or cut off: {error}") from error


def _check_readable(source: Path) -> ArchiveHeader:
    digest, counts = hashlib.sha256(), dict.fromkeys(STREAMS, 0)
    header: ArchiveHeader | None = None
    last, footer = b"", None
    places: dict[str, int] = {}
    try:
        for line in _lines_of(source):
            if header is None:
                header = _headers.decode(line)
                if header.format != READABLE:
                    raise ArchiveError(
                        f"{source}: expected {READABLE}, got {header.format}"
                    )
                digest.update(line)
                continue
            if last:
                digest.update(last)
                message = _messages.decode(last)
                counts[message.s] = counts.get(message.s, 0) + 1
                if message.q <= places.get(message.s, 0):
                    raise ArchiveError(
                        f"{source}: {message.s} goes back to {message.q}"
                    )
                places[message.s] = message.q
            last = line
        footer = _footers.decode(last)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{source} is no archive, or is cut off: {error}") from error
    if header is None:
        raise ArchiveError(f"{source} is empty")
    if footer.sha256 != digest.hexdigest() or footer.messages != counts:
        raise ArchiveError(f"{source} has been changed: its digest does not agree")
    return header


def messages_of(source: Path) -> Iterator[ArchivedMessage]:
    """Yield the messages of a readable archive that has been checked."""
    lines = _lines_of(source)
    next(lines)
    before = next(lines, None)
    for line in lines:
        if before is not None:
            yield _messages.decode(before)
        before = line
