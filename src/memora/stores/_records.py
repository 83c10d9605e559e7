"""The record of the log: one operation, its checksum, and all that it needs to be done again.

Little endian. The checksum covers everything after itself, so a record that was cut short or
changed is never taken for one.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memora.context import fingerprint_of
from memora.model import Content, Context, Entry

if TYPE_CHECKING:
    from memora.protocols import Vector

PUT, DELETE = 1, 2

# checksum | kind | texts: context, query, metadata | floats of the vector | payload | stamp | key
# | id | created | expires (infinite: never)
_HEADER = struct.Struct("<I Bxxx IIII Qq 16s16s dd")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size


class Record(NamedTuple):
    """One operation, as read."""

    kind: int
    stamp: int
    """Order of all operations of all processes; see `memora.stores.lancedb`."""
    key: bytes
    entry: Entry | None
    vector: Vector | None
    content: Content | None


def pack_put(stamp: int, entry: Entry, content: Content, vector: Vector | None) -> bytes:
    """Return the record of an entry."""
    context = entry.context.canonical.encode()
    query = entry.query.encode()
    metadata = content.metadata.encode()
    floats = b"" if vector is None else vector.astype("<f4", copy=False).tobytes()
    header = _HEADER.pack(
        *(0, PUT, len(context), len(query), len(metadata), len(floats) // 4, len(content.payload)),
        *(stamp, entry.key, bytes.fromhex(entry.id), entry.created_at),
        math.inf if entry.expires_at is None else entry.expires_at,
    )
    return _sealed(b"".join((header, floats, context, query, metadata, content.payload)))


def pack_delete(stamp: int, key: bytes) -> bytes:
    """Return the record of a deletion: of what was stored under a key up to a stamp."""
    return _sealed(_HEADER.pack(0, DELETE, 0, 0, 0, 0, 0, stamp, key, bytes(16), 0.0, math.inf))


def length_at(data: bytes | memoryview, at: int) -> int | None:
    """Return how long the record at an offset says it is; None where its header is not whole."""
    if at + HEADER_BYTES > len(data):
        return None
    _, _, context, query, metadata, floats, payload, *_ = _HEADER.unpack_from(data, at)
    return int(HEADER_BYTES + 4 * floats + context + query + metadata + payload)


def unpack(data: bytes | memoryview) -> Record | None:
    """Return the record that these bytes are; None where they are not one, or not whole."""
    view = memoryview(data)
    if length_at(view, 0) != len(view):
        return None
    checksum, kind, context, query, metadata, floats, _, stamp, key, id_, created, expires = (
        _HEADER.unpack_from(view)
    )
    if zlib.crc32(view[_CHECKSUM.size :]) != checksum:
        return None
    if kind == DELETE:
        return Record(kind, stamp, key, None, None, None)
    at = HEADER_BYTES + 4 * floats
    vector = np.frombuffer(view, "<f4", floats, HEADER_BYTES) if floats else None
    canonical = str(view[at : (at := at + context)], "utf-8")
    text = str(view[at : (at := at + query)], "utf-8")
    entry = Entry(
        id=id_.hex(),
        key=key,
        query=text,
        context=Context(canonical, fingerprint_of(canonical)),
        created_at=created,
        expires_at=None if expires == math.inf else expires,
    )
    json = str(view[at : (at := at + metadata)], "utf-8")
    return Record(kind, stamp, key, entry, vector, Content(bytes(view[at:]), json))


def content_of(data: bytes, key: bytes) -> Content | None:
    """Return the content of the record of a key; None where it is damaged, or another's."""
    if length_at(data, 0) != len(data):
        return None
    checksum, _, context, query, metadata, floats, _, _, found, *_ = _HEADER.unpack_from(data)
    if found != key or zlib.crc32(memoryview(data)[_CHECKSUM.size :]) != checksum:
        return None
    at = HEADER_BYTES + 4 * floats + context + query
    return Content(data[at + metadata :], data[at : at + metadata].decode())


def vector_of(data: bytes, dimension: int) -> Vector:
    """Return the vector in the beginning of a record; its checksum is not looked at."""
    return np.frombuffer(data, "<f4", dimension, HEADER_BYTES)


def _sealed(record: bytes) -> bytes:
    checksum = zlib.crc32(memoryview(record)[_CHECKSUM.size :])
    return _CHECKSUM.pack(checksum) + record[_CHECKSUM.size :]
