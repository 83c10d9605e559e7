"""Saved usage of the entries of a store on disk: one file, so that the log need not keep it.

Every process logs its uses every few seconds. From time to time the owner of the maintenance saves
their sums here, so that their segments can be deleted. Usage affects only which entries are
evicted: a missing or damaged file counts as empty.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memora._files import read_file
from memora.stores.disk._journal import disk_faults, write_synced
from memora.stores.memtable import Uses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USES = "uses.npz"
"""Name of the file that `write_uses` replaces."""


class KeptUses(NamedTuple):
    """The content of the file."""

    uses: Mapping[bytes, Uses]
    """Usage by key."""
    counted: Mapping[str, int]
    """By segment, the position up to which its uses are included."""


def read_uses(folder: Path) -> KeptUses:
    """Return the saved usage."""
    try:
        return unpack_uses(read_file(folder / USES))
    except OSError:
        return KeptUses({}, {})


def write_uses(folder: Path, kept: KeptUses) -> int:
    """Replace the file atomically; return its size in bytes.

    Raises:
        StoreError: The disk is full, for example; the old file stays.
    """
    data = pack_uses(kept)
    with disk_faults("write the uses of entries"):
        write_synced(folder / USES, data)
    return len(data)


def pack_uses(kept: KeptUses) -> bytes:
    """Return the bytes of the file."""
    file, uses = io.BytesIO(), kept.uses.values()
    np.savez(
        file,
        keys=np.frombuffer(b"".join(kept.uses), np.uint8),
        times=np.fromiter((one.times for one in uses), np.int64, len(uses)),
        last=np.fromiter((one.last for one in uses), np.float64, len(uses)),
        last_fresh=np.fromiter((one.last_fresh for one in uses), np.float64, len(uses)),
        counted=np.frombuffer(json.dumps(kept.counted).encode(), np.uint8),
    )
    return file.getvalue()


def unpack_uses(data: bytes) -> KeptUses:
    """Parse the bytes of the file; empty if they are damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            keys = found["keys"].tobytes()
            rows = zip(*(found[name].tolist() for name in Uses._fields), strict=True)
            counted = json.loads(found["counted"].tobytes())
            return KeptUses(
                {keys[16 * i : 16 * i + 16]: Uses(*row) for i, row in enumerate(rows)},
                {str(name): int(at) for name, at in counted.items()},
            )
    except Exception:  # noqa: BLE001 - readers of zips and arrays raise a dozen types
        return KeptUses({}, {})
