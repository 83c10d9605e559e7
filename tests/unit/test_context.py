"""What is the same context and the same query, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import ContextError, QueryError, QueryTypeError


class Model(enum.Enum):
    SMALL = "small"


class Level(enum.IntEnum):
    ONE = 1


class Name(str, enum.Enum):
    A = "a"


@dataclasses.dataclass
class Tool:
    name: str
    version: int = 1


class Agent(pydantic.BaseModel):
    name: str
    level: int = 1


class Open(pydantic.BaseModel, extra="allow"):
    name: str


class Mode(enum.Flag):
    READ = 1
    WRITE = 2
    ADMIN = 4


class Permission(enum.IntFlag):
    A = 1


@dataclasses.dataclass
class Record(dict[str, int]):
    tenant: str

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass
class Timed:
    name: str
    at: float = dataclasses.field(compare=False)


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "always the same"

    __hash__ = object.__hash__  # two keys of one text


class Point(NamedTuple):
    x: int
    y: int


def fingerprint(context: Any) -> str:
    return canonical_context(context).fingerprint


def test_none_and_the_empty_mapping_are_one_context() -> None:
    assert canonical_context(None) == canonical_context({})


def test_key_order_does_not_matter_and_list_order_does() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


# Values that Python may call equal, or that could share a naive form. All are different contexts.
DIFFERENT: list[Any] = [
    1,
    1.0,
    True,
    "1",
    "1.0",
    "true",
    0,
    0.0,
    False,
    None,
    "None",
    "null",
    "",
    [],
    {},
    [1],
    {"1": 1},
    {1: 1},
    {1.0: 1},
    {True: 1},
    {"$date": "2024-01-01"},
    dt.date(2024, 1, 1),
    "2024-01-01",
    dt.datetime(2024, 1, 1),  # noqa: DTZ001 - a naive one is meant
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.time(1),
    dt.timedelta(seconds=1),
    Model.SMALL,
    "small",
    Level.ONE,
    Name.A,
    "a",
    uuid.UUID(int=1),
    str(uuid.UUID(int=1)),
    pathlib.PurePosixPath("/x"),
    pathlib.PureWindowsPath("/x"),
    {Loud("key"): 1},
    {Loud("other key"): 1},
    dt.time(1, tzinfo=dt.timezone.utc),
    "/x",
    b"a",
    {1, 2},
    [1, 2],
    decimal.Decimal(1),
    decimal.Decimal("1.5"),
    1.5,
    float("inf"),
    float("-inf"),
    "inf",
    Tool("x"),
    {"name": "x", "version": 1},
    Agent(name="x"),
    Point(1, 2),
    2**80,
    float(2**80),
    Mode.READ,
    Mode.READ | Mode.WRITE,
    Mode.READ | Mode.ADMIN,
    Permission(8),
    Permission(16),
    Open(name="x", tenant="a"),  # type: ignore[call-arg]
    Open(name="x", tenant="b"),  # type: ignore[call-arg]
    Loud("a loud text"),
    Loud("another"),
    decimal.Decimal("123456789012345678901234567789.1"),
    decimal.Decimal("123456789012345678901234567789.2"),
    decimal.Decimal("1E+3"),
    decimal.Decimal("Infinity"),
    "é",
    "e\u0301",
]


def test_no_two_of_these_values_are_one_context() -> None:
    forms = [canonical_context({"v": value}).canonical for value in DIFFERENT]

    assert len(set(forms)) == len(DIFFERENT)
    assert all(json.loads(form) is not None for form in forms)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 2), [1, 2]),
        ({2, 1}, {1, 2}),
        ({1, "a", None}, frozenset([None, "a", 1])),
        (0.0, -0.0),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        (decimal.Decimal("1E+3"), decimal.Decimal(1000)),
        (decimal.Decimal("-0.0"), decimal.Decimal(0)),
        (Loud("text"), "text"),
        ({Loud("a"): 1}, {"a": 1}),
        (Timed("a", at=1), Timed("a", at=2)),
        (pathlib.PureWindowsPath("A\\B"), pathlib.PureWindowsPath("a/b")),
        (
            dt.time(12, tzinfo=dt.timezone.utc),
            dt.time(13, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        ),
        (Permission(9), Permission(8) | Permission.A),
        (pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath("a//b")),
        (b"x", bytearray(b"x")),
        (np.int64(1), 1),
        (np.float64(1.5), 1.5),
        (np.bool_(True), True),  # noqa: FBT003 - the value is the case
        (Tool("x"), Tool("x", 1)),
        (
            dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone.utc),
            dt.datetime(2024, 1, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        ),
    ],
)
def test_equal_values_are_one_context(a: object, b: object) -> None:
    assert fingerprint({"v": a}) == fingerprint({"v": b})


def test_the_fingerprint_is_stable_across_versions() -> None:
    context = {"agent": "sql", "tools": ["a", "b"], "t": 0.7, "day": dt.date(2024, 1, 2)}

    assert canonical_context(context).canonical == (
        '{"agent":"sql","day":{"$date":"2024-01-02"},"t":0.7,"tools":["a","b"]}'
    )
    assert fingerprint(context) == (
        "fced8fdaeb1522dfd5f933589c593f402bf086f2437f96b713f9da16b1ea895e"
    )


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("agent", r"context must be a mapping.*got str"),
        ([("a", 1)], r"got list"),
        ({"a": object()}, r"context\['a'\] is a builtins.object, which has no canonical form"),
        ({"a": {"b": [0, float("nan")]}}, r"context\['a'\]\['b'\]\[1\] is NaN"),
        ({"a": decimal.Decimal("NaN")}, r"NaN"),
        ({"f": len}, r"builtin_function_or_method"),
        ({"t": Tool}, r"builtins.type"),
        ({"x": np.zeros(2)}, r"numpy.ndarray"),
        ({"x": np.datetime64("2024-01-01", "ns")}, r"numpy.datetime64, which has no canonical"),
        ({"x": np.timedelta64(1, "ns")}, r"numpy.timedelta64"),
        ({"x": pd.NaT}, r"NaT"),
        ({"x": pd.Timedelta(1, "ns")}, r"finer than a microsecond"),
        ({"x": dt.time(9, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))}, r"without a fixed offset"),
        ({"x": Record("a")}, r"Record, which has fields and a content"),
        ({"x": "\ud83d\ude00"}, r"context\['x'\] has text with a lone surrogate"),
        ({"\ud800": 1}, r"lone surrogate"),
        ({Loud("a"): 1, "a": 2}, r"two keys of the same text"),
        ({"x": 10**5000}, r"context cannot be read: ValueError"),
    ],
)
def test_what_has_no_stable_form_is_an_error_that_names_it(context: Any, message: str) -> None:
    with pytest.raises(ContextError, match=message) as caught:
        canonical_context(context)
    assert isinstance(caught.value, TypeError)


def test_the_form_of_a_decimal_does_not_depend_on_the_thread() -> None:
    value = {"v": decimal.Decimal("1.234567")}
    expected = fingerprint(value)

    with decimal.localcontext() as local:
        local.prec = 3
        local.traps[decimal.Inexact] = True
        assert fingerprint(value) == expected


def test_a_cycle_is_an_error() -> None:
    context: dict[str, Any] = {}
    context["self"] = context

    with pytest.raises(ContextError, match="nested too deeply"):
        canonical_context(context)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """Equality that tells 1 from True and 1.0, and 0.0 from nothing else than -0.0."""
    if isinstance(value, dict):
        return ("dict", frozenset((key, typed(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", tuple(typed(item) for item in value))
    return (type(value), value)


@given(st.dictionaries(st.text(), json_values, max_size=3), json_values)
def test_contexts_are_one_exactly_if_their_values_are(a: dict[str, Any], other: Any) -> None:
    b = {**a, "added": other}

    assert fingerprint(dict(reversed(a.items()))) == fingerprint(a)
    assert (fingerprint(a) == fingerprint(b)) == (typed(a) == typed(b))


@given(json_values, json_values)
def test_two_values_share_a_form_only_if_they_are_equal(a: Any, b: Any) -> None:
    assert (fingerprint({"v": a}) == fingerprint({"v": b})) == (typed(a) == typed(b))


def test_outer_white_space_and_unicode_form_do_not_matter() -> None:
    assert canonical_query("  cafe\u0301?\n") == "café?"


@pytest.mark.parametrize("other", ["A b", "a  b", "a b?", "a\nb", "a b²", "a b2"])
def test_anything_else_does(other: str) -> None:
    assert canonical_query(other) != canonical_query("a b")


def test_superscripts_are_not_flattened() -> None:
    assert canonical_query("5² m") != canonical_query("52 m")


@pytest.mark.parametrize("query", ["", "   ", "\n\t\u2003"])
def test_a_blank_query_is_refused(query: str) -> None:
    with pytest.raises(QueryError, match="query must contain text"):
        canonical_query(query)


@pytest.mark.parametrize("query", [None, 1, b"x", ["x"]])
def test_a_query_that_is_no_text_is_refused(query: Any) -> None:
    with pytest.raises(QueryTypeError, match="query must be a string, got"):
        canonical_query(query)
    assert issubclass(QueryTypeError, (TypeError, ValueError))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(QueryError, match="surrogate"):
        canonical_query("a\ud800")


@given(st.text(), st.text())
def test_the_exact_key_tells_texts_and_contexts_apart(a: str, b: str) -> None:
    here, there = canonical_context({"x": 1}), canonical_context({"x": 2})

    assert exact_key("a", here) != exact_key("a", there)
    if "\ud800" <= max(a + b, default="") <= "\udfff":
        return
    assert (exact_key(a, here) == exact_key(b, here)) == (a == b)
