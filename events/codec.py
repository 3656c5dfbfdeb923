"""Bytes to events and back, with errors that name the place.

Stored events are read through upcasters: a tag that is no longer written is turned,
as plain JSON, into the tag that took its place, and decoded as that. A tag nobody knows
becomes `Unknown` and is kept as it came.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import inspect as mi

from events import catalogue as c
from events.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Old tag to a function that rewrites its object, `type` included, to a newer one."""

_KNOWN = frozenset(c.types())
_encoder = msgspec.json.Encoder()


class _MadeWhenUsed:
    """The decoder of events until the first of them: not every command reads one."""

    def decode(self, raw: bytes) -> Any:
        global _event_decoder
        _event_decoder = msgspec.json.Decoder(c.AnyEvent)
        return _event_decoder.decode(raw)


_event_decoder: msgspec.json.Decoder[Any] | _MadeWhenUsed = _MadeWhenUsed()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_FIELD = "no such field"
_ALLOWED = "one of the allowed values"
_SHOWN = 80
"""So many characters of what came are shown; the rest of a long value says no more."""

_TOKEN = f"matching regex {c.TOKEN_PATTERN!r}"
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
        event: c.Event = _event_decoder.decode(raw)
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
    if not isinstance(tag, str) or tag in _KNOWN:
        raise malformed(error) from error
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
            raise _with_choices(malformed(error), self._kind) from error


def convert(value: Any, kind: type[T]) -> T:
    """Turn plain JSON values into `kind`; raise Malformed with the JSON path."""
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _with_choices(malformed(error), kind) from error


def _with_choices(fault: Malformed, kind: Any) -> Malformed:
    """Name what would have been allowed, where msgspec only says that something is."""
    if fault.expected == _NO_FIELD:
        return _with_near_field(fault, kind)
    if fault.expected != _ALLOWED:
        return fault
    here = _at(kind, fault.path)
    allowed = [i.values for i in _members(here) if isinstance(i, mi.LiteralType)]
    choices = ", ".join(str(value) for values in allowed for value in values)
    expected = f"one of {choices}" if choices else fault.expected
    return Malformed(fault.path, expected, fault.got)


def _with_near_field(fault: Malformed, kind: Any) -> Malformed:
    """Name the field that was probably meant, and those of a small struct."""
    place, _, name = fault.path.rpartition(".")
    fields = {
        field.encode_name
        for info in _members(_at(kind, place))
        if isinstance(info, mi.StructType)
        for field in info.fields
    }
    near = difflib.get_close_matches(name, sorted(fields), n=1)
    if not near:
        return fault
    return Malformed(fault.path, f"{_NO_FIELD} (did you mean {near[0]}?)", fault.got)


def _at(kind: Any, path: str) -> list[mi.Type]:
    """Return what may stand at a JSON path of this kind."""
    here = [mi.type_info(kind)]
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
        return Malformed(path, _ALLOWED, _short(wrong[1]))
    if what.endswith("out of range"):
        return Malformed(path, "a number that fits", "one out of range")
    if expected := _EXPECTED.match(what):
        got = expected["got"] or "another value"
        return Malformed(path, _plain(expected["expected"]), _plain(got))
    return Malformed(path, "a valid value", what)


def _join(path: str, field: str) -> str:
    return f"{path}.{_short(field)}" if path else _short(field)


def _plain(text: str) -> str:
    if text.endswith(_TOKEN):
        return "1 to 64 letters, digits, '_' or '-'"
    return _short(text.replace("`", ""))


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


def instant(text: str, path: str = "at") -> float:
    """Read an RFC 3339 instant as epoch seconds; raise Malformed naming `path`."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(path, "an RFC 3339 time", repr(text[:80])) from None
    if date.tzinfo is not None and text[4:8:3] + text[13:17:3] != "--::":
        # ISO 8601 has more forms (weeks, no separators) than RFC 3339 allows.
        raise Malformed(path, "an RFC 3339 time", repr(text[:80]))
    if date.tzinfo is None:
        raise Malformed(path, "a time with its zone", repr(text[:80]))
    return date.timestamp()
