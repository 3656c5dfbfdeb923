"""`agentcom submit`: one task from words and options, or a file of them (`task_file`).

Every submission carries an idempotency key, so that it may be said again when its answer
got lost. The gateway validates, and its words name the field.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
import msgspec

from actors.rules.policy import Policy
from cli.client.attach import bring, gather, schema_of
from cli.client.completing import hosts, models
from cli.client.connection import Session, connected, new_id, run
from cli.client.spans import span_option
from cli.client.target import on_target
from cli.commands.filters import labels_of, labels_option
from cli.commands.later import is_later, later_of, later_options, settle_later
from cli.commands.options import (
    PRIORITIES,
    TIERS,
    Between,
    ShellCommand,
    Word,
    json_option,
    verification_options,
)
from cli.commands.shell_part import on_variables, shell_of
from cli.commands.task_file import say_detached, submit_file, text_of
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OF_STATE,
    EXIT_OK,
    Problem,
    harmless,
    local,
    painted,
    print_json,
    remark,
)
from events import catalogue as c
from events.commands import Submitted
from events.errors import Malformed, shown
from events.traceparent import TraceParent

if TYPE_CHECKING:
    from cli.client.follow import Audience
    from cli.render.outcome import Outcome

_USUAL: Final = c.TaskSpec(description="-")
_POLICY: Final = Policy()


@click.command(cls=ShellCommand)
@click.argument("text", nargs=-1)
@on_target
@click.option(
    "--shell",
    metavar="COMMAND",
    help="Run this command, no model; `--shell -- COMMAND ARGS...` ends the options.",
)
@click.option("--tier", type=Word([*TIERS, "unknown"]))
@click.option("--repo", help="The repository it is about.")
@click.option("--branch", help="The branch to work on.")
@click.option(
    "--file", "files", metavar="PATH[:REASON]", multiple=True, help="A file to look at."
)
@click.option(
    "--attach",
    metavar="FILE",
    multiple=True,
    help="Goes along whole: text, or a picture for a model that sees. 1 MiB in all.",
)
@verification_options
@later_options
@click.option("--need", "needs", multiple=True, help="What the host must be able to.")
@click.option(
    "--priority",
    type=Word(PRIORITIES),
    help=f"How urgent it is  [default: {_USUAL.priority}]",
)
@click.option(
    "--assign-to", metavar="HOST", shell_complete=hosts, help="Only this host."
)
@click.option(
    "--model", shell_complete=models, help="Exactly this model, or wait for it."
)
@span_option(
    "--timeout",
    "How long it may run: 90, 5m, 2h; none where the policy allows it  [default by "
    f"policy: {_POLICY.limits.shell_timeout_s:g} s for a shell command, "
    f"{_POLICY.limits.run_timeout_s:g} s for the rest]",
)
@click.option(
    "--retries",
    type=Between(0, 99),
    metavar="N",
    help="Start a command that failed again, so often  [default by policy: "
    f"{_POLICY.limits.shell_retries}]",
)
@on_variables
@click.option(
    "--cwd",
    metavar="DIR",
    help="Work in this folder of this machine; with --repo, in this one of its checkout. "
    "A command that names no place runs in the folder it is typed in.",
)
@click.option(
    "--anywhere",
    is_flag=True,
    help="Let any host take what names no place, in a folder of its own.",
)
@click.option("--exclusive", is_flag=True, help="Nothing beside it in its checkout.")
@click.option(
    "--max-attempts",
    type=int,
    metavar="N",
    help="How often it is started at most, over all hosts and retries  [default: "
    f"{_USUAL.max_attempts}]",
)
@span_option(
    "--ttl",
    "How long it may wait while its tiers are down: 90, 5m, 2h  [default by policy: "
    f"{_POLICY.task_ttl_s:g} s]",
)
@click.option(
    "--deadline", metavar="TIME", help="RFC 3339; it starts before, or never."
)
@click.option("--key", help="Idempotency key: the same key finds the same task.")
@click.option(
    "--permission-mode",
    type=Word(get_args(c.PermissionMode)),
    help="What Claude Code may do without asking; no more than its host allows.",
)
@click.option(
    "--allow-tool",
    "allowed_tools",
    metavar="TOOL",
    multiple=True,
    help="Of the host's allowed tools this one: Claude Code needs not ask for it.",
)
@click.option(
    "--deny-tool",
    "disallowed_tools",
    metavar="TOOL",
    multiple=True,
    help="Claude Code does not have this tool.",
)
@click.option(
    "--max-turns", type=Between(1, 10_000), metavar="N", help="Of Claude Code."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1e6, min_open=True),
    metavar="USD",
    help="What Claude Code may spend on the task, over all attempts and retries.",
)
@click.option(
    "--append-system-prompt", metavar="TEXT", help="Added to Claude Code's own."
)
@click.option(
    "--mcp-server",
    "mcp_servers",
    metavar="NAME",
    multiple=True,
    help="An MCP server of the host's list.",
)
@labels_option
@click.option("--metadata", metavar="JSON", help="A JSON object, kept with the task.")
@click.option(
    "--answer",
    is_flag=True,
    help="One answer of a model; without it and --work, what the task names decides.",
)
@click.option("--work", is_flag=True, help="An agent with tools works in a folder.")
@click.option("--system", metavar="TEXT", help="The system's message, for an answer.")
@click.option(
    "--max-tokens", type=int, metavar="N", help="How long an answer may be, in tokens."
)
@click.option("--temperature", type=float, metavar="T", help="0 to 2, for an answer.")
@click.option(
    "--json-schema",
    metavar="FILE|JSON",
    help="The answer is JSON that fits this schema, or the task fails.",
)
@click.option("--executor", type=Word(["agent", "noop"]))
@click.option("--wait", is_flag=True, help="Wait for the end; exit by how it ended.")
@click.option("--follow", is_flag=True, help="Show the output as it comes, and wait.")
@click.option(
    "-f",
    "batch",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Submit a file, one task a line as JSON; all of them or none. - is stdin.",
)
@json_option
def submit(
    text: tuple[str, ...],
    *,
    batch: Path | None,
    key: str | None,
    wait: bool,
    follow: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Submit the task TEXT (- reads it from stdin), and print its id.

    \b
      agentcom submit --shell 'git log --oneline | head -3' --follow
      agentcom submit 'summarise this' --tier standard --wait
      agentcom submit -f tasks.jsonl --wait

    Ctrl-C while waiting leaves the task running.
    """
    if batch is not None:
        if follow:
            raise click.UsageError(
                "-f and --follow do not go together: wait for the file's tasks with "
                "--wait, then look at one with `agentcom logs ID`"
            )
        if text or any(
            value is not None and value is not False and value != ()
            for value in options.values()
        ):
            raise click.UsageError(
                "-f takes its tasks from the file alone: leave out the text and the "
                "options that describe a task"
            )
        return submit_file(batch, key, wait=wait, as_json=as_json)
    fields = fields_of(text, options)
    gather(fields, options["attach"])
    fields["idempotency_key"] = key or new_id()
    if not (wait or follow):
        return run(_hand_in(fields, as_json=as_json))
    return waiting(fields, follow=follow, as_json=as_json)


def fields_of(text: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Make a task's fields of what was typed; the gateway judges them."""
    description = " ".join(text)
    if description == "-":
        description = text_of(sys.stdin.buffer.read(), "stdin").strip()
    shell = shell_of(options)
    if not description and shell is not None:
        description = shell["command"][: c.DESCRIPTION_LIMIT]
    if not description and options["files"]:
        raise click.UsageError(
            "say what is to be done: --file names a file to look at, and -f FILE "
            "submits a file of tasks"
        )
    if not description:
        raise click.UsageError("say what is to be done: a text, --shell COMMAND, or -f")
    fields: dict[str, Any] = {
        "description": description,
        "shell": shell,
        "file_hints": [_hint(hint) for hint in options["files"]],
        "success_criteria": list(options["criteria"]),
        "verification_steps": list(options["steps"]),
        "needs": list(options["needs"]),
        "metadata": _metadata(options["metadata"]),
        "labels": labels_of(options["labels"]) or None,
        "mode": _mode(options["answer"], options["work"]),
        "json_schema": schema_of(options["json_schema"]),
        "ttl_s": options["ttl"],
        "timeout_s": options["timeout"],
        "retries": options["retries"],
        "claude": _claude(options),
        "max_budget_usd": options["budget"],
        "max_attempts": _starts(options),
        "cwd": options["cwd"] if shell is None else None,
        "anywhere": options["anywhere"] or None,
        "traceparent": _callers_span(),
        **later_of(options),
        **{name: options[name] for name in _SAME},
    }
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _callers_span() -> str | None:
    """Return the span that whoever started this process names; None where it names none."""
    said = os.environ.get("TRACEPARENT", "")
    return said if TraceParent.read(said) else None


_SAME: Final = (
    "tier",
    "repo",
    "branch",
    "priority",
    "assign_to",
    "model",
    "deadline",
    "executor",
    "system",
    "max_tokens",
    "temperature",
    "verify_rounds",
)


def _claude(options: dict[str, Any]) -> dict[str, Any] | None:
    names = c.ClaudeWishes.__struct_fields__
    wishes = {
        name: list(options[name]) if isinstance(options[name], tuple) else options[name]
        for name in names
        if options.get(name) not in (None, ())
    }
    return wishes or None


def _starts(options: dict[str, Any]) -> int | None:
    """The most starts: as asked for, and else as many as the retries need."""
    starts: int | None = options["max_attempts"]
    if starts is None and options["retries"] is not None:
        starts = max(_USUAL.max_attempts, options["retries"] + 1)
    return starts


def _mode(answer: bool, work: bool) -> str | None:
    if answer and work:
        raise click.UsageError("--answer and --work do not go together: say one")
    return "answer" if answer else "work" if work else None


def _hint(argument: str) -> dict[str, str]:
    path, _, reason = argument.partition(":")
    return {"path": path, "reason": reason.strip()} if reason else {"path": path}


def _metadata(argument: str | None) -> dict[str, Any] | None:
    if argument is None:
        return None
    try:
        return msgspec.json.decode(argument, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise click.UsageError(
            f"--metadata: expected a JSON object ({error})"
        ) from error


# -- one task --------------------------------------------------------------------------


async def _hand_in(fields: dict[str, Any], *, as_json: bool) -> int:
    async with connected("operator") as client:
        await settle_folder(client, fields)
        await bring(client, fields)
        submitted = await hand_in(client, fields)
    if as_json:
        return print_json(submitted)
    click.echo(submitted.task_id)
    remark(_about(submitted))
    if sys.stderr.isatty():
        remark(f"agentcom logs {submitted.task_id} --follow")
    return EXIT_OK


async def settle_folder(
    client: Session, fields: dict[str, Any], *, planned: bool = False
) -> None:
    """Fill in where a task works that was typed here, and say so.

    Raises click.UsageError for a folder of this machine that is not there. A task that
    comes later or after others, and a planned one (`planned`), may find it made by then.
    """
    from cli.client.here import is_local, is_missing, stand_here
    from cli.local.instance import Instance

    await settle_later(client, fields)
    anywhere = fields.pop("anywhere", False)
    instance = Instance()
    host = instance.own_host() if is_local(client.link.address.url) else ""
    host = host if host and instance.has_worked(host) else ""
    try:
        here = stand_here(fields, here=_here(), host=host, anywhere=anywhere)
    except Malformed as wrong:
        raise click.UsageError(str(wrong)) from wrong
    if here and not planned and not is_later(fields) and is_missing(here):
        raise click.UsageError(
            f"--cwd: {shown(here)} is no folder of this machine; name one that is there"
        )
    if here:
        more = "" if fields.get("shell") is None else "; --anywhere: on any host"
        remark(f"for {host}, this machine, in {here}{more}")


def _here() -> str:
    try:
        return os.getcwd()
    except OSError as wrong:
        raise Problem(f"the folder this was typed in is gone: {wrong}") from wrong


async def hand_in(client: Session, fields: dict[str, Any]) -> Submitted:
    """Submit one task; raises Refused."""
    return await client.command("task.submit", fields, Submitted)


def waiting(fields: dict[str, Any], *, follow: bool, as_json: bool) -> int:
    """Submit, then wait; on Ctrl-C say how to go on."""
    ids: list[str] = []
    try:
        return run(_hand_in_and_wait(fields, ids, follow=follow, as_json=as_json))
    except KeyboardInterrupt:
        say_detached(ids)
        return EXIT_INTERRUPTED


async def _hand_in_and_wait(
    fields: dict[str, Any], ids: list[str], *, follow: bool, as_json: bool
) -> int:
    from cli.client.follow import Following, outcome_by_asking
    from cli.render.display import JsonLines, Screen

    async with connected("operator") as client:
        if follow and not client.may_read:
            raise Problem(
                "a submitter may not read output: wait with --wait, or follow with "
                "the operator's key"
            )
        await settle_folder(client, fields)
        await bring(client, fields)
        submitted = await hand_in(client, fields)
        ids.append(submitted.task_id)
        remark(f"task {submitted.task_id}: {_about(submitted)}")
        screen = Screen()
        audience: Audience | None = None
        if follow:
            audience = JsonLines() if as_json else screen
        if client.may_read:
            following = Following(client, submitted.task_id, audience)
            outcome = await following.outcome(screen.waits)
        else:
            outcome = await outcome_by_asking(client, submitted.task_id)
    if as_json:
        print_json(outcome)
    else:
        if not follow:
            _print_output(outcome)
        screen.end(outcome)
    return EXIT_OF_STATE[outcome.state]


def _print_output(outcome: Outcome) -> None:
    on_terminal = sys.stdout.isatty()
    sys.stdout.write(harmless(outcome.output) if on_terminal else outcome.output)
    if outcome.output and not outcome.output.endswith("\n") and on_terminal:
        sys.stdout.write("\n")
    sys.stdout.flush()
    sys.stderr.write(painted(harmless(outcome.stderr), "stderr", sys.stderr))
    if outcome.stderr and not outcome.stderr.endswith("\n"):
        sys.stderr.write("\n")


def _about(submitted: Submitted) -> str:
    again = " (submitted before)" if submitted.existing else ""
    warned = "".join(f"; {local(warning)}" for warning in submitted.warnings)
    mode = (
        f", {submitted.mode} ({local(submitted.mode_reason)})" if submitted.mode else ""
    )
    return f"{submitted.effective_tier}{mode}{again}{warned}"
