"""The command `agentcom`: finds the subcommand, and says in one sentence what went wrong.

Nothing but click is imported before a subcommand is chosen, so that `agentcom --help`
and shell completion are fast. Exit codes are those of docs/cli.md.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from agentcom import __version__
from cli.client.target import on_target
from events.errors import shown

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Begin": {
        "up": ("up", "Run everything on this machine."),
        "demo": ("demo", "A tour in under a minute, on a temporary instance."),
        "doctor": ("doctor", "Check this installation."),
        "dashboard": ("dashboard", "Say where the dashboard is, or open it."),
        "top": ("top", "Watch fleet and tasks."),
    },
    "Tasks": {
        "run": ("run", "Submit a task and show its output."),
        "submit": ("submit", "Submit a task, or a file of them."),
        "tasks": ("tasks", "List tasks."),
        "task": ("tasks", "Show one task, its route and why."),
        "logs": ("tasks", "Show a task's output."),
        "diff": ("changes", "Show what a task changed in its files."),
        "fetch": ("changes", "Bring a file from a task's kept folder."),
        "schedule": ("schedule", "Submit a task again and again, at planned times."),
        "cancel": ("steer", "Cancel tasks."),
        "retry": ("steer", "Try final tasks anew."),
        "reassign": ("steer", "Give a task to another host."),
        "mcp": ("mcp", "Serve the tools to an MCP client."),
    },
    "What happens": {
        "attention": ("attention", "Say what wants a person."),
        "alerts": ("figures", "List alerts."),
        "ack": ("endpoints", "Acknowledge an alert."),
        "dead": ("figures", "List dead letters."),
        "why-waiting": ("figures", "Say what a task waits for."),
        "explain": ("past", "Say why a task went where it went."),
        "costs": ("figures", "Show what was spent, and what was saved."),
        "stats": ("figures", "Count tasks, decisions, fallbacks; durations."),
        "traces": ("traces", "Send OpenTelemetry traces of tasks."),
        "notify": ("notify", "Tell people elsewhere what happened."),
    },
    "Fleet": {
        "hosts": ("fleet", "List hosts, endpoints and tiers."),
        "drain": ("fleet", "Let a host finish and take nothing new."),
        "resume": ("fleet", "Let a drained host take work again."),
        "endpoints": ("endpoints", "Add, remove, list model servers."),
        "tiers": ("endpoints", "List tiers, lift a limit."),
        "policy": ("ask", "Show, check and change the policy."),
        "classify": ("ask", "Say which tier a text belongs to."),
        "route": ("ask", "Say where a task would go, without submitting it."),
    },
    "The log and the past": {
        "events": ("log", "Read the log, or follow it."),
        "state": ("past", "Show queue, fleet or a task as it was."),
        "replay": ("past", "Walk through the log."),
        "whatif": ("whatif", "Decide the past under another policy."),
        "reprice": ("whatif", "Show costs by another price list."),
        "verify": ("upkeep", "Check the log, and the read models by it."),
        "rebuild": ("upkeep", "Make the read models anew."),
        "export": ("upkeep", "Write a task with all its events to a file."),
        "archive": ("upkeep", "Write the log to a file."),
        "restore": ("upkeep", "Fill an empty log from a file."),
    },
    "Roles, keys and machines": {
        "scheduler": ("roles", "Run a scheduler."),
        "sidecar": ("roles", "Run this machine's sidecar."),
        "web": ("roles", "Run the read models and the dashboard."),
        "keys": ("keys", "Make the roles' keys; show how to connect."),
        "host": ("keys", "Machines that may join the fleet."),
        "provision": ("keys", "Make or update the streams."),
        "bench": ("bench.main", "Measure this machine."),
    },
}
"""Under its heading in `--help`, each command: the file of `cli.commands` that has it, and
what it does. In that file it is called as on the command line, `_` for `-`."""
COMMANDS: Final = {
    name: entry for commands in GROUPS.values() for name, entry in commands.items()
}


class Commands(click.Group):
    """The subcommands, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module = importlib.import_module(module_of(cmd_name))
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; where nobody reads its output any more it ends quietly."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from cli.local.unheard import speak_unheard
            from cli.render.terminal import EXIT_UNREAD

            speak_unheard()  # the interpreter's end flushes both
            raise click.exceptions.Exit(EXIT_UNREAD) from None

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
        width = max(map(len, COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (name.ljust(width), about)
                        for name, (_, about) in commands.items()
                        if _exists(name)
                    ]
                )

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        named = [
            CompletionItem(name, help=COMMANDS[name][1])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]


def module_of(name: str) -> str:
    """Return the name of the module that has a command."""
    file = COMMANDS[name][0]
    return file if "." in file else f"cli.commands.{file}"


def _exists(name: str) -> bool:
    """Whether the command is installed: an installation may leave `bench` out."""
    module = module_of(name)
    return not module.startswith("bench") or find_spec(module) is not None


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
@on_target
def agentcom() -> None:
    """Runs AI agents' tasks on the cheapest tier that can do them.

    Every decision and every step is in an immutable log. `agentcom up` runs all of it
    on this machine; the other commands then find it by themselves.
    """


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
