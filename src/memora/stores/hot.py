"""Entries in RAM: what every store answers lookups from.

Columns by slot, not an object an entry: a hundred thousand entries take what their vectors and
texts take, and little more.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memora.index import VectorIndex
from memora.model import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from memora.index import GraphType
    from memora.model import Context
    from memora.protocols import Vector


class Place(NamedTuple):
    """Where the record of an entry lies."""

    segment: int
    offset: int
    length: int


NOWHERE = Place(0, 0, 0)


@dataclass(slots=True)
class _Home:
    """One context, and the vectors in it."""

    context: Context
    index: VectorIndex
    entries: int = 0


class HotTable:
    """The newest entry of every key, by slot: a small number that is used again.

    Not thread-safe; the store that owns it holds its lock.

    Args:
        dimension: Length of the vectors.
        exact: Reads the vector of a slot from where it is stored, so that large contexts need
            not keep it in RAM; None keeps it.
        graph: Type of the vectors in the graphs of large contexts.
    """

    def __init__(
        self,
        dimension: int,
        *,
        exact: Callable[[int], Vector] | None = None,
        graph: GraphType = "int8",
    ) -> None:
        self._dimension, self._exact = dimension, exact
        self._graph: GraphType = graph
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # by key, by stamp
        self._free: list[int] = []
        self._homes: dict[int, _Home] = {}
        self._numbers: dict[str, int] = {}  # fingerprint -> number of its home
        self._next_number = 0
        self._unsettled: dict[int, VectorIndex] = {}  # by number of the home
        self._expiring = 0  # entries with an end: where there are none, no search looks at ends
        # Columns.
        self._keys: list[bytes] = []
        self._queries: list[str] = []
        self._ids = bytearray()
        self._indexed = bytearray()  # 1: the vector is in the context's index
        self._known = bytearray()  # 1: the table may have a row of this key, whatever the place
        self._home = array("i")
        self._stamp = array("q")
        self._created = array("d")
        self._expires = array("d")
        self._segment = array("i")  # -1 in a free slot
        self._offset = array("q")
        self._length = array("q")
        self.live: defaultdict[int, int] = defaultdict(int)  # bytes of live records, by segment
        self.live_bytes = 0  # of all

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, key: bytes) -> int | None:
        """Return the slot of a key."""
        return self._slots.get(key)

    def entry(self, slot: int) -> Entry:
        """Return the entry in a slot."""
        expires = self._expires[slot]
        return Entry(
            id=self._id(slot),
            key=self._keys[slot],
            query=self._queries[slot],
            context=self._homes[self._home[slot]].context,
            created_at=self._created[slot],
            expires_at=None if expires == inf else expires,
        )

    def alive(self, slot: int, now: float) -> bool:
        """Tell whether the entry in a slot has not expired."""
        return self._expires[slot] > now

    def key(self, slot: int) -> bytes:
        """Return the key of a slot; empty where it is free."""
        return self._keys[slot]

    def known(self, slot: int) -> bool:
        """Tell whether the table may have a row of this key, even if this record is not flushed."""
        return bool(self._known[slot])

    def mark(self, slot: int | None = None) -> None:
        """Note that the table may have a row of a slot's key; by default of every slot's."""
        if slot is None:
            self._known = bytearray(b"\1") * len(self._known)
        else:
            self._known[slot] = 1

    def holds(self, slot: int, stamp: int) -> bool:
        """Tell whether a slot holds what was put with a stamp."""
        return self._stamp[slot] == stamp and self._segment[slot] >= 0

    def stamp(self, slot: int) -> int:
        """Return the stamp of the operation that put the entry."""
        return self._stamp[slot]

    def stamp_of(self, key: bytes) -> int:
        """Return the stamp of the entry of a key that is there."""
        return self._stamp[self._slots[key]]

    def place(self, slot: int) -> Place:
        """Return where the record of the entry lies."""
        return Place(self._segment[slot], self._offset[slot], self._length[slot])

    def put(self, entry: Entry, vector: Vector | None, *, stamp: int, place: Place) -> int | None:
        """Add an entry in place of an older one of its key; return its slot, None if not newer.

        The same entry again has only another place; two of one stamp are told apart by their ids.
        """
        if (old := self._slots.get(entry.key)) is not None:
            if self._stamp[old] > stamp:
                return None
            if self._stamp[old] == stamp and self._id(old) >= entry.id:
                if self._id(old) == entry.id:
                    self.move(old, place)
                return None
            self.remove(entry.key)
        slot = self._allocate()
        number, home = self._home_of(entry.context)
        self._slots[entry.key] = slot
        self._known[slot] = old is not None
        self._keys[slot] = entry.key
        self._queries[slot] = entry.query
        self._ids[16 * slot : 16 * slot + 16] = bytes.fromhex(entry.id)
        self._home[slot] = number
        self._stamp[slot] = stamp
        self._created[slot] = entry.created_at
        self._expires[slot] = inf if entry.expires_at is None else entry.expires_at
        self._expiring += entry.expires_at is not None
        self._segment[slot], self._offset[slot], self._length[slot] = place
        self._count_live(place.segment, place.length)
        home.entries += 1
        if vector is not None:
            self.add_vector(slot, vector)
        return slot

    def remove(self, key: bytes) -> int | None:
        """Forget the entry of a key; return the slot that is free now."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return None
        number = self._home[slot]
        home = self._homes[number]
        self.drop_vector(slot)
        home.entries -= 1
        if not home.entries:
            del self._homes[number], self._numbers[home.context.fingerprint]
            self._unsettled.pop(number, None)
        self._expiring -= self._expires[slot] != inf
        self._count_live(self._segment[slot], -self._length[slot])
        self._keys[slot], self._queries[slot], self._segment[slot] = b"", "", -1
        self._free.append(slot)
        return slot

    def oldest(self, n: int) -> list[bytes]:
        """Return the keys of the n entries stored longest ago."""
        return list(islice(self._slots, n))

    def reorder(self, stamp: int) -> None:
        """Sort the entries from a stamp on, where some have been added late."""
        late = []
        for key, slot in reversed(self._slots.items()):
            if self._stamp[slot] < stamp:
                break
            late.append((self._stamp[slot], key))
        for _, key in sorted(late):
            self._slots.move_to_end(key)

    def search(
        self, vector: Vector, *, context: str, k: int, now: float
    ) -> list[tuple[int, float]]:
        """Return up to k (slot, cosine) pairs of a context, not expired at `now`, best first."""
        if (number := self._numbers.get(context)) is None:
            return []
        ends = np.frombuffer(self._expires) if self._expiring else None
        alive = None if ends is None else lambda slots: ends[slots] > now
        return self._homes[number].index.search(vector, k=k, alive=alive)

    def add_vector(self, slot: int, vector: Vector) -> None:
        """Make an entry searchable, unless it is."""
        if not self._indexed[slot]:
            self._indexed[slot] = 1
            self._homes[self._home[slot]].index.add(slot, vector)
            self._look_at(slot)

    def add_vectors(self, slots: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Make entries searchable, except those that are."""
        rows = [row for row, slot in enumerate(slots) if not self._indexed[slot]]
        homes: dict[int, list[int]] = {}
        for row in rows:
            homes.setdefault(self._home[slots[row]], []).append(row)
        for number, members in homes.items():
            chosen = [slots[row] for row in members]
            self._homes[number].index.extend(np.array(chosen, np.int64), vectors[members])
            for slot in chosen:
                self._indexed[slot] = 1
            self._look_at(chosen[0])

    def drop_vector(self, slot: int) -> None:
        """Forget the vector of an entry, which stays."""
        if self._indexed[slot]:
            self._indexed[slot] = 0
            self._homes[self._home[slot]].index.remove(slot)
            self._look_at(slot)

    def unsettled(self) -> VectorIndex | None:
        """Return an index in which rows wait to be moved to the graph; None where none is."""
        for number, index in list(self._unsettled.items()):
            if not index.settled:
                return index
            del self._unsettled[number]
        return None

    def _look_at(self, slot: int) -> None:
        number = self._home[slot]
        if not (index := self._homes[number].index).settled:
            self._unsettled[number] = index

    def indexed(self) -> list[int]:
        """Return the slots whose vectors are in RAM, or in a graph."""
        found: list[int] = np.flatnonzero(np.frombuffer(self._indexed, np.uint8)).tolist()
        return found

    def slots(self) -> list[int]:
        """Return all slots in use."""
        return list(self._slots.values())

    def since(self, segment: int, offset: int) -> list[int]:
        """Return the slots whose records lie in a segment, at an offset or later."""
        segments = np.frombuffer(self._segment, np.int32)
        offsets = np.frombuffer(self._offset, np.int64)
        found: list[int] = np.flatnonzero((segments == segment) & (offsets >= offset)).tolist()
        return found

    def load(  # noqa: PLR0913 - the columns
        self,
        *,
        keys: list[bytes],
        ids: bytes,
        queries: list[str],
        contexts: Sequence[Context],
        homes: NDArray[np.int32],
        stamps: NDArray[np.int64],
        created: NDArray[np.float64],
        expires: NDArray[np.float64],
        segments: NDArray[np.int32],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Fill an empty table, by column, in the order of storing; vectors come later.

        Args:
            keys: Identities, each once.
            ids: 16 bytes an entry.
            queries: Texts.
            contexts: Each context once.
            homes: Positions in `contexts`.
            stamps: Stamps, ascending.
            created: Seconds since the epoch.
            expires: Seconds since the epoch; infinite never.
            segments: Where the records lie.
            offsets: The same.
            lengths: The same.
        """
        for context in contexts:
            self._home_of(context)
        for number, entries in enumerate(np.bincount(homes, minlength=len(contexts))):
            self._homes[number].entries = int(entries)
        self._slots = OrderedDict(zip(keys, range(len(keys)), strict=True))
        self._keys, self._queries, self._ids = keys, queries, bytearray(ids)
        self._indexed = bytearray(len(keys))
        self._known = bytearray(b"\1") * len(keys)
        self._home.frombytes(homes.tobytes())
        self._stamp.frombytes(stamps.tobytes())
        self._created.frombytes(created.tobytes())
        self._expires.frombytes(expires.tobytes())
        self._segment.frombytes(segments.tobytes())
        self._offset.frombytes(offsets.tobytes())
        self._length.frombytes(lengths.tobytes())
        self._expiring = int(np.count_nonzero(np.isfinite(expires)))
        sums = np.bincount(segments, weights=lengths)
        for segment, size in enumerate(sums):
            self._count_live(segment, int(size))

    def move(self, slot: int, place: Place) -> None:
        """Note that the record of an entry lies elsewhere now."""
        self._known[slot] = 1
        self._count_live(self._segment[slot], -self._length[slot])
        self._segment[slot], self._offset[slot], self._length[slot] = place
        self._count_live(place.segment, place.length)

    def _count_live(self, segment: int, size: int) -> None:
        self.live_bytes += size
        self.live[segment] += size
        if not self.live[segment]:
            del self.live[segment]

    def _id(self, slot: int) -> str:
        return self._ids[16 * slot : 16 * slot + 16].hex()

    def _allocate(self) -> int:
        if self._free:
            return self._free.pop()
        for column in (self._home, self._stamp, self._created, self._expires):
            column.append(0)
        for column in (self._segment, self._offset, self._length):
            column.append(0)
        self._ids += bytes(16)
        self._indexed.append(0)
        self._known.append(0)
        self._keys.append(b"")
        self._queries.append("")
        return len(self._keys) - 1

    def _home_of(self, context: Context) -> tuple[int, _Home]:
        if (number := self._numbers.get(context.fingerprint)) is None:
            number = self._next_number
            self._next_number += 1
            self._numbers[context.fingerprint] = number
            index = VectorIndex(self._dimension, exact=self._exact, dtype=self._graph)
            self._homes[number] = _Home(context, index)
        return number, self._homes[number]
