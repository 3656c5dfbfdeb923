"""Names of local models: which name is whose, for whoever routes, runs or reads.

A model is asked for as its server writes it. Only Ollama has the habit that a name without
a tag means `:latest`; elsewhere a name is what it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_OLLAMA_DEFAULTS = ("https://", "http://", "registry.ollama.ai/", "library/")
"""What Ollama takes for granted before a name."""


def normal_model(name: str) -> str:
    """Return a model's name with its tag, for Ollama: `llama3.2` is `llama3.2:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def listed_models(kind: str | None, names: Iterable[str]) -> list[str]:
    """Return an endpoint's models, sorted, as it is to be asked for them."""
    return sorted({normal_model(name) if kind == "ollama" else name for name in names})


def same_model(kind: str | None, one: str, other: str) -> bool:
    """Whether a server of this kind takes both names for the same model."""
    if kind == "ollama":
        return _ollama_key(one) == _ollama_key(other)
    return one == other


def model_named(exact: str, kind: str | None, models: Collection[str]) -> str | None:
    """Return the endpoint's own name for a model that somebody names; None without it."""
    if exact in models:
        return exact
    if kind == "ollama":
        key = _ollama_key(exact)
        return next((name for name in models if _ollama_key(name) == key), None)
    # Ollama lists tags at its OpenAI-compatible address too, and means the same by them.
    latest = normal_model(exact)
    return latest if latest in models else None


@lru_cache(maxsize=4096)
def _ollama_key(name: str) -> str:
    """What Ollama compares: defaults left out, with a tag, whatever the case."""
    key = normal_model(name.strip()).casefold()
    for default in _OLLAMA_DEFAULTS:
        key = key.removeprefix(default)
    return key
