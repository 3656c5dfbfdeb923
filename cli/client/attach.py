"""Files of this machine that go with a task: read here, kept beside the log.

`--attach` names them; of a task that is answered the hinted ones go along too, because a
model that only answers sees nothing else.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors.rules.modes import resolve
from agentcom.files import media_type, pieces
from cli.render.terminal import EXIT_USAGE, Problem
from events import catalogue as c
from events.attachments import LIMIT_BYTES, digest_of
from events.commands import Attached

if TYPE_CHECKING:
    from cli.client.connection import Session

FILES: Final = "files"
"""Where `gather` leaves the bytes among a task's fields, by digest, for `bring`."""


def gather(
    fields: dict[str, Any], attached: tuple[str, ...] = (), place: str = ""
) -> None:
    """Read the files that go with a task; raises Problem naming the one that cannot.

    `place` stands before its name: the line that the task is of.
    """
    names = list(dict.fromkeys((*_hinted(fields), *attached)))
    given = {each.get("name") for each in fields.get("attachments", ())}
    files: dict[str, bytes] = {}
    listed = list(fields.get("attachments", ()))
    total = sum(each.get("size_bytes", 0) for each in listed)
    for name in names:
        if name in given:
            continue
        data = _read(name, place)
        total += len(data)
        if total > LIMIT_BYTES:
            raise Problem(
                f"{place}{name}: with it the attached files have {total:,} bytes, and "
                f"{LIMIT_BYTES:,} are the most",
                EXIT_USAGE,
            )
        if (kind := media_type(data)) is None:
            raise Problem(
                f"{place}{name}: it is neither text in UTF-8 nor a picture "
                "(png, jpeg, gif, webp)",
                EXIT_USAGE,
            )
        digest = digest_of(data)
        files[digest] = data
        listed.append(
            {
                "name": name,
                "digest": digest,
                "size_bytes": len(data),
                "media_type": kind,
            }
        )
    if files:
        fields["attachments"] = listed
        fields[FILES] = files


def _hinted(fields: dict[str, Any]) -> list[str]:
    """Name the hinted files, where the task is one to be answered."""
    try:
        known = {
            name: value
            for name, value in fields.items()
            if name in c.TaskSpec.__struct_fields__
        }
        spec = msgspec.convert(known, c.TaskSpec)
    except msgspec.ValidationError:
        return []  # the gateway says what is wrong with it
    if resolve(spec).mode != "answer":
        return []
    return [hint.path for hint in spec.file_hints]


def _read(name: str, place: str) -> bytes:
    try:
        path = Path(name)
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise Problem(f"{place}{name}: expected a file, it is none", EXIT_USAGE)
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except (OSError, ValueError) as wrong:
        reason = getattr(wrong, "strerror", None) or str(wrong)
        raise Problem(
            f"{place}{name}: it cannot be read here ({reason}); name a file of this machine: what is answered takes its "
            "files along (with --work an agent looks for them where it works)",
            EXIT_USAGE,
        ) from wrong


async def bring(client: Session, fields: dict[str, Any]) -> None:
    """Store the files that `gather` found; what is stored already is not sent again."""
    for digest, data in fields.pop(FILES, {}).items():
        stored = await client.command("task.attach", {"digest": digest}, Attached)
        if stored.size_bytes is not None:
            continue
        for body in pieces(data):
            stored = await client.command("task.attach", body, Attached)
        if stored.digest != digest:
            raise Problem("an attachment arrived otherwise than it was sent; try again")


def schema_of(argument: str | None) -> dict[str, Any] | None:
    """Read a JSON schema, or the file that holds one."""
    if argument is None:
        return None
    text: str | bytes = argument
    if not argument.lstrip().startswith("{"):
        try:
            text = Path(argument).read_bytes().removeprefix(b"\xef\xbb\xbf")
        except (OSError, ValueError) as wrong:
            raise Problem(
                f"--json-schema {argument}: expected a file or a JSON object ({wrong})",
                EXIT_USAGE,
            ) from wrong
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as wrong:
        raise Problem(
            f"--json-schema: expected a JSON object ({wrong})", EXIT_USAGE
        ) from wrong
