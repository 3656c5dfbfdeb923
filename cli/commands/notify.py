"""`agentcom notify`: tell people elsewhere what happened; try it, and see how it stands."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.client.target import on_target
from cli.commands.options import json_option
from cli.local.instance import Instance
from cli.local.process import role_link, run_role, until_closed
from cli.local.roles import role_credentials
from cli.render.terminal import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_USAGE,
    Problem,
    cell,
    console,
    local,
    local_time,
    print_json,
    table,
)
from events.codec import rfc3339
from events.errors import Malformed
from sidecar.private import mend
from sidecar.shield import shield, variables
from web.notify.config import FILE, NotifyConfigError, load
from web.notify.served import FOLDER

if TYPE_CHECKING:
    from web.notify.config import NotifyConfig, NotifyTarget
    from web.notify.senders import NoticeSender

_FILE = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The rules  [default: {FILE} in the data folder]",
)


@click.group(invoke_without_command=True)
@on_target
@_FILE
@click.option("--debug", is_flag=True, help="Log more.")
@click.pass_context
def notify(ctx: click.Context, file: Path | None, debug: bool) -> None:
    """Deliver notifications by the rules of notify.toml, until a signal.

    `agentcom up` does this by itself where the data folder has that file.
    """
    ctx.obj = file
    if ctx.invoked_subcommand is None:
        shield()
        mend(Instance().data)
        config = _config(file)
        run_role(lambda stop: _be_notify(config, stop), debug=debug)


@notify.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.pass_obj
def test(file: Path | None, targets: tuple[str, ...]) -> int:
    """Send every TARGET (default: all) one notification of type `test`."""
    config = _config(file)
    names = {target.name for target in config.target}
    for name in targets:
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise Problem(
                f"there is no target {name}; targets: {known}", EXIT_NOT_FOUND
            )
    chosen = [each for each in config.target if not targets or each.name in targets]
    return asyncio.run(_try(chosen))


@notify.command()
@json_option
@click.pass_obj
def status(file: Path | None, as_json: bool) -> int:
    """Show how far each target is served, and what keeps it back."""
    from web.notify.served import TargetServed, read_served

    config = _config(file)
    folder = Instance().data / FOLDER
    found = [
        read_served(folder, each.name) or TargetServed(target=each.name)
        for each in config.target
    ]
    if as_json:
        return print_json({"targets": found})
    shown = table(
        ("target", "delivered", "waiting", "given up", "last", "failing since", "why"),
        right=("delivered", "waiting", "given up"),
        elastic=("why",),
    )
    for each in found:
        shown.add_row(
            cell(each.target),
            str(each.delivered),
            str(each.waiting),
            str(each.given_up),
            local_time(each.last_at) if each.last_at else "never",
            local_time(each.failing_since) if each.failing_since else "",
            cell(local(each.last_error) if each.failing_since else ""),
        )
    console().print(shown)
    return EXIT_OK


def _config(file: Path | None) -> NotifyConfig:
    try:
        return load(file or Instance().data / FILE)
    except NotifyConfigError as error:
        raise Problem(str(error), EXIT_USAGE) from error


def _sender(target: NotifyTarget) -> NoticeSender:
    """Make what delivers to a target; raises Malformed and DeliveryFailed."""
    from cli.render.redaction import keep_out
    from web.notify.config import address_of, secret_of
    from web.notify.senders import ByApprise, Webhook

    address = address_of(target, variables())
    keep_out(address)
    if target.kind == "apprise":
        return ByApprise(address, target.timeout_s)
    file = None
    if target.secret_file:
        try:
            file = Path(target.secret_file).expanduser().read_text()
        except OSError as error:
            raise Malformed("secret_file", "a file", str(error)) from error
    secret = secret_of(target, variables(), file)
    keep_out(secret.decode())
    return Webhook(address, secret, target.timeout_s, time.time)


async def _try(targets: list[NotifyTarget]) -> int:
    from web.notify.notices import trial_notice
    from web.notify.senders import DeliveryFailed

    worst = EXIT_OK
    for target in targets:
        notice = trial_notice(target.name, rfc3339(time.time()), secrets.token_hex(8))
        sender = None
        try:
            sender = _sender(target)
            await sender.send(notice)
        except (DeliveryFailed, Malformed) as error:
            click.echo(f"{target.name}: not delivered: {error}", err=True)
            worst = EXIT_FAILED
        else:
            click.echo(f"{target.name}: delivered, {notice.id}")
        finally:
            if sender is not None:
                await sender.close()
    return worst


async def _be_notify(config: NotifyConfig, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set."""
    from events.nats.log import JetStreamLog
    from web.notify.role import Deliveries, deliver_all
    from web.notify.senders import DeliveryFailed

    senders: dict[str, Any] = {}
    for target in config.target:
        try:
            senders[target.name] = _sender(target)
        except (DeliveryFailed, Malformed) as error:
            raise Problem(f"target {target.name}: {error}", EXIT_USAGE) from error
    async with role_link(role_credentials("watcher"), stop) as link:
        log = JetStreamLog(link, consumers=False)
        folder = Instance().data / FOLDER
        deliveries = [
            Deliveries(
                target,
                config.rules_for(target.name),
                log,
                senders[target.name],
                folder,
                time.time,
            )
            for target in config.target
        ]
        try:
            await until_closed(deliver_all(deliveries, stop), link)
        finally:
            for sender in senders.values():
                await sender.close()
            await log.close()
