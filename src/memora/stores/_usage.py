"""How entries of a store on disk have been used, in one file: what the log need not keep.

Every process logs its uses every few seconds; the owner of the upkeep sums them up here now and
then, so that the log can be cleared. Uses decide who is evicted and nothing else: a file that is
missing or damaged is an empty one.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memora._files import read_file
from memora.stores._journal import disk_faults, replacing
from memora.stores.hot import Uses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USES = "uses.npz"
"""Name of the file that `write_uses` replaces."""


class KeptUses(NamedTuple):
    """What the file says."""

    uses: Mapping[bytes, Uses]
    """By key."""
    counted: Mapping[str, int]
    """Up to where the uses in the log are among them, by segment."""


def read_uses(folder: Path) -> KeptUses:
    """Return what was written last."""
    try:
        return unpack_uses(read_file(folder / USES))
    except OSError:
        return KeptUses({}, {})


def write_uses(folder: Path, kept: KeptUses) -> int:
    """Replace the file, wholly or not at all; return its size.

    Raises:
        StoreError: The disk is full, or the like; the old one stays.
    """
    data = pack_uses(kept)
    with disk_faults("write the uses of entries"), replacing(folder / USES) as file:
        file.write(data)
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
    """Return what such bytes say: nothing where they are damaged."""
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
