"""What users may implement: the ports of the pipeline, and the array types they speak.

Protocols only. Five methods at most each; batch first; positional-only for the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from memora.model import Entry, Match

    Vector: TypeAlias = NDArray[np.float32]
    """Shape (dimension,), float32, unit length."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into unit vectors. Called from many threads at once."""

    @property
    def identity(self) -> str:
        """What made the vectors, down to anything that changes them.

        Recorded in the store; a store made under another identity is refused, never searched.
        """
        ...

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        ...

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector a text, in order.

        None stands for a text that does not fit the model's window: two long texts that differ
        only past the window would get the same vector, so such a text is matched exactly or not
        at all.

        Raises:
            EmbedderError: The model failed.
        """
        ...


class Store(Protocol):
    """Entries, their vectors and payloads, each under its exact key.

    Writes are atomic and visible to the next read of any thread. No read returns an entry that has
    expired at `now`, was replaced or was dropped. Called from many threads at once.
    """

    def get(self, key: str, /, *, now: float) -> Entry | None:
        """Return the entry stored under exactly this key."""
        ...

    def search(self, vector: Vector, /, *, context: str, k: int, now: float) -> list[Match]:
        """Return the k entries of one context nearest to a unit vector, best first.

        Args:
            vector: The query's vector.
            context: Fingerprint of the context; no other context's entries are considered.
            k: How many at most.
            now: Seconds since the epoch.

        Returns:
            Matches with their exact cosine similarity, highest first.
        """
        ...

    def payload(self, entry_id: str, /) -> bytes | None:
        """Return an entry's payload, or None where the entry is gone."""
        ...

    def put(self, entry: Entry, payload: bytes, /, *, vector: Vector | None) -> None:
        """Add an entry in place of any with the same key; a None vector is never searched."""
        ...

    def drop(self, entry_ids: Sequence[str], /) -> int:
        """Remove entries; return how many of them existed."""
        ...

    def oldest(self, n: int, /) -> list[str]:
        """Return the ids of the n entries stored longest ago, oldest first."""
        ...

    def count(self) -> int:
        """Return how many entries are held, expired ones included."""
        ...

    def close(self) -> None:
        """Release what was opened. Idempotent."""
        ...
