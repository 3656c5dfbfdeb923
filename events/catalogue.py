"""The catalogue: every kind of event that the log can hold.

Each event is a flat JSON object, one struct of one tagged union:
`{"type": "task.routed.v1", "id", "at", "by", ...}`. The class may be renamed; a stored
tag never, and never changes its meaning: what is said differently gets the next version
and an upcaster in `events.codec`. Fields at their default are left out on the wire.

Units: `at` and other instants are RFC 3339 in UTC with microseconds; `_s` seconds,
`_ms` milliseconds, `_us` microseconds, `_usd` US dollars; bytes unless a name says more.

An `Event` is what is to be written; a `Recorded` is what the log says was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

Tier = Literal["trivial", "standard", "complex"]
ExplicitTier = Literal["trivial", "standard", "complex", "unknown"]
Priority = Literal["urgent", "high", "normal", "low"]
TargetType = Literal["sidecar", "ollama", "openai", "claude", "agent", "noop"]
EndpointKind = Literal["ollama", "openai", "claude"]
CostTier = Literal["free", "local", "api"]
Mode = Literal["answer", "work"]
"""One chat completion, or an agent with tools in a folder."""
FallbackCode = Literal["absent", "down", "failed", "unmet", "verification"]
"""Why a task left its preferred tier, for programs; `fallback_reason` is for people.

`absent`: the tier is not set up. `down`: nothing in it could run anything. `failed`: all
of its places had failed on this task. `unmet`: none of its places met the task's needs.
`verification`: what the tier did was done, and did not pass the task's verification.
"""
ExclusionCode = Literal["failed", "suspect"]
"""Why a task may not have a place that others may, for programs.

`failed`: it failed there before, or was given back. `suspect`: it lost runs with their
hosts, and another such task runs on that host; no two do.
"""
TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"
TOKEN_WORDS = "1 to 64 letters, digits, '_' or '-'"
Token = Annotated[str, Meta(pattern=TOKEN_PATTERN, description=TOKEN_WORDS)]
"""What may become part of a subject, see `events.ids`."""

Digest = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{64}\Z", description="a SHA-256: 64 digits of 0-9 and a-f"),
]
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What a database column and another language's integer can hold.

A host may write any number about itself, and no reader may fail on it.
"""

TOKENS_MOST = 10**12
USD_MOST = 1e6
Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MOST)]
Usd = Annotated[float, Meta(ge=-USD_MOST, le=USD_MOST)]
Milliseconds = Annotated[float, Meta(ge=-1e12, le=1e12)]
DESCRIPTION_LIMIT = 200_000
"""Characters of a description, which is a prompt."""
MAX_ATTEMPTS = 3
"""So often a task is started at most that does not say how often."""
Text = Annotated[str, Meta(max_length=10_000)]
Line = Annotated[str, Meta(max_length=1_000)]


# -- What a task is --------------------------------------------------------------------


class Shell(Struct, frozen=True, omit_defaults=True):
    """A command for `/bin/sh -c`, with its limits and its surroundings.

    `timeout_s` is the task's own under its older name; None: the policy's. `secret_env`
    names variables whose values the host has; those are in no event.
    """

    command: Annotated[str, Meta(min_length=1, max_length=100_000)]
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    env: dict[str, str] = {}
    cwd: Line | None = None
    exclusive: bool = False
    secret_env: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
                    description="a variable's name: letters, digits and '_', no digit first",
                ),
            ]
        ],
        Meta(max_length=64),
    ] = []


class FileHint(Struct, frozen=True, omit_defaults=True):
    """A file worth looking at, and why."""

    path: Annotated[str, Meta(min_length=1, max_length=4_096)]
    reason: Line = ""


PermissionMode = Literal[
    "plan", "dontAsk", "default", "acceptEdits", "bypassPermissions"
]
"""What Claude Code may do without asking, from little to everything."""

Tool = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1_000,
        pattern=r"^[^-\s][^\x00\n]*\Z",
        description="a tool's name on one line, which does not begin with '-' or a blank",
    ),
]
"""A tool's name as Claude Code writes it, `Bash(git log:*)` style."""


class ClaudeWishes(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a task wants of Claude Code. It may ask for less than a host allows, not more.

    `allowed_tools` need no asking, `disallowed_tools` are not there; None: the host's.
    `mcp_servers` are names from the host's list.
    """

    permission_mode: PermissionMode | None = None
    allowed_tools: Annotated[list[Tool], Meta(max_length=256)] | None = None
    disallowed_tools: Annotated[list[Tool], Meta(max_length=256)] = []
    max_turns: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    append_system_prompt: Text = ""
    mcp_servers: Annotated[list[Token], Meta(max_length=64)] = []


class Attachment(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A file that goes with a task, kept beside the log under the SHA-256 of its bytes.

    `name` is what its submitter calls it: it is shown, and never opened.
    """

    name: Annotated[str, Meta(min_length=1, max_length=4_096)]
    digest: Digest
    size_bytes: Annotated[int, Meta(ge=0, le=1_048_576)]
    media_type: Annotated[str, Meta(max_length=100)] = "text/plain"


class CalledFunction(Struct, frozen=True):
    """A function that a model calls; `arguments` are JSON in a text, as it wrote them."""

    name: Annotated[str, Meta(max_length=250)]
    arguments: str = ""


class CalledTool(Struct, frozen=True, kw_only=True):
    """A call of a tool in a chat, in the shape of OpenAI's interface."""

    id: Annotated[str, Meta(max_length=250)]
    type: Literal["function"] = "function"
    function: CalledFunction


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """A part of a chat message that is text."""

    text: str


class PicturePart(Struct, frozen=True, tag_field="type", tag="picture"):
    """A part of a chat message that a model has to see: one of the task's attachments."""

    digest: Digest


class ChatMessage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one side of a chat said, in the shape of OpenAI's interface.

    `tool_calls` are the assistant's; the message of role `tool` that answers one names
    it in `tool_call_id`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | PicturePart] = ""
    name: Annotated[str, Meta(max_length=250)] = ""
    tool_calls: Annotated[list[CalledTool], Meta(max_length=256)] = []
    tool_call_id: Annotated[str, Meta(max_length=250)] = ""


class ChatWishes(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a chat wants of its model server, under OpenAI's names.

    `tools` and a `tool_choice` that is an object are handed on as they are.
    """

    tools: Annotated[list[dict[str, Any]], Meta(max_length=256)] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    seed: Annotated[int, Meta(ge=-(2**53), le=2**53)] | None = None
    stop: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=1_000)]], Meta(max_length=16)
    ] = []
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    reasoning_effort: Annotated[str, Meta(max_length=32)] | None = None


class EmbedWishes(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Texts to be turned into vectors, one each, of `dimensions` numbers where that is said."""

    inputs: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200_000)]],
        Meta(min_length=1, max_length=2_048),
    ]
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None


class TaskSpec(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a submitter asks for.

    As stored and mailed it is read leniently: an older reader passes over a field that a
    newer gateway knew. What a submitter may write is `events.commands.NewTask`.
    `timeout_s` bounds one run of any kind, 0 means no limit; `retries` is how often a
    command is started again because of its exit code. None: the policy's.
    `max_budget_usd` is what Claude Code may spend on the task, over all its attempts.
    `labels` are what tasks are chosen and costs are summed by. `retry_of` is the task that
    this one does again, with other words or options. `at` is the instant (RFC 3339) before
    which it is not to start. It comes after other tasks: those of `after` and `input_from`
    have to complete, those of `after_any` to be over, however they end; the output of those
    of `input_from` goes into its prompt. They are ids, or within a batch the `name` that
    another of its tasks has there. `traceparent` (W3C Trace Context)
    names the span of the submitter's own that the task's trace belongs under.

    Of an answer alone: `system` is the system's message, `max_tokens` the most that it may
    be long (None: the policy's), `json_schema` what it must fit as JSON. A *chat* is an
    answer to `messages`, and its `description` a title; `chat` is what it wants besides.
    `embed` are texts that its `model` turns into vectors.
    """

    description: Annotated[str, Meta(min_length=1, max_length=DESCRIPTION_LIMIT)]
    priority: Priority = "normal"
    tier: ExplicitTier | None = None
    shell: Shell | None = None
    repo: Annotated[str, Meta(min_length=1, max_length=1_000)] | None = None
    branch: Annotated[str, Meta(min_length=1, max_length=250)] | None = None
    cwd: Line | None = None
    file_hints: Annotated[list[FileHint], Meta(max_length=1_000)] = []
    success_criteria: Annotated[list[Text], Meta(max_length=1_000)] = []
    verification_steps: Annotated[list[Text], Meta(max_length=1_000)] = []
    needs: Annotated[list[Token], Meta(max_length=64)] = []
    assign_to: Token | None = None
    model: Annotated[str, Meta(min_length=1, max_length=250)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = MAX_ATTEMPTS
    ttl_s: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    deadline: str | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=250)] | None = None
    executor: Literal["agent", "noop"] | None = None
    mode: Mode | None = None
    system: Annotated[str, Meta(max_length=50_000)] = ""
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    json_schema: dict[str, Any] | None = None
    attachments: Annotated[list[Attachment], Meta(max_length=100)] = []
    verify_rounds: Annotated[int, Meta(ge=1, le=20)] | None = None
    metadata: dict[str, Any] = {}
    labels: dict[str, str] = {}
    retry_of: Token | None = None
    traceparent: Annotated[str, Meta(max_length=250)] | None = None
    timeout_s: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    retries: Annotated[int, Meta(ge=0, le=99)] | None = None
    claude: ClaudeWishes | None = None
    max_budget_usd: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    messages: Annotated[list[ChatMessage], Meta(max_length=5_000)] = []
    chat: ChatWishes | None = None
    embed: EmbedWishes | None = None
    at: str | None = None
    name: Token | None = None
    after: Annotated[list[Token], Meta(max_length=1_000)] = []
    after_any: Annotated[list[Token], Meta(max_length=1_000)] = []
    input_from: Annotated[list[Token], Meta(max_length=16)] = []


def predecessors(spec: TaskSpec) -> list[str]:
    """Name the tasks that a task comes after, each once."""
    return list(dict.fromkeys((*spec.after, *spec.input_from, *spec.after_any)))


def chat_options(spec: TaskSpec) -> list[str]:
    """Name the options of a task that a chat with a model server alone honours."""
    options = ["system"] if spec.system else []
    if spec.max_tokens is not None:
        options.append("max_tokens")
    if spec.temperature is not None:
        options.append("temperature")
    if spec.json_schema is not None:
        options.append("json_schema")
    if spec.chat is not None:
        options += [f"chat.{name}" for name in wishes_of(spec)]
    if spec.attachments and any(map(is_picture, spec.attachments)):
        options.append("attachments")
    if spec.embed is not None:
        options.append("embed")
    return options


def wishes_of(spec: TaskSpec) -> dict[str, Any]:
    """Return what a chat wants besides its messages, by name."""
    chat = spec.chat
    if chat is None:
        return {}
    named = ((name, getattr(chat, name)) for name in chat.__struct_fields__)
    return {name: value for name, value in named if value not in (None, [])}


def is_picture(attachment: Attachment) -> bool:
    """Whether a model has to see it; all else is text."""
    return attachment.media_type.startswith("image/")


class Inferred(Struct, frozen=True):
    """What the wording alone suggests."""

    tier: ExplicitTier
    confidence: float
    signals: list[str]


class Classification(Struct, frozen=True):
    """Which tier a task belongs to, and who said so."""

    effective_tier: Tier
    explicit_tier: ExplicitTier | None
    source: Literal["explicit", "inferred"]
    inferred: Inferred
    reason: str


# -- What a run yields -----------------------------------------------------------------


class RunError(Struct, frozen=True):
    """Why a run failed: a stable word and a sentence."""

    code: str
    message: str


class ChangedFile(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A file that differs; None among the counts is a file without lines (binary).

    `was` is its name before, where it was renamed.
    """

    path: str
    how: Literal["added", "modified", "deleted", "renamed"] = "modified"
    insertions: Int | None = None
    deletions: Int | None = None
    was: str = ""


class Changes(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a run changed in its git checkout, from when it began to when it ended.

    Untracked files count, ignored ones do not. `base` is the commit it began at, `commits`
    those it made, the newest first; `branch` is "" on no branch. `changed` and `commits`
    name the first of many, `files` counts all. `patch` is what `git apply` takes, whole
    files only: `patch_truncated` says that some are not in it. Its bytes are the text in
    `patch_encoding`.
    """

    branch: str = ""
    base: str = ""
    commits: list[str] = []
    files: Int = 0
    insertions: Int = 0
    deletions: Int = 0
    changed: list[ChangedFile] = []
    patch: str = ""
    patch_truncated: bool = False
    patch_encoding: Literal["utf-8", "latin-1"] = "utf-8"


class Result(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every executor gives back, in one shape.

    `output` and `stderr` hold at most head and tail of what was written (`*_bytes` counts
    all of it, `output_sha256` is over all of stdout or text). `tokens_in` excludes the
    cache reads and writes, which stand beside it; None means unknown, which is not 0.
    `truncated`: the event does not hold all of the text. `length_limited`: the model was
    cut off at a limit of tokens, so that the text may stop in the middle. `cwd` is the
    folder it worked in, "" where it needed none; `changes` what it changed in a checkout.
    `tool_calls` are those with which a chat's answer ends. `verified`: whether its
    verification steps passed, None where it has none or none were run. Tokens and dollars
    are those of all its rounds together.
    """

    status: Literal["success", "failed"]
    output: str = ""
    stderr: str = ""
    error: RunError | None = None
    model_used: str = "none"
    tokens_in: Tokens | None = 0
    tokens_out: Tokens | None = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    estimated_cost_usd: Usd | None = 0.0
    equivalent_claude_cost_usd: Usd | None = None
    equivalent_model: str | None = None
    cost_basis: str = "none"
    price_list: str | None = None
    execution_ms: Milliseconds = 0.0
    exit_code: Int | None = None
    signal: str | None = None
    output_bytes: Int = 0
    stderr_bytes: Int = 0
    output_sha256: str | None = None
    truncated: bool = False
    length_limited: bool = False
    session_id: str | None = None
    simulated: bool = False
    cwd: str = ""
    changes: Changes | None = None
    verified: bool | None = None
    tool_calls: list[CalledTool] = []


# -- How a decision was reached --------------------------------------------------------


class Factors(Struct, frozen=True):
    """The factors whose product is a candidate's score."""

    load: float
    capacity: float
    vram: float
    warm: float
    affinity: float
    slots: float


class Candidate(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One place a task could have gone: the raw inputs, the factors, the score.

    None among the raw inputs means unknown at that moment.
    """

    host: str
    endpoint: str = ""
    model: str = ""
    cpu: float | None = None
    ram_bytes: Int | None = None
    vram_total_bytes: Int | None = None
    vram_free_bytes: Int | None = None
    loaded: bool = False
    has_repo: bool = False
    slots_free: Int
    slots_total: Int
    in_flight: Int = 0
    factors: Factors
    score: float


class Excluded(Struct, frozen=True, omit_defaults=True):
    """One place a task could not go, and why not.

    `code` is there where the cause is the task, and not how the place is.
    """

    name: str
    reason: str
    code: ExclusionCode | None = None


class Wait(Struct, frozen=True, omit_defaults=True):
    """A wait for the preferred tier: since when, how long, how it ended."""

    tier: Tier
    since: str
    waited_s: float
    outcome: Literal["avoided", "taken"]


# -- Events ----------------------------------------------------------------------------


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """What every event carries: its id, when it was made, and which actor made it."""

    id: str
    at: str
    by: str


class TaskEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What was decided about a task, by gateway or scheduler."""

    task_id: str
    epoch: Int = 0


class TaskSubmitted(TaskEvent, frozen=True, kw_only=True, tag="task.submitted.v1"):
    """A task exists from here on.

    `mode` is None where it has none (`mode_reason` says why), or where it was submitted
    before there were modes (`mode_reason` is ""). `prompt_tokens_estimate` guesses the
    prompt's length, 0 where no model is asked.

    Of a child task: `parent` is the task whose run, on the route `parent_route`, submitted
    it, `root` the first of them all, `depth` how many are above it; no fallback leads above
    the tier `tier_limit`. Else they are at their defaults. `schedule` submitted it for the
    time `planned`; both are "" where somebody did.
    """

    spec: TaskSpec
    classification: Classification
    submitter: str = ""
    body_digest: str = ""
    warnings: list[str] = []
    command_id: str | None = None
    mode: Mode | None = None
    mode_reason: str = ""
    prompt_tokens_estimate: Int = 0
    parent: str = ""
    parent_route: str = ""
    root: str = ""
    depth: Int = 0
    tier_limit: Tier | None = None
    schedule: str = ""
    planned: str = ""


class TaskReleased(TaskEvent, frozen=True, kw_only=True, tag="task.released.v1"):
    """What the task was held for has come: from here on it stands in the queue and ages.

    `reason` says in words what came last, its time or what it comes after. `inputs` says of
    each task whose output goes into the prompt where in the log that stands;
    `input_tokens_estimate` guesses how long they make it.
    """

    reason: str = ""
    inputs: dict[str, Int] = {}
    input_tokens_estimate: Int = 0


class TaskDelegated(TaskEvent, frozen=True, kw_only=True, tag="task.delegated.v1"):
    """Its run on this route has submitted a child task, which is stored with this.

    `budget_usd` is what of its own budget the child may spend: that is no longer its.
    """

    child: str
    route: str
    budget_usd: float = 0.0


class TaskDeferred(TaskEvent, frozen=True, kw_only=True, tag="task.deferred.v1"):
    """The task waits because no place meets its own requirements; its tier may be up."""

    reason: str


class TaskRouted(TaskEvent, frozen=True, kw_only=True, tag="task.routed.v1"):
    """Where the task goes, and everything that decided it. Its id is the route's.

    `clock_ahead_s` is how far the host's clock was ahead of the scheduler's, 0 where that
    was little: reports of this route are so much younger than they look.
    """

    generation: Int
    attempt: Int
    effective_tier: Tier
    target_type: TargetType
    selected_host: str
    selected_endpoint: str = ""
    selected_model: str = ""
    fallback_used: bool = False
    fallback_from_tier: Tier | None = None
    fallback_reason: str | None = None
    fallback_code: FallbackCode | None = None
    wait: Wait | None = None
    classification_reason: str
    candidate_count: Int
    candidates: list[Candidate]
    excluded: dict[str, Int] = {}
    excluded_names: list[Excluded] = []
    estimated_cost_tier: CostTier
    estimated_cost_usd: float | None = None
    policy_version: Int
    log_seq: Int
    decided_us: float = 0.0
    simulated: bool = False
    clock_ahead_s: float = 0.0


class TaskRequeued(TaskEvent, frozen=True, kw_only=True, tag="task.requeued.v1"):
    """The route is no longer in force; the task waits again.

    `exclude` is the endpoint (or host) not to be tried for this task until its next `up`.
    """

    route: str
    generation: Int
    reason: str
    detail: str = ""
    exclude: str | None = None
    counts_as_attempt: bool = False


class TierOutage(Struct, frozen=True):
    """A tier and for how long it has been unavailable."""

    tier: Tier
    state: Literal["down", "absent"]
    down_s: float


class TaskExpired(TaskEvent, frozen=True, kw_only=True, tag="task.expired.v1"):
    """The task waited too long: `ttl` (its tiers were all down) or `deadline`."""

    reason: Literal["ttl", "deadline"]
    detail: str = ""
    tiers: list[TierOutage] = []
    generation: Int = 0


class TaskCancelled(TaskEvent, frozen=True, kw_only=True, tag="task.cancelled.v1"):
    """Somebody cancelled it. A run is *cancelling* until its host says that it has stopped.

    `predecessor`: the scheduler did, because that task, which it comes after, did not complete.
    """

    reason: str = ""
    requested_by: str = ""
    generation: Int = 0
    bulk: str = ""
    predecessor: str = ""
    command_id: str = ""


class TaskAbandoned(TaskEvent, frozen=True, kw_only=True, tag="task.abandoned.v1"):
    """A cancelled run's host was lost before it could report that it stopped."""

    route: str
    generation: Int
    host: str
    reason: str = ""


class TaskDeadLettered(
    TaskEvent, frozen=True, kw_only=True, tag="task.dead_lettered.v1"
):
    """All attempts are used up."""

    attempts: Int
    reason: str
    detail: str = ""
    route: str = ""
    generation: Int = 0


class TaskRetried(TaskEvent, frozen=True, kw_only=True, tag="task.retried.v1"):
    """Somebody had an ended task tried anew: attempts, fallback and exclusions start over."""

    reason: str = ""
    requested_by: str = ""
    assign_to: Token | None = None
    bulk: str = ""
    command_id: str = ""


class TaskReassigned(TaskEvent, frozen=True, kw_only=True, tag="task.reassigned.v1"):
    """Somebody gave it to another host; a route that was in force no longer is."""

    host: Token
    reason: str = ""
    requested_by: str = ""
    bulk: str = ""
    command_id: str = ""


class RunEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What happened to a task on a host. `route` is the id of the routed event."""

    task_id: str
    host: str
    route: str
    generation: Int
    attempt: Int
    incarnation: str


class TaskAccepted(RunEvent, frozen=True, kw_only=True, tag="task.accepted.v1"):
    """The assignment is on the host's disk."""


class TaskRejected(RunEvent, frozen=True, kw_only=True, tag="task.rejected.v1"):
    """The host does not take it. `reason`: `busy` (`holders` have the slots), `draining`, ..."""

    reason: str
    detail: str = ""
    holders: list[str] = []


class TaskStarted(RunEvent, frozen=True, kw_only=True, tag="task.started.v1"):
    """The executor runs, in the folder `cwd`; "" where its work needs none.

    `env` is the environment of a shell command: its first variables by name, up to 64 and
    4 KiB. A value that is or looks like a secret is "…", a long one ends in "...".
    `accepted_at` is when its host accepted it, where no event of its own has said so.
    """

    executor: str
    endpoint: str = ""
    model: str = ""
    simulated: bool = False
    cwd: str = ""
    env: dict[str, str] = {}
    accepted_at: str = ""


class RoundSpent(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the work of one round used, before its verification; None means unknown.

    `cost_basis` is "none" also where an earlier version did not tell it.
    """

    model_used: str = "none"
    tokens_in: Tokens | None = 0
    tokens_out: Tokens | None = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    estimated_cost_usd: Usd | None = 0.0
    equivalent_claude_cost_usd: Usd | None = None
    execution_ms: Milliseconds = 0.0
    cost_basis: str = "none"


class TaskStatus(RunEvent, frozen=True, kw_only=True, tag="task.status.v1"):
    """A line about the run, as it was shown live. `n` numbers the run's live events.

    Where the verification of a round begins, `round` is its number, from 1, and `spent`
    what the work before it used.
    """

    text: str
    segment: Int = 0
    n: Int = 0
    round: Int = 0
    spent: RoundSpent | None = None


class TaskErrorLine(RunEvent, frozen=True, kw_only=True, tag="task.error.v1"):
    """An error line about the run, as it was shown live."""

    text: str
    code: str = ""
    segment: Int = 0
    n: Int = 0


class TaskRetrying(RunEvent, frozen=True, kw_only=True, tag="task.retrying.v1"):
    """The host tries again by itself: try `retry` of `of`, after `backoff_s`."""

    text: str
    retry: Int
    of: Int
    backoff_s: float = 0.0
    reason: str = ""
    segment: Int = 0
    n: Int = 0


class TaskStep(RunEvent, frozen=True, kw_only=True, tag="task.step.v1"):
    """An external agent's run reached a step of the wake path."""

    step: Literal["waking", "waking_confirmation", "working", "removed"]
    detail: str = ""


class TaskVerified(RunEvent, frozen=True, kw_only=True, tag="task.verified.v1"):
    """Step `step` of `of` of the verification after round `round` of `rounds` has ended.

    All counted from 1. `passed`: it ended with exit code 0, in time. A step that does not
    pass ends its round. `output` is the end of what it printed; `text` is the line that
    was shown. `spent` is what the work before it used, on the first step of each round.
    """

    round: Int
    rounds: Int
    step: Int
    of: Int
    command: str
    passed: bool
    exit_code: Int | None = None
    signal: str | None = None
    code: str = ""
    output: str = ""
    execution_ms: Milliseconds = 0.0
    spent: RoundSpent | None = None
    text: str = ""
    segment: Int = 0
    n: Int = 0


class TaskCompleted(RunEvent, frozen=True, kw_only=True, tag="task.completed.v1"):
    """The run succeeded; this event carries the result."""

    result: Result
    late: bool = False


class TaskFailed(RunEvent, frozen=True, kw_only=True, tag="task.failed.v1"):
    """The work itself failed: it is not tried again unless somebody asks for it."""

    result: Result
    late: bool = False


class TaskReturned(RunEvent, frozen=True, kw_only=True, tag="task.returned.v1"):
    """The host gives the run back, for another place or another time.

    `reason`: `endpoint_failed` (with `exclude`; `endpoint_busy` and `endpoint_unfit`, where
    nothing is wrong with the endpoint), `limited` (with `limited_until`, or
    without where the end is unknown), `verification` (the work was done and did not pass;
    the assignment let it escalate), `draining`, `interrupted`, `workspace`, ...
    `unsuited`: nothing was done, because this place cannot do it; no attempt is spent.
    """

    reason: str
    detail: str = ""
    exclude: str | None = None
    limited_until: str | None = None
    result: Result | None = None
    unsuited: bool = False


class TaskStopped(RunEvent, frozen=True, kw_only=True, tag="task.stopped.v1"):
    """A cancelled run has ended; `descendants_left` counts what could not be ended."""

    result: Result | None = None
    descendants_left: Int = 0


class EndpointState(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An endpoint as its host sees it.

    `endpoint` is its name, unique over the fleet. `models` are on disk, `loaded` are in
    memory now. `shared` marks one that an operator added and several hosts may call.
    `again_at`: it refused work, and is not believed to be up before then.

    `capabilities`: `chat`, `messages` (it serves Anthropic's Messages API), `tools`,
    `vision` (some model of it can), `hands` (this host has the program that works through
    `messages`). Empty: unknown, which is what a chat needs and no more.
    `model_capabilities` holds those of models that differ, as far as the server says;
    `context_tokens` how many tokens a model reads at most, where that is known.
    `notice`: the last run with the policy's `claude_model` said that this model is retired,
    will be, or is not found. `embedders` are models that make vectors and answer nothing.
    """

    endpoint: str
    kind: EndpointKind
    up: bool
    url: str = ""
    version: str = ""
    models: list[str] = []
    loaded: list[str] = []
    slots: Int = 1
    reason: str = ""
    shared: bool = False
    simulated: bool = False
    again_at: str = ""
    capabilities: list[str] = []
    model_capabilities: dict[str, list[str]] = {}
    context_tokens: dict[str, Int] = {}
    notice: str = ""
    embedders: list[str] = []


class Held(Struct, frozen=True, omit_defaults=True):
    """A run that a host holds: the task, the route, and how far it is."""

    task_id: str
    route: str
    phase: Literal["accepted", "running", "interrupted", "finished"] = "running"


class HostEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What a host reports about itself. An incarnation is one start of its process."""

    host: str
    incarnation: str


class HostJoined(HostEvent, frozen=True, kw_only=True, tag="host.joined.v1"):
    """The host is here, with this to offer; `held` is what it had before.

    `clones` are the beginnings of URLs that it may clone; none: it clones nothing.
    `verifies`: it runs verification steps, which versions that do not say so do not know.
    `journal_lost` says what of its journal is gone, in words; "": nothing that it knows of.
    """

    version: str
    platform: str = ""
    slots: dict[str, Int] = {}
    capabilities: list[str] = []
    repos: list[str] = []
    clones: list[str] = []
    default_repo: str | None = None
    endpoints: list[EndpointState] = []
    ram_bytes: Int | None = None
    held: list[Held] = []
    draining: bool = False
    journal_lost: str = ""
    verifies: bool = False


class HostRecovered(HostEvent, frozen=True, kw_only=True, tag="host.recovered.v1"):
    """The host was declared lost but is alive: the same incarnation goes on."""

    held: list[Held] = []


class HostDraining(HostEvent, frozen=True, kw_only=True, tag="host.draining.v1"):
    """The host takes no more work."""

    reason: str = ""


class HostResumed(HostEvent, frozen=True, kw_only=True, tag="host.resumed.v1"):
    """The host takes work again."""


class HostLeft(HostEvent, frozen=True, kw_only=True, tag="host.left.v1"):
    """The host shut down and left nothing running."""

    reason: str = ""


class EndpointUp(HostEvent, frozen=True, kw_only=True, tag="endpoint.up.v1"):
    """An endpoint answers, with these models."""

    state: EndpointState


class EndpointDown(HostEvent, frozen=True, kw_only=True, tag="endpoint.down.v1"):
    """An endpoint does not answer, or may not be used until `again_at` ("": unknown)."""

    endpoint: str
    kind: EndpointKind
    reason: str
    again_at: str = ""


class EndpointChanged(HostEvent, frozen=True, kw_only=True, tag="endpoint.changed.v1"):
    """An endpoint that is up has other models on disk or loaded, or other slots."""

    state: EndpointState


class FleetEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What was decided about a host or an endpoint."""

    epoch: Int = 0


class HostLost(FleetEvent, frozen=True, kw_only=True, tag="host.lost.v1"):
    """The host stopped reporting for longer than its lease."""

    host: str
    incarnation: str
    silent_s: float


class HostAlertRaised(
    FleetEvent, frozen=True, kw_only=True, tag="host.alert_raised.v1"
):
    """Something is wrong with a host that somebody should look at.

    `code` says what (`cannot_persist`, `two_incarnations`, `clock_skew`, `claude_model`),
    `text` says it to people. One alert of a code is active for a host at a time.
    """

    host: str
    incarnation: str
    code: str
    text: str


class HostAlertCleared(
    FleetEvent, frozen=True, kw_only=True, tag="host.alert_cleared.v1"
):
    """What was wrong with the host is over. `lasted_s`: for how long it was alerted."""

    host: str
    code: str
    lasted_s: float = 0.0


class HostForgotten(FleetEvent, frozen=True, kw_only=True, tag="host.forgotten.v1"):
    """An operator struck a host that is gone from the lists; its past stays in the log.

    Void while the host is there. If it comes back, it joins as a new one.
    """

    host: str
    requested_by: str = ""


class EndpointAdded(FleetEvent, frozen=True, kw_only=True, tag="endpoint.added.v1"):
    """An operator added a shared endpoint."""

    endpoint: str
    kind: Literal["ollama", "openai"]
    url: str
    slots: Int = 1
    requested_by: str = ""
    command_id: str = ""


class EndpointRemoved(FleetEvent, frozen=True, kw_only=True, tag="endpoint.removed.v1"):
    """An operator removed a shared endpoint."""

    endpoint: str
    requested_by: str = ""
    command_id: str = ""


class TierEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What the scheduler found out about a tier."""

    tier: Tier
    epoch: Int = 0


class TierDown(TierEvent, frozen=True, kw_only=True, tag="tier.down.v1"):
    """Nothing could run this tier even with all slots free: the wait starts here."""

    reason: str = ""


class TierUp(TierEvent, frozen=True, kw_only=True, tag="tier.up.v1"):
    """The tier can run again."""

    down_s: float = 0.0


class TierLimited(TierEvent, frozen=True, kw_only=True, tag="tier.limited.v1"):
    """The account behind the tier is limited until then."""

    until: str
    account: str = "default"
    reason: str = ""
    known_end: bool = False


class TierLimitCleared(
    TierEvent, frozen=True, kw_only=True, tag="tier.limit_cleared.v1"
):
    """An operator lifted the limit of the account behind the tier."""

    reason: str = ""
    requested_by: str = ""


class TierBudgetSpent(TierEvent, frozen=True, kw_only=True, tag="tier.budget_spent.v1"):
    """What the policy lets escalations to this tier cost in a day (UTC) is spent.

    Said once for each day and budget; `spent_usd` is what was known of by then.
    """

    day: str
    spent_usd: float
    budget_usd: float


class AlertRaised(TierEvent, frozen=True, kw_only=True, tag="alert.raised.v1"):
    """A tier has been down for longer than the threshold."""

    down_s: float
    reason: str = ""


class AlertCleared(TierEvent, frozen=True, kw_only=True, tag="alert.cleared.v1"):
    """The alert ends, because the tier is up again. `down_s`: for how long it was not."""

    down_s: float


class AlertAcknowledged(
    TierEvent, frozen=True, kw_only=True, tag="alert.acknowledged.v1"
):
    """Somebody has seen the alert."""

    requested_by: str = ""


class PolicyChanged(Event, frozen=True, kw_only=True, tag="policy.changed.v1"):
    """The policy, whole, from here on; `changed` names what differs."""

    version: Int
    policy: dict[str, Any]
    changed: list[str] = []
    requested_by: str = ""


class SchedulerElected(Event, frozen=True, kw_only=True, tag="scheduler.elected.v1"):
    """A new leader: decisions of older epochs are void from here on.

    `leaderless_s` is for how long there was none: that time counts for no TTL and no
    alert.
    """

    epoch: Int
    name: str
    leaderless_s: float = 0.0


class ClockStepped(Event, frozen=True, kw_only=True, tag="clock.stepped.v1"):
    """A wall clock was put forward, or back (`step_s` below 0), beside its own monotonic.

    So does a person, NTP, or a machine that slept. No duration changes by it; times of
    day before and after are `step_s` further apart than they look. `role` and `name` say
    whose clock; `epoch` is the leader's that says so.
    """

    epoch: Int
    role: str
    name: str
    step_s: float


class ScheduleEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What was decided about a schedule. `schedule` is its name.

    `command_id` is the `id` of the command that asked for it, "" where that had none.
    """

    schedule: Token
    command_id: str = ""


Missed = Literal["skip", "one", "all"]
"""What becomes of planned times at which nobody could fire: none of them, one task for all,
all."""
Overlap = Literal["skip", "queue", "replace"]
"""What becomes of a planned time whose schedule's task before is not over: nothing, its
task comes after that one, or that one is cancelled for it."""


class ScheduleRule(ScheduleEvent, frozen=True, kw_only=True):
    """A task is submitted at each time that `cron` names in the zone `tz`.

    `task` and what follows from it are those of each of its submissions; `requested_by`
    is their submitter. `body_digest` is that of what the command asked for.
    """

    cron: str
    tz: str
    task: TaskSpec
    classification: Classification
    missed: Missed = "one"
    overlap: Overlap = "queue"
    mode: Mode | None = None
    mode_reason: str = ""
    prompt_tokens_estimate: Int = 0
    requested_by: str = ""
    body_digest: str = ""


class ScheduleAdded(ScheduleRule, frozen=True, kw_only=True, tag="schedule.added.v1"):
    """From here on a task is submitted at each time that `cron` names in the zone `tz`.

    `task` and what follows from it are those of each of its submissions.
    """


class ScheduleChanged(
    ScheduleRule, frozen=True, kw_only=True, tag="schedule.changed.v1"
):
    """The rule, whole, for what is planned later than `at`; `changed` names what differs.

    What was planned until then and is not dealt with goes by the rule before.
    """

    changed: list[str] = []


class SchedulePaused(
    ScheduleEvent, frozen=True, kw_only=True, tag="schedule.paused.v1"
):
    """It fires no more until it is resumed."""

    reason: str = ""
    requested_by: str = ""


class ScheduleResumed(
    ScheduleEvent, frozen=True, kw_only=True, tag="schedule.resumed.v1"
):
    """It fires again; what was planned while it was paused is left out."""

    requested_by: str = ""


class ScheduleRemoved(
    ScheduleEvent, frozen=True, kw_only=True, tag="schedule.removed.v1"
):
    """It is no more; tasks that it has submitted stay."""

    requested_by: str = ""


class ScheduleFired(ScheduleEvent, frozen=True, kw_only=True, tag="schedule.fired.v1"):
    """A planned time has come, and task `task_id` is submitted for it.

    `planned` is that time, in whole seconds; where somebody let it run by hand
    (`requested_by`), when that was. `waits_for` is the task before, which this one comes
    after; `replaces` is the same where it is cancelled for this one.
    """

    planned: str
    task_id: Token
    epoch: Int = 0
    waits_for: str = ""
    replaces: str = ""
    requested_by: str = ""


class ScheduleSkipped(
    ScheduleEvent, frozen=True, kw_only=True, tag="schedule.skipped.v1"
):
    """Planned times that are not fired: all from `planned` to `until`.

    `count` says how many those are, at most 1,000. `reason`: `missed` (nobody could fire
    then), `overlap` (task `task_id` of the time before was not over).
    """

    planned: str
    until: str
    count: Int
    reason: Literal["missed", "overlap"]
    epoch: Int = 0
    task_id: str = ""


class BulkEvent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What was asked of many tasks at once. Their own events name it in `bulk`."""

    bulk_id: Token


class BulkStarted(BulkEvent, frozen=True, kw_only=True, tag="bulk.started.v1"):
    """Somebody gives one command for many tasks: those that a filter means, or named ones.

    A filter means tasks that were submitted, and, if they are over, ended before this
    event. `filter` has its fields, None where ids were named; `ids` is how many those were.
    `host` is where to, of `reassign`. `body_digest` tells the same command from another.
    """

    action: Literal["cancel", "retry", "reassign"]
    filter: dict[str, Any] | None = None
    ids: Int = 0
    host: str = ""
    reason: str = ""
    requested_by: str = ""
    body_digest: str = ""


class BulkAdvanced(BulkEvent, frozen=True, kw_only=True, tag="bulk.advanced.v1"):
    """How far it is: all counts are from its start on, `after` is the last task's id.

    `matched` were meant when it started. `outcomes` counts by where tasks stand now
    (`cancelled`, `waiting`, ...), by `unchanged`, or by the code of a refusal.
    """

    matched: Int
    done: Int
    unchanged: Int
    refused: Int
    outcomes: dict[str, Int]
    after: str
    finished: bool


class Unknown(Event, frozen=True, kw_only=True, tag="unknown"):
    """An event whose tag this version does not know: kept, counted, shown."""

    tag: str
    body: dict[str, Any]


def _events(base: type[Event]) -> Iterator[type[Event]]:
    """Yield the classes below one that are no other's base, in the order they stand here."""
    below = base.__subclasses__()
    for each in below:
        yield from _events(each)
    if not below and base is not Unknown:
        yield base


AnyEvent: Any = Union[tuple(_events(Event))]  # noqa: UP007 - of the classes above
"""What the log can hold, for a decoder."""


class Recorded(Struct, frozen=True):
    """An event as the log holds it: its place there, its subject, and what was written.

    `seq` is the stream's sequence, from 1. `at` is the writer's clock, inside the event.
    """

    seq: int
    subject: str
    event: Event


def tag(event: Event) -> str:
    """Return the stored tag, `task.routed.v1`."""
    if isinstance(event, Unknown):
        return event.tag
    return str(event.__struct_config__.tag)


def name(event: Event) -> str:
    """Return the tag without its version, `task.routed`."""
    return tag(event).rpartition(".v")[0]


def types() -> dict[str, type[Event]]:
    """Return every class of the catalogue by its stored tag."""
    members: tuple[type[Event], ...] = AnyEvent.__args__
    return {str(member.__struct_config__.tag): member for member in members}


# -- Live output and signs of life: sent over NATS, not kept in the log ----------------


class ToolUse(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A tool that a model asked for: `name`, `input`; or what it answered: `is_error`.

    `id` joins the two. Long texts in `input` are cut.
    """

    id: str
    name: str = ""
    input: dict[str, Any] = {}
    is_error: bool | None = None


class Chunk(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A piece of live output, as the output stream holds it and a page receives it.

    Of kind `tool` the `text` is for people, `tool` says the same in fields; an answer of
    many pieces has its `id` in each. `n` counts the run's pieces from 1; a gap is text that
    is missing. A run that goes on in a later incarnation of its host counts on from the next
    million. `segment` counts its
    local retries from 0. The text of a `call` is lines of JSON, each a piece of a chat's
    call of a tool as OpenAI streams it; `events.chunks.Calls` puts them together.
    """

    type: Literal["execution_event"] = "execution_event"
    task_id: str
    event_type: Literal[
        "token", "thinking", "stdout", "stderr", "status", "error", "tool", "call"
    ]
    text: str
    timestamp: str
    route: str
    generation: Int
    attempt: Int
    segment: Int
    n: Int
    tokens_so_far: Int | None = None
    model: str | None = None
    tool: ToolUse | None = None


class Gpu(Struct, frozen=True, omit_defaults=True):
    """One graphics card's memory."""

    name: str
    vram_total_bytes: Int
    vram_free_bytes: Int


class Resources(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a machine has and how busy it is; None means unknown. `cpu` is 0 to 1."""

    cpu: float | None = None
    cores: Int | None = None
    ram_total_bytes: Int | None = None
    ram_free_bytes: Int | None = None
    gpus: list[Gpu] = []


class Beat(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A host's sign of life on core NATS. `n` rises by one each time.

    The next one comes in `interval_s` seconds, or sooner; by that readers tell how long
    `resources` count as known. 0: a host of 0.1 does not say. `fault`: why it can take no
    work at present, "" where it can.
    """

    host: str
    incarnation: str
    n: Int
    at: str
    resources: Resources
    held: list[Held] = []
    draining: bool = False
    outbox: Int = 0
    interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    fault: str = ""
