"""Which entries leave when there are too many: policies over the usage of entries, and no more.

A policy knows keys, the order in which they were stored and used, how often, and what they cost to
compute. It knows no clock: order is enough, and no clock that jumps can upset it. It does no I/O
and is not thread-safe: the lock of the store that owns it guards it.

What was stored last is never the first to go. A store evicts after it has stored, the literature
before; a policy that starts entries at the bottom would otherwise refuse every new one. So in
such a policy the newest entry stands beside the order until the next one comes, and leaves only
when all others have left.

Storing a key again makes it the newest entry, and how often it was used stays known: it is the
question that is popular, not the answer.
"""

from __future__ import annotations

from collections import OrderedDict
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_FREQUENCY = 3  # S3-FIFO: two bits
_SMALL_SHARE = 10  # S3-FIFO: a tenth of the entries
# Entries that one eviction of S3-FIFO moves at most, some milliseconds: where all have been used
# since the last one, it would otherwise go round all of them three times.
_MAX_MOVES = 10_000


class _Usage(NamedTuple):
    """What a policy knows of one entry; what it has no use for stays at its default."""

    key: bytes
    uses: int = 0
    cost: float = 1.0
    in_main: bool = False
    """Of S3-FIFO: whether it was in the main queue."""


@runtime_checkable
class EvictionPolicy(Protocol):
    """Chooses who leaves. A key that it does not know is no error: others may evict, too."""

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Take note of an entry that has been stored, new or in place of another of its key.

        Args:
            key: Its identity.
            cost: What computing it took, in any unit, the same for all.

        Raises:
            ArgumentError: The cost is negative or not finite.
        """
        ...

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Take note that an entry has been served, `times` times since it was last said."""
        ...

    def remove(self, key: bytes, /) -> None:
        """Forget an entry that has left for another reason: withdrawn, expired, evicted elsewhere.

        What a policy learns from its own evictions it does not learn from this.
        """
        ...

    def evict(self, n: int, /) -> list[bytes]:
        """Choose up to n entries, first to go first, and forget them."""
        ...


class FIFO:
    """First in, first out: the entry stored longest ago leaves, whatever its use. O(1)."""

    name: ClassVar[str] = "fifo"

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Put the entry last."""
        _check(cost)
        self._order[key] = None
        self._order.move_to_end(key)

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Change nothing."""

    def remove(self, key: bytes, /) -> None:
        """Forget an entry."""
        self._order.pop(key, None)

    def evict(self, n: int, /) -> list[bytes]:
        """Take the first in order."""
        return [self._order.popitem(last=False)[0] for _ in range(min(n, len(self._order)))]


class LRU(FIFO):
    """Least recently used: the entry that was stored or served longest ago leaves. O(1)."""

    name: ClassVar[str] = "lru"

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Put the entry last."""
        if times > 0 and key in self._order:
            self._order.move_to_end(key)


class _Sheltering:
    """A policy that keeps the newest entry beside its order; the subclass keeps the order."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._newest: _Usage | None = None

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Make the entry the newest; what was the newest takes its place in the order."""
        _check(cost)
        newest = self._newest
        if newest is None or newest.key != key:
            known = self._drop(key)
            if newest is not None:
                self._insert(newest)
            newest = known or _Usage(key)
        self._newest = newest._replace(cost=cost)

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Count uses."""
        newest = self._newest
        if times <= 0:
            return
        if newest is not None and newest.key == key:
            self._newest = newest._replace(uses=newest.uses + times)
        else:
            self._use(key, times)

    def remove(self, key: bytes, /) -> None:
        """Forget an entry."""
        if self._newest is not None and self._newest.key == key:
            self._newest = None
        else:
            self._drop(key)

    def evict(self, n: int, /) -> list[bytes]:
        """Take the first in order, and the newest last."""
        chosen = [self._pop() for _ in range(min(n, self._size()))]
        if len(chosen) < n and self._newest is not None:
            chosen.append(self._newest.key)
            self._newest = None
        return chosen

    def _size(self) -> int:
        raise NotImplementedError

    def _insert(self, usage: _Usage) -> None:
        """Give a new entry its place in the order."""
        raise NotImplementedError

    def _use(self, key: bytes, times: int) -> None:
        raise NotImplementedError

    def _drop(self, key: bytes) -> _Usage | None:
        """Forget an entry; return what was known of it."""
        raise NotImplementedError

    def _pop(self) -> bytes:
        """Forget the first in order, of one at least."""
        raise NotImplementedError


class S3FIFO(_Sheltering):
    """Three queues: what is not used soon leaves soon, what was used stays longer. Amortised O(1).

    A new entry joins the small queue, which has a tenth of the entries. Used by the time that it
    gets to the front, it moves to the main queue; otherwise it leaves, and its key is remembered
    among the ghosts. What is stored while it is a ghost joins the main queue at once. There an
    entry that was used (three uses are counted at most) goes round again, at the price of one use.

    Source: Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP
    2023. Entries move to the main queue after one use, as in the authors' later description, not
    two: better on our streams (benchmarks/results/eviction.md). The queues follow the number of
    entries at each eviction, as no capacity is given.
    """

    name: ClassVar[str] = "s3fifo"

    def __init__(self) -> None:
        super().__init__()
        self._small: OrderedDict[bytes, int] = OrderedDict()  # key -> uses
        self._main: OrderedDict[bytes, int] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()

    def _size(self) -> int:
        return len(self._small) + len(self._main)

    def _insert(self, usage: _Usage) -> None:
        was_ghost = self._ghosts.pop(usage.key, True) is None
        queue = self._main if was_ghost or usage.in_main else self._small
        queue[usage.key] = min(usage.uses, _MAX_FREQUENCY)

    def _use(self, key: bytes, times: int) -> None:
        for queue in (self._small, self._main):
            if (uses := queue.get(key)) is not None:
                queue[key] = min(uses + times, _MAX_FREQUENCY)

    def _drop(self, key: bytes) -> _Usage | None:
        if (uses := self._small.pop(key, None)) is not None:
            return _Usage(key, uses)
        if (uses := self._main.pop(key, None)) is not None:
            return _Usage(key, uses, in_main=True)
        return None

    def _pop(self) -> bytes:
        size = self._size()
        share = max(size // _SMALL_SHARE, 1)
        for _ in range(_MAX_MOVES):
            if len(self._small) >= share or not self._main:
                key, uses = self._small.popitem(last=False)
                if not uses:
                    self._remember(key, size - share)
                    return key
                self._main[key] = 0
            else:
                key, uses = self._main.popitem(last=False)
                if not uses:
                    return key
                self._main[key] = uses - 1
        return (self._main or self._small).popitem(last=False)[0]

    def _remember(self, key: bytes, limit: int) -> None:
        """Keep as many ghosts as the main queue has room for entries."""
        self._ghosts[key] = None
        while len(self._ghosts) > max(limit, 1):
            self._ghosts.popitem(last=False)


class _Node:
    """An entry in the heap."""

    __slots__ = ("at", "cost", "key", "rank", "since", "uses")

    def __init__(self, usage: _Usage, *, rank: float, since: int, at: int) -> None:
        self.key, self.uses, self.cost, _ = usage
        self.rank = rank  # the lowest leaves next
        self.since = since  # position in the order of storing: ties go to the oldest
        self.at = at  # position in the heap

    def before(self, other: _Node) -> bool:
        if self.rank == other.rank:
            return self.since < other.since
        return self.rank < other.rank


class _Ranked(_Sheltering):
    """The lowest rank leaves, of equals the one stored longest ago. O(log n), also at worst.

    A binary heap whose entries know their positions. One that is put in order at evictions only
    would be cheaper per use, and stand still for seconds at the first eviction after many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[bytes, _Node] = {}
        self._heap: list[_Node] = []
        self._stored = 0
        self._level = 0.0  # the rank of what has left last

    def _rank(self, uses: int, cost: float) -> float:
        """Return a number that no use makes smaller."""
        raise NotImplementedError

    def _size(self) -> int:
        return len(self._heap)

    def _insert(self, usage: _Usage) -> None:
        rank = self._rank(usage.uses, usage.cost)
        node = _Node(usage, rank=rank, since=self._stored, at=len(self._heap))
        self._stored += 1
        self._nodes[usage.key] = node
        self._heap.append(node)
        self._rise(node)

    def _use(self, key: bytes, times: int) -> None:
        if (node := self._nodes.get(key)) is not None:
            node.uses += times
            node.rank = self._rank(node.uses, node.cost)
            self._sink(node)

    def _drop(self, key: bytes) -> _Usage | None:
        node = self._nodes.pop(key, None)
        if node is None:
            return None
        last = self._heap.pop()
        if last is not node:
            last.at = node.at
            self._heap[last.at] = last
            self._rise(last)
            self._sink(last)
        return _Usage(node.key, node.uses, node.cost)

    def _pop(self) -> bytes:
        first = self._heap[0]
        self._drop(first.key)
        self._level = first.rank
        return first.key

    def _rise(self, node: _Node) -> None:
        heap, at = self._heap, node.at
        while at and node.before(parent := heap[(at - 1) // 2]):
            heap[at], parent.at, at = parent, at, parent.at
        heap[at], node.at = node, at

    def _sink(self, node: _Node) -> None:
        heap, at = self._heap, node.at
        size = len(heap)
        while (below := 2 * at + 1) < size:
            child = heap[below]
            if below + 1 < size and heap[below + 1].before(child):
                child = heap[below + 1]
            if not child.before(node):
                break
            heap[at], child.at, at = child, at, child.at
        heap[at], node.at = node, at


class LFU(_Ranked):
    """Least frequently used: the entry served least often leaves, of equals the oldest. O(log n).

    A new entry starts at 0 uses, and counts are never lowered: what was popular long ago stays.
    """

    name: ClassVar[str] = "lfu"

    def _rank(self, uses: int, cost: float) -> float:  # noqa: ARG002 - the same for all costs
        return uses


class CostAware(_Ranked):
    """What was cheap to compute and is seldom used leaves first. O(log n).

    The rank of an entry is its cost times its uses (storing counts as one), plus the rank that the
    last eviction had when the entry was last used. So what is not used any more is overtaken in
    time, however dear it was.

    Source: GreedyDual-Size-Frequency, for entries of one size. Cherkasova: Improving WWW proxies
    performance with Greedy-Dual-Size-Frequency caching policy, HP Laboratories 1998; after Young:
    The k-server dual and loose competitiveness for paging, 1994, and Cao, Irani: Cost-aware WWW
    proxy caching algorithms, USITS 1997.
    """

    name: ClassVar[str] = "cost"

    def _rank(self, uses: int, cost: float) -> float:
        return self._level + (1 + uses) * cost


POLICIES: dict[str, Callable[[], EvictionPolicy]] = {
    policy.name: policy for policy in (FIFO, LRU, LFU, S3FIFO, CostAware)
}
"""Every policy, by its name in the settings."""


def make_policy(name: str) -> EvictionPolicy:
    """Return an empty policy.

    Raises:
        ArgumentError: There is none of this name.
    """
    if name not in POLICIES:
        raise ArgumentError(f"eviction policy {name!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[name]()


def _check(cost: float) -> None:
    if not (isfinite(cost) and cost >= 0):
        raise ArgumentError(f"cost={cost!r}: expected a finite number, 0 or more")
