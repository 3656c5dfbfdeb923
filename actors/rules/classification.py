"""Which tier a task belongs to, by its wording and what came with it.

Always computed, also where the submitter names a tier: that one wins, a disagreement shows.
"""

from __future__ import annotations

import re
from typing import Final

from events import catalogue as c

COMPLEX_WORDS: Final = (
    "refactor",
    "architect",
    "migration",
    "migrate",
    "redesign",
    "security",
    "overhaul",
    "rewrite",
)
TRIVIAL_WORDS: Final = (
    "fix typo",
    "typo",
    "update readme",
    "bump version",
    "version bump",
    "rename",
    "format",
    "lint",
)
FEW: Final = 3
"""So many file hints or verification steps still speak for a small task."""

SHORT: Final = 10
LONG: Final = 50
MANY_STEPS: Final = 10


def _whole_words(phrases: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(
        r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases
    )
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


_COMPLEX = _whole_words(COMPLEX_WORDS)
_TRIVIAL = _whole_words(TRIVIAL_WORDS)


def classify(spec: c.TaskSpec) -> c.Classification:
    """Classify a task; pure, and the same for the same task for ever."""
    inferred = infer(spec)
    explicit = spec.tier
    signals = ", ".join([f"confidence {inferred.confidence:.2f}", *inferred.signals])
    if explicit is not None and explicit != "unknown":
        reason = f"explicit:{explicit} (inferred {inferred.tier}, {signals})"
        return c.Classification(explicit, explicit, "explicit", inferred, reason)
    effective: c.Tier = "standard" if inferred.tier == "unknown" else inferred.tier
    reason = f"inferred:{inferred.tier} ({signals})"
    if inferred.tier == "unknown":
        reason += "; unknown runs as standard"
    elif effective == "trivial" and spec.shell is None:
        effective = "standard"
        reason += "; no shell command, runs as standard"
    elif (
        effective == "complex"
        and (spec.messages or spec.embed)
        and (options := c.chat_options(spec))
    ):
        effective = "standard"
        reason += f"; {options[0]} is for model servers alone, runs as standard"
    return c.Classification(effective, explicit, "inferred", inferred, reason)


def infer(spec: c.TaskSpec) -> c.Inferred:
    """Say what the wording and the attachments suggest, and what they suggest it by."""
    words = len(spec.description.split())
    files = len(spec.file_hints)
    steps = len(spec.verification_steps)
    counts = [f"words={words}"]
    counts += [f"files={files}"] if files else []
    counts += [f"steps={steps}"] if steps else []
    if spec.shell is not None and spec.tier in (None, "unknown"):
        return c.Inferred("trivial", 1.0, ["shell command", *counts])

    complex_word = _COMPLEX.search(spec.description)
    trivial_word = _TRIVIAL.search(spec.description)
    if complex_word:
        support = (words > LONG) + (files > FEW) + (steps > FEW)
        confidence = round(min(1.0, 0.7 + 0.1 * support), 2)
        return c.Inferred("complex", confidence, [_keyword(complex_word), *counts])
    if trivial_word and files <= FEW and steps <= FEW:
        confidence = 0.9 if words < SHORT else 0.75
        return c.Inferred("trivial", confidence, [_keyword(trivial_word), *counts])
    if spec.messages:
        # How long a chat is says how much was said before, not how hard it is.
        return c.Inferred("unknown", 0.0, ["chat", *counts])
    return _by_votes(words, files, steps, counts)


def _by_votes(words: int, files: int, steps: int, counts: list[str]) -> c.Inferred:
    # A short text alone says little: it is a weak vote, which never wins by itself.
    votes: list[c.ExplicitTier] = [_vote(n) for n in (files, steps) if n]
    if words >= SHORT:
        votes.append("complex" if words > LONG else "standard")
    if not votes:
        return c.Inferred("unknown", 0.0, counts)
    standard, complex_ = votes.count("standard"), votes.count("complex")
    weak = int(words < SHORT)
    winner: c.ExplicitTier = "standard"
    if complex_ > standard and complex_ > weak:
        winner = "complex"
    won = complex_ if winner == "complex" else standard
    return c.Inferred(winner, round(won / 3, 2), counts)


def _vote(count: int) -> c.ExplicitTier:
    return "standard" if count <= FEW else "complex"


def _keyword(match: re.Match[str]) -> str:
    return f"keyword={' '.join(match[0].lower().split())}"


def warnings(spec: c.TaskSpec) -> list[str]:
    """Say what is accepted but probably not meant."""
    warned = []
    if len(spec.verification_steps) > MANY_STEPS:
        warned.append(
            f"verification_steps: {len(spec.verification_steps)} are many, "
            f"{MANY_STEPS} or fewer are read with more care"
        )
    return warned
