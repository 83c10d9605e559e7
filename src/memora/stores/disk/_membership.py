"""Membership of a log: a lock file per open store, which the system releases with the process."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import filelock

from memora._files import PRIVATE, file_mode, opener

if TYPE_CHECKING:
    from pathlib import Path

_PROBE = bytes(4096)  # one block, which a full disk refuses; an empty file it may accept


class Member:
    """Membership of one open store in the log: a lock that the system releases with the process."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{time.time_ns():016x}-{os.getpid()}-{os.urandom(2).hex()}"
        self._path = folder / f"{self.name}.lock"
        self._lock = filelock.FileLock(self._path, thread_local=False, mode=file_mode(folder))
        # Wait for a moment: `living_members` of another process may hold the lock to test it.
        self._lock.acquire(timeout=5)

    def check(self) -> None:
        """Check that the log's folder accepts a file.

        Raises:
            OSError: It does not.
        """
        self._path.stat()  # fails if another folder has taken the place of the one opened
        probe = self._path.with_suffix(".probe")
        try:
            with open(probe, "wb", opener=opener(PRIVATE)) as file:
                file.write(_PROBE)
        finally:
            probe.unlink(missing_ok=True)

    def leave(self) -> None:
        """Release the membership lock."""
        self._lock.release()
        with suppress(OSError):
            self._path.unlink()


def matching_names(folder: Path, suffix: str) -> list[str]:
    """Return the names of the log's files with a suffix."""
    # Not glob: it finds nothing if the folder is gone or unreadable, and every segment would be
    # taken for deleted, every member for gone. Not Path.iterdir: it takes five times as long, and
    # idle stores list the folder all the time.
    names = os.listdir(folder)  # noqa: PTH208
    return [name for name in names if name.endswith(suffix) and "-" in name]


def living_members(folder: Path) -> set[str]:
    """Return the names of the members that are alive, and delete the lock files of the others.

    Raises:
        OSError: The folder is gone, or cannot be listed.
    """
    alive = set()
    for name in matching_names(folder, ".lock"):
        path = folder / name
        lock = filelock.FileLock(path)
        try:
            lock.acquire(blocking=False)
        except OSError:  # includes `filelock.Timeout`; after any other, assume it is alive
            alive.add(path.name.removesuffix(".lock"))
        else:
            with suppress(OSError):
                path.unlink()
            lock.release()
    return alive
