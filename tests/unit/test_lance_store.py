"""What only a store on disk can do: refuse, survive, be shared by processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import lancedb
import pyarrow as pa
import pytest

from memora import CacheConfig, Memora
from memora.errors import (
    ConfigError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.stores import lancedb as lance_module
from memora.stores import open_store
from memora.stores.lancedb import LanceStore

if TYPE_CHECKING:
    from doubles import WordEmbedder

SQL = {"agent": "sql"}


def opened(path: Path, embedder: WordEmbedder, **settings: object) -> Memora:
    return Memora(CacheConfig(db_uri=str(path), **settings), embedder=embedder)  # type: ignore[arg-type]


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
    other = type(embedder)(identity="words-2")

    with pytest.raises(ModelMismatchError) as caught:
        opened(tmp_path, other)

    assert "'words-1'" in str(caught.value)
    assert "'words-2'" in str(caught.value)
    assert "another table_name" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_another_dimension_is_refused(tmp_path: Path, embedder: WordEmbedder) -> None:
    opened(tmp_path, embedder).close()

    with pytest.raises(ModelMismatchError, match=r"64 dimensions.*32 dimensions"):
        opened(tmp_path, type(embedder)(dimension=32))


def test_a_newer_format_is_refused(tmp_path: Path, embedder: WordEmbedder) -> None:
    stamp = lance_module._Stamp("words-1", 64, format=99)
    lance_module._create(lancedb.connect(tmp_path), "semantic_cache", stamp)

    with pytest.raises(StoreFormatError, match=r"format 99.*reads up to 1; upgrade memora-cache"):
        opened(tmp_path, embedder)


def test_somebody_elses_table_is_refused_and_untouched(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    table = lancedb.connect(tmp_path).create_table("semantic_cache", pa.table({"x": [1, 2]}))

    with pytest.raises(StoreFormatError, match="was not made by Memora"):
        opened(tmp_path, embedder)

    assert table.count_rows() == 2


def test_a_path_that_is_a_file_is_refused(tmp_path: Path, embedder: WordEmbedder) -> None:
    file = tmp_path / "file"
    file.write_text("x")

    with pytest.raises(StorePathError, match="check db_uri") as caught:
        opened(file, embedder)
    with pytest.raises(StorePathError, match="check db_uri"):
        opened(file / "below", embedder)
    assert isinstance(caught.value, OSError)


def test_an_unwritable_path_is_refused(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so what the system answers is set rather than the mode.
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(StorePathError, match="is not writable; check db_uri"):
        opened(tmp_path, embedder)


def test_a_store_that_must_exist_is_not_made(tmp_path: Path, embedder: WordEmbedder) -> None:
    missing = tmp_path / "missing"

    with pytest.raises(StorePathError, match="there is no directory"):
        open_store(str(missing), table_name="t", embedder=embedder, create=False)
    with pytest.raises(StorePathError, match="there is no table 't'"):
        open_store(str(tmp_path), table_name="t", embedder=embedder, create=False)
    assert not missing.exists()


@pytest.mark.parametrize(
    "uri",
    [
        "redis://h",
        "s3://bucket/x",
        "memory:",
        "memory://name",
        "file:x",
        "file://host/x",
        "file://",
    ],
)
def test_an_unsupported_scheme_is_refused(uri: str, embedder: WordEmbedder) -> None:
    with pytest.raises(ConfigError, match="no other is supported by this version"):
        open_store(uri, table_name="t", embedder=embedder)


def test_a_damaged_table_does_not_open_as_an_empty_one(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder) as cache:
        cache.store("q", SQL, 1)
    for version in (tmp_path / "semantic_cache.lance" / "_versions").iterdir():
        version.write_bytes(b"damaged")

    with pytest.raises(StoreError):
        opened(tmp_path, embedder)


def test_damaged_data_is_a_counted_miss(tmp_path: Path, embedder: WordEmbedder) -> None:
    with opened(tmp_path, embedder) as cache:
        cache.store("q", SQL, "x" * 10_000)
    for file in (tmp_path / "semantic_cache.lance" / "data").iterdir():
        file.write_bytes(os.urandom(file.stat().st_size))

    with opened(tmp_path, embedder) as cache:
        found = cache.lookup("q", SQL)
        stats = cache.get_stats()

    assert (found.is_miss, found.reason) == (True, "error")
    assert stats["errors"]["lookup"] == 1


def test_a_table_cut_short_while_being_made_is_made_again(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    (tmp_path / "semantic_cache.lance" / "data").mkdir(parents=True)

    with opened(tmp_path, embedder) as cache:
        assert cache.store("q", SQL, 1) is not None


def test_many_stores_are_compacted(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_module, "_COMPACT_FRAGMENTS", 10)
    for i in range(30):  # each in a cache of its own, as short-lived workers do
        with opened(tmp_path, embedder) as cache:
            cache.store(f"question number {i}", SQL, i)
    with opened(tmp_path, embedder) as cache:
        for i in range(30, 40):
            cache.store(f"question number {i}", SQL, i)
        table = lancedb.connect(tmp_path).open_table("semantic_cache")

        assert table.stats()["fragment_stats"]["num_fragments"] < 12
        assert [cache.lookup(f"question number {i}", SQL).result for i in range(40)] == list(
            range(40)
        )


@pytest.mark.parametrize("limit", [5, 1000], ids=["evicting", "replacing"])
def test_versions_do_not_pile_up_where_fragments_do_not(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(lance_module, "_KEEP_VERSIONS", timedelta(milliseconds=5))
    monkeypatch.setattr(lance_module, "_COMPACT_VERSIONS", 16)
    names = 100 if limit == 5 else 5
    with opened(tmp_path, embedder, max_entries=limit) as cache:
        for i in range(100):
            cache.store(f"question number {i % names}", SQL, i)

        assert cache.get_stats()["total_entries"] == 5
        assert len(list((tmp_path / "semantic_cache.lance" / "_versions").iterdir())) < 50
        assert cache.get_stats()["errors"] == {"lookup": 0, "store": 0, "maintain": 0}


CHILD = """
import json, sys
from memora import CacheConfig, Memora
sys.path.insert(0, {tests!r})
from doubles import WordEmbedder
cache = Memora(CacheConfig(db_uri={path!r}, max_entries=None), embedder=WordEmbedder())
for i in range({n}):
    for query in (f"question {{i}} by {name}", "shared"):
        entry_id = cache.store(query, {{"agent": "sql"}}, [{name!r}, i])
        print(json.dumps([query, entry_id]), flush=True)
"""


def start(path: Path, name: str, n: int) -> subprocess.Popen[str]:
    code = CHILD.format(tests=str(Path(__file__).parents[1]), path=str(path), name=name, n=n)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_processes_share_a_store_and_lose_nothing(tmp_path: Path, embedder: WordEmbedder) -> None:
    children = [start(tmp_path, name, 12) for name in ("a", "b", "c")]
    for child in children:
        output, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        assert all(entry_id for _, entry_id in map(json.loads, output.splitlines()))

    with opened(tmp_path, embedder, max_entries=None) as cache:
        for name in ("a", "b", "c"):
            for i in range(12):
                found = cache.lookup(f"question {i} by {name}", SQL, 1.0)
                assert found.result == [name, i]
        assert cache.get_stats()["total_entries"] == 3 * 12 + 1


def test_a_reader_sees_what_another_process_stored_at_once(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder) as cache:
        assert cache.lookup("question 0 by other", SQL).is_miss
        start(tmp_path, "other", 1).communicate(timeout=60)
        assert cache.lookup("question 0 by other", SQL).result == ["other", 0]


def test_what_store_acknowledged_survives_kill_9(tmp_path: Path, embedder: WordEmbedder) -> None:
    child = start(tmp_path, "victim", 1000)
    assert child.stdout is not None
    acknowledged = [json.loads(child.stdout.readline()) for _ in range(30)]
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate(timeout=60)
    acknowledged += [json.loads(line) for line in rest.splitlines() if line.endswith("]")]

    with opened(tmp_path, embedder, max_entries=None) as cache:
        for query, _ in acknowledged:
            assert cache.lookup(query, SQL, 1.0).is_hit
        assert cache.store("after the crash", SQL, 1) is not None


def test_a_lock_that_is_held_for_ever_is_an_error_not_a_hang(
    tmp_path: Path, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, embedder) as cache:
        store = cache._ports.store
        assert isinstance(store, LanceStore)
        monkeypatch.setattr(lance_module, "_LOCK_TIMEOUT_SECONDS", 0.05)
        with lance_module.filelock.FileLock(store._commit_lock.lock_file):
            assert cache.store("q", SQL, 1) is None
        with store._thread_lock:
            assert cache.store("q", SQL, 1) is None

        monkeypatch.undo()
        assert cache.get_stats()["errors"]["store"] == 2
        assert cache.store("q", SQL, 1) is not None


FORK = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from doubles import WordEmbedder
from memora import CacheConfig, Memora
def cache():
    return Memora(CacheConfig(db_uri={path!r}), embedder=WordEmbedder())
if {before}:
    parent = cache()
    parent.store("parent", None, 1)
child = os.fork()
signal.alarm(30)
if child == 0:
    if {before}:
        assert parent.lookup("parent").reason == "error"
        assert "after the fork" in parent.lookup("parent").explanation
        assert parent.store("child", None, 2) is None
    else:
        assert cache().store("child", None, 2)
    os._exit(0)  # as multiprocessing ends its children; LanceDB may hang in an ordinary exit
assert os.waitpid(child, 0)[1] == 0
if {before}:
    assert parent.lookup("parent").result == 1
"""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_after_opening_is_a_miss_and_before_it_is_fine(
    tmp_path: Path, *, before: bool
) -> None:
    code = FORK.format(tests=str(Path(__file__).parents[1]), path=str(tmp_path), before=before)

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_read_of_a_version_that_was_cleaned_up_is_tried_again(
    tmp_path: Path, embedder: WordEmbedder
) -> None:
    with opened(tmp_path, embedder) as cache:
        cache.store("q", SQL, 1)
        store = cache._ports.store
        assert isinstance(store, LanceStore)
        calls = []

        def flaky() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("lance error: Not found: data/abc.lance")
            return "found"

        assert store._read("get", flaky) == "found"
        with pytest.raises(StoreError, match="get: other"):
            store._read("get", _raise_other)


def _raise_other() -> None:
    raise RuntimeError("other")
