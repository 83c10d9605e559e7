"""How far a server is ahead: measured by asking, seldom, and as well as the way there allows."""

from __future__ import annotations

import pytest
from doubles import FakeClock

from memora.errors import StoreError

pytest.importorskip("redis")

from memora.stores.redis._time import ClockOffset

HOUR = 3600.0


class Machine:
    """A client and a server, with a clock each, and a way between them that takes its time."""

    def __init__(self) -> None:
        self.clock, self.steady = FakeClock(), FakeClock(50.0)
        self.server = self.clock.now + HOUR
        self.there = self.back = 0.0  # seconds of the way
        self.asked = 0
        self.measured = ClockOffset(self.clock, steady=self.steady)

    def pass_(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.steady.advance(seconds)
        self.server += seconds

    def ask(self) -> float:
        self.asked += 1
        self.pass_(self.there)
        said = self.server
        self.pass_(self.back)
        return said

    def ahead(self) -> float:
        return self.measured.seconds(self.ask)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_is_asked_for_once_a_minute(machine: Machine) -> None:
    assert machine.ahead() == HOUR
    machine.pass_(59)
    assert machine.ahead() == HOUR
    assert machine.asked == 1

    machine.server += 5
    machine.pass_(1)
    assert machine.ahead() == HOUR + 5
    assert machine.asked == 2


@pytest.mark.parametrize("by", [HOUR, -HOUR, 1.0])
def test_a_clock_that_was_set_is_noticed_at_once(machine: Machine, by: float) -> None:
    machine.ahead()

    machine.clock.advance(by)

    assert machine.ahead() == HOUR - by
    machine.ahead()
    assert machine.asked == 2


def test_a_clock_that_only_drifts_is_left_to_the_minute(machine: Machine) -> None:
    machine.ahead()

    machine.clock.advance(0.25)

    assert machine.ahead() == HOUR
    assert machine.asked == 1


def test_the_way_there_and_back_costs_half_of_it_at_most(machine: Machine) -> None:
    machine.there = 0.5

    assert machine.ahead() == HOUR + 0.25  # as if both ways took as long


def test_a_worse_measure_changes_nothing_and_a_better_one_what_it_must(machine: Machine) -> None:
    machine.there = 0.25
    first = machine.ahead()

    machine.there = 4.0
    machine.pass_(60)
    assert machine.ahead() == first
    machine.there = 0.0
    machine.pass_(60)
    assert machine.ahead() == HOUR


def test_clocks_that_agree_as_far_as_can_be_told_are_left_alone(machine: Machine) -> None:
    machine.server -= HOUR
    machine.there, machine.back = 0.125, 0.25

    assert machine.ahead() == 0


def test_times_come_back_as_they_were_given(machine: Machine) -> None:
    machine.server += 0.1
    ahead = machine.ahead()

    for i in range(1000):
        time = 1_700_000_000.1 + i / 7
        assert (time + ahead) - ahead == time


def test_a_server_that_does_not_answer_is_asked_again(machine: Machine) -> None:
    def fail() -> float:
        raise StoreError

    for _ in range(2):
        with pytest.raises(StoreError):
            machine.measured.seconds(fail)
    assert machine.ahead() == HOUR
    machine.pass_(60)
    for _ in range(2):
        with pytest.raises(StoreError):
            machine.measured.seconds(fail)
    assert machine.ahead() == HOUR
