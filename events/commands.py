"""Requests: commands, and their answers.

Commands are requests on `agentcom.cmd.<name>`; each may carry an `id` and an
`expires_at` (RFC 3339), because a request that timed out while disconnected is still
delivered after the reconnect. Unknown fields are refused. Answers are JSON: the named
struct, or a `Refusal`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from events import catalogue as c
from events.codec import convert
from events.errors import AgentComError, Malformed
from events.filters import TaskFilter
from events.traceparent import TraceParent


class Command(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What every command may carry: an id, and until when it is meant."""

    id: c.Token | None = None
    expires_at: str | None = None


ONCE: Final = frozenset(
    {
        "endpoint.add",
        "endpoint.remove",
        "schedule.add",
        "schedule.change",
        "schedule.pause",
        "schedule.remove",
        "schedule.resume",
        "schedule.run",
        "task.cancel",
        "task.reassign",
        "task.retry",
    }
)
"""Commands that are carried out once under one `id` of one requester: a late copy changes
nothing, whatever has become of what it names. Our own doors give an `id` to each."""


class NewShell(c.Shell, frozen=True, forbid_unknown_fields=True):
    """A command as a submitter may write it: a misspelled field is refused."""


class NewFileHint(c.FileHint, frozen=True, forbid_unknown_fields=True):
    """A file hint as a submitter may write it."""


class NewClaudeWishes(c.ClaudeWishes, frozen=True, forbid_unknown_fields=True):
    """Wishes of Claude Code as a submitter may write them."""


class _OlderWishes(Struct, frozen=True, forbid_unknown_fields=True):
    """What `metadata.claude` could say before the field `claude` was there."""

    permission_mode: c.PermissionMode | None = None
    allowed_tools: list[str] | None = None
    disallowed_tools: list[str] = []
    max_turns: int | None = None


def older_wishes(metadata: Any) -> c.ClaudeWishes:
    """Read `metadata.claude`; raises Malformed with the path in it."""
    older = convert(metadata, _OlderWishes)
    return c.ClaudeWishes(
        permission_mode=older.permission_mode,
        allowed_tools=older.allowed_tools,
        disallowed_tools=older.disallowed_tools,
        max_turns=older.max_turns,
    )


class NewAttachment(c.Attachment, frozen=True, forbid_unknown_fields=True):
    """An attachment as a submitter may write it."""


class NewChatMessage(c.ChatMessage, frozen=True, forbid_unknown_fields=True):
    """A message of a chat as a submitter may write it."""


class NewChatWishes(c.ChatWishes, frozen=True, forbid_unknown_fields=True):
    """Wishes of a chat as a submitter may write them."""


class NewEmbedWishes(c.EmbedWishes, frozen=True, forbid_unknown_fields=True):
    """Texts to be turned into vectors as a submitter may write them."""


class NewTask(c.TaskSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task as a submitter may write it."""

    shell: NewShell | None = None
    claude: NewClaudeWishes | None = None
    file_hints: Annotated[list[NewFileHint], Meta(max_length=1_000)] = field(  # type: ignore[assignment]
        default_factory=list
    )
    attachments: Annotated[list[NewAttachment], Meta(max_length=100)] = field(  # type: ignore[assignment]
        default_factory=list
    )
    messages: Annotated[list[NewChatMessage], Meta(max_length=5_000)] = field(  # type: ignore[assignment]
        default_factory=list
    )
    chat: NewChatWishes | None = None
    embed: NewEmbedWishes | None = None


class Attach(Command, frozen=True, kw_only=True):
    """`task.attach`: keep a file that tasks may name, or ask for one by `digest` alone.

    `data` is base64 of at most 393,216 bytes. A longer file comes in pieces under one
    `upload`, a name of the sender's own, one after the other; `last` marks its last.
    """

    data: Annotated[str, Meta(max_length=600_000)] = ""
    upload: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9_-]{1,36}\Z",
                description="1 to 36 letters, digits, '_' or '-'",
            ),
        ]
        | None
    ) = None
    last: bool = True
    digest: Annotated[
        str,
        Meta(
            pattern=r"^([0-9a-f]{64})?\Z",
            description="a SHA-256: 64 digits of 0-9 and a-f",
        ),
    ] = ""


class Submit(NewTask, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`task.submit`: a task's fields, flat, with the command's own two."""

    id: c.Token | None = None
    expires_at: str | None = None


class SubmitBatch(Command, frozen=True, kw_only=True):
    """`task.batch`: all of them or none."""

    tasks: Annotated[list[NewTask], Meta(min_length=1, max_length=1_000)]


def under_trace(command: Any, traceparent: str) -> Any:
    """Return a submission whose tasks belong under the span of a `traceparent` header.

    By the standard a header that cannot be read counts for nothing; a task's own
    `traceparent` goes before it. Other commands come back as they are.
    """
    if not traceparent or not isinstance(command, Submit | SubmitBatch):
        return command
    if TraceParent.read(traceparent) is None:
        return command
    if isinstance(command, SubmitBatch):
        under = [_under(task, traceparent) for task in command.tasks]
        return replace(command, tasks=under)
    return _under(command, traceparent)


def _under(task: NewTask, traceparent: str) -> NewTask:
    return task if task.traceparent else replace(task, traceparent=traceparent)


class CancelTask(Command, frozen=True, kw_only=True):
    """`task.cancel`."""

    task_id: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class RetryTask(Command, frozen=True, kw_only=True):
    """`task.retry`: try a final task anew."""

    task_id: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class ReassignTask(Command, frozen=True, kw_only=True):
    """`task.reassign`: take the task where it is and give it to another host."""

    task_id: c.Token
    host: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class Bulk(Command, frozen=True, kw_only=True):
    """`task.bulk`: the same for many tasks, by a filter or by their ids.

    A filter without a state means those that the action is for: what is not over
    (cancel, reassign), what has failed, is dead or has expired (retry). `dry_run` counts
    and changes nothing. Sent again with the same `id` it goes on where it stopped.
    """

    action: Literal["cancel", "retry", "reassign"]
    filter: TaskFilter | None = None
    ids: Annotated[list[c.Token], Meta(max_length=10_000)] = []
    host: c.Token | None = None
    reason: Annotated[str, Meta(max_length=1_000)] = ""
    dry_run: bool = False


class Classify(Submit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`task.classify` and `task.route`: what would happen, without submitting."""


class DrainHost(Command, frozen=True, kw_only=True):
    """`host.drain`: finish what runs, take nothing new."""

    host: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class ResumeHost(Command, frozen=True, kw_only=True):
    """`host.resume`."""

    host: c.Token


class ForgetHost(Command, frozen=True, kw_only=True):
    """`host.forget`: strike a host that is gone from the lists."""

    host: c.Token


class FetchFile(Command, frozen=True, kw_only=True):
    """`host.fetch`: a piece of a file that is kept of a task, or the names in a folder.

    `path` leads from the task's folder, "" is that itself.
    """

    task_id: c.Token
    path: Annotated[str, Meta(max_length=4_096)] = ""
    offset: Annotated[int, Meta(ge=0, le=2**40)] = 0


class AddEndpoint(Command, frozen=True, kw_only=True):
    """`endpoint.add`: a shared model server that hosts may call."""

    endpoint: c.Token
    kind: Literal["ollama", "openai"]
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s]+\Z",
            max_length=1_000,
            description="an address that starts with http:// or https://",
        ),
    ]
    slots: Annotated[int, Meta(ge=1, le=10_000)] = 1


class RemoveEndpoint(Command, frozen=True, kw_only=True):
    """`endpoint.remove`."""

    endpoint: c.Token


class AcknowledgeAlert(Command, frozen=True, kw_only=True):
    """`alert.acknowledge`."""

    tier: c.Tier


class ClearLimit(Command, frozen=True, kw_only=True):
    """`tier.clear_limit`: use the account behind a tier again, whatever was said of it."""

    tier: c.Tier
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class SetPolicy(Command, frozen=True, kw_only=True):
    """`policy.set` and `policy.validate`: `based_on` is the version it was made from."""

    policy: dict[str, Any]
    based_on: int | None = None


class AddSchedule(Command, frozen=True, kw_only=True):
    """`schedule.add`: submit a task at each time that a cron expression names in a zone.

    `cron` has five fields, or six with seconds first. The task may name no time, no
    deadline, no other task and no idempotency key. The same again changes nothing; with
    an `id` also after the schedule was removed.
    """

    schedule: c.Token
    cron: Annotated[str, Meta(min_length=1, max_length=250)]
    tz: Annotated[str, Meta(min_length=1, max_length=100)] = "UTC"
    task: NewTask
    missed: c.Missed = "one"
    overlap: c.Overlap = "queue"


class ChangeSchedule(Command, frozen=True, kw_only=True):
    """`schedule.change`: go by another rule from now on; what is not named stays as it is.

    A `task` takes the place of the whole one before. A paused schedule stays paused.
    """

    schedule: c.Token
    cron: Annotated[str, Meta(min_length=1, max_length=250)] | None = None
    tz: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    task: NewTask | None = None
    missed: c.Missed | None = None
    overlap: c.Overlap | None = None


class PauseSchedule(Command, frozen=True, kw_only=True):
    """`schedule.pause`: fire no more until it is resumed."""

    schedule: c.Token
    reason: Annotated[str, Meta(max_length=1_000)] = ""


class ResumeSchedule(Command, frozen=True, kw_only=True):
    """`schedule.resume`."""

    schedule: c.Token


class RemoveSchedule(Command, frozen=True, kw_only=True):
    """`schedule.remove`: what it has submitted stays."""

    schedule: c.Token


class RunSchedule(Command, frozen=True, kw_only=True):
    """`schedule.run`: submit its task now, beside what is planned, paused or not."""

    schedule: c.Token


# -- Answers ---------------------------------------------------------------------------
#
# Every field is encoded, defaults too: whoever reads them may know nothing of defaults.


STATUS: Final = {
    "malformed": 400,
    "bad_token": 400,
    "unknown_subject": 400,
    "unauthorized": 401,
    "denied": 403,
    "forbidden": 403,
    "model_not_found": 404,
    "not_found": 404,
    "unknown_command": 404,
    "unknown_query": 404,
    "unreachable": 404,
    "expired": 408,
    "ambiguous": 409,
    "conflict": 409,
    "not_retriable": 409,
    "refused": 409,
    "too_late": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "busy": 429,
    "error": 500,
    "fault": 500,
    "internal": 500,
    "not_served": 501,
    "bad_gateway": 502,
    "behind": 503,
    "log_error": 503,
    "log_unavailable": 503,
    "unavailable": 503,
}
"""Every code of a refusal and its HTTP status, which NATS's error header carries too.

`unreachable`: a host that was named does not answer. `unavailable`: a role that should
answer is not there."""


class Refusal(Struct, frozen=True, kw_only=True):
    """A command or question that was not carried out, and why. Nothing was stored.

    `code` is a stable word (`malformed`, `conflict`, `not_found`, `expired`, ...), `error`
    a sentence for people, `path` the JSON path of the value that is wrong, `expected` and
    `got` what should have stood there and what did, "" where that is not what is wrong;
    `status` is the HTTP status that goes with the code.
    """

    ok: Literal[False] = False
    code: str
    error: str
    path: str = ""
    expected: str = ""
    got: str = ""
    status: int


def refuse(code: str, error: str, path: str = "") -> Refusal:
    """Make the refusal of a code in `STATUS`; another code is a KeyError."""
    return Refusal(code=code, error=error, path=path, status=STATUS[code])


def no_task(task_id: str, path: str = "") -> Refusal:
    """Refuse what is about a task that is not there."""
    return refuse(
        "not_found",
        f"there is no task {task_id}; `agentcom tasks` and GET /api/v1/tasks list them",
        path,
    )


def refusal_of(error: AgentComError) -> Refusal:
    """Make the refusal that an error amounts to; 500 where its code is not for clients."""
    return Refusal(
        code=error.code,
        error=str(error),
        path=error.path if isinstance(error, Malformed) else "",
        expected=error.expected if isinstance(error, Malformed) else "",
        got=error.got if isinstance(error, Malformed) else "",
        status=STATUS.get(error.code, STATUS["error"]),
    )


class Submitted(Struct, frozen=True, kw_only=True):
    """The task's id; `existing` where the same submission had come before.

    `max_budget_usd` is what it may spend: of a task's own task its part of that one's budget.
    """

    ok: Literal[True] = True
    task_id: str
    seq: int
    effective_tier: c.Tier
    existing: bool = False
    warnings: list[str] = []
    mode: c.Mode | None = None
    mode_reason: str = ""
    max_budget_usd: float | None = None


class Attached(Struct, frozen=True, kw_only=True):
    """What is kept under which digest: "" until the last piece has come. `size_bytes` is
    None where nothing is stored under the digest that was asked for."""

    ok: Literal[True] = True
    digest: str
    size_bytes: int | None
    existing: bool = False


class BatchSubmitted(Struct, frozen=True, kw_only=True):
    """The tasks' ids, in the order given; `seq` is that of the last one's submission."""

    ok: Literal[True] = True
    task_ids: list[str]
    seq: int = 0
    existing: bool = False
    warnings: list[str] = []


class Done(Struct, frozen=True, kw_only=True):
    """The command was carried out; `seq` is its event, 0 where nothing had to be done.

    `state` is where a task stands after it, `event` the event's name, "" where nothing had
    to be done. `phase` is the older name of `state`, kept for one release.
    """

    ok: Literal[True] = True
    seq: int = 0
    task_id: str = ""
    state: str = ""
    event: str = ""
    phase: str = ""
    detail: str = ""


class BulkProgress(Struct, frozen=True, kw_only=True):
    """How far a command for many tasks is: counts from its start on.

    `matched` were meant; `done` were changed, `unchanged` stood so already, `refused`
    could not be. `outcomes` says how many stand where, or were refused by which code.
    `finished` false: send the same command with the same `id` again. `ids` are the first
    that a dry run would change.
    """

    ok: Literal[True] = True
    bulk_id: str
    action: str
    dry_run: bool
    finished: bool
    matched: int
    done: int = 0
    unchanged: int = 0
    refused: int = 0
    outcomes: dict[str, int] = {}
    ids: list[str] = []
    seq: int = 0


class Fetched(Struct, frozen=True, kw_only=True):
    """What `host.fetch` answers.

    `data` is a piece of a file of `size` bytes from the offset, in base64; `version`
    changes where the file does. `names` is what a folder holds, None of a file; `more`
    counts the names left out.
    """

    ok: Literal[True] = True
    host: str
    data: str = ""
    size: int = 0
    mode: int = 0
    version: str = ""
    names: list[str] | None = None
    more: int = 0


class Classified(Struct, frozen=True, kw_only=True):
    """What `classify` answers."""

    ok: Literal[True] = True
    classification: c.Classification
    warnings: list[str] = []
    mode: c.Mode | None = None
    mode_reason: str = ""


class WouldRoute(Struct, frozen=True, kw_only=True):
    """What `route` answers: the decision as it would be now, or why there is none."""

    ok: Literal[True] = True
    classification: c.Classification
    decision: c.TaskRouted | None = None
    waiting_for: str = ""
