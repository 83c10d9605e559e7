"""The log of a store on disk: what every process did, in files that all of them read.

Each process appends to segments of its own and reads everybody's. A record stays where it was
written for as long as its entry lives, so a payload is written once. A segment is complete when
its writer has begun another or is gone, which a lock file tells: the system releases it however
the process ends.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import filelock

from memora._files import PRIVATE, file_mode, open_file, opener, read_file
from memora.errors import StoreError
from memora.stores import _records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Durability: TypeAlias = Literal["memory", "process", "power"]

MAGIC = b"MEMORA LOG 4\n\x00\x00\x00"
"""The first bytes of a segment; the records follow."""
CHECKPOINT = "checkpoint.json"
"""Name of the file that `write_checkpoint` replaces."""

DELETIONS = "x"
"""What follows a member's name, which ends with a hexadecimal digit, in the names of those of its
segments that hold deletions."""
RESERVE = "reserve"
"""Name of the file of `keep_reserve`."""
_RESERVE_BYTES = 512 * 1024

# Records held back by durability "memory", at most: beyond, a store waits for the file.
_PENDING_BYTES = 64 * 1024 * 1024
_COARSE_NS = 1_000_000_000  # how far the times of files may be behind the clock
_PROBE = bytes(4096)  # of a full disk, a block: an empty file may still be made there
_fdatasync = getattr(os, "fdatasync", os.fsync)  # not on macOS


class Segment:
    """One file of the log, open for reading: also when it has been deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.position = len(MAGIC)
        """Up to where its records have been applied here."""
        self.own = False
        """Whether this process writes it."""
        self.pending: dict[int, bytes] = {}
        """Its records by offset that are not written yet; see `Writer`."""
        self.written = sys.maxsize
        """Up to where it is written, where this process writes it."""
        self.complete_since: float | None = None
        """Since when no record can join it; monotonic seconds."""
        self.vanished = False
        """Whether its file has been deleted; it is still open here."""
        self.damaged_at: int | None = None
        """Where its records end, and something else begins that is none."""
        self.searched = 0
        """The size up to which no record was found after one that is unreadable."""
        self.broken = False
        """Whether a write or a sync of it has failed: what joined it might be lost too."""
        self._descriptor = open_file(path)

    def __del__(self) -> None:
        # Not before the last reader has let go: a number that is closed may be another file's.
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def end(self) -> int:
        """Up to where it can be read at all."""
        return self.size() if self.damaged_at is None else self.damaged_at

    @property
    def taken(self) -> int:
        """Up to where its records have been applied here, and are written."""
        return min(self.position, self.written)

    @property
    def stream(self) -> str:
        """Which segments follow each other: those of one `Writer`."""
        return self.name.rpartition("-")[0]

    @property
    def writer(self) -> str:
        """The member that writes, or wrote, this segment."""
        return self.stream.removesuffix(DELETIONS)

    @property
    def holds_deletions(self) -> bool:
        """Whether all that is in it takes something away."""
        return holds_deletions(self.name)

    def size(self) -> int:
        """Return the length of the file."""
        return os.fstat(self._descriptor).st_size

    def written_at(self) -> int:
        """Return a stamp that none of its operations is later than."""
        return os.fstat(self._descriptor).st_mtime_ns + _COARSE_NS

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes."""
        pending = self.pending.get(offset)
        return _pread(self._descriptor, length, offset) if pending is None else pending[:length]

    def records(self, limit: int) -> Iterator[tuple[int, int, _records.Record]]:
        """Yield (offset, length, record) from `position` on, about `limit` bytes.

        Ends at a record that is not whole: the rest of it may be on its way.
        """
        start = self.position
        data = memoryview(_pread(self._descriptor, limit, start))
        at = 0
        while (length := _records.length_at(data, at)) is not None:
            if at + length > len(data):
                if at or length > self.size() - start:
                    return  # the next read begins there; or it is not whole
                data = memoryview(_pread(self._descriptor, length, start))
            record = _records.unpack(data[at : at + length])
            if record is None:
                return
            yield start + at, length, record
            at += length

    def sync(self) -> None:
        """Have the file on the disk.

        Raises:
            OSError: The disk refuses; the next call may say nothing of what is lost.
        """
        try:
            os.fsync(self._descriptor)
        except OSError:
            self.broken = True
            raise


def holds_deletions(segment: str) -> bool:
    """Tell by a segment's name whether all that is in it takes something away."""
    return segment.rpartition("-")[0].endswith(DELETIONS)


if hasattr(os, "pread"):
    _pread = os.pread
else:  # pragma: no cover - Windows
    _seeking = threading.Lock()

    def _pread(fd: int, length: int, offset: int, /) -> bytes:
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, length)


class Member:
    """The presence of one open store in the log: a lock that goes with the process."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{time.time_ns():016x}-{os.getpid()}-{os.urandom(2).hex()}"
        self._path = folder / f"{self.name}.lock"
        self._lock = filelock.FileLock(self._path, thread_local=False, mode=file_mode(folder))
        # A moment: `living_members` of another process may just have taken it for a dead one's.
        self._lock.acquire(timeout=5)

    def check(self) -> None:
        """Do nothing where the log takes what this member writes.

        Raises:
            OSError: It does not.
        """
        self._path.stat()  # or this is another folder, in the place of the one that was opened
        probe = self._path.with_suffix(".probe")
        try:
            with open(probe, "wb", opener=opener(PRIVATE)) as file:
                file.write(_PROBE)
        finally:
            probe.unlink(missing_ok=True)

    def leave(self) -> None:
        """Be gone."""
        self._lock.release()
        with suppress(OSError):
            self._path.unlink()


def keep_reserve(path: Path) -> None:
    """Have a file that takes space, so that on a full disk deletions can be written.

    They, and what the table notes of them, are what frees space.
    """
    with suppress(OSError):  # the disk is full; or another process makes it
        if not path.exists():
            fresh = path.with_suffix(f".{os.getpid()}")
            try:
                fresh.write_bytes(os.urandom(_RESERVE_BYTES))  # which no file system compresses
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)


def release_reserve(path: Path) -> bool:
    """Give its space free; False where there is none."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def segment_names(folder: Path) -> set[str]:
    """Return the names of the segments that are there.

    Raises:
        OSError: The folder is gone, or cannot be listed.
    """
    return set(_matching(folder, ".log"))


def _matching(folder: Path, suffix: str) -> list[str]:
    # Not by glob, which finds nothing where the folder is gone or unreadable: every segment would
    # be taken for deleted, and every member for gone. Nor by `Path`: an idle store looks all the
    # time, and that takes five times as long.
    names = os.listdir(folder)  # noqa: PTH208
    return [name for name in names if name.endswith(suffix) and "-" in name]


def living_members(folder: Path) -> set[str]:
    """Return the names of the stores that are open, and clear away the locks of the others.

    Raises:
        OSError: The folder is gone, or cannot be listed.
    """
    alive = set()
    for name in _matching(folder, ".lock"):
        path = folder / name
        lock = filelock.FileLock(path)
        try:
            lock.acquire(blocking=False)
        except OSError:  # a `filelock.Timeout` is one; with another, who knows
            alive.add(path.name.removesuffix(".lock"))
        else:
            with suppress(OSError):
                path.unlink()
            lock.release()
    return alive


class Writer:
    """Appends the records of one member.

    The caller holds one lock around `append` and `write_out`; `sync` is called without it.
    """

    def __init__(self, folder: Path, member: str, *, durability: Durability) -> None:
        self._folder, self._member, self._durability = folder, member, durability
        self._number = 0
        self._file: io.FileIO | None = None
        self._segment: Segment | None = None
        self._size = 0
        self.pending_bytes = 0
        """Bytes of records that durability "memory" holds back."""
        self.appended = 0
        """Bytes appended to all segments: after `append`, what to `sync` up to."""
        self._synced = 0
        # Where a sync has failed, from -> up to: the system reports it only once. What joins the
        # broken segment is lost with it, so the last has no end before another segment begins.
        self._lost: dict[int, int] = {}
        self._syncing = False
        self._sync_ended = threading.Condition()

    def segment(self, size: int, *, limit: int) -> Segment:
        """Return the segment that the next record of so many bytes goes to; maybe a new one."""
        full = self._size + size > limit and self._size > len(MAGIC)
        if self._segment is None or full or self._segment.broken:
            self._begin()
        assert self._segment is not None  # noqa: S101 - begun above
        return self._segment

    def append(self, records: list[bytes]) -> list[int]:
        """Append records to the segment at hand, all or none; return their offsets.

        Raises:
            StoreError: The disk is full, or the like; nothing was appended.
        """
        segment = self._segment
        assert segment is not None  # noqa: S101 - `segment` is called first
        offsets, at = [], self._size
        for record in records:
            offsets.append(at)
            at += len(record)
        if self._durability == "memory":
            if self.pending_bytes > _PENDING_BYTES:
                self.write_out()
            segment.pending.update(zip(offsets, records, strict=True))
            self.pending_bytes += at - self._size
        else:
            try:
                self._write(self._size, b"".join(records))
            except StoreError:
                segment.broken = True
                raise
        self.appended += at - self._size
        self._size = at
        return offsets

    def write_out(self) -> None:
        """Write what durability "memory" has held back.

        Raises:
            StoreError: The disk is full, or the like; it is still held back.
        """
        if (segment := self._segment) is None or not segment.pending:
            return
        offset = next(iter(segment.pending))
        self._write(offset, b"".join(segment.pending.values()))
        segment.pending.clear()
        self.pending_bytes = 0

    def sync(self, target: int) -> None:
        """Return once what was appended up to a target is on the disk; concurrent callers share.

        Args:
            target: `appended`, read under the lock of the append: later, it may lie in another
                segment, which says nothing of the caller's.

        Raises:
            StoreError: The disk refuses.
        """
        while True:
            with self._sync_ended:
                while self._syncing and self._synced < target:
                    self._sync_ended.wait()
                # First: a later segment may have been synced before this caller woke.
                if any(start < target <= end for start, end in self._lost.items()):
                    raise StoreError("the disk has refused a sync of the log")
                if self._synced >= target:
                    return
                upto, file, segment = self.appended, self._file, self._segment
                # Of a segment that has ended, all is synced or lost.
                assert file is not None and segment is not None  # noqa: S101, PT018
                self._syncing = True
            try:
                _fdatasync(file.fileno())
            except OSError as error:
                with self._sync_ended:
                    self._lost[self._synced] = sys.maxsize
                segment.broken = True
                raise StoreError(f"cannot sync the log: {error}") from error
            else:
                self._synced = upto
            finally:
                with self._sync_ended:
                    self._syncing = False
                    self._sync_ended.notify_all()

    def __del__(self) -> None:
        # Of a store that nobody closed; what it acknowledged is written.
        if self._file is not None:
            self._file.close()

    @property
    def current(self) -> Segment | None:
        """The segment at hand."""
        return self._segment

    def close(self) -> None:
        """Write what is held back, and end the segment.

        Raises:
            StoreError: The disk is full, or the like; it is still held back.
        """
        self.write_out()
        if self._file is None:
            return
        if self._durability == "power":
            # Also after a failed write: what came before it is whole. Where the disk refuses, or
            # has refused, each caller whose record is lost is told by its own `sync`. No sync is
            # left in flight: one that is reaches up to here, or is waited for.
            with suppress(StoreError):
                self.sync(self.appended)
        with self._sync_ended:
            self._lost = {start: min(end, self.appended) for start, end in self._lost.items()}
            self._file.close()
            self._file = self._segment = None

    def _begin(self) -> None:
        self.close()
        path = self._folder / f"{self._member}-{self._number:06d}.log"
        self._number += 1  # also where it fails: a name is used once
        with disk_faults("begin a segment of the log"):
            # Unbuffered: what `write` returns from is the system's, and survives the process.
            file = io.FileIO(path, "x", opener=opener(file_mode(self._folder)))
            try:
                _write_all(file, MAGIC)
                if self._durability == "power":
                    _fdatasync(file.fileno())
                    sync_path(self._folder)
                segment = Segment(path)
            except OSError:
                file.close()
                with suppress(OSError):
                    path.unlink()
                raise
        segment.own, segment.written = True, len(MAGIC)
        self._file, self._segment = file, segment
        self._size = len(MAGIC)

    def _write(self, offset: int, data: bytes) -> None:
        file = self._file
        assert file is not None  # noqa: S101 - `segment` is called first
        with disk_faults("append to the log"):
            # At its offset: what is written again after a failure is the same bytes.
            file.seek(offset)
            _write_all(file, data)
        if self._segment is not None:
            self._segment.written = offset + len(data)


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextmanager
def disk_faults(operation: str) -> Iterator[None]:
    """Name the faults of the disk."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {operation}: {error.strerror or error}") from error


class Checkpoint(NamedTuple):
    """Which records of the log the table reflects."""

    done: dict[str, int]
    """Up to where, by segment: what lies before is in the table, or has left."""
    settled: dict[str, int]
    """The same, one reading of the whole log earlier.

    A deletion before this point needs no memory: everything that it could concern lies before
    `done`. One between the two is read again when a store is opened.
    """
    dropped: dict[str, int]
    """Segments whose files are being deleted: not to be read, should they still be there."""
    now: float = 0.0
    """The time by the clock of entries, which does not go back: not after a restart either."""


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint; None where there is none that can be read.

    Raises:
        StoreError: The file is there and cannot be opened.
    """
    path = folder / CHECKPOINT
    try:
        return checkpoint_of(json.loads(read_file(path)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError):
        return None


def checkpoint_of(found: Any) -> Checkpoint | None:
    """Return the checkpoint that was written as such JSON; None where it is not one."""
    try:
        parts = (found[name].items() for name in ("done", "settled", "dropped"))
        done, settled, dropped = ({str(k): int(v) for k, v in part} for part in parts)
        checkpoint = Checkpoint(done, settled, dropped, float(found["now"]))
        # Without one, as of a store of format 4.
        sound = found.get("checksum") in {None, _checksum(checkpoint)}
        return checkpoint if sound else None  # noqa: TRY300 - as above
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def said_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as it is written, with its checksum."""
    return {**checkpoint._asdict(), "checksum": _checksum(checkpoint)}


def _checksum(checkpoint: Checkpoint) -> int:
    return zlib.crc32(json.dumps(checkpoint._asdict()).encode())


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint, wholly or not at all, on the disk.

    Raises:
        StoreError: The disk is full, or the like; the old one stays.
    """
    with disk_faults("write the checkpoint"), replacing(folder / CHECKPOINT) as file:
        file.write(json.dumps(said_of(checkpoint)).encode())


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """Open a file that takes a path's place at the end, wholly or not at all, on the disk."""
    fresh = path.with_suffix(".new")
    with open(fresh, "wb", opener=opener(file_mode(path.parent))) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk.

    Raises:
        FileNotFoundError: It is not there.
        OSError: The disk refuses.
    """
    if sys.platform == "win32" and path.is_dir():
        return  # it opens no directory
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
