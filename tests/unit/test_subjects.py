"""Subjects: what is built can be parsed, and nothing else can."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import subjects
from events.errors import BadToken, UnknownSubject
from events.subjects import Subject, matches
from tests.support.strategies import TEXTS, TOKENS

ROOT = Path(__file__).parents[2]
ROOMS = ("events", "actors", "projections", "analysis", "sidecar", "web", "cli")
BUILT = st.one_of(
    TOKENS.map(lambda t: (subjects.task(t), Subject("task", task=t))),
    st.tuples(TOKENS, TOKENS).map(
        lambda p: (subjects.run(*p), Subject("run", host=p[0], task=p[1]))
    ),
    TOKENS.map(lambda t: (subjects.host(t), Subject("host", host=t))),
    TOKENS.map(lambda t: (subjects.fleet(t), Subject("fleet", name=t))),
    TOKENS.map(lambda t: (subjects.tier(t), Subject("tier", name=t))),
    st.just((subjects.POLICY, Subject("policy"))),
    st.just((subjects.SCHEDULER, Subject("scheduler"))),
)
BUILDERS = [
    subjects.task,
    subjects.host,
    subjects.fleet,
    subjects.tier,
    subjects.beat,
    subjects.host_mailbox,
    subjects.task_mailboxes,
    subjects.runs_of,
    subjects.outputs_of,
    lambda name: subjects.run(name, "t"),
    lambda name: subjects.run("h", name),
    lambda name: subjects.output(name, "t"),
    lambda name: subjects.output("h", name),
    lambda name: subjects.task_mailbox(name, "t"),
    lambda name: subjects.task_mailbox("h", name),
]


@given(BUILT)
def test_what_is_built_is_parsed_back(built):
    subject, meant = built
    assert subjects.parse(subject) == meant
    assert matches(subjects.ALL_EVENTS, subject)


@given(TOKENS, TOKENS)
def test_an_output_subject_is_parsed_back(host, task):
    subject = subjects.output(host, task)
    assert subjects.parse_output(subject) == (host, task)
    assert subjects.parse_output(subjects.republished(subject)) == (host, task)
    assert matches(subjects.REPUBLISHED_OUTPUT, subjects.republished(subject))


@given(BUILT, TEXTS.filter(bool))
def test_what_is_added_to_a_subject_makes_it_nobody_s(built, more):
    subject, _ = built
    for other in (f"{subject}.{more}", f"{more}.{subject}", f"{subject}."):
        with pytest.raises(UnknownSubject):
            subjects.parse(other)


@given(TEXTS)
def test_other_text_is_refused_or_is_what_a_builder_makes(text):
    for subject in (text, f"agentcom.evt.{text}"):
        try:
            found = subjects.parse(subject)
        except UnknownSubject:
            continue
        built = {
            "task": lambda s: subjects.task(s.task),
            "run": lambda s: subjects.run(s.host, s.task),
            "host": lambda s: subjects.host(s.host),
            "fleet": lambda s: subjects.fleet(s.name),
            "tier": lambda s: subjects.tier(s.name),
            "policy": lambda s: subjects.POLICY,
            "scheduler": lambda s: subjects.SCHEDULER,
            "bulk": lambda s: subjects.bulk(s.name),
            "schedule": lambda s: subjects.schedule(s.name),
        }[found.kind](found)
        assert built == subject


@pytest.mark.parametrize(
    "subject",
    [
        "",
        ".",
        "agentcom",
        "agentcom.evt",
        "agentcom.evt.task",
        "agentcom.evt.task.",
        "agentcom.evt.task.*",
        "agentcom.evt.task.>",
        "agentcom.evt.task.a.b",
        "agentcom.evt.run.h1",
        "agentcom.evt.policy.x",
        "agentcom.evt.other.x",
        "agentcom.log.task.t1",
        "AGENTCOM.evt.task.t1",
        "agentcom.evt.task.t1\n",
        " agentcom.evt.task.t1",
    ],
)
def test_a_subject_that_is_none_of_ours_is_refused(subject):
    with pytest.raises(UnknownSubject):
        subjects.parse(subject)
    with pytest.raises(UnknownSubject):
        subjects.parse_output(subject)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("name", ["a.b", "*", ">", "a b", "a\r\nPUB x 0", "", "x" * 65])
def test_no_builder_lets_a_name_become_more_than_one_part(build, name):
    with pytest.raises(BadToken):
        build(name)


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.d", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b", "a.b", True),
        ("a.b.c", "a.b", False),
        (">", "a", True),
    ],
)
def test_patterns_cover_what_nats_says_they_cover(pattern, subject, covered):
    assert matches(pattern, subject) is covered


def _texts(path):
    """The strings of a module that are no docstrings, f-strings' parts too."""
    module = ast.parse(path.read_text())
    docs = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docs
    ]


@pytest.mark.parametrize(
    ("named", "home"),
    [
        (
            r"agentcom\\?\.(cmd|evt|out|mbx|beat|query|tap|log|read)\b",
            "events/subjects.py",
        ),
        (r"Nats-[A-Z]|AgentCom-[A-Z]", "events/header.py"),
    ],
)
def test_a_name_on_the_wire_is_written_out_in_one_module(named, home):
    assert {
        place: texts
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if (place := path.relative_to(ROOT).as_posix()) != home
        and (texts := [text for text in _texts(path) if re.search(named, text)])
    } == {}
