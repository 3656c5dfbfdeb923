"""`agentcom submit -f`: a file of tasks, one a line as JSON, all of them or none.

The gateway validates; its words name the field, ours the line of the file.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from cli.client.attach import bring, gather
from cli.client.connection import Refused, Session, connected, new_id, run
from cli.commands.shell_part import warn_of_secrets
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OF_STATE,
    EXIT_OK,
    EXIT_USAGE,
    Problem,
    print_json,
    progress_bar,
)
from events import catalogue as c
from events.codec import Reader
from events.commands import BatchSubmitted, NewTask, Refusal
from events.errors import Malformed

if TYPE_CHECKING:
    from pathlib import Path

    from cli.render.outcome import Outcome

MOST_AT_ONCE: Final = 1_000
_specs: Reader[c.TaskSpec] = Reader(c.TaskSpec)
_new_tasks: Reader[NewTask] = Reader(NewTask)
_fields: Reader[dict[str, Any]] = Reader(dict[str, Any])
_PLACE = re.compile(r"tasks\[(\d+)\]\.?")


def submit_file(path: Path, key: str | None, *, wait: bool, as_json: bool) -> int:
    """Submit every line of a file, or none; errors name the line."""
    lines = read_tasks(path)
    batch = key or new_id()
    shells = [fields.get("shell") or {} for _, fields in lines]
    warn_of_secrets({k: v for shell in shells for k, v in shell.get("env", {}).items()})
    for n, (_, fields) in enumerate(lines):
        fields.setdefault("idempotency_key", f"{batch[:200]}:{n}")
    ids: list[str] = []
    try:
        return run(_hand_in_file(lines, ids, wait=wait, as_json=as_json))
    except KeyboardInterrupt:
        say_detached(ids)
        return EXIT_INTERRUPTED


def read_tasks(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return (line number, fields) of a file's tasks; raise Problem naming the line."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise Problem(
            f"-f {path}: it cannot be read here ({error.strerror or error}); name a "
            "file of tasks, or - for standard input",
            EXIT_USAGE,
        ) from error
    text = text_of(raw, "stdin" if str(path) == "-" else str(path))
    tasks = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = _titled(line)
            _check(msgspec.json.encode(fields))
        except Malformed as error:
            raise Problem(
                f"{path}, line {number}: {error}; nothing was submitted"
            ) from (error)
        gather(fields, place=f"{path}, line {number}: ")
        tasks.append((number, fields))
    if not tasks:
        raise Problem(f"{path} holds no task: one JSON object a line", EXIT_USAGE)
    if len(tasks) > MOST_AT_ONCE:
        raise Problem(
            f"{path} holds {len(tasks)} tasks, {MOST_AT_ONCE} are the most at once: "
            "split it",
            EXIT_USAGE,
        )
    return tasks


def _check(raw: bytes) -> None:
    """Raise Malformed for what no gateway takes; a newer one may know more fields."""
    try:
        _specs.decode(raw)
    except Malformed:
        # It names a misspelt field before the one that is missing for it.
        _new_tasks.decode(raw)
        raise


def _titled(line: str) -> dict[str, Any]:
    """Read a line's fields; a command without a description is its own title.

    Raises Malformed.
    """
    fields = _fields.decode(line.encode())
    shell = fields.get("shell")
    if "description" not in fields and isinstance(shell, dict):
        command = shell.get("command")
        if isinstance(command, str) and command.strip():
            fields["description"] = command[: c.DESCRIPTION_LIMIT]
    return fields


async def _hand_in_file(
    lines: list[tuple[int, dict[str, Any]]],
    ids: list[str],
    *,
    wait: bool,
    as_json: bool,
) -> int:
    async with connected("operator") as client:
        for _, fields in lines:
            await bring(client, fields)
        try:
            submitted = await client.command(
                "task.batch", {"tasks": [fields for _, fields in lines]}, BatchSubmitted
            )
        except Refused as refused:
            raise _with_line(refused, lines) from refused
        ids += submitted.task_ids
        if not wait:
            if as_json:
                return print_json(submitted)
            click.echo("\n".join(submitted.task_ids))
            return EXIT_OK
        outcomes = await _outcomes(client, ids)
    if as_json:
        print_json({"tasks": outcomes})
    return max((EXIT_OF_STATE[each.state] for each in outcomes), default=EXIT_OK)


def _with_line(refused: Refused, lines: list[tuple[int, dict[str, Any]]]) -> Problem:
    """Say a refusal with the line instead of the place in the batch."""
    refusal: Refusal = refused.refusal
    place = _PLACE.match(refusal.path) or _PLACE.match(refusal.error)
    if place is None:
        return refused
    number = lines[int(place[1])][0]
    error = _PLACE.sub("", refusal.error, count=1)
    return Problem(f"line {number}: {error}; nothing was submitted", refused.exit_code)


async def _outcomes(client: Session, ids: list[str]) -> list[Outcome]:
    """Wait for all of them, showing how far they are."""
    from cli.client.follow import Crowd, outcome_by_asking
    from cli.render.display import ending

    outcomes: dict[int, Outcome] = {}
    with progress_bar("tasks") as progress:
        bar = progress.add_task("", total=len(ids))

        def note(place: int, outcome: Outcome) -> None:
            outcomes[place] = outcome
            progress.advance(bar)
            progress.console.print(f"{outcome.task_id}  {ending(outcome)}")

        if client.may_read:
            async for place, outcome in Crowd(client, ids).outcomes():
                note(place, outcome)
        else:
            for place, task_id in enumerate(ids):
                note(place, await outcome_by_asking(client, task_id))
    return [outcomes[place] for place in range(len(ids))]


def text_of(raw: bytes, source: str) -> str:
    """Read UTF-8; raises Problem naming the line that is none."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Problem(
            f"{source}, line {line}: the byte 0x{raw[error.start]:02X} is not UTF-8; "
            "nothing was submitted",
            EXIT_USAGE,
        ) from error


def say_detached(ids: list[str]) -> None:
    """Say that tasks go on without us, and how to cancel them."""
    if not ids:
        return
    several = len(ids) > 1
    named = ids[0] if not several else f"{ids[0]} … ({len(ids)} tasks)"
    click.echo(
        f"\nno longer waiting; {'they go' if several else 'the task goes'} on. "
        f"Cancel with: agentcom cancel {named}",
        err=True,
    )
