"""Secrets that this host gives to tasks which name them (`--secret-env NAME`).

A task's text and its variables are in the log for good; a name may be. The value comes from
the host: from a file of its own, `NAME=value` a line, or from the sidecar's variables that
the operator allows by name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from events.errors import AgentComError
from sidecar.shield import variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class SecretNotHere(AgentComError):
    """A task names a secret that this host gives to none."""

    code = "secret_not_here"

    def __init__(self, names: list[str], there: Iterable[str]) -> None:
        listed = ", ".join(sorted(there)) or "none"
        super().__init__(
            f"this host gives tasks no secret {', '.join(names)} (it has: {listed}; "
            "[secrets] in its sidecar.toml)"
        )


class SecretsFileError(AgentComError):
    """The file of secrets cannot be used, and why."""

    code = "secrets_file"

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"secrets.file {file}: {reason}")


class TaskSecrets(Struct, frozen=True):
    """Where this host's secrets for tasks are."""

    file: Path | None = None
    allow: tuple[str, ...] = ()

    def values(self) -> dict[str, str]:
        """Read all of them, as they are now; raises SecretsFileError."""
        given = variables()
        values = {name: given[name] for name in self.allow if name in given}
        return values if self.file is None else values | _read(self.file)

    def of(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return those that a task names; raises SecretNotHere, SecretsFileError."""
        wanted = list(names)
        if not wanted:
            return {}
        values = self.values()
        if missing := [name for name in wanted if name not in values]:
            raise SecretNotHere(missing, values)
        return {name: values[name] for name in wanted}


def _read(path: Path) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SecretsFileError(
                    path,
                    f"expected mode 0600, got {mode:04o}: others can read it; "
                    f"chmod 600 {path}",
                )
            return parse(file.read(), path)
    except OSError as error:
        raise SecretsFileError(path, f"it cannot be read: {error.strerror}") from error


def parse(body: bytes, path: Path) -> dict[str, str]:
    """Read `NAME=value` lines; a value is all that follows the `=`, as it stands there."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise SecretsFileError(path, "it is not UTF-8") from error
    values = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not (equals and name.isidentifier() and name.isascii()) or "\0" in value:
            # The line itself may be a secret: it is not repeated.
            raise SecretsFileError(path, f"line {number}: expected NAME=value")
        values[name] = value
    return values
