"""Classification: every rule of it, by example."""

from __future__ import annotations

import pytest
from hypothesis import given

from actors.rules.classification import (
    COMPLEX_WORDS,
    TRIVIAL_WORDS,
    classify,
    infer,
    warnings,
)
from events.catalogue import FileHint, Shell, TaskSpec
from tests.support.strategies import structs


def task(words: int = 0, files: int = 0, steps: int = 0, **fields) -> TaskSpec:
    """So many words that mean nothing, and so many attachments."""
    fields.setdefault("description", " ".join(["word"] * words))
    return TaskSpec(
        file_hints=[FileHint(f"f{n}") for n in range(files)],
        verification_steps=[f"step {n}" for n in range(steps)],
        **fields,
    )


def test_the_example_of_the_specification():
    found = classify(task(words=25, files=2))
    assert found.reason == "inferred:standard (confidence 0.67, words=25, files=2)"
    assert (found.effective_tier, found.source, found.explicit_tier) == (
        "standard",
        "inferred",
        None,
    )


@pytest.mark.parametrize(
    ("words", "files", "steps", "tier", "confidence"),
    [
        # words alone
        (10, 0, 0, "standard", 0.33),
        (50, 0, 0, "standard", 0.33),
        (51, 0, 0, "complex", 0.33),
        # only weak votes
        (1, 0, 0, "unknown", 0.0),
        (9, 0, 0, "unknown", 0.0),
        # files and steps: 1 to 3 standard, 4 or more complex
        (9, 1, 0, "standard", 0.33),
        (9, 0, 3, "standard", 0.33),
        (20, 3, 3, "standard", 1.0),
        (20, 4, 4, "complex", 0.67),
        (60, 4, 4, "complex", 1.0),
        (60, 4, 0, "complex", 0.67),
        (60, 1, 1, "standard", 0.67),
        (9, 4, 4, "complex", 0.67),
        # ties go to standard
        (20, 4, 0, "standard", 0.33),
        (60, 1, 0, "standard", 0.33),
        (9, 4, 1, "standard", 0.33),
        (9, 4, 0, "standard", 0.0),
    ],
)
def test_without_keywords_the_votes_decide(words, files, steps, tier, confidence):
    found = infer(task(words, files, steps))
    assert (found.tier, found.confidence) == (tier, confidence)


@pytest.mark.parametrize("word", COMPLEX_WORDS)
def test_a_complex_keyword_makes_it_complex(word):
    found = infer(task(description=f"Please {word.upper()} it"))
    assert (found.tier, found.confidence) == ("complex", 0.7)
    assert found.signals == [f"keyword={word}", "words=3"]


@pytest.mark.parametrize(
    ("words", "files", "steps", "confidence"),
    [
        (50, 3, 3, 0.7),
        (51, 3, 3, 0.8),
        (51, 4, 3, 0.9),
        (51, 4, 4, 1.0),
        (1, 4, 4, 0.9),
    ],
)
def test_each_supporting_signal_adds_a_tenth(words, files, steps, confidence):
    description = " ".join(["refactor", *["word"] * (words - 1)])
    found = infer(task(files=files, steps=steps, description=description))
    assert (found.tier, found.confidence) == ("complex", confidence)


@pytest.mark.parametrize("word", TRIVIAL_WORDS)
def test_a_trivial_keyword_with_little_beside_it_makes_it_trivial(word):
    assert infer(task(description=f"{word} now")).tier == "trivial"
    assert infer(task(description=f"{word} now")).confidence == 0.9
    longer = " ".join([word, *["word"] * 10])
    assert infer(task(description=longer, files=3, steps=3)).confidence == 0.75


@pytest.mark.parametrize(("files", "steps"), [(4, 0), (0, 4)])
def test_a_trivial_keyword_with_much_beside_it_does_not(files, steps):
    assert (
        infer(task(files=files, steps=steps, description="rename it")).tier != "trivial"
    )


@pytest.mark.parametrize(
    "text",
    ["refactored", "linting", "reformat", "securityx", "renamed", "typos", "fix-typos"],
)
def test_keywords_are_whole_words(text):
    assert infer(task(description=text)).tier == "unknown"


@pytest.mark.parametrize("text", ["(lint)", "lint.", "bump  version", "update\nREADME"])
def test_keywords_stand_between_any_punctuation_and_white_space(text):
    assert infer(task(description=text)).tier == "trivial"


def test_a_complex_keyword_beats_a_trivial_one():
    assert infer(task(description="rename and migrate")).tier == "complex"


def test_a_shell_command_without_a_tier_is_trivial():
    found = classify(task(60, 9, 9, shell=Shell("ls")))
    assert (found.effective_tier, found.inferred.confidence) == ("trivial", 1.0)
    assert found.reason == (
        "inferred:trivial (confidence 1.00, shell command, words=60, files=9, steps=9)"
    )


def test_wording_that_infers_trivial_without_a_command_runs_as_standard_at_once():
    found = classify(task(description="fix typo in the title"))
    assert (found.inferred.tier, found.effective_tier) == ("trivial", "standard")
    assert found.reason == (
        "inferred:trivial (confidence 0.90, keyword=fix typo, words=5); "
        "no shell command, runs as standard"
    )


def test_unknown_runs_as_standard_and_says_so():
    found = classify(task(words=3))
    assert found.effective_tier == "standard"
    assert found.reason == (
        "inferred:unknown (confidence 0.00, words=3); unknown runs as standard"
    )


@pytest.mark.parametrize("tier", ["trivial", "standard", "complex"])
def test_the_submitter_s_tier_wins_and_the_disagreement_is_recorded(tier):
    found = classify(task(25, 2, tier=tier, shell=Shell("ls")))
    assert (found.effective_tier, found.source) == (tier, "explicit")
    assert found.explicit_tier == tier
    assert found.inferred.tier == "standard"
    assert found.reason == (
        f"explicit:{tier} (inferred standard, confidence 0.67, words=25, files=2)"
    )


def test_an_explicit_unknown_is_no_tier():
    found = classify(task(60, 4, 4, tier="unknown"))
    assert (found.effective_tier, found.source) == ("complex", "inferred")
    assert found.explicit_tier == "unknown"


@given(structs(TaskSpec))
def test_every_task_has_a_tier_and_always_the_same(spec):
    found = classify(spec)
    assert found == classify(spec)
    assert 0 <= found.inferred.confidence <= 1
    if found.effective_tier == "trivial":
        assert spec.shell is not None or spec.tier == "trivial"
    if spec.tier in ("trivial", "standard", "complex"):
        assert found.effective_tier == spec.tier


def test_more_than_ten_steps_are_accepted_with_a_warning():
    assert warnings(task(steps=10)) == []
    (warning,) = warnings(task(steps=11))
    assert warning.startswith("verification_steps: 11 ")
