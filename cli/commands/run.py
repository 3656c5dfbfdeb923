"""`agentcom run`: `submit --follow` in a word."""

from __future__ import annotations

from typing import Any, Final

from cli.client.attach import gather
from cli.client.connection import new_id
from cli.commands.options import ShellCommand
from cli.commands.submit import fields_of, submit, waiting

_NOT_OF_ONE: Final = frozenset({"wait", "follow", "batch"})


def _run(
    *, text: tuple[str, ...], key: str | None, as_json: bool, **options: Any
) -> int:
    fields = fields_of(text, options)
    gather(fields, options["attach"])
    fields["idempotency_key"] = key or new_id()
    return waiting(fields, follow=True, as_json=as_json)


run = ShellCommand(
    "run",
    callback=_run,
    params=[each for each in submit.params if each.name not in _NOT_OF_ONE],
    help="""Submit the task TEXT, show its output as it comes, and exit by how it ended.

    The same as `submit --follow`, with the same options.

    \\b
      agentcom run --shell 'make test'
      agentcom run 'summarise this' --tier standard

    Ctrl-C leaves the task running.
    """,
)
