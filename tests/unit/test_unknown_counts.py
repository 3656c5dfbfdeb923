"""What a program did not say it used, or cannot have used, is unknown, and never zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events import catalogue as c
from projections.record import spent_on
from sidecar.costs import settle
from sidecar.executors.agent import read_result
from sidecar.executors.claude.reading import ClaudeTry, Meter
from sidecar.executors.claude.stream_json import RunEnd, read
from sidecar.executors.embed import EmbedReader
from sidecar.executors.ollama import OllamaReader
from sidecar.executors.openai import OpenAIReader
from sidecar.executors.pieces import ReplyEnd
from sidecar.executors.port import RawResult, Run, Stop
from sidecar.executors.watch import Watchdog
from sidecar.metrics import SidecarMetrics
from tests.support.fakes import MemoryLog
from tests.support.runs import Ear, assignment
from web.embeddings import vectors_of

if TYPE_CHECKING:
    from sidecar.executors.claude.reading import ClaudeUsage

NONE: list[Any] = [-1, 1.5, 1e30, 10**30, True, "7", [7], {"n": 7}]
"""What is no count of tokens."""
ABSENT = object()
SONNET = "claude-sonnet-4-5"


def with_field(fields: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    left = {key: each for key, each in fields.items() if key != name}
    return left if value is ABSENT else {**left, name: value}


# -- Claude Code -----------------------------------------------------------------------


def spent(**fields: Any) -> ClaudeUsage:
    """What a run counts whose one result has these fields."""
    (end,) = read({"type": "result", "subtype": "success", "is_error": False, **fields})
    assert isinstance(end, RunEnd)
    meter = Meter(None, resumed=False)
    meter.take(end)
    return meter.spent


USE = {
    "inputTokens": 100,
    "outputTokens": 50,
    "cacheReadInputTokens": 7,
    "cacheCreationInputTokens": 3,
    "costUSD": 0.25,
}
USAGE = {"input_tokens": 100, "output_tokens": 50, "cache_read_input_tokens": 7}


@pytest.mark.parametrize("value", [*NONE, None, ABSENT])
def test_a_model_s_use_without_a_count_is_unknown(value: Any):
    def used(name: str) -> ClaudeUsage:
        models = {SONNET: with_field(USE, name, value)}
        return spent(num_turns=1, total_cost_usd=0.25, modelUsage=models)

    read_, written = used("inputTokens"), used("outputTokens")
    assert (read_.tokens_in, read_.tokens_out, read_.usd) == (None, 50, 0.25)
    assert (written.tokens_in, written.tokens_out) == (100, None)


def test_of_two_models_one_without_a_count_leaves_the_sum_unknown():
    models = {SONNET: USE, "other": with_field(USE, "inputTokens", ABSENT)}
    both = spent(num_turns=1, total_cost_usd=0.5, modelUsage=models)
    assert (both.tokens_in, both.tokens_out, both.usd) == (None, 100, 0.5)


@pytest.mark.parametrize("value", NONE)
def test_a_cache_s_count_that_is_none_leaves_unknown_what_was_read(value: Any):
    models = {SONNET: {**USE, "cacheReadInputTokens": value}}
    assert spent(num_turns=1, modelUsage=models).tokens_in is None
    usage = {**USAGE, "cache_read_input_tokens": value}
    assert spent(num_turns=1, usage=usage).tokens_in is None


def test_a_cache_that_is_not_spoken_of_was_not_used():
    models = {SONNET: {"inputTokens": 100, "outputTokens": 50, "costUSD": 0.25}}
    used = spent(num_turns=1, total_cost_usd=0.25, modelUsage=models)
    assert (used.tokens_in, used.cache_read, used.cache_write) == (100, 0, 0)


@pytest.mark.parametrize("value", [*NONE, None, ABSENT])
def test_a_turn_s_usage_without_a_count_is_unknown(value: Any):
    used = spent(num_turns=1, usage=with_field(USAGE, "input_tokens", value))
    assert (used.tokens_in, used.tokens_out) == (None, 50)
    used = spent(num_turns=1, usage=with_field(USAGE, "output_tokens", value))
    assert (used.tokens_in, used.tokens_out) == (100, None)


@pytest.mark.parametrize("turns", [*NONE, None, ABSENT])
def test_a_result_that_says_neither_turns_nor_tokens_is_unknown(turns: Any):
    used = spent(**with_field({}, "num_turns", turns))
    assert (used.tokens_in, used.tokens_out, used.usd) == (None, None, None)


def test_a_result_of_no_turns_used_nothing():
    used = spent(num_turns=0)
    assert (used.tokens_in, used.tokens_out, used.usd) == (0, 0, 0.0)


def test_what_a_resumed_session_adds_is_unknown_where_either_total_is():
    meter = Meter(0.0, resumed=True)
    for use in (USE, with_field(USE, "inputTokens", ABSENT), {**USE, "costUSD": 0.5}):
        fields = {"num_turns": 1, "total_cost_usd": use["costUSD"]}
        (end,) = read({"type": "result", "modelUsage": {SONNET: use}, **fields})
        assert isinstance(end, RunEnd)
        meter.take(end)
    assert meter.spent.tokens_in is None


async def streamed(*lines: dict[str, Any]) -> ClaudeUsage:
    """What a run counts that printed these lines and was killed."""
    watch = Watchdog(Stop())
    run = Run(assign=assignment(target_type="claude"), cwd=Path("/"), env={})
    killed = ClaudeTry(run, Ear(), watch)
    for line in lines:
        killed.stdout(json.dumps(line).encode() + b"\n")
    watch.close()
    return killed.spent()


def message(kind: str, usage: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"type": kind, "usage": usage}
    if kind == "message_start":
        event = {"type": kind, "message": {"usage": usage}}
    return {"type": "stream_event", "event": event, "parent_tool_use_id": None}


SAID = {
    "type": "assistant",
    "message": {"content": [{"type": "text", "text": "Hm."}]},
    "parent_tool_use_id": None,
}
START = message("message_start", {"input_tokens": 7, "output_tokens": 1})
END = message("message_delta", {"output_tokens": 40})


async def test_of_a_killed_turn_counts_what_its_stream_said():
    used = await streamed(START, SAID, END)
    assert (used.tokens_in, used.tokens_out, used.usd) == (7, 40, None)
    nothing = await streamed()
    assert (nothing.tokens_in, nothing.tokens_out, nothing.usd) == (0, 0, 0.0)


@pytest.mark.parametrize("value", [*NONE, None, ABSENT])
async def test_of_a_killed_turn_what_its_stream_did_not_say_is_unknown(value: Any):
    both = {"input_tokens": 7, "output_tokens": 1}
    unread = message("message_start", with_field(both, "input_tokens", value))
    used = await streamed(unread, SAID, END)
    assert (used.tokens_in, used.tokens_out, used.usd) == (None, 40, None)
    unwritten = message("message_start", with_field(both, "output_tokens", value))
    assert (await streamed(unwritten, SAID)).tokens_out is None
    assert (await streamed(unwritten, SAID, START, SAID, END)).tokens_out is None
    assert (await streamed(unwritten, SAID, END)).tokens_out == 40


async def test_a_killed_turn_that_spoke_without_any_count_is_unknown():
    used = await streamed(SAID)
    assert (used.tokens_in, used.tokens_out, used.usd) == (None, None, None)


async def test_what_a_result_has_counted_is_not_unknown_again():
    unread = message("message_start", {"output_tokens": 1})
    result = {"type": "result", "is_error": False, "num_turns": 1, "result": "Hm."}
    used = await streamed(unread, SAID, {**result, "usage": USAGE})
    assert (used.tokens_in, used.tokens_out) == (100, 50)


# -- model servers ---------------------------------------------------------------------


def ollama(**fields: Any) -> ReplyEnd:
    pieces = OllamaReader().feed(json.dumps({"done": True, **fields}).encode() + b"\n")
    (end,) = [each for each in pieces if isinstance(each, ReplyEnd)]
    return end


def openai(usage: Any) -> ReplyEnd:
    reader = OpenAIReader()
    line = json.dumps({"choices": [], "usage": usage})
    pieces = reader.feed(f"data: {line}\n\ndata: [DONE]\n\n".encode())
    (end,) = [each for each in [*pieces, *reader.close()] if isinstance(each, ReplyEnd)]
    return end


@pytest.mark.parametrize("value", [*NONE, None, ABSENT])
def test_a_model_server_s_count_that_is_none_is_unknown(value: Any):
    both = {"prompt_eval_count": 7, "eval_count": 3}
    assert ollama(**with_field(both, "eval_count", value)).counts.tokens_out is None
    end = ollama(**with_field(both, "prompt_eval_count", value))
    assert (end.counts.tokens_in, end.counts.tokens_out) == (None, 3)
    both = {"prompt_tokens": 9, "completion_tokens": 3}
    end = openai(with_field(both, "prompt_tokens", value))
    assert (end.counts.tokens_in, end.counts.tokens_out) == (None, 3)
    assert (
        openai(with_field(both, "completion_tokens", value)).counts.tokens_out is None
    )


@pytest.mark.parametrize("cached", [*NONE, 10])
def test_more_from_the_cache_than_there_was_leaves_the_prompt_unknown(cached: Any):
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    counts = openai({"prompt_tokens": 9, "completion_tokens": 3, **details}).counts
    assert (counts.tokens_in, counts.cache_read, counts.tokens_out) == (None, 0, 3)


@pytest.mark.parametrize("usage", ["none", 3, [], None])
def test_a_usage_of_another_shape_loses_no_answer(usage: Any):
    assert openai(usage).counts.tokens_in is None
    reader = EmbedReader(1)
    body = {"data": [{"embedding": [0.5]}], "usage": usage, "model": None}
    assert reader.feed(json.dumps(body).encode()) == []
    end = reader.close()[-1]
    assert isinstance(end, ReplyEnd)
    assert (end.counts.tokens_in, end.counts.tokens_out) == (None, 0)


def test_vectors_whose_tokens_nobody_counted_have_no_usage():
    result = c.Result(status="success", tokens_in=None)
    spelled = json.loads(vectors_of('["AAAAPw=="]', "m", result, {}, is_packed=True))
    assert spelled["usage"] is None


# -- agents ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 1.5, 10**30, True, "7", [7]])
def test_an_agent_s_count_that_is_none_is_not_taken(value: Any):
    raw = json.dumps({"status": "success", "tokens_in": value}).encode()
    with pytest.raises(Exception, match="the result"):
        read_result(raw)


# -- as it is booked, summed and told --------------------------------------------------


def settled(target: str, **counts: Any) -> c.Result:
    raw = RawResult(status="success", **{"model_used": SONNET, **counts})
    return settle(raw, assignment(target_type=target, equivalent_model=SONNET))


@pytest.mark.parametrize("target", ["claude", "ollama", "openai", "agent"])
@pytest.mark.parametrize("count", [-1, 10**30])
def test_a_count_of_the_cache_that_is_none_prices_nothing(target: str, count: int):
    result = settled(target, tokens_in=9, tokens_out=9, cache_read_tokens=count)
    assert (result.tokens_in, result.tokens_out) == (None, 9)
    if target in ("claude", "agent"):
        assert (result.estimated_cost_usd, result.cost_basis) == (None, "unknown")


def test_an_agent_that_counts_but_names_no_model_was_not_free():
    result = settled("agent", model_used="none", tokens_in=9, tokens_out=3)
    assert (result.estimated_cost_usd, result.cost_basis) == (None, "unknown")
    silent = settled("agent", model_used="none")
    assert (silent.estimated_cost_usd, silent.cost_basis) == (0.0, "none")


def test_a_claude_that_reports_no_dollars_and_no_tokens_did_ask_a_model():
    result = settled("claude", tokens_in=None, tokens_out=None, reported_cost_usd=0.0)
    assert result.cost_basis == "reported"


def test_a_sum_says_how_many_of_its_runs_are_unknown():
    known, unknown = (
        c.Result(status="success", tokens_in=n, tokens_out=5) for n in (9, None)
    )
    both = spent_on(known) + spent_on(unknown)
    assert (both.tokens_in, both.unknown_in, both.unknown_out) == (9, 1, 0)


def test_metrics_count_the_runs_whose_tokens_and_dollars_are_unknown():
    meter = SidecarMetrics(MemoryLog())
    known = c.Result(status="success", tokens_in=9, tokens_out=5)
    fields = {"tokens_in": None, "estimated_cost_usd": None}
    for result in (known, msgspec.structs.replace(known, **fields)):
        meter.spent(result)
    said = {
        (sample.name, *sample.labels.values()): sample.value
        for family in meter.collect()
        for sample in family.samples
    }
    assert said["agentcom_sidecar_tokens_total", "in"] == 9
    assert said["agentcom_sidecar_tokens_total", "out"] == 10
    assert said["agentcom_sidecar_uncounted_runs_total", "in"] == 1
    assert said[("agentcom_sidecar_unpriced_runs_total",)] == 1
