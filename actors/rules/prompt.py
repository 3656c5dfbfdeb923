"""What a model is asked: the description, then its context. One wording for all.

How many tokens that is depends on the model; `estimate` is a guess that serves for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from events import catalogue as c


BYTES_A_TOKEN: Final = 4
"""English prose has 4 to 4.5 bytes of UTF-8 a token, code and other scripts fewer."""


def estimate(spec: c.TaskSpec) -> int:
    """Guess how many tokens a task's prompt has; rather too few than too many."""
    return -(-len(prompt_for(spec).encode("utf-8", "replace")) // BYTES_A_TOKEN)


def prompt_for(spec: c.TaskSpec) -> str:
    """The prompt of a task; `Context:` only where there is any."""
    context: list[str] = []
    if spec.repo:
        context.append(f"Repository: {spec.repo}")
    if spec.branch:
        context.append(f"Branch: {spec.branch}")
    hints = [
        f"{hint.path}: {hint.reason}" if hint.reason else hint.path
        for hint in spec.file_hints
    ]
    for title, lines in (
        ("Files", hints),
        ("Success criteria", spec.success_criteria),
        ("Verification steps", spec.verification_steps),
    ):
        if lines:
            context.append(f"{title}:")
            context += [f"- {line}" for line in lines]
    if not context:
        return spec.description
    return "\n".join([spec.description, "", "Context:", *context])
