"""The log into an archive and out of it, over a link; see `events.archive` for the file.

A backup is the broker's own: it snapshots a stream into pieces that it sends to a subject
of ours, and restores a stream from the same pieces. Only the admin may have either done.
The readable form is read message by message, by anybody who may read the log.

A log is filled by whoever owns its disk: with the broker stopped, a private one is
started on the store, which nobody else can reach (`cli.local.backup`).
"""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from events import header, subjects
from events.archive import (
    BACKED_UP,
    BACKUP,
    CHUNK,
    READABLE,
    STREAMS,
    ArchivedMessage,
    ArchiveError,
    ArchiveHeader,
    BackupWriter,
    LineWriter,
    StreamBackup,
    StreamSpan,
    backup_name,
    backup_of,
    beside,
    messages_of,
    snapshot_name,
    snapshot_of,
)
from events.codec import encode
from events.errors import LogUnavailable
from events.nats.api import (
    ALL,
    STREAM_NOT_FOUND,
    ApiError,
    PubAck,
    StreamAnswer,
    StreamState,
    direct,
    stream_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from events.nats.link import Link, LinkMessage

    Progress = Callable[[str, int, int], None]
    """Called with the stream, how much of it is done, and how much there is."""

ALL_OF: Final = {
    subjects.EVENTS: subjects.ALL_EVENTS,
    subjects.OUTPUT: subjects.ALL_OUTPUT,
}
LEVEL: Final = 5
"""How hard gzip tries: 1 to 9."""
WINDOW: Final = 512
"""Messages on their way at once while restoring the readable form."""
REPORTED_EVERY: Final = 2_000
"""Messages from one report of progress to the next."""
TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 30.0
"""Seconds without a piece of a snapshot after which it is given up."""
UNPACK_S: Final = 600.0
"""Seconds that the broker may take to unpack a stream it has been sent."""


class SnapshotAnswer(Struct):
    """The answer of STREAM.SNAPSHOT."""

    config: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    error: ApiError | None = None


class RestoreAnswer(Struct):
    """The answer of STREAM.RESTORE and of each piece: where to send, what was wrong."""

    deliver_subject: str = ""
    error: ApiError | None = None


def no_progress(stream: str, done: int, of: int) -> None:
    """Report to nobody."""


A = TypeVar("A", SnapshotAnswer, RestoreAnswer, StreamAnswer)


async def _request(
    link: Link, kind: type[A], subject: str, body: Any, timeout: float = TIMEOUT_S
) -> A:
    """Ask the broker; raises ArchiveError where it refuses, Unreachable."""
    raw = body if isinstance(body, bytes) else encode(body)
    message = await link.call(subject, raw, timeout=timeout)
    answer = msgspec.json.decode(message.data or b"{}", type=kind)
    if answer.error is not None and answer.error.err_code != STREAM_NOT_FOUND:
        raise ArchiveError(f"{subject}: {answer.error.description}")
    return answer


# -- backup ----------------------------------------------------------------------------


async def archive(
    link: Link,
    target: Path,
    *,
    agentcom: str,
    made_at: str,
    progress: Progress = no_progress,
) -> ArchiveHeader:
    """Write a backup of the streams, as far as they are now, to `target`.

    A log that never had a store of files is archived without.
    Nothing stands at `target` until all of it does. `link` is the admin's. Raises
    ArchiveError, LogUnavailable, OSError.
    """
    spans: dict[str, StreamSpan] = {}
    with beside(target) as file:
        writer = BackupWriter(file)
        for stream in BACKED_UP:
            if stream not in STREAMS and not await _exists(link, stream):
                continue
            with writer.member(snapshot_name(stream)) as write:
                backup = await _snapshot(link, stream, write, progress)
            with writer.member(backup_name(stream)) as write:
                write(encode(backup) + b"\n")
            spans[stream] = _span(msgspec.convert(backup.state, StreamState))
        now = await _request(
            link, StreamAnswer, f"$JS.API.STREAM.INFO.{subjects.EVENTS}", b""
        )
        about = ArchiveHeader(
            format=BACKUP,
            agentcom=agentcom,
            made_at=made_at,
            streams=spans,
            until=now.ts,
        )
        writer.end(about)
    return about


async def _exists(link: Link, stream: str) -> bool:
    answer = await _request(link, StreamAnswer, f"$JS.API.STREAM.INFO.{stream}", b"")
    return answer.state is not None


def _span(state: StreamState) -> StreamSpan:
    if not state.messages:
        return StreamSpan(0, 0)
    return StreamSpan(state.first_seq, state.last_seq)


async def _snapshot(
    link: Link, stream: str, write: Callable[[bytes], None], progress: Progress
) -> StreamBackup:
    """Have the broker send a stream's snapshot; return what the stream is."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    length, pieces = 0, 0

    def on(piece: LinkMessage) -> None:
        nonlocal length, pieces
        if ended.done():
            return
        if not piece.data:
            # The end: without a status or with 204, if all is well.
            if piece.status in ("", "204"):
                ended.set_result(None)
            else:
                why = piece.headers.get("Description", piece.status)
                ended.set_exception(LogUnavailable(f"snapshot {stream}", why))
            return
        try:
            write(piece.data)
        except OSError as error:
            ended.set_exception(error)
            return
        length, pieces = length + len(piece.data), pieces + 1
        piece.respond(b"")

    inbox = link.new_inbox()
    listening = await link.subscribe(inbox, on)
    try:
        answer = await _request(
            link,
            SnapshotAnswer,
            f"$JS.API.STREAM.SNAPSHOT.{stream}",
            {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK},
        )
        if answer.config is None or answer.state is None:
            raise ArchiveError(f"the broker has no {stream}")
        total = int(answer.state.get("bytes", 0))
        seen = -1
        while not ended.done():
            if pieces == seen:
                raise LogUnavailable(
                    f"snapshot {stream}", "the broker has fallen silent"
                )
            seen = pieces
            await asyncio.wait((ended,), timeout=SILENCE_S)
            progress(stream, min(length, total), total)
        ended.result()
    finally:
        await listening.stop()
    progress(stream, total, total)
    return StreamBackup(answer.config, answer.state)


async def export(
    link: Link,
    target: Path,
    *,
    agentcom: str,
    made_at: str,
    progress: Progress = no_progress,
) -> ArchiveHeader:
    """Write both streams in the readable form, as far as they are now, to `target`.

    Nothing stands at `target` until all of it does. Raises ArchiveError where a sequence
    is missing, LogUnavailable, OSError.
    """
    spans = {stream: _span(await stream_state(link, stream)) for stream in STREAMS}
    about = ArchiveHeader(
        format=READABLE, agentcom=agentcom, made_at=made_at, streams=spans
    )
    with (
        beside(target) as raw,
        gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file,
    ):
        writer = LineWriter(file)  # type: ignore[arg-type]
        writer.line(about)
        for stream, span in spans.items():
            await _write_stream(link, stream, span, writer, progress)
        writer.end()
    return about


async def _write_stream(
    link: Link, stream: str, span: StreamSpan, writer: LineWriter, progress: Progress
) -> None:
    if not span.last:
        return
    expected, total = span.first, span.last - span.first + 1
    async for message in direct(
        link, stream, ALL_OF[stream], start=span.first, limit=ALL
    ):
        archived = _archived(stream, message)
        if archived.q > span.last:
            break
        if stream == subjects.EVENTS and archived.q != expected:
            raise ArchiveError(
                f"{stream}: expected sequence {expected}, got {archived.q}: an event is "
                "missing, and the log could not be restored as it is"
            )
        expected = archived.q + 1
        writer.line(archived)
        writer.messages[stream] += 1
        if not writer.messages[stream] % REPORTED_EVERY:
            progress(stream, writer.messages[stream], total)
    if stream == subjects.EVENTS and expected != span.last + 1:
        raise ArchiveError(f"{stream}: ends at {expected - 1} instead of {span.last}")
    progress(stream, total, total)


def _archived(stream: str, message: LinkMessage) -> ArchivedMessage:
    headers = message.headers
    seq, subject = (
        int(headers[header.SEQUENCE]),
        headers.get(header.SUBJECT, message.subject),
    )
    stamp = headers.get(header.TIME_STAMP, "")
    try:
        return ArchivedMessage(stream, seq, subject, stamp, d=message.data.decode())
    except UnicodeDecodeError:
        encoded = base64.b64encode(message.data).decode()
        return ArchivedMessage(stream, seq, subject, stamp, b=encoded)


# -- restore ---------------------------------------------------------------------------


async def restore(
    link: Link, source: Path, about: ArchiveHeader, *, progress: Progress = no_progress
) -> dict[str, int]:
    """Fill empty streams from an archive that has been checked; return what was stored.

    `about` is what the check returned. For a backup a stream that does not exist yet
    is empty too; for the readable form both must exist. What an earlier call has
    restored is left as it is. Raises ArchiveError for streams that hold anything else,
    and where a message got another sequence.
    """
    if about.format == READABLE:
        return await _restore_readable(link, source, about, progress)
    return {
        stream: await _restore_stream(link, source, about, stream, progress)
        for stream in about.streams
    }


async def _restore_stream(
    link: Link, source: Path, about: ArchiveHeader, stream: str, progress: Progress
) -> int:
    """Have the broker make a stream from its snapshot; return how many messages it has."""
    backup = backup_of(source, stream)
    if not await _make_room(link, stream, backup, about.until):
        return 0
    answer = await _request(
        link,
        RestoreAnswer,
        f"$JS.API.STREAM.RESTORE.{stream}",
        # A cluster's stream comes back as one copy; provisioning makes the others.
        {"config": {**backup.config, "num_replicas": 1}, "state": backup.state},
    )
    for piece, done, of in snapshot_of(source, stream):
        await _request(link, RestoreAnswer, answer.deliver_subject, piece)
        progress(stream, done, of)
    await _request(link, RestoreAnswer, answer.deliver_subject, b"", UNPACK_S)
    state = await stream_state(link, stream)
    if state.last_seq < about.streams[stream].last:
        raise ArchiveError(f"{stream}: only {state.messages} messages came back")
    return state.messages


async def _make_room(link: Link, stream: str, backup: StreamBackup, until: str) -> bool:
    """See that there is no such stream; False where it is this backup's already.

    Times tell: of two logs none has its first message at the same nanosecond, and one
    that has gone on holds messages that are younger than the backup.
    """
    answer = await _request(link, StreamAnswer, f"$JS.API.STREAM.INFO.{stream}", b"")
    there, then = answer.state, msgspec.convert(backup.state, StreamState)
    if there is None:
        return True
    if not there.last_seq:
        await _request(link, RestoreAnswer, f"$JS.API.STREAM.DELETE.{stream}", b"")
        return True
    if (
        (there.first_seq, there.first_ts) == (then.first_seq, then.first_ts)
        and there.last_seq >= then.last_seq
        # RFC 3339 with as many digits as it takes: without the Z they sort as text.
        and there.last_ts.rstrip("Z") <= until.rstrip("Z")
    ):
        return False
    raise ArchiveError(
        f"{stream} is not empty: it holds {there.messages} messages; restore into "
        "a folder of its own with --data DIR"
    )


async def _restore_readable(
    link: Link, source: Path, about: ArchiveHeader, progress: Progress
) -> dict[str, int]:
    """Append every message anew: it gets its sequence, but the time of the restoring.

    One that was interrupted goes on where it stopped: streams that hold the beginning
    of this very archive count as empty.
    """
    stands = {stream: await _standing(link, stream, about) for stream in STREAMS}
    stored = dict.fromkeys(STREAMS, 0)
    window: deque[tuple[ArchivedMessage, asyncio.Future[LinkMessage]]] = deque()
    for archived in messages_of(source):
        span = about.streams.get(archived.s)
        if span is None or archived.s not in stands:
            continue
        if archived.q <= stands[archived.s]:
            if archived.q == stands[archived.s]:
                await _same(link, archived)
            continue
        future = link.call(archived.j, archived.data, timeout=TIMEOUT_S)
        window.append((archived, future))
        stored[archived.s] += 1
        if len(window) >= WINDOW:
            await _stored(*window.popleft())
        if not stored[archived.s] % REPORTED_EVERY:
            progress(
                archived.s, archived.q - span.first + 1, span.last - span.first + 1
            )
    while window:
        await _stored(*window.popleft())
    for stream, span in about.streams.items():
        total = span.last - span.first + 1 if span.last else 0
        progress(stream, total, total)
    return stored


async def _standing(link: Link, stream: str, about: ArchiveHeader) -> int:
    """Return the last sequence that is there already; make an empty stream begin right."""
    state = await stream_state(link, stream)
    span = about.streams.get(stream, StreamSpan(0, 0))
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
    await _request(
        link, RestoreAnswer, f"$JS.API.STREAM.PURGE.{stream}", {"seq": span.first}
    )
    return (await stream_state(link, stream)).last_seq


async def _same(link: Link, archived: ArchivedMessage) -> None:
    async for message in direct(
        link, archived.s, ALL_OF[archived.s], start=archived.q, limit=1
    ):
        stored = _archived(archived.s, message)
        if (stored.q, stored.j, stored.data) == (archived.q, archived.j, archived.data):
            return
    raise ArchiveError(
        f"{archived.s} is not empty, and what it holds is not of this archive: restore "
        "into a folder of its own with --data DIR"
    )


async def _stored(
    archived: ArchivedMessage, future: asyncio.Future[LinkMessage]
) -> None:
    ack = msgspec.json.decode((await future).data, type=PubAck)
    if ack.error is not None:
        raise ArchiveError(f"{archived.s} {archived.q}: {ack.error.description}")
    if archived.s == subjects.EVENTS and ack.seq != archived.q:
        raise ArchiveError(
            f"{archived.s}: {archived.q} became {ack.seq}: somebody else writes there"
        )
