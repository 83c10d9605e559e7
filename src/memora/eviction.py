"""Eviction policies: which entries are removed when a limit is exceeded, by usage alone.

A policy knows keys, the order in which they were stored and used, how often, and what they cost to
compute. It has no clock: order is enough, and no clock change can upset it. It does no I/O and is
not thread-safe; guarded by the lock of the store that owns it.

The newest entry is never evicted first. A store evicts after it stores, while the literature evicts
before; a policy that starts entries at the bottom would otherwise refuse every new one. Such a
policy keeps the newest entry outside its order until the next one is stored, and evicts it only
when all other entries are gone.

A key that is stored again becomes the newest entry, but keeps its number of uses: popularity
belongs to the query, not to the answer.
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
# The most entries that one eviction of S3-FIFO moves, in some milliseconds. If all entries have
# been used since the last eviction, it would otherwise go round all of them three times.
_MAX_MOVES = 10_000


class _Usage(NamedTuple):
    """A policy's data on one entry; fields that the policy does not use have their defaults."""

    key: bytes
    uses: int = 0
    cost: float = 1.0
    in_main: bool = False
    """S3-FIFO: whether it was in the main queue."""


@runtime_checkable
class EvictionPolicy(Protocol):
    """Chooses the entries to evict. Unknown keys are no error: other processes may evict, too."""

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Note that an entry has been stored, new or in place of another of its key.

        Args:
            key: Its key.
            cost: Cost of computing it, in any unit that is the same for all entries.

        Raises:
            ArgumentError: The cost is negative or not finite.
        """
        ...

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Note that an entry has been served `times` times since the last call."""
        ...

    def remove(self, key: bytes, /) -> None:
        """Forget an entry that was discarded, has expired, or was evicted by another process.

        Only its own evictions change what a policy has learned; this does not.
        """
        ...

    def evict(self, n: int, /) -> list[bytes]:
        """Choose up to n entries to evict, first to go first, and forget them."""
        ...


class FIFO:
    """First in, first out: evict the entry stored longest ago, whatever its use. O(1)."""

    name: ClassVar[str] = "fifo"

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Move the entry to the end."""
        _check(cost)
        self._order[key] = None
        self._order.move_to_end(key)

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Do nothing."""

    def remove(self, key: bytes, /) -> None:
        """Forget an entry."""
        self._order.pop(key, None)

    def evict(self, n: int, /) -> list[bytes]:
        """Take the first n entries of the order."""
        return [self._order.popitem(last=False)[0] for _ in range(min(n, len(self._order)))]


class LRU(FIFO):
    """Least recently used: evict the entry stored or served longest ago. O(1)."""

    name: ClassVar[str] = "lru"

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
        """Move the entry to the end."""
        if times > 0 and key in self._order:
            self._order.move_to_end(key)


class _Sheltering:
    """Base of policies that keep the newest entry outside their order; a subclass has the order."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._newest: _Usage | None = None

    def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
        """Make the entry the newest; insert the former newest into the order."""
        _check(cost)
        newest = self._newest
        if newest is None or newest.key != key:
            known = self._drop(key)
            if newest is not None:
                self._insert(newest)
            newest = known or _Usage(key)
        self._newest = newest._replace(cost=cost)

    def touch(self, key: bytes, /, *, times: int = 1) -> None:
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
        """Take the first n entries of the order, the newest entry last."""
        chosen = [self._pop() for _ in range(min(n, self._size()))]
        if len(chosen) < n and self._newest is not None:
            chosen.append(self._newest.key)
            self._newest = None
        return chosen

    def _size(self) -> int:
        raise NotImplementedError

    def _insert(self, usage: _Usage) -> None:
        """Insert an entry into the order."""
        raise NotImplementedError

    def _use(self, key: bytes, times: int) -> None:
        raise NotImplementedError

    def _drop(self, key: bytes) -> _Usage | None:
        """Remove an entry from the order; return its data."""
        raise NotImplementedError

    def _pop(self) -> bytes:
        """Remove and return the first of the order, which is not empty."""
        raise NotImplementedError


class S3FIFO(_Sheltering):
    """Three queues: unused entries leave soon, used entries stay longer. Amortised O(1).

    A new entry joins the small queue, which holds a tenth of the entries. If it has been used when
    it gets to the front, it moves to the main queue; otherwise it is evicted, and its key is
    remembered as a ghost. A key that is stored while it is a ghost joins the main queue at once.
    There an entry that was used (at most three uses are counted) returns to the end of the queue,
    and its count drops by one.

    Source: Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP
    2023. Entries move to the main queue after one use, as in the authors' later description, not
    two: better on our streams (docs/decisions/0013). The queues adapt to the number of
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
        """Remember a key as a ghost; keep at most `limit`, the capacity of the main queue."""
        self._ghosts[key] = None
        while len(self._ghosts) > max(limit, 1):
            self._ghosts.popitem(last=False)


class _Node:
    """An entry in the heap."""

    __slots__ = ("at", "cost", "key", "rank", "since", "uses")

    def __init__(self, usage: _Usage, *, rank: float, since: int, at: int) -> None:
        self.key, self.uses, self.cost, _ = usage
        self.rank = rank  # the lowest is evicted first
        self.since = since  # position in the order of storing; of equal ranks, the oldest is first
        self.at = at  # position in the heap

    def before(self, other: _Node) -> bool:
        if self.rank == other.rank:
            return self.since < other.since
        return self.rank < other.rank


class _Ranked(_Sheltering):
    """Evict the lowest rank, of equal ranks the entry stored longest ago. O(log n), also at worst.

    A binary heap whose entries know their positions. A heap that is only put in order at evictions
    would be cheaper per use, but would stall for seconds at the first eviction after many uses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[bytes, _Node] = {}
        self._heap: list[_Node] = []
        self._stored = 0
        self._level = 0.0  # rank of the last evicted entry

    def _rank(self, uses: int, cost: float) -> float:
        """Return the rank; a use never lowers it."""
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
    """Least frequently used: evict the entry served least often, of equals the oldest. O(log n).

    A new entry starts at 0 uses, and counts are never lowered: an entry that was popular long ago
    stays.
    """

    name: ClassVar[str] = "lfu"

    def _rank(self, uses: int, cost: float) -> float:  # noqa: ARG002 - the same for all costs
        return uses


class CostAware(_Ranked):
    """Evict entries that were cheap to compute and are seldom used. O(log n).

    The rank of an entry is its cost times its uses (storing counts as one), plus the rank that the
    last eviction had when the entry was last used. So an entry that is not used any more is
    overtaken in time, however expensive it was.

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
"""Every policy by its name in the settings."""


def make_policy(name: str) -> EvictionPolicy:
    """Return an empty policy.

    Raises:
        ArgumentError: There is no policy of this name.
    """
    if name not in POLICIES:
        raise ArgumentError(f"eviction policy {name!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[name]()


def _check(cost: float) -> None:
    if not (isfinite(cost) and cost >= 0):
        raise ArgumentError(f"cost={cost!r}: expected a finite number, 0 or more")
