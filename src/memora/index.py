"""The vectors of one context in RAM: scanned if few, found through a graph if many.

All arithmetic on stored vectors is in this module.
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
"""Type of a vector's components in the graph.

The similarity is exact with each type; only recall differs, the share of searches that find the
nearest vector. int8 has the recall of bfloat16 (99.3 % among 100,000 real questions, 98.8 % among a
million), is faster, and takes 0.6 KB per vector instead of 1 KB."""

_CODES = {"float32": "f32", "bfloat16": "bf16", "int8": "i8"}

# Rows per block of the scan: OpenBLAS computes a product of this size on one thread. A larger one
# wakes a second thread, and sometimes waits milliseconds for it (0.2 ms against 8 ms at 10,000
# rows).
_BLOCK = 1024
# Up to this many rows the scan is as fast as the graph: 0.09 ms.
_GRAPH_AT = 4096
# Rows that may wait beside a graph: they add 5 us to a search.
_TAIL = 256
# Number of candidates that a search of the graph keeps. Measured with 100,000 and 1,000,000 real
# questions: recall 99.3 and 98.8 %; with 96 it is 99.5 and 99.1 %, in 4/3 of the time.
_EXPANSION = 64
# The least number of graph candidates whose cosine is computed; 16 finds no more.
_CANDIDATES = 8


class VectorIndex:
    """The vectors of one context: a flat, exact part, and a graph if there are many.

    A new vector joins the flat part, which is scanned. `index_pending` moves it to the graph later,
    at 0.1 to 1 ms per row, when the owner has time. Not thread-safe; guarded by the lock of the
    store that owns it.
    """

    __slots__ = ("_count", "_dtype", "_exact", "_graph", "_slots", "_vectors", "_worn")

    def __init__(
        self,
        dimension: int,
        *,
        exact: Callable[[int], Vector] | None = None,
        dtype: GraphType = "int8",
    ) -> None:
        self._exact = exact  # reads a slot's vector; None: the graph's vectors are kept in RAM
        self._dtype: GraphType = dtype
        self._vectors: NDArray[np.float32] = np.empty((0, dimension), np.float32)
        self._slots: NDArray[np.int64] = np.empty(0, np.int64)
        self._count = 0  # rows in use in these two arrays
        self._graph: _Graph | None = None
        self._worn: _Graph | None = None  # graph being emptied into the flat part

    def __len__(self) -> int:
        return self._count + sum(len(graph) for graph in self._graphs())

    def add(self, slot: int, vector: Vector) -> None:
        """Add a unit vector under an unused slot, 0 or more."""
        if self._count == len(self._slots):
            self._resize()
        self._vectors[self._count] = vector
        self._slots[self._count] = slot
        self._count += 1

    def extend(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add many vectors."""
        if self._count + len(slots) > len(self._slots):
            self._resize(len(slots))
        part = slice(self._count, self._count + len(slots))
        self._slots[part], self._vectors[part] = slots, vectors
        self._count = part.stop

    def remove(self, slot: int) -> None:
        """Remove a vector; an unknown slot (of an entry without a vector) is ignored."""
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
            k: The most pairs to return.
            alive: Returns a mask of the slots that may be returned, for an array of slots; None:
                all may.
        """
        found = self._scan(vector, k, alive)
        for graph in self._graphs():
            found += graph.search(vector, k, alive)
        found.sort(key=lambda pair: -pair[1])
        return found[:k]

    def vector(self, slot: int) -> Vector | None:
        """Return a copy of a slot's vector; None if it is missing or damaged."""
        for graph in self._graphs():
            if slot in graph:
                found = graph.exact(slot)
                return None if found is None else found.copy()
        return next((self._vectors[row].copy() for row in self._rows(slot)), None)

    @property
    def nbytes(self) -> int:
        """Bytes in RAM."""
        return (
            self._vectors.nbytes
            + self._slots.nbytes
            + sum(graph.nbytes for graph in self._graphs())
        )

    @property
    def all_indexed(self) -> bool:
        """Whether `index_pending` has nothing to do."""
        waiting = _GRAPH_AT if self._graph is None else _TAIL
        return self._worn is None and self._count <= waiting

    def index_pending(self, rows: int) -> None:
        """Move up to `rows` rows to the graph; until then searches scan them."""
        if self.all_indexed:
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
        slots = self._slots[:n]
        scores: NDArray[np.float32] = np.empty(n, np.float32)
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
        # An eighth more rows, not twice as many: there may be 100,000 contexts.
        rows = self._count + max(spare, self._count // 8)
        # No other array shares this memory now: every method drops its slices before it returns.
        self._vectors.resize((rows, self._vectors.shape[1]), refcheck=False)
        self._slots.resize(rows, refcheck=False)

    def _retire(self) -> None:
        """Drop empty graphs; start to empty a graph that is mostly removed rows."""
        if self._worn is None and self._graph is not None and self._graph.worn:
            self._worn, self._graph = self._graph, None
        if self._worn is not None and not len(self._worn):
            self._worn = None


class _Graph:
    """A graph that finds candidates by quantised vectors, with access to the exact vectors."""

    __slots__ = ("_exact", "_index", "_kept", "_peak", "_undrained")

    def __init__(
        self, dimension: int, exact: Callable[[int], Vector] | None, dtype: GraphType
    ) -> None:
        # If usearch (its numkong 7.8) is loaded before ONNX Runtime (1.32), importing the latter
        # crashes the process with a segmentation fault. The other order works.
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

        A search visits such places too, and their memory is not released. New rows reuse them, so a
        graph with as many additions as removals does not wear: recall and memory are stable over 12
        turnovers.
        """
        return 2 * len(self) < self._peak

    @property
    def nbytes(self) -> int:
        """Bytes in RAM, including the vectors that it keeps."""
        kept = len(self._kept) * self._index.ndim * np.dtype(np.float32).itemsize
        return int(self._index.memory_usage) + kept

    def exact(self, slot: int) -> Vector | None:
        """Return the float32 vector of a slot in the graph; None if its record is damaged."""
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
        """Remove a row; False if the slot has none."""
        self._kept.pop(slot, None)
        return bool(self._index.remove(slot, threads=1))

    def drain(self, rows: int) -> Iterator[tuple[int, Vector]]:
        """Yield up to `rows` rows, except damaged ones, and remove each afterwards."""
        if self._undrained is None:
            self._undrained = np.asarray(self._index.keys[:])  # once: takes 1 ms for 100,000 rows
        part, self._undrained = self._undrained[:rows], self._undrained[rows:]
        for slot in part.tolist():
            if slot in self and (vector := self.exact(slot)) is not None:
                yield slot, vector
            self.remove(slot)

    def search(self, vector: Vector, k: int, alive: Alive) -> list[tuple[int, float]]:
        """Return the exact cosines of k or more rows, if so many are alive."""
        wanted = max(_CANDIDATES, 2 * k)
        asked = max(_EXPANSION, wanted)  # as many as the search keeps anyway, as some may be dead
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
