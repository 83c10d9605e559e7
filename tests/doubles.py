"""
Test doubles: a clock that is set by the test, an embedder without a model, and reference models of
the eviction policies.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from memora.protocols import Vector


NO_FAULT = {
    "lookup": 0,
    "judge": 0,
    "verify": 0,
    "store": 0,
    "maintain": 0,
    "cleanup": 0,
    "refresh": 0,
}
"""What `get_stats()["errors"]` counts in a cache without faults."""


def without_addresses(value: object) -> str:
    """Return a parameter id without addresses: pytest-xdist compares ids between its workers."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


class FakeClock:
    """A clock that only moves when advanced."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class WordEmbedder:
    """
    Embedder that averages a fixed random direction per word: texts that share words are similar.

    It is fast and needs no model; a text of more than `window` words does not fit.
    """

    def __init__(self, *, identity: str = "words-1", dimension: int = 64, window: int = 50) -> None:
        self.identity = identity
        self.dimension = dimension
        self.window = window
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        self.embedded += texts
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Vector | None:
        words = text.lower().split()
        if len(words) > self.window:
            return None
        total = sum(_direction(word, self.dimension) for word in words)
        vector: Vector = (total / np.linalg.norm(total)).astype(np.float32)
        return vector


def _direction(word: str, dimension: int) -> NDArray[Any]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dimension)


@dataclass
class Row:
    """An entry in a policy model."""

    key: bytes
    uses: int = 0
    cost: float = 1.0
    rank: float = 0.0
    main: bool = False


@dataclass
class PolicyModel:
    """Reference model of an eviction policy on a list of rows, in order of storing."""

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


class FifoModel(PolicyModel):
    """First in, first out; the newest entry needs no special handling."""


class LruModel(PolicyModel):
    """Least recently used; rows in order of use."""

    def admit(self, key: bytes, cost: float) -> None:
        self.remove(key)
        self.rows.append(Row(key))

    def use(self, row: Row, times: int) -> None:
        self.rows.remove(row)
        self.rows.append(row)


class LfuModel(PolicyModel):
    """Least frequently used; the oldest of equals is evicted."""

    def leave(self) -> bytes:
        row = min(self.rows, key=lambda row: row.uses)  # the oldest of equals
        self.rows.remove(row)
        return row.key


@dataclass
class CostModel(PolicyModel):
    """Lowest rank first."""

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
class S3FifoModel(PolicyModel):
    """S3-FIFO; both queues in one list, in the order in which entries joined them."""

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


POLICY_MODELS: dict[str, type[PolicyModel]] = {
    "fifo": FifoModel,
    "lru": LruModel,
    "lfu": LfuModel,
    "cost": CostModel,
    "s3fifo": S3FifoModel,
}


def until(condition: Callable[[], object], *, seconds: float = 120.0) -> bool:
    """Poll a condition until it is true; return False if it is not true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def threads_started() -> Iterator[list[threading.Thread]]:
    """Collect the threads that this thread starts in a block.

    A count of all threads would be unreliable: threads of other tests may start or end meanwhile.
    """
    me, started = threading.get_ident(), list[threading.Thread]()
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        if threading.get_ident() == me:
            started.append(thread)
        start(thread)

    with mock.patch.object(threading.Thread, "start", noted):
        yield started
