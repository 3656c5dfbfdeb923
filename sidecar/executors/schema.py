"""Holds a model's answer to a JSON schema, in a process of its own.

A schema is a stranger's program: its patterns and references may take for ever, and a
regular expression lets nothing else of a process run. So a child judges, for so long and
no longer. It reads no reference that leads out of the schema.

As a program: `{"schema", "text"}` on stdin, `{"problem"}` on stdout.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import msgspec
from msgspec import Struct

LIMIT_S: Final = 10.0
_SHOWN: Final = 300


class _Judged(Struct):
    schema: dict[str, Any]
    text: str


class _SchemaVerdict(Struct):
    problem: str = ""


async def judged(schema: dict[str, Any], text: str, *, limit_s: float = LIMIT_S) -> str:
    """Say in a sentence why an answer does not fit, within `limit_s` seconds; "" where it
    does."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "agentcom", "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    question = msgspec.json.encode(_Judged(schema, text))
    try:
        async with asyncio.timeout(limit_s):
            written, _ = await child.communicate(question)
        return msgspec.json.decode(written, type=_SchemaVerdict).problem
    except TimeoutError:
        return f"It could not be held to the schema within {limit_s:g} s."
    except msgspec.MsgspecError:
        return "It could not be held to the schema: the schema is too much."
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def problem(schema: dict[str, Any], text: str) -> str:
    """Say why a text does not fit a schema; "" where it does. May take for ever."""
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        value = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, UnicodeError) as wrong:
        return f"It is not JSON ({wrong})."
    validator = validator_for(schema)(schema, registry=Registry())
    try:
        error = best_match(validator.iter_errors(value))
    except Exception as wrong:  # noqa: BLE001 - whatever a stranger's schema makes it do
        return f"It cannot be held to the schema ({_cut(str(wrong))})."
    if error is None:
        return ""
    return f"At {error.json_path}: {_cut(error.message)}."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def main() -> None:
    """Judge what is on stdin."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=_Judged)
    verdict = _SchemaVerdict(problem(question.schema, question.text))
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
