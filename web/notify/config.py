"""notify.toml: rules that say what is told, and targets that say to whom."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from events import catalogue as c
from events.codec import convert
from events.errors import AgentComError, Malformed, shown
from events.filters import label_of
from web.notify.notices import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE: Final = "notify.toml"
"""Its name in the data folder."""


class NotifyConfigError(AgentComError):
    """A notify.toml that cannot be used, and why."""

    code = "config"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where} cannot be used: {why}")


class NotifyTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told: a `webhook`, or anything that Apprise reaches (Slack, ntfy, mail, ...).

    The address stands in `url`, or in the variable that `url_env` names. What signs a
    webhook's deliveries is in the variable `secret_env` or the file `secret_file`: a secret
    has no place in this file. `timeout_s` bounds one try; between two tries of a delivery it
    waits twice as long each time, at most `longest_pause_s`; after `give_up_s` the next one
    has its turn.
    """

    name: c.Token
    kind: Literal["webhook", "apprise"] = "webhook"
    url: str = ""
    url_env: str = ""
    secret_env: str = ""
    secret_file: str = ""
    timeout_s: Annotated[float, Meta(gt=0, le=120)] = 10.0
    longest_pause_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    give_up_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 259_200.0


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told to whom: names of `on`, and of tasks with these labels, of this tier or
    host. Empty: any."""

    on: Annotated[list[str], Meta(min_length=1)]
    to: Annotated[list[c.Token], Meta(min_length=1)]
    label: list[str] = []
    tier: Literal["", "trivial", "standard", "complex"] = ""
    host: str = ""


class NotifyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    rule: list[Rule] = []
    target: list[NotifyTarget] = []

    def rules_for(self, target: str) -> list[Rule]:
        """Return the rules that tell a target something."""
        return [rule for rule in self.rule if target in rule.to]


def load(path: Path) -> NotifyConfig:
    """Read a file; raises NotifyConfigError."""
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise NotifyConfigError(str(path), f"it cannot be read: {error}") from error


def parse(text: str, where: str = FILE) -> NotifyConfig:
    """Read a file's text; raises NotifyConfigError."""
    try:
        config = convert(tomllib.loads(text), NotifyConfig)
        _check(config)
    except tomllib.TOMLDecodeError as error:
        raise NotifyConfigError(where, f"it is not TOML: {error}") from error
    except Malformed as error:
        raise NotifyConfigError(where, str(error)) from error
    return config


def _check(config: NotifyConfig) -> None:
    names = [target.name for target in config.target]
    for n, target in enumerate(config.target):
        place = f"target[{n}]"
        if names.index(target.name) != n:
            raise Malformed(f"{place}.name", "a name of its own", shown(target.name))
        if bool(target.url) == bool(target.url_env):
            raise Malformed(f"{place}.url", "url or url_env", "both, or none")
        if target.kind == "webhook":
            if target.url and not target.url.startswith(("http://", "https://")):
                raise Malformed(
                    f"{place}.url", "an address that begins with https://", "another"
                )
            if bool(target.secret_env) == bool(target.secret_file):
                raise Malformed(
                    f"{place}.secret_env", "secret_env or secret_file", "both, or none"
                )
    for n, rule in enumerate(config.rule):
        for i, name in enumerate(rule.on):
            if name not in NAMES:
                raise _unknown(f"rule[{n}].on[{i}]", name, NAMES)
        for i, name in enumerate(rule.to):
            if name not in names:
                raise _unknown(f"rule[{n}].to[{i}]", name, dict.fromkeys(names))
        for i, text in enumerate(rule.label):
            label_of(text, f"rule[{n}].label[{i}]")


def _unknown(path: str, name: str, known: Mapping[str, Any]) -> Malformed:
    near = get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return Malformed(path, f"one of {', '.join(known) or 'none'}{hint}", shown(name))


def address_of(target: NotifyTarget, environ: Mapping[str, str]) -> str:
    """Return a target's address; raises Malformed where its variable is not set."""
    if target.url:
        return target.url
    value = environ.get(target.url_env, "")
    if not value:
        raise Malformed("url_env", f"the variable {target.url_env}", "none")
    return value


def secret_of(
    target: NotifyTarget, environ: Mapping[str, str], file: str | None
) -> bytes:
    """Return what signs a webhook's deliveries; `file` is what `secret_file` holds.

    Raises Malformed where there is none.
    """
    value = environ.get(target.secret_env, "") if target.secret_env else file or ""
    value = value.strip()
    if len(value) < LEAST_SECRET:
        raise Malformed(
            "secret_env" if target.secret_env else "secret_file",
            f"a secret of at least {LEAST_SECRET} characters",
            f"{len(value)} characters",
        )
    return value.encode()


LEAST_SECRET: Final = 16
