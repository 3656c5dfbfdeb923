"""What `agentcom submit` says of a shell command's surroundings: variables, and secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from events.secretive import is_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENV = click.option(
    "--env", "variables", metavar="K=V", multiple=True, help="For the shell command."
)
_SECRET_ENV = click.option(
    "--secret-env",
    "secrets",
    metavar="NAME",
    multiple=True,
    help="A variable for the shell command whose value its host has ([secrets] in "
    "sidecar.toml); the log has the name alone.",
)


def on_variables(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--env` and `--secret-env`."""
    return _ENV(_SECRET_ENV(command))


def shell_of(options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the command of a submission with its surroundings; None without one."""
    fields = {
        "command": options["shell"],
        "env": dict(_variable(variable) for variable in options["variables"]) or None,
        "secret_env": list(options["secrets"]) or None,
        "exclusive": options["exclusive"] or None,
    }
    variable = {name: value for name, value in fields.items() if value is not None}
    if variable and "command" not in variable:
        raise click.UsageError(
            "--env, --secret-env and --exclusive belong to a --shell command"
        )
    if variable and options["cwd"] is not None:
        variable["cwd"] = options["cwd"]
    warn_of_secrets(fields["env"] or {})
    return variable or None


def warn_of_secrets(env: Mapping[str, str]) -> None:
    """Say which variables look like secrets, which the log keeps for good."""
    names = [name for name, value in env.items() if is_secret(name, value)]
    if names:
        click.echo(
            f"Warning: {', '.join(names)} looks like a secret, and what --env sets is in "
            "the log for good, for every watcher to read; --secret-env NAME takes the "
            "value from the host",
            err=True,
        )


def _variable(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals:
        raise click.UsageError(f"--env {argument}: expected NAME=VALUE")
    return name, value
