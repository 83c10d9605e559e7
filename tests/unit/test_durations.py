"""What is a duration, and what is refused."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from memora._durations import seconds
from memora.errors import ArgumentError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (1e12, 1e12),
        (np.float32(2), 2.0),
        (np.int64(3), 3.0),
        (Fraction(1, 4), 0.25),
        (Decimal("1.5"), 1.5),
        (timedelta(minutes=10), 600.0),
        (timedelta(microseconds=1), 1e-6),
        ("90", 90.0),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("45s", 45.0),
        ("500ms", 0.5),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1w2d3h4m5s6ms", 788_645.006),
        ("1.5h", 5400.0),
        ("1m500ms", 60.5),
        ("  1 H\t30 M ", 5400.0),
        ("10M", 600.0),
        ("1 h 90 m", 9000.0),
        (" 90\n", 90.0),
        ("0h1s", 1.0),
    ],
)
def test_it_is_read_as_seconds(value: Any, expected: float) -> None:
    found = seconds("ttl", value)

    assert type(found) is float
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        -0.0,
        math.nan,
        math.inf,
        -math.inf,
        True,
        np.True_,
        np.float64("nan"),
        Fraction(1, 10**400),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal(-1),
        1j,
        None,
        b"10m",
        [1],
        np.timedelta64(10, "m"),
        np.timedelta64(10, "ns"),
        np.array([1.0]),
        timedelta(0),
        timedelta(seconds=-1),
        "",
        " ",
        "0",
        "0s",
        "0h0m",
        "-5m",
        "+5m",
        "1h -30m",
        "m",
        "\uff11\uff10m",  # full-width digits
        "10 minutes",
        "10x",
        "1mo",
        "1y",
        "30m1h",
        "1m1m",
        "5m s",
        "1h30",
        "30 1h",
        "1,5h",
        "1_000s",
        ".5s",
        "5.s",
        "1e3s",
        "1 000",
        "inf",
        "nan",
        "1e400",
        "9" * 400,
        "9" * 400 + "s",
        "0x10",
        "PT10M",
        "00:10:00",
        "5\u017f",  # a long s
    ],
)
def test_anything_else_is_refused_by_name_and_value(value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        seconds("ttl", value)

    assert str(caught.value).startswith("ttl must be a number of seconds above 0, got ")
    assert repr(value) in str(caught.value)
    assert "'1h30m'" in str(caught.value)


def test_a_number_that_no_float_holds_is_too_large() -> None:
    with pytest.raises(ArgumentError, match="ttl is too large: 1000"):
        seconds("ttl", 10**400)


def test_a_long_text_is_refused_at_once() -> None:
    for text in ("1" * 20_000, "1." * 10_000, "1m" * 10_000, " " * 20_000, "1" * 20_000 + "x"):
        with pytest.raises(ArgumentError, match="ttl must be"):
            seconds("ttl", text)
