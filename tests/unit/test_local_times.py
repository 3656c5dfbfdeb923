"""Nobody reads UTC: every sentence with a point of time is shown in the reader's zone.

The commands are given answers of which every text that AgentCom makes holds an instant.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import msgspec.inspect as mi
import pytest
from click.testing import CliRunner

from cli.commands.submit import _about
from cli.main import COMMANDS, agentcom, module_of
from cli.render.display import Screen
from cli.render.events import event_line
from cli.render.terminal import Problem, local
from events import catalogue as c
from events.commands import Submitted
from projections.judged import JudgedEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

INSTANT = "2026-11-27T22:39:52.231776Z"
HERE = "2026-11-28 09:39:52 XXX"
SENTENCE = f"it is so until {INSTANT}."
ID = "01k9z0000000000000000000aa"
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")

_TYPED = """
    acknowledged_by branch capabilities command cwd description embedders endpoint
    env error_code fallback_from_tier host key kind label labels leader loaded
    metadata model models name need outcome output priority reasoning_effort repo
    schedule signals stderr stop submitter system text tier tool_choice tools url
    wording
"""
TYPED = frozenset(_TYPED.split())
"""What somebody has typed, or names something; it stays as it is."""
TIMES = re.compile(r"(^|_)(at|since|until|deadline|not_before|planned|last|at_time)$")


def filled(kind: Any, name: str = "", yes: bool = False) -> Any:
    """A value of this type; its own texts hold an instant."""
    return _filled(mi.type_info(kind), name, yes)


def _filled(info: mi.Type, name: str, yes: bool) -> Any:
    match info:
        case mi.StructType(cls=cls, fields=fields):
            made = {each.name: _filled(each.type, each.name, yes) for each in fields}
            return cls(**made)
        case mi.LiteralType(values=values):
            return values[0]
        case mi.StrType():
            return _text(name)
        case mi.BoolType():
            return yes
        case mi.IntType():
            return 3
        case mi.FloatType():
            return 3.5
        case mi.ListType(item_type=item) | mi.VarTupleType(item_type=item):
            made_of = [_filled(item, name, yes)]
            return tuple(made_of) if isinstance(info, mi.VarTupleType) else made_of
        case mi.DictType(key_type=key, value_type=value):
            return {_filled(key, "key", yes): _filled(value, name, yes)}
        case mi.UnionType(types=types):
            return _filled(types[0], name, yes)
        case mi.RawType():
            return b"{}"
        case mi.NoneType():
            return None
        case _:
            return _text(name)


def _text(name: str) -> str:
    if TIMES.search(name):
        return INSTANT
    if name in ("task_id", "root", "parent"):
        return ID
    if name == "state":
        return "waiting"
    return f"a-{name}" if name in TYPED else SENTENCE


class FakeSession:
    """Answers everything, in the words of the answers' own types."""

    role = "operator"
    may_read = False

    def __init__(self, yes: bool) -> None:
        self._yes = yes
        self.link = SimpleNamespace(
            max_payload=1_000_000, address=SimpleNamespace(url="nats://elsewhere")
        )

    async def query(self, _: str, __: Any, kind: Any, **___: Any) -> Any:
        return filled(kind, yes=self._yes)

    async def command(self, _: str, __: Any, kind: Any) -> Any:
        return filled(kind, yes=self._yes)

    async def full_id(self, task_id: str) -> str:
        return task_id


@pytest.fixture(params=[False, True], ids=["no", "yes"])
def answered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command gets such answers."""

    @contextlib.asynccontextmanager
    async def connected(*_: Any, **__: Any) -> AsyncIterator[FakeSession]:
        yield FakeSession(request.param)

    # One that is imported later would keep what stands here now.
    for command in COMMANDS:
        importlib.import_module(module_of(command))
    for name, module in list(sys.modules.items()):
        if name.startswith("cli.") and hasattr(module, "connected"):
            monkeypatch.setattr(module, "connected", connected)


@pytest.fixture(autouse=True)
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone that no machine of ours is in."""
    monkeypatch.setenv("TZ", "XXX-11")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


SHOWN = [
    ["attention"],
    ["alerts"],
    ["dead"],
    ["hosts"],
    ["tasks"],
    ["task", ID],
    ["why-waiting", ID],
    ["endpoints", "list"],
    ["tiers", "list"],
    ["drain", "h1"],
    ["resume", "h1"],
    ["classify", "x"],
    ["route", "x"],
    ["policy", "set", "scoring.warm=1.2"],
    ["state"],
    ["state", ID],
    ["whatif", "scoring.warm=1.2"],
]


@pytest.mark.parametrize("arguments", SHOWN, ids=" ".join)
@pytest.mark.usefixtures("answered")
def test_a_command_shows_no_utc(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    ended = CliRunner().invoke(agentcom, arguments)
    print(ended.output)
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    assert not UTC.search(ended.output)


@pytest.mark.parametrize("tag", sorted(c.types()))
def test_who_follows_a_task_or_the_log_sees_no_utc(tag: str) -> None:
    recorded = c.Recorded(seq=3, subject="agentcom.evt.x", event=filled(c.types()[tag]))
    notes = io.StringIO()
    Screen(notes=notes).event(recorded, JudgedEvent(recorded=recorded, family=None))
    notes.write(event_line(recorded.seq, recorded.subject, recorded.event))
    assert not UTC.search(notes.getvalue())


def test_why_it_waits_what_happens_and_what_is_refused_is_said_in_local_time() -> None:
    notes = io.StringIO()
    screen = Screen(notes=notes)
    screen.waits([SENTENCE])
    piece = filled(c.Chunk)
    for kind in ("status", "error"):
        screen.chunk(msgspec.structs.replace(piece, event_type=kind, text=SENTENCE))
    Problem(SENTENCE).show(notes)
    assert notes.getvalue().count(HERE) == 4
    assert not UTC.search(notes.getvalue())
    assert HERE in _about(filled(Submitted))


def test_what_is_quoted_or_a_path_stays() -> None:
    for text in (f"'{INSTANT}'", f"/log/{INSTANT}.txt", f"runs in /log/{INSTANT}"):
        assert local(text) == text
