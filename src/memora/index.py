"""The vectors of one context in RAM, searched exactly. The only arithmetic on stored vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memora.protocols import Vector

# Rows a block of the scan: OpenBLAS runs a product of this size on one thread. Larger ones wake a
# second thread, and now and then wait milliseconds for it (0.2 ms against 8 ms at 10,000 rows).
_BLOCK = 1024


class FlatIndex:
    """Unit vectors by id, with their expiry; a scan, so the cosine is exact.

    Rows are contiguous: a removed one is filled with the last. Not thread-safe; the store that
    owns it holds its lock.
    """

    def __init__(self, dimension: int) -> None:
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors: NDArray[np.float32] = np.empty((4, dimension), np.float32)
        self._expires: NDArray[np.float64] = np.empty(4, np.float64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, entry_id: str, vector: Vector, *, expires_at: float | None) -> None:
        """Add a vector under a new id."""
        row = len(self._ids)
        if row == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._expires = np.concatenate([self._expires, np.empty_like(self._expires)])
        self._vectors[row] = vector
        self._expires[row] = np.inf if expires_at is None else expires_at
        self._rows[entry_id] = row
        self._ids.append(entry_id)

    def remove(self, entry_id: str) -> None:
        """Forget a vector; an unknown id (one stored without a vector) is ignored."""
        row = self._rows.pop(entry_id, None)
        if row is None:
            return
        last = self._ids.pop()
        if last != entry_id:
            self._ids[row] = last
            self._rows[last] = row
            self._vectors[row] = self._vectors[len(self._ids)]
            self._expires[row] = self._expires[len(self._ids)]

    def search(self, vector: Vector, *, k: int, now: float) -> list[tuple[str, float]]:
        """Return up to k (id, cosine) pairs not expired at `now`, most similar first."""
        n = len(self._ids)
        scores = np.empty(n, np.float32)
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            np.dot(self._vectors[start:stop], vector, out=scores[start:stop])
        scores[self._expires[:n] <= now] = -np.inf
        best = np.argpartition(-scores, k - 1)[:k] if k < n else np.arange(n)
        ranked = sorted(((float(scores[row]), self._ids[row]) for row in best), reverse=True)
        return [(entry_id, score) for score, entry_id in ranked if score > -np.inf]
