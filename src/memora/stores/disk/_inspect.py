"""Facts about a store on disk, read without opening it, for its administrator."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import filelock

from memora.errors import StoreFormatError
from memora.stores.disk import _guards
from memora.stores.disk._identity import unreadable
from memora.stores.disk._lance import faults
from memora.stores.disk._membership import living_members
from memora.stores.disk._table import read_identity

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Facts", "inspect", "sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about a table and its log."""

    format: int
    model: str
    dimension: int
    processes: int
    """Number of stores that have it open."""
    kept: bool
    """Whether one of them is the owner."""
    table_bytes: int
    log_bytes: int


def inspect(path: Path, table_name: str) -> Facts:
    """Return facts about a table; deletes lock files of ended processes.

    Raises:
        StorePathError: It does not exist or is not accessible.
        StoreFormatError: It is not Memora's, or has a format that this version cannot read.
        StoreError: It cannot be read.
    """
    _guards.check_directory(path, create=False)
    _guards.check_process()
    identity = read_identity(path, table_name)
    if refusal := unreadable(identity.format):
        raise StoreFormatError(f"the table {refusal}")
    folder = path / f"{table_name}.log"
    with faults(f"look at {str(folder)!r}"):
        table_bytes, log_bytes = sizes(path, table_name)
        return Facts(
            format=identity.format,
            model=identity.model,
            dimension=identity.dimension,
            processes=len(living_members(folder)),
            kept=_is_locked(folder / "owner.lock"),
            table_bytes=table_bytes,
            log_bytes=log_bytes,
        )


def sizes(path: Path, table_name: str) -> tuple[int, int]:
    """Return the bytes of the table's files, and those of the log's."""
    return _bytes(path / f"{table_name}.lance"), _bytes(path / f"{table_name}.log")


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile by the owner
            total += path.stat().st_size if path.is_file() else 0
    return total


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    except OSError:  # a directory or a link, which no process can lock
        return False
    lock.release()
    return False
