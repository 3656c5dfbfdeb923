"""Checkouts that this host makes itself, of repositories that its operator allows.

A clone lies under `clones` in the work folder, is made beside its place and moved there
when it is whole, and is kept: the next task fetches what is new. Only the transport of the
URL itself is allowed, no redirect is followed, no hook, template, submodule or large-file
download is run. Time and size are bounded; how it goes on is said.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from actors.rules.repos import may_clone, plain_repo
from sidecar.folders import WorkspaceError, folders, make, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from events.mail import Limits
    from sidecar.git import Git

SAID_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 0.5

_USUAL: Final = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase"
    r"|precomposeunicode|symlinks)"
    r"|remote\.origin\.(url|fetch)|branch\..*\.(remote|merge|rebase)|user\.(name|email)",
    re.DOTALL,
)
_STEPS: Final = re.compile(r"(Receiving|Resolving|Updating)[^:]*: +\d+%[^\r\n]*")


class Clones:
    """The clones of a host, in `root`; `allowed` are the beginnings of their URLs."""

    def __init__(self, root: Path, allowed: Sequence[str]) -> None:
        self._root = root
        self._allowed = tuple(allowed)
        self._locks: dict[Path, asyncio.Lock] = {}

    def may(self, repo: str) -> bool:
        """Whether this host may clone it."""
        return may_clone(repo, self._allowed)

    async def checkout(
        self, git: Git, url: str, limits: Limits, say: Callable[[str], None]
    ) -> Path:
        """Return the clone of `url`, made or brought up to date; raises WorkspaceError."""
        place = self._place(url)
        async with self._locks.setdefault(place, asyncio.Lock()):
            transfer = _Transfer(git, url, limits, say)
            if await asyncio.to_thread(place.is_dir):
                await transfer.update(place)
            else:
                make(self._root)
                await transfer.clone(place)
        return place

    def _place(self, url: str) -> Path:
        plain = plain_repo(url)
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain.rpartition("/")[2])[:40]
        digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]
        return self._root / f"{name}-{digest}"

    async def tidy(self) -> None:
        """Remove what was being cloned when the sidecar ended."""
        for folder in folders(self._root):
            if folder.name.endswith(".part"):
                await remove(folder)


async def _strange_settings(git: Git, place: Path) -> str:
    """Name what a clone's configuration holds beyond what git itself writes.

    Some of it would have a fetch run programs (credential helpers, proxies) or go elsewhere.
    """
    answer = await git.run(place, ("config", "--local", "--name-only", "--list", "-z"))
    if not answer.ok:
        return "what git cannot read"
    names = [name for name in answer.stdout.split("\0") if name]
    strange = [name for name in names if not _USUAL.fullmatch(name)]
    return ", ".join(strange[:3])[:200]


class _Transfer:
    """Clones and fetches of one URL for one run, within its limits of time and size."""

    def __init__(
        self, git: Git, url: str, limits: Limits, say: Callable[[str], None]
    ) -> None:
        self._git = git
        self._url = url
        self._limits = limits
        self._say = say

    async def clone(self, place: Path) -> None:
        """Clone it beside its place, and move it there whole; raises WorkspaceError."""
        part = place.with_name(f"{place.name}.part")
        await remove(part)
        self._say(f"Cloning {self._url}")
        words = ("clone", "--progress", "--template=", "--no-recurse-submodules", "--")
        try:
            await self._run(place.parent, (*words, self._url, str(part)), part)
            await asyncio.to_thread(os.rename, part, place)
        except OSError as wrong:
            raise WorkspaceError(f"clone of {self._url}", str(wrong)) from wrong
        finally:
            await remove(part)

    async def update(self, place: Path) -> None:
        """Fetch what is new; what cannot be had is said, and the clone serves as it is."""
        if strange := await _strange_settings(self._git, place):
            self._say(f"Working on the clone as it is: a task has set {strange} in it")
            return
        words = ("fetch", "--progress", "--prune", "--no-recurse-submodules", "--")
        refs = "+refs/heads/*:refs/remotes/origin/*"
        try:
            await self._run(place, (*words, self._url, refs), place)
        except WorkspaceError as wrong:
            self._say(f"Working on the clone as it is: {wrong}")

    async def _run(self, folder: Path, words: Sequence[str], grows: Path) -> None:
        """Run a git command by which the folder `grows`; raises WorkspaceError."""
        loop = asyncio.get_running_loop()
        began = said = loop.time()
        last = bytearray()

        def on_stderr(data: bytes) -> None:
            nonlocal said
            last.extend(data)
            del last[:-4_000]
            if loop.time() - said >= SAID_EVERY_S:
                steps = list(_STEPS.finditer(last.decode("utf-8", "replace")))
                if steps:
                    said = loop.time()
                    self._say(f"{words[0]}: {steps[-1][0].strip()}"[:300])

        what = f"{words[0]} of {self._url}"
        most_s, most = self._limits.clone_timeout_s, self._limits.clone_bytes
        transfer = await self._git.transfer(folder, words, self._url, on_stderr)
        async with transfer as child:
            ending = asyncio.ensure_future(child.wait())
            try:
                is_over = False
                while not is_over:
                    await asyncio.wait([ending], timeout=LOOK_EVERY_S)
                    # What grows while it is looked at is looked at once more.
                    is_over = ending.done()
                    if not is_over and loop.time() - began > most_s:
                        reason = f"it took longer than {most_s:g} s"
                        raise WorkspaceError(what, f"{reason} (limits.clone_timeout_s)")
                    if await asyncio.to_thread(_size, grows) > most:
                        reason = f"it is larger than {most:,} bytes"
                        raise WorkspaceError(what, f"{reason} (limits.clone_bytes)")
            finally:
                ending.cancel()
            ended = child.exit
        if ended is None or not ended.ok:
            text = last.decode("utf-8", "replace").strip()
            raise WorkspaceError(what, text.rpartition("\n")[2][:500] or str(ended))


def _size(folder: Path) -> int:
    size = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                size += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return size
