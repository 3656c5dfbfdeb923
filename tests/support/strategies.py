"""Hypothesis strategies for whatever msgspec can read, made from the types themselves."""

from __future__ import annotations

import functools
import string

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as mi

from events.catalogue import TOKEN_PATTERN
from events.codec import rfc3339

TOKENS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3)
    ),
    max_leaves=6,
)

INSTANTS = st.floats(0, 4e9).map(rfc3339)

# Fields that hold less than their type allows.
NAMED = {"limited_until": st.none() | INSTANTS}


def values(kind: object) -> st.SearchStrategy:
    """Everything that a field of this type may hold."""
    return _values(mi.type_info(kind))


@functools.singledispatch
def _values(info: mi.Type) -> st.SearchStrategy:
    raise NotImplementedError(f"no strategy for {info}")


@_values.register
def _(_: mi.AnyType) -> st.SearchStrategy:
    return JSON


@_values.register
def _(_: mi.NoneType) -> st.SearchStrategy:
    return st.none()


@_values.register
def _(_: mi.BoolType) -> st.SearchStrategy:
    return st.booleans()


@_values.register
def _(info: mi.IntType) -> st.SearchStrategy:
    low = info.ge if info.gt is None else info.gt + 1
    return st.integers(
        -(2**63) if low is None else low, 2**63 - 1 if info.le is None else info.le
    )


@_values.register
def _(info: mi.FloatType) -> st.SearchStrategy:
    low = info.ge if info.gt is None else info.gt
    return st.floats(
        low,
        info.le,
        exclude_min=info.gt is not None,
        allow_nan=False,
        allow_infinity=False,
    )


@_values.register
def _(info: mi.StrType) -> st.SearchStrategy:
    if info.pattern == TOKEN_PATTERN:
        return TOKENS
    if info.pattern is not None:
        # What begins where the text begins and ends where it ends matches all of it.
        return st.from_regex(info.pattern, fullmatch=True)
    size = info.min_length or 0
    return st.text(st.characters(codec="utf-8"), min_size=size, max_size=size + 20)


@_values.register
def _(info: mi.LiteralType) -> st.SearchStrategy:
    return st.sampled_from(info.values)


@_values.register
def _(info: mi.ListType) -> st.SearchStrategy:
    size = info.min_length or 0
    return st.lists(_values(info.item_type), min_size=size, max_size=size + 3)


@_values.register
def _(info: mi.DictType) -> st.SearchStrategy:
    return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)


@_values.register
def _(info: mi.UnionType) -> st.SearchStrategy:
    return st.one_of([_values(member) for member in info.types])


@_values.register
def _(info: mi.StructType) -> st.SearchStrategy:
    return structs(info.cls)


@_values.register
def _(info: mi.Metadata) -> st.SearchStrategy:
    return _values(info.type)


@functools.cache
def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy:
    """Instances of a struct, with every field at its default now and then."""
    needed, optional = {}, {}
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    for field in info.fields:
        some = NAMED[field.name] if field.name in NAMED else _values(field.type)
        (needed if field.required else optional)[field.name] = some
    return st.fixed_dictionaries(needed, optional=optional).map(lambda d: cls(**d))
