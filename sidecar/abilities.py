"""What a server's own words say that its models can do. Pure.

Servers say it as `capabilities` (Ollama and llama.cpp: a list of words, Mistral: words to
booleans), as a type, as modalities (llama.cpp, OpenRouter), in llama.cpp's `/props`, or not
at all. What nobody says of tools is
believed where the server speaks the Messages API; what nobody says of pictures is not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIANT: Final = re.compile(r"-agentcom\d+k$")


def variant(model: str, tokens: int) -> str:
    """Name the variant of an Ollama model that is loaded with so many tokens of context."""
    return f"{model}-agentcom{-(-tokens // 1024)}k"


def is_variant(model: str) -> bool:
    """Whether it is such a variant: the same model, and not to be listed twice."""
    return _VARIANT.search(model) is not None


_CHATS = {"completion", "completions", "chat", "generate", "text-generation"}
_DOES_NOT = {
    *("embedding", "embeddings", "feature-extraction", "rerank", "reranker"),
    *("moderation", "image", "image_generation", "audio", "tts", "stt"),
    *("transcription", "audio_transcription", "audio_speech"),
}
_EMBEDS = {"embedding", "embeddings", "feature-extraction"}
_TOOLS = {"tools", "tool_use", "function_calling"}
_SEES = {"vision", "multimodal", "vlm"}


def _words(model: Mapping[str, Any]) -> set[str] | None:
    """The words in which a server says what a model can do; None where it does not."""
    abilities = model.get("capabilities")
    if isinstance(abilities, dict):
        abilities = [name for name, can in abilities.items() if can is True]
    words = {str(each).lower() for each in abilities or () if isinstance(each, str)}
    for name in ("type", "mode", "task"):
        if isinstance(model.get(name), str):
            words.add(model[name].lower())
    return words or (set() if isinstance(abilities, list) else None)


def can_chat(model: Mapping[str, Any]) -> bool:
    """Whether a listed model answers prompts, as far as its server says.

    Where it says nothing it does, unless it is of a family that has never answered any.
    """
    abilities = model.get("capabilities")
    if isinstance(abilities, dict):
        chats = abilities.get("completion_chat")
        if isinstance(chats, bool):
            return chats
    words = _words(model) or set()
    if words & _CHATS:
        return True
    return not words & _DOES_NOT and not _is_bert(model)


def can_embed(model: Mapping[str, Any]) -> bool:
    """Whether a server says of a listed model that it makes vectors."""
    return bool((_words(model) or set()) & _EMBEDS) or _is_bert(model)


def _is_bert(model: Mapping[str, Any]) -> bool:
    """Whether it is of the family that has never answered a prompt."""
    return "bert" in str(_object(model.get("details")).get("family") or "").lower()


def able(models: Mapping[str, Mapping[str, Any]], *, messages: bool) -> dict[str, Any]:
    """Say what an endpoint's models can do, as `Answered` holds it.

    `models` is everything that its server says of each; `messages` whether it serves the
    Messages API.
    """
    by_model = {name: _of(model, messages=messages) for name, model in models.items()}
    some = {word for words in by_model.values() for word in words}
    order = ["chat", *(["messages"] if messages else []), "tools", "vision"]
    contexts = {name: _context(model) for name, model in models.items()}
    return {
        "capabilities": [w for w in order if w in some or w in ("chat", "messages")],
        "model_capabilities": by_model,
        "context_tokens": {name: n for name, n in contexts.items() if n},
    }


def _of(model: Mapping[str, Any], *, messages: bool) -> list[str]:
    words = _words(model)
    props = _object(model.get("props"))
    template = _object(props.get("chat_template_caps"))
    calls = template.get("supports_tool_calls", template.get("supports_tools"))
    if not isinstance(calls, bool):
        # Ollama and LM Studio name tools where a model has them; llama.cpp's and other
        # words are of modalities.
        told = words is not None and (
            "digest" in model or "max_context_length" in model
        )
        calls = bool(words and words & _TOOLS) or (messages and not told)
    sees = bool(words and words & _SEES)
    sees = sees or _object(props.get("modalities")).get("vision") is True
    inputs = _object(model.get("architecture")).get("input_modalities")
    sees = sees or (isinstance(inputs, list) and "image" in inputs)
    return ["chat", *(["tools"] if calls else []), *(["vision"] if sees else [])]


def context_info(info: Any) -> dict[str, Any]:
    """Keep of Ollama's `model_info` what says how much a model reads."""
    return {
        name: value
        for name, value in _object(info).items()
        if name.endswith(".context_length")
    }


def fixed_context(parameters: Any) -> int:
    """Return the `num_ctx` that an Ollama model's own parameters set; 0: none."""
    for line in parameters.splitlines() if isinstance(parameters, str) else ():
        name, _, value = line.strip().partition(" ")
        if name == "num_ctx" and value.strip().isdecimal():
            return int(value)
    return 0


def _context(model: Mapping[str, Any]) -> int:
    """How many tokens it reads: what its server has set aside, else what it was made for.

    An Ollama is asked for as much as a task needs, so there it is what the model was made
    for.
    """
    info, meta = _object(model.get("model_info")), _object(model.get("meta"))
    props = _object(model.get("props"))
    settings = _object(props.get("default_generation_settings"))
    sizes = (
        meta.get("n_ctx"),
        settings.get("n_ctx"),
        props.get("n_ctx"),
        model.get("max_model_len"),
        model.get("loaded_context_length"),
        model.get("max_context_length"),
        model.get("context_length"),
        *context_info(info).values(),
        meta.get("n_ctx_train"),
    )
    return next(
        (n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n > 0),
        0,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
