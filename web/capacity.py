"""Who could take a chat, by the read models, and how long it would wait for a slot.

What the gateway cannot know is refused here before a task exists: a name that is no
model's, tools or pictures that nothing there can take.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events.commands import Refusal, refuse
from events.models import model_named
from projections.queue import PRIORITIES
from projections.tiers import endpoints_of, models_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.fleet import EndpointView
    from projections.judged import JudgedEvent
    from projections.runner import Runner
    from web.openai import ChatRequest

REMEMBERED: Final = 50
"""Runs of a tier by whose mean length a queue is reckoned."""
NAMED: Final = 10


class Capacity:
    """The fleet and its queue, as one chat sees them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._took: dict[str, deque[float]] = {}

    def take(self, judged: JudgedEvent) -> None:
        """Remember how long a run took."""
        event = judged.recorded.event
        if isinstance(event, c.TaskCompleted) and judged.task is not None:
            took = self._took.setdefault(judged.task.tier, deque(maxlen=REMEMBERED))
            took.append(event.result.execution_ms / 1000)

    def models(self) -> dict[str, str]:
        """Return the models that answer now, and the kind of server that has them."""
        owners: dict[str, str] = {}
        fleet = self._runner.world.fleet
        for endpoint, name in models_of(fleet, "standard"):
            owners.setdefault(name, endpoint.kind)
        for _, endpoint in endpoints_of(fleet, "standard"):
            for name in endpoint.embedders if endpoint.up else ():
                owners.setdefault(name, endpoint.kind)
        return dict(sorted(owners.items()))

    def unknown(self, name: str) -> Refusal:
        """Refuse a model that nobody has."""
        there = [*self.models()]
        some = ", ".join(there[:NAMED]) or "none"
        more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
        return refuse(
            "model_not_found",
            f"model: nobody here has {name[:100]}; there are auto, standard, complex, "
            f"and the models {some}{more}",
            "model",
        )

    def refuses(self, chat: ChatRequest) -> Refusal | None:
        """Say why nothing that is there could take a chat; None where something could.

        Where nothing is there at all, it may come, and the chat waits.
        """
        if chat.task.get("tier") == "complex":
            return None
        places = list(endpoints_of(self._runner.world.fleet, "standard"))
        if not places:
            return None
        model = chat.task.get("model", "")
        able = [
            (endpoint, name)
            for _, endpoint in places
            for name in _names(endpoint, chat)
            if not model or model_named(model, endpoint.kind, (name,))
        ]
        if model and not able:
            return self.unknown(model)
        for needed, path, can in _needs(chat):
            able = [(e, name) for e, name in able if _has(e, name, needed)]
            if not able:
                which = f"no endpoint with {model}" if model else "no model here"
                return refuse("malformed", f"{path}: {which} {can}", path)
        return None

    def wait_s(self, chat: ChatRequest) -> float:
        """Guess in how many seconds a chat would be begun; 0 where a slot is free or
        nothing is known."""
        tier = chat.task.get("tier", "standard")
        world = self._runner.world
        took = self._took.get(tier)
        slots = sum(self._slots(tier, chat.task.get("model", "")).values())
        if not took or not slots:
            return 0.0
        running = sum(
            record.tier == tier and record.phase != "returned"
            for record in world.queue.under_way.values()
        )
        better = PRIORITIES[: PRIORITIES.index(chat.task["priority"]) + 1]
        ahead = sum(
            len(world.queue.lanes.get((tier, priority), ())) for priority in better
        )
        if running + ahead < slots:
            return 0.0
        return (ahead + 1) / slots * (sum(took) / len(took))

    def is_there(self, tier: str) -> bool:
        """Whether anything of a tier answers."""
        fleet = self._runner.world.fleet
        return any(endpoint.up for _, endpoint in endpoints_of(fleet, tier))

    def _slots(self, tier: str, model: str) -> dict[tuple[str, str], int]:
        """Count the slots of a tier that has a model, those that hosts share once."""
        slots: dict[tuple[str, str], int] = {}
        for host, endpoint in endpoints_of(self._runner.world.fleet, tier):
            if host.state != "up" or not endpoint.up:
                continue
            names = (*endpoint.models, *endpoint.loaded, *endpoint.embedders)
            if not model or model_named(model, endpoint.kind, names):
                owner = "" if endpoint.shared else host.host
                slots[owner, endpoint.endpoint] = endpoint.slots
        return slots


def _names(endpoint: EndpointView, request: ChatRequest) -> list[str]:
    """Name the models of an endpoint that could be asked this: for vectors, embedders too."""
    names = [*endpoint.models, *endpoint.loaded]
    return [*endpoint.embedders, *names] if "embed" in request.task else names


def _needs(request: ChatRequest) -> Iterator[tuple[str, str, str]]:
    """Yield what a chat needs of a model: the word, the parameter, what who has it can do."""
    chat = request.task.get("chat") or {}
    if chat.get("tools"):
        yield "tools", "tools", "calls tools"
    choice = chat.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        yield "choice", "tool_choice", "can be told which tool to call (Ollama cannot)"
    elif chat.get("parallel_tool_calls") is False:
        yield (
            "choice",
            "parallel_tool_calls",
            "can be told how many tools to call (Ollama cannot)",
        )
    if request.pictures:
        yield "vision", "messages", "sees pictures"


def _has(endpoint: EndpointView, model: str, needed: str) -> bool:
    if needed == "choice":
        return endpoint.kind == "openai"
    return needed in endpoint.model_capabilities.get(model, endpoint.capabilities)
