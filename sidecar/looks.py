"""Looks at model servers and at Claude Code: what they offer, or why they do not answer.

A look loads nothing and spends nothing. Models are those that can answer a task, embedders
those that make vectors alone; what runs in a cloud is left out.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from msgspec import Struct, field

from events import header
from sidecar.abilities import able, can_chat, can_embed, context_info, is_variant
from sidecar.executors.claude import command as claude
from sidecar.http import base_url, why_not, without_secrets
from sidecar.shield import variables
from sidecar.workspace import for_claude

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sidecar.config import ClaudeConfig
    from sidecar.processes.family import Processes

_SHOW_S = 2.0
"""How long a look may take to learn what models can do; the rest is for the next look."""
_REFUSAL = 4_096
"""How much of a refusal is read."""
_FOR_CLAUDE = ("HOME", "PATH", "LANG", "USER")


class Answered(Struct, frozen=True, kw_only=True):
    """An endpoint answered: its version, its models on disk and in memory.

    `capabilities`, `model_capabilities` and `context_tokens` are as in `EndpointState`.
    """

    version: str = ""
    models: list[str] = []
    loaded: list[str] = []
    simulated: bool = False
    capabilities: list[str] = []
    model_capabilities: dict[str, list[str]] = {}
    context_tokens: dict[str, int] = {}
    embedders: list[str] = []


class Missed(Struct, frozen=True):
    """An endpoint did not answer, and why; `there`: it is known to be on this machine."""

    reason: str
    there: bool = False


# -- What the servers say --------------------------------------------------------------


def ollama_answer(
    version: Any,
    tags: Any,
    ps: Any,
    *,
    simulated: bool,
    shows: Mapping[str, Any] | None = None,
    messages: bool = False,
) -> Answered:
    """Read the three answers of an Ollama server; what is not local is left out.

    `shows` is what `/api/show` says of its models, `messages` whether it serves the
    Messages API.
    """
    number = version.get("version", "") if isinstance(version, dict) else ""
    more = shows or {}
    models = {
        name: {**more.get(name, {}), **each}
        for name, each in _named(tags)
        if not _remote(each) and not is_variant(name)
    }
    embedders = [
        name for name, each in models.items() if can_embed(each) and not can_chat(each)
    ]
    models = {name: each for name, each in models.items() if can_chat(each)}
    return Answered(
        embedders=embedders,
        version=number if isinstance(number, str) else "",
        models=list(models),
        loaded=[
            name
            for name, each in _named(ps)
            if not _remote(each) and not is_variant(name)
        ],
        simulated=simulated or "simulated" in str(number),
        **able(models, messages=messages),
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


def openai_answer(
    models: Any,
    *,
    simulated: bool,
    props: Any = None,
    more: Any = None,
    messages: bool = False,
) -> Answered:
    """Read `/v1/models`; in memory is what the server says is.

    llama.cpp's router says it of each model; the plain server has one, and says of it how
    much context it has set aside. Nobody else says anything.
    `props` is llama.cpp's `/props`, `more` is LM Studio's own list of models.
    """
    listing = models if isinstance(models, dict) else {}
    # llama.cpp says beside the usual list what its models can do.
    beside = dict(_named(listing))
    own = more.get("data") if isinstance(more, dict) else None
    for each in own if isinstance(own, list) else []:
        if isinstance(each, dict) and isinstance(each.get("id"), str):
            beside[each["id"]] = each
    found, loaded, embedders = {}, [], []
    data = listing.get("data")
    for each in data if isinstance(data, list) else []:
        name = each.get("id") if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            continue
        known = {**beside.get(name, {}), **each}
        if not can_chat(known):
            if can_embed(known):
                embedders.append(name)
            continue
        found[name] = known
        if _is_loaded(each):
            loaded.append(name)
    if isinstance(props, dict) and len(found) == 1:
        found = {name: {**each, "props": props} for name, each in found.items()}
    return Answered(
        embedders=embedders,
        models=list(found),
        loaded=loaded,
        simulated=simulated,
        **able(found, messages=messages),
    )


def _is_loaded(model: dict[str, Any]) -> bool:
    status, meta = model.get("status"), model.get("meta")
    if isinstance(status, dict):
        return status.get("value") == "loaded"
    if model.get("owned_by") != "llamacpp" or not isinstance(meta, dict):
        return False
    return "n_ctx" in meta


# -- Asking them -----------------------------------------------------------------------


class _ProbeReply(Struct):
    """A server's answer to a probe; `body` is None where it is no JSON."""

    path: str
    status: int
    simulated: bool
    body: Any


class Known(Struct):
    """What a server need not be asked at every look. Forgotten where it misses one.

    `shows` is what `/api/show` said of a model, by its name and digest: it never changes.
    `of` is what the rest was learned of: its version or its models.
    """

    shows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    of: Any = None
    messages: bool | None = None
    props: Any = None
    more: Any = None


async def ask_server(
    client: aiohttp.ClientSession,
    kind: str,
    url: str,
    api_key: str | None = None,
    known: Known | None = None,
) -> Answered | Missed:
    """Look at a model server of this kind (`ollama`, `openai`); loads nothing there.

    What it says of why it cannot be reached holds neither the address's password nor the
    key. `known` remembers from look to look what does not change.
    """
    base = base_url(kind, url)
    known = known if known is not None else Known()
    try:
        if kind == "ollama":
            look = await _ask_ollama(client, base, known)
        else:
            look = await _ask_openai(client, base, api_key, known)
    except TimeoutError:
        look = Missed("no answer in time")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        look = Missed(without_secrets(why_not(error), url, api_key))
    if isinstance(look, Missed):
        known.of = None
    return look


async def _ask_ollama(
    client: aiohttp.ClientSession, base: str, known: Known
) -> Answered | Missed:
    version, tags, ps = await asyncio.gather(
        _get(client, base, "/api/version"),
        _get(client, base, "/api/tags"),
        _get(client, base, "/api/ps"),
    )
    if version.status == 404:
        return Missed(
            "no Ollama is there: /api/version answered 404; "
            'an OpenAI-compatible server is of kind "openai"'
        )
    for answer in (version, tags):
        if answer.status != 200:
            return Missed(f"{answer.path} answered {answer.status}")
    keys = {
        name: (name, str(each.get("digest", "")))
        for name, each in _named(tags.body)
        if not _remote(each) and not is_variant(name)
    }
    await _learn_shows(client, base, known, set(keys.values()))
    if known.of != version.body:
        known.of = version.body
        known.messages = await _serves_messages(client, base)
    return ollama_answer(
        version.body,
        tags.body,
        ps.body if ps.status == 200 else None,
        simulated=version.simulated,
        shows={name: known.shows.get(key, {}) for name, key in keys.items()},
        messages=bool(known.messages),
    )


_KEPT_OF_SHOW = ("capabilities", "model_info", "parameters")


async def _learn_shows(
    client: aiohttp.ClientSession,
    base: str,
    known: Known,
    models: set[tuple[str, str]],
) -> None:
    """Ask what models can do; what is not learned in time is asked at the next look."""
    shows = known.shows
    for gone in shows.keys() - models:
        del shows[gone]

    async def learn(key: tuple[str, str]) -> None:
        async with client.post(
            f"{base}/api/show", json={"model": key[0]}, allow_redirects=False
        ) as answer:
            raw = await answer.read()
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            value = msgspec.json.decode(raw)
            if answer.status == 200 and isinstance(value, dict):
                kept = {name: value.get(name) for name in _KEPT_OF_SHOW}
                shows[key] = {**kept, "model_info": context_info(kept["model_info"])}

    with suppress(TimeoutError):
        async with asyncio.timeout(_SHOW_S):
            await asyncio.gather(
                *(learn(key) for key in models - shows.keys()),
                return_exceptions=True,
            )


async def _ask_openai(
    client: aiohttp.ClientSession, base: str, api_key: str | None, known: Known
) -> Answered | Missed:
    # `/health` is not asked: on LiteLLM it is a paid completion on every model.
    models = await _get(client, base, "/v1/models", api_key)
    if models.status == 503:
        return Missed("/v1/models answered 503 (still loading its model)")
    if models.status != 200:
        return Missed(f"/v1/models answered {models.status}")
    listed = openai_answer(models.body, simulated=models.simulated)
    if known.of != listed.models:
        known.of = listed.models
        known.messages = await _serves_messages(client, base, api_key)
        known.props = known.more = None
        for owner in _owners(models.body):
            # Both load nothing, and are asked of nobody else.
            if owner == "llamacpp":
                known.props = await _get_body(client, base, "/props", api_key)
            elif owner == "organization_owner":
                known.more = await _get_body(client, base, "/api/v0/models", api_key)
    return openai_answer(
        models.body,
        simulated=models.simulated,
        props=known.props,
        more=known.more,
        messages=bool(known.messages),
    )


def _owners(listing: Any) -> set[str]:
    data = listing.get("data") if isinstance(listing, dict) else None
    return {
        each["owned_by"]
        for each in (data if isinstance(data, list) else [])
        if isinstance(each, dict) and isinstance(each.get("owned_by"), str)
    }


async def _serves_messages(
    client: aiohttp.ClientSession, base: str, api_key: str | None = None
) -> bool | None:
    """Whether it serves the Messages API: an empty request is refused, not unknown.

    Such a request names no model and says nothing, so that nobody can answer or bill it.
    llama.cpp's server takes the blame for it: a 500 that misses the messages.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with (
            asyncio.timeout(_SHOW_S),
            client.post(
                f"{base}/v1/messages", json={}, headers=headers, allow_redirects=False
            ) as answer,
        ):
            if answer.status != 500:
                return answer.status in (400, 422)
            return b"'messages' is required" in await answer.content.read(_REFUSAL)
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


async def _get_body(
    client: aiohttp.ClientSession, base: str, path: str, api_key: str | None
) -> Any:
    try:
        async with asyncio.timeout(_SHOW_S):
            answer = await _get(client, base, path, api_key)
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None
    return answer.body if answer.status == 200 else None


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


async def ask_claude(
    processes: Processes,
    config: ClaudeConfig,
    timeout_s: float,
    *,
    logged_in: bool = False,
) -> Answered | Missed:
    """Ask Claude Code for its version, and whether it is logged in; spends nothing.

    `logged_in`: it has said so before. Then that is not asked again, because it starts the
    whole program: a run that is refused tells, too.
    """
    given = variables()
    env = {name: given[name] for name in _FOR_CLAUDE if name in given}
    if processes.user is not None:
        env |= processes.user.variables
    path = claude_program(config.program)
    probe = await claude.probe(processes, path, env, timeout_s)
    if path is None or not probe.version:
        return Missed(probe.reason, there=path is not None)
    if not logged_in:
        env = claude.environment(for_claude(given, config.inherit) | env)
        version = probe.version
        if await claude.is_logged_out(processes, path, version, env, timeout_s):
            return Missed(claude.NOT_LOGGED_IN, there=True)
    return Answered(version=probe.version, simulated=probe.simulated)


def claude_program(program: str | None) -> Path | None:
    """Find Claude Code on this machine, without asking it anything."""
    return claude.find_program(program, variables().get("PATH"))
