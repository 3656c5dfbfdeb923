"""An answer that must fit a JSON schema: what is wrong with it, and what it has cost.

One that does not fit is told so once, and asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs

from events import catalogue as c
from sidecar.executors.schema import judged
from sidecar.executors.server_errors import ModelFault

if TYPE_CHECKING:
    from sidecar.executors.port import RawResult, Run
    from sidecar.executors.watch import Watchdog

FEEDBACK: Final = "{} Answer again, with JSON that fits it and nothing else."


async def unfit_answer(
    run: Run, watch: Watchdog, result: RawResult
) -> ModelFault | None:
    """Say why an answer does not fit the schema that was asked for."""
    schema = run.assign.spec.json_schema
    if schema is None or result.tool_calls:
        return None
    problems: list[str] = []

    async def judge() -> None:
        problem = await judged(schema, result.output)
        problems.extend([problem] if problem else [])

    if result.truncated:
        problems.append("It is longer than a host keeps.")
    elif await watch.guard(judge()) is not None:
        problems.append("The time was up before it was held to the schema.")
    if not problems:
        return None
    return ModelFault(
        code="schema",
        message=f"the answer does not fit the JSON schema. {problems[0]}",
        again=False,
        whose="work",
    )


def with_spent(before: RawResult | None, result: RawResult) -> RawResult:
    """Return a result with what an earlier round has spent."""
    if before is None:
        return result
    return structs.replace(
        result,
        tokens_in=_sum(before.tokens_in, result.tokens_in),
        tokens_out=_sum(before.tokens_out, result.tokens_out),
        cache_read_tokens=before.cache_read_tokens + result.cache_read_tokens,
        cost_known=before.cost_known and result.cost_known,
        simulated=before.simulated or result.simulated,
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def faulty(result: RawResult, fault: ModelFault) -> RawResult:
    error = c.RunError(fault.code, fault.message)
    return structs.replace(result, status="failed", error=error)
