"""Each policy does what the document and its source say of it."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING

import pytest

from memora.errors import ArgumentError
from memora.eviction import POLICIES, DurablePolicy, State, Usage, make_policy

if TYPE_CHECKING:
    from collections.abc import Iterable


def policy_with(name: str, keys: Iterable[str]) -> DurablePolicy:
    policy = make_policy(name)
    for key in keys:
        policy.admit(key.encode())
    return policy


def evicted(policy: DurablePolicy, n: int = 99) -> str:
    return b"".join(policy.evict(n)).decode()


def used(policy: DurablePolicy, keys: str) -> DurablePolicy:
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
    before = policy.state()
    policy.touch(b"nobody")
    policy.touch(b"a", times=0)

    assert policy.state() == before


@every_policy
@pytest.mark.parametrize("cost", [-1.0, nan, inf])
def test_a_cost_that_is_none_is_refused_and_changes_nothing(name: str, cost: float) -> None:
    policy = policy_with(name, "abc")
    before = policy.state()

    with pytest.raises(ArgumentError, match="expected a finite number"):
        policy.admit(b"d", cost=cost)
    assert policy.state() == before


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


def test_s3fifo_lets_what_is_not_used_go_first_and_keeps_what_was() -> None:
    policy = used(policy_with("s3fifo", "abcdefghijk"), "ac")

    assert evicted(policy, 3) == "bde"
    assert [usage.key for usage in policy.state().usages() if usage.rank] == [b"a", b"c"]


def test_s3fifo_takes_a_ghost_into_the_main_queue() -> None:
    policy = policy_with("s3fifo", "abcdefghijk")
    assert evicted(policy, 1) == "a"
    for key in (b"a", b"l"):
        policy.admit(key)

    assert Usage(b"a", rank=1.0) in policy.state().usages()


def test_s3fifo_keeps_in_the_main_queue_what_is_stored_again() -> None:
    policy = used(policy_with("s3fifo", "abcdefghijk"), "a")
    policy.evict(1)
    policy.admit(b"a")
    policy.admit(b"l")

    assert Usage(b"a", rank=1.0) in policy.state().usages()


def test_s3fifo_counts_three_uses_at_most() -> None:
    policy = used(policy_with("s3fifo", "abc"), "aaaaaaaa")

    assert policy.state().uses[0] == 3


def test_s3fifo_remembers_no_more_ghosts_than_it_has_entries() -> None:
    policy = make_policy("s3fifo")
    for number in range(1000):
        policy.admit(str(number).encode())
        if number >= 50:
            policy.evict(1)

    assert len(policy.state().ghosts) == 45  # of 50: what the main queue has room for


def test_s3fifo_does_not_go_round_a_large_queue_for_long() -> None:
    policy = make_policy("s3fifo")
    keys = [str(number).encode() for number in range(20_000)]
    for key in keys:
        policy.admit(key)
        policy.touch(key, times=3)

    assert len(policy.evict(1)) == 1
    assert sum(usage.rank for usage in policy.state().usages()) < 10_001


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


# Keeping and giving back.


@every_policy
def test_a_policy_knows_its_order_after_a_restart(name: str) -> None:
    policy = used(policy_with(name, "abcdefghijklm"), "aacdbba")
    left = evicted(policy, 3)
    again = make_policy(name)
    again.restore(
        policy.state(), present=[b"%c" % key for key in b"abcdefghijklm" if chr(key) not in left]
    )

    assert again.state() == policy.state()
    assert evicted(again) == evicted(policy)


@every_policy
def test_nothing_known_is_as_if_all_had_just_been_stored_in_order(name: str) -> None:
    policy = used(policy_with(name, "xyz"), "x")
    policy.restore(None, present=[b"a", b"b", b"c"])

    assert policy.state() == policy_with(name, "abc").state()


def test_lfu_takes_over_the_counts_that_the_cost_aware_policy_had() -> None:
    old = used(policy_with("cost", "abcd"), "aab")
    policy = make_policy("lfu")
    policy.restore(old.state(), present=[b"a", b"b", b"c", b"d", b"e"])

    assert evicted(policy) == "cdbae"


@every_policy
def test_a_key_that_a_state_has_twice_counts_once(name: str) -> None:
    policy = make_policy(name)
    twice = (b"a", b"a", b"b")
    policy.restore(State(name, twice, newest=Usage(b"b")), present=[b"a", b"b"])

    assert sorted(evicted(policy)) == ["a", "b"]
