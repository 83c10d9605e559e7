"""Every policy against a list: whatever happens, both choose the same entries in the same order."""

from __future__ import annotations

from copy import deepcopy
from typing import ClassVar

from doubles import POLICY_MODELS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memora.eviction import make_policy

KEYS = st.integers(0, 24).map(lambda number: b"%d" % number)


class Machine(RuleBasedStateMachine):
    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.policy = make_policy(self.name)
        self.model = POLICY_MODELS[self.name]()

    @rule(key=KEYS, cost=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def store(self, key: bytes, cost: float) -> None:
        self.policy.admit(key, cost=cost)
        self.model.admit(key, cost)

    @rule(keys=st.lists(KEYS, min_size=5, max_size=25))
    def store_many(self, keys: list[bytes]) -> None:
        for key in keys:
            self.store(key, 1.0)

    @rule(key=KEYS, times=st.integers(1, 5))
    def serve(self, key: bytes, times: int) -> None:
        self.policy.touch(key, times=times)
        self.model.touch(key, times)

    @rule(key=KEYS)
    def withdraw(self, key: bytes) -> None:
        self.policy.remove(key)
        self.model.remove(key)

    @rule(n=st.integers(0, 8))
    def evict(self, n: int) -> None:
        assert self.policy.evict(n) == self.model.evict(n)

    @invariant()
    def both_would_choose_alike(self) -> None:
        assert deepcopy(self.policy).evict(99) == deepcopy(self.model).evict(99)


def machine(name: str) -> type:
    made = type(name, (Machine,), {"name": name})
    made.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)  # type: ignore[attr-defined]
    return made.TestCase  # type: ignore[attr-defined,no-any-return]


TestFifo = machine("fifo")
TestLru = machine("lru")
TestLfu = machine("lfu")
TestCost = machine("cost")
TestS3Fifo = machine("s3fifo")


@given(st.lists(st.integers(0, 9).map(lambda number: b"%d" % number)), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_evicting_after_storing_keeps_what_the_textbook_keeps(
    stream: list[bytes], capacity: int
) -> None:
    policy = make_policy("lfu")
    held: set[bytes] = set()
    textbook: dict[bytes, int] = {}  # in the order of storing
    for key in stream:
        if key in held:
            policy.touch(key)
        else:
            policy.admit(key)
            held.add(key)
            held -= set(policy.evict(len(held) - capacity))
        if key in textbook:
            textbook[key] += 1
        else:
            if len(textbook) == capacity:
                del textbook[min(textbook, key=lambda key: textbook[key])]
            textbook[key] = 0
        assert held == textbook.keys()
