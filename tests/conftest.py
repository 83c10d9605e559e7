"""Shared fixtures: a clock that is told the time, and an embedder that needs no model."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.protocols import Vector

settings.register_profile(
    "memora", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("memora")


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


def _direction(word: str, dimension: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dimension)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture(autouse=True)
def no_memora_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("MEMORA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing in the suite may reach out, least of all for a model."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = address[0] if isinstance(address, tuple) else address
            if host not in {"127.0.0.1", "::1", "localhost"}:
                raise OSError(f"the test suite has no network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield
