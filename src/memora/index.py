"""The vectors of one context in RAM: scanned while few, proposed by a graph once many.

The only arithmetic on stored vectors.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from memora._onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from usearch.index import Index

    from memora.protocols import Vector

    Alive: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None

GraphType: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""How the graph holds a component of a vector.

The similarity is exact with any; what is lost is recall, the share of searches that find the
nearest. int8 finds it as often as bfloat16 (in 99.3 % of searches among 100,000 real questions, in
98.8 % among a million), sooner, in 0.6 KB a vector instead of 1 KB.
"""

_CODES = {"float32": "f32", "bfloat16": "bf16", "int8": "i8"}

# Rows a block of the scan: OpenBLAS runs a product of this size on one thread. Larger ones wake a
# second thread, and now and then wait milliseconds for it (0.2 ms against 8 ms at 10,000 rows).
_BLOCK = 1024
# Rows up to which the scan is as fast as the graph: 0.09 ms.
_GRAPH_AT = 4096
# Rows that may wait beside a graph: they cost a search 5 us.
_TAIL = 256
# Rows that a search of the graph keeps in view. Measured at 100,000 and 1,000,000 real questions:
# it finds the nearest in 99.3 and 98.8 % of searches; 96 in 99.5 and 99.1, in 4/3 of the time.
_EXPANSION = 64
# Rows of the graph whose cosine is computed, at least: with 16, none more is found.
_CANDIDATES = 8


class VectorIndex:
    """The vectors of one context: a flat, exact part, and a graph once there are many.

    A new vector joins the flat part, which is scanned. `settle` moves it to the graph, which costs
    0.1 to 1 ms a row, when the owner has time. Not thread-safe; the store that owns it holds its
    lock.
    """

    __slots__ = ("_count", "_dtype", "_exact", "_graph", "_slots", "_vectors", "_worn")

    def __init__(
        self,
        dimension: int,
        *,
        exact: Callable[[int], Vector] | None = None,
        dtype: GraphType = "int8",
    ) -> None:
        self._exact = exact  # reads the vector of a slot; without it, the graph's are kept in RAM
        self._dtype: GraphType = dtype
        self._vectors: NDArray[np.float32] = np.empty((0, dimension), np.float32)
        self._slots: NDArray[np.int64] = np.empty(0, np.int64)
        self._count = 0  # rows of the two that are in use
        self._graph: _Graph | None = None
        self._worn: _Graph | None = None  # is being emptied, through the flat part

    def __len__(self) -> int:
        return self._count + sum(len(graph) for graph in self._graphs())

    def add(self, slot: int, vector: Vector) -> None:
        """Add a unit vector under a slot, 0 or more, that is not in use."""
        if self._count == len(self._slots):
            self._resize()
        self._vectors[self._count] = vector
        self._slots[self._count] = slot
        self._count += 1

    def extend(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add many at once."""
        if self._count + len(slots) > len(self._slots):
            self._resize(len(slots))
        part = slice(self._count, self._count + len(slots))
        self._slots[part], self._vectors[part] = slots, vectors
        self._count = part.stop

    def remove(self, slot: int) -> None:
        """Forget a vector; an unknown slot (of one stored without a vector) is ignored."""
        for graph in self._graphs():
            if graph.remove(slot):
                self._retire()
                return
        for row in self._rows(slot):
            last = self._count - 1
            self._vectors[row] = self._vectors[last]
            self._slots[row] = self._slots[last]
            self._truncate(last)

    def search(self, vector: Vector, *, k: int, alive: Alive) -> list[tuple[int, float]]:
        """Return up to k (slot, exact cosine) pairs, most similar first.

        Args:
            vector: A unit vector.
            k: How many at most.
            alive: Tells of an array of slots which may be returned; None: all of them.
        """
        found = self._scan(vector, k, alive)
        for graph in self._graphs():
            found += graph.search(vector, k, alive)
        found.sort(key=lambda pair: -pair[1])
        return found[:k]

    def vector(self, slot: int) -> Vector | None:
        """Return a copy of the vector of a slot; None where it is not here, or damaged."""
        for graph in self._graphs():
            if slot in graph:
                found = graph.exact(slot)
                return None if found is None else found.copy()
        return next((self._vectors[row].copy() for row in self._rows(slot)), None)

    @property
    def nbytes(self) -> int:
        """What it takes in RAM."""
        return (
            self._vectors.nbytes
            + self._slots.nbytes
            + sum(graph.nbytes for graph in self._graphs())
        )

    @property
    def settled(self) -> bool:
        """Whether there is nothing for `settle` to do."""
        waiting = _GRAPH_AT if self._graph is None else _TAIL
        return self._worn is None and self._count <= waiting

    def settle(self, rows: int) -> None:
        """Move up to so many rows to the graph; until then searches find them by the scan."""
        if self.settled:
            return
        if self._worn is not None:
            for slot, vector in self._worn.drain(rows):
                self.add(slot, vector)
            self._retire()
        if self._graph is None and len(self) > _GRAPH_AT:
            self._graph = _Graph(self._vectors.shape[1], self._exact, self._dtype)
        if self._graph is not None:
            start = max(0, self._count - rows)
            self._graph.add(self._slots[start : self._count], self._vectors[start : self._count])
            self._truncate(start)

    def _graphs(self) -> list[_Graph]:
        return [graph for graph in (self._graph, self._worn) if graph is not None]

    def _rows(self, slot: int) -> NDArray[np.intp]:
        return np.flatnonzero(self._slots[: self._count] == slot)

    def _scan(self, vector: Vector, k: int, alive: Alive) -> list[tuple[int, float]]:
        n = self._count
        slots, scores = self._slots[:n], np.empty(n, np.float32)
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            np.dot(self._vectors[start:stop], vector, out=scores[start:stop])
        if alive is not None:
            mask = alive(slots)
            slots, scores = slots[mask], scores[mask]
        if k < len(scores):
            best = np.argpartition(scores, -k)[-k:]
            slots, scores = slots[best], scores[best]
        return list(zip(slots.tolist(), scores.tolist(), strict=True))

    def _truncate(self, count: int) -> None:
        self._count = count
        if 2 * count < len(self._slots) - 8:
            self._resize()

    def _resize(self, spare: int = 1) -> None:
        # Spare rows are an eighth, not as many again: there may be 100,000 contexts.
        rows = self._count + max(spare, self._count // 8)
        # No array shares this memory: every method that slices it is done with the slices.
        self._vectors.resize((rows, self._vectors.shape[1]), refcheck=False)
        self._slots.resize(rows, refcheck=False)

    def _retire(self) -> None:
        """Drop empty graphs; let one that mostly holds removed rows be emptied."""
        if self._worn is None and self._graph is not None and self._graph.worn:
            self._worn, self._graph = self._graph, None
        if self._worn is not None and not len(self._worn):
            self._worn = None


class _Graph:
    """A graph that proposes rows by quantised vectors, and the way to their exact ones."""

    __slots__ = ("_exact", "_index", "_kept", "_peak", "_undrained")

    def __init__(
        self, dimension: int, exact: Callable[[int], Vector] | None, dtype: GraphType
    ) -> None:
        # usearch (its numkong 7.8), loaded before ONNX Runtime (1.32), ends the process at the
        # import of the latter: a segmentation fault. The other order works.
        with suppress(ImportError):
            import_onnxruntime()
        from usearch.index import Index  # noqa: PLC0415 - most processes never need it

        self._index: Index = Index(
            ndim=dimension,
            metric="ip",
            dtype=_CODES[dtype],
            connectivity=16,
            expansion_search=_EXPANSION,
        )
        self._exact = exact
        self._kept: dict[int, Vector] = {}  # stays empty with `exact`
        self._peak = 0
        self._undrained: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, slot: int) -> bool:
        return bool(self._index.contains(slot))

    @property
    def worn(self) -> bool:
        """Whether most places in the graph hold a removed row.

        A search walks over them, and their memory is not given back. New rows take them, so that
        as many additions as removals wear nothing: recall and memory stay over 12 turnovers.
        """
        return 2 * len(self) < self._peak

    @property
    def nbytes(self) -> int:
        """What it takes in RAM, with the vectors that it keeps."""
        kept = len(self._kept) * self._index.ndim * np.dtype(np.float32).itemsize
        return int(self._index.memory_usage) + kept

    def exact(self, slot: int) -> Vector | None:
        """Return the float32 vector of a slot that is held; None where its record is damaged."""
        if self._exact is None:
            return self._kept[slot]
        try:
            return self._exact(slot)
        except Exception:  # noqa: BLE001 - one unreadable record must not fail the others
            return None

    def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        self._index.add(slots, vectors, threads=1)
        self._peak = max(self._peak, len(self))
        if self._exact is None:
            self._kept.update(zip(slots.tolist(), map(np.copy, vectors), strict=True))

    def remove(self, slot: int) -> bool:
        """Forget a row; False if there is none of this slot."""
        self._kept.pop(slot, None)
        return bool(self._index.remove(slot, threads=1))

    def drain(self, rows: int) -> Iterator[tuple[int, Vector]]:
        """Yield up to so many rows, and remove each afterwards; without those that are damaged."""
        if self._undrained is None:
            self._undrained = np.asarray(self._index.keys[:])  # once: 1 ms for 100,000
        part, self._undrained = self._undrained[:rows], self._undrained[rows:]
        for slot in part.tolist():
            if slot in self and (vector := self.exact(slot)) is not None:
                yield slot, vector
            self.remove(slot)

    def search(self, vector: Vector, k: int, alive: Alive) -> list[tuple[int, float]]:
        """Return the exact cosines of k rows or more, where so many are alive."""
        wanted = max(_CANDIDATES, 2 * k)
        asked = max(_EXPANSION, wanted)  # as many as are in view anyway: some may be dead
        while True:
            matches = self._index.search(vector, asked, threads=1)
            slots = matches.keys.astype(np.int64)
            if alive is not None:
                slots = slots[alive(slots)]
            if len(slots) >= wanted or asked >= len(self):
                break
            asked *= 4
        pairs = ((slot, self.exact(slot)) for slot in slots[:wanted].tolist())
        return [(slot, float(exact @ vector)) for slot, exact in pairs if exact is not None]
