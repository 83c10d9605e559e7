"""An embedder that remembers the most recent vectors."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from memora._fork import renew_after_fork
from memora._reentry import outside
from memora.errors import ConfigError, DimensionMismatchError, EmbedderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memora.protocols import Embedder, Vector

_TOLERANCE = 1e-3  # of a vector's length, which float16 rounding stays within


class CachedEmbedder:
    """Remembers the texts used last, so that a lookup and the store after it embed once."""

    def __init__(
        self,
        inner: Embedder,
        size: int,
        *,
        timer: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Wrap an embedder.

        Args:
            inner: Embeds the texts that are not remembered.
            size: How many texts are remembered; 0 remembers none.
            timer: Entered around each call of the inner embedder.

        Raises:
            ConfigError: The size is negative.
        """
        if size < 0:
            raise ConfigError(f"size must be 0 or more, got {size}")
        self._inner = inner
        self._recent = LRUCache[str, "Vector | None"](size)
        self._timer = timer
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock."""
        # An LRU cache moves entries even when read. The model runs outside the lock: two threads
        # may embed one text at once, and neither waits for the other's.
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """The inner embedder's."""
        return self._inner.identity

    @property
    def dimension(self) -> int:
        """The inner embedder's."""
        return self._inner.dimension

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one read-only unit vector a text, in order; None where the inner embedder does.

        Raises:
            EmbedderError: The inner embedder failed.
        """
        with self._lock:
            known = {text: self._recent[text] for text in texts if text in self._recent}
        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            known |= self._embed(missing)
        return [known[text] for text in texts]

    def _embed(self, texts: list[str]) -> dict[str, Vector | None]:
        with self._timer(), outside:  # the application's own may use a cache
            vectors = self._inner.embed(texts)
        if len(vectors) != len(texts):
            raise EmbedderError(
                f"{self.identity} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        fresh = dict(zip(texts, map(self._checked, vectors), strict=True))
        if self._recent.maxsize:
            with self._lock:
                # None is for long texts, mostly, which would take more room than vectors do.
                self._recent.update({t: v for t, v in fresh.items() if v is not None})
        return fresh

    def _checked(self, vector: Vector | None) -> Vector | None:
        """Hold an application's embedder to its word: a similarity is only as true as its vectors.

        The copy is read-only, because it is shared, and keeps no whole batch in memory.
        """
        if vector is None:
            return None
        copy = np.array(vector, dtype=np.float32)
        if copy.shape != (self.dimension,):
            raise DimensionMismatchError(
                f"{self.identity} returned a vector of shape {copy.shape}, not ({self.dimension},)"
            )
        length = float(np.linalg.norm(copy))
        if not abs(length - 1) < _TOLERANCE:  # NaN too
            raise EmbedderError(
                f"{self.identity} returned a vector of length {length:.3g}; an Embedder returns "
                "unit vectors (a plain function need not: see FunctionEmbedder)"
            )
        copy.setflags(write=False)
        return copy
