"""What is checked of a task beyond its types: paths, branches, text, metadata.

The types of `events.commands` say what a field may hold; here is what depends on other
fields, on the time, or on what the text is used for on a host. Everything wrong is a
Malformed with the JSON path of the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from actors.rules.asking import check_asking, check_attachments
from actors.rules.folders import check_folder
from actors.rules.later import check_later
from actors.rules.modes import check_mode
from actors.rules.steps import not_a_command
from events.codec import check_depth, encode, instant
from events.commands import older_wishes
from events.errors import Malformed, shown
from events.filters import LABEL_WORDS, LABELS_MOST, is_label
from events.traceparent import TraceParent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.rules.policy import Policy
    from events import catalogue as c

METADATA_LIMIT: Final = 64 * 1024
"""Bytes that a task's metadata may take, as JSON."""
VARIABLE_LIMIT: Final = 128 * 1024 - 1
"""Bytes that `NAME=value` may take: Linux starts no program with a longer one."""
METADATA_DEPTH: Final = 32
"""How deep metadata may be nested: every reader of the log must be able to read it."""

_NO_BRANCH: Final = re.compile(
    r"^[-/]|\.\.|//|@\{|[\x00-\x20\x7f~^:?*\[\\]|(?:^|/)\.|\.(?:/|\Z)|\.lock(?:/|\Z)|/\Z|^@\Z"
)
"""What no branch's name contains, after `git check-ref-format --branch`."""


def check(spec: c.TaskSpec, now: float) -> None:
    """Refuse what the types alone cannot: raises Malformed with the JSON path."""
    if spec.tier == "trivial" and spec.shell is None and spec.executor is None:
        raise Malformed("shell", "a command, because tier is trivial", "none")
    if spec.deadline is not None and instant(spec.deadline, "deadline") <= now:
        raise Malformed("deadline", "a time to come", spec.deadline)
    check_later(spec)
    if not spec.description.strip():
        raise Malformed("description", "some text", "white space alone")
    for path, text in _handed_on(spec):
        if "\x00" in text:
            raise Malformed(path, "text without NUL characters", "one")
    for n, step in enumerate(spec.verification_steps):
        if (why := not_a_command(step)) is not None:
            raise Malformed(
                f"verification_steps[{n}]",
                "a command (what is none is a success criterion: --criterion)",
                why,
            )
    if spec.traceparent is not None and not TraceParent.read(spec.traceparent):
        raise Malformed(
            "traceparent",
            "a W3C trace parent (00-<32 hex digits>-<16 hex digits>-<2 hex digits>)",
            shown(spec.traceparent),
        )
    if spec.repo is not None:
        _check_path("repo", spec.repo)
    if spec.cwd is not None:
        _check_path("cwd", spec.cwd)
    check_folder(spec)
    check_mode(spec)
    check_asking(spec)
    check_attachments(spec)
    if spec.branch is not None and _NO_BRANCH.search(spec.branch):
        raise Malformed("branch", "a name that git takes", shown(spec.branch))
    if spec.shell is not None:
        if spec.shell.cwd is not None:
            _check_path("shell.cwd", spec.shell.cwd)
        for name in spec.shell.secret_env:
            if name in spec.shell.env:
                raise Malformed(
                    "shell.secret_env", "names that are not in shell.env too", name
                )
        for name, value in spec.shell.env.items():
            size = len(f"{name}={value}".encode("utf-8", "surrogatepass"))
            if size > VARIABLE_LIMIT:
                raise Malformed(
                    f"shell.env.{name[:40]}",
                    f"at most {VARIABLE_LIMIT:,} bytes, its name included",
                    f"{size:,}",
                )
            if not name or "=" in name:
                raise Malformed(
                    f"shell.env.{name[:40]}", "an environment variable", shown(name, 40)
                )
    _check_metadata(spec.metadata)
    _check_labels(spec.labels)
    _check_claude(spec)


def check_limits(spec: c.TaskSpec, policy: Policy) -> None:
    """Refuse limits that contradict each other or the policy: raises Malformed."""
    if spec.timeout_s == 0 and not policy.allow_no_timeout:
        raise Malformed(
            "timeout_s",
            "a time, because the policy's allow_no_timeout is false",
            "none (0)",
        )
    if spec.timeout_s is not None and spec.shell and spec.shell.timeout_s is not None:
        raise Malformed("shell.timeout_s", "none beside timeout_s", "both")
    if spec.retries is None:
        return
    if spec.shell is None:
        raise Malformed("retries", "none, because there is no shell command", "some")
    if spec.retries >= spec.max_attempts:
        raise Malformed(
            "retries",
            f"fewer than max_attempts ({spec.max_attempts}), which counts every start "
            "of the command",
            str(spec.retries),
        )


def _handed_on(spec: c.TaskSpec) -> Iterator[tuple[str, str]]:
    """Yield what reaches programs and files as an argument, a name or a line."""
    yield "description", spec.description
    yield "system", spec.system
    for name in ("repo", "branch", "model", "cwd"):
        yield name, getattr(spec, name) or ""
    for n, hint in enumerate(spec.file_hints):
        yield f"file_hints[{n}].path", hint.path
        yield f"file_hints[{n}].reason", hint.reason
    for name in ("success_criteria", "verification_steps"):
        for n, text in enumerate(getattr(spec, name)):
            yield f"{name}[{n}]", text
    if spec.shell is not None:
        yield "shell.command", spec.shell.command
        yield "shell.cwd", spec.shell.cwd or ""
        for name, value in spec.shell.env.items():
            yield f"shell.env.{name[:40]}", name + value


def _check_path(path: str, text: str) -> None:
    """Refuse a folder that climbs out of where it is put, or reads as an option."""
    if text.startswith("-") or ".." in text.split("/") or not text.isprintable():
        raise Malformed(path, "a name without '..' that begins no option", shown(text))


def _check_claude(spec: c.TaskSpec) -> None:
    """Refuse wishes of Claude Code that nobody would read, or that are said in two places."""
    if spec.claude is not None and spec.shell is not None:
        raise Malformed("claude", "none, because a shell command runs", "wishes")
    older = spec.metadata.get("claude")
    if older is None:
        return
    if spec.claude is not None:
        raise Malformed("metadata.claude", "none beside the field claude", "both")
    try:
        older_wishes(older)
    except Malformed as wrong:
        place = f"metadata.claude.{wrong.path}" if wrong.path else "metadata.claude"
        raise Malformed(
            place,
            f"{wrong.expected}; wishes of Claude Code belong into the field claude",
            wrong.got,
        ) from wrong


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > LABELS_MOST:
        raise Malformed("labels", f"at most {LABELS_MOST}", f"{len(labels)}")
    for key, value in labels.items():
        for what, text in (("key", key), ("value", value)):
            if not is_label(text):
                raise Malformed(
                    f"labels.{key[:40]}" if key else "labels",
                    f"a {what} of {LABEL_WORDS}",
                    shown(text),
                )


def _check_metadata(metadata: dict[str, Any]) -> None:
    if not metadata:
        return
    check_depth(metadata, "metadata", METADATA_DEPTH)
    size = len(encode(metadata))
    if size > METADATA_LIMIT:
        raise Malformed("metadata", f"at most {METADATA_LIMIT} bytes", f"{size}")
