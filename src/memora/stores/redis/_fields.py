"""Conversion of an entry to the fields of a hash, and back. JSON and bytes: no code is stored."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from memora.context import fingerprint_of
from memora.errors import CorruptEntryError
from memora.model import Content, Context, Entry, EntryInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.protocols import Vector

FOREVER = 1e18
"""The end of an entry that never ends, in seconds since the epoch."""
# Contents up to this size are returned with the candidates of a search, so that a hit needs no
# second request; larger ones would make each miss expensive.
_INLINE_BYTES = 16 * 1024
_KEPT_SECONDS = 86_400.0
_MOST_SECONDS = 1e15  # a server counts milliseconds in 63 bits
_BATCH = 64  # entries per call, which take the server some milliseconds
_BATCH_BYTES = 8 * 1024 * 1024


def moved(entry: Entry, seconds: float) -> Entry:
    """Return an entry with its times moved to the clock of a server that is ahead."""
    expires_at = None if entry.expires_at is None else entry.expires_at + seconds
    return replace(entry, created_at=entry.created_at + seconds, expires_at=expires_at)


def pack(
    entry: Entry, content: Content, vector: Vector | None, *, fence: str, now: float
) -> list[Any]:
    """Return an entry as the arguments of `put.lua`."""
    ends = min(entry.ends_at, FOREVER)
    floats = b"" if vector is None else vector.astype("<f4", copy=False).tobytes()
    size = (
        len(content.payload)
        + len(content.metadata.encode())
        + len(entry.query.encode())
        + len(entry.context.canonical.encode())
        + len(floats)
    )
    said = {
        "n": entry.key.hex(),
        "i": entry.id,
        "q": entry.query,
        "c": entry.context.canonical,
        "a": entry.created_at,
        "s": entry.stale_seconds,
        "w": entry.sliding_seconds,
        "t": entry.tags,
        "k": entry.cost,
        # Covers the other fields that are read back, except those that only the server changes.
        "r": None if entry.sliding_seconds is not None else entry.expires_at,
        "p": zlib.crc32(content.payload),
        "m": zlib.crc32(content.metadata.encode()),
        "v": zlib.crc32(floats),
    }
    fields: list[Any] = [
        "e",
        _sealed(orjson.dumps(said)),
        "i",
        entry.id,
        "a",
        repr(entry.created_at),
    ]
    fields += ["r", "" if entry.expires_at is None else repr(entry.expires_at)]
    fields += ["p" if len(content.payload) <= _INLINE_BYTES else "P", content.payload]
    if content.metadata != "{}":
        fields += ["m", content.metadata]
    if vector is not None:
        fields += ["v", floats]
    if entry.cost != 1.0:
        fields += ["k", repr(entry.cost)]
    if entry.sliding_seconds is not None:
        fields += ["w", repr(entry.sliding_seconds), "q", repr(entry.stale_seconds)]
    if fence:
        fields += ["f", fence]
    # By the server's own clock, long after the end: removes entries that no process sweeps.
    left = min(max(ends - now, 0.0), _MOST_SECONDS)
    keep = "" if entry.expires_at is None else int(1000 * (left + _KEPT_SECONDS))
    return [
        *(entry.key.hex(), entry.context.fingerprint, fence, keep, size, repr(ends)),
        orjson.dumps(entry.tags) if entry.tags else "",
        *(floats, len(fields), *fields),
    ]


_SEAL = b',"z":'


def _sealed(said: bytes) -> bytes:
    """Return a JSON object with the checksum of its other members."""
    return b"%s%s%d}" % (said[:-1], _SEAL, zlib.crc32(said[:-1]))


def _opened(said: bytes) -> dict[str, Any]:
    """Parse a JSON object and check its checksum; one of an older version has none."""
    whole, seal, number = said.rpartition(_SEAL)
    found: dict[str, Any] = orjson.loads(said)
    if seal and zlib.crc32(whole) != int(number[:-1]):
        raise ValueError("a checksum")
    return found


def _check(part: bytes, said: bytes, name: str) -> None:
    """Raise CorruptEntryError if a field does not match the checksum in its entry."""
    try:
        expected = _opened(said).get(name)
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptEntryError(f"an entry is damaged: {type(error).__name__}") from error
    if expected not in {None, zlib.crc32(part)}:
        raise CorruptEntryError("a part of an entry is damaged")


def entry_of(said: bytes, expires: bytes, ahead: float) -> Entry:
    """Parse an entry of a server that is ahead.

    Raises:
        CorruptEntryError: It is damaged, or not Memora's.
    """
    try:
        found = _opened(said)
        canonical = found["c"]
        end = float(expires) if expires else None
        if found["w"] is None and found.get("r", end) != end:
            raise ValueError("its end")  # noqa: TRY301 - like the errors of `loads`
        return Entry(
            id=found["i"],
            key=bytes.fromhex(found["n"]),
            query=found["q"],
            context=Context(canonical, fingerprint_of(canonical)),
            created_at=found["a"] - ahead,
            expires_at=None if end is None else end - ahead,
            stale_seconds=found["s"],
            sliding_seconds=found["w"],
            tags=tuple(found["t"]),
            cost=found["k"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptEntryError(f"an entry is damaged: {type(error).__name__}") from error


def content_of(payload: bytes | None, metadata: bytes | None, said: bytes) -> Content:
    """Parse the content of an entry.

    Raises:
        CorruptEntryError: It is damaged.
    """
    told = b"{}" if metadata is None else metadata
    _check(payload or b"", said, "p")
    _check(told, said, "m")
    return Content(payload or b"", told.decode())


def vector_of(floats: bytes | None, said: bytes) -> Vector | None:
    """Parse the vector of an entry.

    Raises:
        CorruptEntryError: It is damaged.
    """
    _check(floats or b"", said, "v")
    return None if floats is None else np.frombuffer(floats, "<f4")


def info_of(row: Sequence[Any], ahead: float) -> tuple[int, EntryInfo]:
    """Parse a row of `select.lua` after its key, of a server that is ahead: stamp and entry."""
    stamp, said, expires, size, uses = row
    times, _, last = uses.partition(b" ")
    held = EntryInfo(
        entry=entry_of(said, expires, ahead),
        uses=int(times or 0),
        last_used_at=float(last) - ahead if last else None,
        bytes=int(size),
    )
    return int(stamp), held


def batches(waiting: list[list[Any]]) -> Iterator[list[list[Any]]]:
    """Divide packed entries into the batches of single calls."""
    batch: list[list[Any]] = []
    size = 0
    for packed in waiting:
        size += packed[4]
        if batch and (len(batch) == _BATCH or size > _BATCH_BYTES):
            yield batch
            batch, size = [], packed[4]
        batch.append(packed)
    yield batch
