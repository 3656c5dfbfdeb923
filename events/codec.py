"""Bytes to events and back, with errors that name the place.

Stored events are read through upcasters: a tag that is no longer written is turned,
as plain JSON, into the tag that took its place, and decoded as that. A tag nobody knows
becomes `Unknown` and is kept as it came.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import inspect as mi

from events import catalogue as c
from events.errors import Malformed, shown

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Old tag to a function that rewrites its object, `type` included, to a newer one."""

_KNOWN = frozenset(c.types())
_encoder = msgspec.json.Encoder()


@cache
def _event_decoder() -> msgspec.json.Decoder[c.Event]:
    """Make the decoder of events with the first of them: not every command reads one."""
    return msgspec.json.Decoder(c.AnyEvent)


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_FIELD = "no such field"
_ALLOWED = "one of the allowed values"
_FORM = "another form"
_UNSAID = "another value"
_LONGEST_WORD = 64
_FIELDS_NAMED = 24
_SHOWN = 80
"""So many characters of what came are shown; the rest of a long value says no more."""

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
"""What people call JSON's types."""
_BOUND = re.compile(r"^`(\w+)`(?: of length)? (>=|<=|>|<) (\S+)$")
_BOUNDS = {
    ">=": "at least {}",
    "<=": "at most {}",
    ">": "more than {}",
    "<": "less than {}",
}
_UNITS = {"str": " characters", "array": " items", "object": " fields"}
_MISSING = object()
_AT = re.compile(r"^(?P<sentence>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected (?P<expected>.*?)(?:, got (?P<got>.*))?$", re.DOTALL)


def encode(value: Any) -> bytes:
    """Encode an event, command or answer as JSON."""
    return _encoder.encode(value)


def decode_event(raw: bytes) -> c.Event:
    """Read a stored event; raise Malformed if it is none.

    The fast way first; a tag the catalogue lacks is looked for among the upcasters and
    otherwise kept as Unknown. What is nested too deeply to be read is no event either,
    so that it cannot end a follower.
    """
    try:
        event = _event_decoder().decode(raw)
    except _UNREADABLE as error:
        return _older_or_unknown(raw, error)
    if type(event) is c.TaskReturned:
        _check_returned(event)
    return event


def fallback_code(event: c.TaskRouted) -> c.FallbackCode | None:
    """Return why a task left its tier; None where it did not, or nobody can say.

    Routes of before there was a code are known by the sentences that were written then.
    The event itself stays as it was stored, so that it is written back as it came.
    """
    reason = event.fallback_reason
    if event.fallback_code is not None or reason is None:
        return event.fallback_code
    if reason.endswith(" is not set up"):
        return "absent"
    if " was down for " in reason:
        return "down"
    if " endpoint failed on it " in reason:
        return "failed"
    return "unmet" if " met its needs for " in reason else None


def _check_returned(event: c.TaskReturned) -> None:
    """A host says until when its account is limited, and deciders reckon with it."""
    if event.limited_until is not None:
        instant(event.limited_until, "limited_until")


def _older_or_unknown(raw: bytes, error: Exception) -> c.Event:
    try:
        body = msgspec.json.decode(raw)
    except _UNREADABLE as worse:
        raise malformed(worse) from error
    tag = body.get("type") if isinstance(body, dict) else None
    if not isinstance(tag, str):
        raise malformed(error) from error
    if tag in _KNOWN:
        raise explained(malformed(error), c.types()[tag], body) from error
    seen = set()
    while tag in UPCASTERS and tag not in seen:
        seen.add(tag)
        try:
            body = UPCASTERS[tag](body)
            tag = body["type"]
        except (LookupError, TypeError, ValueError, AttributeError) as strange:
            # Stored under an old tag, but not as that tag ever was.
            raise Malformed("", f"a {tag}", "something else") from strange
    if tag in _KNOWN:
        try:
            event: c.Event = msgspec.convert(body, type=c.AnyEvent)
        except (msgspec.ValidationError, RecursionError) as late:
            raise malformed(late) from late
        if isinstance(event, c.TaskReturned):
            _check_returned(event)
        return event
    head = {name: body.get(name) for name in ("id", "at", "by")}
    return c.Unknown(
        tag=tag,
        body=body,
        **{
            name: value if isinstance(value, str) else ""
            for name, value in head.items()
        },
    )


class Reader(Generic[T]):
    """Reads one kind of message: `Reader(Submit).decode(raw)`; raises Malformed."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def decode(self, raw: bytes) -> T:
        """Read `raw`, raise Malformed with the JSON path where it is wrong."""
        try:
            return self._decoder.decode(raw)
        except _UNREADABLE as error:
            raise explained(malformed(error), self._kind, _plainly(raw)) from error


def _plainly(raw: bytes) -> Any:
    """Read plain JSON; `_MISSING` where it is none."""
    try:
        return msgspec.json.decode(raw)
    except _UNREADABLE:
        return _MISSING


def convert(value: Any, kind: type[T]) -> T:
    """Turn plain JSON values into `kind`; raise Malformed with the JSON path."""
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise explained(malformed(error), kind, value) from error


def check_depth(value: Any, path: str, most: int) -> None:
    """Refuse plain JSON that is nested in more than `most` levels: raises Malformed."""
    level = [value]
    for _ in range(most):
        level = [
            below
            for each in level
            for below in (each.values() if isinstance(each, dict) else each)
            if isinstance(below, dict | list)
        ]
        if not level:
            return
    raise Malformed(path, f"at most {most} levels", "more")


def explained(fault: Malformed, kind: Any, body: Any) -> Malformed:
    """Say what would have been right and what came, where msgspec says less.

    `body` is the whole value that was read, as plain JSON.
    """
    if fault.expected == _NO_FIELD:
        return _with_near_field(fault, kind)
    value = _value_at(body, fault.path)
    if body is _MISSING or value is _MISSING:
        return fault
    here = _members(_at(kind, fault.path))
    if fault.expected == _ALLOWED:
        allowed = [i.values for i in here if isinstance(i, mi.LiteralType)]
        choices = [str(value) for values in allowed for value in values]
        return unknown_word(fault.path, value, choices) if choices else fault
    is_word = isinstance(value, str | int | float | None)
    if fault.got != _UNSAID and not is_word:
        return fault
    if fault.got != _UNSAID:
        return Malformed(fault.path, fault.expected, shown(value))
    if fault.expected == _FORM:
        return Malformed(fault.path, _form_of(_at(kind, fault.path)), shown(value))
    sized = isinstance(value, str | list | dict)
    return Malformed(
        fault.path, fault.expected, f"{len(value):,}" if sized else shown(value)
    )


def unknown_word(path: str, value: Any, choices: list[str]) -> Malformed:
    """Make the error of a word that is none of a few: with the one probably meant."""
    known = [choice for choice in choices if choice]
    near = _near(str(value).lower(), known)
    hint = f"; did you mean {near[0]}?" if near else ""
    expected = f"one of {', '.join(known)}"
    got = shown(value)
    return Malformed(path, expected, got, f"expected {expected}, got {got}{hint}")


def _near(word: str, known: list[str]) -> list[str]:
    """Return the one that was probably meant. A long word is no typing error, and dear."""
    if len(word) > _LONGEST_WORD:
        return []
    return difflib.get_close_matches(word, known, n=1)


def _with_near_field(fault: Malformed, kind: Any) -> Malformed:
    """Name the field that was probably meant, or those of a small struct."""
    place, _, name = fault.path.rpartition(".")
    fields = [
        field.encode_name
        for info in _members(_at(kind, place))
        if isinstance(info, mi.StructType)
        for field in info.fields
    ]
    near = _near(name, sorted(fields))
    stem = name.rstrip("s")
    near = near or sorted(f for f in fields if stem in f.split("_"))[:1]
    if near:
        return Malformed(
            fault.path, near[0], "one", f"unknown field; did you mean {near[0]}?"
        )
    few = ", ".join(fields[:_FIELDS_NAMED])
    listed = f"; there are {few}" if 0 < len(fields) <= _FIELDS_NAMED else ""
    return Malformed(fault.path, few or _NO_FIELD, "one", f"unknown field{listed}")


def _form_of(infos: list[mi.Type]) -> str:
    """Return how a type says in words what its pattern wants."""
    for info in infos:
        if isinstance(info, mi.Metadata):
            words = (info.extra_json_schema or {}).get("description")
            return str(words) if words else _form_of([info.type])
        if isinstance(info, mi.UnionType):
            words = _form_of(list(info.types))
            if words != _FORM:
                return words
    return _FORM


def _value_at(body: Any, path: str) -> Any:
    """Return what stands at a path; `_MISSING` where the path does not lead there."""
    here = body
    for name in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        try:
            here = here[int(name[1:-1])] if name.startswith("[") else here[name]
        except (LookupError, TypeError, ValueError):
            return _MISSING
    return here


# What a kind looks like is dear to find out, and hostile input asks for it often.
_type_info = lru_cache(maxsize=512)(mi.type_info)


def _at(kind: Any, path: str) -> list[mi.Type]:
    """Return what may stand at a JSON path of this kind."""
    here = [_type_info(kind)]
    for name in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        here = [below for info in _members(here) for below in _below(info, name)]
    return here


def _members(infos: list[mi.Type]) -> list[mi.Type]:
    """Take unions and annotated types apart."""
    members: list[mi.Type] = []
    for info in infos:
        if isinstance(info, mi.Metadata):
            members += _members([info.type])
        elif isinstance(info, mi.UnionType):
            members += _members(list(info.types))
        else:
            members.append(info)
    return members


def _below(info: mi.Type, name: str) -> list[mi.Type]:
    """Return what may stand one step further down: a field, a tag, an item, a value."""
    match info:
        case mi.StructType() if name == info.tag_field:
            return [mi.LiteralType((info.tag,))]
        case mi.StructType():
            return [field.type for field in info.fields if field.encode_name == name]
        case mi.ListType():
            return [info.item_type]
        case mi.DictType():
            return [info.value_type]
        case _:
            return []


def malformed(error: Exception) -> Malformed:
    """Turn an error of msgspec into Malformed: the place, what it expects, what came.

    msgspec gives its finding as a sentence alone, so the sentence is taken apart here and
    nowhere else; one that does not fit the pattern is passed on whole.
    """
    sentence = str(error)
    if isinstance(error, UnicodeDecodeError):
        return Malformed("", "JSON in UTF-8", f"bytes that are not ({error.reason})")
    if isinstance(error, RecursionError):
        return Malformed("", "JSON of a reasonable depth", "one nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return Malformed("", "JSON", f"something else ({sentence})")
    match = _AT.match(sentence)
    what = match["sentence"] if match else sentence
    path = (
        ((match["path"] if match else None) or "").removeprefix("$").removeprefix(".")
    )
    if unknown := re.match(r"^Object contains unknown field `(.*)`$", what, re.DOTALL):
        return Malformed(_join(path, unknown[1]), _NO_FIELD, "one")
    if missing := re.match(r"^Object missing required field `(.*)`$", what, re.DOTALL):
        return Malformed(_join(path, missing[1]), "a value", "none")
    if wrong := re.match(r"^Invalid (?:enum )?value (.*)$", what, re.DOTALL):
        return Malformed(path, _ALLOWED, shown(wrong[1].strip("'")))
    if what.endswith("out of range"):
        return Malformed(path, "a number that fits", "one out of range")
    if expected := _EXPECTED.match(what):
        got = _plain(expected["got"]) if expected["got"] else _UNSAID
        return Malformed(path, _plain(expected["expected"]), got)
    return Malformed(path, "a valid value", what)


def _join(path: str, field: str) -> str:
    return f"{path}.{_short(field)}" if path else _short(field)


def _plain(text: str) -> str:
    """Say in words what msgspec says in types: `int` >= 1, `str | null`."""
    if " matching regex " in text:
        return _FORM
    if bound := _BOUND.match(text):
        kind, sign, number = bound.groups()
        shown_number = f"{int(number):,}" if number.isdigit() else number
        unit = _UNITS.get(kind, "")
        return _BOUNDS[sign].format(shown_number) + (
            unit.removesuffix("s") if number == "1" else unit
        )
    named = [
        _WORDS.get(each.strip(), each.strip()) for each in text.strip("`").split("|")
    ]
    return _short(" or ".join(dict.fromkeys(named)).replace("`", ""))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def rfc3339(now: float) -> str:
    """Write an instant (epoch seconds) in UTC with microseconds and a Z."""
    whole, micro = divmod(round(now * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{micro:06d}Z"


_seconds: dict[int, str] = {}


def _second(whole: int) -> str:
    text = _seconds.get(whole)
    if text is None:
        if len(_seconds) > 64:
            _seconds.clear()
        date = datetime.fromtimestamp(whole, UTC)
        text = _seconds[whole] = date.strftime("%Y-%m-%dT%H:%M:%S")
    return text


_epochs: dict[str, int] = {}
"""Whole seconds by their text, the last ones: a log's events come many a second."""


def instant(text: str, path: str = "at") -> float:
    """Read an RFC 3339 instant as epoch seconds; raise Malformed naming `path`."""
    if len(text) != 27 or text[19] != "." or text[26] != "Z":
        return _instant(text, path).timestamp()
    # As `rfc3339` writes it.
    second, micro = text[:19], text[20:26]
    whole = _epochs.get(second)
    if whole is None:
        date = _instant(text, path)
        if len(_epochs) > 4_096:
            _epochs.clear()
        _epochs[second] = int(date.replace(microsecond=0).timestamp())
        return date.timestamp()
    if not (micro.isascii() and micro.isdigit()):
        return _instant(text, path).timestamp()
    return (whole * 1_000_000 + int(micro)) / 1_000_000


def _instant(text: str, path: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(
            path, "an RFC 3339 time such as '2026-01-31T18:00:00Z'", shown(text)
        ) from None
    if date.tzinfo is not None and text[4:8:3] + text[13:17:3] != "--::":
        # ISO 8601 has more forms (weeks, no separators) than RFC 3339 allows.
        raise Malformed(
            path, "an RFC 3339 time such as '2026-01-31T18:00:00Z'", shown(text)
        )
    if date.tzinfo is None:
        raise Malformed(path, "a time with its zone", shown(text))
    return date
