"""Estimate from its messages how much an Arrow IPC stream or file may grow when it is read.

Arrow reads buffers in place, so an honest stream grows little. A forged message may hold compressed
buffers, use one buffer for many columns, claim rows that take no bytes, or have a million texts
that are views of one long buffer, each of which is validated separately.

The layout is that of Arrow's `Message.fbs` and `File.fbs`. They are FlatBuffers; this module reads
only the few tables it needs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = b"ARROW1"
_CONTINUES = 0xFFFFFFFF  # precedes the length of a message, since Arrow 0.15
_DICTIONARY, _BATCH = 2, 3  # message types
_ROWS_A_BYTE = 8  # the smallest type that takes space is one bit


class _Growth(NamedTuple):
    rows: int
    """Rows of all arrays, including nested ones."""
    longest: int
    """Bytes of the longest buffer that text views refer to; 0 without text views."""


def growth(blob: memoryview) -> int:
    """Return how many bytes a stream or file may need beyond its own size.

    Raises:
        ValueError: pyarrow and polars would not write it: it is compressed, truncated, or its
            parts overlap.
    """
    is_file = blob[: len(_MAGIC)] == _MAGIC
    messages = _of_file(blob) if is_file else _of_stream(blob)
    parts = [_growth(blob, *message) for message in messages]
    rows, longest = sum(part.rows for part in parts), max([part.longest for part in parts] or [0])
    return rows // _ROWS_A_BYTE + (_viewed(blob, rows * longest, is_file=is_file) if longest else 0)


def _of_stream(blob: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the offsets of each message's metadata and body."""
    at = 0
    while at < len(blob):
        start, size = _metadata(blob, at)
        if not size:
            return
        yield start, start + size
        body = _Table.root(blob, start).integer(3, "q")
        if body < 0:  # would loop forever
            raise ValueError("not the length of a body")
        at = start + size + body


def _of_file(blob: memoryview) -> Iterator[tuple[int, int]]:
    """Yield as `_of_stream` does, from the block list in the file's footer."""
    tail = len(blob) - len(_MAGIC) - 4
    size = _read(blob, "i", tail)
    footer = _Table.root(blob, tail - size)
    end = 0
    blocks = np.concatenate([footer.structs(field, "i8,i4,i4,i8") for field in (2, 3)])
    for at, metadata, _, body in sorted(blocks.tolist()):
        if at < end or metadata < 0 or body < 0:
            raise ValueError("messages that overlap")
        start, _ = _metadata(blob, at)
        yield start, at + metadata
        end = at + metadata + body


def _metadata(blob: memoryview, at: int) -> tuple[int, int]:
    """Return the offset and the length of a message's metadata."""
    size = _read(blob, "I", at)
    return (at + 8, _read(blob, "I", at + 4)) if size == _CONTINUES else (at + 4, size)


def _growth(blob: memoryview, start: int, body: int) -> _Growth:
    message = _Table.root(blob, start)
    kind, batch = message.integer(1, "B"), message.table(2)
    if kind == _DICTIONARY and batch is not None:
        if batch.integer(2, "B"):
            raise ValueError("a dictionary that is written bit by bit")
        batch = batch.table(1)
    if kind not in {_DICTIONARY, _BATCH} or batch is None:
        return _Growth(0, 0)
    if batch.table(3) is not None:
        raise ValueError("compressed buffers")
    size = message.integer(3, "q")
    nodes, buffers = batch.structs(1, "i8,i8"), batch.structs(2, "i8,i8")
    rows, lengths = nodes["f0"].tolist(), buffers["f1"].tolist()
    if min(rows + lengths, default=0) < 0 or size < 0 or body + size > len(blob):
        raise ValueError("not the lengths of arrays")
    if sum(lengths) > size:
        raise ValueError("buffers that overlap")
    has_views = len(batch.structs(4, "i8")) > 0
    return _Growth(sum(rows) + batch.integer(0, "q"), max([*lengths, 0]) if has_views else 0)


def _viewed(blob: memoryview, most: int, *, is_file: bool) -> int:
    """Return the total bytes of texts that are views, counting each text separately."""
    source = pa.py_buffer(blob)
    try:
        reader: Any = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        table = reader.read_all()
    except pa.ArrowNotImplementedError:  # polars has types that pyarrow lacks
        return most
    found: dict[int, int] = {}  # by buffer address: batches share a dictionary
    for column in table.columns:
        for chunk in column.chunks:
            _measure_views(chunk, found)
    return sum(found.values())


def _measure_views(array: Any, found: dict[int, int]) -> None:
    kind = array.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        buffer = array.buffers()[1]
        if buffer is not None and buffer.address not in found:
            lengths = np.frombuffer(buffer, "<i4").reshape(-1, 4)[:, 0]
            found[buffer.address] = int(lengths.sum(dtype=np.int64))
        return
    inner: list[Any] = []
    if pa.types.is_dictionary(kind):
        inner = [array.dictionary]
    elif isinstance(array, pa.ExtensionArray):
        inner = [array.storage]
    elif pa.types.is_struct(kind) or pa.types.is_union(kind):
        inner = [array.field(at) for at in range(kind.num_fields)]
    elif pa.types.is_map(kind):
        inner = [array.keys, array.items]
    elif hasattr(array, "values"):  # all kinds of lists, and run-end encoded arrays
        inner = [array.values]
    for one in inner:
        _measure_views(one, found)


class _Table(NamedTuple):
    """A FlatBuffers table; fields are read by number."""

    blob: memoryview
    at: int

    @classmethod
    def root(cls, blob: memoryview, at: int) -> _Table:
        return cls(blob, at + _read(blob, "I", at))

    def integer(self, field: int, form: str) -> int:
        at = self._field(field)
        return 0 if at is None else int(self._read(form, at))

    def table(self, field: int) -> _Table | None:
        at = self._field(field)
        return None if at is None else _Table.root(self.blob, at)

    def structs(self, field: int, form: str) -> Any:
        """Return a vector of structs as a record array."""
        at, dtype = self._field(field), np.dtype(form)
        if at is None:
            return np.empty(0, dtype)
        start = at + self._read("I", at)
        return np.frombuffer(self.blob, dtype, self._read("I", start), start + 4)

    def _field(self, field: int) -> int | None:
        directory = self.at - self._read("i", self.at)
        place = 4 + 2 * field
        if place >= self._read("H", directory):
            return None
        offset = self._read("H", directory + place)
        return self.at + offset if offset else None

    def _read(self, form: str, at: int) -> int:
        return _read(self.blob, form, at)


def _read(blob: memoryview, form: str, at: int) -> int:
    try:
        value: int = struct.unpack_from(f"<{form}", blob, max(at, 0))[0]
    except struct.error:
        raise ValueError("cut short") from None
    return value
