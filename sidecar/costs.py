"""From counts to dollars: the one place where a run that has ended gets its price.

`cost_basis` says how far a figure can be trusted:

| basis | `estimated_cost_usd` |
| --- | --- |
| `none` | 0: no model was asked (a shell command, a run that never began) |
| `reported` | what Claude Code itself said that this run cost |
| `reported_unpriced` | the same, but of a model it has no price for: a guess of its own |
| `estimated` | the price list's, because the program could not say (it was killed) |
| `local` | 0: the model runs on own hardware; no equivalent could be computed |
| `local_estimate` | 0; `equivalent_claude_cost_usd` is the price list's estimate |
| `unknown` | None: something was spent, and nobody knows how much |
| `simulated` | no money at all: what a real backend would have reported, or 0 |

What a simulated backend did has no equivalent, so that it is never counted as saved.
Sums are made in Decimal; prices come from the package genai-prices, offline, and the
result names it with its version: history is never priced anew in silence.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from actors.rules.prices import listed_model, price, price_list
from events import catalogue as c
from sidecar.output import NAME_LIMIT, charged, counted, cut, fitting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events.mail import Assign
    from sidecar.executors.port import RawResult

_REPORTER = "claude-code"
_NOTHING = Decimal(0)


def settle(raw: RawResult, assign: Assign) -> c.Result:
    """Turn raw counts into the result that goes to the log, with its dollars.

    It is cut to what an event may hold: what a program says of itself may be anything.
    """
    raw = _plausible(raw)
    spent = _spent(raw, assign)
    counts = {
        name: getattr(raw, name)
        for name in c.Result.__struct_fields__
        if name in raw.__struct_fields__
    }
    result = c.Result(
        **counts,
        estimated_cost_usd=_dollars(spent.usd),
        equivalent_claude_cost_usd=_dollars(spent.equivalent),
        equivalent_model=spent.equivalent_model,
        cost_basis=spent.basis,
        price_list=spent.prices,
    )
    return fitting(result)


def _plausible(raw: RawResult) -> RawResult:
    """Return counts, dollars and names as an event can hold them.

    Tokens of the cache that are no count leave unknown what was read in all.
    """
    cached = counted(raw.cache_read_tokens), counted(raw.cache_write_tokens)
    return replace(
        raw,
        model_used=cut(raw.model_used, NAME_LIMIT),
        session_id=None if raw.session_id is None else cut(raw.session_id, NAME_LIMIT),
        tokens_in=None if None in cached else counted(raw.tokens_in),
        tokens_out=counted(raw.tokens_out),
        cache_read_tokens=cached[0] or 0,
        cache_write_tokens=cached[1] or 0,
        reported_cost_usd=charged(raw.reported_cost_usd),
    )


class _Cost(NamedTuple):
    """Dollars (None: unknown), how they were found, with which prices, and what the same
    work would have cost on which Claude model."""

    usd: Decimal | None
    basis: str
    prices: str | None = None
    equivalent: Decimal | None = None
    equivalent_model: str | None = None


def _spent(raw: RawResult, assign: Assign) -> _Cost:
    match assign.target_type:
        case "claude":
            return _claude(raw)
        case "ollama" | "openai":
            return _local(raw, assign)
        case "agent":
            return _agent(raw)
        case "sidecar" | "noop":
            return _Cost(_NOTHING, "none")


def _claude(raw: RawResult) -> _Cost:
    if raw.reported_cost_usd is not None:
        usd = Decimal(repr(raw.reported_cost_usd))
        if raw.simulated:
            return _Cost(usd, "simulated")
        if not usd and _is_idle(raw):
            return _Cost(_NOTHING, "none")
        basis = "reported" if raw.cost_known else "reported_unpriced"
        return _Cost(usd, basis, _REPORTER)
    return _Cost(_NOTHING, "none") if _is_idle(raw) else _from_list(raw)


def _local(raw: RawResult, assign: Assign) -> _Cost:
    if raw.simulated:
        return _Cost(_NOTHING, "simulated")
    if not raw.cost_known:  # a local server that hands the work to a paid one
        return _Cost(None, "unknown")
    model = listed_model(assign.equivalent_model)
    if not model:
        return _Cost(_NOTHING, "local")
    equivalent = _list_price(model, raw)
    if equivalent is None:
        return _Cost(_NOTHING, "local")
    return _Cost(_NOTHING, "local_estimate", price_list(), equivalent, model)


def _agent(raw: RawResult) -> _Cost:
    """An external agent says what it used, if it says anything."""
    if raw.simulated:
        return _Cost(_NOTHING, "simulated")
    if raw.model_used in ("none", "") and _is_idle(raw):
        return _Cost(_NOTHING, "none")
    return _from_list(raw)


def _from_list(raw: RawResult) -> _Cost:
    usd = _list_price(raw.model_used, raw)
    if raw.simulated:
        return _Cost(usd, "simulated")
    if usd is None:
        return _Cost(None, "unknown")
    return _Cost(usd, "estimated", price_list())


def _list_price(model: str, raw: RawResult) -> Decimal | None:
    """The run's tokens at the list's price; None where they or the price are unknown."""
    return price(
        model,
        tokens_in=raw.tokens_in,
        tokens_out=raw.tokens_out,
        cache_read=raw.cache_read_tokens,
        cache_write=raw.cache_write_tokens,
    )


def _is_idle(raw: RawResult) -> bool:
    """Whether it is known that no tokens were used."""
    counts = (raw.tokens_in, raw.tokens_out, raw.cache_read_tokens)
    return all(each == 0 for each in (*counts, raw.cache_write_tokens))


def summed(amounts: Iterable[float | None]) -> float | None:
    """Return the sum of dollars, to the last digit; None where one of them is unknown."""
    total = Decimal(0)
    for usd in amounts:
        if usd is None:
            return None
        total += Decimal(repr(usd))
    return _dollars(total)


def _dollars(value: Decimal | None) -> float | None:
    return None if value is None else charged(float(value))
