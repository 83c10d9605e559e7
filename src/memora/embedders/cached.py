"""A cache of recent vectors around an embedder, which also drops unembeddable characters."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from memora._characters import embeddable
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import outside
from memora.errors import ConfigError, DimensionMismatchError, EmbedderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memora.protocols import Embedder, Vector

_SHORT = 1_000  # characters
_TOLERANCE = 1e-3  # allowed deviation of a vector's length from 1; float16 rounding stays within it


def _key(text: str) -> str | bytes:
    """Return the cache key of a text; for a long text a hash, which is shorter."""
    return text if len(text) <= _SHORT else sha256(text.encode("utf-8", "surrogatepass")).digest()


class CachedEmbedder:
    """Cache of recently used texts' vectors, so that a lookup and its store embed once."""

    def __init__(
        self,
        inner: Embedder,
        size: int,
        *,
        timer: Callable[[], AbstractContextManager[None]] = nullcontext,
        warmed: Callable[[float], object] = float,
    ) -> None:
        """Wrap an embedder.

        Args:
            inner: Embeds the texts that are not in the cache.
            size: Number of vectors in the cache; 0 disables it.
            timer: Context manager around each call of the inner embedder.
            warmed: Called with the duration in seconds of the inner embedder's `warm_up`, if it has
                one, before its first call.

        Raises:
            ConfigError: The size is negative.
        """
        if size < 0:
            raise ConfigError(f"size must be 0 or more, got {size}")
        self._inner = inner
        self._recent = LRUCache["str | bytes", "Vector | None"](size)
        self._timer, self._warmed = timer, warmed
        self._warm = not hasattr(inner, "warm_up")
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """Create the locks."""
        # Reading an LRU cache moves entries, so it needs the lock. The model runs outside the lock:
        # two threads may embed the same text at the same time, but neither waits for the other.
        self._lock = threading.Lock()
        self._warming = threading.Lock()  # held while a thread loads the model

    @property
    def identity(self) -> str:
        """The inner embedder's identity."""
        return self._inner.identity

    @property
    def dimension(self) -> int:
        """The inner embedder's dimension."""
        return self._inner.dimension

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one read-only unit vector per text, in order.

        The result is None if the inner embedder returns None, or if the text has invisible
        characters. The inner embedder gets texts without emoji; see `memora._characters`.

        Raises:
            EmbedderError: The inner embedder failed.
        """
        plain = [embeddable(text) for text in texts]
        keys = {text: _key(text) for text in plain if text is not None}
        with self._lock:
            known = {text: self._recent[key] for text, key in keys.items() if key in self._recent}
        if missing := [text for text in keys if text not in known]:
            known |= self._embed(missing)
        return [None if text is None else known[text] for text in plain]

    def _embed(self, texts: list[str]) -> dict[str, Vector | None]:
        if not self._warm:
            self._warm_up()
        with self._timer(), outside:  # an application's embedder may use a cache itself
            vectors = self._inner.embed(texts)
        if len(vectors) != len(texts):
            raise EmbedderError(
                f"{self.identity} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        fresh = dict(zip(texts, map(self._checked, vectors), strict=True))
        if self._recent.maxsize:
            with self._lock:
                # Do not cache None: it is mostly for long texts, and quickly found again.
                self._recent.update({_key(t): v for t, v in fresh.items() if v is not None})
        return fresh

    def _warm_up(self) -> None:
        """Load the model once per process, outside the timer, as its time is no query latency."""
        with self._warming:
            if not self._warm:
                started = time.perf_counter()
                self._inner.warm_up()  # type: ignore[attr-defined] # see `__init__`
                self._warmed(time.perf_counter() - started)
                self._warm = True

    def _checked(self, vector: Vector | None) -> Vector | None:
        """Validate a vector, as an application's embedder may return a wrong one; copy it.

        The copy is read-only, because it is shared, and does not keep a whole batch in memory.
        """
        if vector is None:
            return None
        copy = np.array(vector, dtype=np.float32)
        if copy.shape != (self.dimension,):
            raise DimensionMismatchError(
                f"{self.identity} returned a vector of shape {copy.shape}, not ({self.dimension},)"
            )
        length = float(np.linalg.norm(copy))
        if not abs(length - 1) < _TOLERANCE:  # also true for NaN
            raise EmbedderError(
                f"{self.identity} returned a vector of length {length:.3g}; an Embedder returns "
                "unit vectors (a plain function need not: see FunctionEmbedder)"
            )
        copy.setflags(write=False)
        return copy
