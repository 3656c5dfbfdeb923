"""Where a task runs that was typed here: the terminal's half of the rule of folders.

The rule itself is `actors.rules.folders.typed`; here is what it has to know of this
machine: the folder, and which host this machine is.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final
from urllib.parse import urlsplit

from actors.rules.folders import Typed, typed
from cli.local.instance import is_loopback
from events.nats.link import servers_of

PLACES: Final = ("repo", "branch", "needs")
"""What names a place other than the folder one is in."""


def stand_here(
    fields: dict[str, Any], *, here: str, host: str, anywhere: bool = False
) -> str:
    """Fill in where a task runs that was typed in the folder `here`.

    `host` is the host that this machine is, "" where it is none of this fleet's. Returns
    the folder of this machine that the task is bound to, "" if it is bound to none. Raises
    Malformed for a relative folder that leads nowhere.
    """
    shell = fields.get("shell")
    cwd = (shell or fields).get("cwd") or ""
    other = fields.get("assign_to") or ""
    typed_task = Typed(
        command=shell is not None,
        cwd=cwd,
        in_checkout=bool(fields.get("repo") or fields.get("branch")),
        elsewhere=any(fields.get(place) for place in PLACES)
        or bool(other and not (cwd and other == host)),
        anywhere=anywhere,
    )
    stand = typed(typed_task, here, host)
    if stand.cwd:
        (fields if shell is None else shell)["cwd"] = stand.cwd
    if stand.host:
        fields["assign_to"] = stand.host
    return stand.cwd if stand.host else ""


def is_missing(folder: str) -> bool:
    """Whether a folder of this machine is not there; what one may not see may be there."""
    try:
        return not stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False


def is_local(url: str) -> bool:
    """Whether a broker's address is one of this machine alone."""
    return all(is_loopback(urlsplit(each).hostname or "") for each in servers_of(url))
