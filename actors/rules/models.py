"""Which of an endpoint's models a task runs that names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.models import model_named

if TYPE_CHECKING:
    from collections.abc import Collection

    from actors.rules.policy import Policy


def usual_model(
    kind: str | None,
    models: Collection[str],
    loaded: Collection[str],
    policy: Policy,
) -> str | None:
    """Choose the model that an endpoint runs for a task which names none.

    The policy's first choice that the endpoint has; else one that is in memory already;
    else any. None where it has no model.
    """
    for preferred in policy.local_models:
        named = model_named(preferred, kind, models)
        if named is not None:
            return named
    return min(loaded or models, default=None)
