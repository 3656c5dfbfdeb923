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
            bounds = _Bounds(limits.clone_timeout_s, limits.clone_bytes)
            if await asyncio.to_thread(place.is_dir):
                await self._update(git, place, url, bounds, say)
            else:
                await self._clone(git, place, url, bounds, say)
        return place

    def _place(self, url: str) -> Path:
        plain = plain_repo(url)
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain.rpartition("/")[2])[:40]
        digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]
        return self._root / f"{name}-{digest}"

    async def _clone(
        self,
        git: Git,
        place: Path,
        url: str,
        bounds: _Bounds,
        say: Callable[[str], None],
    ) -> None:
        make(self._root)
        part = place.with_name(f"{place.name}.part")
        await remove(part)
        say(f"Cloning {url}")
        words = ("clone", "--progress", "--template=", "--no-recurse-submodules")
        try:
            await bounds.run(
                git, self._root, (*words, "--", url, str(part)), url, part, say
            )
            await asyncio.to_thread(os.rename, part, place)
        except OSError as wrong:
            raise WorkspaceError(f"clone of {url}", str(wrong)) from wrong
        finally:
            await remove(part)

    async def _update(
        self,
        git: Git,
        place: Path,
        url: str,
        bounds: _Bounds,
        say: Callable[[str], None],
    ) -> None:
        """Fetch what is new; what cannot be had is said, and the clone serves as it is."""
        if strange := await _strange_settings(git, place):
            say(f"Working on the clone as it is: a task has set {strange} in it")
            return
        words = ("fetch", "--progress", "--prune", "--no-recurse-submodules", "--")
        refs = "+refs/heads/*:refs/remotes/origin/*"
        try:
            await bounds.run(git, place, (*words, url, refs), url, place, say)
        except WorkspaceError as wrong:
            say(f"Working on the clone as it is: {wrong}")

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


class _Bounds:
    """How long a transfer may take, and how large its folder may become."""

    def __init__(self, timeout_s: float, size_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._size = size_bytes
        self._said = 0.0

    async def run(
        self,
        git: Git,
        folder: Path,
        words: Sequence[str],
        url: str,
        grows: Path,
        say: Callable[[str], None],
    ) -> None:
        """Run a git command that transfers; raises WorkspaceError."""
        loop = asyncio.get_running_loop()
        began = self._said = loop.time()
        last = bytearray()

        def on_stderr(data: bytes) -> None:
            last.extend(data)
            del last[:-4_000]
            if loop.time() - self._said >= SAID_EVERY_S:
                steps = list(_STEPS.finditer(last.decode("utf-8", "replace")))
                if steps:
                    self._said = loop.time()
                    say(f"{words[0]}: {steps[-1][0].strip()}"[:300])

        what = f"{words[0]} of {url}"
        async with await git.transfer(folder, words, url, on_stderr) as child:
            ending = asyncio.ensure_future(child.wait())
            try:
                while True:
                    await asyncio.wait([ending], timeout=LOOK_EVERY_S)
                    if ending.done():
                        break
                    if loop.time() - began > self._timeout_s:
                        reason = f"it took longer than {self._timeout_s:g} s"
                        raise WorkspaceError(what, f"{reason} (limits.clone_timeout_s)")
                    if await asyncio.to_thread(_size, grows) > self._size:
                        reason = f"it is larger than {self._size:,} bytes"
                        raise WorkspaceError(what, f"{reason} (limits.clone_bytes)")
            finally:
                ending.cancel()
            ended = child.exit
        if ended is None or not ended.ok:
            text = last.decode("utf-8", "replace").strip()
            raise WorkspaceError(what, text.rpartition("\n")[2][:500] or str(ended))
        if await asyncio.to_thread(_size, grows) > self._size:
            reason = f"it is larger than {self._size:,} bytes (limits.clone_bytes)"
            raise WorkspaceError(what, reason)


def _size(folder: Path) -> int:
    size = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                size += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return size
