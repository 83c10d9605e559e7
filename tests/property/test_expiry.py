"""The queue against a plain list: nothing early, nothing lost, nothing too often."""

from __future__ import annotations

from collections import Counter
from math import floor, inf, isfinite

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memora.stores._expiry import ExpiryQueue

ENDS = st.one_of(st.floats(0, 20), st.integers(0, 20).map(float), st.just(inf), st.floats(-5, 1e18))


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = ExpiryQueue()
        self.waiting: list[tuple[int, float]] = []
        self.now = 0.0

    @rule(slot=st.integers(0, 5), end=ENDS)
    def add(self, slot: int, end: float) -> None:
        self.queue.add(slot, end)
        self._expect(slot, end)

    @rule(ends=st.lists(ENDS, max_size=12))
    def load(self, ends: list[float]) -> None:
        self.queue.load(np.array(ends, np.float64))
        self.waiting.clear()
        for slot, end in enumerate(ends):
            self._expect(slot, end)

    @rule(
        elapsed=st.floats(0, 5) | st.integers(0, 5).map(float),
        limit=st.integers(0, 8),
        present=st.booleans(),
    )
    def due(self, elapsed: float, limit: int, *, present: bool) -> None:
        self.now += elapsed
        # The second that is not over is not due yet, or all of it is.
        before = floor(self.now) + present
        ripe = [(end, slot) for slot, end in self.waiting if floor(end) < before]

        found = self.queue.due(self.now, limit, present=present)

        assert len(found) == min(limit, len(ripe))
        assert not Counter(found) - Counter(slot for _, slot in ripe)
        for slot in found:  # which one of a slot does not matter: all of these are due
            end = min(end for end, other in ripe if other == slot)
            assert end < before
            assert present or end <= self.now
            ripe.remove((end, slot))
            self.waiting.remove((slot, end))

    @invariant()
    def it_holds_what_waits(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.overgrown(0) == (len(self.waiting) > 1024)

    def teardown(self) -> None:
        left = self.queue.due(1e19, 10_000)
        assert Counter(left) == Counter(slot for slot, _ in self.waiting)

    def _expect(self, slot: int, end: float) -> None:
        if isfinite(end):
            self.waiting.append((slot, end))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
