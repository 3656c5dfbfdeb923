"""The model servers and the Claude Code that this host can reach, and whether they answer.

Each is looked at every 30 s by requests that load nothing. One answer makes it up, two
misses in a row make it down; a request that really failed counts as a miss and has the
endpoint looked at again at once. One that would refuse its next run too (not logged in,
no credit) is down at once, for five minutes, whatever the probe says.

The usual Ollama and Claude Code are looked for unasked; found nowhere, they are not
mentioned: what a host never had is absent, not down.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import msgspec
import structlog
from msgspec import Struct, structs

from actors.rules.models import listed_models
from events import catalogue as c
from events import header
from events.codec import rfc3339
from sidecar.executors.claude import command as claude
from sidecar.executors.port import Finished, Returned
from sidecar.http import base_url, http_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from events.commands import Assign, SharedEndpoint
    from sidecar.config import EndpointConfig, SidecarConfig
    from sidecar.executors.port import Outcome, RawResult
    from sidecar.processes.family import Processes

MISSES_UNTIL_DOWN = 2
UNUSABLE_S = 300.0
_LOOK_AGAIN_S = 1.0
_FOR_CLAUDE = ("HOME", "PATH", "LANG", "USER")

logger = structlog.get_logger(__name__)


# -- What a look shows, and what follows from it ---------------------------------------


class Answered(Struct, frozen=True, kw_only=True):
    """An endpoint answered: its version, its models on disk and in memory."""

    version: str = ""
    models: list[str] = []
    loaded: list[str] = []
    simulated: bool = False


class Missed(Struct, frozen=True):
    """An endpoint did not answer, and why."""

    reason: str


class Watched:
    """One endpoint as this host knows it. Pure: time is an argument."""

    def __init__(self, blank: c.EndpointState, *, mentioned: bool) -> None:
        """`mentioned`: somebody named it, so that its absence is worth a word."""
        self.state = blank
        self._mentioned = mentioned
        # What was last said of it to the host; None while nothing was worth a word.
        self.reported: c.EndpointState | None = None
        self._misses = 0
        self._unusable_until = 0.0

    def answered(self, answer: Answered, now: float) -> c.EndpointState | None:
        """Return the endpoint's new state if it is news."""
        self._misses = 0
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
            )
        )

    def missed(self, reason: str) -> c.EndpointState | None:
        """Return the endpoint's new state if that makes it down."""
        self._misses += 1
        if self.reported is None and not self._mentioned:
            return None
        last = self.reported
        if last is not None and (not last.up or self._misses < MISSES_UNTIL_DOWN):
            return None
        return self._down(reason)

    def worked(self) -> None:
        """Take note that a real request succeeded."""
        self._misses = 0
        self._unusable_until = 0.0

    def unusable(self, reason: str, now: float) -> c.EndpointState | None:
        """Take note that its next run would be refused too."""
        self._unusable_until = now + UNUSABLE_S
        return self._down(reason, rfc3339(self._unusable_until))

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


# -- What the servers say --------------------------------------------------------------


def ollama_answer(version: Any, tags: Any, ps: Any, *, simulated: bool) -> Answered:
    """Read the three answers of an Ollama server; what is not local is left out."""
    number = version.get("version", "") if isinstance(version, dict) else ""
    return Answered(
        version=number if isinstance(number, str) else "",
        models=[name for name, each in _named(tags) if not _remote(each)],
        loaded=[name for name, each in _named(ps) if not _remote(each)],
        simulated=simulated or "simulated" in str(number),
    )


def _named(listing: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    models = listing.get("models") if isinstance(listing, dict) else None
    for each in models if isinstance(models, list) else []:
        if isinstance(each, dict):
            name = each.get("name") or each.get("model")
            if isinstance(name, str) and name:
                yield name, each


def _remote(model: dict[str, Any]) -> bool:
    """Whether it runs in a cloud: such a model is neither local nor free."""
    return bool(model.get("remote_model") or model.get("remote_host"))


def openai_answer(models: Any, *, resident: bool, simulated: bool) -> Answered:
    """Read `/v1/models`. `resident`: the server keeps what it lists in memory."""
    data = models.get("data") if isinstance(models, dict) else None
    names = [
        each["id"]
        for each in (data if isinstance(data, list) else [])
        if isinstance(each, dict) and isinstance(each.get("id"), str) and each["id"]
    ]
    return Answered(models=names, loaded=names if resident else [], simulated=simulated)


# -- Asking them -----------------------------------------------------------------------


class _ProbeReply(Struct):
    """A server's answer to a probe; `body` is None where it is no JSON."""

    path: str
    status: int
    simulated: bool
    body: Any


async def ask_server(
    client: aiohttp.ClientSession, kind: str, url: str, api_key: str | None = None
) -> Answered | Missed:
    """Look at a model server of this kind (`ollama`, `openai`); loads nothing there."""
    try:
        if kind == "ollama":
            return await _ask_ollama(client, base_url(kind, url))
        return await _ask_openai(client, base_url(kind, url), api_key)
    except TimeoutError:
        return Missed("no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return Missed(_why(error))


async def _ask_ollama(client: aiohttp.ClientSession, base: str) -> Answered | Missed:
    version, tags, ps = await asyncio.gather(
        _get(client, base, "/api/version"),
        _get(client, base, "/api/tags"),
        _get(client, base, "/api/ps"),
    )
    for answer in (version, tags):
        if answer.status != 200:
            return Missed(f"{answer.path} answered {answer.status}")
    return ollama_answer(
        version.body,
        tags.body,
        ps.body if ps.status == 200 else None,
        simulated=version.simulated,
    )


async def _ask_openai(
    client: aiohttp.ClientSession, base: str, api_key: str | None
) -> Answered | Missed:
    models, health = await asyncio.gather(
        _get(client, base, "/v1/models", api_key),
        _get(client, base, "/health", api_key),
    )
    if health.status == 503:
        return Missed("/health answered 503 (still loading its model)")
    if models.status != 200:
        return Missed(f"/v1/models answered {models.status}")
    return openai_answer(
        models.body, resident=health.status == 200, simulated=models.simulated
    )


async def _get(
    client: aiohttp.ClientSession, base: str, path: str, api_key: str | None = None
) -> _ProbeReply:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with client.get(
        base + path, headers=headers, allow_redirects=False
    ) as answer:
        raw = await answer.read()
    body = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        body = msgspec.json.decode(raw)
    return _ProbeReply(path, answer.status, header.SIMULATED in answer.headers, body)


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return f"connection refused ({error.host}:{error.port})"
        return str(error)
    return str(error) or type(error).__name__


async def ask_claude(
    processes: Processes, program: str | None, timeout_s: float
) -> Answered | Missed:
    """Ask Claude Code for its version; spends nothing."""
    env = {name: os.environ[name] for name in _FOR_CLAUDE if name in os.environ}
    path = claude.find_program(program, env.get("PATH"))
    probe = await claude.probe(processes, path, env, timeout_s)
    if not probe.version:
        return Missed(probe.reason)
    return Answered(version=probe.version, simulated=probe.simulated)


# -- All of them -----------------------------------------------------------------------


class _EndpointEntry(Struct):
    """An endpoint and how it is asked."""

    kind: Literal["ollama", "openai", "claude"]
    watched: Watched
    url: str = ""
    api_key_env: str | None = None
    shared: bool = False


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
        self._again = asyncio.Event()
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
            url=each.url,
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

    def states(self) -> list[c.EndpointState]:
        """List every endpoint as it is known now."""
        return [entry.watched.state for entry in self._entries.values()]

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
                url=each.url,
                slots=each.slots,
                shared=True,
            )
            watched = Watched(blank, mentioned=True)
            self._entries[name] = _EndpointEntry(
                each.kind, watched, each.url, shared=True
            )
        self._again.set()

    # -- looking

    async def look(self) -> None:
        """Look at every endpoint once, all at the same time."""
        await asyncio.gather(
            *(self._look_at(name, entry) for name, entry in self._entries.items())
        )

    async def watch(self) -> None:
        """Look again every 30 s, and at once when something has gone wrong."""
        while True:
            try:
                async with asyncio.timeout(self._config.probe_every_s):
                    await self._again.wait()
            except TimeoutError:
                pass
            self._again.clear()
            await self.look()
            await asyncio.sleep(min(_LOOK_AGAIN_S, self._config.probe_every_s))

    async def _look_at(self, name: str, entry: _EndpointEntry) -> None:
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                look = await self._ask(entry)
        except TimeoutError:
            look = Missed(f"no answer within {self._config.probe_timeout_s:g}s")
        except OSError as error:
            look = Missed(_why(error))
        if self._entries.get(name) is not entry:
            return
        news = (
            entry.watched.answered(look, time.time())
            if isinstance(look, Answered)
            else entry.watched.missed(look.reason)
        )
        self._tell(news)

    async def _ask(self, entry: _EndpointEntry) -> Answered | Missed:
        if entry.kind != "claude":
            if self._client is None:
                self._client = http_client()
            key = os.environ.get(entry.api_key_env) if entry.api_key_env else None
            return await ask_server(self._client, entry.kind, entry.url, key)
        if self._processes is None:
            return Missed("no processes can be started here")
        # Its own limit ends the program; the outer one is for what then still hangs.
        limit = self._config.probe_timeout_s * 0.9
        return await ask_claude(
            self._processes, self._config.claude.program, timeout_s=limit
        )

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

    def api_key(self, endpoint: str) -> str | None:
        """Return the key for an endpoint, from the variable its configuration names."""
        entry = self._entries.get(endpoint)
        if entry is None or not entry.api_key_env:
            return None
        return os.environ.get(entry.api_key_env)

    def is_simulated(self, assign: Assign) -> bool:
        """Whether what runs there only imitates a model."""
        entry = self._entry_of(assign)
        return entry is not None and entry.watched.state.simulated

    def showed(self, assign: Assign, outcome: Outcome) -> None:
        """Learn from a real run whether its endpoint is usable."""
        entry = self._entry_of(assign)
        if entry is None:
            return
        if isinstance(outcome, Finished | Returned) and outcome.unusable:
            self._tell(entry.watched.unusable(_complaint(outcome), time.time()))
        elif isinstance(outcome, Returned) and outcome.reason == "endpoint_failed":
            self._tell(entry.watched.missed(outcome.detail or outcome.reason))
            self._again.set()
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


def _complaint(outcome: Finished[RawResult] | Returned[RawResult]) -> str:
    if isinstance(outcome, Returned):
        return outcome.detail or outcome.reason
    error = outcome.result.error
    return error.message if error is not None else "it refused the last run"
