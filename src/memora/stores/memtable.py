"""Entries in RAM, from which the stores in memory, on disk and in a bucket answer lookups.

Fields are kept in columns by slot, not in one object per entry, so that 100,000 entries take
little more memory than their vectors and texts.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memora.index import VectorIndex
from memora.model import Entry, EntryInfo
from memora.stores._expiry import ExpiryQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence

    from numpy.typing import NDArray

    from memora.eviction import EvictionPolicy
    from memora.index import GraphType
    from memora.model import Context
    from memora.protocols import Vector
    from memora.selection import Selection


class Place(NamedTuple):
    """Position of an entry's record."""

    segment: int
    offset: int
    length: int


class Uses(NamedTuple):
    """Usage of an entry."""

    times: int
    last: float
    """Time of the last use, in seconds since the epoch."""
    last_fresh: float = -inf
    """Time of the last use before the entry expired. Only such a use extends a sliding TTL; one
    while the entry is stale does not."""

    def after(self, earlier: Uses | None) -> Uses:
        """Return the sum of these uses and earlier ones."""
        if earlier is None:
            return self
        return Uses(
            earlier.times + self.times,
            max(earlier.last, self.last),
            max(earlier.last_fresh, self.last_fresh),
        )


class Rest(NamedTuple):
    """The fields that few entries have: see `Entry`."""

    stale_seconds: float
    sliding_seconds: float | None
    tags: tuple[str, ...]
    cost: float


@dataclass(slots=True)
class _Home:
    """One context and the index of its vectors."""

    context: Context
    index: VectorIndex
    entries: int = 0


class Memtable:
    """The newest entry of every key, by slot: a small number that is reused.

    Not thread-safe; guarded by the lock of the store that owns it.

    Args:
        dimension: Length of the vectors.
        exact: Reads the vector of a slot from its record, so that large contexts need not keep
            vectors in RAM; None keeps them.
        graph: Type of the vectors in the graphs of large contexts.
        late_seconds: Longest delay until a use by another process is read. Entries with a sliding
            TTL are kept for so long after they expire.
    """

    def __init__(
        self,
        dimension: int,
        *,
        exact: Callable[[int], Vector] | None = None,
        graph: GraphType = "int8",
        late_seconds: float = 0.0,
    ) -> None:
        self._dimension, self._exact = dimension, exact
        self._policy: EvictionPolicy | None = None  # None: first in, first out
        self._late_seconds = late_seconds
        self._graph: GraphType = graph
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # by key, ordered by stamp
        self._free: list[int] = []
        self._homes: dict[int, _Home] = {}
        self._numbers: dict[str, int] = {}  # fingerprint -> number of its home
        self._next_number = 0
        self._unsettled: dict[int, VectorIndex] = {}  # by home number
        self._expiring = 0  # entries with an end; if 0, no search checks ends
        self._queue = ExpiryQueue()
        # Fields that few entries have, by slot.
        self._tags: dict[int, tuple[str, ...]] = {}
        self._stale: dict[int, float] = {}
        self._sliding: dict[int, float] = {}
        self._costs: dict[int, float] = {}
        self._tagged: defaultdict[str, set[int]] = defaultdict(set)
        self._epochs: dict[str, int] = {}  # tag -> stamp up to which its entries are outdated
        # Tags that still have outdated entries -> the slots that `ended` has to check, None until
        # it first does. If there are none, no search checks tags.
        self._outdated: dict[str, list[int] | None] = {}
        self._uses: dict[int, Uses] = {}
        # Columns, by slot.
        self._keys: list[bytes] = []
        self._queries: list[str] = []
        self._ids = bytearray()
        self._indexed = bytearray()  # 1: the vector is in the context's index
        self._known = bytearray()  # 1: the table may have a row of this key, whatever the place
        self._home = array("i")
        self._stamp = array("q")
        self._created = array("d")
        self._expires = array("d")
        self._ends = array("d")  # end of the stale period, after which the entry is never served
        self._segment = array("i")  # -1 in a free slot
        self._offset = array("q")
        self._length = array("q")
        self._check = array("Q")  # CRC-32 of the vector; 0 if there is none
        self.live: defaultdict[int, int] = defaultdict(int)  # bytes of live records, by segment
        self.live_bytes = 0  # total

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, key: bytes) -> int | None:
        """Return the slot of a key; None if there is no entry."""
        return self._slots.get(key)

    def find(self, key: bytes, now: float) -> int | None:
        """Return the slot of a key; None if there is no live entry."""
        slot = self._slots.get(key)
        return slot if slot is not None and self.alive(slot, now) else None

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
            stale_seconds=self._stale.get(slot, 0.0),
            sliding_seconds=self._sliding.get(slot),
            tags=self._tags.get(slot, ()),
            cost=self._costs.get(slot, 1.0),
        )

    def info(self, slot: int) -> EntryInfo:
        """Return the entry in a slot with its usage."""
        uses = self._uses.get(slot)
        return EntryInfo(
            entry=self.entry(slot),
            uses=uses.times if uses else 0,
            last_used_at=uses.last if uses else None,
            bytes=self._length[slot],
        )

    def infos(self, found: Iterable[tuple[int, int]], now: float) -> list[EntryInfo]:
        """Return the infos of those (slot, stamp) pairs of `select` that are still live."""
        return [
            self.info(slot)
            for slot, stamp in found
            if self.holds(slot, stamp) and self.alive(slot, now)
        ]

    def alive(self, slot: int, now: float) -> bool:
        """Return whether the entry in a slot has neither expired nor been outdated."""
        return self._ends[slot] > now and not self._is_outdated(slot)

    def _is_outdated(self, slot: int) -> bool:
        if not self._outdated or slot not in self._tags:
            return False
        stamp = self._stamp[slot]
        return any(self._epochs.get(tag, -1) >= stamp for tag in self._tags[slot])

    def key(self, slot: int) -> bytes:
        """Return the key of a slot; empty if the slot is free."""
        return self._keys[slot]

    def known(self, slot: int) -> bool:
        """Return whether the table may have a row of this key, even if not of this entry."""
        return bool(self._known[slot])

    def mark(self, slot: int | None = None) -> None:
        """Note that the table may have a row of the slot's key, or by default of every key."""
        if slot is None:
            self._known = bytearray(b"\1") * len(self._known)
        else:
            self._known[slot] = 1

    def holds(self, slot: int, stamp: int) -> bool:
        """Return whether a slot holds the entry put with this stamp."""
        return self._stamp[slot] == stamp and self._segment[slot] >= 0

    def stamp(self, slot: int) -> int:
        """Return the stamp of the operation that put the entry."""
        return self._stamp[slot]

    def stamps(self, keys: Iterable[bytes]) -> list[tuple[bytes, int]]:
        """Return the keys that have entries, with their stamps."""
        return [(key, self._stamp[self._slots[key]]) for key in keys if key in self._slots]

    def stored_as(self, entry: Entry) -> bool:
        """Return whether this very entry, not another of its key, is stored."""
        slot = self._slots.get(entry.key)
        return slot is not None and self._id(slot) == entry.id

    def place(self, slot: int) -> Place:
        """Return the position of the entry's record."""
        return Place(self._segment[slot], self._offset[slot], self._length[slot])

    def check(self, slot: int) -> int:
        """Return the checksum of a slot's vector, as it was stored."""
        return self._check[slot]

    def put(
        self,
        entry: Entry,
        vector: Vector | None,
        *,
        stamp: int,
        place: Place,
        check: int = 0,
    ) -> int | None:
        """Store an entry in place of an older one of its key; return its slot, None if not newer.

        If the same entry is put again, only its place changes. Of two entries with one stamp, the
        higher id wins.
        """
        if (old := self._slots.get(entry.key)) is not None:
            if self._stamp[old] > stamp:
                return None
            if self._stamp[old] == stamp and self._id(old) >= entry.id:
                if self._id(old) == entry.id:
                    self.move(old, place)
                return None
        uses = None if old is None else self._uses.get(old)
        if old is not None:
            self._take_out(entry.key)
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
        self._set_end(slot, entry)
        self._note_rest(slot, entry)
        if uses is not None:  # usage belongs to the query, not to the answer
            self._uses[slot] = uses
        if self._policy is not None:
            self._policy.admit(entry.key, cost=entry.cost)
        self._segment[slot], self._offset[slot], self._length[slot] = place
        self._check[slot] = check
        self._count_live(place.segment, place.length)
        home.entries += 1
        if vector is not None:
            self.add_vector(slot, vector)
        return slot

    def _set_end(self, slot: int, entry: Entry) -> None:
        self._expires[slot] = inf if entry.expires_at is None else entry.expires_at
        self._ends[slot] = self._expires[slot] + entry.stale_seconds
        if entry.expires_at is not None:
            self._expiring += 1
            self._queue.add(slot, self._ends[slot])
            if self._queue.overgrown(len(self._slots)):
                self._queue.load(np.frombuffer(self._ends))

    def _note_rest(self, slot: int, entry: Entry | Rest) -> None:
        if entry.stale_seconds:
            self._stale[slot] = entry.stale_seconds
        if entry.sliding_seconds is not None:
            self._sliding[slot] = entry.sliding_seconds
        if entry.cost != 1.0:
            self._costs[slot] = entry.cost
        if entry.tags:
            self._tag(slot, entry.tags)

    def _tag(self, slot: int, tags: tuple[str, ...]) -> None:
        self._tags[slot] = tags
        for tag in tags:
            self._tagged[tag].add(slot)
            # Put by another process, and read late.
            if self._epochs.get(tag, -1) >= self._stamp[slot]:
                self._outdated.setdefault(tag, None)

    def remove(self, key: bytes) -> int | None:
        """Remove the entry of a key; return the slot, which is now free."""
        if self._policy is not None:
            self._policy.remove(key)
        return self._take_out(key)

    def _take_out(self, key: bytes) -> int | None:
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
        self._ends[slot] = inf
        for tag in self._tags.pop(slot, ()):
            self._tagged[tag].discard(slot)
            if not self._tagged[tag]:
                del self._tagged[tag]
        for column in (self._stale, self._sliding, self._costs, self._uses):
            column.pop(slot, None)
        self._free.append(slot)
        return slot

    def touch(self, key: bytes, *, now: float, times: int) -> Uses | None:
        """Count uses of an entry at `now`; return them, None if there is no entry."""
        slot = self._slots.get(key)
        fresh = slot is not None and now < self._expires[slot]
        uses = Uses(times, now, now if fresh else -inf)
        return uses if self.use(key, uses) else None

    def use(self, key: bytes, uses: Uses) -> bool:
        """Count uses of an entry; False if there is no entry."""
        slot = self._slots.get(key)
        if slot is None or uses.times <= 0:
            return False
        self._uses[slot] = uses.after(self._uses.get(slot))
        if self._policy is not None:
            self._policy.touch(key, times=uses.times)
        sliding = self._sliding.get(slot)
        if sliding is not None:
            # The queue still holds the former end; `ended` then finds the new one.
            self._expires[slot] = max(self._expires[slot], uses.last_fresh + sliding)
            self._ends[slot] = self._expires[slot] + self._stale.get(slot, 0.0)
        return True

    def forget_uses(self, key: bytes) -> None:
        """Reset the usage of an entry; only before a policy is set."""
        if (slot := self._slots.get(key)) is not None:
            self._uses.pop(slot, None)

    def used(self) -> list[bytes]:
        """Return the keys of the entries that have been used."""
        return [self._keys[slot] for slot in self._uses]

    def uses(self, key: bytes) -> Uses | None:
        """Return the usage of an entry."""
        slot = self._slots.get(key)
        return None if slot is None else self._uses.get(slot)

    def outdate(self, tag: str, stamp: int) -> None:
        """Make the entries of a tag up to a stamp miss. O(1)."""
        if self._epochs.get(tag, -1) < stamp:
            self._epochs[tag] = stamp
            if tag in self._tagged:
                self._outdated[tag] = None

    @property
    def outdated(self) -> KeysView[str]:
        """The tags that may still have outdated entries; a view, not a copy."""
        return self._outdated.keys()

    def surplus(self, max_entries: int | None, max_bytes: int | None) -> int:
        """Return the least number of entries to evict for the limits; None is no limit."""
        if max_entries is not None and len(self) > max_entries:
            return len(self) - max_entries
        return int(max_bytes is not None and self.live_bytes > max_bytes and len(self) > 0)

    def victims(self, n: int) -> list[bytes]:
        """Return the keys of up to n entries to evict, first to go first.

        The policy forgets the entries it chooses; `keep` returns those that were not removed.
        """
        chosen = [] if self._policy is None else self._policy.evict(n)
        # A policy of the application may name keys that are not stored; the limit is kept
        # nevertheless.
        return [key for key in chosen if key in self._slots] or list(islice(self._slots, n))

    def keep(self, keys: Iterable[bytes]) -> None:
        """Return entries that could not be removed to the policy and the expiry queue."""
        for key in keys:
            if (slot := self._slots.get(key)) is None:
                continue
            if self._policy is not None:
                self._policy.admit(key, cost=self._costs.get(slot, 1.0))
            if self._ends[slot] < inf:
                self._queue.add(slot, self._ends[slot])

    def ended(self, now: float, limit: int, *, present: bool = False) -> list[bytes]:
        """Return the keys of up to `limit` entries that have expired or are outdated.

        Those that expired in the current second are included only if `present`; see
        `ExpiryQueue.due`.
        """
        found: dict[bytes, None] = {}
        later: list[tuple[int, float]] = []
        while len(found) < limit and (
            due := self._queue.due(now, limit - len(found), present=present)
        ):
            for slot in due:
                end = self._ends[slot] + (self._late_seconds if slot in self._sliding else 0.0)
                if end <= now:
                    found[self._keys[slot]] = None
                elif end < inf:
                    later.append((slot, end))
        for slot, end in later:
            self._queue.add(slot, end)
        for tag in list(self._outdated):
            if len(found) >= limit:
                break
            for slot in self._outdated_of(tag, limit - len(found)):
                found[self._keys[slot]] = None
        return list(found)

    def _outdated_of(self, tag: str, limit: int) -> list[int]:
        epoch, tagged = self._epochs[tag], self._tagged.get(tag, set())
        slots = self._outdated[tag]
        if not slots:
            # Searched again, as the slots of the last round may not have been removed. If none are
            # left, the tag needs no check any more.
            slots = [slot for slot in tagged if self._stamp[slot] <= epoch]
            if not slots:
                del self._outdated[tag]
                return []
            self._outdated[tag] = slots
        taken, slots[-limit:] = slots[-limit:], []
        return [slot for slot in taken if slot in tagged and self._stamp[slot] <= epoch]

    def reorder(self, stamp: int) -> None:
        """Restore the order by stamp after entries from this stamp on were added late."""
        late = []
        for key, slot in reversed(self._slots.items()):
            if self._stamp[slot] < stamp:
                break
            late.append((self._stamp[slot], key))
        for _, key in sorted(late):
            self._slots.move_to_end(key)

    def search(
        self, vector: Vector, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[tuple[int, float]]:
        """Return up to k (slot, cosine) pairs of live entries of a context, best first."""
        if (number := self._numbers.get(context)) is None:
            return []
        alive = None
        if self._expiring or self._outdated or since > -inf:
            alive = partial(self._which, now=now, since=since)
        return self._homes[number].index.search(vector, k=k, alive=alive)

    def _which(self, slots: NDArray[np.int64], *, now: float, since: float) -> NDArray[np.bool_]:
        """Return a mask of the slots that are live and were stored at or after `since`."""
        found: NDArray[np.bool_] = np.frombuffer(self._ends)[slots] > now
        if since > -inf:
            found &= np.frombuffer(self._created)[slots] >= since
        if self._outdated:
            current = (not self._is_outdated(slot) for slot in slots.tolist())
            found &= np.fromiter(current, np.bool_, len(slots))
        return found

    def select(self, selection: Selection) -> list[tuple[int, int]]:
        """Return (slot, stamp) of all entries that meet the criteria, oldest first."""
        if selection.key is not None:
            few = [slot for slot in [self._slots.get(selection.key)] if slot is not None]
        elif selection.entry_id is not None:
            try:
                id_ = bytes.fromhex(selection.entry_id)
            except ValueError:
                id_ = b""
            if len(id_) != 16:  # noqa: PLR2004 - not an id
                return []
            same = np.flatnonzero(np.frombuffer(self._ids, "V16") == np.frombuffer(id_, "V16"))
            few = [slot for slot in same.tolist() if self._segment[slot] >= 0]
        elif selection.tags:
            few = list(set().union(*(self._tagged.get(tag, ()) for tag in selection.tags)))
        else:
            return self._select_all(selection)
        found = [slot for slot in few if selection.takes(self.entry(slot))]
        return sorted(((slot, self._stamp[slot]) for slot in found), key=lambda pair: pair[1])

    def _select_all(self, selection: Selection) -> list[tuple[int, int]]:
        """Select by columns: an object for each of a million entries would take seconds."""
        mask = np.frombuffer(self._segment, np.int32) >= 0
        mask &= np.frombuffer(self._created) < selection.before
        if selection.fingerprint is not None or selection.contains is not None:
            homes = [n for n, home in self._homes.items() if selection.takes_context(home.context)]
            mask &= np.isin(np.frombuffer(self._home, np.int32), homes)
        slots = np.flatnonzero(mask)
        stamps = np.frombuffer(self._stamp, np.int64)[slots]
        order = np.argsort(stamps, kind="stable")
        found = list(zip(slots[order].tolist(), stamps[order].tolist(), strict=True))
        if selection.query is not None:
            found = [pair for pair in found if self._queries[pair[0]] == selection.query]
        return found

    def vector(self, slot: int) -> Vector | None:
        """Return the vector of a slot; None if it has none or it is not in RAM."""
        return self._homes[self._home[slot]].index.vector(slot) if self._indexed[slot] else None

    def add_vector(self, slot: int, vector: Vector) -> None:
        """Make an entry searchable, if it is not yet."""
        if not self._indexed[slot]:
            self._indexed[slot] = 1
            self._homes[self._home[slot]].index.add(slot, vector)
            self._look_at(slot)

    def add_vectors(self, slots: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Make entries searchable; skip those that are already."""
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
        """Remove the vector of an entry, but keep the entry."""
        if self._indexed[slot]:
            self._indexed[slot] = 0
            self._homes[self._home[slot]].index.remove(slot)
            self._look_at(slot)

    @property
    def index_bytes(self) -> int:
        """Bytes of the indexes in RAM; takes about 0.3 ms per thousand contexts."""
        return sum(home.index.nbytes for home in self._homes.values())

    def unsettled(self) -> VectorIndex | None:
        """Return an index that has rows to be moved to its graph; None if there is none."""
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
        """Return the slots whose vectors are in RAM or in a graph."""
        found: list[int] = np.flatnonzero(np.frombuffer(self._indexed, np.uint8)).tolist()
        return found

    def slots(self) -> list[int]:
        """Return all slots in use."""
        return list(self._slots.values())

    def since(self, segment: int, offset: int) -> list[int]:
        """Return the slots whose records lie in a segment at an offset or later."""
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
        rest: Mapping[int, Rest],
        segments: NDArray[np.int32],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
        checks: NDArray[np.uint64],
    ) -> None:
        """Fill an empty table by column, in the order of storing; vectors are added later.

        Args:
            keys: Unique keys.
            ids: 16 bytes per entry.
            queries: Query texts.
            contexts: Each context once.
            homes: Positions in `contexts`.
            stamps: Stamps, ascending.
            created: Seconds since the epoch.
            expires: Seconds since the epoch; infinity for never.
            rest: The fields that few entries have, by position.
            segments: Segment numbers of the records.
            offsets: Their offsets.
            lengths: Their lengths in bytes.
            checks: Checksums of the vectors, see `check`.
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
        self._ends.frombytes(expires.tobytes())
        self._segment.frombytes(segments.tobytes())
        self._offset.frombytes(offsets.tobytes())
        self._length.frombytes(lengths.tobytes())
        self._check.frombytes(checks.tobytes())
        self._expiring = int(np.count_nonzero(np.isfinite(expires)))
        for slot, entry in rest.items():
            self._ends[slot] += entry.stale_seconds
            self._note_rest(slot, entry)
        self._queue.load(np.frombuffer(self._ends))
        sums = np.bincount(segments, weights=lengths)
        for segment, size in enumerate(sums):
            self._count_live(segment, int(size))

    def follow_policy(self, policy: EvictionPolicy | None) -> None:
        """Set an empty eviction policy, and replay the stored entries and uses to it in order."""
        self._policy = policy
        if policy is None:
            return
        stored, used = range(2)  # order of events at the same time
        events = [(self._created[slot], stored, slot) for slot in self._slots.values()]
        events += [
            (max(uses.last, self._created[slot]), used, slot) for slot, uses in self._uses.items()
        ]
        # Ties stay in the order of storing.
        for _, event, slot in sorted(events, key=lambda event: event[:2]):
            if event == stored:
                policy.admit(self._keys[slot], cost=self._costs.get(slot, 1.0))
            else:
                policy.touch(self._keys[slot], times=self._uses[slot].times)

    def move(self, slot: int, place: Place) -> None:
        """Update the place of an entry whose record was moved."""
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
        for column in (self._home, self._stamp, self._created, self._expires, self._ends):
            column.append(0)
        for column in (self._segment, self._offset, self._length, self._check):
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
