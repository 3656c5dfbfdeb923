"""Whether a task's prompt can be read by anything there is, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.rules.classification import classify
from actors.rules.contexts import context_needed
from actors.rules.modes import resolve
from actors.rules.prompt import estimate
from events import catalogue as c
from events.errors import Malformed
from events.models import model_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.scheduler.fleet import Fleet
    from actors.scheduler.places import Place


def check_size(spec: c.TaskSpec, fleet: Fleet) -> None:
    """Refuse a prompt that is longer than every context there is: raises Malformed.

    Where a context is not known, or nobody is there yet, nothing is refused: who is asked
    will say it.
    """
    if resolve(spec).mode is None:
        return
    tokens = estimate(spec)
    needed = context_needed(tokens, work=False)
    largest, whose = 0, ""
    for name, context in _contexts(spec, fleet):
        if context is None or context >= needed:
            return
        if context > largest:
            largest, whose = context, name
    if whose:
        raise Malformed(
            _asked_in(spec),
            f"a prompt that {largest:,} tokens hold together with its answer, the "
            f"largest context there is ({whose})",
            f"about {tokens:,} tokens (one for each four bytes)",
        )


def _asked_in(spec: c.TaskSpec) -> str:
    """Name the field that most of a prompt stands in."""
    if spec.messages:
        return "messages"
    return "attachments" if spec.attachments else "description"


def _contexts(spec: c.TaskSpec, fleet: Fleet) -> Iterator[tuple[str, int | None]]:
    """Yield what could read it and how many tokens each reads, None where unknown."""
    complex_ = classify(spec).effective_tier == "complex"
    claude_may = complex_ or not (spec.model or c.chat_options(spec))
    local_may = not complex_ or fleet.policy.allow_downgrade
    for host in fleet.hosts.values():
        if not host.present or (spec.assign_to and host.name != spec.assign_to):
            continue
        for place in host.places():
            if place.kind == "claude" and claude_may:
                yield place.name, fleet.policy.claude_context_tokens
            if place.kind == "local" and local_may:
                yield from _local(spec, place)


def _local(spec: c.TaskSpec, place: Place) -> Iterator[tuple[str, int | None]]:
    models = place.models
    if spec.model:
        named = model_named(spec.model, place.endpoint_kind, models)
        models = () if named is None else (named,)
    for model in models:
        yield f"{model} on {place.name}", place.context_tokens.get(model)
