"""Options and choices that several commands share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import click

from cli.render.terminal import did_you_mean
from events import catalogue as c
from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

TIERS: Final[tuple[str, ...]] = get_args(c.Tier)
PRIORITIES: Final[tuple[str, ...]] = get_args(c.Priority)


class Word(click.Choice[str]):
    """One of a few words; another one is answered with the one that was probably meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Say what there is, and what was meant."""
        words = [str(each) for each in self.choices]
        return f"expected one of {', '.join(words)}, got {shown(value)}.{did_you_mean(str(value), words)}"


class Between(click.IntRange):
    """A whole number in a range, which is told in words."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Read it; raises BadParameter."""
        try:
            int(value)
        except (TypeError, ValueError):
            self.fail(
                f"expected a whole number, {self._describe_range()}, got {shown(value)}",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)

    def _describe_range(self) -> str:
        if self.max is None:
            return f"of {self.min} or more"
        return f"{self.min or 0} to {self.max}"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of the read models  [default: projections.db in the data folder]",
)


def verification_options(command: F) -> F:
    """Add what says when a task counts as done."""
    for add in (
        click.option(
            "--verify-rounds",
            type=Between(1, 20),
            metavar="N",
            help="Rounds of work and verification, the first included  "
            "[default: the policy's, 2]",
        ),
        click.option(
            "--verify",
            "steps",
            metavar="COMMAND",
            multiple=True,
            help="Run this in the working folder after the work; it completes only with "
            "exit 0.",
        ),
        click.option(
            "--criterion",
            "criteria",
            multiple=True,
            help="When it counts as done, in words: told to the model, checked by nobody.",
        ),
    ):
        command = add(command)
    return command


class ShellCommand(click.Command):
    """A command with `--shell`: takes the words after `--shell --` as what to run.

    One bare word with words behind it is a command that was not quoted; it is refused,
    because the first word alone would run.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments as click does, once the shell command is one of them."""
        return super().parse_args(ctx, _with_shell(args, ctx))


def _with_shell(args: list[str], ctx: click.Context) -> list[str]:
    for place, argument in enumerate(args):
        if argument == "--":
            break
        if argument == "--shell" and args[place + 1 : place + 2] == ["--"]:
            words = args[place + 2 :]
            if not words:
                raise click.UsageError("--shell --: expected a command behind it", ctx)
            command = words[0] if len(words) == 1 else shlex.join(words)
            return [*args[:place], "--shell", command]
        flag, joined, first = argument.partition("=")
        if flag != "--shell":
            continue
        rest = args[place + 1 :]
        if not joined and rest:
            first, *rest = rest
        if not joined and first.startswith("-"):
            raise click.UsageError(
                f"--shell takes a command, not the option {first}; --shell -- COMMAND "
                "comes last",
                ctx,
            )
        if rest and not rest[0].startswith("-") and len(first.split()) == 1:
            quoted = shlex.join([first, *rest])
            raise click.UsageError(
                f"--shell takes the whole command as one argument, not {shown(first)} alone: "
                f"--shell {shlex.quote(quoted)}, or --shell -- {quoted}; "
                "a text that describes it goes before --shell",
                ctx,
            )
    return args
