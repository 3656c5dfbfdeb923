"""What a run changed in a git checkout: from how it was before to how it is after.

Both are git trees of the whole working folder, untracked files included, ignored ones not,
made with an index and a folder of objects of our own: nothing is written to the
repository. So what was uncommitted before is not taken for the run's work. No hook, filter,
textconv, external diff or transport of the repository's is run, and everything has a limit
of time and size.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import Struct

from events import catalogue as c
from sidecar.folders import WorkspaceError, make, put
from sidecar.output import whole_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.git import Git

PATCH_BYTES: Final = 262_144
NAMED: Final = 200
"""So many changed files, and commits, are named; the rest are counted."""
LARGE_BYTES: Final = 8 * 2**20
"""An untracked file that is larger is named and not read."""

_TIMEOUT_S: Final = 60.0
_LISTED_BYTES: Final = 4 * 2**20
_DIFF: Final = (
    "diff-tree",
    "-r",
    "-M",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
)


class Before(Struct, frozen=True):
    """A checkout as a run finds it: its top folder, its commit ("": none), its tree.

    `large` are the untracked files that were not read, with their sizes and times.
    """

    top: str
    head: str
    tree: str
    large: dict[str, tuple[int, int]] = {}


class Checkout:
    """One run's view of a checkout. What it has to remember lies in `scratch`, which
    outlives the sidecar: a run that goes on in a later incarnation began where it began.
    """

    def __init__(self, git: Git, scratch: Path) -> None:
        self._git = git
        self._scratch = scratch
        self._objects = ""

    async def begin(self, folder: Path) -> Before | None:
        """Look before the run; None where `folder` lies in no checkout."""
        user = self._git.user
        noted = self._scratch / "before.json"
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(noted.read_bytes(), type=Before)
        answer = await self._git.run(folder, ("rev-parse", "--show-toplevel"))
        if not answer.ok:
            return None
        top = answer.stdout.rstrip("\n")
        make(self._scratch, user)
        make(self._scratch / "objects", user)
        head = await self._head(Path(top))
        tree, large = await self._tree(Path(top))
        before = Before(top, head, tree, large)
        put(noted, msgspec.json.encode(before))
        return before

    async def end(self, before: Before) -> c.Changes:
        """Look after it. Raises WorkspaceError where that cannot be said in time."""
        top = Path(before.top)
        tree, large = await self._tree(top)
        trees = (before.tree, tree)
        listed = await self._out(top, (*_DIFF, "-z", "--numstat", *trees))
        how = await self._out(top, (*_DIFF, "-z", "--name-status", *trees))
        files = list(_files(listed, _letters(how)))
        files += [
            c.ChangedFile(
                path=path, how="modified" if path in before.large else "added"
            )
            for path, stamp in large.items()
            if before.large.get(path) != stamp
        ]
        words = (*_DIFF, "-p", "--binary", "--src-prefix=a/", "--dst-prefix=b/", *trees)
        diff = await self._git.run(
            top,
            words,
            env=self._env(),
            timeout_s=_TIMEOUT_S,
            keep=PATCH_BYTES + 1,
        )
        text, encoding = _as_text(diff.raw)
        # What was cut off anywhere is cut before the file that is not whole.
        whole = diff.ok and len(diff.raw) <= PATCH_BYTES
        patch = text if whole else whole_files(text, len(text) - 1)
        unread = any(before.large.get(path) != stamp for path, stamp in large.items())
        branch = await self._git.run(
            top, ("symbolic-ref", "--quiet", "--short", "HEAD")
        )
        return c.Changes(
            branch=branch.stdout.strip() if branch.ok else "",
            base=before.head,
            commits=await self._commits(top, before.head),
            files=len(files),
            insertions=sum(each.insertions or 0 for each in files),
            deletions=sum(each.deletions or 0 for each in files),
            changed=files[:NAMED],
            patch=patch,
            patch_truncated=not whole or unread,
            patch_encoding=encoding,
        )

    async def _head(self, top: Path) -> str:
        answer = await self._git.run(top, ("rev-parse", "--verify", "--quiet", "HEAD"))
        return answer.stdout.strip() if answer.ok else ""

    async def _commits(self, top: Path, base: str) -> list[str]:
        if not await self._head(top):
            return []
        since = f"{base}..HEAD" if base else "HEAD"
        words = ("rev-list", f"--max-count={NAMED}", since, "--")
        return (await self._out(top, words)).decode().split()

    async def _tree(self, top: Path) -> tuple[str, dict[str, tuple[int, int]]]:
        """Write the whole working folder as a tree; which untracked files are too large."""
        own = self._scratch / "index"
        words = ("rev-parse", "--path-format=absolute", "--git-path", "index")
        index = Path((await self._out(top, words)).decode().rstrip("\n"))
        own.unlink(missing_ok=True)
        if self._git.user is None:
            with suppress(FileNotFoundError):
                # What it knows of files need not be read again.
                shutil.copyfile(index, own)
        elif head := await self._head(top):
            # Not for us to read: a link there would lead to what its owner may not see.
            await self._out(top, ("read-tree", head))
        await self._out(top, ("add", "--update", "--", "."))
        words = ("ls-files", "--others", "--exclude-standard", "-z")
        others = await self._out(top, words)
        large: dict[str, tuple[int, int]] = {}
        small = []
        for name in others.split(b"\0"):
            if not name or name.endswith(b"/"):
                continue  # a repository inside this one
            with suppress(OSError):
                stat = os.lstat(os.path.join(os.fsencode(top), name))
                if stat.st_size > LARGE_BYTES:
                    large[_text(name)] = (stat.st_size, stat.st_mtime_ns)
                else:
                    small.append(name)
        if small:
            words = ("update-index", "--add", "-z", "--stdin")
            await self._out(top, words, stdin=b"\0".join(small) + b"\0")
        return (await self._out(top, ("write-tree",))).decode().strip(), large

    def _env(self) -> dict[str, str]:
        return {
            "GIT_INDEX_FILE": str(self._scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(self._scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": self._objects,
        }

    async def _out(
        self, top: Path, words: Sequence[str], *, stdin: bytes = b""
    ) -> bytes:
        """Run a git command over our own index and objects; its stdout, whole."""
        if not self._objects:
            path = ("rev-parse", "--path-format=absolute", "--git-path", "objects")
            answer = await self._git.run(top, path)
            self._objects = answer.stdout.rstrip("\n")
        own = {} if words[0] == "rev-parse" else self._env()
        brief = await self._git.run(
            top, words, env=own, stdin=stdin, timeout_s=_TIMEOUT_S, keep=_LISTED_BYTES
        )
        if brief.ok and len(brief.raw) < _LISTED_BYTES:
            return brief.raw
        why = brief.stderr.strip()[:500] or "it failed"
        if brief.exit is None:
            why = f"it took longer than {_TIMEOUT_S:.0f} s"
        elif brief.ok:
            why = "there are too many files"
        raise WorkspaceError(f"git {words[0]}", why)


# -- What git prints -------------------------------------------------------------------


def _letters(listed: bytes) -> dict[str, str]:
    """Read `--name-status -z`: the letter by the path it has now."""
    fields = iter(listed.split(b"\0"))
    letters = {}
    for letter in fields:
        if not letter:
            break
        path = next(fields, b"")
        if letter[:1] in (b"R", b"C"):
            path = next(fields, b"")
        letters[_text(path)] = letter[:1].decode()
    return letters


_HOW: Final = {"A": "added", "C": "added", "D": "deleted", "R": "renamed"}


def _files(listed: bytes, letters: dict[str, str]) -> Iterator[c.ChangedFile]:
    """Read `--numstat -z`."""
    fields = iter(listed.split(b"\0"))
    for field in fields:
        if not field:
            break
        added, taken, path = [*field.split(b"\t", 2), b"", b""][:3]
        was = b""
        if not path:  # renamed: both names follow
            was, path = next(fields, b""), next(fields, b"")
        name = _text(path)
        yield c.ChangedFile(
            path=name,
            how=_HOW.get(letters.get(name, "M"), "modified"),  # type: ignore[arg-type]
            insertions=int(added) if added.isdigit() else None,
            deletions=int(taken) if taken.isdigit() else None,
            was=_text(was),
        )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _as_text(patch: bytes) -> tuple[str, Literal["utf-8", "latin-1"]]:
    """Return a patch as text that gives its bytes back, and the encoding that does so."""
    try:
        return patch.decode(), "utf-8"
    except UnicodeDecodeError as wrong:
        if wrong.end == len(patch) and wrong.reason == "unexpected end of data":
            return patch[: wrong.start].decode(), "utf-8"  # cut off in a character
        return patch.decode("latin-1"), "latin-1"
