"""What would have been: the past under another policy, or by another price list.

Neither writes anything: decisions stay decided, and booked dollars booked.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from cli.client.connection import connected, run
from cli.client.spans import point_option
from cli.client.target import on_target
from cli.local.instance import Instance
from cli.redecide import Redecider
from cli.render.terminal import EXIT_OK, Problem, cell, console, dollars, line_of, table
from events.codec import encode, instant
from events.errors import Malformed
from projections.main import checkpoints_beside
from projections.questions import AskWhatIf
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from rich.console import Console

    from events.catalogue import Result
    from projections.answers import WhatIfAnswer
    from projections.checkpoints import Checkpoints
    from projections.judged import JudgedEvent
    from projections.world import World

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


def list_price(model: str, result: Result) -> float | None:
    """Price a run's tokens by the price list that came with AgentCom."""
    from sidecar.costs import price

    if result.tokens_in is None or result.tokens_out is None:
        return None
    found = price(
        model,
        tokens_in=result.tokens_in,
        tokens_out=result.tokens_out,
        cache_read=result.cache_read_tokens,
        cache_write=result.cache_write_tokens,
    )
    return None if found is None else float(found)


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
        decide = Redecider(
            client.log, price=list_price, checkpoints=local_checkpoints()
        )
        answer = await decide(asked)
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

DIMENSIONS: Final = ("model", "tier", "repo", "host", "day")


class Rates(Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars for a million tokens of one model."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0

    def price(self, result: Result) -> float | None:
        """Price a run's tokens; None where they are not known."""
        if result.tokens_in is None or result.tokens_out is None:
            return None
        return (
            result.tokens_in * self.input
            + result.tokens_out * self.output
            + result.cache_read_tokens * self.cache_read
            + result.cache_write_tokens * self.cache_write
        ) / 1_000_000


class Repriced(Struct, kw_only=True):
    """What was booked under one key, and what it would be by the other list.

    `equivalent_usd` is what the local runs would have cost on Claude, as booked.
    `unpriced` counts runs that the other list has no price for, or whose tokens are not
    known; they are in neither of the two new figures.
    """

    key: str
    runs: int = 0
    unpriced: int = 0
    cost_usd: float = 0.0
    cost_usd_then: float = 0.0
    equivalent_usd: float = 0.0
    equivalent_usd_then: float = 0.0


class RepriceAnswer(Struct, kw_only=True):
    """The repriced view: booked dollars stay as they are."""

    seq: int
    from_seq: int
    by: str
    price_list: str
    booked_lists: dict[str, int]
    lines: list[Repriced]
    total: Repriced


class Prices:
    """Another price list: a file's, or the one that came with AgentCom.

    `claude` prices every Claude run, and every local one's equivalent, as that model.
    """

    def __init__(self, rates: dict[str, Rates] | None, name: str, claude: str) -> None:
        self._rates = rates
        self.name = name
        self._claude = claude

    def run(self, result: Result) -> float | None:
        """Price what a run used on the model it ran on."""
        return self._of(self._claude or result.model_used, result)

    def equivalent(self, result: Result) -> float | None:
        """Price what a local run would have used on Claude."""
        model = self._claude or result.equivalent_model
        return None if not model else self._of(model, result)

    def _of(self, model: str, result: Result) -> float | None:
        if self._rates is None:
            return list_price(model, result)
        rates = self._rates.get(model)
        return None if rates is None else rates.price(result)


def prices_of(file: Path | None, claude: str) -> Prices:
    """Read a price list; raises Problem.

    A file names models, `[claude-sonnet-4-5]` with `input`, `output`, `cache_read` and
    `cache_write` in dollars for a million tokens.
    """
    from events.codec import convert

    if file is None:
        from sidecar.costs import price_list

        return Prices(None, price_list(), claude)
    try:
        rates = convert(document_of(file), dict[str, Rates])
    except Malformed as error:
        raise Problem(f"{file}: {error}") from error
    return Prices(rates, file.name, claude)


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
        past = TimeTravel(client.log, checkpoints=local_checkpoints())
        try:
            last = await client.log.last_sequence()
            start = since
            if isinstance(start, str):
                start = await past.sequence_at(start) + 1
            ledger = Ledger(prices, by)
            await past.walk(max(start, 1), last, ledger.see)
        finally:
            past.close()
    answer = ledger.answer(last, max(start, 1))
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    _show_repriced(console(), answer)
    return EXIT_OK


class Ledger:
    """A second set of books."""

    def __init__(self, prices: Prices, by: str) -> None:
        self._prices = prices
        self._by = by
        self._lines: dict[str, Repriced] = {}
        self._booked: dict[str, int] = {}

    def see(self, world: World, judged: JudgedEvent) -> None:
        """Book what a run's report brought, once, as the first books do."""
        result, task, routing = judged.result, judged.task, judged.routing
        if result is None or task is None or routing is None:
            return
        key = {
            "model": result.model_used,
            "tier": routing.tier,
            "repo": task.repo,
            "host": routing.host,
            "day": _day(judged.recorded.event.at),
        }[self._by]
        line = self._lines.setdefault(key, Repriced(key=key))
        line.runs += 1
        booked = result.estimated_cost_usd or 0.0
        listed = result.price_list or ""
        if listed:
            self._booked[listed] = self._booked.get(listed, 0) + 1
        line.cost_usd += booked
        line.equivalent_usd += result.equivalent_claude_cost_usd or 0.0
        if routing.target_type in ("claude", "agent") and not result.simulated:
            then = self._prices.run(result) if _used(result) else 0.0
            line.unpriced += then is None
            line.cost_usd_then += then or 0.0
        else:
            line.cost_usd_then += booked
        if result.equivalent_claude_cost_usd is not None:
            equivalent = self._prices.equivalent(result)
            line.unpriced += equivalent is None
            line.equivalent_usd_then += equivalent or 0.0

    def answer(self, seq: int, start: int) -> RepriceAnswer:
        """Close the books."""
        lines = [line for _, line in sorted(self._lines.items())]
        total = Repriced(key="total")
        for line in lines:
            for name in Repriced.__struct_fields__[1:]:
                setattr(total, name, getattr(total, name) + getattr(line, name))
        return RepriceAnswer(
            seq=seq,
            from_seq=start,
            by=self._by,
            price_list=self._prices.name,
            booked_lists=dict(sorted(self._booked.items())),
            lines=lines,
            total=total,
        )


def _used(result: Result) -> bool:
    return result.model_used not in ("", "none")


def _day(at: str) -> str:
    try:
        instant(at)
    except Malformed:
        return ""
    return at[:10]


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
