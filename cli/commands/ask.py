"""Asking without doing: classify, route; and the policy they both go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from actors.rules import policy as policies
from actors.rules import policy_words
from cli.client.attach import FILES, gather
from cli.client.completing import policy_names
from cli.client.connection import Session, carried_out, connected, run
from cli.client.target import on_target
from cli.commands.options import ShellCommand, json_option
from cli.commands.submit import fields_of, settle_folder, submit
from cli.render.terminal import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_USAGE,
    Problem,
    console,
    did_you_mean,
    line_of,
    local,
    print_json,
)
from events import catalogue as c
from events import subjects
from events.commands import Classified, Done, WouldRoute
from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

_NOT_OF_A_TASK = {"wait", "follow", "batch", "as_json", "key"}


def _task_options(command: F) -> F:
    """Add the options of `submit` that describe a task."""
    for option in reversed(submit.params):
        if isinstance(option, click.Option) and option.expose_value:
            if option.name in _NOT_OF_A_TASK:
                continue
            params: list[click.Parameter] = getattr(command, "__click_params__", [])
            params.append(option)
            command.__click_params__ = params  # type: ignore[attr-defined]
    return command


@click.command(cls=ShellCommand)
@click.argument("text", nargs=-1)
@on_target
@json_option
@_task_options
def classify(text: tuple[str, ...], *, as_json: bool, **options: Any) -> int:
    """Say which tier TEXT belongs to, and by what signals; nothing is submitted."""
    return run(_classify(_fields(text, options), as_json=as_json))


def _fields(text: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Make a task's fields, its files' sizes among them; the files stay here."""
    fields = fields_of(text, options)
    gather(fields, options["attach"])
    fields.pop(FILES, None)
    return fields


async def _classify(fields: dict[str, Any], *, as_json: bool) -> int:
    async with connected() as client:
        await settle_folder(client, fields)
        answer = await client.command("task.classify", fields, Classified)
    if as_json:
        return print_json(answer)
    _show_classification(answer.classification)
    if answer.mode is not None:
        click.echo(f"mode        {answer.mode} ({line_of(local(answer.mode_reason))})")
    for warning in answer.warnings:
        click.echo(f"warning     {line_of(local(warning))}")
    return EXIT_OK


def _show_classification(classed: c.Classification) -> None:
    inferred = classed.inferred
    click.echo(f"tier        {classed.effective_tier}")
    click.echo(f"because     {line_of(local(classed.reason))}")
    click.echo(
        f"inferred    {inferred.tier} (confidence {inferred.confidence:.2f}): "
        f"{line_of(', '.join(inferred.signals)) or 'no signals'}"
    )


@click.command(cls=ShellCommand)
@click.argument("text", nargs=-1)
@on_target
@json_option
@click.option(
    "--dry-run", is_flag=True, help="Nothing else is possible: it is the way."
)
@_task_options
def route(
    text: tuple[str, ...], *, as_json: bool, dry_run: bool, **options: Any
) -> int:
    """Say where the task TEXT would go now, with every candidate; nothing is submitted."""
    del dry_run
    return run(_route(_fields(text, options), as_json=as_json))


async def _route(fields: dict[str, Any], *, as_json: bool) -> int:
    from cli.render.tasks import trace

    async with connected() as client:
        await settle_folder(client, fields)
        answer = await client.command("task.route", fields, WouldRoute)
    if as_json:
        return print_json(answer)
    _show_classification(answer.classification)
    if answer.decision is not None:
        trace(console(), answer.decision)
    else:
        click.echo(f"would wait  {line_of(local(answer.waiting_for))}")
    return EXIT_OK


# -- policy ----------------------------------------------------------------------------


@click.group()
def policy() -> None:
    """The numbers that decide: all may be changed while the system runs."""


@policy.command("show")
@click.argument("name", required=False, shell_complete=policy_names)
@on_target
@json_option
def show(name: str | None, *, as_json: bool) -> int:
    """Print the policy in force, or of it NAME, or all below NAME (`limits`)."""
    return run(_show(name, as_json=as_json))


async def _show(name: str | None, *, as_json: bool) -> int:
    async with connected() as client:
        version, document = await current_policy(client)
    rows = dict(policy_words.flat("", document))
    if name is not None:
        chosen = {n: v for n, v in rows.items() if f"{n}.".startswith(f"{name}.")}
        if not chosen:
            groups = {each.rpartition(".")[0] for each in rows}
            hint = did_you_mean(name, [*sorted(groups), *rows])
            raise Problem(f"the policy has no {line_of(name)}.{hint}", EXIT_NOT_FOUND)
        rows = document = chosen
    if as_json:
        return print_json({"version": version, "policy": document})
    click.echo(f"# version {version}")
    for each, value in rows.items():
        click.echo(f"{each} = {json.dumps(value)}")
    return EXIT_OK


async def current_policy(client: Session) -> tuple[int, dict[str, Any]]:
    """Return version and document of the policy in force; 0 for the built-in one."""
    last = await client.log.last(subjects.POLICY)
    if last is None or not isinstance(last.event, c.PolicyChanged):
        return 0, policies.document(policies.Policy())
    return last.event.version, policies.document(policies.parse(last.event.policy))


@policy.command("explain")
@click.argument("name", required=False, shell_complete=policy_names)
@json_option
def explain(name: str | None, *, as_json: bool) -> int:
    """Say what a number means, its unit and default, and what changing it does.

    NAME is as `policy show` prints it, or its last part; without one all are told.
    """
    rows = policy_words.explained()
    if name is not None:
        chosen = [row for row in rows if row.name == name]
        rows_by_part = [row for row in rows if row.name.rpartition(".")[2] == name]
        if not (chosen or rows_by_part):
            names = {n for r in rows for n in (r.name, r.name.rpartition(".")[2])}
            hint = did_you_mean(name, sorted(names))
            raise Problem(
                f"there is no number {shown(name)} in the policy.{hint} "
                "`agentcom policy explain` lists them",
                EXIT_NOT_FOUND,
            )
        rows = chosen or rows_by_part
    if as_json:
        return print_json(rows)
    for row in rows:
        click.echo(f"{row.name} = {json.dumps(row.default)}  ({row.unit})")
        click.echo(f"    {row.meaning}")
        click.echo(f"    {row.effect}")
        click.echo(f"    read by {row.read_by}")
    return EXIT_OK


_CHANGES = click.argument("changes", metavar="NAME=VALUE...", nargs=-1)
_FILE = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A JSON object with the changes, or the whole policy.",
)


@policy.command("set")
@_CHANGES
@on_target
@_FILE
@click.option(
    "--based-on", type=int, metavar="N", help="Refuse unless it is version N."
)
@json_option
def set_policy(
    changes: tuple[str, ...], *, file: Path | None, based_on: int | None, as_json: bool
) -> int:
    """Change the policy, at once and everywhere: `policy set fallback_wait_s=2`."""
    body: dict[str, Any] = {"policy": changed_fields(changes, file)}
    if based_on is not None:
        body["based_on"] = based_on
    return _change("policy.set", body, as_json=as_json)


@policy.command("validate")
@_CHANGES
@on_target
@_FILE
@json_option
def validate(changes: tuple[str, ...], *, file: Path | None, as_json: bool) -> int:
    """Check a change of the policy without making it."""
    body = {"policy": changed_fields(changes, file)}
    return _change("policy.validate", body, as_json=as_json)


def _change(command: str, body: dict[str, Any], *, as_json: bool) -> int:
    done = carried_out(command, body, Done)
    if as_json:
        return print_json(done)
    click.echo(local(done.detail))
    return EXIT_OK


def changed_fields(changes: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Make the changes' document: `scoring.warm=1.2` is {"scoring": {"warm": 1.2}}."""
    document: dict[str, Any] = {}
    if file is not None:
        try:
            document = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise Problem(
                f"{file}: expected a JSON object ({error})", EXIT_USAGE
            ) from (error)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{shown(change)}: expected NAME=VALUE")
        *above, last = name.split(".")
        place = document
        for part in above:
            place = place.setdefault(part, {})
        place[last] = _value(value)
    if not document:
        raise click.UsageError("say what is to change: NAME=VALUE, or --file")
    return document


def _value(text: str) -> Any:
    """Read a value as JSON, and what is none as a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text
