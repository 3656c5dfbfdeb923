"""Names of local models, and which of an endpoint's models a task runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from actors.rules.policy import Policy


def normal_model(name: str) -> str:
    """Return a model's name with its tag: `llama3.2` is `llama3.2:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def usual_model(
    models: Collection[str], loaded: Collection[str], policy: Policy
) -> str | None:
    """Choose the model that an endpoint runs for a task which names none.

    The policy's first choice that the endpoint has; else one that is in memory already;
    else any. None where it has no model. All names are normal ones.
    """
    for preferred in map(normal_model, policy.local_models):
        if preferred in models:
            return preferred
    return min(loaded or models, default=None)
