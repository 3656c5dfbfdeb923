"""The walls of the house: who may import whom, and where the world comes in.

Every import counts, those for types alone and those inside functions too.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A package, and those of ours that it may import beside itself.
MAY_IMPORT = {
    # What is imported of it below is its version, how people write points of time and what
    # holds a connection to the broker; its `__main__` starts the command, and the rest is the
    # library, which knows none of the rooms.
    "agentcom": {"cli"},
    "events": {"agentcom"},
    "actors": {"events"},
    "projections": {"events"},
    "sidecar": {"actors", "events", "agentcom"},
    "analysis": {"actors", "projections", "events"},
    "web": {"analysis", "projections", "events"},
    "cli": {
        "agentcom",
        "bench",
        "web",
        "sidecar",
        "analysis",
        "projections",
        "actors",
        "events",
    },
    "bench": {"agentcom", "cli", "web", "sidecar", "projections", "actors", "events"},
}

# Inside cli: a room, and those that it may import beside itself. Only cli/main.py, which
# finds them by name, is above the commands.
CLI_ROOMS = {
    "render": set(),
    "local": {"client", "render"},
    "client": {"local", "render"},
    "mcp": set(),
    "commands": {"client", "local", "mcp", "render"},
}

# A library, and the modules or packages it is known to.
KNOWN_TO = {
    # Everyone else holds an EventLog or a Bus; the keys' and bench's connections are
    # the administrator's and the bare pipeline's.
    "nats": [
        "events/nats/__init__.py",
        "events/nats/wire.py",
        "events/nats/link.py",
        "events/nats/provision.py",
        "cli/local/streams.py",
        "bench/",
        # A stranger's program has this one connection, and none of the rooms.
        "agentcom/over_nats.py",
        "agentcom/steady.py",
        "agentcom/tls.py",
    ],
    "httpx": ["agentcom/"],
    "aiohttp": ["sidecar/", "web/", "bench/chats.py"],
    "sqlite3": [
        "sidecar/journal.py",
        "sidecar/journal_file.py",
        "sidecar/journal_thread.py",
        "projections/",
    ],
    "psutil": ["sidecar/", "cli/", "bench/"],
    "subprocess": ["sidecar/", "cli/", "bench/"],
    "mcp": ["cli/mcp/"],
    "opentelemetry": ["cli/client/telemetry.py"],
    "click": ["cli/", "bench/"],
    "rich": ["cli/", "bench/"],
}

# Where a clock, chance and the environment are read. All else gets them as arguments.
EDGES = [
    "agentcom/",
    "actors/scheduler/role.py",
    "projections/main.py",
    "sidecar/",
    "web/",
    "cli/",
    "bench/",
]
# Inside the sidecar, which is mostly edge, these parse or decide.
PURE = [
    "sidecar/costs.py",
    "sidecar/output.py",
    "sidecar/executors/ndjson.py",
    "sidecar/executors/port.py",
    "actors/rules/prompt.py",
    "sidecar/executors/sse.py",
    "sidecar/executors/claude/stream_json.py",
]
FROM_THE_WORLD = {"time", "random", "secrets", "uuid"}
SPELLED = {"datetime.now", "datetime.utcnow", "date.today", "os.environ", "os.getenv"}


def sources() -> list[Path]:
    return sorted(p for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


def cli_rooms(path: Path) -> set[str]:
    """The rooms of the command line that a module imports."""
    modules = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = (module.split(".") for module in modules)
    return {each[1] for each in parts if each[0] == "cli" and each[1] in CLI_ROOMS}


def spelled(path: Path) -> set[str]:
    """The attributes that a module reads, `os.environ` style."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def pure() -> list[Path]:
    return [
        path
        for path in sources()
        if place(path) in PURE or not place(path).startswith(tuple(EDGES))
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_from_the_floors_below_it(package):
    allowed = {package, *MAY_IMPORT[package]}
    assert {
        place(path): forbidden
        for path in sources()
        if path.relative_to(ROOT).parts[0] == package
        and (forbidden := imports(path) & MAY_IMPORT.keys() - allowed)
    } == {}


def test_the_rooms_know_of_the_library_points_of_time_and_its_connection_alone():
    known = {
        (place(path), node.module)
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] == "agentcom"
        and path.relative_to(ROOT).parts[0] in ("events", "actors", "projections")
    }
    assert known == {
        ("events/filters.py", "agentcom.times"),
        ("events/nats/wire.py", "agentcom.steady"),
    }


@pytest.mark.parametrize("room", CLI_ROOMS)
def test_a_room_of_the_command_line_imports_only_those_that_it_may(room):
    allowed = {room, *CLI_ROOMS[room]}
    assert {
        place(path): forbidden
        for path in sources()
        if place(path).startswith(f"cli/{room}/")
        and (forbidden := cli_rooms(path) - allowed)
    } == {}


def test_nobody_imports_a_command():
    assert [
        place(path)
        for path in sources()
        if "commands" in cli_rooms(path) and not place(path).startswith("cli/commands/")
    ] == []


@pytest.mark.parametrize("library", KNOWN_TO)
def test_a_library_is_known_only_where_it_is_spoken(library):
    allowed = tuple(KNOWN_TO[library])
    assert [
        place(path)
        for path in sources()
        if library in imports(path) and not place(path).startswith(allowed)
    ] == []


def test_deciders_folds_and_parsers_are_handed_time_and_chance():
    assert {
        place(path): found
        for path in pure()
        if (found := imports(path) & FROM_THE_WORLD | spelled(path) & SPELLED)
    } == {}


def test_nobody_imports_the_tests():
    assert [place(path) for path in sources() if "tests" in imports(path)] == []


def test_the_table_and_the_tree_name_the_same_places():
    for named in (*PURE, *EDGES, *(p for ps in KNOWN_TO.values() for p in ps)):
        assert (ROOT / named).exists(), named
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == MAY_IMPORT.keys()
