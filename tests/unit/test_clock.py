"""The clock that never goes back: what it says when the wall is set, and in threads and forks."""

from __future__ import annotations

import math
import os
import threading
import time
import timeit

import pytest
from doubles import FakeClock

from memora._clock import SteadyClock, is_of_system

HOUR, YEAR = 3600.0, 365.25 * 86_400


@pytest.fixture
def steady() -> FakeClock:
    return FakeClock(50.0)


def test_it_is_the_wall_clock(clock: FakeClock, steady: FakeClock) -> None:
    now = SteadyClock(clock, steady=steady)

    assert now() == clock.now
    clock.advance(0.25)
    steady.advance(0.25)
    assert now() == clock.now


def test_by_default_it_is_the_time_of_the_system() -> None:
    before = time.time()

    assert before <= SteadyClock()() <= time.time()


def test_only_a_clock_that_is_given_is_none_of_the_systems(clock: FakeClock) -> None:
    assert is_of_system(time.time)
    assert is_of_system(SteadyClock())
    assert not is_of_system(clock)
    assert not is_of_system(SteadyClock(clock))


def test_time_goes_on_by_the_steady_clock_when_the_wall_is_set_back(
    clock: FakeClock, steady: FakeClock
) -> None:
    now = SteadyClock(clock, steady=steady)
    start = now()

    clock.advance(-HOUR)
    assert now() == start
    for clock_ in (clock, steady):
        clock_.advance(10)
    assert now() == start + 10


def test_it_follows_the_wall_again_once_that_has_caught_up(
    clock: FakeClock, steady: FakeClock
) -> None:
    now = SteadyClock(clock, steady=steady)
    now()
    clock.advance(-HOUR)
    steady.advance(10)
    now()

    clock.advance(2 * HOUR)
    assert now() == clock.now


def test_it_goes_forward_with_the_wall_and_stays_there(clock: FakeClock, steady: FakeClock) -> None:
    now = SteadyClock(clock, steady=steady)
    start = now()

    clock.advance(HOUR)
    assert now() == start + HOUR
    clock.advance(-HOUR)
    steady.advance(1)
    assert now() == start + HOUR + 1


def test_a_suspend_that_only_the_wall_counts_is_counted(
    clock: FakeClock, steady: FakeClock
) -> None:
    now = SteadyClock(clock, steady=steady)
    start = now()

    clock.advance(8 * HOUR)
    assert now() == start + 8 * HOUR


def test_a_wall_without_a_steady_clock_stands_still_while_it_is_behind(clock: FakeClock) -> None:
    now = SteadyClock(clock)
    start = now()

    clock.advance(-5)
    assert now() == start
    clock.advance(4)
    assert now() == start
    clock.advance(2)
    assert now() == start + 1


def test_many_short_steps_add_up_while_the_wall_is_behind(
    clock: FakeClock, steady: FakeClock
) -> None:
    now = SteadyClock(clock, steady=steady)
    start = now()
    clock.advance(-HOUR)

    for _ in range(10_000):  # each is below the resolution of a float at this size
        steady.advance(1e-7)
        now()

    assert now() == pytest.approx(start + 1e-3, abs=1e-6)


def test_a_steady_clock_that_is_none_does_no_harm(clock: FakeClock, steady: FakeClock) -> None:
    now = SteadyClock(clock, steady=steady)
    start = now()

    clock.advance(-5)
    steady.advance(-3)
    assert now() == start


def test_it_is_never_earlier_than_what_it_was_advanced_to(
    clock: FakeClock, steady: FakeClock
) -> None:
    now = SteadyClock(clock, steady=steady)

    now.advance(clock.now + HOUR)
    assert now() == clock.now + HOUR
    steady.advance(3)
    assert now() == clock.now + HOUR + 3
    now.advance(clock.now)
    assert now() == clock.now + HOUR + 3


def test_advancing_works_without_a_steady_clock(clock: FakeClock) -> None:
    now = SteadyClock(clock)

    now.advance(clock.now + 60)
    clock.advance(30)
    assert now() == clock.now + 30
    clock.advance(31)
    assert now() == clock.now


@pytest.mark.parametrize("mark", [math.nan, math.inf, -math.inf, 1e300, 0.0, -1e9])
def test_a_mark_that_is_damaged_or_past_is_ignored(clock: FakeClock, mark: float) -> None:
    now = SteadyClock(clock)

    now.advance(mark)
    assert now() == clock.now


def test_a_mark_is_damaged_from_ten_years_on(clock: FakeClock) -> None:
    now = SteadyClock(clock)

    now.advance(clock.now + 10 * YEAR + 1)
    assert now() == clock.now
    now.advance(clock.now + 10 * YEAR)
    assert now() == clock.now + 10 * YEAR


def test_threads_never_see_it_go_back(clock: FakeClock) -> None:
    now = SteadyClock()
    wrong: list[tuple[float, float]] = []

    def look() -> None:
        last = now()
        for _ in range(5000):
            found = now()
            if found < last:
                wrong.append((last, found))
            last = found

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_it_costs_less_than_many_microseconds() -> None:
    now = SteadyClock()

    # 0.3 us on an idle core; this only catches a mistake.
    assert min(timeit.repeat(now, number=1000, repeat=5)) / 1000 < 20e-6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_the_lock_is_held_has_a_lock_of_its_own() -> None:
    now = SteadyClock()
    last = now()

    with now._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if now() >= last else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
