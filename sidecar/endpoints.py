"""The model servers and the Claude Code that this host can reach, and whether they answer.

Each is looked at every 30 s by requests that load nothing. One answer makes it up, two
misses in a row make it down; a request that really failed counts as a miss. From its first
miss on it is looked at after 0.25 s, and then each time after a quarter of the time that it
has been away: a server that was restarted is found before its tasks go elsewhere. One that
would refuse its next run too (no credit, a key that is refused) is down at once, for five
minutes, whatever the probe says. Claude Code that says itself that it is not logged in is
down until it is.

What is told of an endpoint goes into the log: no password and no key may be in it.

The usual Ollama and Claude Code are looked for unasked; found nowhere, they are not
mentioned: what a host never had is absent, not down.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field, structs

from events import catalogue as c
from events.codec import rfc3339
from events.diagnostics import Diagnostics
from events.models import listed_models
from sidecar.executors.port import Finished, Returned
from sidecar.http import (
    header_key,
    http_client,
    shown_url,
    why_not,
    without_secrets,
)
from sidecar.looks import (
    Answered,
    Known,
    Missed,
    ask_claude,
    ask_server,
    claude_program,
)
from sidecar.shield import variables

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from events.mail import Assign, SharedEndpoint
    from sidecar.config import EndpointConfig, SidecarConfig
    from sidecar.executors.port import Outcome, RawResult
    from sidecar.processes.family import Processes

MISSES_UNTIL_DOWN = 2
UNUSABLE_S = 300.0
_QUICKEST_S = 0.25
_QUICKEST_PROGRAM_S = 2.0
"""A program is started for each look, which costs more than a request."""

logger = Diagnostics(__name__)


# -- What follows from a look ---------------------------------------


class Watched:
    """One endpoint as this host knows it. Pure: time is an argument."""

    def __init__(self, blank: c.EndpointState, *, mentioned: bool) -> None:
        """`mentioned`: somebody named it, so that its absence is worth a word."""
        self.state = blank
        self._mentioned = mentioned
        # What was last said of it to the host; None while nothing was worth a word.
        self.reported: c.EndpointState | None = None
        self._misses = 0
        # When the first of the misses in a row was (the loop's clock); None without any.
        self._missing_since: float | None = None
        self._unusable_until = 0.0

    def answered(
        self, answer: Answered, now: float, *, program: bool = False
    ) -> c.EndpointState | None:
        """Return the endpoint's new state if it is news.

        `program`: this host has Claude Code, which can work through the Messages API.
        """
        self._found()
        if now < self._unusable_until:
            return None
        self._unusable_until = 0.0
        return self._tell(
            structs.replace(
                self.state,
                up=True,
                reason="",
                again_at="",
                version=answer.version,
                models=listed_models(self.state.kind, answer.models),
                loaded=listed_models(self.state.kind, answer.loaded),
                simulated=answer.simulated,
                **_abilities(self.state.kind, answer, program=program),
            )
        )

    def missed(
        self, reason: str, now: float = 0.0, *, there: bool = False
    ) -> c.EndpointState | None:
        """Return the endpoint's new state if that makes it down.

        `there`: it was found, so that its silence is worth a word though nobody named it.
        """
        self._mentioned = self._mentioned or there
        self._misses += 1
        if self._missing_since is None:
            self._missing_since = now
        if self.reported is None and not self._mentioned:
            return None
        last = self.reported
        if last is not None and last.up and self._misses < MISSES_UNTIL_DOWN:
            return None
        if last is not None and not last.up and there and now >= self._unusable_until:
            # It was slow, or was not installed; now one knows better.
            return self._tell(structs.replace(last, reason=reason, again_at=""))
        return self._down(reason)

    def worked(self) -> None:
        """Take note that a real request succeeded."""
        self._found()
        self._unusable_until = 0.0

    def noticed(self, notice: str) -> c.EndpointState | None:
        """Take note of what the last run said of its model; "" where it said nothing."""
        if notice == self.state.notice:
            return None
        self.state = structs.replace(self.state, notice=notice)
        if self.reported is None or not self.reported.up:
            return None  # told when it is up
        return self._tell(self.state)

    def unusable(self, reason: str, now: float, wall: float) -> c.EndpointState | None:
        """Take note that its next run would be refused too.

        `wall` is the same moment in epoch seconds, for people.
        """
        self._unusable_until = now + UNUSABLE_S
        return self._down(reason, rfc3339(wall + UNUSABLE_S))

    def believe(self) -> None:
        """Forget that a run was refused: the next look counts again."""
        self._unusable_until = 0.0

    def pause_s(self, now: float, usual_s: float, quickest_s: float) -> float:
        """Return how long to wait before the next look."""
        sought = self._mentioned or self.reported is not None
        if self._missing_since is None or not sought:
            return usual_s
        quick_s = max(quickest_s, (now - self._missing_since) / 4)
        return min(quick_s, usual_s)

    def _found(self) -> None:
        self._misses = 0
        self._missing_since = None

    def _down(self, reason: str, again_at: str = "") -> c.EndpointState | None:
        down = structs.replace(
            self.state, up=False, reason=reason, loaded=[], again_at=again_at
        )
        if self.reported is not None and not self.reported.up:
            return None
        return self._tell(down)

    def _tell(self, state: c.EndpointState) -> c.EndpointState | None:
        if state == self.reported:
            return None
        self.state = self.reported = state
        return state


def _abilities(kind: str, answer: Answered, *, program: bool) -> dict[str, Any]:
    """Say what an endpoint can do, as its state holds it."""
    if kind == "claude":
        return {}
    hands = ["hands"] if program and "messages" in answer.capabilities else []
    return {
        "capabilities": [*answer.capabilities, *hands],
        "model_capabilities": {
            listed_models(kind, [name])[0]: words
            for name, words in answer.model_capabilities.items()
            if set(words) != set(answer.capabilities) - {"messages"}
        },
        "embedders": listed_models(kind, answer.embedders),
        "context_tokens": {
            listed_models(kind, [name])[0]: tokens
            for name, tokens in answer.context_tokens.items()
        },
    }


# -- All of them -----------------------------------------------------------------------


class _EndpointEntry(Struct):
    """An endpoint and how it is asked."""

    kind: Literal["ollama", "openai", "claude"]
    watched: Watched
    url: str = ""
    api_key_env: str | None = None
    shared: bool = False
    known: Known = field(default_factory=Known)
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: it is to be looked at now."""
    logged_in: bool = False
    """Claude Code has said that it is, and no run has shown otherwise since."""


class Endpoints:
    """Looks at all endpoints of this host; says what is news by calling `report`."""

    def __init__(
        self,
        config: SidecarConfig,
        report: Callable[[c.EndpointState], None],
        processes: Processes | None,
    ) -> None:
        self._config = config
        self._report = report
        self._processes = processes
        self._client: aiohttp.ClientSession | None = None
        # Set when there are other entries than before.
        self._changed = asyncio.Event()
        self._claude = config.endpoint_name("claude")
        self._entries: dict[str, _EndpointEntry] = {}
        for each in config.endpoints():
            self._entries[config.endpoint_name(each.name)] = self._own(each)
        if config.claude.enabled and processes is not None:
            blank = c.EndpointState(
                endpoint=self._claude,
                kind="claude",
                up=False,
                slots=config.slots.claude,
            )
            mentioned = config.claude.program is not None
            self._entries[self._claude] = _EndpointEntry(
                "claude", Watched(blank, mentioned=mentioned)
            )

    def _own(self, each: EndpointConfig) -> _EndpointEntry:
        blank = c.EndpointState(
            endpoint=self._config.endpoint_name(each.name),
            kind=each.kind,
            up=False,
            url=shown_url(each.url),
            slots=each.slots,
        )
        mentioned = bool(self._config.endpoint)
        return _EndpointEntry(
            each.kind, Watched(blank, mentioned=mentioned), each.url, each.api_key_env
        )

    def own_slots(self) -> dict[str, int]:
        """Map the host's own model endpoints to their slots."""
        return {
            name: entry.watched.state.slots
            for name, entry in self._entries.items()
            if entry.kind != "claude" and not entry.shared
        }

    def share(self, endpoints: list[SharedEndpoint]) -> None:
        """Look at these shared endpoints too, and at no other shared ones."""
        shared = {each.endpoint: each for each in endpoints}
        for name in [n for n, entry in self._entries.items() if entry.shared]:
            entry, each = self._entries[name], shared.get(name)
            same = each is not None and (
                (entry.kind, entry.url, entry.watched.state.slots)
                == (each.kind, each.url, each.slots)
            )
            if not same:
                del self._entries[name]
        for name, each in shared.items():
            if name in self._entries:
                # Said anew, because the host has forgotten what it heard before; one
                # that was taken away and added again is back at once.
                self._tell(self._entries[name].watched.reported)
                continue
            blank = c.EndpointState(
                endpoint=name,
                kind=each.kind,
                up=False,
                url=shown_url(each.url),
                slots=each.slots,
                shared=True,
            )
            watched = Watched(blank, mentioned=True)
            entry = _EndpointEntry(each.kind, watched, each.url, shared=True)
            entry.again.set()
            self._entries[name] = entry
        self._changed.set()

    # -- looking

    async def look(self) -> None:
        """Look at every endpoint once, all at the same time."""
        await asyncio.gather(
            *(self._look_at(name, entry) for name, entry in self._entries.items())
        )

    def look_again(self) -> None:
        """Have every endpoint looked at now, those that refused a run too."""
        for entry in self._entries.values():
            entry.watched.believe()
            entry.logged_in = False
            entry.again.set()

    def say_unanswered(self, after_s: float) -> None:
        """Say of what is there, or was named, that it has not answered yet.

        What is merely slow is else taken for what this host does not have.
        """
        for entry in self._entries.values():
            if entry.watched.reported is None:
                there = entry.kind == "claude" and (
                    claude_program(self._config.claude.program) is not None
                )
                reason = f"no answer yet after {after_s:g}s"
                self._tell(entry.watched.missed(reason, time.monotonic(), there=there))

    async def watch(self) -> None:
        """Look again every 30 s, and quickly while something does not answer."""
        looking: dict[str, tuple[_EndpointEntry, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for name, (entry, task) in list(looking.items()):
                    if self._entries.get(name) is not entry:
                        task.cancel()
                        del looking[name]
                for name in self._entries.keys() - looking.keys():
                    entry = self._entries[name]
                    task = group.create_task(self._keep_looking(name, entry))
                    looking[name] = (entry, task)
                await self._changed.wait()

    async def _keep_looking(self, name: str, entry: _EndpointEntry) -> None:
        usual_s = self._config.probe_every_s
        program = entry.kind == "claude"
        quickest_s = _QUICKEST_PROGRAM_S if program else _QUICKEST_S
        while True:
            pause_s = entry.watched.pause_s(time.monotonic(), usual_s, quickest_s)
            with suppress(TimeoutError):
                # Hosts that lost the same server do not all ask at the same moment.
                async with asyncio.timeout(pause_s * random.uniform(0.8, 1.2)):
                    await entry.again.wait()
            entry.again.clear()
            await self._look_at(name, entry)
            if entry.again.is_set():
                await asyncio.sleep(min(_QUICKEST_S, usual_s))

    async def _look_at(self, name: str, entry: _EndpointEntry) -> None:
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                look = await self._ask(entry)
        except TimeoutError:
            look = Missed(f"no answer within {self._config.probe_timeout_s:g}s")
        except OSError as error:
            look = Missed(without_secrets(why_not(error), entry.url))
        if self._entries.get(name) is not entry:
            return
        news = (
            entry.watched.answered(look, time.monotonic(), program=self._has_hands())
            if isinstance(look, Answered)
            else entry.watched.missed(look.reason, time.monotonic(), there=look.there)
        )
        self._tell(news)

    async def _ask(self, entry: _EndpointEntry) -> Answered | Missed:
        if entry.kind != "claude":
            if self._client is None:
                self._client = http_client()
            try:
                key = _key(entry)
            except ValueError as error:
                return Missed(str(error))
            return await ask_server(
                self._client, entry.kind, entry.url, key, entry.known
            )
        if self._processes is None:
            return Missed("no processes can be started here")
        # Its own limit ends the program; the outer one is for what then still hangs.
        limit = self._config.probe_timeout_s * 0.9
        look = await ask_claude(
            self._processes, self._config.claude, limit, logged_in=entry.logged_in
        )
        entry.logged_in = isinstance(look, Answered)
        return look

    def _has_hands(self) -> bool:
        """Whether there is a program here that works with a local model's answers."""
        if self._processes is None or not self._config.claude.hands:
            return False
        return claude_program(self._config.claude.program) is not None

    def _tell(self, news: c.EndpointState | None) -> None:
        if news is not None:
            self._report(news)

    # -- what a run needs, and what it shows

    def resolved(self, assign: Assign) -> Assign:
        """Fill in the URL and kind of an endpoint of this host."""
        entry = self._entries.get(assign.endpoint)
        if entry is None or entry.kind == "claude":
            return assign
        return structs.replace(assign, endpoint_url=entry.url, endpoint_kind=entry.kind)

    def is_simulated(self, assign: Assign) -> bool:
        """Whether what runs there only imitates a model."""
        entry = self._entry_of(assign)
        return entry is not None and entry.watched.state.simulated

    def showed(self, assign: Assign, outcome: Outcome) -> None:
        """Learn from a real run whether its endpoint is usable."""
        entry = self._entry_of(assign)
        if entry is None:
            return
        result = outcome.result
        if (
            entry.kind == "claude"
            and not assign.spec.model
            and result is not None
            and (result.notice or result.status == "success")
        ):
            self._tell(entry.watched.noticed(result.notice))
        if isinstance(outcome, Finished | Returned) and outcome.unusable:
            entry.logged_in = False
            self._tell(
                entry.watched.unusable(
                    _complaint(outcome), time.monotonic(), time.time()
                )
            )
        elif isinstance(outcome, Returned) and outcome.reason == "endpoint_failed":
            reason = outcome.detail or outcome.reason
            self._tell(entry.watched.missed(reason, time.monotonic()))
            entry.again.set()
        elif isinstance(outcome, Finished) and outcome.result.status == "success":
            entry.watched.worked()

    def _entry_of(self, assign: Assign) -> _EndpointEntry | None:
        if assign.target_type == "claude":
            return self._entries.get(assign.endpoint or self._claude)
        return self._entries.get(assign.endpoint)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.close()


def _key(entry: _EndpointEntry) -> str | None:
    if entry.api_key_env is None:
        return None
    return header_key(entry.api_key_env, variables().get(entry.api_key_env))


def _complaint(outcome: Finished[RawResult] | Returned[RawResult]) -> str:
    if isinstance(outcome, Returned):
        return outcome.detail or outcome.reason
    error = outcome.result.error
    return error.message if error is not None else "it refused the last run"
