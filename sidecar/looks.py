"""Looks at model servers and at Claude Code: what they offer, or why they do not answer.

A look loads nothing and spends nothing. Models are those that can answer a task: what only
embeds, and what runs in a cloud, is left out.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from msgspec import Struct

from events import header
from sidecar.executors.claude import command as claude
from sidecar.http import base_url, without_secrets
from sidecar.shield import variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sidecar.processes.family import Processes

_SHOW_S = 2.0
"""How long a look may take to learn what models can do; the rest is for the next look."""
_FOR_CLAUDE = ("HOME", "PATH", "LANG", "USER")


class Answered(Struct, frozen=True, kw_only=True):
    """An endpoint answered: its version, its models on disk and in memory."""

    version: str = ""
    models: list[str] = []
    loaded: list[str] = []
    simulated: bool = False


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
    abilities: Mapping[str, Any] | None = None,
) -> Answered:
    """Read the three answers of an Ollama server; what is not local is left out.

    `abilities` is what `/api/show` says of models of which the list does not say it.
    """
    number = version.get("version", "") if isinstance(version, dict) else ""
    more = abilities or {}
    return Answered(
        version=number if isinstance(number, str) else "",
        models=[
            name
            for name, each in _named(tags)
            if not _remote(each) and can_chat({**more.get(name, {}), **each})
        ],
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


_CHATS = {"completion", "completions", "chat", "generate", "text-generation"}
_DOES_NOT = {
    *("embedding", "embeddings", "feature-extraction", "rerank", "reranker"),
    *("moderation", "image", "image_generation", "audio", "tts", "stt"),
    *("transcription", "audio_transcription", "audio_speech"),
}


def can_chat(model: dict[str, Any]) -> bool:
    """Whether a listed model answers prompts, as far as its server says.

    Servers say it as `capabilities` (Ollama and llama.cpp: a list of words, Mistral: words
    to booleans), as a type, or not at all: then it does, unless it is of a family that
    has never answered anything.
    """
    abilities = model.get("capabilities")
    if isinstance(abilities, dict):
        chats = abilities.get("completion_chat")
        if isinstance(chats, bool):
            return chats
        abilities = [name for name, can in abilities.items() if can is True]
    words = {str(each).lower() for each in abilities or () if isinstance(each, str)}
    for name in ("type", "mode", "task"):
        if isinstance(model.get(name), str):
            words.add(model[name].lower())
    if words & _CHATS:
        return True
    details = model.get("details")
    family = details.get("family") if isinstance(details, dict) else None
    return not words & _DOES_NOT and "bert" not in str(family or "").lower()


def openai_answer(models: Any, *, simulated: bool) -> Answered:
    """Read `/v1/models`; in memory is what the server says is (llama.cpp's router)."""
    listing = models if isinstance(models, dict) else {}
    # llama.cpp says beside the usual list what its models can do.
    more = dict(_named(listing))
    names, loaded = [], []
    data = listing.get("data")
    for each in data if isinstance(data, list) else []:
        name = each.get("id") if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            continue
        if not can_chat({**more.get(name, {}), **each}):
            continue
        names.append(name)
        status = each.get("status")
        if isinstance(status, dict) and status.get("value") == "loaded":
            loaded.append(name)
    return Answered(models=names, loaded=loaded, simulated=simulated)


# -- Asking them -----------------------------------------------------------------------


class _ProbeReply(Struct):
    """A server's answer to a probe; `body` is None where it is no JSON."""

    path: str
    status: int
    simulated: bool
    body: Any


Abilities = dict[tuple[str, str], dict[str, Any]]
"""What `/api/show` said of a model, by its name and digest: it never changes."""


async def ask_server(
    client: aiohttp.ClientSession,
    kind: str,
    url: str,
    api_key: str | None = None,
    abilities: Abilities | None = None,
) -> Answered | Missed:
    """Look at a model server of this kind (`ollama`, `openai`); loads nothing there.

    What it says of why it cannot be reached holds neither the address's password nor the
    key. `abilities` remembers from look to look what an Ollama's models can do.
    """
    base = base_url(kind, url)
    try:
        if kind == "ollama":
            known = abilities if abilities is not None else {}
            return await _ask_ollama(client, base, known)
        return await _ask_openai(client, base, api_key)
    except TimeoutError:
        return Missed("no answer in time")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Missed(without_secrets(why_not(error), url, api_key))


async def _ask_ollama(
    client: aiohttp.ClientSession, base: str, abilities: Abilities
) -> Answered | Missed:
    version, tags, ps = await asyncio.gather(
        _get(client, base, "/api/version"),
        _get(client, base, "/api/tags"),
        _get(client, base, "/api/ps"),
    )
    for answer in (version, tags):
        if answer.status != 200:
            return Missed(f"{answer.path} answered {answer.status}")
    untold = {
        name: (name, str(each.get("digest", "")))
        for name, each in _named(tags.body)
        if not _remote(each) and "capabilities" not in each
    }
    await _learn_abilities(client, base, abilities, set(untold.values()))
    return ollama_answer(
        version.body,
        tags.body,
        ps.body if ps.status == 200 else None,
        simulated=version.simulated,
        abilities={name: abilities.get(key, {}) for name, key in untold.items()},
    )


async def _learn_abilities(
    client: aiohttp.ClientSession,
    base: str,
    abilities: Abilities,
    models: set[tuple[str, str]],
) -> None:
    """Ask what models can do; what is not learned in time is asked at the next look."""
    for gone in abilities.keys() - models:
        del abilities[gone]

    async def learn(key: tuple[str, str]) -> None:
        async with client.post(
            f"{base}/api/show", json={"model": key[0]}, allow_redirects=False
        ) as answer:
            raw = await answer.read()
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            value = msgspec.json.decode(raw)
            if answer.status == 200 and isinstance(value, dict):
                abilities[key] = {"capabilities": value.get("capabilities")}

    with suppress(TimeoutError):
        async with asyncio.timeout(_SHOW_S):
            await asyncio.gather(
                *(learn(key) for key in models - abilities.keys()),
                return_exceptions=True,
            )


async def _ask_openai(
    client: aiohttp.ClientSession, base: str, api_key: str | None
) -> Answered | Missed:
    # `/health` is not asked: on LiteLLM it is a paid completion on every model.
    models = await _get(client, base, "/v1/models", api_key)
    if models.status == 503:
        return Missed("/v1/models answered 503 (still loading its model)")
    if models.status != 200:
        return Missed(f"/v1/models answered {models.status}")
    return openai_answer(models.body, simulated=models.simulated)


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


def why_not(error: Exception) -> str:
    """Say in a few words why a server cannot be reached."""
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return f"connection refused ({error.host}:{error.port})"
        return str(error)
    return str(error) or type(error).__name__


async def ask_claude(
    processes: Processes, program: str | None, timeout_s: float
) -> Answered | Missed:
    """Ask Claude Code for its version; spends nothing."""
    given = variables()
    env = {name: given[name] for name in _FOR_CLAUDE if name in given}
    if processes.user is not None:
        env |= processes.user.variables
    path = claude_program(program)
    probe = await claude.probe(processes, path, env, timeout_s)
    if not probe.version:
        return Missed(probe.reason, there=path is not None)
    return Answered(version=probe.version, simulated=probe.simulated)


def claude_program(program: str | None) -> Path | None:
    """Find Claude Code on this machine, without asking it anything."""
    return claude.find_program(program, variables().get("PATH"))
