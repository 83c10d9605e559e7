"""What users may implement: the ports of the pipeline, and the array types they speak.

Protocols only; batch first; positional-only for the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from memora.model import Content, Entry, Holding, Match, Measures
    from memora.selection import Selection

Vector: TypeAlias = NDArray[np.float32]
"""Shape (dimension,), float32, unit length."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

ALL_TIMES = 0.0
"""As `now` of a store's reads: also what has ended, and is still held."""


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

        None stands for a text that the model cannot read in full: one beyond its window, or with
        characters it does not know. Two texts that differ only in what is not read would get the
        same vector, so such a text is matched exactly or not at all.

        Raises:
            EmbedderError: The model failed.
        """
        ...


class StoreReader(Protocol):
    """What a store tells of its entries; nothing is changed by it, no use is counted."""

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        """Return the entry stored under exactly this key, and its content, in one read."""
        ...

    def glance(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        """Return what `get` does, if that needs nothing but RAM and microseconds; else None.

        The event loop calls it. A store that cannot tell returns None.
        """
        ...

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        """Return the entry stored under exactly this key; its content is not read."""
        ...

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        """Return all that was put under exactly this key."""
        ...

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        """Return the k entries of one context nearest to a unit vector, best first.

        Args:
            vector: The query's vector.
            context: Fingerprint of the context; no other context's entries are considered.
            k: How many at most.
            now: Seconds since the epoch.
            since: Entries stored earlier are passed over; seconds since the epoch.

        Returns:
            Matches with their exact cosine similarity, highest first.
        """
        ...

    def select(self, selection: Selection, /, *, now: float) -> list[Holding]:
        """Return the entries that meet all criteria, the longest stored first.

        Also what other processes had stored when the call began. With `now` 0, at the epoch, the
        ended ones that are still held are among them.
        """
        ...


class Lease(Protocol):
    """The lead of one key among all who share a store."""

    def release(self) -> None:
        """Let others lead. Idempotent; the end of the process does the same."""
        ...


@runtime_checkable
class SharedStore(Protocol):
    """What a store offers whose entries several processes share, beside all else."""

    def try_lead(self, key: bytes, /) -> Lease | None:
        """Lead a key, unless another does."""
        ...

    def refresh(self) -> None:
        """Take in what others had put when the call began."""
        ...


class Changes(NamedTuple):
    """What has become of a store's entries."""

    keys: set[bytes]
    """Of entries that were put, replaced or removed."""
    tags: bool
    """Whether entries were outdated by their tags."""


@runtime_checkable
class WatchedStore(Protocol):
    """What a store offers that hears of what others do to its entries."""

    def changes(self) -> Changes | None:
        """Return what has changed between the last call, of which there is one at a time, and this.

        Complete for what was done before the call began. None where anything may have: at the first
        call, and after what was missed.

        Raises:
            StoreError: It cannot be told now, and the next call that can returns None.
        """
        ...


@runtime_checkable
class MeasuredStore(Protocol):
    """What a store offers that can tell how large it is, beside all else."""

    def measure(self) -> Measures:
        """Return its measures; no entry is read."""
        ...


class Store(StoreReader, Protocol):
    """Entries, their vectors and contents, each under its exact key.

    Writes are atomic and visible to the next read of any thread. No read returns an entry that has
    ended at `now` (expired, and its time as a stale one over), was replaced, outdated by its tags,
    or has left. Called from many threads at once.
    """

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        """Add an entry in place of any with the same key; a None vector is never searched.

        Returns once the entry is as durable as the store was asked to make it.
        """
        ...

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        """Add entries as by `put`, all or none, in their order."""
        ...

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        """Take note that an entry has been served: who is evicted, and sliding ends, follow."""
        ...

    def discard(self, entries: Iterable[Entry], /) -> int:
        """Delete entries, unless they have been replaced since; return how many.

        Returns once that is as durable as a `put`.
        """
        ...

    def outdate(self, tag: str, /) -> None:
        """Have all entries of a tag that were put before miss, at once; as durable as a `put`.

        O(1), however many they are; they are removed in the background.
        """
        ...

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        """Evict what is beyond the limits, and do other due housekeeping.

        Called after each `put`, so cheap where nothing is due. Ended entries leave before others.
        Returns how many entries left.

        Raises:
            StoreError: Also for what has failed in the background since the last call.
        """
        ...

    def sweep(self, *, now: float, limit: int) -> int:
        """Remove up to so many entries that have ended, or been outdated; return how many."""
        ...

    def count(self) -> int:
        """Return how many entries are held, ended ones included."""
        ...

    def check(self) -> None:
        """Do nothing where all is well.

        Raises:
            StoreError: What does not work at present, in the background too.
        """
        ...

    def close(self) -> None:
        """Release what was opened. Idempotent."""
        ...


@runtime_checkable
class IndexedStore(Store, Protocol):
    """A store with an index on its own medium, beside what it keeps in RAM."""

    def create_index(self, **options: Any) -> bool:
        """Build the index anew; False where there are too few entries for one.

        Raises:
            ArgumentError: An option is unknown or out of range.
        """
        ...

    def index_stats(self) -> dict[str, Any]:
        """Return `has_index`, and what else is known of the index."""
        ...
