"""Stand-ins for tests: a clock that is told the time, and an embedder that needs no model."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from memora.protocols import Vector


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class WordEmbedder:
    """
    The mean of one fixed random direction a word: texts that share words are similar.

    Fast and without a model; a text of more than `window` words does not fit.
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


def until(condition: Callable[[], object], *, seconds: float = 20.0) -> bool:
    """Look again and again until something is so; False where it does not become so in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
