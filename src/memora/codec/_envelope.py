"""The format of a payload: a header, the tree as JSON, the blobs; with a checksum.

    offset  size
         0     3  b"MEM"
         3     1  version of the format
         4     4  CRC-32 of everything after it
         8     1  1 if the tree is the value itself as JSON, 0 if it holds tagged nodes
         9     3  zero
        12     4  number of blobs, n
        16     8  length of the tree
        24    8n  lengths of the blobs
                  the tree, then the blobs, each at the next multiple of 16

All integers are little-endian. The checksum detects damage, not forgery: anyone with write access
to the store can write any value of the kinds the application accepts, but cannot run code.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from memora.errors import CorruptEntryError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"MEM"
VERSION = 1
ALIGNMENT = 16  # sufficient for any numpy or Arrow value, so that Arrow can read in place

_OUTER = struct.Struct("<3sBI")
_INNER = struct.Struct("<B3xIQ")


class Unsealed(NamedTuple):
    """Views of the parts of a payload."""

    plain: bool
    tree: memoryview
    blobs: list[memoryview]


def seal(tree: bytes, blobs: Sequence[memoryview], *, plain: bool) -> bytes:
    """Frame a tree and its blobs, copying each byte once."""
    sizes = [blob.nbytes for blob in blobs]
    chunks: list[bytes | memoryview] = [
        _INNER.pack(plain, len(blobs), len(tree)) + struct.pack(f"<{len(sizes)}Q", *sizes),
        tree,
    ]
    end = _OUTER.size + len(chunks[0]) + len(tree)
    for blob in blobs:
        chunks += [bytes(-end % ALIGNMENT), blob]
        end += -end % ALIGNMENT + blob.nbytes
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    return b"".join([_OUTER.pack(MAGIC, VERSION, checksum), *chunks])


def unseal(payload: bytes) -> Unsealed:
    """Check a payload and return views of its parts, without copying.

    Raises:
        CorruptEntryError: The payload is damaged, truncated, or of another format version.
    """
    view = memoryview(payload)
    if len(view) < _OUTER.size + _INNER.size:
        raise CorruptEntryError(f"stored result is cut short: {len(view)} bytes")
    magic, version, checksum = _OUTER.unpack_from(view)
    if magic != MAGIC:
        raise CorruptEntryError("stored result is not one of Memora's")
    if version != VERSION:
        raise CorruptEntryError(
            f"stored result has format version {version}, this Memora reads {VERSION}"
        )
    if zlib.crc32(view[_OUTER.size :]) != checksum:
        raise CorruptEntryError("stored result is damaged: its checksum does not match")
    plain, count, length = _INNER.unpack_from(view, _OUTER.size)
    start = _OUTER.size + _INNER.size
    sizes: tuple[int, ...] = ()
    if 8 * count <= len(view) - start:
        sizes = struct.unpack_from(f"<{count}Q", view, start)
    start += 8 * count
    end = start + length
    tree = view[start:end]
    blobs = []
    for size in sizes:
        start = end + -end % ALIGNMENT
        end = start + size
        blobs.append(view[start:end])
    if end != len(view):
        raise CorruptEntryError("stored result is damaged: its parts do not add up")
    return Unsealed(plain=bool(plain), tree=tree, blobs=blobs)
