"""The wake command: words of a program, with places that a task fills in.

No shell reads it. The template is cut into words as a shell would cut it, once, before
any task is there; a place in a word is filled with text that stays inside this one word,
whatever it holds. The same texts are in the environment, which is where a script finds
them: in a word that is itself a script (`sh -c 'agent "${TASK_DESCRIPTION}"'`) nothing is
filled in, because there a task's text would become syntax; the shell that runs it expands
the variable, and what a shell expands it does not read again as syntax.

A task's free text is an argument only to a program that the operator declares to be plain:
one that takes its arguments for text, and `--` for the end of its options. Who hands words on
or takes code (`ssh`, `sh -c`, `env`, `xargs`) is none, and no list of those is ever whole; so
what is not declared is given names and paths, and reads the text from the task's file or from
its environment. `--` is put before the text, or the text stands in one word with its option,
so that it never is an option itself.
"""

from __future__ import annotations

import difflib
import re
import shlex
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from events.errors import AgentComError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: Final = ("TASK_ID", "TASK_FILE", "STARTED_FILE", "RESULT_FILE")
"""Places for what this host makes: an identifier, paths in its own folder."""

TEXTS: Final = ("TASK_JSON", "TASK_DESCRIPTION")
"""Places for what a stranger wrote."""

ARGUMENT_LIMIT: Final = 96 * 1024
"""Bytes that one word may have; Linux takes 128 KiB, and no more."""

_PLACE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./^~-]*")
_NEVER_PLAIN: Final = frozenset(
    [
        "sh",
        "ash",
        "bash",
        "dash",
        "ksh",
        "mksh",
        "zsh",
        "fish",
        "csh",
        "tcsh",
        "busybox",
        "env",
        "xargs",
        "find",
        "script",
        "flock",
        "sudo",
        "doas",
        "nohup",
        "setsid",
        "nice",
        "ionice",
        "timeout",
        "time",
        "stdbuf",
        "chroot",
        "unshare",
        "nsenter",
        "docker",
        "podman",
        "systemd-run",
        "expect",
        "awk",
        "gawk",
        "sed",
        "perl",
        "python",
        "python3",
        "ruby",
        "node",
        "deno",
        "bun",
        "php",
        "lua",
        "make",
        "cmd",
        "powershell",
        "pwsh",
    ]
)
"""Programs that are nobody's plain ones: a second net, after the operator's own word."""
_READ_AGAIN: Final = frozenset(
    {
        "ssh",
        "rsh",
        "mosh",
        "su",
        "runuser",
        "eval",
        "watch",
        "parallel",
        "tmux",
        "screen",
    }
)
# Options after which a program takes code: whose they are does not matter, and neither
# does what stands between them and the text.
_TAKES_CODE: Final = re.compile(
    r"-\w*[ceEsS]\w*|--(?:command|eval|exec|expr|split-string|session-command)(?:=.*)?"
)


class WakeCommandError(AgentComError):
    """A wake command that cannot be used, and why."""

    code = "wake_command"


class WakeCommand(Struct, frozen=True):
    """A template, cut into words. `filled` makes the words of a program from it."""

    words: tuple[str, ...]

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """Fill the places; every word stays one word."""

        def value(match: re.Match[str]) -> str:
            return sayable(values.get(match[1], match[0]))

        words: list[str] = []
        for word in self.words:
            if _is_text(word) and "--" not in words:
                words.append("--")
            words.append(word if _is_script(word) else _PLACE.sub(value, word))
        return words


def sayable(text: str) -> str:
    """`text` as an argument or a variable can hold it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def parse(template: str, plain_program: str | None = None) -> WakeCommand:
    """Read a template; raise WakeCommandError where it is none, or not safe.

    `plain_program` is the first word of a template whose program may be given a task's text.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise WakeCommandError(f"its quotes do not match ({error})") from error
    if not words:
        raise WakeCommandError("it is empty")
    if _PLACE.search(words[0]):
        raise WakeCommandError("its program cannot be a task's to choose")
    names = [word.rpartition("/")[2] for word in words]
    for place, word in enumerate(words):
        if _is_script(word):
            continue
        for name in _PLACE.findall(word):
            if name not in NAMES + TEXTS:
                raise WakeCommandError(_unknown(name))
            if name in TEXTS and (reader := _rereads(names, place)):
                raise WakeCommandError(
                    f"{reader} would read ${{{name}}} as commands: give it ${{TASK_ID}} "
                    "or ${TASK_FILE}, and let the agent read the task from its file"
                )
            if name in TEXTS:
                _check_text(words, place, name, plain_program)
    return WakeCommand(tuple(words))


def _check_text(
    words: list[str], place: int, name: str, plain_program: str | None
) -> None:
    """Refuse a task's text in the word at `place` where it could be more than text."""
    program = words[0]
    if plain_program is None or plain_program != program:
        declared = (
            f"which is {shown(plain_program)}" if plain_program else "which is not set"
        )
        raise WakeCommandError(
            f"${{{name}}} is text that a stranger wrote, an argument only to the program "
            f"that agent.plain_program names ({declared}), not to {shown(program)}: let it read "
            f"${{TASK_FILE}}, or {name} in its environment"
        )
    base = program.rpartition("/")[2]
    if base in _NEVER_PLAIN or base in _READ_AGAIN:
        raise WakeCommandError(
            f"{program} is no plain program, it may take ${{{name}}} for code: let it read "
            f"${{TASK_FILE}}, or {name} in its environment"
        )
    if not _is_text(words[place]):
        return
    before, after = words[1:place], words[place + 1 :]
    if "--" not in before and not all(re.match("-.*=", word) for word in before):
        raise WakeCommandError(
            f"behind {before[-1]} it cannot be told where the options end, and the text "
            f"could be one: write -- there, or {before[-1]}=${{{name}}} in one word"
        )
    if late := [word for word in after if word.startswith("-")]:
        raise WakeCommandError(
            f"{late[0]} stands behind ${{{name}}}, before which the options end: put "
            "options first"
        )


def _is_text(word: str) -> bool:
    """Whether a word begins with a task's text, so that it could begin with a dash."""
    match = _PLACE.match(word)
    return match is not None and match[1] in TEXTS and not _is_script(word)


def _is_script(word: str) -> bool:
    """Whether more than names and paths stands beside a word's places."""
    return not _PLAIN.fullmatch(_PLACE.sub("", word))


def _rereads(names: list[str], place: int) -> str:
    """Name the program before this word that reads its words as a shell does, or ""."""
    for at, name in enumerate(names[:place]):
        if name in _READ_AGAIN:
            return name
        if at and _TAKES_CODE.fullmatch(name):
            return f"{names[at - 1]} {name}"
    return ""


def _unknown(name: str) -> str:
    names = NAMES + TEXTS
    close = difflib.get_close_matches(name, names, n=1)
    meant = f", did you mean ${{{close[0]}}}?" if close else ""
    there = ", ".join(f"${{{each}}}" for each in names)
    return f"it has no place ${{{name}}}{meant} (there are: {there})"
