"""What a shell offers when one presses Tab: ids, hosts, models, names of the policy.

It is read from the read models' file of the instance on this machine, without a
connection, so that it comes at once; elsewhere nothing is offered.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from click.shell_completion import CompletionItem

from cli.client.target import said_url

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

OFFERED: Final = 50


def ids(*states: str) -> Completer:
    """Offer the newest tasks' ids, of these states or of any."""

    def offer(
        ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from projections import glance

        store = _store(ctx)
        if store is None:
            return []
        rows = glance.tasks(store, incomplete, states, OFFERED)
        typed_ids = _said(ctx)
        return [
            CompletionItem(each.id, help=_line(f"{each.state}: {each.description}"))
            for each in rows
            if each.id not in typed_ids
        ]

    return offer


def hosts(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the hosts' names."""
    from projections import glance

    store = _store(ctx)
    return _beginning(incomplete, [] if store is None else glance.hosts(store))


def models(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the models that hosts have."""
    from projections import glance

    store = _store(ctx)
    return _beginning(incomplete, [] if store is None else glance.models(store))


def policy_names(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the names of the policy's numbers."""
    from actors.rules.policy_words import explained

    return _beginning(incomplete, [row.name for row in explained()])


def _beginning(incomplete: str, names: Any) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _store(ctx: click.Context) -> Path | None:
    """Return the file of the instance that is meant; None for one elsewhere."""
    params: dict[str, Any] = {}
    above: click.Context | None = ctx
    while above is not None:
        params = {**above.params, **params}
        above = above.parent
    if params.get("nats") or said_url():
        return None
    from cli.local.instance import Instance

    data = params.get("data")
    return (Instance(Path(data)) if data else Instance()).read_models


def _said(ctx: click.Context) -> tuple[str, ...]:
    ids = ctx.params.get("task_ids") or ()
    return ids if isinstance(ids, tuple) else ()


def _line(text: str) -> str:
    from cli.render.terminal import line_of

    return line_of(text, 70)
