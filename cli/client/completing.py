"""What a shell offers when one presses Tab: ids, hosts, models, names of the policy.

It is read from the read models' file of the instance on this machine, without a
connection, so that it comes at once. An instance elsewhere (`--nats`, `AGENTCOM_NATS`) is
asked, and where it does not answer soon nothing is offered.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from click.shell_completion import BashComplete, CompletionItem

from cli.client.target import SAID, said_url, set_target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import click

    from projections.glance import Glimpse

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

T = TypeVar("T")

OFFERED: Final = 50
ASK_S: Final = 1.5
"""So long an instance elsewhere is waited for, by somebody who has pressed Tab."""


def ids(*states: str) -> Completer:
    """Offer the newest tasks' ids, of these states or of any."""

    def offer(
        ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from projections import glance

        store = _store(ctx)
        rows = (
            _tasks_there(incomplete, states)
            if store is None
            else glance.tasks(store, incomplete, states, OFFERED)
        )
        typed_ids = _said(ctx)
        return [
            CompletionItem(each.id, help=_line(f"{each.state}: {each.description}"))
            for each in rows
            if each.id not in typed_ids
        ]

    return offer


def _of_the_fleet(what: Literal["hosts", "models"]) -> Completer:
    def offer(
        ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from projections import glance

        here = {"hosts": glance.hosts, "models": glance.models}
        store = _store(ctx)
        names = _fleet_there(what) if store is None else here[what](store)
        return _beginning(incomplete, names)

    return offer


hosts = _of_the_fleet("hosts")
models = _of_the_fleet("models")


def policy_names(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the names of the policy's numbers."""
    from actors.rules.policy_words import explained

    return _beginning(incomplete, [row.name for row in explained()])


class WholeWords(BashComplete):
    """Bash, to which `:` and `=` are words of their own: an address comes in pieces."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one."""
        args, incomplete = super().get_completion_args()
        *whole, last = rejoined([*args, incomplete])
        return whole, last


def rejoined(words: list[str]) -> list[str]:
    """Put together what bash has taken apart at `:` and `=`."""
    whole: list[str] = []
    glue = False
    for word in words:
        joins = word.startswith((":", "=")) and bool(whole)
        if joins or glue:
            whole[-1] += word
        else:
            whole.append(word)
        glue = joins and word in (":", "=")
    return whole


def _beginning(incomplete: str, names: Any) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _store(ctx: click.Context) -> Path | None:
    """Return the file of the instance that is meant; None for one elsewhere.

    This process completes one line, so what the line says of the instance may stand for
    the whole of it, as for a command.
    """
    for name in ("data", "nats", "creds"):
        if value := ctx.meta.get(SAID + name):
            set_target(**{name: value})
    if said_url():
        return None
    from cli.local.instance import Instance

    return Instance().read_models


# -- an instance elsewhere -------------------------------------------------------------


def _asked(name: str, question: dict[str, Any], kind: type[T]) -> T | None:
    """Ask an instance elsewhere; None where it does not answer in `ASK_S`."""
    import asyncio

    from cli.client.connection import connected

    async def ask() -> T:
        async with asyncio.timeout(ASK_S), connected() as client:
            return await client.query(name, question, kind)

    with suppress(Exception):
        return asyncio.run(ask())
    return None


def _tasks_there(beginning: str, states: tuple[str, ...]) -> list[Glimpse]:
    from projections.answers import TasksAnswer
    from projections.glance import Glimpse

    question: dict[str, Any] = {"limit": OFFERED, "state": list(states)}
    if beginning:
        question["text"] = beginning
    answer = _asked("tasks", question, TasksAnswer)
    return [
        Glimpse(row.task_id, row.state, row.description)
        for row in (answer.tasks if answer is not None else ())
        if row.task_id.startswith(beginning.upper())
    ]


def _fleet_there(what: Literal["hosts", "models"]) -> list[str]:
    from projections.answers import HostsAnswer

    answer = _asked("hosts", {}, HostsAnswer)
    if answer is None:
        return []
    if what == "hosts":
        return [row.host for row in answer.hosts]
    return [row.model for row in answer.models]


def _said(ctx: click.Context) -> tuple[str, ...]:
    said = ctx.params.get("task_ids") or ()
    return said if isinstance(said, tuple) else ()


def _line(text: str) -> str:
    from cli.render.terminal import line_of

    return line_of(text, 70)
