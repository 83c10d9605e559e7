"""What is moved arrives as it was, and what is broken is named and stays out."""

from __future__ import annotations

import json
import uuid
from datetime import date, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import FakeClock, WordEmbedder

from memora import CacheConfig, Memora
from memora.errors import (
    ArgumentError,
    ClosedError,
    EmbedderError,
    ModelMismatchError,
    StoreError,
    TransferError,
)
from memora.stores.memory import MemoryStore
from memora.transfer import ImportReport, copy_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memora.model import Content, Entry
    from memora.protocols import Vector

SQL = {"agent": "sql", "db": "prod"}


def open_cache(clock: FakeClock, /, **settings: Any) -> Memora:
    embedder = settings.pop("embedder", None) or WordEmbedder()
    store = settings.pop("store", None)
    config = CacheConfig(log_level="ERROR", judge="off", **settings)
    return Memora(config, embedder=embedder, store=store, clock=clock)


@pytest.fixture
def cache(clock: FakeClock) -> Memora:
    """Five entries that differ in all that an entry has."""
    cache = open_cache(clock, max_entries=None)
    cache.store("total sales in march", SQL, {"rows": (1, 2)}, {"tokens": 3}, tags=["b", "a"])
    clock.advance(1)
    cache.store("sales by region", SQL, np.arange(3), ttl=100, stale_ttl=10, cost=2.5)
    cache.store("sales by region", {"day": date(2024, 3, 1)}, None, ttl=100, sliding=True)
    clock.advance(1)
    cache.store("word " * 60, None, "too long for the model")
    cache.store("München", None, {"a": [1.5, None, True]}, {"n": [1, {"x": "y"}]})
    for _ in range(3):
        clock.advance(1)
        assert cache.lookup("sales by region", {"day": date(2024, 3, 1)}).is_hit
    return cache


def state(cache: Memora) -> dict[str, Any]:
    """Return all that a cache holds, by id."""
    ports, held = cache._ports, {}
    for one in cache.entries():
        holding = next(
            found for found in ports.store.select(_all(), now=0.0) if found.entry.id == one.entry_id
        )
        entry, content, vector = ports.store.fetch(holding.entry.key, now=0.0) or (None,) * 3
        shown = None if vector is None else vector.tolist()
        held[one.entry_id] = (entry, content, shown, holding.uses, holding.last_used_at)
    return held


def _all() -> Any:
    from memora.selection import Selection  # noqa: PLC0415

    return Selection()


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change rows of an export as another program would."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    fields = [field.with_nullable(nullable=True) for field in table.schema]
    schema = pa.schema(fields, table.schema.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def set_cell(row: int, column: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column] = value

    return change


# Parquet, out and in


def test_what_is_exported_is_imported_as_it_was(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    exported = cache.export_entries(tmp_path / "e.parquet")
    other = open_cache(clock, max_entries=None)

    imported = other.import_entries(tmp_path / "e.parquet")

    assert exported == ImportReport(written=5)
    assert imported == ImportReport(written=5)
    assert state(other) == state(cache)
    assert other.lookup("total sales in march", SQL).result == {"rows": (1, 2)}
    assert list(tmp_path.iterdir()) == [tmp_path / "e.parquet"]


def test_nothing_is_embedded_by_an_import(cache: Memora, clock: FakeClock, tmp_path: Path) -> None:
    cache.export_entries(tmp_path / "e.parquet")
    embedder = WordEmbedder()
    other = open_cache(clock, embedder=embedder)

    other.import_entries(tmp_path / "e.parquet")

    assert embedder.embedded == []
    assert other.lookup("total sales in march this", SQL, 0.8).reason == "semantic"


def test_a_second_import_changes_nothing(cache: Memora, clock: FakeClock, tmp_path: Path) -> None:
    cache.export_entries(tmp_path / "e.parquet")
    before = state(cache)

    assert cache.import_entries(tmp_path / "e.parquet") == ImportReport(present=5)
    assert state(cache) == before


def test_a_newer_entry_stays_and_an_older_one_is_replaced(clock: FakeClock, tmp_path: Path) -> None:
    source, other = open_cache(clock), open_cache(clock)
    other.store("older here", None, "old")
    clock.advance(1)
    source.store("older here", None, "imported")
    source.store("newer here", None, "imported")
    clock.advance(1)
    other.store("newer here", None, "new")
    source.export_entries(tmp_path / "e.parquet")

    assert other.import_entries(tmp_path / "e.parquet") == ImportReport(written=1, present=1)
    assert other.lookup("older here").result == "imported"
    assert other.lookup("newer here").result == "new"


def test_what_has_ended_is_left_out_and_the_stale_is_not(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    cache.export_entries(tmp_path / "e.parquet")
    clock.advance(99)  # of the two with a TTL one is stale, and the other has slid
    other = open_cache(clock)

    assert other.import_entries(tmp_path / "e.parquet") == ImportReport(written=5)
    assert other.lookup("sales by region", SQL).is_stale
    clock.advance(20)
    assert open_cache(clock).import_entries(tmp_path / "e.parquet") == ImportReport(
        written=3, expired=2
    )
    assert cache.export_entries(tmp_path / "later.parquet") == ImportReport(written=3)


def test_uses_are_not_added_to_those_of_what_is_replaced(clock: FakeClock, tmp_path: Path) -> None:
    source, other = open_cache(clock), open_cache(clock)
    other.store("q", None, 1)
    assert other.lookup("q").is_hit
    clock.advance(1)
    source.store("q", None, 2)
    assert source.lookup("q").is_hit
    source.export_entries(tmp_path / "e.parquet")

    other.import_entries(tmp_path / "e.parquet")

    assert [one.uses for one in other.entries()] == [1]


def test_the_limits_hold_during_an_import(clock: FakeClock, tmp_path: Path) -> None:
    source, other = open_cache(clock), open_cache(clock, max_entries=10)
    for number in range(100):
        source.store(f"question {number}", None, number)
    source.export_entries(tmp_path / "e.parquet")

    moved = other.import_entries(tmp_path / "e.parquet")

    assert moved == ImportReport(written=100, evicted=90)
    assert [one.query for one in other.entries()] == [f"question {n}" for n in range(90, 100)]


def test_progress_is_told_in_batches(clock: FakeClock, tmp_path: Path) -> None:
    cache = open_cache(clock)
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))

    cache.warm([(f"question {n}", None, n) for n in range(100)], progress=tell)
    assert told == [(64, 100), (100, 100)]
    told.clear()
    cache.export_entries(tmp_path / "e.parquet", progress=tell)
    assert told[-1] == (100, 100)
    told.clear()
    cache.import_entries(tmp_path / "e.parquet", progress=tell)
    assert told == [(64, 100), (100, 100)]


def test_an_empty_cache_is_exported_and_imported(clock: FakeClock, tmp_path: Path) -> None:
    cache = open_cache(clock)
    for name in ("e.parquet", "e.jsonl"):
        assert cache.export_entries(tmp_path / name) == ImportReport()
        assert cache.import_entries(tmp_path / name) == ImportReport()


def test_large_results_end_a_group_of_rows(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memora.transfer._parquet._GROUP_BYTES", 1000)
    monkeypatch.setattr("memora.transfer._importer._BATCH_BYTES", 1000)
    cache, other = open_cache(clock), open_cache(clock)
    for number in range(10):
        cache.store(f"question {number}", None, "x" * 400)

    cache.export_entries(tmp_path / "e.parquet")

    assert pq.ParquetFile(tmp_path / "e.parquet").num_row_groups == 4
    assert other.import_entries(tmp_path / "e.parquet") == ImportReport(written=10)


# Another model


def test_another_models_file_is_refused_and_says_how(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    other = open_cache(clock, embedder=WordEmbedder(identity="words-2", dimension=32))

    with pytest.raises(ModelMismatchError) as refused:
        other.import_entries(path)

    assert str(refused.value).startswith(
        f"{path} holds vectors of 'words-1' (64 dimensions), but this cache embeds with 'words-2' "
        "(32 dimensions)"
    )
    assert "reembed=True" in str(refused.value)
    assert other.entries() == []


def test_another_models_file_is_embedded_anew(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    cache.export_entries(tmp_path / "e.parquet")
    other = open_cache(clock, embedder=WordEmbedder(identity="words-2", dimension=32, window=99))

    assert other.import_entries(tmp_path / "e.parquet", reembed=True) == ImportReport(written=5)

    old, new = state(cache), state(other)
    assert {key: (one[0], one[1], one[3:]) for key, one in new.items()} == {
        key: (one[0], one[1], one[3:]) for key, one in old.items()
    }
    assert {len(one[2]) for one in new.values()} == {32}
    assert other.lookup("word " * 60).is_hit  # which the first model could not read


# Broken files

BROKEN_CELLS: list[tuple[str, Any, str]] = [
    ("id", "7", "id is '7', expected 32 hexadecimal digits"),
    ("id", "A" * 32, "expected 32 hexadecimal digits, in lower case"),
    ("id", None, "id is None, expected a value"),
    ("query", " padded", "query is ' padded', expected no white space around it"),
    ("query", "", "query is '', expected a text: query must contain text"),
    ("query", None, "query is None, expected a value"),
    ("context", '{"b": 1}', "expected a context: not the canonical form"),
    ("context", "[1]", "context is '[1]'"),
    ("context", "oops", "context is 'oops'"),
    ("context", '{"a":NaN}', "not the canonical form"),
    ("created_at", float("nan"), "created_at is nan, expected a finite number of seconds"),
    ("created_at", None, "created_at is None"),
    ("expires_at", float("inf"), "expires_at is inf, expected a finite number"),
    ("stale_seconds", -1.0, "stale_seconds is -1.0, expected a finite number of seconds, 0 or"),
    ("sliding_seconds", 0.0, "sliding_seconds is 0.0, expected a finite number of seconds above"),
    ("tags", [" "], "tags is [' '], expected a list of texts that are not blank"),
    ("tags", [None], "tags is [None]"),
    ("tags", None, "tags is None, expected a value"),
    ("metadata", "[]", "metadata is '[]', expected a JSON object"),
    ("metadata", "{", "metadata is '{'"),
    ("metadata", '{"a": NaN}', "expected a JSON object"),
    ("cost", -1.0, "cost is -1.0, expected a finite number, 0 or more"),
    ("uses", -1, "uses is -1, expected a whole number, 0 or more"),
    ("last_used_at", float("nan"), "last_used_at is nan"),
    ("vector", [0.0] * 64, "vector has the length 0, expected a finite one of length 1"),
    ("vector", [float("nan")] * 64, "vector has the length nan"),
    ("payload", b"", "payload is b'', expected an undamaged result"),
    ("payload", b"MEM\x01" + bytes(60), "checksum does not match"),
]


@pytest.mark.parametrize(("column", "value", "message"), BROKEN_CELLS)
def test_a_broken_row_is_named_and_nothing_is_imported(  # noqa: PLR0913, PLR0917
    column: str, value: Any, message: str, cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    rewrite(path, set_cell(2, column, value))
    other = open_cache(clock)

    with pytest.raises(TransferError) as refused:
        other.import_entries(path)

    assert str(refused.value).startswith(f"{path}: row 3: {column}")
    assert message in str(refused.value)
    assert "nothing was imported" in str(refused.value)
    assert other.entries() == []
    moved = other.import_entries(path, skip_errors=True)
    assert (moved.written, moved.broken, len(other.entries())) == (4, 1, 4)
    assert message in moved.problems[0]


def test_the_error_tells_how_many_more_are_broken(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows[1:4]:
            row["cost"] = -1.0

    rewrite(path, change)

    with pytest.raises(TransferError, match=r"row 2: cost is .* \(2 more are broken\)"):
        open_cache(clock).import_entries(path)


def test_text_that_is_not_utf8_is_a_broken_row(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    table = pq.read_table(path)
    at = table.schema.get_field_index("query")
    queries = [query.encode() for query in table.column("query").to_pylist()]
    queries[1] = b"\xff\xfe"
    broken = pa.array(queries, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(at, table.schema.field(at), broken), path)

    with pytest.raises(TransferError, match=r"row 2: query is b'\\xff\\xfe'"):
        open_cache(clock).import_entries(path)
    assert open_cache(clock).import_entries(path, skip_errors=True).written == 4


def test_vectors_of_another_length_are_broken_rows(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    table = pq.read_table(path)
    at = table.schema.get_field_index("vector")
    short = pa.array([[1.0]] * 5, pa.list_(pa.float32()))
    pq.write_table(table.set_column(at, "vector", short), path)

    with pytest.raises(TransferError, match=r"row 1: vector has 1 numbers, expected 64"):
        open_cache(clock).import_entries(path)


def test_a_result_beyond_the_limit_is_a_broken_row(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    cache.export_entries(tmp_path / "e.parquet")
    small = open_cache(clock, max_payload_bytes=40)

    with pytest.raises(TransferError, match=r"payload has .* bytes, expected at most the 40"):
        small.import_entries(tmp_path / "e.parquet")


def test_missing_columns_are_named(cache: Memora, clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    pq.write_table(pq.read_table(path).drop_columns(["vector", "uses"]), path)

    for skip_errors in (False, True):
        with pytest.raises(TransferError, match=r"lacks the columns uses, vector; expected id,"):
            open_cache(clock).import_entries(path, skip_errors=skip_errors)


def test_a_column_of_another_type_is_named(cache: Memora, clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    table = pq.read_table(path)
    at = table.schema.get_field_index("created_at")
    changed = table.set_column(at, "created_at", pa.array(["yesterday"] * 5))
    pq.write_table(changed, path)

    with pytest.raises(TransferError, match=r"column created_at holds string, expected numbers"):
        open_cache(clock).import_entries(path)


def test_files_that_are_no_exports_are_refused(
    cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    other, path = open_cache(clock), tmp_path / "e.parquet"
    with pytest.raises(TransferError, match="cannot be read"):
        other.import_entries(path)
    path.write_bytes(b"no Parquet at all")
    with pytest.raises(TransferError, match="cannot be read"):
        other.import_entries(path)
    pq.write_table(pa.table({"query": ["q"]}), path)
    with pytest.raises(TransferError, match=r"no export of Memora's"):
        other.import_entries(path)
    cache.export_entries(path)
    table = pq.read_table(path)
    newer = {**table.schema.metadata, b"memora.export": b"2"}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(TransferError, match=r"export format 2, .* reads 1; upgrade memora-cache"):
        other.import_entries(path)
    assert other.entries() == []


def test_a_damaged_page_is_noticed_before_anything_is_imported(
    clock: FakeClock, tmp_path: Path
) -> None:
    cache, other = open_cache(clock), open_cache(clock)
    for number in range(600):
        cache.store(f"question {number}", None, number)
    path = tmp_path / "e.parquet"
    cache.export_entries(path)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(2).column(12)
    at = column.data_page_offset + column.total_compressed_size - 40
    data[at] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(TransferError, match="cannot be read"):
        other.import_entries(path)

    assert other.entries() == []


def test_an_export_that_fails_leaves_what_was_there(
    cache: Memora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.parquet"
    path.write_text("as it was")
    monkeypatch.setattr(MemoryStore, "fetch", _fail)

    with pytest.raises(StoreError):
        cache.export_entries(path)

    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TransferError, match="cannot be written: No such file or directory"):
        cache.export_entries(tmp_path / "missing" / "e.parquet")


def _fail(*_: object, **__: object) -> Any:
    raise StoreError("the disk is gone")


def test_paths_of_other_kinds_are_refused(cache: Memora, tmp_path: Path) -> None:
    for path in ("e.csv", "e", "e.parquet.gz"):
        with pytest.raises(ArgumentError, match=r"ends in \.parquet or \.jsonl"):
            cache.export_entries(path)
        with pytest.raises(ArgumentError, match=r"ends in \.parquet or \.jsonl"):
            cache.import_entries(path)
    with pytest.raises(ArgumentError, match="path must be a path, got 3"):
        cache.export_entries(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"is an export; import it"):
        cache.warm(tmp_path / "e.parquet")


def test_a_closed_cache_moves_nothing(cache: Memora, tmp_path: Path) -> None:
    cache.close()

    with pytest.raises(ClosedError):
        cache.export_entries(tmp_path / "e.parquet")
    with pytest.raises(ClosedError):
        cache.import_entries(tmp_path / "e.parquet")
    with pytest.raises(ClosedError):
        cache.warm([])


# Interrupted


class Failing(MemoryStore):
    """A store whose disk is full after so many entries."""

    def __init__(self, room: int, dimension: int = 64) -> None:
        super().__init__(dimension=dimension)
        self.room = room

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        if len(items) > self.room:
            raise StoreError("the disk is full")
        self.room -= len(items)
        super().put_many(items)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_an_interrupted_import_is_run_again_and_ends_complete(
    suffix: str, clock: FakeClock, tmp_path: Path
) -> None:
    cache, path = open_cache(clock), tmp_path / f"e.{suffix}"
    for number in range(200):
        cache.store(f"question {number}", SQL, number, ttl=500)
    for number in range(0, 200, 7):
        assert cache.lookup(f"question {number}", SQL).is_hit
    cache.export_entries(path)
    store, embedder = Failing(90), WordEmbedder()
    other = open_cache(clock, store=store, embedder=embedder)

    with pytest.raises(StoreError):
        other.import_entries(path)
    store.room = 1000
    embedder.embedded.clear()
    moved = other.import_entries(path)

    assert moved == ImportReport(written=136, present=64)
    assert state(other) == state(cache)
    assert not {f"question {n}" for n in range(64)} & set(embedder.embedded)


def test_an_interrupted_reembedding_is_run_again_and_ends_complete(
    cache: Memora, clock: FakeClock
) -> None:
    for number in range(200):
        cache.store(f"question {number}", SQL, number, tags=["n"], cost=number)
    store = Failing(90, dimension=32)
    embedder = WordEmbedder(identity="words-2", dimension=32, window=99)
    other = open_cache(clock, store=store, embedder=embedder, max_entries=None)
    source = cache._ports.store

    with pytest.raises(StoreError):
        copy_entries(source, other._ports, other.config)
    store.room = 1000
    moved = copy_entries(source, other._ports, other.config)

    assert moved == ImportReport(written=141, present=64)
    old, new = state(cache), state(other)
    assert {key: (one[0], one[1], one[3:]) for key, one in new.items()} == {
        key: (one[0], one[1], one[3:]) for key, one in old.items()
    }
    assert {len(one[2]) for one in new.values()} == {32}


def test_a_store_is_not_copied_to_itself(cache: Memora) -> None:
    with pytest.raises(ArgumentError, match="to itself"):
        copy_entries(cache._ports.store, cache._ports, cache.config)


def test_a_model_that_fails_is_no_silent_half(clock: FakeClock) -> None:
    class Breaking(WordEmbedder):
        def embed(self, texts: Any, /) -> Any:
            if any("70" in text for text in texts):
                raise EmbedderError("no route")
            return super().embed(texts)

    cache = open_cache(clock, embedder=Breaking())

    with pytest.raises(EmbedderError):
        cache.warm([(f"question {number}", None, number) for number in range(100)])

    assert len(cache.entries()) == 64


# JSON lines


def test_json_lines_are_readable_and_come_back(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    cache, other = open_cache(clock), open_cache(clock)
    result = {"a": [1, 2.5, None, True, "ü", 2**70], "b": {"!": 1}}
    cache.store("Wo ist München?", {"n": 1, "f": 1.0, "$x": "y"}, result, {"m": "\ud800"}, ttl=60)
    cache.store("surrogate", None, "\ud800", tags=["t"], cost=3)

    moved = cache.export_entries(path, skip_errors=True)
    assert (moved.written, moved.broken) == (1, 1)
    assert moved.problems[0].endswith(
        "('Wo ist München?'): its context holds what JSON does not have, such as a date"
    )
    cache.invalidate("Wo ist München?")
    cache.store("Wo ist München?", {"n": 1, "f": 1.0}, result, {"m": "\ud800"}, ttl=60)
    assert cache.export_entries(path) == ImportReport(written=2)

    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert list(lines[0])[:3] == ["query", "context", "result"]
    assert b'"query": "Wo ist M\xc3\xbcnchen?", "context": {"f": 1.0, "n": 1}' in path.read_bytes()
    assert other.import_entries(path) == ImportReport(written=2)
    assert state(other) == state(cache)
    assert other.import_entries(path) == ImportReport(present=2)


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize("result", [(1, 2), float("nan"), {1: 2}, date(2024, 1, 1), np.arange(2)])
def test_a_result_that_is_not_json_is_an_error_that_names_the_entry(
    result: Any, clock: FakeClock, tmp_path: Path
) -> None:
    cache, path = open_cache(clock), tmp_path / "e.jsonl"
    entry_id = cache.store("the question", None, result)
    cache.store("another", None, 1)

    with pytest.raises(TransferError) as refused:
        cache.export_entries(path)

    assert f"entry {entry_id} ('the question'): its result, a" in str(refused.value)
    assert not path.exists()
    assert cache.export_entries(path, skip_errors=True).written == 1


def test_a_result_of_a_class_nobody_registered_is_an_error_that_names_the_entry(
    clock: FakeClock, tmp_path: Path
) -> None:
    store = MemoryStore(dimension=64)
    cache, other = open_cache(clock, store=store), open_cache(clock, store=store)
    cache.register_type(Colour)
    cache.store("q", None, Colour.RED)

    with pytest.raises(TransferError, match=r"\('q'\): stored result holds .* not registered"):
        other.export_entries(tmp_path / "e.jsonl")
    other.export_entries(tmp_path / "e.parquet")  # which takes the bytes as they are
    third = open_cache(clock)
    third.register_type(Colour)
    third.import_entries(tmp_path / "e.parquet")
    assert third.lookup("q").result is Colour.RED


BROKEN_LINES: list[tuple[str, str]] = [
    ("oops", "not JSON"),
    ("[1]", "expected a JSON object, got [1]"),
    ('{"query": "q"}', "result is missing"),
    ('{"result": 1}', "query is missing"),
    ('{"query": " ", "result": 1}', "query must contain text"),
    ('{"query": 3, "result": 1}', "query must be a string"),
    ('{"query": "q", "result": NaN}', "NaN is not JSON"),
    ('{"query": "q", "result": 1, "context": 3}', "context must be a mapping"),
    ('{"query": "q", "result": 1, "metadata": 3}', "metadata must be a mapping"),
    ('{"query": "q", "result": 1, "ttl": -1}', "ttl must be a number of seconds above 0"),
    ('{"query": "q", "result": 1, "ttl": "soon"}', "ttl must be"),
    ('{"query": "q", "result": 1, "sliding": "yes"}', "sliding must be True or False, got 'yes'"),
    ('{"query": "q", "result": 1, "tags": [""]}', "tags must be texts"),
    ('{"query": "q", "result": 1, "cost": -1}', "cost must be a finite number"),
    ('{"query": "q", "result": 1, "tll": 3}', "unknown field 'tll', expected query, context,"),
    ('{"query": "q", "result": 1, "id": "7", "created_at": 1}', "id is '7'"),
    ('{"query": "q", "result": 1, "expires_at": 9}', "created_at is None"),
    ('{"query": "q", "result": 1, "created_at": 9, "ttl": 3}', "ttl and created_at are both"),
    ('{"query": "q", "result": 1, "created_at": true}', "created_at is True"),
    ('{"query": "q", "result": 1, "created_at": 1, "uses": 1.5}', "uses is 1.5"),
    ('{"query": "\\ud800", "result": 1}', "lone surrogate"),
    ('{"a":' * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN_LINES)
def test_a_broken_line_is_named_and_nothing_is_stored(
    line: str, message: str, cache: Memora, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "w.jsonl"
    good = '{"query": "%s", "result": 1}'
    path.write_text("\n".join([good % "first", "", line, good % "last"]))
    other = open_cache(clock)

    for method, outcome in ((other.warm, "stored"), (other.import_entries, "imported")):
        with pytest.raises(TransferError) as refused:
            method(path)
        assert str(refused.value).startswith(f"{path}: line 3: ")
        assert message in str(refused.value)
        assert f"nothing was {outcome}" in str(refused.value)
    assert other.entries() == []
    moved = other.import_entries(path, skip_errors=True)
    assert (moved.written, moved.broken) == (2, 1)


def test_a_file_that_is_not_utf8_is_a_broken_line(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"query": "q", "result": 1}\n{"query": "\xff", "result": 1}\n')
    cache = open_cache(clock)

    with pytest.raises(TransferError, match="line 2: the byte 0xff is not UTF-8"):
        cache.warm(path)
    with pytest.raises(TransferError, match=r"missing\.jsonl cannot be read: No such file"):
        cache.warm(tmp_path / "missing.jsonl")
    assert cache.import_entries(path, skip_errors=True).written == 1


# Warming


def test_a_warm_cache_hits_as_a_stored_one_does(clock: FakeClock) -> None:
    embedder = WordEmbedder()
    cache = open_cache(clock, embedder=embedder, ttl_seconds=60, stale_ttl_seconds=5)
    items: list[Any] = [
        ("  total sales ", SQL, {"rows": (1, 2)}),
        {"query": "by region", "context": SQL, "result": np.arange(2), "ttl": "10m"},
        {
            "query": "costs",
            "result": None,
            "metadata": {"cost": 7},
            "tags": "doc:1",
            "ttl": timedelta(seconds=9),
            "stale_ttl": 1,
            "sliding": True,
        },
    ]

    assert cache.warm(items) == 3

    assert embedder.embedded == ["total sales", "by region", "costs"]
    assert cache.lookup("total sales", SQL).result == {"rows": (1, 2)}
    first, second, third = (holding.entry for holding in cache._ports.store.select(_all(), now=0.0))
    assert (first.expires_at, first.stale_seconds, first.cost) == (clock.now + 60, 5, 1)
    assert second.expires_at == clock.now + 600
    assert (third.expires_at, third.stale_seconds) == (clock.now + 9, 1)
    assert (third.sliding_seconds, third.cost, third.tags) == (9, 7, ("doc:1",))
    uuid.UUID(hex=third.id)


def test_warming_again_replaces_and_makes_no_duplicates(clock: FakeClock) -> None:
    cache = open_cache(clock)
    cache.warm([("q", None, 1), ("r", None, 1)])
    clock.advance(1)

    assert cache.warm([("q", None, 2)]) == 1

    assert len(cache.entries()) == 2
    assert cache.lookup("q").result == 2


def test_a_sequence_with_a_broken_item_stores_nothing(clock: FakeClock) -> None:
    cache = open_cache(clock)

    with pytest.raises(TransferError, match=r"warm: item 2: cannot store .*; nothing was stored"):
        cache.warm([("q", None, 1), ("r", None, object())])
    with pytest.raises(TransferError, match="item 1: the item is 7, expected a mapping"):
        cache.warm([7])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="expected an iterable of items"):
        cache.warm(7)  # type: ignore[arg-type]

    assert cache.entries() == []


def test_an_iterator_with_a_broken_item_stores_what_is_before(clock: FakeClock) -> None:
    cache = open_cache(clock)

    def items() -> Iterator[Any]:
        yield from ((f"question {number}", None, number) for number in range(70))
        yield {"query": "q"}
        raise AssertionError("nothing behind it is asked for")

    with pytest.raises(
        TransferError, match=r"item 71: result is missing; the 70 before it are stored"
    ):
        cache.warm(items())

    assert len(cache.entries()) == 70


def test_an_empty_warm_stores_nothing(clock: FakeClock) -> None:
    assert open_cache(clock).warm([]) == 0
