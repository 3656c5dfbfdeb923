"""`agentcom demo`: a tour in under a minute, on an instance that is gone afterwards.

It is the whole of `agentcom up`, in a temporary folder on free ports. What is missing on
this machine is simulated: programs that speak the real protocols over real sockets and
pipes, and are marked as simulated wherever they show. Claude Code is simulated also
where it is installed, unless `--real-claude` says otherwise: a tour should cost nothing.
Each step is checked; one that did not end as it should makes the exit code 1.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cli.client.connection import (
    GivenUp,
    Session,
    connected,
    new_id,
    run,
    unless,
)
from cli.client.follow import Following
from cli.commands.submit import hand_in
from cli.local.fault_proxy import FaultProxy
from cli.local.instance import Instance
from cli.local.process import ending_signals
from cli.local.supervisor import Everything, Plan, free_port
from cli.local.unheard import speak_unheard
from cli.render.costs import cost_table
from cli.render.display import Screen
from cli.render.fleet import describe
from cli.render.tasks import trace
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    Problem,
    console,
    painted,
)
from events import catalogue as c
from events import subjects
from events.errors import AgentComError
from projections.answers import CostsAnswer, TaskAnswer
from sidecar.shield import shield

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cli.render.outcome import Outcome
    from sidecar.simulated.claude import SimulatedClaude

HOST: Final = "demo"
STEP_S: Final = 120.0
TOKENS_PER_S: Final = 30.0


@click.command()
@click.option("--once", is_flag=True, help="End after the tour, on a terminal too.")
@click.option(
    "--stay",
    is_flag=True,
    help="Stay up after the tour, with a little simulated work coming, until Ctrl-C.",
)
@click.option(
    "--simulated", is_flag=True, help="Simulate Ollama even where there is one."
)
@click.option(
    "--real-claude", is_flag=True, help="Use your Claude Code; it costs a few cents."
)
def demo(*, once: bool, stay: bool, simulated: bool, real_claude: bool) -> int:
    """A tour: all three tiers, a retry, a fallback, and what it cost.

    Nothing is kept. On a terminal it stays up afterwards, until Ctrl-C; with --stay
    anywhere, and its pages live.
    """
    if once and stay:
        raise click.UsageError(
            "--once ends after the tour, --stay does not: one of them"
        )
    speak_unheard()
    terminal = sys.stdout.isatty() and sys.stdin.isatty() and not once
    return run(
        _demo(
            stay=stay or terminal,
            living=stay,
            simulated=simulated,
            real_claude=real_claude,
        )
    )


def _stop_on_signals() -> asyncio.Event:
    """Make an event that a signal sets; whoever waits for it cleans up."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stop.set)
    return stop


async def _demo(*, stay: bool, living: bool, simulated: bool, real_claude: bool) -> int:
    began = time.monotonic()
    stop = _stop_on_signals()
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="agentcom-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            backends = await stack.enter_async_context(
                _backends(folder, simulated=simulated, real_claude=real_claude)
            )
            say("A tour of AgentCom", "bold")
            for line in backends.about:
                say(line)
            say(f"Starting everything in {folder}, for this tour alone.\n", "dim")
            everything = await stack.enter_async_context(
                _everything(folder, backends, stop)
            )
            operator = everything.instance.credentials("operator")
            client = await stack.enter_async_context(connected(credentials=operator))
            tour = Tour(client, backends)
            await unless(stop, tour.walk())
        except GivenUp:
            return EXIT_INTERRUPTED
        took = time.monotonic() - began
        if tour.problems:
            for problem in tour.problems:
                say(f"NOT AS IT SHOULD BE: {problem}", "bad")
            return EXIT_REFUSED
        say(f"\nAll of it went as it should, in {took:.0f} s.", "good")
        say("To run it for yourself: agentcom up")
        if stay:
            say(f"\nStill up: {everything.url}")
            data = everything.instance.data
            say(f"Look around from another terminal: agentcom --data {data} tasks")
            if living:
                say("A little simulated work keeps coming (label demo=simulated).")
            say("Press Ctrl-C to end it.", "bold")
            if living:
                from cli.commands.demo_work import keep_coming

                await keep_coming(client, backends.steered, stop)
            await stop.wait()
    return EXIT_OK


def say(text: str, style: str = "") -> None:
    """Print a line of the tour."""
    sys.stdout.write(painted(text, style, sys.stdout) + "\n")
    sys.stdout.flush()


# -- what it runs on -------------------------------------------------------------------


class Backends:
    """The model server behind the proxy that breaks it, and Claude Code."""

    def __init__(
        self, proxy: FaultProxy, claude: SimulatedClaude | None, about: list[str]
    ) -> None:
        self.proxy = proxy
        self.steered = claude  # None: the real one
        self.claude = str(claude.program) if claude is not None else None
        self.about = about


@asynccontextmanager
async def _backends(
    folder: Path, *, simulated: bool, real_claude: bool
) -> AsyncIterator[Backends]:
    from sidecar.simulated.claude import Scenario, SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama

    about: list[str] = []
    async with AsyncExitStack() as stack:
        target = None if simulated else await _real_ollama(about)
        if target is None:
            server = SimulatedOllama(tokens_per_s=TOKENS_PER_S, first_token_s=0.2)
            await stack.enter_async_context(server)
            target = server.url
            about.append(
                "Ollama is simulated here: a server that speaks its protocol, but no "
                "model answers."
            )
        proxy = FaultProxy(target)
        await proxy.restore()
        stack.push_async_callback(proxy.cut)
        claude = None
        if not real_claude:
            claude = SimulatedClaude(folder / "claude")
            claude.always(Scenario(delay_s=1 / TOKENS_PER_S))
            about.append(
                "Claude Code is simulated here, so that the tour costs nothing: its "
                "dollars are what Claude would have reported."
            )
        yield Backends(proxy, claude, about)


async def _real_ollama(about: list[str]) -> str | None:
    """Return the URL of an Ollama that has a model, None where there is none."""
    from sidecar.config import ollama_url
    from sidecar.http import http_client
    from sidecar.looks import Answered, ask_server

    url = ollama_url()
    async with http_client(total_s=3.0) as http:
        server = await ask_server(http, "ollama", url)
    if not isinstance(server, Answered) or not server.models:
        return None
    about.append(f"Ollama {server.version} at {url} does the standard tasks, for real.")
    return url


@asynccontextmanager
async def _everything(
    folder: Path, backends: Backends, stop: asyncio.Event
) -> AsyncIterator[Everything]:
    """Run the whole of `agentcom up` for as long as the block lasts."""
    shield()
    data = folder / "instance"
    data.mkdir(mode=0o700)
    config = data / "sidecar.toml"
    claude = f'[claude]\nprogram = "{backends.claude}"\n' if backends.claude else ""
    config.write_text(
        f"""probe_every_s = 1.0
drain_timeout_s = 1.0
[[endpoint]]
name = "ollama"
kind = "ollama"
url = "{backends.proxy.url}"
{claude}"""
    )
    plan = Plan(
        host=HOST,
        port=free_port(),
        nats_port=free_port(),
        any_port=True,
        any_nats_port=True,
        config=config,
        drain_s=1.0,
    )
    everything = Everything(Instance(data), plan, lambda text: say(text, "dim"))
    try:
        fleet = await unless(stop, everything.start())
        describe(fleet, HOST, everything.places(), hint=False)
        yield everything
    finally:
        await everything.stop()


# -- the tour --------------------------------------------------------------------------


class Tour:
    """Walks through it step by step; `problems` is what did not go as it should."""

    def __init__(self, client: Session, backends: Backends) -> None:
        self._client = client
        self._proxy = backends.proxy
        self._step = 0
        self.problems: list[str] = []

    async def walk(self) -> None:
        """Take every step."""
        for step in (
            self.trivial,
            self.standard,
            self.complex,
            self.retry,
            self.fallback,
            self.costs,
        ):
            try:
                async with asyncio.timeout(STEP_S):
                    await step()
            except TimeoutError:
                self.problems.append(f"{step.__name__}: not done in {STEP_S:.0f} s")
                return
            except (AgentComError, Problem) as error:
                self.problems.append(f"{step.__name__}: {error}")
                return

    def _head(self, title: str, command: str = "") -> None:
        self._step += 1
        say(f"\n{self._step}. {title}", "bold")
        if command:
            say(f"   $ {command}", "dim")

    def _expect(self, what: str, ok: bool) -> None:
        if not ok:
            self.problems.append(what)

    async def _run(self, **fields: Any) -> tuple[Outcome, Screen]:
        """Submit a task and show it to its end."""
        fields["idempotency_key"] = new_id()
        submitted = await hand_in(self._client, fields)
        screen = Screen(notes=sys.stdout)
        outcome = await Following(self._client, submitted.task_id, screen).outcome()
        screen.end(outcome)
        return outcome, screen

    async def trivial(self) -> None:
        """A shell command."""
        self._head(
            "Trivial: a command needs no model at all.",
            "agentcom submit --shell '…' --follow",
        )
        command = 'echo "hello from $(uname -s)"; for n in 1 2 3; do sleep 0.2; echo "line $n"; done'
        outcome, _ = await self._run(description=command, shell={"command": command})
        self._expect(
            "the shell task should print three lines for $0.00",
            outcome.state == "completed"
            and "line 3" in outcome.output
            and outcome.estimated_cost_usd == 0,
        )

    async def standard(self) -> None:
        """A local model."""
        text = "Explain in one sentence why an append-only log makes a system easier to debug."
        self._head(
            "Standard: a local model answers, token by token.",
            f"agentcom submit '{text}' --follow",
        )
        outcome, _ = await self._run(description=text, tier="standard")
        self._expect(
            "the standard task should be completed by the local model",
            outcome.state == "completed" and outcome.target_type == "ollama",
        )

    async def complex(self) -> None:
        """Claude Code, with its dollars."""
        text = "Redesign the security of a login form: name the two biggest risks."
        self._head(
            "Complex: Claude Code, with its dollars.",
            f"agentcom submit '{text}' --follow",
        )
        outcome, _ = await self._run(description=text)
        self._expect(
            "the complex task should be completed by Claude Code, for some dollars",
            outcome.state == "completed"
            and outcome.target_type == "claude"
            and bool(outcome.estimated_cost_usd),
        )

    async def retry(self) -> None:
        """A stream that dies in the middle."""
        self._head("A retry: the connection to the model is cut in mid-answer.")
        self._proxy.break_next_answer()
        outcome, screen = await self._run(
            description="Name three things that a good log entry says.", tier="standard"
        )
        self._expect(
            "the cut answer should be retried (`Ollama retry 1/2...`) and completed",
            outcome.state == "completed" and "Ollama retry 1/2..." in screen.lines,
        )

    async def fallback(self) -> None:
        """The local tier goes away."""
        self._head("A fallback: the local model goes away, Claude Code takes over.")
        down = asyncio.ensure_future(self._tier_event(c.TierDown, "standard"))
        await self._proxy.cut()
        event = await down
        say(
            f"the standard tier is down ({event.reason}); after 5 s its tasks may hop "
            "one tier up",
            "warn",
        )
        outcome, _ = await self._run(
            description="Say in one sentence what a fallback is.", tier="standard"
        )
        self._expect(
            "the task should fall back from standard to Claude Code",
            outcome.state == "completed"
            and outcome.fallback_used
            and outcome.fallback_from_tier == "standard"
            and outcome.target_type == "claude",
        )
        answer = await self._client.query(
            "task", {"task_id": outcome.task_id}, TaskAnswer
        )
        if answer.route is not None:
            say(f"\nWhy, as the log has it (agentcom task {outcome.task_id[:8]}):")
            trace(console(), answer.route)
        up = asyncio.ensure_future(self._tier_event(c.TierUp, "standard"))
        await self._proxy.restore()
        await up
        say("the standard tier is back", "good")

    async def _tier_event(self, kind: type[c.TierEvent], tier: str) -> Any:
        """Wait for the next event of a kind about a tier."""
        event: asyncio.Future[c.Event] = asyncio.get_running_loop().create_future()

        def on(recorded: c.Recorded) -> None:
            if isinstance(recorded.event, kind) and not event.done():
                event.set_result(recorded.event)

        start = await self._client.log.last_sequence() + 1
        follower = await self._client.log.follow(
            on, start=start, subjects=[subjects.tier(tier)]
        )
        try:
            return await event
        finally:
            await follower.stop()

    async def costs(self) -> None:
        """The bill."""
        self._head("The costs, as the log has them.", "agentcom costs --by tier")
        answer = await self._client.query("costs", {"by": "tier"}, CostsAnswer)
        console().print(cost_table(answer))
        self._expect(
            "the bill should have all three tiers, and dollars",
            {line.key for line in answer.lines} >= {"trivial", "standard", "complex"}
            and answer.total.estimated_cost_usd > 0,
        )
