"""What is loaded is what was written; what was withdrawn stays so, whatever becomes of a disk."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from memora import CacheConfig, Memora
from memora.errors import CorruptEntryError, StoreError
from memora.model import Content, Context, Entry
from memora.pipeline import Request
from memora.stores.disk import _journal, _lance, _records
from memora.stores.disk._checkpoint import Checkpoint, checkpoint_of, json_of
from memora.stores.disk.store import LanceStore
from memora.stores.redis import _fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from doubles import FakeClock, WordEmbedder

SQL = {"agent": "sql"}
TABLE = "semantic_cache"
WORDS = ["apple", "bread", "cedar", "delta"]


def opened(path: Path, embedder: WordEmbedder, **settings: Any) -> Memora:
    config = CacheConfig(
        **({"db_uri": str(path), "max_entries": None, "max_staleness_seconds": 60.0} | settings)
    )
    return Memora(config, embedder=embedder)


def store_of(cache: Memora) -> LanceStore:
    store = cache._ports.store
    assert isinstance(store, LanceStore)
    return store


def answers(cache: Memora) -> list[Any]:
    """Return what is served for each word, asked for exactly."""
    return [cache.lookup(word, SQL, 1.0).result for word in WORDS]


def segments(path: Path, *, of_deletions: bool = False) -> list[Path]:
    found = sorted((path / f"{TABLE}.log").glob("*-*.log"))
    return [one for one in found if (_journal.DELETIONS in one.stem.split("-")[2]) == of_deletions]


def flip(file: Path, at: int, bit: int = 4) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


@pytest.fixture
def stored(tmp_path: Path, embedder: WordEmbedder) -> Path:
    """Leave a store whose entries are all in the table."""
    with opened(tmp_path / "store", embedder) as cache:
        for word in WORDS:
            cache.store(word, SQL, word, tags=[f"of {word}", "all"], ttl=1e6)
    return tmp_path / "store"


# A column of the table, and what it says instead.
ROWS: dict[str, dict[str, Any]] = {
    "query": {"query": "delta"},
    "query, empty": {"query": ""},
    "context": {"context": '{"agent":"faq"}'},
    "fingerprint": {"fingerprint": "0" * 64},
    "key": {"key": "0" * 32},
    "no key": {"key": "zz"},
    "id": {"id": "1" * 32},
    "stamp": {"stamp": 2**62},
    "created_at": {"created_at": 0.0},
    "expires_at": {"expires_at": 1e300},
    "stale_seconds": {"stale_seconds": 1e9},
    "sliding_seconds": {"sliding_seconds": 60.0},
    "tags": {"tags": ["all"]},
    "cost": {"cost": 100.0},
    "segment": {"segment": "somewhere-else.log"},
    "offset": {"offset": 16},
    "length": {"length": 10},
    "checksum": {"checksum": 7},
}


@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS)
def test_a_row_that_is_not_what_was_written_is_quarantined(
    stored: Path, embedder: WordEmbedder, values: dict[str, Any]
) -> None:
    _lance.connect(stored).open_table(TABLE).update(where="query = 'cedar'", values=values)

    with opened(stored, embedder) as cache:
        assert answers(cache) == ["apple", "bread", None, "delta"]
        assert {one.query for one in cache.entries()} == {"apple", "bread", "delta"}
        assert cache.get_index_stats()["quarantined_entries"] == 1
        cache.store("eagle", SQL, 1)  # the next call tells of it
        assert cache.get_stats()["errors"]["maintain"] == 1
        assert cache.health_check()["checks"]["database"]["ok"]
        cache.store("cedar", SQL, "again")
    with opened(stored, embedder) as cache:
        assert answers(cache) == ["apple", "bread", "again", "delta"]
        if "key" not in values:
            assert cache.get_index_stats()["quarantined_entries"] == 0


@pytest.mark.parametrize("values", [{"vector": [0.125] * 64}, {"vector": [0.0] * 64}])
def test_a_vector_of_the_table_that_is_not_what_was_written_finds_nothing(
    stored: Path, embedder: WordEmbedder, values: dict[str, Any]
) -> None:
    _lance.connect(stored).open_table(TABLE).update(where="query = 'cedar'", values=values)

    with opened(stored, embedder) as cache:
        store_of(cache)._drop_suspects()
        assert answers(cache) == ["apple", "bread", None, "delta"]
        assert cache.get_index_stats()["quarantined_entries"] == 1
    with opened(stored, embedder) as cache:
        assert answers(cache) == ["apple", "bread", None, "delta"]
        assert cache.get_index_stats()["quarantined_entries"] == 0


def test_a_damaged_vector_in_the_log_is_not_compared(stored: Path, embedder: WordEmbedder) -> None:
    with opened(stored, embedder, hot_index="off") as cache:
        (file,) = segments(stored)
        slot = store_of(cache)._view.hot.slot(Request.of("cedar", SQL).key)
        assert slot is not None
        flip(file, store_of(cache)._view.hot.location(slot).offset + _records.HEADER_BYTES + 3)
        assert cache.lookup("cedar please", SQL, 0.1).matched_query != "cedar"
        store_of(cache)._drop_suspects()
        assert answers(cache) == ["apple", "bread", None, "delta"]
        assert cache.get_index_stats()["quarantined_entries"] == 1


def test_any_flipped_bit_of_the_table_serves_nothing_wrong(
    stored: Path, embedder: WordEmbedder, tmp_path: Path
) -> None:
    chance, rounds = random.Random(7), int(os.environ.get("STORE_FLIPS", "12"))  # noqa: S311
    for number in range(rounds):
        copy = tmp_path / str(number)
        shutil.copytree(stored, copy)
        file = chance.choice(sorted((copy / f"{TABLE}.lance" / "data").glob("*")))
        flip(file, chance.randrange(file.stat().st_size), chance.randrange(8))
        try:
            cache = opened(copy, embedder)
        except StoreError:  # LanceDB cannot read it at all, and opening says so
            continue
        with cache:
            for word, found in zip(WORDS, answers(cache), strict=True):
                assert found in {word, None}
            assert {one.query for one in cache.entries()} <= set(WORDS)


@pytest.fixture
def killed(tmp_path: Path, embedder: WordEmbedder) -> Callable[[Callable[[Memora], object]], Path]:
    """Leave a store as `kill -9` does: the table has all words, the log what was done since."""

    def make(do: Callable[[Memora], object], **settings: Any) -> Path:
        with opened(tmp_path / "alive", embedder, **settings) as cache:
            for word in WORDS:
                cache.store(word, SQL, "old", tags=[f"of {word}"])
            store_of(cache).flush()
            do(cache)
            shutil.copytree(tmp_path / "alive", tmp_path / "dead")
        return tmp_path / "dead"

    return make


def withdraw_one(cache: Memora) -> None:
    assert cache.invalidate(query="bread") == 1


def outdate_one(cache: Memora) -> None:
    cache.outdate("of bread")


def replace_one(cache: Memora) -> None:
    cache.store("bread", SQL, "new")


def record_bytes() -> range:
    """Some of the bytes of a deletion, each part among them."""
    return range(0, _records.HEADER_BYTES, 9)


@pytest.mark.parametrize("do", [withdraw_one, outdate_one])
def test_a_withdrawal_of_which_a_bit_flips_holds(
    killed: Callable[..., Path],
    embedder: WordEmbedder,
    tmp_path: Path,
    do: Callable[[Memora], object],
) -> None:
    path = killed(do)
    (file,) = segments(path, of_deletions=True)
    for at in [3, *(len(_journal.MAGIC) + byte for byte in record_bytes())]:
        copy = tmp_path / f"flipped {at}"
        shutil.copytree(path, copy)
        flip(copy / file.relative_to(path), at)
        with opened(copy, embedder) as cache:
            assert answers(cache) == ["old", None, "old", "old"], at
    for at in (20, 60):  # and nobody takes two of them for anything
        copy = tmp_path / f"torn {at}"
        shutil.copytree(path, copy)
        damaged = copy / file.relative_to(path)
        for bit in range(4):
            flip(damaged, len(_journal.MAGIC) + at + bit, bit)
        for _ in range(2):
            with opened(copy, embedder) as cache:
                assert answers(cache)[1] is None, at


def test_a_replacement_of_which_a_bit_flips_does_not_bring_the_old_answer_back(
    killed: Callable[..., Path], embedder: WordEmbedder, tmp_path: Path
) -> None:
    def replace_and_go_on(cache: Memora) -> None:
        replace_one(cache)
        cache.store("eagle", SQL, "later")

    path = killed(replace_and_go_on)
    (file,) = segments(path)
    data = file.read_bytes()
    start = data.index(b"bread", data.index(b"delta")) - 1
    begin = max(at for at in range(start) if _records.unpack(_at(data, at)) is not None)
    length = _records.length_at(data, begin)
    assert length is not None
    for at in (*range(begin, begin + _records.HEADER_BYTES, 13), begin + length - 3):
        copy = tmp_path / f"flipped {at}"
        shutil.copytree(path, copy)
        flip(copy / file.relative_to(path), at)
        with opened(copy, embedder) as cache:
            assert answers(cache) == ["old", None, "old", "old"], at - begin
            assert cache.lookup("eagle", SQL, 1.0).result == "later", at - begin
            assert cache.get_index_stats()["dropped_log_bytes"] == length
        with opened(copy, embedder) as cache:
            assert answers(cache) == ["old", None, "old", "old"], at - begin


def _at(data: bytes, at: int) -> bytes:
    length = _records.length_at(data, at)
    return data[at : at + length] if length else b""


def test_a_lost_tail_of_results_takes_no_withdrawal_with_it(
    killed: Callable[..., Path], embedder: WordEmbedder, tmp_path: Path
) -> None:
    def do(cache: Memora) -> None:
        cache.store("cedar", SQL, "new")
        withdraw_one(cache)
        cache.outdate("of delta")

    path = killed(do)
    (file,) = segments(path)
    for size in range(16, file.stat().st_size, 97):
        copy = tmp_path / str(size)
        shutil.copytree(path, copy)
        os.truncate(copy / file.relative_to(path), size)
        with opened(copy, embedder) as cache:
            found = answers(cache)
            assert (found[1], found[3]) == (None, None)
            assert found[2] in {None, "old", "new"}  # see docs/operations.md


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("do", [withdraw_one, outdate_one, Memora.clear])
def test_what_was_withdrawn_is_on_the_disk_when_that_returns(
    tmp_path: Path,
    embedder: WordEmbedder,
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    do: Callable[[Memora], object],
) -> None:
    synced: dict[int, int] = {}  # by inode, its size by then
    sync = _journal._fdatasync

    def noted(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size
        sync(descriptor)

    monkeypatch.setattr(_journal, "_fdatasync", noted)
    with opened(tmp_path, embedder, durability=durability) as cache:
        for word in WORDS:
            cache.store(word, SQL, word, tags=[f"of {word}"])
        do(cache)
        (file,) = segments(tmp_path, of_deletions=True)
        assert synced[file.stat().st_ino] == file.stat().st_size > len(_journal.MAGIC)


class FullDisk:
    """Takes no more bytes of the log; while there is a reserve to release, also none of that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reserve: Path | None) -> None:
        self.is_full, self.reserve = True, reserve
        write = _journal._write_all

        def refuse(file: Any, data: bytes) -> None:
            if self.is_full and (self.reserve is None or self.reserve.exists()):
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        monkeypatch.setattr(_journal, "_write_all", refuse)


def test_a_full_disk_has_space_for_withdrawals(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = tmp_path / f"{TABLE}.log" / _journal.RESERVE
    with opened(tmp_path, embedder) as cache:
        for word in WORDS:
            cache.store(word, SQL, word, tags=[f"of {word}"])
        assert reserve.stat().st_size > 100_000
        FullDisk(monkeypatch, reserve)
        assert cache.store("eagle", SQL, 1) is None
        withdraw_one(cache)
        assert not reserve.exists()
        assert answers(cache) == ["apple", None, "cedar", "delta"]
    with opened(tmp_path, embedder) as cache:
        assert answers(cache) == ["apple", None, "cedar", "delta"]
        assert reserve.exists()


@pytest.mark.parametrize("do", [withdraw_one, outdate_one])
def test_without_any_space_a_withdrawal_holds_here_at_once_and_for_all_as_soon_as_it_can(
    tmp_path: Path,
    embedder: WordEmbedder,
    monkeypatch: pytest.MonkeyPatch,
    do: Callable[[Memora], object],
) -> None:
    with opened(tmp_path / "store", embedder) as cache:
        for word in WORDS:
            cache.store(word, SQL, word, tags=[f"of {word}"])
        disk = FullDisk(monkeypatch, None)
        with pytest.raises(StoreError, match="withdrawn in this process"):
            do(cache)
        assert answers(cache) == ["apple", None, "cedar", "delta"]
        with pytest.raises(StoreError):
            store_of(cache)._follow()
        disk.is_full = False
        store_of(cache)._follow()
        assert answers(cache) == ["apple", None, "cedar", "delta"]
        ignored = shutil.ignore_patterns("reserve*")  # written anew in the background
        shutil.copytree(tmp_path / "store", tmp_path / "copy", ignore=ignored)
    for name in ("store", "copy"):
        with opened(tmp_path / name, embedder) as cache:
            assert answers(cache) == ["apple", None, "cedar", "delta"]


def test_without_any_space_all_is_withdrawn_however_much_it_is(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [f"word{i}" for i in range(200)]
    with opened(tmp_path, embedder) as cache:
        for query in queries:
            cache.store(query, SQL, query)
        disk = FullDisk(monkeypatch, None)
        with pytest.raises(StoreError, match="withdrawn in this process"):
            cache.clear()
        assert not any(cache.lookup(query, SQL).is_hit for query in queries)
        disk.is_full = False
    with opened(tmp_path, embedder) as cache:
        assert not any(cache.lookup(query, SQL).is_hit for query in queries)


def test_a_flipped_bit_of_the_checkpoint_is_noticed() -> None:
    checkpoint = Checkpoint({"a-1.log": 1234, "a-2.log": 99}, {"a-1.log": 1000}, {}, 1.7e9)
    text = json.dumps(json_of(checkpoint)).encode()
    assert checkpoint_of(json.loads(text)) == checkpoint
    for at in range(len(text)):
        for bit in range(8):
            raw = bytearray(text)
            raw[at] ^= 1 << bit
            try:
                found = checkpoint_of(json.loads(raw))
            except ValueError:
                continue
            assert found is None or found == checkpoint
    assert checkpoint_of(checkpoint._asdict()) == checkpoint  # of a store of format 4


def entry_on_server(clock: FakeClock) -> tuple[Entry, Content]:
    entry = Entry(
        id="1" * 32,
        key=bytes(range(16)),
        query="How much is Zürich?",
        context=Context("{}", "0" * 64),
        created_at=clock(),
        expires_at=clock() + 60,
        tags=("a", "b"),
    )
    return entry, Content(b"payload", '{"source":"test"}')


def test_a_flipped_bit_of_an_entry_on_a_server_is_noticed(
    clock: FakeClock, embedder: WordEmbedder
) -> None:
    entry, content = entry_on_server(clock)
    (vector,) = embedder.embed([entry.query])
    assert vector is not None
    fields = _fields.pack(entry, content, vector, fence="", now=clock())[9:]
    held = dict(zip(fields[::2], fields[1::2], strict=True))
    said, expires, floats = held["e"], held["r"].encode(), held["v"]
    metadata = held["m"].encode()
    read = _fields.entry_of(said, expires, 0.0)
    assert (read.query, read.expires_at, read.tags) == (entry.query, entry.expires_at, entry.tags)
    assert _fields.content_of(content.payload, metadata, said) == content
    assert _fields.vector_of(floats, said) is not None

    for at in range(len(said)):
        raw = bytearray(said)
        raw[at] ^= 1
        try:
            read = _fields.entry_of(bytes(raw), expires, 0.0)
        except CorruptEntryError:
            continue
        assert (read.query, read.tags, read.id) == (entry.query, entry.tags, entry.id), at
    for late in (b"9e9", b""):
        with pytest.raises(CorruptEntryError):
            _fields.entry_of(said, late, 0.0)
    with pytest.raises(CorruptEntryError):
        _fields.content_of(b"payloae", metadata, said)
    with pytest.raises(CorruptEntryError):
        _fields.content_of(content.payload, b'{"source":"tesu"}', said)
    with pytest.raises(CorruptEntryError):
        _fields.vector_of(b"\1" + floats[1:], said)


def test_an_entry_that_an_older_version_left_on_a_server_is_read(clock: FakeClock) -> None:
    entry, content = entry_on_server(clock)
    fields = _fields.pack(entry, content, None, fence="", now=clock())[9:]
    said = json.loads(fields[1])
    for name in ("r", "p", "m", "v", "z"):
        del said[name]
    old = json.dumps(said).encode()

    assert _fields.entry_of(old, repr(entry.expires_at).encode(), 0.0).query == entry.query
    assert _fields.content_of(content.payload, content.metadata.encode(), old) == content
