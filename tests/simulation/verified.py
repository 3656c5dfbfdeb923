"""What must hold of verification, judged by what the steps truly found.

The judge is told by the simulated machines of each step that ran and of each piece of
work that was done, and holds what the log says against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events import catalogue as c

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 2
"""The policy's usual number."""
TOKENS_IN = 10
"""What each piece of work takes."""


class VerificationJudge:
    """Takes in what steps found, and what is reported of it."""

    def __init__(self, complain: Callable[[str, str], None]) -> None:
        self._complain = complain
        self._found: dict[str, list[tuple[str, bool]]] = {}
        self._works: dict[str, int] = {}
        self._given_back: set[str] = set()
        self._escalated: dict[str, int] = {}

    def checked(self, route: str, command: str, passed: bool) -> None:
        """A step has run."""
        self._found.setdefault(route, []).append((command, passed))

    def worked(self, route: str) -> None:
        """A piece of work was done well."""
        self._works[route] = self._works.get(route, 0) + 1

    def routed(self, event: c.TaskRouted, where: str) -> None:
        """A task was sent somewhere."""
        again = event.task_id in self._given_back and not event.fallback_used
        if again and event.effective_tier == "standard":
            self._complain("what did not pass is not tried there again", where)
        if event.fallback_code == "verification":
            n = self._escalated[event.task_id] = (
                self._escalated.get(event.task_id, 0) + 1
            )
            if n > 1:
                self._complain("at most one escalation by verification", where)
            if event.task_id not in self._given_back:
                self._complain("who passed, or was never asked, does not hop", where)

    def retried(self, task_id: str) -> None:
        """Somebody had it tried anew: what was found before is forgotten."""
        self._given_back.discard(task_id)
        self._escalated.pop(task_id, None)

    def reassigned(self, task_id: str) -> None:
        """Somebody had it tried on a host of their choice, in whichever tier that is."""
        self._given_back.discard(task_id)

    def reported(self, spec: c.TaskSpec, event: c.RunEvent, where: str) -> None:
        """A host says how a run ended."""
        result = getattr(event, "result", None)
        steps = spec.verification_steps
        found = self._found.get(event.route, [])
        works = self._works.get(event.route, 0)
        if isinstance(event, c.TaskCompleted):
            last = found[len(found) - len(steps) :] if steps else []
            if [command for command, _ in last] != list(steps):
                self._complain("every step is run, in order", f"{where}: {found}")
            if not all(passed for _, passed in last):
                self._complain("never completed unverified", f"{where}: {found}")
            if event.result.verified is not (True if steps else None):
                self._complain("a result says whether it passed", where)
        if isinstance(event, c.TaskCompleted | c.TaskFailed | c.TaskReturned):
            if sum(not passed for _, passed in found) > (spec.verify_rounds or ROUNDS):
                self._complain("at most so many rounds", f"{where}: {found}")
            paid = TOKENS_IN * works if result is None else result.tokens_in or 0
            if steps and works > 1 and paid < TOKENS_IN * works:
                self._complain("every round is paid for", f"{where}: {works}")
        if isinstance(event, c.TaskReturned) and event.reason == "verification":
            self._given_back.add(event.task_id)
