"""Mail: what the leader and the gateways send to one actor's mailbox, and its replies.

What a leader sends carries its epoch, and an older epoch is refused. Unknown fields are
ignored, so that an older host understands a newer scheduler.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from events import catalogue as c

Epoch = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**31)]
Route = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}\Z", description="a route's id, or nothing")
]
"""A route's id, or "" where any is meant."""


class Limits(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The policy's numbers that a run uses; they stay as they were for that run."""

    shell_retries: int = 1
    shell_timeout_s: float = 60.0
    model_retries: int = 2
    model_backoff_s: list[float] = field(default_factory=lambda: [0.5, 2.0])
    claude_retries: int = 3
    claude_backoff_s: list[float] = field(default_factory=lambda: [2.0, 4.0, 8.0])
    wake_retries: int = 3
    wake_backoff_s: list[float] = field(default_factory=lambda: [5.0, 15.0, 30.0])
    wake_timeout_s: float = 60.0
    wake_confirm_s: float = 30.0
    run_timeout_s: float = 1800.0
    connect_timeout_s: float = 5.0
    first_token_warm_s: float = 60.0
    first_token_cold_s: float = 300.0
    idle_timeout_s: float = 120.0
    shell_term_grace_s: float = 5.0
    claude_int_grace_s: float = 5.0
    claude_term_grace_s: float = 3.0
    claude_result_grace_s: float = 5.0
    output_limit_bytes: int = 262_144
    live_output_bytes: int = 2**30
    num_ctx: int = 8192
    clone_timeout_s: float = 900.0
    clone_bytes: int = 2**31
    max_output_tokens: int = 8192
    keep_folders: int = 50
    keep_folders_s: float = 604_800.0
    verify_rounds: int = 2
    verify_timeout_s: float = 600.0


class Assign(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="assign"):
    """Run this. `route` is the routed event's id and the fence for all that follows.

    `incarnation` is the host's that it was routed to: another one refuses it. "": any.
    `escalates`: work that does not pass its verification is given back, for the next tier.
    `mode` "work": an agent does it, also where the target is a model's endpoint.
    `lent`: routes whose slots count as free for it, because those runs have children.
    `last_resort`: this place gave the task back before, and there is no other for it.
    `others`: what this place cannot be used for (nobody is logged in) another one that is up
    could do.
    `log_s` is the log time of its routing (epoch seconds), which no clock's step moves; 0:
    not said.
    """

    epoch: Epoch
    task_id: c.Token
    route: c.Token
    generation: Count
    attempt: Count
    spec: c.TaskSpec
    tier: c.Tier
    target_type: c.TargetType
    endpoint: str = ""
    endpoint_kind: c.EndpointKind | None = None
    endpoint_url: str = ""
    model: str = ""
    equivalent_model: str = ""
    max_budget_usd: float | None = None
    limits: Limits = Limits()
    resume_session: str | None = None
    incarnation: str = ""
    escalates: bool = False
    mode: c.Mode | None = None
    lent: list[str] = []
    last_resort: bool = False
    others: bool = False
    log_s: float = 0.0

    @property
    def by_hands(self) -> bool:
        """Whether an agent works with a local model, which does not answer by itself."""
        return self.mode == "work" and self.target_type in ("ollama", "openai")


class Cancel(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="cancel"):
    """End this run; `route` "" means whatever runs of the task."""

    epoch: Epoch
    task_id: c.Token
    route: Route = ""
    reason: str = ""


class DrainOrResume(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Mail that has a host take work or not.

    Any gateway may send it, at the same time as another, and no log orders what they
    send. So the host does, by compare-and-set: it counts this mail, the sender looks first
    (`Inspect`) and names the incarnation and the count (`version`, on the wire `turn`) that
    it saw. Mail that comes late names an older one and is refused (`conflict`). No clocks
    are compared.
    """

    epoch: Epoch = 0
    incarnation: str = ""
    version: Count = field(default=0, name="turn")


class Drain(DrainOrResume, frozen=True, omit_defaults=True, kw_only=True, tag="drain"):
    """Take no more work."""

    reason: str = ""


class Resume(
    DrainOrResume, frozen=True, omit_defaults=True, kw_only=True, tag="resume"
):
    """Take work again."""


class Rejoin(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="rejoin"):
    """The scheduler had given this host up, or never heard of it: say who you are."""

    epoch: Epoch
    incarnation: str = ""


class Evict(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="evict"):
    """Two processes are this host; the one of this incarnation is to leave, and end."""

    epoch: Epoch
    incarnation: str
    reason: str = ""


class UseEndpoints(
    Struct, frozen=True, omit_defaults=True, kw_only=True, tag="endpoints"
):
    """The shared endpoints an operator has added: probe them, report them.

    `as_of` is the place in the log that the list was true for: an older one that comes
    late is passed by.
    """

    epoch: Epoch
    endpoints: list[SharedEndpoint]
    as_of: int = 0


class SharedEndpoint(Struct, frozen=True, kw_only=True):
    """One shared endpoint, as added. `added` is the id of the event that added it: one
    that was taken away and added again is another, and is reported anew.
    """

    endpoint: str
    kind: Literal["ollama", "openai"]
    url: str
    slots: int = 1
    added: str = ""


class Inspect(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="inspect"):
    """What is going on there?"""


class Fetch(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="fetch"):
    """Read from the folder that is kept of a task, see `FetchFile`."""

    task_id: c.Token
    path: str = ""
    offset: Annotated[int, Meta(ge=0, le=2**40)] = 0


HostMail = Assign | Cancel | Drain | Resume | Rejoin | Evict | UseEndpoints | Inspect
TaskMail = Cancel | Inspect | Fetch


class Reply(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An actor's answer: taken, or refused with a reason."""

    ok: bool
    code: str = ""
    detail: str = ""
    info: dict[str, Any] = {}


class TaskView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A run as its task actor sees it: the answer to `Inspect`."""

    task_id: str
    route: str
    phase: str
    result: c.Result | None = None
