"""The law of every store: one suite, one parameter a store."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memora import index as index_module
from memora.context import canonical_context, exact_key
from memora.errors import ClosedError
from memora.model import Content, Entry
from memora.stores import lancedb as lance_module
from memora.stores.lancedb import LanceStore
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memora.protocols import Store, Vector

DIMENSION = 8
NOW = 1_700_000_000.0
SQL = {"agent": "sql", "db": "prod"}


class Flushing(LanceStore):
    """Brings its table up to the log after each `put`, so that a search is answered from it."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        self.flush()
        if self._view.graph is None:
            self._leave_to_table()


class Settling(LanceStore):
    """Moves each vector to the graph at once, so that a search is answered from there."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        with self._view.lock:
            while (index := self._view.hot.unsettled()) is not None:
                index.settle(64)


class SettlingMemory(MemoryStore):
    """The same in RAM."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        with self._lock:
            while (index := self._hot.unsettled()) is not None:
                index.settle(64)


def open_memory(_: Path) -> Store:
    return MemoryStore(dimension=DIMENSION)


def open_memory_graph(_: Path) -> Store:
    return SettlingMemory(dimension=DIMENSION)


def on_disk(kind: type[LanceStore] = LanceStore, **settings: Any) -> Callable[[Path], Store]:
    def open_lance(path: Path) -> Store:
        return kind(
            path,
            table_name="cache",
            model="toy",
            dimension=DIMENSION,
            **({"max_staleness_seconds": 0.05} | settings),
        )

    return open_lance


ON_DISK = {
    "lancedb": on_disk(max_staleness_seconds=1.0),
    "lancedb memory": on_disk(durability="memory"),
    "lancedb process": on_disk(durability="process"),
    "lancedb power": on_disk(durability="power"),
    "lancedb graph": on_disk(Settling),
    "lancedb no payloads in RAM": on_disk(hot_payload_bytes=0),
    "lancedb off": on_disk(hot_index="off"),
    "lancedb flushed": on_disk(Flushing),
    "lancedb off flushed": on_disk(Flushing, hot_index="off", hot_payload_bytes=0),
    "lancedb off flushed memory": on_disk(Flushing, hot_index="off", durability="memory"),
}
OPENERS = {"memory": open_memory, "memory graph": open_memory_graph} | ON_DISK
GRAPHS = {"memory graph", "lancedb graph"}


@pytest.fixture(params=OPENERS)
def opener(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Store]:
    if request.param in GRAPHS:
        monkeypatch.setattr(index_module, "_GRAPH_AT", 1)
        monkeypatch.setattr(index_module, "_TAIL", 0)
    return OPENERS[request.param]


@pytest.fixture
def store(opener: Callable[[Path], Store], tmp_path: Path) -> Iterator[Store]:
    opened = opener(tmp_path)
    yield opened
    opened.close()


def entry(
    query: str = "q",
    context: dict[str, Any] | None = None,
    *,
    at: float = NOW,
    expires_at: float | None = None,
) -> Entry:
    canonical = canonical_context(SQL if context is None else context)
    return Entry(
        id=uuid.uuid4().hex,
        key=exact_key(query, canonical),
        query=query,
        context=canonical,
        created_at=at,
        expires_at=expires_at,
    )


def unit(*values: float) -> Vector:
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def fingerprint(context: dict[str, Any]) -> str:
    return canonical_context(context).fingerprint


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.count() == 0
    assert store.get(bytes(16), now=NOW) is None
    assert store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW) == []
    assert store.maintain(max_entries=None) == 0
    assert store.maintain(max_entries=1) == 0


def test_an_entry_comes_back_as_it_was_put(store: Store) -> None:
    stored = entry(
        "what's O'Brien's \"total\"? ünïcode 🎉",
        {"agent": "it's", "n": [1, None]},
        expires_at=NOW + 60,
    )
    content = Content(b"\x00payload\xff", '{"tokens": 3, "nested": {"a": [1.5, "it\'s", null]}}')

    store.put(stored, content, vector=unit(1))

    assert store.get(stored.key, now=NOW) == (stored, content)
    assert store.count() == 1


@pytest.mark.parametrize("size", [0, 1, 20_000_000], ids=["empty", "one byte", "20 MB"])
def test_payloads_of_any_size_come_back(store: Store, size: int) -> None:
    payload = np.random.default_rng(0).bytes(size)
    stored = entry()

    store.put(stored, Content(payload), vector=unit(1))

    assert store.get(stored.key, now=NOW) == (stored, Content(payload))


def test_search_returns_the_nearest_first_with_their_exact_cosine(store: Store) -> None:
    vectors = {"far": unit(0, 1), "near": unit(1, 0.1), "middle": unit(1, 1), "behind": unit(-1)}
    for query, vector in vectors.items():
        store.put(entry(query), Content(b""), vector=vector)

    found = store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW)

    assert [match.entry.query for match in found] == ["near", "middle", "far"]
    expected = [float(vectors[match.entry.query] @ unit(1)) for match in found]
    assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)


def test_search_never_crosses_contexts(store: Store) -> None:
    other = {"agent": "sql", "db": "staging"}
    store.put(entry("same", other), Content(b""), vector=unit(1))
    store.put(entry("mine"), Content(b""), vector=unit(1, 1))

    found = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)

    assert [match.entry.query for match in found] == ["mine"]


def test_the_same_key_replaces(store: Store) -> None:
    first = entry("same")
    second = entry("same", at=NOW + 1)
    store.put(first, Content(b"old"), vector=unit(1))

    store.put(second, Content(b"new"), vector=unit(0, 1))

    assert store.count() == 1
    assert store.get(first.key, now=NOW) == (second, Content(b"new"))
    (match,) = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)
    assert match.entry == second
    assert match.cosine == pytest.approx(0, abs=1e-6)


def test_an_expired_entry_is_never_read_and_takes_no_candidate_place(store: Store) -> None:
    for i in range(5):
        store.put(entry(f"old {i}", expires_at=NOW + 10), Content(b""), vector=unit(1))
    alive = entry("alive", expires_at=NOW + 11)
    store.put(alive, Content(b""), vector=unit(1, 1))
    old_key = entry("old 0").key

    assert store.get(old_key, now=NOW + 9.999) is not None
    assert store.get(old_key, now=NOW + 10) is None
    found = store.search(unit(1), context=fingerprint(SQL), k=1, now=NOW + 10)
    assert [match.entry for match in found] == [alive]


def test_an_entry_without_a_vector_is_found_by_key_only(store: Store) -> None:
    stored = entry("a very long text")
    store.put(stored, Content(b"long"), vector=None)

    assert store.get(stored.key, now=NOW) == (stored, Content(b"long"))
    assert store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW) == []

    replacing = entry("a very long text", at=NOW + 1)
    store.put(replacing, Content(b"longer"), vector=unit(1))
    found = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)
    assert [match.entry for match in found] == [replacing]


def left(store: Store) -> set[str]:
    found = store.search(unit(1), context=fingerprint(SQL), k=100, now=NOW)
    assert all(store.get(match.entry.key, now=NOW) for match in found)
    return {match.entry.query for match in found}


def test_beyond_max_entries_the_oldest_leave_wholly(store: Store) -> None:
    stored = [entry(f"q{i}", at=NOW + i) for i in range(4)]
    for one in stored:
        store.put(one, Content(b""), vector=unit(1))

    assert store.maintain(max_entries=4) == 0
    assert store.maintain(max_entries=2) == 2

    assert store.count() == 2
    assert store.get(stored[0].key, now=NOW) is None
    assert left(store) == {"q2", "q3"}


def test_a_replacement_is_young(store: Store) -> None:
    for i in range(3):
        store.put(entry(f"q{i}", at=NOW + i), Content(b""), vector=unit(1))
    store.put(entry("q0", at=NOW + 9), Content(b""), vector=unit(1))

    store.maintain(max_entries=2)

    assert left(store) == {"q2", "q0"}


@pytest.mark.parametrize("step", [0, -100], ids=["clock stands still", "clock set back"])
def test_age_is_the_order_of_storing_whatever_the_clock_says(store: Store, step: float) -> None:
    for i in range(5):
        store.put(entry(f"q{i}", at=NOW + i * step), Content(b""), vector=unit(1))

    store.maintain(max_entries=2)

    assert left(store) == {"q3", "q4"}


def test_k_larger_than_the_context_returns_all(store: Store) -> None:
    for i in range(3):
        store.put(entry(f"q{i}"), Content(b""), vector=unit(1, i))

    assert len(store.search(unit(1), context=fingerprint(SQL), k=100, now=NOW)) == 3


def test_threads_lose_nothing(store: Store) -> None:
    def work(thread: int) -> None:
        try:
            for i in range(10):
                store.put(
                    entry(f"{thread}-{i}"), Content(f"{thread}-{i}".encode()), vector=unit(1, i)
                )
                store.put(entry("shared", at=NOW + i), Content(b"s"), vector=unit(1))
                store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    failures: list[Exception] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert store.count() == 4 * 10 + 1
    for thread_number in range(4):
        for i in range(10):
            found = store.get(entry(f"{thread_number}-{i}").key, now=NOW)
            assert found is not None
            assert found[1].payload == f"{thread_number}-{i}".encode()


def test_a_healthy_store_has_nothing_to_tell(store: Store) -> None:
    store.check()
    store.put(entry(), Content(b""), vector=unit(1))
    store.maintain(max_entries=1)
    store.check()


def test_closing_twice_is_fine(opener: Callable[[Path], Store], tmp_path: Path) -> None:
    store = opener(tmp_path)
    store.put(entry(), Content(b""), vector=unit(1))

    store.close()
    store.close()


def test_many_contexts_of_few_entries_stay_apart(
    opener: Callable[[Path], Store], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mode = request.node.callspec.params["opener"]
    contexts = 20 if "flushed" in mode else 200 if "power" in mode else 2000
    store = opener(tmp_path)
    for i in range(contexts):
        for j in range(2):
            one = entry(f"q{j}", {"number": i})
            store.put(one, Content(f"{i} {j}".encode()), vector=unit(1, j))

    assert store.count() == 2 * contexts
    for i in range(0, contexts, max(contexts // 200, 1)):
        context = {"number": i}
        found = store.search(unit(1), context=fingerprint(context), k=5, now=NOW)
        assert [match.entry.query for match in found] == ["q0", "q1"]
        assert all(match.entry.context.canonical == f'{{"number":{i}}}' for match in found)
        stored = store.get(entry("q1", context).key, now=NOW)
        assert stored is not None
        assert stored[1].payload == f"{i} 1".encode()
    assert store.maintain(max_entries=2) == 2 * contexts - 2
    assert store.search(unit(1), context=fingerprint({"number": 0}), k=5, now=NOW) == []
    last = fingerprint({"number": contexts - 1})
    assert len(store.search(unit(1), context=last, k=5, now=NOW)) == 2
    store.close()


def test_the_nearest_of_many_is_found(
    opener: Callable[[Path], Store], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    n = 30 if "flushed" in request.node.callspec.params["opener"] else 300
    vectors = np.random.default_rng(1).standard_normal((n, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        store.put(entry(f"q{i}"), Content(b""), vector=vector)
    for i in range(0, n, 3):
        store.put(entry(f"q{i}", at=NOW + 1), Content(b""), vector=-vectors[i])
        vectors[i] = -vectors[i]

    for i in range(0, n, 10):
        found = store.search(vectors[i], context=fingerprint(SQL), k=3, now=NOW)
        expected = np.sort(vectors @ vectors[i])[::-1][:3]
        assert found[0].entry.query == f"q{i}"
        assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)
    store.close()


on_disk_only = pytest.mark.parametrize("opener", ON_DISK, indirect=True)


@on_disk_only
def test_reopening_keeps_everything(opener: Callable[[Path], Store], tmp_path: Path) -> None:
    stored = {
        "plain": (entry("plain"), Content(b"\x00\xff", '{"a":[1,null]}'), unit(1)),
        "other": (entry("other", {"x": "ünïcode"}), Content(b""), unit(0, 1)),
        "ending": (entry("ending", expires_at=NOW + 60), Content(b"soon"), unit(1, 1)),
        "no vector": (entry("no vector"), Content(b"long"), None),
        "replaced": (entry("replaced", at=NOW + 1), Content(b"new"), unit(1, 0, 1)),
    }
    store = opener(tmp_path)
    store.put(entry("evicted"), Content(b"evicted"), vector=unit(1))
    store.put(entry("replaced"), Content(b"old"), vector=unit(1))
    for one, content, vector in stored.values():
        store.put(one, content, vector=vector)
    assert store.maintain(max_entries=5) == 1
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        assert store.count() == 5
        assert store.get(entry("evicted").key, now=NOW) is None
        for one, content, _vector in stored.values():
            assert store.get(one.key, now=NOW) == (one, content)
        assert store.get(stored["ending"][0].key, now=NOW + 60) is None
        found = store.search(unit(1), context=fingerprint(SQL), k=9, now=NOW)
        assert [match.entry.query for match in found[:1]] == ["plain"]
        assert {match.entry.query for match in found} == {"plain", "ending", "replaced"}
        expected = sorted((1.0, float(unit(1, 1)[0]), float(unit(1, 0, 1)[0])), reverse=True)
        assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)
        store.close()


@on_disk_only
def test_age_is_kept_over_reopening(opener: Callable[[Path], Store], tmp_path: Path) -> None:
    for i in range(5):
        store = opener(tmp_path)
        store.put(entry(f"q{i}", at=NOW - i), Content(b""), vector=unit(1))
        store.close()

    store = opener(tmp_path)
    assert store.maintain(max_entries=2) == 3
    assert left(store) == {"q3", "q4"}
    store.close()


@on_disk_only
def test_a_closed_store_on_disk_says_so(opener: Callable[[Path], Store], tmp_path: Path) -> None:
    store = opener(tmp_path)
    store.close()

    with pytest.raises(ClosedError):
        store.get(bytes(16), now=NOW)
    with pytest.raises(ClosedError):
        store.search(unit(1), context=fingerprint(SQL), k=1, now=NOW)
    with pytest.raises(ClosedError):
        store.put(entry(), Content(b""), vector=unit(1))
    with pytest.raises(ClosedError):
        store.maintain(max_entries=1)
    with pytest.raises(ClosedError):
        store.check()


@on_disk_only
def test_reopening_gives_every_entry_its_own_vector(
    opener: Callable[[Path], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_module, "_LOAD_ROWS", 7)
    vectors = np.random.default_rng(0).standard_normal((60, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        store.put(entry(f"q{i}"), Content(b""), vector=vector)
    store.close()

    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        (match,) = store.search(vector, context=fingerprint(SQL), k=1, now=NOW)
        assert match.entry.query == f"q{i}"
        assert match.cosine == pytest.approx(1.0, abs=1e-5)
    store.close()
