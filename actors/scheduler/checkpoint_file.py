"""A scheduler's checkpoint on disk: who writes it, when, and whether one may be used.

It is written by a forked child. A fork is the one way to have the state stand still at one
place in the log without holding up the loop: the child sees memory as it was, and the
process goes on. The child lowers its priority, closes what it inherited, and ends with its
parent. The file is made beside and renamed, so that it is whole or not there.

It is used only where all of it is as it was written, by this very code (a digest of its
source), and the log still holds the event that it stands on. Otherwise a sentence says
why not, and the log is folded whole.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import signal
import struct
import sys
import zlib
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

import actors
import events
from actors.scheduler.checkpoint import restore
from events.diagnostics import Diagnostics
from events.errors import LogUnavailable, Malformed
from events.position import LogChanged, Position, stands

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from actors.scheduler.state import SchedulerState
    from events.log import EventLog

    Written = tuple[Position, Iterable[bytes]]

EVERY: Final = 50_000
"""Events between two checkpoints, at least; a shorter log is folded in no time."""
PAUSE_S: Final = 30.0
SHARE: Final = 10
"""Seconds between two, at least; and so many times as long as the last one took."""

AGAIN_S: Final = 0.5
"""Seconds after which a log that is away is asked again."""

MAGIC: Final = b"agentcom scheduler checkpoint 1\n"
_FRAME: Final = struct.Struct(">II")
_LARGEST: Final = 1 << 30
_PR_SET_PDEATHSIG: Final = 1
_log = Diagnostics("agentcom.scheduler")


class Unusable(Exception):
    """A checkpoint cannot be used; the text says why."""


def made_by() -> str:
    """Name the code that folds: a digest of the source of the packages that it is in."""
    digest = hashlib.sha256()
    for package in (actors, events):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class CheckpointFile:
    """The checkpoint of one data folder. Several schedulers may share it.

    Times are of a monotonic clock, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._maker = ""
        # The last place in the log that is known to have been written.
        self._at = 0
        self._child = 0
        self._began = 0.0
        self._not_before = float("-inf")

    # -- reading -----------------------------------------------------------------------

    async def of(self, log: EventLog) -> tuple[Position, SchedulerState] | None:
        """Return the state and the event that it stands on, if this log holds that."""
        found = self.load()
        while found is not None:
            try:
                if await stands(log, found[0]):
                    tasks = len(found[1].tasks)
                    _log.info("begins with a checkpoint", at=found[0].seq, tasks=tasks)
                    return found
                break
            except LogUnavailable:
                await asyncio.sleep(AGAIN_S)
        if found is not None:
            _log.warning("the log is folded whole", reason=str(LogChanged(found[0])))
            self._at = 0
            self.path.unlink(missing_ok=True)
        return None

    def load(self) -> tuple[Position, SchedulerState] | None:
        """Return what is in the file, of whatever log; None where that is no use."""
        collects = gc.isenabled()
        gc.disable()  # nothing of what is made here is garbage
        try:
            with self._opened() as file:
                position = self._header(file)
                frames = _frames(file)
                state = restore(frames)
                if next(frames, None) is not None or state.position != position.seq:
                    raise Unusable(f"{self.path} is damaged")
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it holds, the log has it all
            _log.warning("the log is folded whole", reason=_reason(error))
            return None
        finally:
            if collects:
                gc.enable()
        self._at = position.seq
        return position, state

    def _opened(self) -> BinaryIO:
        file = self.path.open("rb")
        about = os.fstat(file.fileno())
        if sys.platform != "win32" and (
            about.st_uid != os.geteuid() or about.st_mode & 0o077
        ):
            file.close()
            raise Unusable(f"{self.path} is not this user's alone")
        return file

    def _header(self, file: BinaryIO) -> Position:
        if file.read(len(MAGIC)) != MAGIC:
            raise Unusable(f"{self.path} is no checkpoint of this version")
        maker, position = msgspec.msgpack.decode(_frame(file))
        if maker != self._made_by():
            raise Unusable(f"{self.path} was written by another version")
        return Position.parse(position)

    def _made_by(self) -> str:
        self._maker = self._maker or made_by()
        return self._maker

    # -- writing -----------------------------------------------------------------------

    def due(self, position: int, now: float) -> bool:
        """Whether one is to be written of the state at this place in the log."""
        if self._child or now < self._not_before or position - self._at < EVERY:
            return False
        with suppress(OSError, Unusable, Malformed), self._opened() as f:
            self._at = self._header(f).seq  # another scheduler may have written it
        if position - self._at < EVERY:
            return False
        return hasattr(os, "fork")

    def keep(self, position: int, now: float, work: Callable[[], Written]) -> None:
        """Have one written if it is time; to be called once a second or so.

        `work` is called in the child alone, and returns what it is to write.
        """
        self.poll(now)
        if self.due(position, now):
            self.begin(position, now, work)

    def begin(self, position: int, now: float, work: Callable[[], Written]) -> None:
        """Fork a child that writes what `work` returns."""
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._made_by()
        self._at, self._began = position, now
        parent = os.getpid()
        self._child = os.fork()
        if self._child:
            return
        code = 1
        try:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:
                _be_alone()
                self.write(*work())
                code = 0
        except BaseException as error:  # noqa: BLE001 - the child's edge
            _log.warning("no checkpoint is written", reason=_reason(error))
        finally:
            os._exit(code)

    def poll(self, now: float) -> None:
        """Take note of a child that has ended."""
        if not self._child:
            return
        try:
            ended, _ = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            ended = self._child
        if ended:
            self._child = 0
            self._not_before = self._began + max(PAUSE_S, SHARE * (now - self._began))

    def stop(self) -> None:
        """End a child that still writes: its parent ends."""
        if self._child:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            self._child = 0

    def write(self, position: Position, frames: Iterable[bytes]) -> None:
        """Write the file, here and now; nothing where another process does so."""
        beside = self.path.with_name(f"{self.path.name}.new")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            if sys.platform != "win32":
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
            if not os.path.samestat(os.fstat(file.fileno()), beside.stat()):
                return  # it has just been renamed
            file.truncate()
            file.write(MAGIC)
            head = msgspec.msgpack.encode((self._made_by(), str(position)))
            count = 0
            for frame in chain((head,), frames):
                file.write(_FRAME.pack(len(frame), zlib.crc32(frame)))
                file.write(frame)
                count += 1
            file.write(_FRAME.pack(0, count))
            file.flush()
            os.fsync(file.fileno())
            beside.rename(self.path)


def _be_alone() -> None:
    """Leave the parent's connections, signals and priority alone."""
    gc.disable()
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    # Ctrl-C is for the parent, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.nice(10)


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """Yield the frames behind the header; raise Unusable where one is not as written."""
    count = 1
    while frame := _frame(file, count):
        yield frame
        count += 1


def _frame(file: BinaryIO, count: int = 0) -> bytes:
    head = file.read(_FRAME.size)
    if len(head) == _FRAME.size:
        length, check = _FRAME.unpack(head)
        if not length and check == count:
            return b""
        if 0 < length <= _LARGEST:
            frame = file.read(length)
            if len(frame) == length and zlib.crc32(frame) == check:
                return frame
    raise Unusable(f"{file.name} is damaged")


def _reason(error: BaseException) -> str:
    if isinstance(error, Unusable | Malformed | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"
