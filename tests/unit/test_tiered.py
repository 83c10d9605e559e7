"""What is answered in front of a shared store, for how long, and what ends it; time is told."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from doubles import FakeClock, WordEmbedder

from memora import CacheConfig, Memora
from memora.context import canonical_context, exact_key
from memora.errors import ClosedError, StoreError
from memora.model import Content, Entry
from memora.protocols import Changes, IndexedStore, SharedStore
from memora.selection import Selection
from memora.stores.memory import MemoryStore
from memora.stores.tiered import TieredStore

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = canonical_context({"agent": "sql"})
BOUND = 2.0


class Shared(MemoryStore):
    """Counts what it is asked; may be out of reach, and may be told what to do meanwhile."""

    def __init__(self) -> None:
        super().__init__(dimension=4)
        self.asked: Counter[str] = Counter()
        self.dead = False
        self.meanwhile: Callable[[], object] = lambda: None

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        self.asked["get"] += 1
        if self.dead:
            raise StoreError("out of reach")
        found = super().get(key, now=now)
        self.meanwhile()
        return found

    def get_in_memory(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        if self.dead is None:
            raise ClosedError("closed")
        return None

    def put_many(self, items: Any, /) -> None:
        super().put_many(items)
        if self.dead:
            raise StoreError("no answer")

    def close(self) -> None:
        self.dead = None  # type: ignore[assignment]


class Telling(Shared):
    """Tells what has changed, as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[Changes | None] = []

    def changes(self) -> Changes | None:
        self.asked["changes"] += 1
        if not self.news:
            raise StoreError("nobody tells")
        return self.news.pop(0)


@pytest.fixture
def shared() -> Shared:
    return Shared()


def tiered(shared: Shared, clock: FakeClock, **settings: Any) -> TieredStore:
    settings = {"max_bytes": 2**20, "max_staleness_seconds": BOUND, "clock": clock} | settings
    return TieredStore(shared, **settings)


@pytest.fixture
def store(shared: Shared, clock: FakeClock) -> TieredStore:
    return tiered(shared, clock)


def entry(query: str = "q", **rest: Any) -> Entry:
    rest = {"context": HERE, "created_at": 1.0, "expires_at": None} | rest
    return Entry(id=uuid.uuid4().hex, key=exact_key(query, rest["context"]), query=query, **rest)


def unit(*values: float) -> Any:
    vector = np.zeros(4, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def held(store: TieredStore, query: str = "q", **rest: Any) -> Entry:
    """Put an entry and read it, so that it is held."""
    one = entry(query, **rest)
    store.put(one, Content(query.encode()), vector=unit(1))
    assert store.get(one.key, now=2.0) is not None
    return one


def read(store: TieredStore, one: Entry, now: float = 2.0) -> str | None:
    found = store.get(one.key, now=now)
    return None if found is None else found[0].id


def test_what_was_read_is_read_from_ram(store: TieredStore, shared: Shared) -> None:
    one = held(store)
    shared.asked.clear()

    assert store.get(one.key, now=2.0) == (one, Content(b"q"))
    assert store.get_in_memory(one.key, now=2.0) == (one, Content(b"q"))
    assert store.peek(one.key, now=2.0) == one
    assert not shared.asked


def test_what_is_not_there_is_asked_for_each_time(store: TieredStore, shared: Shared) -> None:
    one = entry()
    assert store.get(one.key, now=2.0) is None

    shared.put(one, Content(b""), vector=None)  # somebody else

    assert read(store, one) == one.id


def replace(shared: Shared, one: Entry) -> str | None:
    new = entry(one.query)
    shared.put(new, Content(b"new"), vector=unit(1))
    return new.id


def withdraw(shared: Shared, one: Entry) -> None:
    assert shared.discard([one]) == 1


def outdate(shared: Shared, _: Entry) -> None:
    shared.invalidate_tag("doc:1")


def evict(shared: Shared, _: Entry) -> None:
    shared.put(entry("another"), Content(b""), vector=None)
    assert shared.maintain(max_entries=1, now=2.0) == 1


@pytest.mark.parametrize("change", [replace, withdraw, outdate, evict])
def test_what_others_do_is_seen_within_the_bound(
    store: TieredStore,
    shared: Shared,
    clock: FakeClock,
    change: Callable[[Shared, Entry], str | None],
) -> None:
    one = held(store, tags=("doc:1",))
    clock.advance(1.0)
    after = change(shared, one)

    clock.advance(BOUND - 1.001)
    assert read(store, one) == one.id
    clock.advance(0.001)
    assert store.get_in_memory(one.key, now=2.0) is None
    assert read(store, one) == after


def test_being_served_confirms_nothing(
    store: TieredStore, shared: Shared, clock: FakeClock
) -> None:
    one = held(store)
    shared.discard([one])

    for _ in range(3):
        clock.advance(BOUND / 4)
        assert read(store, one) == one.id
    clock.advance(BOUND / 4)
    assert read(store, one) is None


def test_time_counts_from_before_the_shared_store_is_asked(
    store: TieredStore, shared: Shared, clock: FakeClock
) -> None:
    shared.meanwhile = lambda: clock.advance(BOUND)
    one = held(store)
    shared.meanwhile = lambda: None
    shared.discard([one])

    assert read(store, one) is None


def test_a_clock_that_went_back_confirms_nothing(
    store: TieredStore, shared: Shared, clock: FakeClock
) -> None:
    one = held(store)
    shared.discard([one])
    clock.advance(-1000.0)

    assert read(store, one) is None


@pytest.mark.parametrize("change", [replace, withdraw, outdate])
def test_what_is_done_here_is_seen_at_once(
    store: TieredStore, change: Callable[[Any, Entry], str | None]
) -> None:
    one = held(store, tags=("doc:1",))

    after = change(store, one)

    assert read(store, one) == after


@pytest.mark.parametrize("change", [replace, withdraw, outdate])
def test_what_was_read_while_it_changed_is_not_held(
    store: TieredStore, shared: Shared, change: Callable[[Any, Entry], str | None]
) -> None:
    one = entry(tags=("doc:1",))
    store.put(one, Content(b""), vector=unit(1))
    after: list[str | None] = []
    shared.meanwhile = lambda: after.append(change(store, one))

    assert read(store, one) == one.id  # asked before
    shared.meanwhile = lambda: None
    assert read(store, one) == after[0]


def test_a_put_that_failed_may_have_been_done(store: TieredStore, shared: Shared) -> None:
    one = held(store)
    shared.dead = True
    new = entry()
    with pytest.raises(StoreError):
        store.put_many([(new, Content(b"new"), None)])
    shared.dead = False

    assert read(store, one) == new.id


def test_what_has_ended_is_not_served(store: TieredStore) -> None:
    one = held(store, expires_at=10.0, stale_seconds=5.0)

    assert store.get_in_memory(one.key, now=14.999) is not None
    assert store.get_in_memory(one.key, now=15.0) is None
    assert read(store, one, now=15.0) is None


def test_what_ends_later_with_each_use_is_not_held(store: TieredStore, shared: Shared) -> None:
    one = held(store, expires_at=10.0, sliding_seconds=9.0)
    store.touch(one.key, now=8.0)

    found = store.get(one.key, now=9.0)

    assert found is not None
    assert found[0].expires_at == 17.0


def test_uses_are_counted_where_they_are_shared(store: TieredStore, shared: Shared) -> None:
    one = held(store)
    store.touch(one.key, now=3.0, times=2)

    (found,) = shared.select(Selection(key=one.key), now=3.0)
    assert (found.uses, found.last_used_at) == (2, 3.0)


def test_what_left_cannot_be_served_once_it_was_looked_for(
    store: TieredStore, shared: Shared
) -> None:
    gone, stays = held(store, "gone"), held(store, "stays")
    shared.discard([gone])  # somebody else

    assert [one.entry for one in store.select(Selection(), now=0)] == [stays]

    assert store.get_in_memory(gone.key, now=2.0) is None
    shared.asked.clear()
    assert read(store, stays) == stays.id
    assert not shared.asked


def test_what_a_search_shows_to_be_old_is_forgotten(store: TieredStore, shared: Shared) -> None:
    one = held(store)
    new = replace(shared, one)

    (match,) = store.search(unit(1), context=HERE.fingerprint, k=5, now=2.0)

    assert match.entry.id == new == read(store, one)


def test_no_more_is_held_than_allowed(shared: Shared, clock: FakeClock) -> None:
    store = tiered(shared, clock, max_bytes=3000)
    first, second = held(store, "first"), held(store, "second")
    read(store, first)
    third, large = held(store, "third"), entry("large")
    store.put(large, Content(bytes(3000)), vector=None)
    assert read(store, large) == large.id
    shared.asked.clear()

    known = {
        one.query for one in (first, second, third, large) if store.get_in_memory(one.key, now=2.0)
    }
    assert known == {"first", "third"}
    assert store._bytes == sum(one.bytes for one in store._held.values()) <= 3000


def test_a_closed_store_serves_nothing(store: TieredStore) -> None:
    one = held(store)
    store.close()
    store.close()

    with pytest.raises(ClosedError):
        store.get_in_memory(one.key, now=2.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_in_the_middle_of_a_change_leaves_the_child_at_work(
    store: TieredStore, shared: Shared
) -> None:
    one = held(store)
    shared.discard([one])
    with store._lock:  # another thread's, in the child for ever
        child = os.fork()
        if child == 0:
            os._exit(0 if store.get_in_memory(one.key, now=2.0) is None is read(store, one) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read(store, one) == one.id  # here it is still held


def test_optional_parts_are_those_of_the_shared_store(store: TieredStore) -> None:
    assert not isinstance(store, (SharedStore, IndexedStore))


class Led(Shared):
    """Has leases."""

    def try_lock(self, key: bytes, /) -> None:
        self.asked["lead"] += 1

    def refresh(self) -> None:
        self.asked["refresh"] += 1


def test_who_leads_a_key_sees_what_others_have_stored_under_it(clock: FakeClock) -> None:
    shared = Led()
    store = tiered(shared, clock)
    assert isinstance(store, SharedStore)
    one, other = held(store), held(store, "other")
    new = replace(shared, one)

    assert store.try_lock(one.key) is None
    store.refresh()

    assert read(store, one) == new
    assert (shared.asked["lead"], shared.asked["refresh"]) == (1, 1)
    assert store.get_in_memory(other.key, now=2.0) is not None


def test_a_dead_store_gives_hits_within_the_bound_and_then_misses(clock: FakeClock) -> None:
    embedder = WordEmbedder(dimension=4)
    shared = Shared()
    store = tiered(shared, clock)
    with Memora(CacheConfig(), embedder=embedder, store=store, clock=clock) as cache:
        cache.store("sales in march", None, 7)
        assert cache.lookup("sales in march").result == 7
        shared.dead = True

        clock.advance(BOUND - 0.001)
        assert cache.lookup("sales in march").result == 7
        clock.advance(0.001)
        found = cache.lookup("sales in march")

        assert (found.is_hit, found.reason) == (False, "error")


# With a shared store that tells what has changed; it is asked here, and by no thread.


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Telling:
    monkeypatch.setattr(TieredStore, "_begin_following", lambda _: None)
    return Telling()


def test_all_is_confirmed_at_once_but_what_has_changed(telling: Telling, clock: FakeClock) -> None:
    store = tiered(telling, clock)
    stays, changed, tagged = held(store, "a"), held(store, "b"), held(store, "c", tags=("x",))
    for one in (changed, tagged):
        telling.discard([one])

    clock.advance(BOUND - 0.001)
    telling.news = [Changes({changed.key}, tags=False), Changes(set(), tags=True)]
    assert store.follow()
    assert read(store, changed) is None
    assert read(store, tagged) == tagged.id
    assert store.follow()
    assert read(store, tagged) is None

    telling.asked.clear()
    clock.advance(BOUND - 0.001)
    assert read(store, stays) == stays.id
    assert not telling.asked
    clock.advance(0.001)
    assert read(store, stays) == stays.id
    assert telling.asked["get"] == 1


def test_what_was_missed_may_be_anything(telling: Telling, clock: FakeClock) -> None:
    store = tiered(telling, clock)
    one = held(store)
    telling.discard([one])
    telling.news = [None]

    assert store.follow()

    assert read(store, one) is None


def test_who_is_told_nothing_confirms_nothing(telling: Telling, clock: FakeClock) -> None:
    store = tiered(telling, clock)
    one = held(store)
    telling.discard([one])
    clock.advance(BOUND - 0.001)

    assert not store.follow()

    assert read(store, one) == one.id
    clock.advance(0.001)
    assert read(store, one) is None


def test_what_is_told_while_it_is_read_is_not_held(telling: Telling, clock: FakeClock) -> None:
    store = tiered(telling, clock)
    one = entry()
    store.put(one, Content(b""), vector=None)
    telling.news = [Changes({one.key}, tags=False)]
    telling.meanwhile = store.follow

    assert read(store, one) == one.id
    telling.meanwhile = lambda: None
    telling.discard([one])
    assert read(store, one) is None


def test_a_thread_asks_what_has_changed_until_the_store_is_closed(clock: FakeClock) -> None:
    telling = Telling()
    telling.news = [None]
    begun = threading.active_count()
    store = tiered(telling, clock)
    assert threading.active_count() == begun
    held(store)
    thread = next(one for one in threading.enumerate() if one.name == "memora-tier")

    store.close()

    thread.join(20.0)
    assert not thread.is_alive()


def test_no_thread_reads_what_was_replaced_before(shared: Shared, clock: FakeClock) -> None:
    store = tiered(shared, clock)
    entries = [entry(created_at=float(i)) for i in range(400)]
    numbers = {one.id: i for i, one in enumerate(entries)}
    newest, wrong = 0, []
    store.put(entries[0], Content(b""), vector=None)

    def look() -> None:
        while newest < len(entries) - 1:
            at_least = newest
            found = numbers[read(store, entries[0]) or ""]
            if found < at_least:
                wrong.append((found, at_least))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i, one in enumerate(entries[1:], 1):
        store.put(one, Content(b""), vector=None)
        newest = i
    for reader in readers:
        reader.join()

    assert not wrong
