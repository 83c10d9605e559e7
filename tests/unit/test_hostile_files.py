"""Files of a store on disk that are damaged or no files: opening neither hangs nor is prevented."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from memora import CacheConfig, Memora
from memora.errors import StoreError
from memora.stores.disk._checkpoint import CHECKPOINT, read_checkpoint
from memora.stores.disk._usage import USES, KeptUses, pack_uses, read_uses, unpack_uses
from memora.stores.memtable import Uses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from doubles import WordEmbedder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes have names on POSIX only")


def listening(path: Path) -> None:
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


STRANGE = {
    "pipe": os.mkfifo if os.name == "posix" else None,
    "directory": lambda path: path.mkdir(),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "socket": listening,
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_what_is_no_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / CHECKPOINT)
    make(tmp_path / USES)
    with pytest.raises(StoreError, match=r"cannot read .*checkpoint\.json"):
        read_checkpoint(tmp_path)
    assert read_uses(tmp_path) == KeptUses({}, {})


def test_a_pipe_among_the_segments_is_no_segment(tmp_path: Path, embedder: WordEmbedder) -> None:
    for i in range(2):
        with Memora(CacheConfig(db_uri=str(tmp_path)), embedder=embedder) as cache:
            assert cache.lookup("apple pie").is_hit or cache.store("apple pie", None, 1)
        os.mkfifo(tmp_path / "semantic_cache.log" / f"pipe-{i}.log")


def test_a_deeply_nested_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_text("[" * 200_000)
    assert read_checkpoint(tmp_path) is None


def test_any_flipped_bit_of_the_uses_costs_no_more_than_them() -> None:
    data = pack_uses(KeptUses({bytes(range(16)): Uses(3, 1.0, 2.0)}, {"a-1.log": 5}))
    for at in range(len(data)):
        for bit in {0, at % 8}:
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            assert isinstance(unpack_uses(bytes(changed)), KeptUses)
