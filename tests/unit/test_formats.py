"""A store that an older version wrote is read by this one, and brought to its format."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pytest
from doubles import FakeClock
from stored import BEGAN, EXPECTED, RESULTS, SQL, look, opened

from memora.errors import StoreFormatError
from memora.stores.disk import _identity, _lance
from memora.stores.disk._identity import FORMAT, OLDEST_FORMAT, TableIdentity
from memora.stores.disk._table import EntryTable
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from memora import Memora

ARCHIVES = sorted((Path(__file__).parents[1] / "data").glob("store-*.tar.gz"))
TABLE = "semantic_cache"


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "store"


@pytest.fixture
def later() -> FakeClock:
    return FakeClock(BEGAN + 1000)


def store_of(cache: Memora) -> LanceStore:
    store = cache._ports.store
    assert isinstance(store, LanceStore)
    return store


def rows_without_checksum(path: Path) -> int:
    table = EntryTable(path, TABLE, TableIdentity("eight", 8), create=False)
    return int(table.scan().column("checksum").null_count)


def test_there_is_a_store_of_every_format_that_is_read() -> None:
    assert [f"store-{n}.tar.gz" for n in range(OLDEST_FORMAT, FORMAT)] == [
        path.name for path in ARCHIVES
    ]


def test_what_was_stored_is_found_and_what_was_withdrawn_is_not(
    older: Path, later: FakeClock
) -> None:
    for _ in range(2):
        with opened(older, later) as cache:
            assert look(cache) == EXPECTED
            assert cache.lookup("plain", SQL, 1.0).metadata == {"source": "table"}
            (tagged,) = cache.entries(tags="faq")
            assert tagged.tags == ("faq", "public")
            found = cache.lookup("long lived", SQL, 1.0)
            assert found.ttl_remaining_seconds == pytest.approx(9000)
            stats = cache.get_index_stats()
            assert stats["quarantined_entries"] == stats["dropped_log_bytes"] == 0
            assert cache.health_check()["checks"]["database"]["ok"]
    assert rows_without_checksum(older) == 0


def test_it_is_written_to(older: Path, later: FakeClock) -> None:
    with opened(older, later) as cache:
        cache.store("plain", SQL, "newer")
        cache.invalidate(query="bytes")
    with opened(older, later) as cache:
        assert cache.lookup("plain", SQL, 1.0).result == "newer"
        assert cache.lookup("bytes", SQL, 1.0).is_miss


@pytest.mark.parametrize("step", ["upgrade", "_sync"])  # before its one commit, and right after
def test_an_upgrade_that_is_killed_is_done_again(
    older: Path, later: FakeClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EntryTable, step, killed)
    with pytest.raises(KeyboardInterrupt):
        opened(older, later)
    monkeypatch.undo()
    with opened(older, later) as cache:
        assert look(cache) == EXPECTED


def test_a_damaged_row_of_an_older_format_is_not_believed(older: Path, later: FakeClock) -> None:
    table = _lance.connect(older).open_table(TABLE)
    table.update(where="query = 'plain' AND context LIKE '%sql%'", values={"query": "bytes too"})

    with opened(older, later) as cache:
        assert look(cache) == {**EXPECTED, "plain / sql": None}
        assert "bytes too" not in {one.query for one in cache.entries()}
        assert cache.get_index_stats()["quarantined_entries"] == 1


def test_an_open_process_of_an_older_version_is_not_written_under(
    older: Path, later: FakeClock
) -> None:
    folder = older / f"{TABLE}.log"
    member = filelock.FileLock(folder / "0123456789abcdef-1-abcd.lock")
    with member, pytest.raises(StoreFormatError, match="older version of memora-cache: close it"):
        opened(older, later)
    schema = _lance.connect(older).open_table(TABLE).schema
    assert schema.metadata[b"memora.format"] == b"4"
    with opened(older, later) as cache:
        assert look(cache) == EXPECTED


def test_a_row_that_an_older_process_has_still_written_is_checked_by_its_record(
    older: Path, later: FakeClock
) -> None:
    with opened(older, later) as cache:
        cache.store("one more", SQL, 1)
    table = _lance.connect(older).open_table(TABLE)
    table.update(where="query = 'one more'", values_sql={"checksum": "NULL"})
    assert rows_without_checksum(older) == 1

    with opened(older, later) as cache:
        assert cache.lookup("one more", SQL, 1.0).is_hit
    assert rows_without_checksum(older) == 0


def test_a_newer_or_too_old_format_is_refused_and_left_alone(
    older: Path, later: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_identity, "OLDEST_FORMAT", FORMAT)
    with pytest.raises(StoreFormatError, match=f"has format 4, and .* reads {FORMAT} to {FORMAT}"):
        opened(older, later)
    monkeypatch.undo()
    with opened(older, later) as cache:
        assert look(cache) == EXPECTED


def test_an_export_of_then_is_imported(older: Path, later: FakeClock, tmp_path: Path) -> None:
    with opened(tmp_path / "new", later) as cache:
        moved = cache.import_entries(older.parent / "export.parquet")
        assert moved.written == cache.get_stats()["total_entries"]
        for query, result in RESULTS.items():
            assert cache.lookup(query, SQL, 1.0).result == result
