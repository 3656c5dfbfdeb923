"""The price list: what a run's tokens cost on a Claude model.

The prices come from the package genai-prices, offline, and `price_list` names it with its
version, so that a result says by which list it was priced.
"""

from __future__ import annotations

import functools
import re
from decimal import Decimal
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from events import catalogue as c

_LIST = "genai-prices"
_ALIASES = ("sonnet", "opus", "haiku")


@functools.cache
def price_list() -> str:
    """The price list in use, with its version: `genai-prices 0.2.3`."""
    return f"{_LIST} {metadata.version(_LIST)}"


@functools.cache
def listed_model(model: str) -> str:
    """Return the model that an alias of Claude Code stands for; another name as it is.

    `sonnet` is the newest Sonnet that the price list knows.
    """
    family = model.removesuffix("[1m]")
    if family not in _ALIASES:
        return model
    from genai_prices import data  # a second to import, not needed by all

    versions: list[tuple[tuple[int, ...], str]] = []
    for provider in data.providers:
        for each in provider.models if provider.id == "anthropic" else ():
            if version := re.fullmatch(rf"claude-{family}-(\d+(?:-\d+)*)", each.id):
                numbers = tuple(int(number) for number in version[1].split("-"))
                versions.append((numbers, each.id))
    return max(versions, default=((), model))[1]


def price(
    model: str,
    *,
    tokens_in: int | None,
    tokens_out: int | None,
    cache_read: int = 0,
    cache_write: int = 0,
    at: datetime | None = None,
) -> Decimal | None:
    """What one request of these tokens costs on a Claude model, in dollars.

    None where the model has no price or the tokens are not known. `tokens_in` excludes the
    cache's tokens; the price list wants them included.
    """
    if tokens_in is None or tokens_out is None:
        return None
    from genai_prices import Usage, calc_price  # a second to import, not needed by all

    model = listed_model(model)
    usage = Usage(
        input_tokens=tokens_in + cache_read + cache_write,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=tokens_out,
    )
    try:
        priced = calc_price(
            usage, model, provider_id="anthropic", genai_request_timestamp=at
        )
    except LookupError:
        return None
    return Decimal(priced.total_price)


def price_result(model: str, result: c.Result) -> float | None:
    """Price a run's tokens as `model`'s; None where they or the price are not known."""
    dollars = price(
        model,
        tokens_in=result.tokens_in,
        tokens_out=result.tokens_out,
        cache_read=result.cache_read_tokens,
        cache_write=result.cache_write_tokens,
    )
    return None if dollars is None else float(dollars)
