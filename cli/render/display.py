"""Shows a task as it goes on: its text on stdout, everything about it on stderr.

So `agentcom submit … --follow > file` keeps the output and shows the rest. With `--json`
each piece is one line of JSON on stdout, as the output stream has it.
"""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Final

from cli.render.terminal import (
    dollars,
    duration,
    harmless,
    line_of,
    local,
    many,
    painted,
    priced,
    remark,
    tokens,
)
from events import catalogue as c
from events.chunks import called
from events.codec import encode

if TYPE_CHECKING:
    from cli.render.outcome import Outcome
    from projections.judged import JudgedEvent


class Screen:
    """An audience on a terminal, or on pipes."""

    def __init__(self, *, about: bool = True, notes: IO[str] | None = None) -> None:
        self._about = about
        self._notes = notes or sys.stderr
        self._open: IO[str] | None = None
        self._together = _same_place(sys.stdout, self._notes)
        self.lines: list[str] = []

    def event(self, recorded: c.Recorded, judged: JudgedEvent) -> None:
        """Show what was decided or has happened, where the output does not say it."""
        if not self._about or judged.verdict != "applied":
            return
        line = told(recorded.event)
        if line:
            self.note(line)

    def chunk(self, chunk: c.Chunk) -> None:
        """Show a piece of output."""
        kind = chunk.event_type
        if kind in ("status", "error"):
            self.lines.append(chunk.text)
            self.note(chunk.text, kind)
            return
        text = chunk.text if kind != "call" else called(chunk.text)
        if kind in ("stdout", "token"):
            if sys.stdout.isatty():
                text = harmless(text)
            self._write(sys.stdout, text, "")
        else:
            if kind == "tool" and not text.endswith("\n"):
                text += "\n"
            self._write(self._notes, harmless(text), kind)

    def _write(self, stream: IO[str], text: str, style: str) -> None:
        if self._open is not None and self._open is not stream:
            self._break()
        stream.write(painted(text, style, stream))
        stream.flush()
        self._open = None if text.endswith("\n") else stream

    def _break(self) -> None:
        """End a line that stands open on the terminal, so that nothing is glued to it."""
        if self._open is not None:
            # What goes into a file of its own stays as it was said.
            if self._open.isatty() or self._together:
                self._open.write("\n")
                self._open.flush()
            self._open = None

    def note(self, text: str, style: str = "dim") -> None:
        """Show a line about the task, its times in the reader's zone."""
        self._break()
        self._notes.write(painted(line_of(local(text)), style, self._notes) + "\n")
        self._notes.flush()

    def missing(self, size: int) -> None:
        """Show that the output is not whole."""
        self.note(missing(size), "warn")

    def waits(self, because: list[str]) -> None:
        """Show why it waits."""
        self.note(f"waits: {' '.join(because)}", "warn")

    def end(self, outcome: Outcome) -> None:
        """Show how it ended."""
        self._break()
        good = outcome.state == "completed"
        self.note(ending(outcome), "good" if good else "bad")


def _same_place(one: IO[str], other: IO[str]) -> bool:
    """Whether both streams end up in the same place, as with `2>&1`."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):
        return False


class JsonLines:
    """An audience that is a program."""

    def event(self, recorded: c.Recorded, judged: JudgedEvent) -> None:
        """Say nothing: `agentcom events --task ID --json` does."""

    def chunk(self, chunk: c.Chunk) -> None:
        """Print a piece of output as it is stored."""
        sys.stdout.write(encode(chunk).decode() + "\n")
        sys.stdout.flush()

    def missing(self, size: int) -> None:
        """Tell whoever reads the errors that the output is not whole."""
        remark(missing(size))


def missing(size: int) -> str:
    """Say that so many bytes of a task's output did not come in time."""
    return (
        f"{many(size, 'byte')} of its output did not come in time: "
        "`agentcom logs` prints what is stored, `agentcom task` its result"
    )


def told(event: c.Event) -> str:
    """Say what an event means to somebody who waits; "" where the output tells it."""
    match event:
        case c.TaskRouted():
            return f"→ {route_line(event)}"
        case c.TaskStarted(cwd=cwd) if cwd:
            return f"runs in {cwd}"
        case c.TaskDelegated():
            return f"has submitted the task {event.child}"
        case c.TaskDeferred():
            return f"waits: {event.reason}"
        case c.TaskRequeued():
            rest = f" ({event.detail})" if event.detail else ""
            return f"queued again: {event.reason}{rest}"
        case c.TaskReturned():
            rest = f" ({event.detail})" if event.detail else ""
            return f"given back by {event.host}: {event.reason}{rest}"
        case c.TaskRejected():
            return f"not taken by {event.host}: {event.reason} {event.detail}"
        case c.TaskCancelled():
            return "cancelled" + (f": {event.reason}" if event.reason else "")
        case c.TaskRetried():
            return "tried anew"
        case c.TaskStep():
            return f"{event.step} {event.detail}"
        case _:
            return ""


def route_line(event: c.TaskRouted) -> str:
    """Say in a line where a task goes."""
    where = event.selected_endpoint or event.selected_host
    on = f" on {where}" if where == event.selected_host else ""
    if not on:
        on = f" on {event.selected_host} by {where}"
    model = f", {event.selected_model}" if event.selected_model else ""
    hop = ""
    if event.fallback_used:
        hop = f"  [fallback from {event.fallback_from_tier}: {event.fallback_reason}]"
    return f"{event.effective_tier}{on}{model}{simulated(event.simulated)}{hop}"


def simulated(is_simulated: bool) -> str:
    """Return the mark of what only imitates a model."""
    return " [simulated]" if is_simulated else ""


CUT_SHORT: Final = "cut off at the model's length limit"


def ending(outcome: Outcome) -> str:
    """Say in a line how a task ended and what it cost."""
    parts = [outcome.state]
    if outcome.execution_ms is not None and outcome.host:
        parts[0] += f" in {duration(outcome.execution_ms)} on {outcome.host}"
    if outcome.attempts > 1:
        parts.append(f"{outcome.attempts} attempts")
    if outcome.error is not None:
        parts.append(outcome.error.message)
    if outcome.changes is not None and outcome.changes.files:
        changes = outcome.changes
        files = many(changes.files, "file")
        parts.append(f"{files} changed +{changes.insertions} -{changes.deletions}")
    if outcome.length_limited:
        parts.append(CUT_SHORT)
    if outcome.host:
        parts.append(cost_line(outcome))
    return ", ".join(parts)


def cost_line(outcome: Outcome) -> str:
    """Say in a few words what a task cost."""
    if outcome.target_type == "sidecar":
        return "0 tokens, $0.00 (shell execution)"
    counts = f"{tokens(outcome.tokens_in)} in, {tokens(outcome.tokens_out)} out"
    if cached := outcome.cache_read_tokens + outcome.cache_write_tokens:
        counts += f", {cached} cached"
    if outcome.target_type in ("ollama", "openai"):
        saved = f", saved {dollars(outcome.saved_usd)}" if outcome.saved_usd else ""
        money = f"$0.00 (local{saved})"
    else:
        money = priced(outcome.estimated_cost_usd, outcome.cost_basis)
    return f"{outcome.model_used}, {counts}, {money}{simulated(outcome.simulated)}"
