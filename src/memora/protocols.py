"""The ports of the pipeline, which applications may implement, and their array types.

Protocols only. Methods take batches; the subject is positional-only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from memora.model import Content, Entry, EntryInfo, Match, Measures
    from memora.selection import Selection

Vector: TypeAlias = NDArray[np.float32]
"""Shape (dimension,), float32, unit length."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

ALL_TIMES = 0.0
"""Pass as `now` to a store's reads to include expired entries that it still holds."""


@runtime_checkable
class Embedder(Protocol):
    """A model that turns texts into unit vectors. Called from many threads at once."""

    @property
    def identity(self) -> str:
        """Identifies the model and every setting that changes its vectors.

        The store records it. A store with another identity is refused, never searched.
        """
        ...

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        ...

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector per text, in order.

        Return None for a text that the model cannot read in full: longer than its window, or with
        characters it does not know. Two texts that differ only in the unread part would get the
        same vector, so such a text is only matched exactly.

        Raises:
            EmbedderError: The model failed.
        """
        ...


class Verifier(Protocol):
    """A model that reads two queries at once. Called from many threads at once."""

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        """Return for each pair the log odds that one answer is right for both, in order.

        A pair is a stored query and the query of a lookup. NaN stands for no opinion, as on a pair
        that the model cannot read in full.
        """
        ...


class StoreReader(Protocol):
    """The read operations of a store. They change nothing and count no use."""

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        """Return the entry with this key and its content, in one read."""
        ...

    def get_in_memory(
        self, key: bytes, /, *, now: float
    ) -> tuple[Entry, Content] | Literal[False] | None:
        """Return the same as `get` if that takes only RAM and microseconds.

        Called in the event loop's thread. Return False if `get` would find no entry now, and None
        if only `get` can tell; a store may always return None.
        """
        ...

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        """Return the entry with this key, without reading its content."""
        ...

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        """Return the entry with this key, its content and its vector."""
        ...

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        """Return the k entries of one context nearest to a unit vector, best first.

        Args:
            vector: The query's vector.
            context: Fingerprint of the context; entries of other contexts are not considered.
            k: Maximum number of matches.
            now: Seconds since the epoch.
            since: Ignore entries stored earlier than this; seconds since the epoch.

        Returns:
            Matches with their exact cosine similarity, highest first.
        """
        ...

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        """Return the entries that meet all criteria, oldest first.

        Include entries that other processes stored before the call began and, if `now` is 0 (the
        epoch), expired entries that are still held.
        """
        ...


class Lease(Protocol):
    """Leadership of one key among all processes that share a store."""

    def release(self) -> None:
        """Release the leadership. Idempotent; the end of the process has the same effect."""
        ...


@runtime_checkable
class SharedStore(Protocol):
    """Additional operations of a store that several processes share."""

    def try_lock(self, key: bytes, /) -> Lease | None:
        """Become the leader of a key; None if another process leads it."""
        ...

    def refresh(self) -> None:
        """Load entries that other processes put before the call began."""
        ...


class Changes(NamedTuple):
    """Changes to a store's entries."""

    keys: set[bytes]
    """Keys of entries that were put, replaced or removed."""
    tags: bool
    """Whether entries were invalidated by their tags."""


@runtime_checkable
class WatchedStore(Protocol):
    """A store that reports changes made by other processes."""

    def changes(self) -> Changes | None:
        """Return the changes since the previous call; one caller at a time.

        The result is complete up to the start of the call. None means that anything may have
        changed: at the first call, and after changes were missed.

        Raises:
            StoreError: The changes cannot be read now; the next successful call returns None.
        """
        ...


@runtime_checkable
class MeasuredStore(Protocol):
    """A store that can report its size."""

    def measure(self) -> Measures:
        """Return the store's measures, without reading entries."""
        ...


class Store(StoreReader, Protocol):
    """Holds entries with their vectors and contents, by exact key.

    Writes are atomic and visible to the next read in any thread. No read returns an entry that has
    ended at `now` (its TTL and its stale TTL are over), or was replaced, invalidated by a tag, or
    removed. Called from many threads at once.
    """

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        """Add an entry, replacing any with the same key; without a vector it is never searched.

        Return once the entry is as durable as configured.
        """
        ...

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        """Add entries in order, as `put` does; all or none."""
        ...

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        """Record that an entry was served, for eviction and sliding TTLs."""
        ...

    def discard(self, entries: Iterable[Entry], /) -> int:
        """Delete entries that have not been replaced since; return how many were deleted.

        Return once the deletion is as durable as a `put`.
        """
        ...

    def invalidate_tag(self, tag: str, /) -> None:
        """Hide all entries put earlier with a tag from reads, at once; as durable as a `put`.

        O(1) in the number of entries; they are removed in the background.
        """
        ...

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        """Evict entries beyond the limits and do other due housekeeping; return how many left.

        Called after each `put`, so it must be cheap if nothing is due. Expired entries are removed
        before others are evicted.

        Raises:
            StoreError: Housekeeping failed, now or in the background since the last call.
        """
        ...

    def sweep(self, *, now: float, limit: int) -> int:
        """Remove up to `limit` entries that have ended or are invalidated; return how many."""
        ...

    def count(self) -> int:
        """Return the number of entries held, including expired ones."""
        ...

    def check(self) -> None:
        """Check that the store works; do nothing else.

        Raises:
            StoreError: A part does not work at present, background work included.
        """
        ...

    def close(self) -> None:
        """Release all resources. Idempotent."""
        ...


@runtime_checkable
class IndexedStore(Store, Protocol):
    """A store with a persistent index, in addition to the one in RAM."""

    def create_index(self, **options: Any) -> bool:
        """Rebuild the index; return False if there are too few entries for one.

        Raises:
            ArgumentError: An option is unknown or out of range.
        """
        ...

    def index_stats(self) -> dict[str, Any]:
        """Return `has_index` and any other statistics of the index."""
        ...
