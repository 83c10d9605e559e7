"""The queue of what may have expired: what it gives when, and how much it holds."""

from __future__ import annotations

import tracemalloc
from math import inf, nan

import numpy as np
import pytest

from memora.stores._expiry import ExpiryQueue

NOW = 1_700_000_000.0


def queue_of(*ends: float, loaded: bool) -> ExpiryQueue:
    queue = ExpiryQueue()
    if loaded:
        queue.load(np.array(ends, np.float64))
    else:
        for slot, end in enumerate(ends):
            queue.add(slot, end)
    return queue


either = pytest.mark.parametrize("loaded", [False, True], ids=["added", "loaded"])


def test_an_empty_queue_has_nothing_due() -> None:
    queue = ExpiryQueue()

    assert queue.due(NOW, 10) == []
    assert len(queue) == 0


@either
def test_a_slot_is_due_once_its_second_is_over(*, loaded: bool) -> None:
    queue = queue_of(NOW + 0.25, loaded=loaded)

    assert queue.due(NOW, 10) == []
    assert queue.due(NOW + 0.75, 10) == []
    assert queue.due(NOW + 1, 10) == [0]
    assert queue.due(NOW + 9, 10) == []


@either
def test_the_present_second_is_given_whole_where_that_is_asked_for(*, loaded: bool) -> None:
    queue = queue_of(NOW + 0.25, NOW + 0.75, NOW + 1, loaded=loaded)

    assert sorted(queue.due(NOW + 0.5, 10, present=True)) == [0, 1]
    assert queue.due(NOW + 0.5, 10, present=True) == []
    assert queue.due(NOW + 1, 10, present=True) == [2]


@either
def test_the_earliest_seconds_come_first_and_the_rest_stays_for_later(*, loaded: bool) -> None:
    queue = queue_of(NOW + 5, NOW + 1, NOW + 3, NOW + 1.5, loaded=loaded)

    assert sorted(queue.due(NOW + 100, 2)) == [1, 3]
    assert len(queue) == 2
    assert queue.due(NOW + 100, 1) == [2]
    assert queue.due(NOW + 100, 100) == [0]
    assert len(queue) == 0


@either
def test_what_never_ends_is_not_kept(*, loaded: bool) -> None:
    queue = queue_of(inf, NOW, nan, -inf, loaded=loaded)

    assert len(queue) == 1
    assert queue.due(1e300, 10) == [1]


@either
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_takes_nothing(limit: int, *, loaded: bool) -> None:
    queue = queue_of(NOW, NOW, loaded=loaded)

    assert queue.due(NOW + 9, limit) == []
    assert len(queue) == 2


@either
def test_ends_of_any_size_are_kept_apart(*, loaded: bool) -> None:
    queue = queue_of(1e300, 0.5, -0.5, -1e300, 1e18, loaded=loaded)

    assert queue.due(-1.0, 10) == [3]
    assert queue.due(0.0, 10) == [2]
    assert queue.due(1.0, 10) == [1]
    assert queue.due(1.5e18, 10) == [4]
    assert queue.due(1.5e300, 10) == [0]


def test_what_is_added_after_loading_comes_as_well() -> None:
    queue = queue_of(NOW, NOW + 2, loaded=True)
    queue.add(7, NOW)
    queue.add(8, NOW + 2)

    assert sorted(queue.due(NOW + 1, 10)) == [0, 7]
    assert sorted(queue.due(NOW + 3, 10)) == [1, 8]


def test_a_slot_that_is_added_again_comes_again() -> None:
    queue = queue_of(NOW, loaded=True)

    assert queue.due(NOW + 1, 10) == [0]
    queue.add(0, NOW)  # the same second, once more
    assert queue.due(NOW + 1, 10) == [0]


def test_loading_forgets_what_was_there() -> None:
    queue = queue_of(NOW, NOW, loaded=False)
    queue.load(np.array([inf, inf, NOW + 1]))

    assert len(queue) == 1
    assert queue.due(NOW + 9, 10) == [2]


def test_it_is_overgrown_when_most_of_it_is_stale() -> None:
    queue = ExpiryQueue()
    for number in range(1224):
        queue.add(number % 100, NOW + number)

    assert not queue.overgrown(100)
    queue.add(0, NOW)
    assert queue.overgrown(100)
    queue.load(np.full(100, NOW))
    assert not queue.overgrown(100)
    assert not queue.overgrown(0)


def test_a_loaded_slot_takes_few_bytes() -> None:
    size = 100_000
    ends = NOW + np.random.default_rng(1).uniform(0, 600, size)
    queue = ExpiryQueue()
    tracemalloc.start()
    queue.load(ends)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(queue) == size
    assert used / size < 6
    assert len(queue.due(NOW + 1000, size)) == size
    assert len(queue._slots) == 0  # and gives them back
