"""Who may read what Memora writes: the user alone, or the group too where a directory is shared.

A directory that Memora makes has the mode 0700, and files have 0600, whatever the umask is. One
that is there already keeps its mode. If the group may write to it, what Memora makes in it is for
the group too: 0770 and 0660. Others never get access. Windows has lists of rights instead, which
are inherited.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRIVATE = 0o600
_SHARED = 0o660
_SPECIAL = 0o7000  # such as the bit that lets what is made in a directory have its group


def file_mode(folder: Path) -> int:
    """Return the mode of files in a directory; 0600 where it cannot be looked at."""
    try:
        shared = folder.stat().st_mode & stat.S_IWGRP
    except OSError:
        return PRIVATE
    return _SHARED if shared else PRIVATE


def make_store_folder(path: Path) -> None:
    """Make a store's directory, for the user alone, unless it is there; its parents as usual.

    Raises:
        OSError: It cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def make_folder(path: Path) -> None:
    """Make a directory in a store's, for those who may use that one, unless it is there.

    Raises:
        OSError: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        if os.name == "posix" and file_mode(path.parent) == _SHARED:
            path.chmod(path.stat().st_mode & _SPECIAL | 0o770)


def open_file(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open a file to be read; return its descriptor. Also an `opener` for `open`.

    Raises:
        OSError: It cannot be opened, or is none: to open a pipe waits for who writes to it, and a
            device may never end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_file(path: Path) -> bytes:
    """Return what is in a file; raises OSError as `open_file`."""
    with open(path, "rb", opener=open_file) as file:
        return file.read()


def opener(mode: int) -> Callable[[str, int], int]:
    """Return an `opener` for `open`, for a file that has a mode from the moment it is made."""
    return partial(_open, mode)


def _open(mode: int, path: str, flags: int) -> int:
    descriptor = os.open(path, flags, mode)
    if mode != PRIVATE and os.name == "posix":  # the umask has taken from it
        with suppress(PermissionError):  # it was there, and is another's of the group
            os.fchmod(descriptor, mode)
    return descriptor
