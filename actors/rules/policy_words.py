"""What each number of the policy means: for `agentcom policy explain` and docs/policy.md.

A test holds the table to the policy's fields, and the files to what they read.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from actors.rules.policy import Policy, document


class Explained(Struct, frozen=True):
    """One number: its unit, what it does when it is changed, and which file reads it."""

    name: str
    default: Any
    unit: str
    meaning: str
    effect: str
    read_by: str


_DISPATCH = "actors/scheduler/dispatch.py"
_TIERS = "actors/scheduler/tiers.py"
_HOSTS = "actors/scheduler/hosts.py"
_SCORING = "actors/rules/scoring.py"
_MODEL_RUN = "sidecar/executors/model_run.py"
_CLAUDE = "sidecar/executors/claude/executor.py"
_DELEGATION = "actors/gateway/delegation.py"
_AGENT = "sidecar/executors/agent.py"
_SHELL = "sidecar/executors/shell.py"

_ROWS: Final[dict[str, tuple[str, str, str, str]]] = {
    "local_models": (
        "names",
        "local models in the order in which they are preferred",
        "a task that names no model gets the first of these that a place has; empty: any",
        "actors/rules/models.py",
    ),
    "claude_model": (
        "name",
        "the model of Claude for complex tasks that name none",
        "passed to Claude Code as `--model`",
        "actors/scheduler/places.py",
    ),
    "claude_context_tokens": (
        "tokens",
        "how much Claude Code reads at once",
        "a longer prompt is refused; raise it with a model that reads more",
        "actors/gateway/sizes.py",
    ),
    "equivalent_model": (
        "name",
        "the model of Claude that local work is priced by, to say what it saved",
        "empty: `claude_model`. Runs keep the one they were assigned with",
        "sidecar/costs.py",
    ),
    "fallback_wait_s": (
        "seconds",
        "how long a task waits for its tier that is down before it is run off it",
        "larger: fewer fallbacks, longer waits in an outage; 0: at once",
        _DISPATCH,
    ),
    "allow_downgrade": (
        "true or false",
        "whether a complex task may run on the standard tier while complex is down",
        "true: it does, marked as a fallback; false: it waits",
        _DISPATCH,
    ),
    "max_escalations_in_flight": (
        "tasks",
        "how many standard tasks may be under way on the complex tier at once",
        "0: none ever goes there by fallback",
        _DISPATCH,
    ),
    "escalation_budget_usd_per_day": (
        "dollars",
        "what standard tasks may spend on the complex tier in a day (UTC)",
        "reached: they wait for their own tier; null: no such bound",
        _DISPATCH,
    ),
    "max_budget_usd_per_task": (
        "dollars",
        "what Claude Code may spend on one task, over all its attempts",
        "a task's own `max_budget_usd` counts where it is lower; null: no bound",
        "actors/scheduler/mailing.py",
    ),
    "max_delegation_depth": (
        "tasks",
        "how many tasks may be above a task that another task's run submits",
        "1: children, and no grandchildren; 0: no run submits any",
        _DELEGATION,
    ),
    "max_children_per_task": (
        "tasks",
        "how many tasks the runs of one task may submit, all attempts together",
        "reached: its run is refused more; 0: no run submits any",
        _DELEGATION,
    ),
    "task_ttl_s": (
        "seconds",
        "how long a task may wait while nothing could take it, not even when free",
        "then it expires; a task's own `ttl_s` goes before it",
        "actors/scheduler/expiry.py",
    ),
    "tier_alert_after_s": (
        "seconds",
        "how long a tier is down before an alert is raised",
        "larger: fewer alerts for short outages",
        _TIERS,
    ),
    "accept_timeout_s": (
        "seconds",
        "how long a host may take to accept a task that was routed to it",
        "then the task is taken back and routed anew",
        "actors/scheduler/returns.py",
    ),
    "host_lease_s": (
        "seconds",
        "how long a host may be silent before it is declared lost",
        "smaller: its tasks start elsewhere sooner, and a pause loses more",
        _HOSTS,
    ),
    "resources_fresh_beats": (
        "beats",
        "after how many missed beats a host's load and memory count as unknown",
        "unknown load scores as `scoring.load_unknown`",
        _HOSTS,
    ),
    "beat_interval_s": (
        "seconds",
        "how often a host beats that does not say it itself (version 0.1)",
        "other hosts are reckoned by what their beats say",
        _HOSTS,
    ),
    "ageing_s": (
        "seconds",
        "how long a task waits until it counts as one priority higher",
        "smaller: low priorities are served sooner under load",
        _DISPATCH,
    ),
    "limited_initial_s": (
        "seconds",
        "how long a tier is left alone that is rate-limited without a known end",
        "then it is tried again",
        _TIERS,
    ),
    "limited_cap_s": (
        "seconds",
        "the most that such a limit grows to, doubling while it lasts",
        "smaller: a limited account is asked more often",
        _TIERS,
    ),
    "limited_known_cap_s": (
        "seconds",
        "the most that a limit with a known end is believed",
        "a host's word alone cannot shut a tier for longer",
        _TIERS,
    ),
    "allow_no_timeout": (
        "true or false",
        "whether a task may ask for no time limit (`timeout_s` 0)",
        "false: such a task is refused",
        "actors/gateway/validate.py",
    ),
    "recorded_candidates": (
        "places",
        "how many candidates a routing decision records",
        "larger: longer events, more to look back on",
        "actors/scheduler/places.py",
    ),
    "scoring.load_unknown": (
        "factor",
        "the load factor of a host whose load is not known",
        "larger: such hosts are preferred more; known ones have 1 less their CPU use",
        _SCORING,
    ),
    "scoring.load_floor": (
        "factor",
        "the least load factor, of a host that is fully busy",
        "0: a host at full load is never chosen",
        _SCORING,
    ),
    "scoring.capacity_unit_bytes": (
        "bytes",
        "the memory of a host whose capacity factor is 1",
        "larger: big hosts are preferred less",
        _SCORING,
    ),
    "scoring.capacity_cap": (
        "factor",
        "the most that a host's memory can count",
        "1: no host is preferred for its size",
        _SCORING,
    ),
    "scoring.vram_base": (
        "factor",
        "the graphics memory factor of a host whose graphics memory is full",
        "with `vram_share` it makes the factor of a local model's place",
        _SCORING,
    ),
    "scoring.vram_share": (
        "factor",
        "what free graphics memory adds to `vram_base`, as a share of all of it",
        "0: free graphics memory does not count",
        _SCORING,
    ),
    "scoring.vram_unknown": (
        "factor",
        "the graphics memory factor where it is not known",
        "of local models only",
        _SCORING,
    ),
    "scoring.warm": (
        "factor",
        "what a model that is loaded already counts",
        "1: warmth does not matter; larger: tasks stick to loaded models",
        _SCORING,
    ),
    "scoring.affinity": (
        "factor",
        "what a checkout of the task's repository counts",
        "1: it does not matter",
        _SCORING,
    ),
    "limits.shell_retries": (
        "retries",
        "how often a host starts a command again that failed",
        "a task's own `retries` goes before it",
        _SHELL,
    ),
    "limits.shell_timeout_s": (
        "seconds",
        "how long a command may run",
        "a task's own `timeout_s` goes before it",
        "sidecar/executors/port.py",
    ),
    "limits.model_retries": (
        "retries",
        "how often a host asks a model server again that failed in a way that may pass",
        "then the task goes back to be routed anew",
        _MODEL_RUN,
    ),
    "limits.model_backoff_s": (
        "seconds",
        "the waits before those retries; the last is used for all that follow",
        "smaller: quicker, and harder on a server in trouble",
        _MODEL_RUN,
    ),
    "limits.claude_retries": (
        "retries",
        "how often a host starts Claude Code again that failed in a way that may pass",
        "then the task goes back to be routed anew",
        _CLAUDE,
    ),
    "limits.claude_backoff_s": (
        "seconds",
        "the waits before those retries; the last is used for all that follow",
        "smaller: quicker, and harder on a limited account",
        _CLAUDE,
    ),
    "limits.wake_retries": (
        "retries",
        "how often an agent's wake command is tried again",
        "then the task goes back to be routed anew",
        _AGENT,
    ),
    "limits.wake_backoff_s": (
        "seconds",
        "the waits before those retries; the last is used for all that follow",
        "smaller: quicker",
        _AGENT,
    ),
    "limits.wake_timeout_s": (
        "seconds",
        "how long an agent's wake command may run",
        "then it is ended and counts as failed",
        _AGENT,
    ),
    "limits.wake_confirm_s": (
        "seconds",
        "how long an agent that was woken may take to say that it works",
        "then it counts as not woken",
        _AGENT,
    ),
    "limits.run_timeout_s": (
        "seconds",
        "how long any other run may take",
        "a task's own `timeout_s` goes before it",
        "sidecar/executors/port.py",
    ),
    "limits.connect_timeout_s": (
        "seconds",
        "how long a host tries to reach a model server",
        "smaller: a dead server is left sooner",
        _MODEL_RUN,
    ),
    "limits.first_token_warm_s": (
        "seconds",
        "how long a model that is loaded may take to its first token",
        "then the run is given up there",
        _MODEL_RUN,
    ),
    "limits.first_token_cold_s": (
        "seconds",
        "how long a model that has to be loaded may take to its first token",
        "then the run is given up there; too small: large models never start",
        _MODEL_RUN,
    ),
    "limits.idle_timeout_s": (
        "seconds",
        "how long a run of a model may be silent between two pieces",
        "then it counts as hung and is ended",
        _MODEL_RUN,
    ),
    "limits.shell_term_grace_s": (
        "seconds",
        "how long a command has between being asked to end and being killed",
        "0: killed at once",
        _SHELL,
    ),
    "limits.claude_int_grace_s": (
        "seconds",
        "how long Claude Code has to end by itself, and to say what it cost",
        "0: its cost may be lost",
        _CLAUDE,
    ),
    "limits.claude_term_grace_s": (
        "seconds",
        "how long it then has before it is killed",
        "0: killed at once",
        _CLAUDE,
    ),
    "limits.claude_result_grace_s": (
        "seconds",
        "how long Claude Code has to end after its result",
        "then it is ended; the result counts",
        _CLAUDE,
    ),
    "limits.output_limit_bytes": (
        "bytes",
        "how much of a run's output its result holds, head and tail",
        "larger: longer events; the live output has all of it",
        _SHELL,
    ),
    "limits.live_output_bytes": (
        "bytes",
        "how much live output of one run is sent",
        "what is beyond is not shown, and is counted",
        "sidecar/progress.py",
    ),
    "limits.num_ctx": (
        "tokens",
        "the context that Ollama is asked for",
        "larger: longer prompts, more memory",
        "sidecar/executors/ollama.py",
    ),
    "limits.clone_timeout_s": (
        "seconds",
        "how long a host may take to clone a repository",
        "then the task goes back",
        "sidecar/clones.py",
    ),
    "limits.clone_bytes": (
        "bytes",
        "how large a clone may become",
        "larger ones are given up and removed",
        "sidecar/clones.py",
    ),
    "limits.max_output_tokens": (
        "tokens",
        "how long a model's answer may be",
        "a task's own `max_tokens` goes before it",
        _MODEL_RUN,
    ),
    "limits.keep_folders": (
        "folders",
        "how many folders of ended tasks a host keeps",
        "the oldest go first; `fetch` and `diff` need them",
        "sidecar/kept.py",
    ),
    "limits.keep_folders_s": (
        "seconds",
        "how long a host keeps such a folder",
        "smaller: less disk",
        "sidecar/kept.py",
    ),
    "limits.verify_rounds": (
        "rounds",
        "rounds of work and verification, the first included",
        "a task's own `verify_rounds` goes before it",
        "sidecar/verification.py",
    ),
    "limits.verify_timeout_s": (
        "seconds",
        "how long one verification step may run",
        "then it counts as not passed",
        _SHELL,
    ),
}


def explained() -> list[Explained]:
    """Explain every number, in the order of `agentcom policy show`."""
    return [
        Explained(name, default, *_ROWS[name])
        for name, default in flat("", document(Policy()))
    ]


def flat(path: str, value: Any) -> list[tuple[str, Any]]:
    """Flatten a policy's document as (name, value): `scoring.warm`."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [
        line
        for name, below in value.items()
        for line in flat(f"{path}.{name}" if path else name, below)
    ]
