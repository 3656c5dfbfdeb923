"""How large a model's context must be for a task, in tokens.

Nobody can count a model's tokens without the model: `actors.rules.prompt` guesses. What is
required is rounded up to steps, so that tasks of about one size are one group to the
router.
"""

from __future__ import annotations

from typing import Final

WORK_CONTEXT: Final = 32_768
"""What an agent's work needs: its instructions alone are some 4,000 tokens."""
FOR_THE_ANSWER: Final = 512
SMALL: Final = 2_048
"""Any model reads so many tokens: what needs no more requires nothing."""


def context_needed(prompt_tokens: int, *, work: bool) -> int:
    """Return how many tokens of context a task requires; 0: any model's will do."""
    if work:
        # What it reads and does comes on top of what it is told.
        return _rounded_up(max(WORK_CONTEXT, 2 * prompt_tokens))
    tokens = prompt_tokens + FOR_THE_ANSWER
    return 0 if tokens <= SMALL else _rounded_up(tokens)


def _rounded_up(tokens: int) -> int:
    """Round up to an eighth of the power of two below."""
    step = max(1, 1 << (tokens.bit_length() - 4))
    return -(-tokens // step) * step
