"""Tasks for people: the list, one task with its attempts, the trace of a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cli.render.display import CUT_SHORT, route_line
from cli.render.terminal import (
    STATE_STYLE,
    TIER_STYLE,
    WIDE,
    age,
    cell,
    columns_for,
    dollars,
    duration,
    is_narrow,
    line_of,
    local,
    local_time,
    many,
    on_terminal,
    priced,
    size,
    table,
    tokens,
)
from events import catalogue as c
from events.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from projections.answers import (
        CheckView,
        RouteView,
        TaskAnswer,
        TaskDetail,
        TaskRow,
        TasksAnswer,
    )


_COLUMNS: Final = ("id", "state", "tier", "where", "age", "tries", "tokens", "cost")
_LEAVE: Final = (
    (WIDE, ("tries", "tokens", "cost")),
    (80, ("where",)),
    (60, ("tier",)),
)
"""Below which width of a terminal which columns go; what a task is stays."""


def task_table(answer: TasksAnswer, now: datetime) -> Table:
    columns = columns_for((*_COLUMNS, "task"), _LEAVE)
    tasks = table(
        columns,
        right=("tries", "tokens", "cost", "age"),
        elastic=("where", "task"),
    )
    for row in answer.tasks:
        cost = (
            "?"
            if row.estimated_cost_usd is None
            else priced(row.estimated_cost_usd, row.cost_basis)
        )
        cells = {
            "id": cell(shown_id(row)),
            "state": cell(row.state, style=STATE_STYLE.get(row.state, "")),
            "tier": _tier_cell(row),
            "where": cell(_where(row), 40),
            "age": age(row.submitted_at, now),
            "tries": str(row.attempts),
            "tokens": tokens(all_tokens(row)),
            "cost": cost,
            "task": cell(row.description, 0 if is_narrow() else 60),
        }
        tasks.add_row(*(cells[name] for name in columns))
    return tasks


def shown_id(row: TaskRow) -> str:
    """Return what a person types for a task; in a pipe its whole id."""
    return row.short_id if row.short_id and on_terminal() else row.task_id


def all_tokens(row: TaskRow) -> int | None:
    """Return how many tokens a task has used, in and out; None where that is unknown."""
    if row.tokens_in is None or row.tokens_out is None:
        return None
    return row.tokens_in + row.tokens_out


def _tier_cell(row: TaskRow) -> Any:
    mark = " FB" if row.fallback_used else ""
    return cell(row.tier + mark, style=TIER_STYLE.get(row.tier, ""))


def _where(row: TaskRow) -> str:
    if row.held:
        return held_words(row)
    place = row.endpoint or row.host
    model = f" {row.model}" if row.model else ""
    return place + model + (" [simulated]" if row.simulated else "")


def held_words(row: TaskRow) -> str:
    """Say shortly what a task is held for."""
    said = []
    if row.comes_after:
        said.append(f"after {many(row.comes_after, 'task')}")
    if row.not_before:
        said.append(f"not before {local_time(row.not_before)}")
    return ", ".join(said)


def tasks_footer(answer: TasksAnswer) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in answer.states.items())
    return f"{len(answer.tasks)} of {answer.total}; all: {counts or 'none'}"


def show_task(
    screen: Console,
    answer: TaskAnswer,
    because: list[str],
    role_of: Callable[[str], str],
) -> None:
    """Show a task, its attempts, and the trace of its last route.

    `because` is why it waits, in sentences; `role_of` names the role of a public key.
    """
    _details(screen, answer.task, because, role_of(answer.task.submitter))
    _attempts(screen, answer.routes)
    _checks(screen, answer.routes)
    if answer.route is not None:
        trace(screen, answer.route)


def _details(
    screen: Console, task: TaskDetail, because: list[str], submitter: str
) -> None:
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, value, style in _facts(task, local(" ".join(because)), submitter):
        if value:
            facts.add_row(name, cell(value, style=style))
    screen.print(facts)
    if task.env:
        screen.print("\nenvironment", style="bold")
        lines = (f"{name}={_one_line(value)}" for name, value in task.env.items())
        screen.print(_block("\n".join(lines)))
    result = task.result
    if result is None:
        return
    for name, text in (("output", result.output), ("stderr", result.stderr)):
        if text.strip():
            screen.print(f"\n{name}", style="bold")
            screen.print(_block(text))


def _facts(
    task: TaskDetail, because: str, submitter: str
) -> list[tuple[str, str, str]]:
    spec, classed, result = task.spec, task.classification, task.result
    error = task.error
    hop = f" (fallback from {task.fallback_from_tier})" if task.fallback_used else ""
    timing = ", ".join(
        f"{name} {duration(ms)}"
        for name, ms in (("waited", task.wait_ms), ("ran", task.execution_ms))
        if ms is not None
    )
    cost = priced(task.estimated_cost_usd, task.cost_basis)
    if cost.startswith("~"):
        cost += f" (a guess: {task.cost_basis.replace('_', ' ')})"
    counts = f"{tokens(task.tokens_in)} in, {tokens(task.tokens_out)} out"
    if task.cache_read_tokens or task.cache_write_tokens:
        counts += (
            f", cache {task.cache_read_tokens} read, {task.cache_write_tokens} written"
        )
    shell = spec.shell if spec is not None else None
    folder = task.cwd + (f" on {task.host}" if task.cwd and task.host else "")
    return [
        ("task", task.task_id, "bold"),
        ("state", task.state, STATE_STYLE.get(task.state, "")),
        ("waits", because, "yellow"),
        ("error", local(f"{error.code}: {error.message}") if error else "", "red"),
        ("reason", local(task.reason), ""),
        ("answer", CUT_SHORT if result and result.length_limited else "", "yellow"),
        ("description", task.description[:DESCRIPTION_SHOWN], ""),
        ("command", shell.command if shell is not None else "", ""),
        ("tier", task.tier + hop, TIER_STYLE.get(task.tier, "")),
        ("mode", f"{task.mode} ({local(task.mode_reason)})" if task.mode else "", ""),
        ("labels", ", ".join(f"{k}={v}" for k, v in task.labels.items()), ""),
        ("metadata", _metadata(spec), ""),
        ("attached", _attached(spec), ""),
        ("asked for", _asked_for(spec), ""),
        ("classified", local(classed.reason) if classed is not None else "", ""),
        ("priority", task.priority, ""),
        ("repo", task.repo, ""),
        ("branch", (spec.branch or "") if spec is not None else "", ""),
        ("ran on", _where(task) if task.host else "", ""),
        ("in", folder, ""),
        ("changed", _changed(task), ""),
        ("attempts", f"{task.attempts} of {task.max_attempts}", ""),
        ("schedule", task.schedule, ""),
        ("submitted", f"{local_time(task.submitted_at)} by {submitter}", ""),
        ("deadline", local_time(task.deadline) if task.deadline else "", ""),
        ("took", timing, ""),
        ("tokens", counts, ""),
        ("cost", cost, ""),
        ("saved", dollars(task.saved_usd) if task.saved_usd else "", "green"),
        ("warnings", local("; ".join(task.warnings)), "yellow"),
        ("void", f"{task.void} steps did not count" if task.void else "", "yellow"),
    ]


def _metadata(spec: c.TaskSpec | None) -> str:
    if spec is None or not spec.metadata:
        return ""
    return encode(spec.metadata).decode()[:DESCRIPTION_SHOWN]


def _attached(spec: c.TaskSpec | None) -> str:
    files = spec.attachments if spec is not None else []
    return ", ".join(f"{each.name} ({each.size_bytes:,} bytes)" for each in files)


def _asked_for(spec: c.TaskSpec | None) -> str:
    """Say what an answer was asked to be."""
    if spec is None:
        return ""
    wishes = [f"system: {spec.system[:200]}"] if spec.system else []
    wishes += [f"max tokens {spec.max_tokens:,}"] if spec.max_tokens else []
    wishes += (
        [f"temperature {spec.temperature:g}"] if spec.temperature is not None else []
    )
    wishes += ["JSON by a schema"] if spec.json_schema is not None else []
    count = len(spec.messages)
    wishes += [f"a chat of {many(count, 'message')}"] if count else []
    wishes += [
        f"{name} {value if isinstance(value, str) else encode(value).decode()}"[:80]
        for name, value in c.wishes_of(spec).items()
    ]
    return ", ".join(wishes)


def _changed(task: TaskDetail) -> str:
    changes = task.result.changes if task.result is not None else None
    if changes is None:
        return ""
    files = many(changes.files, "file")
    lines = f"+{changes.insertions:,} -{changes.deletions:,}"
    return f"{files}, {lines} (agentcom diff {task.task_id})"


def _one_line(value: str) -> str:
    return "\\n".join(value.splitlines())


def _block(text: str) -> Any:
    """Show several lines of untrusted text."""
    from rich.text import Text

    return Text("\n".join(line_of(line) for line in text.rstrip().splitlines()))


def _attempts(screen: Console, attempts: list[RouteView]) -> None:
    if len(attempts) < 2 and not any(each.local_retries for each in attempts):
        return
    routings = table(
        ("try", "tier", "where", "outcome", "retries", "ran", "cost", "why"),
        right=("try", "retries", "ran", "cost"),
        elastic=("where", "why"),
    )
    for each in attempts:
        place = each.endpoint or each.host
        routings.add_row(
            str(each.generation),
            cell(each.tier, style=TIER_STYLE.get(each.tier, "")),
            cell(f"{place} {each.model}", 40),
            cell(each.outcome, style=STATE_STYLE.get(each.outcome, "")),
            str(each.local_retries),
            duration(each.execution_ms),
            "?" if each.unpriced else priced(each.estimated_cost_usd, each.cost_basis),
            cell(
                local(each.error.message if each.error else each.detail or each.reason),
                60,
            ),
        )
    screen.print("\nroutings", style="bold")
    screen.print(routings)


def _checks(screen: Console, attempts: list[RouteView]) -> None:
    """Show each round's verification: its steps, and what the work before it used."""
    rows = table(
        ("try", "round", "step", "", "ran", "tokens", "cost", "command"),
        right=("try", "round", "step", "ran", "tokens", "cost"),
        elastic=("command",),
    )
    for attempt in attempts:
        for each in attempt.checks:
            first = each.step == 1
            counts = f"{tokens(each.tokens_in)}/{tokens(each.tokens_out)}"
            rows.add_row(
                str(attempt.generation),
                f"{each.round}/{each.rounds}",
                f"{each.step}/{each.of}",
                cell(
                    "passed" if each.passed else _not_passed(each),
                    style="green" if each.passed else "red",
                ),
                duration(each.execution_ms),
                counts if first else "",
                dollars(each.estimated_cost_usd)
                if first and each.estimated_cost_usd is not None
                else "",
                cell(each.command, 60),
            )
    if rows.row_count:
        screen.print("\nverification", style="bold")
        screen.print(rows)


def _not_passed(check: CheckView) -> str:
    if check.exit_code is not None:
        return f"exit {check.exit_code}"
    return check.signal or check.code or "failed"


def trace(screen: Console, route: c.TaskRouted) -> None:
    """Show a decision: the reason, the candidates with every factor, the excluded."""
    screen.print("\nroute", style="bold")
    screen.print(line_of(local(route_line(route))))
    screen.print(line_of(f"because {local(route.classification_reason)}"), style="dim")
    if route.wait is not None:
        wait = route.wait
        screen.print(
            f"waited {wait.waited_s:.1f} s for {wait.tier}: {wait.outcome}", style="dim"
        )
    if route.candidates:
        columns = _SCORE if is_narrow() else (*_SCORE, *_RAW)
        candidates = table(
            ("candidate", "model", *columns),
            right=columns,
            elastic=("candidate", "model"),
        )
        for each in route.candidates:
            candidates.add_row(*_candidate(each, route)[: len(columns) + 2])
        screen.print(candidates)
        left = route.candidate_count - len(route.candidates)
        if left > 0:
            screen.print(f"and {left} more", style="dim")
    for excluded in route.excluded_names:
        screen.print(
            line_of(f"excluded {excluded.name}: {local(excluded.reason)}"), style="dim"
        )
    if not route.excluded_names:
        for reason, count in route.excluded.items():
            screen.print(line_of(f"excluded {count}: {local(reason)}"), style="dim")
    screen.print(
        f"policy {route.policy_version}, decided from sequence {route.log_seq} "
        f"in {route.decided_us:.0f} µs",
        style="dim",
    )


DESCRIPTION_SHOWN: Final = 2_000
"""Characters of a description among a task's facts; `--json` has all of it."""
_SCORE: Final = ("score", "load", "capacity", "vram", "warm", "affinity", "slots")


_RAW: Final = ("free", "cpu", "ram")


def _candidate(each: c.Candidate, route: c.TaskRouted) -> list[Any]:
    chosen = (each.host, each.endpoint) == (
        route.selected_host,
        route.selected_endpoint,
    )
    factors = each.factors
    numbers = (
        each.score,
        factors.load,
        factors.capacity,
        factors.vram,
        factors.warm,
        factors.affinity,
        factors.slots,
    )
    return [
        cell(each.endpoint or each.host, style="bold" if chosen else ""),
        cell(each.model),
        *(f"{number:.3f}" for number in numbers),
        f"{each.slots_free}/{each.slots_total}",
        "unknown" if each.cpu is None else f"{each.cpu:.0%}",
        size(each.ram_bytes),
    ]
