"""A duration that is written down is read as what it was."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora._durations import seconds
from memora.errors import ArgumentError

UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
AMOUNTS = st.fixed_dictionaries({}, optional={unit: st.integers(0, 10**6) for unit in UNITS})


@given(AMOUNTS, st.sampled_from(["", " ", "\t "]), st.sampled_from([str.lower, str.upper]))
def test_amounts_of_units_add_up(amounts: dict[str, int], space: str, case: Any) -> None:
    expected = sum(amount * UNITS[unit] for unit, amount in amounts.items())
    text = space.join(f"{amounts[unit]}{space}{case(unit)}" for unit in UNITS if unit in amounts)
    if expected:
        assert seconds("ttl", text) == pytest.approx(expected, rel=1e-12)
    else:
        with pytest.raises(ArgumentError):
            seconds("ttl", text)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_a_number_means_the_same_as_its_text(value: float) -> None:
    assert seconds("ttl", value) == value
    assert seconds("ttl", str(value)) == value


@given(st.timedeltas(min_value=timedelta(microseconds=1)))
def test_a_timedelta_is_its_seconds(value: timedelta) -> None:
    assert seconds("ttl", value) == value.total_seconds()


@given(st.text() | st.text("0123456789.wdhms eE+-") | st.floats() | st.integers() | st.decimals())
def test_what_is_no_duration_raises_nothing_but_an_argument_error(value: Any) -> None:
    try:
        found = seconds("ttl", value)
    except ArgumentError:
        return
    assert 0 < found < math.inf
