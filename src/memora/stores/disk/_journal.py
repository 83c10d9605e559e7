"""The log of a store on disk: segment files that hold every operation of every process.

Each process appends to its own segments and reads the segments of all. A record stays where it was
written for as long as its entry lives, so a payload is written once. A segment is complete when its
writer has begun another one or has ended. A lock file per process shows which have ended: the
system releases the lock however the process ends.
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

from memora._files import PRIVATE, file_mode, open_file, opener, read_file, replacing
from memora.errors import StoreError
from memora.stores.disk import _records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Durability: TypeAlias = Literal["memory", "process", "power"]

MAGIC = b"MEMORA LOG 4\n\x00\x00\x00"
"""The first bytes of a segment; the records follow."""
CHECKPOINT = "checkpoint.json"
"""Name of the file that `write_checkpoint` replaces."""

DELETIONS = "x"
"""Suffix of a member's name, which ends with a hexadecimal digit, in the names of its segments that
hold deletions."""
RESERVE = "reserve"
"""Name of the file that `keep_reserve` makes."""
_RESERVE_BYTES = 512 * 1024

# The most bytes of records that durability "memory" holds back; beyond, a store waits for the file.
_PENDING_BYTES = 64 * 1024 * 1024
_COARSE_NS = 1_000_000_000  # largest lag of a file's modification time behind the clock
_PROBE = bytes(4096)  # one block, which a full disk refuses; an empty file it may accept
_fdatasync = getattr(os, "fdatasync", os.fsync)  # missing on macOS


class Segment:
    """One file of the log, open for reading; stays readable after the file is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.position = len(MAGIC)
        """Up to where its records have been applied in this process."""
        self.own = False
        """Whether this process writes it."""
        self.pending: dict[int, bytes] = {}
        """Records held back, by offset; see `Writer`."""
        self.written = sys.maxsize
        """Up to where it is written, if this process writes it."""
        self.complete_since: float | None = None
        """When it became complete, in monotonic seconds; None if it is not."""
        self.vanished = False
        """Whether its file has been deleted; it is still open here."""
        self.damaged_at: int | None = None
        """Where its records end and unreadable bytes begin; None if there are none."""
        self.searched = 0
        """File size at which no record was found after an unreadable one."""
        self.broken = False
        """Whether a write or a sync of it has failed: later records may be lost too."""
        self._descriptor = open_file(path)

    def __del__(self) -> None:
        # Not closed before the last reader is gone: the system gives a closed descriptor to another
        # file.
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def end(self) -> int:
        """Up to where it can be read at all."""
        return self.size() if self.damaged_at is None else self.damaged_at

    @property
    def taken(self) -> int:
        """Up to where its records have been applied here and are written."""
        return min(self.position, self.written)

    @property
    def stream(self) -> str:
        """Common prefix of the segments of one `Writer`, which follow each other."""
        return self.name.rpartition("-")[0]

    @property
    def writer(self) -> str:
        """Name of the member that writes, or wrote, this segment."""
        return self.stream.removesuffix(DELETIONS)

    @property
    def holds_deletions(self) -> bool:
        """Whether it holds only deletions and outdated tags."""
        return holds_deletions(self.name)

    def size(self) -> int:
        """Return the length of the file."""
        return os.fstat(self._descriptor).st_size

    def written_at(self) -> int:
        """Return a stamp not earlier than any of its operations."""
        return os.fstat(self._descriptor).st_mtime_ns + _COARSE_NS

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes."""
        pending = self.pending.get(offset)
        return _pread(self._descriptor, length, offset) if pending is None else pending[:length]

    def records(self, limit: int) -> Iterator[tuple[int, int, _records.Record]]:
        """Yield (offset, length, record) from `position` on, about `limit` bytes.

        Ends at an incomplete record: its writer may not be finished.
        """
        start = self.position
        data = memoryview(_pread(self._descriptor, limit, start))
        at = 0
        while (length := _records.length_at(data, at)) is not None:
            if at + length > len(data):
                if at or length > self.size() - start:
                    return  # the next read begins there; or the record is incomplete
                data = memoryview(_pread(self._descriptor, length, start))
            record = _records.unpack(data[at : at + length])
            if record is None:
                return
            yield start + at, length, record
            at += length

    def sync(self) -> None:
        """Sync the file to the disk.

        Raises:
            OSError: The disk refuses; the next sync may succeed although data is lost.
        """
        try:
            os.fsync(self._descriptor)
        except OSError:
            self.broken = True
            raise


def holds_deletions(segment: str) -> bool:
    """Return whether a segment of this name holds only deletions and outdated tags."""
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


def keep_reserve(path: Path) -> None:
    """Keep a file that takes up space; it is deleted when a full disk must take deletions.

    Deletions, and the flush that applies them to the table, free space.
    """
    with suppress(OSError):  # the disk is full, or another process makes the file
        if not path.exists():
            fresh = path.with_suffix(f".{os.getpid()}")
            with replacing(path, fresh, file_mode(path.parent)) as file:
                file.write(os.urandom(_RESERVE_BYTES))  # random: no file system compresses it


def release_reserve(path: Path) -> bool:
    """Delete the file of `keep_reserve`; False if there is none."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def segment_names(folder: Path) -> set[str]:
    """Return the names of the segments in the folder.

    Raises:
        OSError: The folder is gone, or cannot be listed.
    """
    return set(_matching(folder, ".log"))


def _matching(folder: Path, suffix: str) -> list[str]:
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
    for name in _matching(folder, ".lock"):
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
        """Bytes appended to all segments; after `append`, the target for `sync`."""
        self._synced = 0
        # Ranges (from -> to) whose sync failed, as the system reports that only once. Later records
        # in the broken segment are lost too, so the last range is open until another segment
        # begins.
        self._lost: dict[int, int] = {}
        self._syncing = False
        self._sync_ended = threading.Condition()

    def segment(self, size: int, *, limit: int) -> Segment:
        """Return the segment for the next record of this size; begin a new one if needed."""
        full = self._size + size > limit and self._size > len(MAGIC)
        if self._segment is None or full or self._segment.broken:
            self._begin()
        assert self._segment is not None  # noqa: S101 - begun above
        return self._segment

    def append(self, records: list[bytes]) -> list[int]:
        """Append records to the current segment, all or none; return their offsets.

        Raises:
            StoreError: The disk is full, for example; nothing was appended.
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
        """Write the records that durability "memory" has held back.

        Raises:
            StoreError: The disk is full, for example; they are still held back.
        """
        if (segment := self._segment) is None or not segment.pending:
            return
        offset = next(iter(segment.pending))
        self._write(offset, b"".join(segment.pending.values()))
        segment.pending.clear()
        self.pending_bytes = 0

    def sync(self, target: int) -> None:
        """Wait until the log is synced to the disk up to a target; concurrent callers share a sync.

        Args:
            target: `appended`, read under the lock of the append. Read later, it may lie in another
                segment, whose sync does not cover the caller's records.

        Raises:
            StoreError: The disk refuses.
        """
        while True:
            with self._sync_ended:
                while self._syncing and self._synced < target:
                    self._sync_ended.wait()
                # Checked first: a later segment may have been synced before this caller woke.
                if any(start < target <= end for start, end in self._lost.items()):
                    raise StoreError("the disk has refused a sync of the log")
                if self._synced >= target:
                    return
                upto, file, segment = self.appended, self._file, self._segment
                # An ended segment is entirely synced or lost, so only the current one is left to
                # sync.
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
        # For a store that was never closed; its acknowledged records are written.
        if self._file is not None:
            self._file.close()

    @property
    def current(self) -> Segment | None:
        """The segment that takes the next records; None if none has begun."""
        return self._segment

    def close(self) -> None:
        """Write what is held back, and end the segment.

        Raises:
            StoreError: The disk is full, for example; records are still held back.
        """
        self.write_out()
        if self._file is None:
            return
        if self._durability == "power":
            # Also after a failed write: earlier records are intact. If the disk refuses or has
            # refused, each caller whose record is lost gets the error from its own `sync`. No sync
            # is left in flight: it either reaches this point or is waited for.
            with suppress(StoreError):
                self.sync(self.appended)
        with self._sync_ended:
            self._lost = {start: min(end, self.appended) for start, end in self._lost.items()}
            self._file.close()
            self._file = self._segment = None

    def _begin(self) -> None:
        self.close()
        path = self._folder / f"{self._member}-{self._number:06d}.log"
        self._number += 1  # even if this fails: a name is used once
        with disk_faults("begin a segment of the log"):
            # Unbuffered: once `write` returns, the system has the data, and it survives the
            # process.
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
            # Written at its offset, so that a retry after a failure writes the same bytes again.
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
    """Turn OSError into StoreError, with the operation's name."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {operation}: {error.strerror or error}") from error


class Checkpoint(NamedTuple):
    """Which records of the log the table reflects."""

    done: dict[str, int]
    """By segment, up to where every record is applied to the table."""
    settled: dict[str, int]
    """By segment, the same position, as it was one reading of the whole log earlier.

    A deletion before this point need not be remembered: every record it could affect lies before
    `done`. A deletion between the two is read again when a store is opened."""
    dropped: dict[str, int]
    """Segments whose files are being deleted: not to be read if they still exist."""
    now: float = 0.0
    """Time by the clock of entries, which never goes back, not even after a restart."""


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint; None if there is none or it is unreadable.

    Raises:
        StoreError: The file exists but cannot be opened.
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
    """Parse a checkpoint from JSON; None if it is not valid."""
    try:
        parts = (found[name].items() for name in ("done", "settled", "dropped"))
        done, settled, dropped = ({str(k): int(v) for k, v in part} for part in parts)
        checkpoint = Checkpoint(done, settled, dropped, float(found["now"]))
        # A store of format 4 has no checksum.
        sound = found.get("checksum") in {None, _checksum(checkpoint)}
        return checkpoint if sound else None  # noqa: TRY300 - as above
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def said_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint in its JSON form, with its checksum."""
    return {**checkpoint._asdict(), "checksum": _checksum(checkpoint)}


def _checksum(checkpoint: Checkpoint) -> int:
    return zlib.crc32(json.dumps(checkpoint._asdict()).encode())


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint atomically, and sync it to the disk.

    Raises:
        StoreError: The disk is full, for example; the old checkpoint stays.
    """
    with disk_faults("write the checkpoint"):
        write_synced(folder / CHECKPOINT, json.dumps(said_of(checkpoint)).encode())


def write_synced(path: Path, content: bytes) -> None:
    """Replace a file atomically, and sync it and its directory to the disk; raises OSError."""
    with replacing(path, path.with_suffix(".new"), file_mode(path.parent)) as file:
        file.write(content)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Sync a file, or the names in a directory, to the disk.

    Raises:
        FileNotFoundError: It does not exist.
        OSError: The disk refuses.
    """
    if sys.platform == "win32" and path.is_dir():
        return  # Windows cannot open a directory
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
