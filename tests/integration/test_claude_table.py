"""The real Claude Code, case by case: how each ends, what is tried again, what it cost.

Everything that a loopback Messages API can provoke of what INTERFACES.md lists; the
dollars are those that the price list has for the tokens that the API said.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct, field

from actors.rules.prices import price
from sidecar.costs import settle
from sidecar.executors.claude.command import ClaudeOptions
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.processes.family import Processes
from tests.support.messages_api import Reply
from tests.support.runs import QUICK, Ear, alive, assignment, is_alive, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.executors.port import Outcome, RawResult
    from tests.support.messages_api import MessagesApi

MODEL = "claude-sonnet-4-5"


def dollars(calls: int = 1, tokens_out: int = 15) -> float:
    """What so many calls cost that read the usual tokens."""
    one = price(
        MODEL, tokens_in=25, tokens_out=tokens_out, cache_read=20_000, cache_write=1_000
    )
    assert one is not None
    return calls * float(one)


class Case(Struct, kw_only=True):
    """What the API does, what is asked, and how it has to end."""

    name: str
    replies: list[Any] = field(default_factory=list)
    always: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    ends: str = "failed"
    code: str = ""
    retries: int = 0
    unusable: bool = False
    usd: float | None = 0.0


TOOL = Reply(kind="tool", command="echo hi")
BASH = {"allowed_tools": ("Bash",)}
CASES = [
    Case(name="ok", ends="success", usd=dollars()),
    Case(
        name="a tool used", replies=[TOOL], options=BASH, ends="success", usd=dollars(2)
    ),
    Case(name="429 once", replies=["r429"], ends="success", retries=1, usd=dollars()),
    Case(name="429", always="r429", ends="limited", code="rate_limit", retries=3),
    Case(
        name="429 with headers",
        always=Reply(kind="r429", resets_at=1_999_999_999),
        ends="limited",
        code="rate_limit",
        retries=3,
    ),
    Case(name="529", always="o529", code="server_error", retries=3),
    Case(name="500", always="e500", code="server_error", retries=3),
    Case(name="401", always="a401", code="authentication_failed", unusable=True),
    Case(name="credit", always="credit", code="credit", unusable=True),
    Case(name="model not found", always="n404", code="model_not_found"),
    Case(name="prompt too long", always="p400", code="prompt_too_long"),
    Case(name="refused connection", code="server_error", retries=3),
    Case(
        name="dropped mid-stream",
        always="drop",
        code="server_error",
        retries=3,
        usd=None,
    ),
    Case(name="dropped once", replies=["drop"], ends="success", usd=None),
    Case(name="closed mid-stream", replies=["close"], ends="success", usd=None),
    Case(name="refused by the model", always="refusal", code="refused", usd=None),
    Case(
        name="tool denied",
        replies=[Reply(kind="tool", command="touch x")],
        options={"permission_mode": "default"},
        code="permission_denied",
        usd=dollars(2),
    ),
    Case(
        name="max turns",
        always=TOOL,
        options={**BASH, "max_turns": 1},
        code="max_turns",
        usd=dollars(),
    ),
    Case(
        name="budget",
        fields={"max_budget_usd": 0.0001},
        code="budget",
        usd=dollars(),
    ),
    Case(
        name="unknown model",
        fields={"model": "claude-nonsense-9"},
        ends="success",
        usd=None,
    ),
]


@pytest.fixture
def processes() -> Iterator[Processes]:
    family = Processes()
    family.become_subreaper()
    yield family
    assert running(family) == []


class Claude:
    """The real program, asked as a host asks it."""

    def __init__(
        self, program: Path, api: MessagesApi, processes: Processes, folder: Path
    ) -> None:
        self.program = program
        self.url = api.url
        self.processes = processes
        self.folder = folder
        self.ear = Ear()
        self.stop = Stop()

    async def run(self, options: dict[str, Any], **fields: Any) -> Outcome:
        usual = {"tier": "complex", "target_type": "claude", "model": MODEL}
        self.assign = assignment(limits=QUICK, **{**usual, **fields})
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "any",
        }
        chosen = ClaudeOptions(program=str(self.program), **options)
        run = Run(assign=self.assign, cwd=self.folder, env=env)
        outcome = await ClaudeExecutor(self.processes, chosen).run(
            run, self.ear, self.stop
        )
        assert alive(self.assign.route) == []
        return outcome


@pytest.fixture
def claude(
    real_claude: Path, messages_api: MessagesApi, processes: Processes, tmp_path: Path
) -> Claude:
    return Claude(real_claude, messages_api, processes, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_every_case_ends_as_it_should_and_costs_what_it_did(
    case: Case, claude: Claude, messages_api: MessagesApi
) -> None:
    messages_api.reply_next(*case.replies)
    if case.always is not None:
        always = case.always
        messages_api.always = (
            always if isinstance(always, Reply) else Reply(kind=always)
        )
    with socket.socket() as nobody:
        if case.name == "refused connection":
            nobody.bind(("127.0.0.1", 0))  # bound and never listening
            claude.url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        outcome = await claude.run(case.options, **case.fields)
    assert isinstance(outcome, Finished | Returned)
    result = outcome.result
    assert result is not None
    if case.ends == "limited":
        assert isinstance(outcome, Returned)
        assert (outcome.reason, outcome.limited_until) == ("limited", None)
    else:
        assert isinstance(outcome, Finished)
        assert result.status == case.ends
    assert (result.error.code if result.error else "") == case.code
    assert outcome.unusable == case.unusable
    assert len(claude.ear.lines("retrying")) == case.retries
    assert bool(claude.ear.lines("error")) == (case.ends != "success")
    booked = settle(result, claude.assign)
    assert booked.estimated_cost_usd == pytest.approx(listed(result))
    if case.usd is not None:
        assert booked.estimated_cost_usd == pytest.approx(case.usd)
    spent = "reported" if case.name != "unknown model" else "reported_unpriced"
    assert booked.cost_basis == (spent if booked.estimated_cost_usd else "none")


def listed(result: RawResult) -> float:
    """What the price list has for the tokens of a result."""
    if not result.cost_known:
        return result.reported_cost_usd or 0.0
    found = price(
        MODEL,
        tokens_in=result.tokens_in or 0,
        tokens_out=result.tokens_out or 0,
        cache_read=result.cache_read_tokens,
        cache_write=result.cache_write_tokens,
    )
    assert found is not None
    return float(found)


@pytest.mark.parametrize("when", ["while it speaks", "while a tool runs"])
async def test_an_interrupted_run_costs_what_it_had_read(
    when: str, claude: Claude, messages_api: MessagesApi
) -> None:
    kind = "stall" if when == "while it speaks" else "tool"
    messages_api.reply_next(Reply(kind=kind, command="sleep 1000"))
    heard = "token" if kind == "stall" else "tool"
    claude.ear.on_each(
        lambda: claude.stop.request("x") if claude.ear.said(heard) else None
    )
    outcome = await claude.run(BASH)
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0
    assert outcome.result is not None
    booked = settle(outcome.result, claude.assign)
    assert booked.cost_basis in ("reported", "estimated")
    assert booked.estimated_cost_usd == pytest.approx(listed(outcome.result))
    # A program that sees its tool end before itself may tell the model so.
    asked = sum(call.reply is not None for call in messages_api.calls)
    assert asked == 1 or (kind == "tool" and asked == 2)
    assert outcome.result.cache_read_tokens == 20_000 * asked


async def test_a_program_that_is_killed_is_tried_again_and_its_tokens_are_booked(
    claude: Claude, messages_api: MessagesApi
) -> None:
    """Nobody says what the first try cost: the price list does."""
    messages_api.reply_next("stall")
    killed: list[int] = []

    def kill() -> None:
        if claude.ear.said("token") and not killed:
            killed.extend(each.pid for each in running(claude.processes))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    claude.ear.on_each(kill)
    outcome = await claude.run({})
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert result.status == "success"
    assert (len(killed), len(claude.ear.lines("retrying"))) == (1, 1)
    assert result.cache_read_tokens == 40_000
    booked = settle(result, claude.assign)
    assert booked.cost_basis == "estimated"
    assert booked.estimated_cost_usd == pytest.approx(listed(result))


async def test_a_killed_programs_tools_do_not_live_on(
    claude: Claude, messages_api: MessagesApi
) -> None:
    """Bash runs in a process group of its own, which SIGKILL to Claude Code misses."""
    (claude.folder / "up").unlink(missing_ok=True)
    os.mkfifo(claude.folder / "up")
    command = "trap '' TERM INT HUP; echo $$ > up; sleep 1000 & sleep 1000"
    messages_api.reply_next(Reply(kind="tool", command=command))
    at_work = asyncio.create_task(claude.run(BASH))
    tool = int(await asyncio.to_thread((claude.folder / "up").read_text))
    (program,) = running(claude.processes)
    assert os.getpgid(tool) != os.getpgid(program.pid)
    os.kill(program.pid, signal.SIGKILL)
    outcome = await at_work
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert not is_alive(tool)


async def test_a_resumed_session_costs_the_difference(claude: Claude) -> None:
    first = await claude.run({})
    assert isinstance(first, Finished)
    again = await claude.run({}, resume_session=first.result.session_id)
    assert isinstance(again, Finished)
    assert again.result.session_id == first.result.session_id
    for each in (first, again):
        assert each.result.reported_cost_usd == pytest.approx(dollars())
