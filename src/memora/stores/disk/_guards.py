"""Checks and precautions for LanceDB: before a store opens, after a fork, at exit."""

from __future__ import annotations

import atexit
import gc
import os
import time
import weakref
from contextlib import contextmanager, suppress
from types import BuiltinFunctionType
from typing import TYPE_CHECKING

import filelock

from memora._files import file_mode, make_store_folder
from memora.errors import StoreError, StorePathError
from memora.stores.disk._lance import faults, load_lancedb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memora.protocols import Store

# How long `opening` waits for other processes: many workers may start at once on a busy machine.
_PATIENCE_SECONDS = 60.0
# LanceDB's threads use the interpreter for a moment after a call has returned, and abort the
# process if the interpreter is gone by then (seen in one of five exits right after a call).
_EXIT_SECONDS = 0.05

open_stores: weakref.WeakSet[Store] = weakref.WeakSet()
"""Stores that are closed when the process exits."""
_users: set[int] = set()  # the process that uses LanceDB, and the one it was forked from
_inherited: list[object] = []  # objects of parent processes, never finalised in a child
_SHUTDOWN = "shutdown_runtime"  # LanceDB's function for the exit, which no module exports
_at_exit: list[BuiltinFunctionType] = []  # that function, once LanceDB is loaded


def check_directory(path: Path, *, create: bool) -> None:
    """Raise StorePathError unless a directory is there and writable; make it if `create`."""
    try:
        if create:
            make_store_folder(path)
        is_there, writable = path.is_dir(), os.access(path, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:  # a null character raises ValueError
        reason = getattr(error, "strerror", None) or error
        raise StorePathError(f"cannot store in {str(path)!r}: {reason}; check db_uri") from error
    if not is_there:
        raise StorePathError(f"there is no directory {str(path)!r}; check db_uri")
    if not writable:
        raise StorePathError(f"the directory {str(path)!r} is not writable; check db_uri")


def check_ours(path: Path) -> None:
    """Refuse to create a store among files that are not Memora's."""
    others = [
        entry.name
        for entry in path.iterdir()
        if not entry.name.startswith(".")
        and entry.name != "lost+found"
        and entry.suffix not in {".lance", ".log"}
    ]
    if others:
        raise StorePathError(
            f"the directory {str(path)!r} is not a store, it holds {min(others)!r}; "
            "set db_uri to a new or an empty directory"
        )


def check_process() -> None:
    """Load LanceDB; refuse in a process forked from one that used it: it hangs or crashes."""
    _users.add(os.getpid())
    if len(_users) > 1:
        raise StoreError(
            "a store cannot be opened in this process, which was forked from one that uses "
            "LanceDB: open it before the fork, or start workers by spawn or forkserver"
        )
    if not _at_exit:
        with faults("load LanceDB"):
            load_lancedb()
        # Searched once, here: `gc.freeze` before a fork hides the function, and a search in each
        # child would copy the memory pages of every object.
        _at_exit.extend(
            function
            for function in gc.get_objects()
            if isinstance(function, BuiltinFunctionType) and function.__name__ == _SHUTDOWN
        )


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Lock out other processes while a table is looked for and created."""
    with faults("open the store"):
        try:
            lock = filelock.FileLock(
                folder / "open.lock", timeout=_PATIENCE_SECONDS, mode=file_mode(folder)
            )
            with lock:
                yield
        except filelock.Timeout as error:
            raise StoreError(
                f"others have been opening this store for {_PATIENCE_SECONDS:.0f} s"
            ) from error


def leave_to_parent(*parts: object) -> None:
    """Keep a forked child's copies of LanceDB objects alive, so that they are never finalised."""
    _inherited.append(parts)


def _let_exit() -> None:
    """Let a forked child exit: LanceDB would wait for threads that the fork did not copy.

    It would do so wherever its runtime has been used, even if every store is closed.
    """
    for function in _at_exit:
        atexit.unregister(function)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_exit)


@atexit.register
def _close_all() -> None:
    # Before the interpreter ends: a LanceDB call must not be cut off in the middle.
    for store in list(open_stores):
        with suppress(Exception):
            store.close()
    if os.getpid() in _users:
        time.sleep(_EXIT_SECONDS)
