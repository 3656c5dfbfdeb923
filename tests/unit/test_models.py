"""What a model is called: as its server writes it, matched as the server matches."""

from __future__ import annotations

from typing import Any

import pytest

from actors.rules.models import usual_model
from actors.rules.policy import Policy
from events import catalogue as c
from events.models import model_named
from sidecar.endpoints import Watched
from sidecar.looks import Answered
from tests.support.world import World

QWEN = "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("kind", "wanted", "models", "asked"),
    [
        ("openai", QWEN, [QWEN], QWEN),
        ("openai", f"{QWEN}:latest", [QWEN], None),
        ("openai", QWEN.lower(), [QWEN], None),
        ("openai", "gemma:Q8_0", ["gemma:Q4_0"], None),
        # Ollama's second face lists tags and means the same by them.
        ("openai", "llama3.2", ["llama3.2:latest"], "llama3.2:latest"),
        ("ollama", "llama3.2", ["llama3.2:latest"], "llama3.2:latest"),
        ("ollama", "Llama3.2:Latest", ["llama3.2:latest"], "llama3.2:latest"),
        ("ollama", "library/llama3.2", ["llama3.2:latest"], "llama3.2:latest"),
        (
            "ollama",
            "hf.co/X/y-GGUF",
            ["hf.co/X/Y-GGUF:latest"],
            "hf.co/X/Y-GGUF:latest",
        ),
        ("ollama", "llama3.2", ["llama3.2:1b"], None),
    ],
)
def test_a_model_is_asked_for_as_its_server_writes_it(
    kind: str, wanted: str, models: list[str], asked: str | None
) -> None:
    assert model_named(wanted, kind, models) == asked
    policy = Policy(local_models=[wanted])
    assert usual_model(kind, [*models, "0"], [], policy) == (asked or "0")


@pytest.mark.parametrize("wanted", [None, QWEN])
def test_a_task_runs_on_a_model_without_a_tag(wanted: str | None) -> None:
    state: Any = c.EndpointState(
        endpoint="lab", kind="openai", up=True, url="http://x", models=[QWEN]
    )
    w = World()
    w.join("h1", endpoints=[state])
    w.submit("t1", tier="standard", model=wanted)
    assert [route.selected_model for route in w.routes("t1")] == [QWEN]


def test_a_listed_model_keeps_its_name_but_at_ollama() -> None:
    for kind, name in (("openai", "b"), ("ollama", "b:latest")):
        blank = c.EndpointState(endpoint="e", kind=kind, up=False)  # type: ignore[arg-type]
        answer = Answered(models=["b"], loaded=["b"])
        state = Watched(blank, mentioned=True).answered(answer, 0)
        assert state is not None
        assert (state.models, state.loaded) == ([name], [name])
