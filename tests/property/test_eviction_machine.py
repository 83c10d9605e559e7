"""Every policy against a list: whatever happens, both choose the same entries in the same order."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memora.eviction import make_policy

KEYS = st.integers(0, 24).map(lambda number: b"%d" % number)


@dataclass
class Row:
    key: bytes
    uses: int = 0
    cost: float = 1.0
    rank: float = 0.0
    main: bool = False


@dataclass
class Model:
    """Rows in the order of storing."""

    rows: list[Row] = field(default_factory=list)
    newest: Row | None = None

    def find(self, key: bytes) -> Row | None:
        return next((row for row in self.rows if row.key == key), None)

    def keys(self) -> list[bytes]:
        return [row.key for row in self.rows] + ([self.newest.key] if self.newest else [])

    def admit(self, key: bytes, cost: float) -> None:
        row = self.newest if self.newest and self.newest.key == key else self.find(key)
        if row in self.rows:
            self.rows.remove(row)
        if self.newest and self.newest is not row:
            self.place(self.newest)
        self.newest = row or Row(key)
        self.newest.cost = cost

    def touch(self, key: bytes, times: int) -> None:
        if self.newest and self.newest.key == key:
            self.newest.uses += times
        elif row := self.find(key):
            self.use(row, times)

    def remove(self, key: bytes) -> None:
        self.rows = [row for row in self.rows if row.key != key]
        if self.newest and self.newest.key == key:
            self.newest = None

    def evict(self, n: int) -> list[bytes]:
        gone = []
        for _ in range(n):
            if self.rows:
                gone.append(self.leave())
            elif self.newest:
                gone.append(self.newest.key)
                self.newest = None
        return gone

    def place(self, row: Row) -> None:
        self.rows.append(row)

    def use(self, row: Row, times: int) -> None:
        row.uses += times

    def leave(self) -> bytes:
        return self.rows.pop(0).key


class Fifo(Model):
    """The newest is the last of the list anyway."""


class Lru(Model):
    """A list in the order of use."""

    def admit(self, key: bytes, cost: float) -> None:
        self.remove(key)
        self.rows.append(Row(key))

    def use(self, row: Row, times: int) -> None:
        self.rows.remove(row)
        self.rows.append(row)


class Lfu(Model):
    def leave(self) -> bytes:
        row = min(self.rows, key=lambda row: row.uses)  # the first of equals
        self.rows.remove(row)
        return row.key


@dataclass
class Cost(Model):
    level: float = 0.0

    def place(self, row: Row) -> None:
        self.use(row, 0)
        self.rows.append(row)

    def use(self, row: Row, times: int) -> None:
        row.uses += times
        row.rank = self.level + (1 + row.uses) * row.cost

    def leave(self) -> bytes:
        row = min(self.rows, key=lambda row: row.rank)
        self.rows.remove(row)
        self.level = row.rank
        return row.key


@dataclass
class S3Fifo(Model):
    """Both queues in one list, in the order in which entries joined them."""

    ghosts: list[bytes] = field(default_factory=list)

    def place(self, row: Row) -> None:
        row.uses = min(row.uses, 3)
        if row.key in self.ghosts:
            self.ghosts.remove(row.key)
            row.main = True
        self.rows.append(row)

    def use(self, row: Row, times: int) -> None:
        row.uses = min(row.uses + times, 3)

    def leave(self) -> bytes:
        size = len(self.rows)
        share = max(size // 10, 1)
        while True:
            small = [row for row in self.rows if not row.main]
            main = [row for row in self.rows if row.main]
            row = small[0] if len(small) >= share or not main else main[0]
            self.rows.remove(row)
            if not row.uses:
                if not row.main:
                    self.ghosts = [*self.ghosts, row.key][-max(size - share, 1) :]
                return row.key
            row.uses = row.uses - 1 if row.main else 0
            row.main = True
            self.rows.append(row)


class Machine(RuleBasedStateMachine):
    name: ClassVar[str]
    model_type: ClassVar[type[Model]]

    def __init__(self) -> None:
        super().__init__()
        self.policy = make_policy(self.name)
        self.model = self.model_type()

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

    @rule(lost=st.sets(KEYS, max_size=4), new=st.lists(KEYS, unique=True, max_size=3))
    def restart(self, lost: set[bytes], new: list[bytes]) -> None:
        """Between the state and the end, some entries left and others were stored."""
        state = self.policy.state()
        known = self.model.keys()
        new = [key for key in new if key not in known]
        self.policy = make_policy(self.name)
        self.policy.restore(state, present=[key for key in known if key not in lost] + new)
        for key in lost:
            self.model.remove(key)
        for key in new:
            self.model.admit(key, 1.0)

    @rule()
    def round_trip(self) -> None:
        state = self.policy.state()
        self.policy.restore(state, present=sorted(self.model.keys()))
        assert self.policy.state() == state

    @invariant()
    def both_would_choose_alike(self) -> None:
        assert deepcopy(self.policy).evict(99) == deepcopy(self.model).evict(99)


def machine(name: str, model: type[Model]) -> type:
    made = type(name, (Machine,), {"name": name, "model_type": model})
    made.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)  # type: ignore[attr-defined]
    return made.TestCase  # type: ignore[attr-defined,no-any-return]


TestFifo = machine("fifo", Fifo)
TestLru = machine("lru", Lru)
TestLfu = machine("lfu", Lfu)
TestCost = machine("cost", Cost)
TestS3Fifo = machine("s3fifo", S3Fifo)


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
