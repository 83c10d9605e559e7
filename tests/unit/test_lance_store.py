"""What only a store on disk can do: refuse, survive, be shared by processes."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import lancedb
import pyarrow as pa
import pytest
from doubles import until

from memora import CacheConfig, Memora
from memora.errors import (
    ClosedError,
    ConfigError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.stores import open_store
from memora.stores.disk import _guards, _identity, _maintenance, _table
from memora.stores.disk import store as lance_module
from memora.stores.disk._checkpoint import read_checkpoint
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from doubles import WordEmbedder

    from memora.stores.disk._maintenance import Maintenance

SQL = {"agent": "sql"}
TABLE = "semantic_cache"
# The threads of a store look this seldom, and a test calls the steps itself; see `seldom`.
QUIET = {"max_staleness_seconds": 60.0, "max_entries": None}


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look oftener than asked, so as not to be taken for one who stood still."""
    monkeypatch.setattr(lance_module, "GRACE_SECONDS", 1000.0)


def opened(path: Path, embedder: WordEmbedder, **settings: object) -> Memora:
    return Memora(CacheConfig(db_uri=str(path), **settings), embedder=embedder)  # type: ignore[arg-type]


def store_of(cache: Memora) -> LanceStore:
    store = cache._ports.store
    assert isinstance(store, LanceStore)
    return store


def maintenance_of(cache: Memora) -> Maintenance:
    maintenance = store_of(cache)._maintenance
    assert maintenance is not None
    return maintenance


def segments(path: Path) -> list[Path]:
    return sorted((path / f"{TABLE}.log").glob("*-*.log"))


def served(cache: Memora, query: str) -> object:
    """Return the result stored under exactly this query; None where there is none."""
    return cache.lookup(query, SQL, 1.0).result


def everything(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_entries_outlive_the_cache_that_stored_them(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path / "a" / "b", embedder) as cache:
        cache.store("total sales in march", SQL, {"total": 3}, {"tokens": 1})

    with opened(tmp_path / "a" / "b", embedder) as cache:
        found = cache.lookup("total sales in march please", SQL)

    assert (found.result, found.metadata) == ({"total": 3}, {"tokens": 1})


def test_a_file_uri_is_a_path(tmp_path: Path, embedder: WordEmbedder) -> None:
    with Memora(CacheConfig(db_uri=f"file://{tmp_path}/x"), embedder=embedder) as cache:
        cache.store("q", SQL, 1)

    assert (tmp_path / "x" / "semantic_cache.lance").is_dir()


def test_tables_of_one_path_share_nothing(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path, embedder, table_name="a") as one:
        one.store("q", SQL, 1)
        with opened(tmp_path, embedder, table_name="b") as other:
            assert other.lookup("q", SQL).is_miss


def test_another_model_is_refused_and_both_are_named(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    opened(tmp_path, embedder).close()
    before = everything(tmp_path)

    with pytest.raises(ModelMismatchError) as caught:
        opened(tmp_path, type(embedder)(identity="words-2"))

    assert "'words-1'" in str(caught.value)
    assert "'words-2'" in str(caught.value)
    assert "another table_name" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert everything(tmp_path) == before


def test_another_dimension_is_refused(tmp_path: Path, embedder: WordEmbedder) -> None:
    opened(tmp_path, embedder).close()
    before = everything(tmp_path)

    with pytest.raises(ModelMismatchError, match=r"64 dimensions.*32 dimensions"):
        opened(tmp_path, type(embedder)(dimension=32))

    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("number", "advice"),
    [(99, "upgrade memora-cache, or choose"), (1, "choose")],
    ids=["newer", "older"],
)
def test_another_format_is_refused_and_untouched(
    tmp_path: Path, embedder: WordEmbedder, number: int, advice: str
) -> None:
    identity = _identity.TableIdentity("words-1", 64, format=number)
    _table._create(lancedb.connect(tmp_path), TABLE, identity)
    before = everything(tmp_path)

    with pytest.raises(
        StoreFormatError,
        match=f"format {number}, and this version of Memora reads 4 to {_identity.FORMAT}; "
        + advice,
    ):
        opened(tmp_path, embedder)

    assert everything(tmp_path) == before


def test_somebody_elses_table_is_refused_and_untouched(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    table = lancedb.connect(tmp_path).create_table(TABLE, pa.table({"x": [1, 2]}))
    before = everything(tmp_path)

    with pytest.raises(StoreFormatError, match="was not made by Memora"):
        opened(tmp_path, embedder)

    assert table.count_rows() == 2
    assert everything(tmp_path) == before


def test_somebody_elses_directory_is_refused_and_untouched(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")

    with pytest.raises(StorePathError, match=r"is not a store, it holds 'thesis\.txt'"):
        opened(tmp_path, embedder)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_directory_with_hidden_files_only_is_taken(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / "lost+found").mkdir()

    with opened(tmp_path, embedder) as cache:
        assert cache.store("q", SQL, 1) is not None


def test_a_path_that_is_a_file_is_refused(tmp_path: Path, embedder: WordEmbedder) -> None:
    file = tmp_path / "file"
    file.write_text("x")

    with pytest.raises(StorePathError, match="check db_uri") as caught:
        opened(file, embedder)
    with pytest.raises(StorePathError, match="check db_uri"):
        opened(file / "below", embedder)
    assert isinstance(caught.value, OSError)
    assert file.read_text() == "x"


def test_an_unwritable_path_is_refused(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so what the system answers is set rather than the mode.
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(StorePathError, match="is not writable; check db_uri"):
        opened(tmp_path, embedder)

    assert list(tmp_path.iterdir()) == []


def test_a_store_that_must_exist_is_not_made(tmp_path: Path, embedder: WordEmbedder) -> None:
    missing = tmp_path / "missing"

    with pytest.raises(StorePathError, match="there is no directory"):
        open_store(
            CacheConfig(db_uri=str(missing), table_name="t"), embedder=embedder, create=False
        )
    with pytest.raises(StorePathError, match="there is no table 't'"):
        open_store(
            CacheConfig(db_uri=str(tmp_path), table_name="t"), embedder=embedder, create=False
        )
    assert not missing.exists()


@pytest.mark.parametrize(
    "uri",
    [
        "sftp://host/x",
        "memory:",
        "memory://name",
        "file:x",
        "file://host/x",
        "file://",
    ],
)
def test_an_unsupported_scheme_is_refused(uri: str, embedder: WordEmbedder) -> None:
    with pytest.raises(ConfigError, match="no other is supported by this version"):
        open_store(CacheConfig(db_uri=uri), embedder=embedder)


@pytest.mark.parametrize("folder", ["_versions", "data"])
def test_a_damaged_table_does_not_open_as_an_empty_one(
    tmp_path: Path, embedder: WordEmbedder, folder: str
) -> None:
    with opened(tmp_path, embedder) as cache:
        cache.store("q", SQL, 1)
    for file in (tmp_path / f"{TABLE}.lance" / folder).iterdir():
        file.write_bytes(b"damaged" * (file.stat().st_size // 7 + 1))

    with pytest.raises(StoreError):
        opened(tmp_path, embedder)


def test_a_table_cut_short_while_being_made_is_made_again(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    (tmp_path / f"{TABLE}.lance" / "data").mkdir(parents=True)

    with opened(tmp_path, embedder) as cache:
        assert cache.store("q", SQL, 1) is not None


def test_a_flush_brings_the_table_and_the_checkpoint_up_to_the_log(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        store = store_of(cache)
        for i in range(5):
            cache.store(f"q{i}", SQL, i)
        cache.store("q0", SQL, "again")
        store.maintain(max_entries=4, now=0)  # q1 leaves
        assert store._table is not None
        assert store._table.count() == 0

        store.flush()

        rows = store._table.scan().sort_by("query").to_pylist()
        found = read_checkpoint(tmp_path / f"{TABLE}.log")
        assert [row["query"] for row in rows] == ["q0", "q2", "q3", "q4"]
        assert found is not None
        assert found.done == {file.name: file.stat().st_size for file in segments(tmp_path)}
        assert maintenance_of(cache)._waiting() == 0


def test_close_flushes(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path, embedder, durability="memory", **QUIET) as cache:
        cache.store("q", SQL, 1)

    assert lancedb.connect(tmp_path).open_table(TABLE).count_rows() == 1
    found = read_checkpoint(tmp_path / f"{TABLE}.log")
    assert found is not None
    assert found.done == {file.name: file.stat().st_size for file in segments(tmp_path)}
    assert not list((tmp_path / f"{TABLE}.log").glob("*-*.lock"))


def test_the_owner_flushes_by_itself(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_maintenance, "_FLUSH_BYTES", (1, 1))
    with opened(tmp_path, embedder, max_staleness_seconds=0.02) as cache:
        cache.store("q", SQL, 1)

        table = lancedb.connect(tmp_path).open_table(TABLE)
        assert until(lambda: table.checkout_latest() or table.count_rows() == 1)


def test_a_store_cannot_be_used_after_closing(tmp_path: Path, embedder: WordEmbedder) -> None:
    cache = opened(tmp_path, embedder)
    store = store_of(cache)
    cache.close()
    store.close()

    for use in (
        lambda: store.get(bytes(16), now=0.0),
        lambda: store.maintain(max_entries=1, now=0),
        store.count,
        store.check,
        store.index_stats,
        store.create_index,
    ):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.parametrize("limit", [5, 1000], ids=["evicting", "replacing"])
def test_fragments_and_versions_do_not_pile_up(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(_table, "_COMPACT_AT", 8)
    monkeypatch.setattr(_table, "_KEEP_SECONDS", 0.001)
    names = 100 if limit == 5 else 5
    with opened(tmp_path, embedder, **(QUIET | {"max_entries": limit})) as cache:
        store = store_of(cache)
        assert store._table is not None
        for i in range(60):
            cache.store(f"question number {i % names}", SQL, i)
            if i >= 5:
                store.flush()
                store._table.maintain(alone=True)

        table = lancedb.connect(tmp_path).open_table(TABLE)
        assert table.count_rows() == 5
        assert table.stats()["fragment_stats"]["num_fragments"] <= 10
        assert len(list((tmp_path / f"{TABLE}.lance" / "_versions").iterdir())) < 40
        assert not any(cache.get_stats()["errors"].values())
    with opened(tmp_path, embedder, **QUIET) as cache:
        assert [served(cache, f"question number {i % names}") for i in range(55, 60)] == list(
            range(55, 60)
        )


def test_short_lived_caches_leave_a_bounded_number_of_files(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_table, "_COMPACT_AT", 8)
    for i in range(60):
        with opened(tmp_path, embedder, **QUIET) as cache:
            cache.store(f"question number {i}", SQL, i)

    with opened(tmp_path, embedder, **QUIET) as cache:
        assert [served(cache, f"question number {i}") for i in range(60)] == list(range(60))
        assert (
            lancedb.connect(tmp_path).open_table(TABLE).stats()["fragment_stats"]["num_fragments"]
            < 30
        )
        assert len(segments(tmp_path)) < 50


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_maintenance, "_SEGMENT_BYTES", (4000, 4000))
    monkeypatch.setattr(_maintenance, "_DEAD_BYTES", 0)
    monkeypatch.setattr(_maintenance, "_FILE_BYTES", 0)
    monkeypatch.setattr(_maintenance, "_LIST_SECONDS", -1.0)


def tidy(cache: Memora) -> None:
    """Do what the owner does, until there is nothing left to do."""
    store, maintenance = store_of(cache), maintenance_of(cache)
    before = None
    while before != (before := [(place.name, place.stat().st_size) for place in _log_of(cache)]):
        store.flush()
        with store._maintaining:
            maintenance.complete_segments()
            maintenance._move_living()
        store.flush()
        with store._maintaining:
            maintenance._clear_away()


def _log_of(cache: Memora) -> list[Path]:
    return segments(Path(cache.config.db_uri))


@pytest.mark.usefixtures("small_segments")
def test_segments_with_nothing_alive_are_deleted(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        for i in range(100):
            cache.store(f"q{i % 5}", SQL, i)
        assert len(segments(tmp_path)) > 5

        tidy(cache)

        assert len(segments(tmp_path)) <= 2
        found = read_checkpoint(tmp_path / f"{TABLE}.log")
        assert found is not None
        assert set(found.done) == {file.name for file in segments(tmp_path)}
        assert [served(cache, f"q{i}") for i in range(5)] == list(range(95, 100))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_the_living_of_mostly_dead_segments_are_moved(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setattr(_maintenance, "GRACE_SECONDS", 0.0)
    settings = QUIET | {"durability": durability, "hot_payload_bytes": 0}
    with (
        opened(tmp_path, embedder, **settings) as cache,
        opened(tmp_path, embedder, **settings) as early,
    ):
        for i in range(200):  # every tenth stays; the rest is replaced again and again
            cache.store(f"q{i}" if i % 10 == 0 else f"other {i % 3}", SQL, i)
        expected = {f"q{i}": i for i in range(0, 200, 10)}
        before = len(segments(tmp_path))
        store_of(cache)._follow()  # writes what is held back
        store_of(early)._view.read()

        tidy(cache)

        assert len(segments(tmp_path)) < before / 2
        assert {query: served(cache, query) for query in expected} == expected
        with opened(tmp_path, embedder, **settings) as late:
            assert {query: served(late, query) for query in expected} == expected
        # What has been deleted is open there, as long as it has not read where it is now.
        assert {query: served(early, query) for query in expected} == expected
        store_of(early)._view.read()
        assert {query: served(early, query) for query in expected} == expected
        for other in (cache, early):
            assert other.get_index_stats()["quarantined_entries"] == 0
    with opened(tmp_path, embedder, **settings) as again:
        assert {query: served(again, query) for query in expected} == expected


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_nothing_is_deleted_that_could_not_be_synced_where_it_was_moved(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")

    settings = QUIET | {"durability": durability, "hot_payload_bytes": 0}
    expected = {f"q{i}": i for i in range(0, 100, 10)}
    with opened(tmp_path, embedder, **settings) as cache:
        for i in range(100):
            cache.store(f"q{i}" if i % 10 == 0 else f"other {i % 3}", SQL, i)
        store, maintenance = store_of(cache), maintenance_of(cache)
        store.flush()
        maintenance.complete_segments()
        hot, files = store._view.hot, store._view.segments
        sources = {files[number].path for number in hot.live if files[number].complete_since}
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(OSError, match="Input/output error"):
                maintenance._move_living()
        copied = everything(tmp_path)
        maintenance._move_living()  # not again and again, while the disk may still refuse
        assert everything(tmp_path) == copied
        maintenance._clear_away()
        assert sources <= set(segments(tmp_path))

        tidy(cache)

        assert not sources <= set(segments(tmp_path))
        assert {query: served(cache, query) for query in expected} == expected
        assert cache.get_index_stats()["quarantined_entries"] == 0
    with opened(tmp_path, embedder, **settings) as cache:
        assert {query: served(cache, query) for query in expected} == expected


@pytest.mark.usefixtures("small_segments")
def test_a_segment_is_not_deleted_while_others_may_not_have_read_it(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache, opened(tmp_path, embedder, **QUIET):
        for i in range(100):
            cache.store(f"q{i % 5}", SQL, i)
        before = {file.name for file in segments(tmp_path)}

        tidy(cache)

        assert before <= {file.name for file in segments(tmp_path)}


@pytest.mark.usefixtures("small_segments")
def test_nothing_moved_comes_back_once_deleted(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        for i in range(100):
            cache.store(f"q{i}" if i % 10 == 0 else f"other {i % 3}", SQL, i)
        tidy(cache)
        store_of(cache).maintain(max_entries=2, now=0)
        tidy(cache)
        left = cache.get_stats()["total_entries"]

    with opened(tmp_path, embedder, **QUIET) as cache:
        assert left == cache.get_stats()["total_entries"] == 2
        assert [i for i in range(0, 80, 10) if served(cache, f"q{i}") is not None] == []


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("deleted", ["before", "after"])
def test_the_row_of_what_was_moved_leaves_with_its_entry(
    tmp_path: Path, embedder: WordEmbedder, deleted: str
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        for i in range(100):
            cache.store(f"q{i}" if i % 10 == 0 else f"other {i % 3}", SQL, i)
        store, maintenance = store_of(cache), maintenance_of(cache)
        old = set(segments(tmp_path))
        store.flush()
        store.flush()  # settled, too
        with store._maintaining:
            maintenance.complete_segments()
            maintenance._move_living()
            maintenance._clear_away()
        assert len(old - set(segments(tmp_path))) > 5  # and the table still names them
        if deleted == "before":
            store.maintain(max_entries=2, now=0)
        with store._maintaining, store._writing:
            store._load()  # as after a kill, or having stood still
        if deleted == "after":
            store.maintain(max_entries=2, now=0)
        store.flush()
        store.flush()

    with opened(tmp_path, embedder, **QUIET) as cache:
        assert cache.get_stats()["total_entries"] == 2
        assert cache.get_index_stats()["quarantined_entries"] == 0


def test_where_the_log_cannot_be_listed_nobody_is_taken_for_gone(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        cache.store("q", SQL, 1)
        store, log = store_of(cache), tmp_path / f"{TABLE}.log"
        with store._maintaining:
            log.rename(tmp_path / "away")
            with pytest.raises(FileNotFoundError):
                maintenance_of(cache).complete_segments(again=True)
            (tmp_path / "away").rename(log)
            # Else it would be deleted once nothing lives in it, while this process writes it.
            assert [one.complete_since for one in store._view.segments.values()] == [None]
            maintenance_of(cache).complete_segments(again=True)
            assert [one.complete_since for one in store._view.segments.values()] == [None]


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_standing_still_for_long_loads_anew_and_loses_nothing(
    tmp_path: Path, embedder: WordEmbedder, durability: str
) -> None:
    with (
        opened(tmp_path, embedder, durability=durability, **QUIET) as sleeper,
        opened(tmp_path, embedder, **QUIET) as other,
    ):
        sleeper.store("mine", SQL, 1)
        other.store("theirs", SQL, 2)
        other.store("mine too", SQL, 3)
        store = store_of(sleeper)
        store._view._last_read -= 1000

        store._follow()

        assert not store._view.lost
        assert served(sleeper, "mine") == 1
        assert served(sleeper, "theirs") == 2
        assert sleeper.lookup("mine too please", SQL, 0.5).result == 3
        sleeper.store("later", SQL, 4)
        assert served(sleeper, "later") == 4
    with opened(tmp_path, embedder, **QUIET) as again:
        for query, result in (("mine", 1), ("theirs", 2), ("later", 4)):
            assert served(again, query) == result


def test_who_stood_still_does_no_upkeep_before_it_has_loaded_anew(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder, **QUIET) as sleeper:
        sleeper.store("mine", SQL, 1)
        store = store_of(sleeper)
        store._view._last_read -= 1000
        store._view.read()

        store.flush()

        assert store._table is not None
        assert store._table.count() == 0
        store._follow()
        store.flush()
        assert store._table.count() == 1


def test_two_processes_with_the_clock_set_back_agree(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        opened(tmp_path, embedder, hot_payload_bytes=0, **QUIET) as a,
        opened(tmp_path, embedder, hot_payload_bytes=0, **QUIET) as b,
    ):
        a.store("before", SQL, 0)
        store_of(b)._view.read()
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
        a.store("shared", SQL, "of a")
        b.store("shared", SQL, "of b")  # neither has read the other's

        for cache in (a, b):
            store_of(cache)._view.read()

        found = [cache.lookup("shared", SQL) for cache in (a, b)]
        assert found[0].entry_id == found[1].entry_id
        assert found[0].result == found[1].result
    with opened(tmp_path, embedder, **QUIET) as again:
        assert again.lookup("shared", SQL).entry_id == found[0].entry_id


def test_a_clock_set_back_keeps_the_order(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        cache.store("q", SQL, "old")
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
        cache.store("q", SQL, "new")
        assert served(cache, "q") == "new"

    with opened(tmp_path, embedder, **QUIET) as cache:
        assert served(cache, "q") == "new"
        cache.store("q", SQL, "newest")
        assert served(cache, "q") == "newest"
    with opened(tmp_path, embedder, **QUIET) as cache:
        assert served(cache, "q") == "newest"


def test_the_limit_is_kept_where_the_owner_only_reads(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    settings = {"max_entries": 10, "max_staleness_seconds": 0.02}
    with opened(tmp_path, embedder, **settings) as owner:
        assert until(lambda: maintenance_of(owner).owner)
        with (
            opened(tmp_path, embedder, **settings) as a,
            opened(tmp_path, embedder, **settings) as b,
        ):
            for i in range(10):
                a.store(f"a{i}", SQL, i)
                b.store(f"b{i}", SQL, i)

            assert until(lambda: 0 < owner.get_stats()["total_entries"] <= 10)
        assert until(lambda: 0 < owner.get_stats()["total_entries"] <= 10)


def test_the_limit_holds_also_for_a_process_that_has_stored_nothing(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    staleness = {"max_staleness_seconds": 0.02}
    with opened(tmp_path, embedder, max_entries=10, **staleness) as reader:
        with opened(tmp_path, embedder, max_entries=None, **staleness) as writer:
            for i in range(20):
                writer.store(f"q{i}", SQL, i)
        assert until(lambda: served(reader, "q19") == 19)  # first: it has read all
        assert until(lambda: reader.get_stats()["total_entries"] == 10)
        assert served(reader, "q19") == 19


@pytest.mark.parametrize("flushed", [True, False], ids=["in the table", "in RAM"])
def test_a_slot_that_is_used_again_during_a_search_is_never_another_contexts_answer(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, *, flushed: bool
) -> None:
    with opened(tmp_path, embedder, hot_index="off", **QUIET) as cache:
        store = store_of(cache)
        cache.store("sales in march", SQL, "mine")
        if flushed:
            store.flush()
            store._leave_to_table()
        query = store._search_table

        def meanwhile(*arguments: Any) -> list[tuple[bytes, int]]:
            found = query(*arguments)
            monkeypatch.undo()
            with store._view.lock:
                slot = store._view.hot.slots()[0]
            store._delete([(store._view.hot.key(slot), store._view.hot.seq(slot))])
            cache.store("the weather", {"agent": "other"}, "of another context")
            assert store._view.hot.slots() == [slot]
            return found

        monkeypatch.setattr(store, "_search_table", meanwhile)
        found = cache.lookup("sales in march please", SQL, 0.5)

        assert found.result is None
        assert found.is_miss


def test_a_fault_in_the_background_is_told(tmp_path: Path, embedder: WordEmbedder) -> None:
    settings = {"max_staleness_seconds": 0.02}
    with opened(tmp_path, embedder, **settings) as cache:
        store = store_of(cache)

        def refuse() -> None:
            raise OSError("the disk has gone")

        read, store._view.read = store._view.read, refuse  # type: ignore[method-assign]
        assert until(lambda: not cache.health_check()["checks"]["database"]["ok"])
        with pytest.raises(StoreError, match="in the background: the disk has gone"):
            store.maintain(max_entries=None, now=0)
        assert cache.store("q", SQL, 1) is not None
        assert served(cache, "q") == 1
        assert cache.get_stats()["errors"]["lookup"] == 0

        store._view.read = read  # type: ignore[method-assign]
        assert until(lambda: cache.health_check()["checks"]["database"]["ok"])


def test_others_that_open_for_ever_are_an_error_not_a_hang(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guards, "_PATIENCE_SECONDS", 0.05)
    (tmp_path / f"{TABLE}.log").mkdir()
    with (
        filelock.FileLock(tmp_path / f"{TABLE}.log" / "open.lock"),
        pytest.raises(StoreError, match="others have been opening this store"),
    ):
        opened(tmp_path, embedder)

    opened(tmp_path, embedder).close()


def test_an_owner_that_hangs_holds_up_nobody_else(tmp_path: Path, embedder: WordEmbedder) -> None:
    with (
        opened(tmp_path, embedder, **QUIET) as stuck,
        opened(tmp_path, embedder, **QUIET) as cache,
    ):
        store_of(stuck).flush()
        assert maintenance_of(stuck).acquire()
        with store_of(stuck)._maintaining, store_of(stuck)._writing:
            assert cache.store("q", SQL, 1) is not None
            store_of(cache).flush()
            assert not maintenance_of(cache).owner
            assert served(cache, "q") == 1


def test_a_read_of_a_version_that_was_cleaned_up_is_tried_again(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder) as cache:
        table = store_of(cache)._table
        assert table is not None
        calls = []

        def flaky() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("lance error: Not found: data/abc.lance")
            return "found"

        assert table._read("get", flaky) == "found"
        with pytest.raises(StoreError, match="get: other"):
            table._read("get", _raise_other)


def _raise_other() -> None:
    raise RuntimeError("other")


def test_a_relative_path_is_where_it_was_when_the_store_was_opened(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with opened(Path("store"), embedder) as cache:
        monkeypatch.chdir(tmp_path / "there")
        assert cache.store("q", SQL, 1) is not None

    assert not list((tmp_path / "there").iterdir())
    with opened(tmp_path / "here" / "store", embedder) as cache:
        assert served(cache, "q") == 1


def test_an_entry_that_never_reached_the_table_costs_it_no_deletion(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder, **QUIET) as cache:
        store = store_of(cache)
        assert store._table is not None
        deleted: list[bytes] = []
        write = store._table.write
        store._table.write = lambda rows, keys: (deleted.extend(keys), write(rows, keys))[1]  # type: ignore[method-assign]
        cache.store("flushed", SQL, 1)
        store.flush()
        for query in ("never flushed", "last"):
            cache.store(query, SQL, 1)
        store.maintain(max_entries=1, now=0)
        store.flush()

        assert len(deleted) == 1
    with opened(tmp_path, embedder, **QUIET) as cache:
        assert [served(cache, query) for query in ("flushed", "never flushed", "last")] == [
            None,
            None,
            1,
        ]
