"""A store on disk after a crash, or with damaged files: it opens, serves the rest, says so."""

from __future__ import annotations

import io
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from engine import by_another

from memora import CacheConfig, Memora
from memora.errors import StoreError
from memora.pipeline import Request
from memora.stores.disk import _journal, _maintenance, _records
from memora.stores.disk import store as lance_module
from memora.stores.disk._journal import MAGIC
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from doubles import WordEmbedder

    from memora.stores.memtable import Location

SQL = {"agent": "sql"}
TABLE = "semantic_cache"
# The threads of a store look this seldom, and a test calls the steps itself; see `seldom`.
QUIET = {"max_staleness_seconds": 60.0, "max_entries": None}
WORDS = ["apple", "bread", "cedar", "delta", "eagle", "fjord"]


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look oftener than asked, so as not to be taken for one who stood still."""
    monkeypatch.setattr(lance_module, "GRACE_SECONDS", 1000.0)
    monkeypatch.setattr(_maintenance, "_LIST_SECONDS", -1.0)


def opened(path: Path, embedder: WordEmbedder, **settings: object) -> Memora:
    return Memora(CacheConfig(db_uri=str(path), **(QUIET | settings)), embedder=embedder)  # type: ignore[arg-type]


def store_of(cache: Memora) -> LanceStore:
    store = cache._ports.store
    assert isinstance(store, LanceStore)
    return store


def log(path: Path) -> Path:
    return path / f"{TABLE}.log"


def segments(path: Path) -> list[Path]:
    return sorted(log(path).glob("*-*.log"))


def look(cache: Memora) -> None:
    """Do what the owner does when it looks which segments are complete."""
    store = store_of(cache)
    with store._maintaining:
        assert store._maintenance is not None
        assert store._maintenance.acquire()
        store._maintenance.complete_segments()


def place_of(cache: Memora, query: str) -> Location:
    hot = store_of(cache)._view.hot
    slot = hot.slot(Request.of(query, SQL).key)
    assert slot is not None
    return hot.location(slot)


def damage(file: Path, at: int, *, bits: int = 0x10) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= bits
    file.write_bytes(data)


def reasons(cache: Memora) -> list[str]:
    """Return how each word is answered, asked for exactly."""
    return [cache.lookup(word, SQL, 1.0).reason for word in WORDS]


EXACT = ["exact"] * len(WORDS)
# What a record is made of, and where that begins.
PARTS: dict[str, Callable[[int], int]] = {
    "checksum": lambda _: 0,
    "kind": lambda _: 4,
    "length of the payload": lambda _: 24,
    "length of the query": lambda _: 12,
    "stamp": lambda _: 28,
    "key": lambda _: 40,
    "expiry": lambda _: _records.HEADER_BYTES - 4,
    "vector": lambda _: _records.HEADER_BYTES + 17,
    "context": lambda _: _records.HEADER_BYTES + 4 * 64 + 2,
    "payload": lambda length: length - 2,
}


@pytest.mark.parametrize("part", PARTS)
def test_one_damaged_record_is_an_error_once_and_then_a_miss(
    tmp_path: Path, embedder: WordEmbedder, part: str
) -> None:
    with opened(tmp_path, embedder) as cache:
        for word in WORDS:
            cache.store(word, SQL, word)
        place = place_of(cache, "cedar")
    (file,) = segments(tmp_path)
    damage(file, place.offset + PARTS[part](place.length))
    others = [reason for word, reason in zip(WORDS, EXACT, strict=True) if word != "cedar"]

    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("cedar", SQL, 1.0).reason == "error"
        assert cache.lookup("cedar", SQL, 1.0).is_miss
        assert cache.get_stats()["errors"]["lookup"] == 1
        assert cache.get_index_stats()["quarantined_entries"] == 1
        assert [cache.lookup(word, SQL, 1.0).reason for word in WORDS if word != "cedar"] == others
    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("cedar", SQL, 1.0).reason not in {"exact", "error"}
        assert cache.get_index_stats()["quarantined_entries"] == 0
        assert cache.store("cedar", SQL, "again") is not None
        assert reasons(cache) == EXACT


def test_a_damaged_record_that_is_searched_for_is_never_served(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder) as cache:
        cache.store("sales in march", SQL, 1)
        cache.store("rain in april", SQL, 2)
        place = place_of(cache, "sales in march")
    (file,) = segments(tmp_path)
    damage(file, place.offset + place.length - 1)

    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("sales in march please", SQL, 0.7).reason == "error"
        assert cache.lookup("sales in march please", SQL, 0.7).is_miss
        assert cache.lookup("rain in april please", SQL, 0.7).result == 2


@pytest.fixture
def crashed(tmp_path: Path, embedder: WordEmbedder) -> Callable[..., Path]:
    """Leave a store as `kill -9` does: nothing of it in the table but what `flushed` says."""

    def make(*, flushed: int, gone: bool = False) -> Path:
        alive, dead = tmp_path / "alive", tmp_path / "dead"
        with opened(alive, embedder) as cache:
            if gone:
                cache.store("gone", SQL, "gone")
            for i, word in enumerate(WORDS):
                if i == flushed:
                    if gone:
                        store_of(cache).maintain(max_entries=i, now=0)
                    store_of(cache).flush()
                cache.store(word, SQL, word)
            shutil.copytree(alive, dead)
        return dead

    return make


@pytest.mark.parametrize("flushed", [0, 3])
def test_nothing_is_lost_by_a_crash(
    crashed: Callable[..., Path], embedder: WordEmbedder, flushed: int
) -> None:
    path = crashed(flushed=flushed)

    with opened(path, embedder) as cache:
        look(cache)
        assert reasons(cache) == EXACT
        assert cache.get_index_stats()["dropped_log_bytes"] == 0
    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT


def records(file: Path) -> list[tuple[int, int]]:
    """Return (offset, length) of the records of a segment."""
    data, at, found = file.read_bytes(), len(MAGIC), []
    while (length := _records.length_at(data, at)) is not None:
        found.append((at, length))
        at += length
    return found


@pytest.mark.parametrize("cut", [1, 30, 150, 340])
@pytest.mark.parametrize("flushed", [0, 3])
def test_a_torn_end_is_dropped_and_counted(
    crashed: Callable[..., Path], embedder: WordEmbedder, flushed: int, cut: int
) -> None:
    path = crashed(flushed=flushed)
    (file,) = segments(path)
    offset, length = records(file)[-1]
    assert cut < length
    os.truncate(file, offset + length - cut)

    with opened(path, embedder) as cache:
        assert reasons(cache)[:-1] == EXACT[:-1]
        assert cache.lookup(WORDS[-1], SQL, 1.0).is_miss
        look(cache)
        assert cache.get_index_stats()["dropped_log_bytes"] == length - cut
        assert cache.store(WORDS[-1], SQL, "again") is not None
    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("flushed", [0, 3])
def test_a_flipped_bit_in_what_was_not_flushed_costs_no_more_than_what_follows(
    crashed: Callable[..., Path], embedder: WordEmbedder, part: str, flushed: int
) -> None:
    path = crashed(flushed=flushed)
    (file,) = segments(path)
    offset, length = records(file)[4]
    damage(file, offset + PARTS[part](length))

    with opened(path, embedder) as cache:
        assert reasons(cache)[:4] == EXACT[:4]
        assert cache.lookup(WORDS[4], SQL, 1.0).is_miss
        look(cache)
        lost = cache.get_index_stats()["dropped_log_bytes"]
        assert length <= lost <= file.stat().st_size - offset
        for word in WORDS:
            assert cache.store(word, SQL, "again") is not None
    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        assert [cache.lookup(word, SQL).result for word in WORDS] == ["again"] * len(WORDS)


def test_garbage_after_the_end_costs_nothing_else(
    crashed: Callable[..., Path], embedder: WordEmbedder
) -> None:
    path = crashed(flushed=3)
    (file,) = segments(path)
    with file.open("ab") as end:
        end.write(bytes(5000))

    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        look(cache)
        assert cache.get_index_stats()["dropped_log_bytes"] == 5000


CHECKPOINTS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "cut short": b'{"done": {"a.log": 17, "b',
    "no JSON": b"\x00\xff garbage",
    "other JSON": b"[1, 2]",
    "other types": b'{"done": {"a.log": [1]}, "settled": 3}',
    "nothing known": b'{"done": {}, "settled": {}}',
}


@pytest.mark.parametrize("content", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("flushed", [0, 3])
def test_without_its_checkpoint_a_store_opens_and_nothing_deleted_comes_back(
    crashed: Callable[..., Path], embedder: WordEmbedder, content: bytes | None, flushed: int
) -> None:
    path = crashed(flushed=flushed, gone=True)
    checkpoint = log(path) / "checkpoint.json"
    checkpoint.unlink(missing_ok=True)
    if content is not None:
        checkpoint.write_bytes(content)

    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        assert cache.lookup("gone", SQL, 1.0).is_miss
        cache.store("later", SQL, 1)
    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        assert cache.lookup("later", SQL, 1.0).is_hit


@pytest.mark.parametrize("content", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_long_past_without_its_checkpoint_does_not_come_back(
    tmp_path: Path,
    embedder: WordEmbedder,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    monkeypatch.setattr(_maintenance, "_SEGMENT_BYTES", (2000, 2000))
    with opened(tmp_path, embedder, max_entries=20) as cache:
        for i in range(100):
            cache.store(f"number {i}", SQL, i)
            if i % 30 == 0:
                store_of(cache).flush()
                assert store_of(cache)._maintenance is not None
                look(cache)
                store_of(cache)._maintenance._clear_away()  # type: ignore[union-attr]
    checkpoint = log(tmp_path) / "checkpoint.json"
    checkpoint.unlink()
    if content is not None:
        checkpoint.write_bytes(content)

    for _ in range(2):
        with opened(tmp_path, embedder) as cache:
            found = [i for i in range(100) if cache.lookup(f"number {i}", SQL, 1.0).is_hit]
            assert found == list(range(80, 100))
            assert cache.get_stats()["errors"]["lookup"] == 0


@pytest.fixture
def two(tmp_path: Path, embedder: WordEmbedder) -> list[Path]:
    """Leave a store of two segments: half of the words in each."""
    for half in (WORDS[:3], WORDS[3:]):
        with opened(tmp_path, embedder) as cache:
            for word in half:
                cache.store(word, SQL, word)
    return segments(tmp_path)


def _unlink(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _cut_magic(file: Path) -> None:
    os.truncate(file, 7)


def _cut_all_records(file: Path) -> None:
    os.truncate(file, len(MAGIC))


@pytest.mark.parametrize("harm", [_unlink, _empty, _cut_magic, _cut_all_records])
def test_a_lost_segment_costs_its_own_entries_only(
    tmp_path: Path, embedder: WordEmbedder, two: list[Path], harm: Callable[[Path], None]
) -> None:
    harm(two[0])

    with opened(tmp_path, embedder) as cache:
        assert reasons(cache)[3:] == EXACT[3:]
        assert not any(cache.lookup(word, SQL, 1.0).is_hit for word in WORDS[:3])
        assert not any(cache.lookup(word, SQL, 1.0).is_hit for word in WORDS[:3])
        assert cache.lookup("delta", SQL, 1.0).is_hit
        for word in WORDS[:3]:
            assert cache.store(word, SQL, "again") is not None
        assert reasons(cache) == EXACT
    with opened(tmp_path, embedder) as cache:
        assert reasons(cache) == EXACT
        assert cache.get_stats()["errors"]["lookup"] == 0


@pytest.mark.parametrize("harm", [_unlink, _empty])
def test_a_segment_lost_under_an_open_store_hurts_nobody(
    tmp_path: Path, embedder: WordEmbedder, two: list[Path], harm: Callable[[Path], None]
) -> None:
    with opened(tmp_path, embedder, hot_payload_bytes=0) as cache:
        harm(two[0])
        store_of(cache)._view.read()
        look(cache)

        found = reasons(cache)
        assert found[3:] == EXACT[3:]
        assert set(found[:3]) <= {"exact", "error"}
        assert cache.store("apple", SQL, "again") is not None
        assert cache.lookup("apple", SQL).result == "again"


def test_a_file_that_is_no_segment_is_left_alone(
    tmp_path: Path, embedder: WordEmbedder, two: list[Path]
) -> None:
    stranger = log(tmp_path) / "notes-of-mine.log"
    stranger.write_text("these are my own notes, and they are longer than the magic")

    with opened(tmp_path, embedder) as cache:
        look(cache)
        assert reasons(cache) == EXACT


def test_bad_magic_before_whole_records_costs_nothing(
    crashed: Callable[..., Path], embedder: WordEmbedder
) -> None:
    path = crashed(flushed=3)
    (file,) = segments(path)
    damage(file, 3)

    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        look(cache)
        assert cache.get_index_stats()["dropped_log_bytes"] == 0


def test_bad_magic_and_a_bad_record_cost_what_was_not_flushed_and_are_counted(
    crashed: Callable[..., Path], embedder: WordEmbedder
) -> None:
    path = crashed(flushed=3)
    (file,) = segments(path)
    damage(file, 3)
    damage(file, len(MAGIC) + 50)

    with opened(path, embedder) as cache:
        assert reasons(cache)[1:3] == EXACT[1:3]
        assert not any(cache.lookup(word, SQL, 1.0).is_hit for word in WORDS[3:])
        look(cache)
        assert cache.get_index_stats()["dropped_log_bytes"] >= records(file)[3][1] * 3
        for word in WORDS:
            assert cache.store(word, SQL, "again") is not None
    with opened(path, embedder) as cache:
        assert reasons(cache) == EXACT
        assert [cache.lookup(word, SQL).result for word in WORDS] == ["again"] * len(WORDS)


def test_a_disk_that_refuses_to_be_read_is_a_counted_miss(
    tmp_path: Path, embedder: WordEmbedder, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, embedder, hot_payload_bytes=0) as cache:

        def refuse(*_: object) -> bytes:
            raise OSError("the disk has gone")

        with monkeypatch.context() as patch:
            patch.setattr("memora.stores.disk._journal._pread", refuse)
            assert cache.lookup("apple", SQL).reason == "error"
            assert cache.get_stats()["errors"]["lookup"] == 1
        assert reasons(cache) == EXACT


def test_a_checkpoint_that_cannot_be_opened_is_an_error_at_opening(
    tmp_path: Path, embedder: WordEmbedder, two: list[Path]
) -> None:
    checkpoint = log(tmp_path) / "checkpoint.json"
    checkpoint.unlink()
    checkpoint.mkdir()  # root may read any file

    with pytest.raises(StoreError, match=r"checkpoint\.json"):
        opened(tmp_path, embedder)


def test_a_full_disk_while_a_segment_is_begun_is_over_when_there_is_room(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    with opened(tmp_path, embedder) as cache:
        with monkeypatch.context() as patch:
            patch.setattr("memora.stores.disk._journal.io.FileIO", Full)
            assert cache.store("apple", SQL, 1) is None
            assert cache.store("apple", SQL, 1) is None
            assert cache.get_stats()["errors"]["store"] == 2

        assert cache.store("apple", SQL, 2) is not None
        assert cache.lookup("apple", SQL).result == 2
    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("apple", SQL).result == 2


@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_a_write_that_fails_half_way_leaves_no_entry(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    with opened(tmp_path, embedder, durability=durability) as cache:
        cache.store("apple", SQL, 1)
        store = store_of(cache)
        store.flush()
        real = store._writer._file
        assert real is not None

        class Half:
            def write(self, data: memoryview) -> int:
                if len(data) > 100:
                    return real.write(data[:100])
                raise OSError(28, "No space left on device")

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        monkeypatch.setattr(store._writer, "_file", Half())
        stored = cache.store("bread", SQL, "x" * 400)
        if durability == "memory":  # it is only held back
            with pytest.raises(StoreError, match="No space left"):
                store.flush()
        else:
            assert stored is None
            assert cache.lookup("bread", SQL, 1.0).is_miss
        assert cache.lookup("apple", SQL).result == 1
        monkeypatch.setattr(store._writer, "_file", real)
        assert cache.store("cedar", SQL, 3) is not None
    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("apple", SQL).result == 1
        assert cache.lookup("cedar", SQL).result == 3
        assert cache.lookup("bread", SQL, 1.0).is_hit == (durability == "memory")


def test_who_comes_late_to_a_failed_sync_is_told_though_others_have_gone_on(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[object] = []

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    class HandingOver:
        """Lets others store between the append of the first and its sync."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            monkeypatch.setattr(store, "_writing", lock)
            with monkeypatch.context() as patch:
                patch.setattr(_journal, "_fdatasync", refuse)
                by_another(lambda: stored.append(cache.store("bread", SQL, 2)))()
            by_another(lambda: stored.append(cache.store("cedar", SQL, 3)))()

    with opened(tmp_path, embedder, durability="power") as cache:
        store = store_of(cache)
        lock = store._writing
        monkeypatch.setattr(store, "_writing", HandingOver())
        assert cache.store("apple", SQL, 1) is None
        assert [one is None for one in stored] == [True, False]
        assert store._writing is lock
        assert len(segments(tmp_path)) == 2
