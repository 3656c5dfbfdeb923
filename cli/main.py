"""The command `agentcom`: finds the subcommand, and says in one sentence what went wrong.

Nothing but click is imported before a subcommand is chosen, so that `agentcom --help`
and shell completion are fast. Exit codes are those of docs/cli.md.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from agentcom import __version__
from cli.client.target import set_target, target_options
from events.errors import shown

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "up": ("cli.commands.up", "up", "Run everything on this machine."),
    "demo": (
        "cli.commands.demo",
        "demo",
        "A tour in under a minute, on a temporary instance.",
    ),
    "run": ("cli.commands.run", "run_task", "Submit a task and show its output."),
    "submit": ("cli.commands.submit", "submit", "Submit a task, or a file of them."),
    "tasks": ("cli.commands.tasks", "tasks", "List tasks."),
    "task": ("cli.commands.tasks", "task", "Show one task, its route and why."),
    "diff": ("cli.commands.changes", "diff", "Show what a task changed in its files."),
    "fetch": (
        "cli.commands.changes",
        "fetch",
        "Bring a file from a task's kept folder.",
    ),
    "logs": ("cli.commands.tasks", "logs", "Show a task's output."),
    "cancel": ("cli.commands.steer", "cancel", "Cancel tasks."),
    "retry": ("cli.commands.steer", "retry", "Try final tasks anew."),
    "reassign": ("cli.commands.steer", "reassign", "Give a task to another host."),
    "top": ("cli.commands.top", "top", "Watch fleet and tasks."),
    "dashboard": (
        "cli.commands.dashboard",
        "dashboard",
        "Say where the dashboard is, or open it.",
    ),
    "notify": (
        "cli.commands.notify",
        "notify",
        "Tell people elsewhere what happened.",
    ),
    "mcp": ("cli.commands.mcp", "mcp", "Serve the tools to an MCP client."),
    "traces": ("cli.commands.traces", "traces", "Send OpenTelemetry traces of tasks."),
    "schedule": (
        "cli.commands.schedule",
        "schedule",
        "Submit a task again and again, at planned times.",
    ),
    "hosts": ("cli.commands.fleet", "hosts", "List hosts, endpoints and tiers."),
    "drain": ("cli.commands.fleet", "drain", "Let a host finish and take nothing new."),
    "resume": ("cli.commands.fleet", "resume", "Let a drained host take work again."),
    "endpoints": (
        "cli.commands.endpoints",
        "endpoints",
        "Add, remove, list model servers.",
    ),
    "tiers": ("cli.commands.endpoints", "tiers", "List tiers, lift a limit."),
    "ack": ("cli.commands.endpoints", "ack", "Acknowledge an alert."),
    "costs": (
        "cli.commands.figures",
        "costs",
        "Show what was spent, and what was saved.",
    ),
    "stats": (
        "cli.commands.figures",
        "stats",
        "Count tasks, decisions, fallbacks; durations.",
    ),
    "attention": (
        "cli.commands.attention",
        "attention",
        "Say what wants a person.",
    ),
    "alerts": ("cli.commands.figures", "alerts", "List alerts."),
    "dead": ("cli.commands.figures", "dead", "List dead letters."),
    "why-waiting": (
        "cli.commands.figures",
        "why_waiting",
        "Say what a task waits for.",
    ),
    "explain": ("cli.commands.past", "explain", "Say why a task went where it went."),
    "state": ("cli.commands.past", "state", "Show queue, fleet or a task as it was."),
    "replay": ("cli.commands.past", "replay", "Walk through the log."),
    "whatif": (
        "cli.commands.whatif",
        "whatif",
        "Decide the past under another policy.",
    ),
    "reprice": ("cli.commands.whatif", "reprice", "Show costs by another price list."),
    "events": ("cli.commands.log", "events", "Read the log, or follow it."),
    "verify": (
        "cli.commands.upkeep",
        "verify",
        "Check the log, and the read models by it.",
    ),
    "rebuild": ("cli.commands.upkeep", "rebuild", "Make the read models anew."),
    "export": (
        "cli.commands.upkeep",
        "export",
        "Write a task with all its events to a file.",
    ),
    "archive": ("cli.commands.upkeep", "archive", "Write the log to a file."),
    "restore": ("cli.commands.upkeep", "restore", "Fill an empty log from a file."),
    "classify": ("cli.commands.ask", "classify", "Say which tier a text belongs to."),
    "route": (
        "cli.commands.ask",
        "route",
        "Say where a task would go, without submitting it.",
    ),
    "policy": ("cli.commands.ask", "policy", "Show, check and change the policy."),
    "doctor": ("cli.commands.doctor", "doctor", "Check this installation."),
    "scheduler": ("cli.commands.roles", "scheduler", "Run a scheduler."),
    "sidecar": ("cli.commands.roles", "sidecar", "Run this machine's sidecar."),
    "web": ("cli.commands.roles", "web", "Run the read models and the dashboard."),
    "keys": ("cli.commands.keys", "keys", "Make the roles' keys; show how to connect."),
    "host": ("cli.commands.keys", "host", "Machines that may join the fleet."),
    "provision": (
        "cli.commands.keys",
        "provision_command",
        "Make or update the streams.",
    ),
    "bench": ("bench.main", "bench", "Measure this machine."),
}
"""Name to module, attribute, and what it does."""


GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Begin": ("up", "demo", "doctor", "dashboard", "top"),
    "Tasks": (
        *("run", "submit", "tasks", "task", "logs", "diff", "fetch"),
        *("schedule", "cancel", "retry", "reassign", "mcp"),
    ),
    "What happens": (
        *("attention", "alerts", "ack", "dead", "why-waiting", "explain"),
        *("costs", "stats", "traces", "notify"),
    ),
    "Fleet": (
        *("hosts", "drain", "resume", "endpoints", "tiers"),
        *("policy", "classify", "route"),
    ),
    "The log and the past": (
        *("events", "state", "replay", "whatif", "reprice"),
        *("verify", "rebuild", "export", "archive", "restore"),
    ),
}
"""Under which heading `--help` shows a command; the rest stand under the last one."""
REST: Final = "Roles, keys and machines"


class Commands(click.Group):
    """The subcommands, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from cli.render.terminal import did_you_mean

            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(
                f"No such command {shown(args[0])}.{hint}", ctx
            ) from None

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        there = self.list_commands(ctx)
        grouped = {name for names in GROUPS.values() for name in names}
        rest = tuple(name for name in there if name not in grouped)
        width = max(map(len, there))
        for heading, names in {**GROUPS, REST: rest}.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(n.ljust(width), COMMANDS[n][2]) for n in names if n in there]
                )

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        named = [
            CompletionItem(name, help=COMMANDS[name][2])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]


def _exists(name: str) -> bool:
    module = COMMANDS[name][0]
    if not module.startswith("bench"):
        return True
    return importlib.util.find_spec(module) is not None


def _version(ctx: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set and not ctx.resilient_parsing:
        click.echo(f"agentcom {__version__}")
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version.",
)
@target_options
def agentcom(data: Path | None, nats: str | None, creds: Path | None) -> None:
    """Runs AI agents' tasks on the cheapest tier that can do them.

    Every decision and every step is in an immutable log. `agentcom up` runs all of it
    on this machine; the other commands then find it by themselves.
    """
    set_target(data, nats, creds)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    if "_AGENTCOM_COMPLETE" in os.environ:
        from click.shell_completion import add_completion_class

        from cli.client.completing import WholeWords

        add_completion_class(WholeWords)
    try:
        ended: Any = agentcom.main(
            arguments, prog_name="agentcom", standalone_mode=False
        )
        return ended if isinstance(ended, int) else 0
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:  # noqa: BLE001 - the command's edge: a sentence, no traceback
        return _explained(error)


def _explained(error: Exception) -> int:
    """Say an error in a sentence; a fault of ours with the way to its traceback."""
    from cli.render.terminal import exit_code_of, sentence_of

    if os.environ.get("AGENTCOM_DEBUG"):
        raise error
    click.echo(f"Error: {sentence_of(error)}", err=True)
    return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
