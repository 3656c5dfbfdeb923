"""One command for many tasks, sent until it has come to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.client.connection import new_id
from events.commands import BulkProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.client.connection import Session


async def would_change(client: Session, body: dict[str, Any]) -> BulkProgress:
    """Count the tasks that a command would be carried out on; raises Refused."""
    return await client.command("task.bulk", {**body, "dry_run": True}, BulkProgress)


async def change_all(
    client: Session, body: dict[str, Any], so_far: Callable[[BulkProgress], None]
) -> BulkProgress:
    """Carry a command out on all tasks that it means; raises Refused.

    `so_far` is told after each answer. The same id is sent each time, so that an answer
    that got lost costs nothing.
    """
    body = {"id": new_id(), **body}
    while True:
        progress = await client.command("task.bulk", body, BulkProgress)
        so_far(progress)
        if progress.finished:
            return progress
