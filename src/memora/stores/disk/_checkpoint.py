"""The checkpoint of a log: how far the table reflects it."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from memora._files import read_file
from memora.errors import StoreError
from memora.stores.disk._journal import disk_faults, write_synced

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = "checkpoint.json"
"""Name of the file that `write_checkpoint` replaces."""


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


def json_of(checkpoint: Checkpoint) -> dict[str, Any]:
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
        write_synced(folder / CHECKPOINT, json.dumps(json_of(checkpoint)).encode())
