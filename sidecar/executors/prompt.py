"""What a model is asked: the description, then its context. One wording for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from events import catalogue as c


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
