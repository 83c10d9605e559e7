"""Whatever the wall is set to: the clock never goes back, and behind, it goes on steadily."""

from __future__ import annotations

import pytest
from doubles import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from memora._clock import SteadyClock

JUMPS = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(0, 1),
    st.sampled_from([-3600.0, 3600.0, 0.0, -1e-9, 1e-9]),
)
STEPS = st.lists(st.tuples(JUMPS, st.floats(0, 1e4), st.none() | st.floats(-1e5, 1e5)), max_size=30)


@given(STEPS)
def test_it_never_goes_back_and_goes_on_steadily_while_the_wall_is_behind(
    steps: list[tuple[float, float, float | None]],
) -> None:
    wall, steady = FakeClock(), FakeClock(123.456)
    clock = SteadyClock(wall, steady=steady)
    time = clock()
    for jump, elapsed, mark in steps:
        wall.advance(jump)
        steady.advance(elapsed)
        found = clock()
        assert found >= time
        assert found == pytest.approx(max(wall.now, time + elapsed), abs=1e-5)
        time = found
        if mark is not None:
            clock.advance(wall.now + mark)
            assert clock() == pytest.approx(max(time, wall.now + mark), abs=1e-5)
            assert clock() >= max(time, wall.now + mark)
            time = clock()


@given(st.lists(JUMPS, max_size=30))
def test_without_a_steady_clock_it_is_the_latest_that_the_wall_has_said(
    jumps: list[float],
) -> None:
    wall = FakeClock()
    clock = SteadyClock(wall)
    latest = clock()
    for jump in jumps:
        wall.advance(jump)
        latest = max(latest, wall.now)
        assert clock() == latest
