"""Access rights of files: for the user only, or also for the group if a directory is shared.

Memora creates directories with mode 0700 and files with 0600, whatever the umask. An existing
directory keeps its mode. If the group may write to it, Memora creates files in it for the group
too: 0770 and 0660. Others never get access. Windows has inherited access lists instead.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

PRIVATE = 0o600
_SHARED = 0o660
_SPECIAL = 0o7000  # such as the setgid bit, by which new files inherit a directory's group


def file_mode(folder: Path) -> int:
    """Return the mode for new files in a directory; 0600 if the directory cannot be read."""
    try:
        shared = folder.stat().st_mode & stat.S_IWGRP
    except OSError:
        return PRIVATE
    return _SHARED if shared else PRIVATE


def make_store_folder(path: Path) -> None:
    """Create a store's directory, for the user only, if missing; its parents with default modes.

    Raises:
        OSError: The directory cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def make_folder(path: Path) -> None:
    """Create a directory in a store's directory, with the same access, if missing.

    Raises:
        OSError: The directory cannot be created.
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
        OSError: It cannot be opened, or is no regular file: opening a pipe waits for a writer, and
            a device may never end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_file(path: Path) -> bytes:
    """Return the content of a file; raises OSError as `open_file`."""
    with open(path, "rb", opener=open_file) as file:
        return file.read()


def opener(mode: int) -> Callable[[str, int], int]:
    """Return an `opener` for `open` that creates a file with the given mode at once."""

    def create(path: str, flags: int) -> int:
        descriptor = os.open(path, flags, mode)
        if mode != PRIVATE and os.name == "posix":  # undo the umask
            with suppress(PermissionError):  # the file exists, and belongs to another group member
                os.fchmod(descriptor, mode)
        return descriptor

    return create


def mode_of(path: Path) -> int:
    """Return the mode of an existing file, or that of a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return PRIVATE


@contextmanager
def replacing(path: Path, part: Path, mode: int) -> Iterator[IO[bytes]]:
    """Open a file whose content atomically replaces that of a path, once it is on the disk.

    A reader sees the old content or all of the new one. On a failure, the old one stays.

    Args:
        path: The path.
        part: A name for the file until then, in the same directory.
        mode: The file's mode.

    Raises:
        OSError: It cannot be written.
    """
    try:
        with open(part, "wb", opener=opener(mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
