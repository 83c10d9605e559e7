"""Binary format of a log record: one operation with its checksum and all data to repeat it.

Little endian. The checksum covers everything after itself, so a truncated or changed record is
never taken for a valid one.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memora.context import fingerprint_of
from memora.model import Content, Context, Entry
from memora.stores.memtable import Uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memora.protocols import Vector

PUT, DELETE, USE, INVALIDATE_TAG = 1, 2, 3, 4

# checksum | kind | lengths of the texts: context, query, metadata, tags | floats of the vector |
# payload length | sequence number | key | id | created | expires (infinity: never) | stale, sliding
# (negative: none) | cost
_HEADER = struct.Struct("<I Bxxx IIIII Qq 16s16s dd ddd")
_USES = np.dtype([("key", "V16"), ("times", "<u4"), ("last", "<f8"), ("last_fresh", "<f8")])
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_KIND = re.compile(rb"(?=[\x01-\x04]\x00\x00\x00)")  # the kind and the padding after it
_KIND_AT = _CHECKSUM.size
_SEQS = range(2**60, 2**62)  # nanoseconds: the years 2006 to 2116
# Largest records in which a flipped bit is searched: everywhere, or only in the header.
_SMALL_BYTES, _LARGE_BYTES = 512, 64 * 1024


class Record(NamedTuple):
    """One operation, as read."""

    kind: int
    seq: int
    """Order of the operations of all processes; see `memora.stores.disk.store`."""
    key: bytes
    """Key of a PUT or DELETE."""
    entry: Entry | None = None
    """Entry of a PUT; so are the next two fields."""
    vector: Vector | None = None
    content: Content | None = None
    uses: Mapping[bytes, Uses] = {}
    """Uses of a USE, since the previous one."""
    tag: str = ""
    """Tag of an INVALIDATE_TAG."""


def pack_put(seq: int, entry: Entry, content: Content, vector: Vector | None) -> bytes:
    """Return the PUT record of an entry."""
    context = entry.context.canonical.encode()
    query = entry.query.encode()
    metadata = content.metadata.encode()
    tags = json.dumps(entry.tags).encode() if entry.tags else b""
    floats = b"" if vector is None else vector.astype("<f4", copy=False).tobytes()
    header = _HEADER.pack(
        *(0, PUT, len(context), len(query), len(metadata), len(tags)),
        *(len(floats) // 4, len(content.payload)),
        *(seq, entry.key, bytes.fromhex(entry.id), entry.created_at),
        math.inf if entry.expires_at is None else entry.expires_at,
        *(entry.stale_seconds, -1.0 if entry.sliding_seconds is None else entry.sliding_seconds),
        entry.cost,
    )
    return _sealed(b"".join((header, floats, context, query, metadata, tags, content.payload)))


def pack_delete(seq: int, key: bytes) -> bytes:
    """Return the DELETE record of a key: it deletes entries put up to seq."""
    return _plain(DELETE, seq, key=key)


def pack_deletion(record: Record) -> bytes:
    """Return the bytes of a DELETE or INVALIDATE_TAG record."""
    if record.kind == DELETE:
        return pack_delete(record.seq, record.key)
    return pack_invalidate_tag(record.seq, record.tag)


def pack_uses(seq: int, uses: Mapping[bytes, Uses]) -> bytes:
    """Return a USE record: how often and when last entries were served since the previous one."""
    rows = np.array([(key, *one) for key, one in uses.items()], _USES)
    return _plain(USE, seq, payload=rows.tobytes())


def pack_invalidate_tag(seq: int, tag: str) -> bytes:
    """Return the INVALIDATE_TAG record of a tag: it invalidates entries put up to seq."""
    return _plain(INVALIDATE_TAG, seq, payload=tag.encode())


def _plain(kind: int, seq: int, *, key: bytes = bytes(16), payload: bytes = b"") -> bytes:
    numbers = (0.0, math.inf, 0.0, -1.0, 1.0)
    header = _HEADER.pack(0, kind, 0, 0, 0, 0, 0, len(payload), seq, key, bytes(16), *numbers)
    return _sealed(header + payload)


def length_at(data: bytes | bytearray | memoryview, at: int) -> int | None:
    """Return the length of the record at an offset, from its header; None if that is incomplete."""
    if at + HEADER_BYTES > len(data):
        return None
    _, _, context, query, metadata, tags, floats, payload, *_ = _HEADER.unpack_from(data, at)
    return int(HEADER_BYTES + 4 * floats + context + query + metadata + tags + payload)


def unpack(data: bytes | bytearray | memoryview) -> Record | None:
    """Parse a record; None if the bytes are not exactly one valid record."""
    view = memoryview(data)
    if length_at(view, 0) != len(view):
        return None
    checksum, kind, context, query, metadata, tags, floats, _, seq, key, id_, *numbers = (
        _HEADER.unpack_from(view)
    )
    if zlib.crc32(view[_CHECKSUM.size :]) != checksum:
        return None
    if kind == USE:
        rows: list[Any] = np.frombuffer(view[HEADER_BYTES:], _USES).tolist()
        return Record(kind, seq, key, uses={name: Uses(*one) for name, *one in rows})
    if kind == INVALIDATE_TAG:
        return Record(kind, seq, key, tag=str(view[HEADER_BYTES:], "utf-8"))
    if kind != PUT:  # a deletion
        return Record(kind, seq, key)
    created, expires, stale, sliding, cost = numbers
    at = HEADER_BYTES + 4 * floats
    vector = np.frombuffer(view, "<f4", floats, HEADER_BYTES) if floats else None
    canonical = str(view[at : (at := at + context)], "utf-8")
    text = str(view[at : (at := at + query)], "utf-8")
    metadata_text = str(view[at : (at := at + metadata)], "utf-8")
    labels = str(view[at : (at := at + tags)], "utf-8")
    entry = Entry(
        id=id_.hex(),
        key=key,
        query=text,
        context=Context(canonical, fingerprint_of(canonical)),
        created_at=created,
        expires_at=None if expires == math.inf else expires,
        stale_seconds=stale,
        sliding_seconds=None if sliding < 0 else sliding,
        tags=tuple(json.loads(labels)) if labels else (),
        cost=cost,
    )
    return Record(kind, seq, key, entry, vector, Content(bytes(view[at:]), metadata_text))


def next_record(data: bytes) -> int | None:
    """Return the offset of the first valid record after offset 0; None if there is none."""
    view, patience = memoryview(data), 16 * len(data)
    for found in _KIND.finditer(data, _KIND_AT + 1):
        at = found.start() - _KIND_AT
        length = length_at(view, at)
        if length is None or at + length > len(data):
            continue
        if _HEADER.unpack_from(view, at)[8] not in _SEQS:
            continue
        patience -= length
        if patience < 0:
            return None
        if unpack(view[at : at + length]) is not None:
            return at
    return None


def is_cut_short(data: bytes, *, of_deletions: bool) -> bool:
    """Return whether the bytes at the end of a segment are one incomplete record."""
    length = length_at(data, 0)
    if length is None or length <= len(data):
        return length is None
    if not of_deletions:
        return True
    # A deletion is a header, followed by at most a tag. Any other length is a damaged one.
    _, kind, *lengths, _ = _HEADER.unpack_from(data)[:8]
    return bool(kind == INVALIDATE_TAG) and not any(lengths)


def repaired(data: bytes) -> Record | None:
    """Return the record in which one bit is flipped; None if that is not the fault.

    Only for what a lost record may have done. A repaired record must never be served.
    """
    if not HEADER_BYTES <= len(data) <= _LARGE_BYTES:
        return None
    raw = bytearray(data)
    for bit in range(8 * (len(raw) if len(raw) <= _SMALL_BYTES else HEADER_BYTES)):
        raw[bit // 8] ^= 1 << bit % 8
        if (record := unpack(raw)) is not None:
            return record
        raw[bit // 8] ^= 1 << bit % 8
    return None


def content_of(data: bytes, key: bytes) -> Content | None:
    """Return the content in the record of a key; None if it is damaged or of another key."""
    if length_at(data, 0) != len(data):
        return None
    checksum, _, context, query, metadata, tags, floats, _, _, found, *_ = _HEADER.unpack_from(data)
    if found != key or zlib.crc32(memoryview(data)[_CHECKSUM.size :]) != checksum:
        return None
    at = HEADER_BYTES + 4 * floats + context + query
    return Content(data[at + metadata + tags :], data[at : at + metadata].decode())


def checksum_of(vector: Vector | None) -> int:
    """Return the CRC-32 of a vector's bytes in a record; 0 for no vector."""
    return 0 if vector is None else zlib.crc32(vector.astype("<f4", copy=False).tobytes())


def vector_of(data: bytes, dimension: int) -> Vector:
    """Return the vector in a record, without checking its checksum."""
    return np.frombuffer(data, "<f4", dimension, HEADER_BYTES)


def _sealed(record: bytes) -> bytes:
    checksum = zlib.crc32(memoryview(record)[_CHECKSUM.size :])
    return _CHECKSUM.pack(checksum) + record[_CHECKSUM.size :]
