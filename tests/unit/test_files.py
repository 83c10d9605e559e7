"""Who may read what Memora writes."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import pytest
from doubles import WordEmbedder
from typer.testing import CliRunner

from memora import CacheConfig, Memora
from memora._files import file_mode, make_folder
from memora.cli.app import app
from memora.cli.outputs import write_all
from memora.concurrency.flights import FileFlights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def used(path: Path) -> None:
    """Store, evict, write the uses, a checkpoint and a table, and lead a key."""
    settings = CacheConfig(db_uri=str(path), max_entries=3, durability="power")
    with Memora(settings, embedder=WordEmbedder()) as cache:
        for number in range(5):
            cache.store(f"question {number}", None, number)
        cache.lookup("question 4")
        cache.get_or_compute("another", None, lambda: 1)
        cache.health_check()
    with Memora(settings, embedder=WordEmbedder()) as cache:
        assert cache.lookup("question 4").result == 4


def ours(path: Path) -> Iterator[Path]:
    """Return what is in a store, and not in LanceDB's folder of the table."""
    for found in path.rglob("*"):
        if not any(parent.suffix == ".lance" for parent in found.parents if parent != path):
            yield found


@pytest.mark.usefixtures("umask")
def test_a_new_store_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "cache"
    used(path)

    found = list(ours(path))
    assert mode(path) == 0o700
    assert {mode(one) for one in found if one.is_dir()} == {0o700}
    assert {mode(one) for one in found if one.is_file()} == {0o600}
    assert {one.suffix for one in found} >= {".lance", ".log", ".lock"}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(
    ("given", "folders", "files"), [(0o755, 0o700, 0o600), (0o2770, 0o2770, 0o660)]
)
def test_a_directory_that_is_there_keeps_its_mode(
    tmp_path: Path, given: int, folders: int, files: int
) -> None:
    path = tmp_path / "cache"
    path.mkdir()
    path.chmod(given)
    used(path)

    found = list(ours(path))
    assert mode(path) == given
    assert {mode(one) for one in found if one.is_dir()} == {folders}
    assert {mode(one) for one in found if one.is_file()} == {files}


def test_the_modes_of_an_older_store_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    used(path)
    for one in (path, *(one for one in ours(path) if one.is_dir())):
        one.chmod(0o755)

    used(path)

    assert {mode(one) for one in (path, *ours(path)) if one.is_dir()} == {0o755}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("given", "files"), [(0o700, 0o600), (0o2770, 0o660)])
def test_what_a_takeover_makes_is_for_those_who_may_use_the_store(
    tmp_path: Path, given: int, files: int
) -> None:
    folder = tmp_path / "flights"
    folder.mkdir()
    folder.chmod(given)

    FileFlights(folder)._remove(folder / "00.lock")

    assert {mode(one) for one in folder.iterdir()} == {files}


@pytest.mark.usefixtures("umask")
def test_files_for_the_user_are_the_users_alone(tmp_path: Path) -> None:
    log, kept = tmp_path / "shadow.jsonl", tmp_path / "kept.jsonl"
    kept.touch()
    kept.chmod(0o640)
    config = CacheConfig(mode="shadow", shadow_log=str(log))
    with Memora(config, embedder=WordEmbedder()) as cache:
        cache.lookup("q")
        cache.store("q", None, 1)
        for name in ("entries.parquet", "entries.jsonl", "kept.jsonl"):
            cache.export_entries(tmp_path / name)
    write_all({tmp_path / ".env": b"MEMORA_SIMILARITY_THRESHOLD=0.9\n"})

    modes = {path.name: mode(path) for path in tmp_path.iterdir()}
    private = dict.fromkeys([".env", "entries.jsonl", "entries.parquet", "shadow.jsonl"], 0o600)
    assert modes == private | {"kept.jsonl": 0o640}


def test_a_folder_is_made_once_and_never_over_a_file(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    FileFlights(tmp_path / "a" / "flights")
    (tmp_path / "file").touch()

    assert mode(tmp_path / "a" / "flights") == 0o700
    assert file_mode(tmp_path / "absent") == 0o600
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_the_doctor_tells_of_a_store_that_all_may_read(tmp_path: Path) -> None:
    used(tmp_path / "cache")
    private = CliRunner().invoke(app, ["doctor", "--db", str(tmp_path / "cache")])
    for folder in (tmp_path / "cache", tmp_path / "cache" / "semantic_cache.log"):
        folder.chmod(0o755)
    public = CliRunner().invoke(app, ["doctor", "--db", str(tmp_path / "cache")])

    assert "all users of this machine" not in private.output
    assert "all users of this machine" in " ".join(public.output.split())
