"""Flights against lists: who leads, who waits, who is woken, in any order of events.

Claims are made by hand, so that the order is hypothesis's and not the scheduler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memora.concurrency.flights import Flights, _Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOPS = (0, 1)  # threads in which many tasks run; every other thread is alone


class FlightsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.flights = Flights()
        self.waiting: dict[bytes, list[_Claim]] = {}  # the leader is not in it
        self.leader: dict[bytes, _Claim] = {}
        self.alone: list[_Claim] = []
        self.over: list[_Claim] = []
        self.rung: list[_Claim] = []
        self.ended: set[int] = set()  # loops
        self.threads = len(LOOPS)

    def blocked(self) -> set[int]:
        return {one.thread for many in self.waiting.values() for one in many if one.blocks}

    def make(self, key: bytes, thread: int, *, blocks: bool) -> _Claim:
        def ring() -> None:
            if claim.thread in self.ended and not claim.blocks:
                raise RuntimeError("Event loop is closed")
            self.rung.append(claim)

        claim = _Claim(self.flights._land, key, ring, blocks=blocks)
        claim.thread = thread
        return claim

    def woken(self, claims: Iterable[_Claim]) -> None:
        assert self.rung == list(claims)
        self.rung.clear()

    def enter(self, claim: _Claim) -> None:
        leader = self.leader.get(claim.key)
        alone = leader is not None and claim.blocks and leader.thread == claim.thread
        assert self.flights._join(claim) == claim.leads == (leader is None or alone)
        if alone:
            self.alone.append(claim)
        elif leader is None:
            self.leader[claim.key] = claim
            self.waiting[claim.key] = []
        else:
            self.waiting[claim.key].append(claim)
        self.woken([])

    keys = st.sampled_from([b"a" * 16, b"b" * 16])

    @rule(key=keys)
    def claim_in_a_thread(self, key: bytes) -> None:
        self.threads += 1
        self.enter(self.make(key, self.threads, blocks=True))

    @rule(key=keys, loop=st.sampled_from(LOOPS), blocks=st.booleans())
    def claim_in_a_loop(self, key: bytes, loop: int, *, blocks: bool) -> None:
        if loop not in self.blocked() | self.ended:
            self.enter(self.make(key, loop, blocks=blocks))

    @rule(key=keys)
    def land(self, key: bytes) -> None:
        if (leader := self.leader.pop(key, None)) is None:
            return
        waiting = self.waiting.pop(key)
        leader.land(value := object())
        self.woken(one for one in waiting if one.blocks or one.thread not in self.ended)
        for one in [leader, *waiting]:
            assert one.landed
            assert one.value is value
            self.flights._end(one)
        self.over += [leader, *waiting]

    @rule(key=keys)
    def fail(self, key: bytes) -> None:
        if (leader := self.leader.pop(key, None)) is None:
            return
        self.flights._end(leader)
        waiting = self.waiting[key]
        lost = []
        while waiting:
            rival = [one for one in waiting if one.blocks and one.thread == waiting[0].thread]
            heir = rival[0] if rival else waiting[0]
            waiting.remove(heir)
            if heir.blocks or heir.thread not in self.ended:
                assert heir.leads
                assert not heir.landed
                self.leader[key] = heir
                self.woken([heir])
                break
            lost.append(heir)
        else:
            del self.waiting[key]
            self.woken([])
        self.over += [leader, *lost]

    @rule(key=keys, n=st.integers(0, 9))
    def cancel(self, key: bytes, n: int) -> None:
        if waiting := self.waiting.get(key):
            claim = waiting.pop(n % len(waiting))
            self.flights._end(claim)
            assert not claim.leads
            assert not claim.landed
            self.woken([])
            self.over.append(claim)

    @precondition(lambda self: self.alone)
    @rule(lands=st.booleans())
    def end_alone(self, *, lands: bool) -> None:
        claim = self.alone.pop()
        if lands:
            claim.land(1)
        self.flights._end(claim)
        self.woken([])

    @rule(loop=st.sampled_from(LOOPS))
    def end_a_loop(self, loop: int) -> None:
        # What waits there stays in the queue until somebody tries to wake it.
        leads = [one.thread for one in [*self.leader.values(), *self.alone]]
        if loop not in self.blocked() and loop not in leads:
            self.ended.add(loop)

    @precondition(lambda self: self.over)
    @rule(n=st.integers(0, 99))
    def end_again(self, n: int) -> None:
        """A block that is ended late, by the garbage collector."""
        self.flights._end(self.over[n % len(self.over)])
        self.woken([])

    @invariant()
    def nothing_else_is_left(self) -> None:
        expected = {key: [self.leader[key], *self.waiting[key]] for key in self.leader}
        assert {key: list(queue) for key, queue in self.flights._queues.items()} == expected
        assert len(self.flights) == len(expected)
        assert not self.flights._left


TestFlightsMachine = FlightsMachine.TestCase
