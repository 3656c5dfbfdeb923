"""The pages that are made from the code are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.local.instance import Credentials
from cli.local.reach import nats_command
from cli.main import COMMANDS
from docs.pages import FAMILIES, FOLDER, PAGES
from events import catalogue as c
from events import subjects
from events.codec import convert
from projections.questions import AskTasks

ROOT = FOLDER.parent


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_current(name):
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == PAGES[name](), "run `make docs` and commit docs/"


def test_whatever_the_docs_name_is_there():
    pages = [ROOT / "nats.conf", *ROOT.glob("*.md"), *FOLDER.glob("*.md")]
    lost = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        files = re.findall(r"(?<![\w/.])(?:\w+/)+\w+\.(?:py|js|jsx|conf|toml)\b", text)
        links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        ours = [file for file in files if (ROOT / file.split("/")[0]).is_dir()]
        places = [*(ROOT / file for file in ours), *(page.parent / ln for ln in links)]
        lost += [(page.name, str(p)) for p in places if not p.exists()]
    assert lost == []


# What each answer of docs/architecture.md does in code: whoever else did it would be a
# second copy of the rule.
RULES = {
    "sidecar/progress.py": r"\bJOIN_S = ",
    "actors/scheduler/hosts.py": r"\(\s*now,\s*c\.HostLost\b",
    "actors/rules/classification.py": r"def infer\(",
    "actors/gateway/tasks.py": r"derived\(who",
    "actors/scheduler/role.py": r"= c\.SchedulerElected\(",
    "sidecar/costs.py": r"\bcost_basis=spent\.",
    "actors/scheduler/dispatch.py": r"\+ [\w.]*\bfallback_wait_s\b",
    "events/lifecycle.py": r"def hops\(",
    "actors/rules/scoring.py": r"def worth\(",
    "actors/scheduler/places.py": r"def _why_not\(",
    "projections/waiting.py": r"^def why\(",
    "actors/scheduler/returns.py": r"\(\s*now,\s*c\.TaskDeadLettered\b"
    r"|\battempts\b.* >= [\w.]*max_attempts\b",
    "actors/scheduler/held.py": r"\(\s*now,\s*c\.TaskReleased\b",
    "actors/scheduler/schedules.py": r"\(\s*now,\s*c\.ScheduleFired\b",
    "actors/scheduler/expiry.py": r"\(\s*now,\s*c\.TaskExpired\b",
    "projections/tiers.py": r"\.wording = ",
}


def test_each_rule_stands_in_the_file_that_is_named_for_it():
    page = (FOLDER / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Which file decides what")[2]
    named = re.findall(r"^\| .*\? \| `([\w/]+\.py)` \|", section, flags=re.M)
    assert named == list(RULES)
    product = [
        path
        for room in (
            "events",
            "actors",
            "sidecar",
            "projections",
            "analysis",
            "web",
            "cli",
        )
        for path in (ROOT / room).rglob("*.py")
    ]
    for name, rule in RULES.items():
        places = [
            path.relative_to(ROOT).as_posix()
            for path in product
            if re.search(rule, path.read_text(encoding="utf-8"), flags=re.M)
        ]
        assert places == [name], rule


def test_what_a_rule_s_file_is_to_be_looked_at_for_is_in_it():
    page = (FOLDER / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Which file decides what")[2]
    rows = re.findall(r"^\| .*\? \| `([\w/]+\.py)` \| (.*) \|$", section, flags=re.M)
    named = [
        (name, place)
        for file, places in rows
        for name, place in [
            *(
                (each, file)
                for each in re.findall(r"`(\w+)`", places.partition(";")[0])
            ),
            *re.findall(r"`(\w+)` in `([\w/]+\.\w+)`", places),
        ]
    ]
    lost = [
        (name, place)
        for name, place in named
        if not re.search(
            rf"\b(?:def|class|const) {name}\b|^{name}\b.* = ",
            (ROOT / place).read_text(encoding="utf-8"),
            flags=re.M,
        )
    ]
    assert len(rows) == len(RULES)
    assert lost == []


def test_every_event_stands_in_exactly_one_family():
    for tag, kind in c.types().items():
        assert sum(issubclass(kind, base) for _, base, _, _ in FAMILIES) == 1, tag
        assert f"### `{tag}`" in PAGES["events.md"]()


def test_a_decision_has_a_number_of_its_own():
    records = sorted((FOLDER / "decisions").glob("[0-9]*.md"))
    numbers = [path.name[:4] for path in records]
    assert len(set(numbers)) == len(numbers), numbers
    for path in records:
        assert path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]} ")


def test_every_command_stands_in_the_page_of_the_command_line():
    page = (FOLDER / "cli.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)", row)}
    assert sorted(set(COMMANDS) - named) == []


def test_every_page_is_found_from_the_readme():
    pages = [ROOT / "README.md", *FOLDER.glob("*.md")]
    linked = {
        link
        for page in pages
        for link in re.findall(r"([\w-]+\.md)(?:#[\w-]*)?\)", page.read_text("utf-8"))
    }
    assert sorted({page.name for page in FOLDER.glob("*.md")} - linked) == []


def test_the_nats_line_of_the_queries_is_what_keys_prints():
    role = Credentials("nats://127.0.0.1:4222", Path("keys/submitter.nk"), "submitter")
    written = (FOLDER / "queries.md").read_text().replace("\\\n", " ")
    [line] = re.findall(r"^ +(nats --server .*)$", written, flags=re.M)
    options, _, asked = " ".join(line.split()).partition(" req ")
    assert options == nats_command(role)
    subject, _, body = asked.partition(" ")
    assert subject == subjects.query("tasks")
    convert(json.loads(body.strip("'")), AskTasks)
