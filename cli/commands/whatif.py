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
from cli.commands.options import Between, Word, json_option
from cli.local.instance import Instance
from cli.render.past import show_repriced, show_whatif
from cli.render.terminal import EXIT_OK, Problem, console, print_json
from events.errors import Malformed
from projections.main import checkpoints_beside
from projections.questions import AskWhatIf

if TYPE_CHECKING:
    from projections.checkpoints import Checkpoints

_PATH = click.Path(path_type=Path, dir_okay=False, exists=True)


def document_of(file: Path) -> dict[str, Any]:
    """Read a TOML or JSON file; raises Problem naming what is wrong."""
    try:
        text = file.read_text()
        document = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise Problem(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise Problem(f"{file}: expected names and values")
    return document


def local_checkpoints() -> Checkpoints | None:
    """Return the copies of this machine's read models, where there are any."""
    return checkpoints_beside(Instance().read_models)


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
@click.option("--limit", type=Between(0, 100_000), default=20, show_default=True)
@json_option
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
    question = AskWhatIf(
        policy=document_of(file), since=since, until=until, limit=limit
    )
    return run(_whatif(question, as_json=as_json))


async def _whatif(question: AskWhatIf, *, as_json: bool) -> int:
    async with connected() as client:
        answer = await Redecider(client.log, checkpoints=local_checkpoints())(question)
    if as_json:
        return print_json(answer)
    show_whatif(console(), answer)
    return EXIT_OK


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
@click.option("--by", type=Word(DIMENSIONS), default="model", show_default=True)
@point_option("--since", "Runs that ended from here on.", default="1")
@json_option
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
        return print_json(answer)
    show_repriced(console(), answer)
    return EXIT_OK
