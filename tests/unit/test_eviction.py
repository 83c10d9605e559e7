"""Each policy does what the document and its source say of it."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING

import pytest

from memora.errors import ArgumentError
from memora.eviction import POLICIES, S3FIFO, EvictionPolicy, make_policy

if TYPE_CHECKING:
    from collections.abc import Iterable


def policy_with(name: str, keys: Iterable[str]) -> EvictionPolicy:
    policy = make_policy(name)
    for key in keys:
        policy.admit(key.encode())
    return policy


def evicted(policy: EvictionPolicy, n: int = 99) -> str:
    return b"".join(policy.evict(n)).decode()


def used(policy: EvictionPolicy, keys: str) -> EvictionPolicy:
    for key in keys:
        policy.touch(key.encode())
    return policy


every_policy = pytest.mark.parametrize("name", list(POLICIES))


# The document, section "Eviction Policies".


def test_fifo_evicts_the_oldest_entry_regardless_of_usage() -> None:
    policy = used(policy_with("fifo", "abcd"), "aaab")

    assert evicted(policy, 2) == "ab"


def test_lru_evicts_what_has_not_been_accessed_recently() -> None:
    policy = used(policy_with("lru", "abcd"), "ca")

    assert evicted(policy) == "bdca"


def test_lfu_evicts_the_lowest_access_count() -> None:
    policy = used(policy_with("lfu", "abcd"), "aaabbccccd")

    assert evicted(policy, 3) == "bac"  # d is the newest


def test_a_new_lfu_entry_starts_at_0_and_may_go_quickly() -> None:
    policy = used(policy_with("lfu", "ab"), "ab")
    policy.admit(b"c")
    policy.admit(b"d")

    assert evicted(policy, 1) == "c"


def test_ties_of_lfu_go_to_the_oldest_stored_not_the_oldest_used() -> None:
    policy = used(policy_with("lfu", "abcde"), "dcba")

    assert evicted(policy, 4) == "abcd"


def test_lfu_keeps_what_is_popular_through_a_flood_of_what_is_asked_once() -> None:
    policy = used(policy_with("lfu", "abc"), "ab")
    for number in range(100):
        policy.admit(str(number).encode())
        policy.evict(1)

    assert evicted(policy) == "ab99"


# What all have in common.


@every_policy
def test_what_was_just_stored_is_not_evicted_while_there_is_another(name: str) -> None:
    policy = used(policy_with(name, "abc"), "abcabc")
    policy.admit(b"d", cost=0)

    assert evicted(policy).endswith("d")


@every_policy
def test_a_policy_evicts_each_entry_once_and_no_more_than_there_are(name: str) -> None:
    policy = used(policy_with(name, "abcde"), "bbd")

    assert sorted(evicted(policy, 3) + evicted(policy, 99)) == list("abcde")
    assert evicted(policy) == ""
    assert evicted(policy, 0) == ""


@every_policy
def test_what_has_left_is_never_chosen(name: str) -> None:
    policy = policy_with(name, "abcde")
    for key in (b"b", b"e", b"nobody"):
        policy.remove(key)

    assert sorted(evicted(policy)) == list("acd")


@every_policy
def test_touching_what_is_not_there_changes_nothing(name: str) -> None:
    policy = policy_with(name, "abc")
    policy.touch(b"nobody")
    policy.touch(b"a", times=0)

    assert evicted(policy) == evicted(policy_with(name, "abc"))


@every_policy
@pytest.mark.parametrize("cost", [-1.0, nan, inf])
def test_a_cost_that_is_none_is_refused_and_changes_nothing(name: str, cost: float) -> None:
    policy = policy_with(name, "abc")

    with pytest.raises(ArgumentError, match="expected a finite number"):
        policy.admit(b"d", cost=cost)
    with pytest.raises(ArgumentError, match="expected a finite number"):
        policy.admit(b"a", cost=cost)
    assert evicted(policy) == "abc"


@every_policy
def test_storing_again_makes_an_entry_the_newest(name: str) -> None:
    policy = policy_with(name, "abca")

    assert sorted(evicted(policy, 2)) == list("bc")
    assert evicted(policy) == "a"


@pytest.mark.parametrize("name", ["lfu", "cost"])
def test_uses_are_known_after_storing_again(name: str) -> None:
    policy = used(policy_with(name, "abc"), "aa")
    policy.admit(b"a")
    policy.admit(b"d")

    assert evicted(policy, 2) == "bc"


def test_an_unknown_policy_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ArgumentError, match="'mru': expected one of fifo, lru, lfu, s3fifo, cost"):
        make_policy("mru")


# S3-FIFO.


def s3fifo_with(keys: Iterable[str], uses: str = "") -> S3FIFO:
    policy = used(policy_with("s3fifo", keys), uses)
    assert isinstance(policy, S3FIFO)
    return policy


def test_s3fifo_lets_what_is_not_used_go_first_and_keeps_what_was() -> None:
    policy = s3fifo_with("abcdefghijk", "ac")

    assert evicted(policy, 3) == "bde"
    assert list(policy._main) == [b"a", b"c"]


def test_s3fifo_takes_a_ghost_into_the_main_queue() -> None:
    policy = s3fifo_with("abcdefghijk")
    assert evicted(policy, 1) == "a"
    for key in (b"a", b"l"):
        policy.admit(key)

    assert list(policy._main) == [b"a"]


def test_s3fifo_keeps_in_the_main_queue_what_is_stored_again() -> None:
    policy = s3fifo_with("abcdefghijk", "a")
    policy.evict(1)
    policy.admit(b"a")
    policy.admit(b"l")

    assert list(policy._main) == [b"a"]


def test_s3fifo_counts_three_uses_at_most() -> None:
    policy = s3fifo_with("abc", "aaaaaaaa")

    assert policy._small[b"a"] == 3


def test_s3fifo_remembers_no_more_ghosts_than_it_has_entries() -> None:
    policy = S3FIFO()
    for number in range(1000):
        policy.admit(str(number).encode())
        if number >= 50:
            policy.evict(1)

    assert len(policy._ghosts) == 45  # of 50: what the main queue has room for


def test_s3fifo_does_not_go_round_a_large_queue_for_long() -> None:
    policy = S3FIFO()
    keys = [str(number).encode() for number in range(20_000)]
    for key in keys:
        policy.admit(key)
        policy.touch(key, times=3)

    assert len(policy.evict(1)) == 1
    assert len(policy._main) < 10_001


# Cost-aware.


def test_what_was_expensive_to_compute_stays() -> None:
    policy = make_policy("cost")
    for key, cost in ((b"a", 9.0), (b"b", 1.0), (b"c", 5.0), (b"d", 1.0)):
        policy.admit(key, cost=cost)

    assert evicted(policy) == "bcad"


def test_what_is_used_often_outweighs_what_was_dear_once() -> None:
    policy = make_policy("cost")
    for key, cost in ((b"a", 3.0), (b"b", 1.0), (b"c", 1.0)):
        policy.admit(key, cost=cost)
    policy.touch(b"b", times=5)

    assert evicted(policy) == "abc"


def test_what_was_dear_but_is_not_used_leaves_in_time() -> None:
    policy = make_policy("cost")
    policy.admit(b"dear", cost=10.0)
    gone: list[bytes] = []
    for number in range(40):
        policy.admit(str(number).encode(), cost=1.0)
        if number >= 2:
            gone += policy.evict(1)

    assert b"dear" in gone
    assert gone.index(b"dear") > 10
