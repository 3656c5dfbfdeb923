"""What a task may say, and what tasks can be chosen by, as keyword arguments."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = ["AttachmentFields", "TaskFields", "TaskFilter"]


class ShellFields(TypedDict, total=False):
    """A command for `/bin/sh -c`, with its limits and its surroundings."""

    command: str
    timeout_s: float
    env: dict[str, str]
    cwd: str
    exclusive: bool
    secret_env: list[str]


class AttachmentFields(TypedDict):
    """A file that goes with a task, as `Client.attach` returns it."""

    name: str
    digest: str
    size_bytes: int
    media_type: str


class _Inputs(TypedDict):
    inputs: list[str]


class EmbedFields(_Inputs, total=False):
    """Texts that a task's `model` turns into vectors."""

    dimensions: int


class TaskFields(TypedDict, total=False):
    """What a task may say; docs/doors.md explains each field.

    `shell` is a command, or a dictionary with `command` and its surroundings. Without a
    `description` it is the command. `idempotency_key` names the task: the same key finds
    the same task; without one, each call makes its own.
    """

    description: str
    priority: Literal["urgent", "high", "normal", "low"]
    tier: Literal["trivial", "standard", "complex"]
    shell: str | ShellFields
    repo: str
    branch: str
    cwd: str
    file_hints: list[dict[str, str]]
    success_criteria: list[str]
    verification_steps: list[str]
    needs: list[str]
    assign_to: str
    model: str
    max_attempts: int
    ttl_s: float
    deadline: str
    idempotency_key: str
    executor: Literal["agent", "noop"]
    mode: Literal["answer", "work"]
    system: str
    max_tokens: int
    temperature: float
    json_schema: dict[str, Any]
    attachments: list[AttachmentFields]
    verify_rounds: int
    metadata: dict[str, Any]
    labels: dict[str, str]
    retry_of: str
    traceparent: str
    messages: list[dict[str, Any]]
    chat: dict[str, Any]
    embed: EmbedFields
    timeout_s: float
    retries: int
    claude: dict[str, Any]
    max_budget_usd: float
    at: str
    name: str
    after: list[str]
    after_any: list[str]
    input_from: list[str]


State = Literal[
    "waiting",
    "routed",
    "accepted",
    "running",
    "returned",
    "cancelling",
    "completed",
    "failed",
    "dead",
    "cancelled",
    "expired",
]
"""Where a task stands."""


class TaskFilter(TypedDict, total=False):
    """What tasks can be chosen by; several have to be true together.

    `label` is `team=search`, or `team` with any value; `since` and `until` are RFC 3339
    instants, `2h`, `7d`, `today`, `yesterday` or a day (`2026-01-31`) of this machine's
    zone, of when it ended, or, while it is not over, of when it was submitted.
    """

    state: State | list[State]
    label: str | list[str]
    since: str
    until: str
    submitter: str
    root: str
    need: str
    error_code: str
    error: str
    tier: Literal["trivial", "standard", "complex"]
    host: str
    model: str
    repo: str
    priority: Literal["urgent", "high", "normal", "low"]
    text: str
    fallback: bool
    sort: str


def body_of(description: str, fields: TaskFields | dict[str, Any]) -> dict[str, Any]:
    """Make a task's fields: a `shell` that is a text is its command."""
    body: dict[str, Any] = {k: v for k, v in fields.items() if v is not None}
    shell = body.get("shell")
    if isinstance(shell, str):
        shell = body["shell"] = {"command": shell}
    if description:
        body["description"] = description
    elif shell is not None:
        body.setdefault("description", shell.get("command", "")[:200])
    return body
