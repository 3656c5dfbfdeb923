"""What came of a task in files: `diff` shows what it changed, `fetch` brings one."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.client.completing import ids
from cli.client.connection import answer_to, connected, run
from cli.client.target import on_target
from cli.commands.options import json_option
from cli.render.terminal import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    Problem,
    harmless,
    line_of,
    many,
    painted,
    print_json,
    size,
)
from events.commands import Fetched
from projections.answers import TaskAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cli.client.connection import Session
    from events import catalogue as c
    from projections.answers import TaskDetail

_BAR: Final = 40
"""Characters of the longest bar of `--stat`."""


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=ids())
@on_target
@click.option("--stat", is_flag=True, help="The files and how many lines, no patch.")
@json_option
def diff(task_id: str, *, stat: bool, as_json: bool) -> int:
    """Show what the task ID changed in its git checkout.

    \b
      agentcom diff ID                  in colours, on a terminal
      agentcom diff ID | git apply      the patch as it is, in a pipe

    ID may be shortened to its first characters, 4 at least.
    """
    task = answer_to("task", {"task_id": task_id}, TaskAnswer).task
    changes = task.result.changes if task.result is not None else None
    if changes is None:
        raise Problem(_why_none(task), EXIT_NOT_FOUND)
    if as_json:
        return print_json(changes)
    if stat or not sys.stdout.isatty():
        _raw(changes, stat=stat)
    else:
        _on_terminal(changes)
    if changes.patch_truncated and not stat:
        click.echo(
            "not all of it: the patch is cut between files, or leaves out what is too "
            "large; --stat names them",
            err=True,
        )
    return EXIT_OK


def _why_none(task: TaskDetail) -> str:
    if task.result is None:
        return f"task {task.task_id} is {task.state} and has no result yet"
    where = f" in {task.cwd}" if task.cwd else " in no folder"
    return (
        f"nothing is known of what task {task.task_id} changed: it worked{where}; "
        "changes are kept of work in a git checkout (a command's with --repo)"
    )


def _raw(changes: c.Changes, *, stat: bool) -> None:
    if stat:
        for line in stat_lines(changes):
            click.echo(line)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(changes.patch.encode(changes.patch_encoding))
    sys.stdout.buffer.flush()


def _on_terminal(changes: c.Changes) -> None:
    for line in stat_lines(changes):
        click.echo(painted(line, "dim", sys.stdout))
    in_hunk = False
    raw = changes.patch.encode(changes.patch_encoding)
    for line in raw.decode("utf-8", "replace").removesuffix("\n").split("\n"):
        if line.startswith("diff --git "):
            in_hunk = False
        in_hunk = in_hunk or line.startswith("@@")
        click.echo(painted(harmless(line), _style(line, in_hunk), sys.stdout))


def _style(line: str, in_hunk: bool) -> str:
    if not in_hunk or line.startswith("@@"):
        return "dim"
    return {"+": "good", "-": "bad"}.get(line[:1], "")


def stat_lines(changes: c.Changes) -> list[str]:
    """Name the files with their counts, as `git diff --stat` does, and the sum."""
    most = max(
        (_count(each.insertions) + _count(each.deletions) for each in changes.changed),
        default=0,
    )
    scale = min(1.0, _BAR / most) if most else 1.0
    names = [
        line_of(f"{each.was} => {each.path}" if each.was else each.path, 60)
        for each in changes.changed
    ]
    width = max(map(len, names), default=0)
    lines = []
    for name, each in zip(names, changes.changed, strict=True):
        if each.insertions is None:
            counts = "binary" if each.how != "deleted" else "binary, deleted"
        else:
            plus, minus = each.insertions, _count(each.deletions)
            bars = "+" * _bar(plus, scale) + "-" * _bar(minus, scale)
            counts = f"{plus + minus:>5} {bars}"
        lines.append(f" {name:<{width}} | {counts}")
    left = changes.files - len(changes.changed)
    if left > 0:
        lines.append(f" and {left:,} more")
    place = f", on {line_of(changes.branch)}" if changes.branch else ""
    commits = f", {len(changes.commits)} committed" if changes.commits else ""
    lines.append(
        f" {many(changes.files, 'file')} changed, "
        f"{many(changes.insertions, 'insertion')}(+), "
        f"{many(changes.deletions, 'deletion')}(-){place}{commits}"
    )
    return lines


def _count(number: int | None) -> int:
    return number or 0


def _bar(number: int, scale: float) -> int:
    return max(1, round(number * scale)) if number else 0


# -- fetch -----------------------------------------------------------------------------


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=ids())
@click.argument("path", required=False, default="")
@on_target
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Where to; - is standard output. Else under its own name, where none is there.",
)
def fetch(task_id: str, path: str, *, output: Path | None) -> int:
    """Bring the file PATH from the folder that is kept of the task ID.

    A folder is listed; without PATH the task's whole one. Kept are a task's own folder and
    the worktree of its branch, for as long as the policy's limits.keep_folders and
    limits.keep_folders_s say.
    """
    return run(_fetch(task_id, path, output))


async def _fetch(task_id: str, path: str, output: Path | None) -> int:
    async with connected("operator") as client:
        full = await client.full_id(task_id)
        first = await _piece(client, full, path, 0)
        if first.names is not None:
            for name in first.names:
                click.echo(line_of(name))
            if first.more:
                click.echo(f"and {first.more:,} more", err=True)
            return EXIT_OK
        target = output or Path(path.rstrip("/").rpartition("/")[2])
        if str(target) == "-":
            async for data in _pieces(client, full, path, first):
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return EXIT_OK
        if output is None and _is_there(target):
            raise Problem(f"{target} is there already; say where to with -o")
        try:
            part = target.with_name(f".{target.name}.part-{os.getpid()}")
            with part.open("xb") as file:
                try:
                    async for data in _pieces(client, full, path, first):
                        file.write(data)
                    os.fchmod(file.fileno(), 0o644 | first.mode)
                    os.replace(part, target)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        except OSError as wrong:
            raise Problem(f"{target} cannot be written: {wrong.strerror}") from wrong
    click.echo(f"{target}, {size(first.size)} from {first.host}", err=True)
    return EXIT_OK


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


async def _pieces(
    client: Session, task_id: str, path: str, first: Fetched
) -> AsyncIterator[bytes]:
    """Yield a file's pieces in order; raises Problem where it changes meanwhile."""
    piece, offset = first, 0
    while True:
        data = b64decode(piece.data)
        yield data
        offset += len(data)
        if offset >= first.size:
            return
        if data:
            piece = await _piece(client, task_id, path, offset)
        if not data or (piece.version, piece.names) != (first.version, None):
            raise Problem(f"{line_of(path)} changed while it was fetched; try again")


async def _piece(client: Session, task_id: str, path: str, offset: int) -> Fetched:
    body = {"task_id": task_id, "path": path, "offset": offset}
    return await client.command("host.fetch", body, Fetched)
