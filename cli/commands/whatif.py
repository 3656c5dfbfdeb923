"""What would have been: the past under another policy, or by another price list.

Neither writes anything: decisions stay decided, and booked dollars booked.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.reprice import DIMENSIONS, Prices, rates_of
from analysis.reprice import reprice as reprice_log
from analysis.whatif import Redecider
from cli.client.connection import connected, run
from cli.client.spans import point_option
from cli.client.target import on_target
from cli.local.instance import Instance
from cli.render.terminal import EXIT_OK, Problem, cell, console, dollars, line_of, table
from events.codec import encode
from events.errors import Malformed
from projections.main import checkpoints_beside
from projections.questions import AskWhatIf

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.reprice import RepriceAnswer, Repriced
    from projections.answers import WhatIfAnswer
    from projections.checkpoints import Checkpoints

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_PATH = click.Path(path_type=Path, dir_okay=False, exists=True)


def document_of(file: Path) -> dict[str, Any]:
    """Read a TOML or JSON file; raises Problem naming what is wrong."""
    try:
        text = file.read_text()
        read = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise Problem(f"{file}: {error}") from error
    if not isinstance(read, dict):
        raise Problem(f"{file}: expected names and values")
    return read


def local_checkpoints() -> Checkpoints | None:
    """Return the copies of this machine's read models, where there are any."""
    return checkpoints_beside(Instance().data / "projections.db")


# -- whatif ----------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--policy",
    "file",
    type=_PATH,
    required=True,
    metavar="FILE",
    help="TOML or JSON: what is different from the policy in force.",
)
@point_option("--since", "Decisions from here on.", default="7d")
@point_option("--until", "Up to here.", default=None)
@click.option("--limit", type=click.IntRange(0, 100_000), default=20, show_default=True)
@_JSON
def whatif(
    *,
    file: Path,
    since: int | str,
    until: int | str | None,
    limit: int,
    as_json: bool,
) -> int:
    """Decide every recorded decision again under another policy.

    Shows which routes, fallbacks, waits and dollars would have been different, and says
    what of that is an estimate. Nothing is changed.
    """
    asked = AskWhatIf(policy=document_of(file), since=since, until=until, limit=limit)
    return run(_whatif(asked, as_json=as_json))


async def _whatif(asked: AskWhatIf, *, as_json: bool) -> int:
    async with connected() as client:
        answer = await Redecider(client.log, checkpoints=local_checkpoints())(asked)
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    show_whatif(console(), answer)
    return EXIT_OK


def show_whatif(screen: Console, answer: WhatIfAnswer) -> None:
    """Show what would have been."""
    screen.print(
        f"{answer.decisions} decisions from sequence {answer.from_seq} to "
        f"{answer.to_seq}, against policy {answer.policy_version}"
    )
    screen.print(line_of(f"different: {', '.join(answer.differences) or 'nothing'}"))
    screen.print(
        f"check: {answer.reproduced} come out as recorded under the policy of their time, "
        f"{answer.not_reproduced} do not",
        style="red" if answer.not_reproduced else "dim",
    )
    made = table(("", "then", "would be"), right=("then", "would be"))
    made.add_row("fallbacks", str(answer.fallbacks), str(answer.fallbacks_then))
    made.add_row(
        "waits for a tier", f"{answer.waited_s:.1f} s", f"{answer.waited_s_then:.1f} s"
    )
    made.add_row(
        "dollars", dollars(answer.cost_usd), f"~{dollars(answer.cost_usd_then)}"
    )
    screen.print(made)
    total = sum(answer.changed.values())
    kinds = ", ".join(f"{n} {what}" for what, n in answer.changed.items())
    screen.print(line_of(f"changed: {total}{f' ({kinds})' if kinds else ''}"))
    _places(screen, answer)
    _changes(screen, answer)
    for reason, count in answer.stays.items():
        screen.print(line_of(f"not decided for {count}: {reason}"), style="yellow")
    if answer.estimated_decisions or answer.unknown_dollars:
        screen.print(
            f"dollars of {answer.estimated_decisions} decisions are estimates, those of "
            f"{answer.unknown_dollars} are not known and count as nothing",
            style="yellow",
        )
    for sentence in answer.said:
        screen.print(sentence, style="dim")


def _places(screen: Console, answer: WhatIfAnswer) -> None:
    names = sorted({*answer.by_place, *answer.by_place_then})
    moved = [
        (name, answer.by_place.get(name, 0), answer.by_place_then.get(name, 0))
        for name in names
    ]
    moved = [line for line in moved if line[1] != line[2]]
    if not moved:
        screen.print("places: the same numbers of decisions as then", style="dim")
        return
    made = table(("place", "then", "would be"), right=("then", "would be"))
    for name, was, then in moved:
        made.add_row(cell(name, 60), str(was), str(then))
    screen.print(made)


def _changes(screen: Console, answer: WhatIfAnswer) -> None:
    if not answer.changes:
        return
    made = table(
        ("seq", "task", "what", "was", "would be", "cost", "would cost", "why"),
        right=("seq", "cost", "would cost"),
        elastic=("was", "would be", "why"),
    )
    for each in answer.changes:
        made.add_row(
            str(each.seq),
            cell(each.task_id),
            cell(each.what.replace("_", " ")),
            cell(each.was, 48),
            cell(each.then or "not known", 48),
            dollars(each.usd),
            dollars(each.usd_then),
            cell(each.why, 80),
        )
    screen.print(made)
    if answer.changes_left_out:
        screen.print(f"and {answer.changes_left_out} more: --limit", style="dim")


# -- reprice ---------------------------------------------------------------------------


def prices_of(file: Path | None, claude: str) -> Prices:
    """Read a price list; raises Problem.

    A file names models, `[claude-sonnet-4-5]` with `input`, `output`, `cache_read` and
    `cache_write` in dollars for a million tokens.
    """
    if file is None:
        return Prices(claude=claude)
    try:
        rates = rates_of(document_of(file))
    except Malformed as error:
        raise Problem(f"{file}: {error}") from error
    return Prices(rates=rates, name=file.name, claude=claude)


@click.command()
@on_target
@click.option(
    "--prices",
    "file",
    type=_PATH,
    metavar="FILE",
    help="TOML or JSON: [MODEL] input, output, cache_read, cache_write in dollars for "
    "a million tokens  [default: the list that came with AgentCom]",
)
@click.option("--model", "claude", default="", help="As if Claude had been this model.")
@click.option("--by", type=click.Choice(DIMENSIONS), default="model", show_default=True)
@point_option("--since", "Runs that ended from here on.", default="1")
@_JSON
def reprice(
    *, file: Path | None, claude: str, by: str, since: int | str, as_json: bool
) -> int:
    """Show what was booked beside what it would cost by another price list.

    A view of its own: what is booked stays booked. Prices apply to a run's tokens as a
    whole, so lists that ask more for long requests are underestimated.
    """
    prices = prices_of(file, claude)
    return run(_reprice(prices, by, since, as_json=as_json))


async def _reprice(prices: Prices, by: str, since: int | str, *, as_json: bool) -> int:
    async with connected() as client:
        answer = await reprice_log(
            client.log, prices, by, since, checkpoints=local_checkpoints()
        )
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    _show_repriced(console(), answer)
    return EXIT_OK


def _show_repriced(screen: Console, answer: RepriceAnswer) -> None:
    numbers = ("runs", "booked", "by this list", "on Claude", "on Claude by this list")
    made = table((answer.by, *numbers), right=numbers)

    def spelled(line: Repriced) -> list[Any]:
        unknown = f" + {line.unpriced} unknown" if line.unpriced else ""
        return [
            cell(line.key or "none", 40),
            str(line.runs),
            dollars(line.cost_usd),
            dollars(line.cost_usd_then) + unknown,
            dollars(line.equivalent_usd),
            dollars(line.equivalent_usd_then),
        ]

    for line in answer.lines:
        made.add_row(*spelled(line))
    made.add_section()
    made.add_row(*spelled(answer.total), style="bold")
    screen.print(made)
    booked = ", ".join(f"{name} ({n} runs)" for name, n in answer.booked_lists.items())
    screen.print(
        line_of(
            f"this list: {answer.price_list}; booked by: {booked or 'no list'}. "
            "What is booked stays booked; this is an estimate from each run's tokens."
        ),
        style="dim",
    )
