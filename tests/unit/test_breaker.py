"""The breaker: when it opens, whom it lets probe, and what closes it."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from memora.concurrency.breaker import Breaker
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from doubles import FakeClock


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(failures=3, reset_seconds=30, clock=clock)


def opened(breaker: Breaker) -> None:
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()


def test_it_is_closed_at_first(breaker: Breaker) -> None:
    assert breaker.state == "closed"
    assert breaker.opened_at is None
    assert breaker.allows()


def test_failures_in_a_row_open_it(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)

    assert breaker.state == "open"
    assert breaker.opened_at == clock.now
    assert not breaker.allows()


def test_a_success_between_them_starts_the_count_again(breaker: Breaker) -> None:
    for told in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        told()

    assert breaker.state == "closed"


def test_one_at_a_time_may_probe_when_it_has_been_open_for_long(
    breaker: Breaker, clock: FakeClock
) -> None:
    opened(breaker)
    clock.advance(29.9)
    assert not breaker.allows()
    clock.advance(0.1)

    assert breaker.state == "half_open"
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.advance(30)
    assert breaker.allows()
    breaker.succeeded()

    assert breaker.state == "closed"
    assert breaker.opened_at is None
    breaker.failed()
    breaker.failed()
    assert breaker.allows()


def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.advance(31)
    assert breaker.allows()
    breaker.failed()

    assert breaker.state == "open"
    assert breaker.opened_at == clock.now
    clock.advance(30)
    assert breaker.allows()


def test_a_probe_that_tells_nothing_is_given_up(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.advance(30)
    assert breaker.allows()
    clock.advance(29.9)
    assert not breaker.allows()
    clock.advance(0.1)

    assert [breaker.allows() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("later", [0, 30])
def test_calls_from_before_it_opened_change_nothing(
    breaker: Breaker, clock: FakeClock, later: float
) -> None:
    opened(breaker)
    at = clock.now
    clock.advance(later)
    state = breaker.state
    breaker.succeeded()
    breaker.failed()

    assert (breaker.state, breaker.opened_at) == (state, at)


def test_of_many_threads_one_probes(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.advance(30)
    gate, allowed = threading.Barrier(16), []

    def ask() -> None:
        gate.wait()
        allowed.append(breaker.allows())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(allowed) == [False] * 15 + [True]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_does_not_wait_for_the_parents_probe(
    breaker: Breaker, clock: FakeClock
) -> None:
    opened(breaker)
    clock.advance(30)
    assert breaker.allows()
    child = os.fork()
    if child == 0:
        os._exit(0 if [breaker.allows(), breaker.allows()] == [True, False] else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not breaker.allows()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failures", 0),
        ("failures", True),
        ("failures", 1.5),
        ("reset_seconds", 0),
        ("reset_seconds", math.inf),
        ("reset_seconds", None),
    ],
)
def test_a_wrong_argument_is_named(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name} must be .* got {value!r}"):
        Breaker(**{name: value})
