"""What a model is asked: the description, then its context. One wording for all.

How many tokens that is depends on the model; `estimate` is a guess that serves for all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from actors.rules.chats import flattened
from events import catalogue as c
from events.codec import encode

if TYPE_CHECKING:
    from collections.abc import Mapping


BYTES_A_TOKEN: Final = 4
"""English prose has 4 to 4.5 bytes of UTF-8 a token, code and other scripts fewer."""


PICTURE_TOKENS: Final = 1_000
"""What a picture costs, very roughly: from 256 to some 1,600 by model and size."""
_FENCE: Final = re.compile(r"^`{3,}", re.MULTILINE)


def estimate(spec: c.TaskSpec) -> int:
    """Guess how many tokens a task's prompt has; rather too few than too many."""
    size = len(prompt_for(spec).encode("utf-8", "replace"))
    size += len(spec.system.encode("utf-8", "replace"))
    if spec.chat is not None:
        size += len(encode(spec.chat.tools))
    pictures = 0
    for each in spec.attachments:
        if c.is_picture(each):
            pictures += 1
        else:
            size += each.size_bytes
    return -(-size // BYTES_A_TOKEN) + pictures * PICTURE_TOKENS


def prompt_for(spec: c.TaskSpec, files: Mapping[str, bytes] | None = None) -> str:
    """The prompt of a task; `Context:` only where there is any.

    `files` are the bytes of its attachments, by digest: text stands in the prompt whole,
    each under its name. What is not there is left out. Of a chat it is the whole of it.
    """
    if spec.messages:
        return flattened(spec.messages)
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
    parts = [spec.description]
    if context:
        parts += ["", "Context:", *context]
    for each in spec.attachments:
        if not c.is_picture(each) and each.digest in (files or {}):
            assert files is not None
            parts += ["", *_file(f"File {each.name}", files[each.digest])]
    return "\n".join(parts)


def _file(name: str, data: bytes) -> list[str]:
    """A file under its name, in a fence that nothing in it can end."""
    text = data.decode("utf-8", "replace").replace("\0", "\ufffd")
    longest = max(map(len, _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return [f"{name}:", fence, text.removesuffix("\n"), fence]


def with_inputs(spec: c.TaskSpec, outputs: Mapping[str, str]) -> c.TaskSpec:
    """Put the outputs of tasks, by their ids, behind a task's description.

    Of what is too long for a description each keeps its beginning and its end.
    """
    if not outputs:
        return spec
    room = c.DESCRIPTION_LIMIT - len(spec.description) - 200 * len(outputs)
    most = max(0, room // len(outputs))
    parts = [spec.description]
    for task_id, output in outputs.items():
        parts += ["", *_file(f"Output of task {task_id}", _ends(output, most).encode())]
    return msgspec.structs.replace(
        spec, description="\n".join(parts)[: c.DESCRIPTION_LIMIT]
    )


def _ends(text: str, most: int) -> str:
    """Keep beginning and end of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 2], text[len(text) - most // 2 :]
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n... {left_out:,} characters left out ...\n{tail}"
