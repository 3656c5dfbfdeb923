"""One name, one idea: what the tree of names and files promises to whoever reads it."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "agentcom",
    "events",
    "actors",
    "projections",
    "analysis",
    "sidecar",
    "web",
    "cli",
    "bench",
)

LONGEST = 620
"""Lines of a file written by hand, beyond which it has more than one thing to say."""

LONG_FOR_A_REASON = {
    "events/catalogue.py": "the log's language, one table of it",
    "sidecar/simulated/claude.py": "a whole program, read beside its original",
    "sidecar/simulated/ollama.py": "a whole server, read beside its original",
}

MAY_REPEAT: dict[str, str] = {}
"""Class names that stand in more than one product file, and why that is clear."""


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def module(path: Path) -> str:
    dotted = place(path).removesuffix(".py").replace("/", ".")
    return dotted.removesuffix(".__init__")


def test_a_class_name_is_defined_once():
    defined = defaultdict(list)
    for path in sources():
        if place(path).startswith("agentcom/"):
            continue  # the library spells the answers again, for programs without rooms
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                defined[node.name.lstrip("_")].append(place(path))
    repeated = {name: places for name, places in defined.items() if len(places) > 1}
    assert {n: p for n, p in repeated.items() if n not in MAY_REPEAT} == {}
    assert MAY_REPEAT.keys() <= repeated.keys()


def test_no_file_says_more_than_one_thing():
    long = {
        place(path): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert {p: n for p, n in long.items() if p not in LONG_FOR_A_REASON} == {}


def test_event_classes_are_imported_in_one_way():
    """`from events import catalogue as c`, everywhere in the product."""
    other = []
    for path in sources():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ImportFrom):
                continue
            named = {(alias.name, alias.asname) for alias in node.names}
            if node.module == "events.catalogue" or (
                node.module == "events"
                and any(n == "catalogue" and a != "c" for n, a in named)
            ):
                other.append(place(path))
    assert other == []


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that one needs to be loaded (types alone apart)."""
    needed = set()
    for_types = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                needed.add(whole if whole in known else node.module)
    return needed & known


def test_no_module_is_needed_by_what_it_needs():
    by_name = {module(path): path for path in sources()}
    needs = {name: imported(path, set(by_name)) for name, path in by_name.items()}
    circles = []
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circles.append(" -> ".join((*above[above.index(name) :], name)))
        elif name not in done:
            for other in sorted(needs[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(needs):
        visit(name, ())
    assert circles == []


@pytest.mark.parametrize("name", LONG_FOR_A_REASON)
def test_what_is_long_for_a_reason_is_still_there(name):
    assert (ROOT / name).is_file()
