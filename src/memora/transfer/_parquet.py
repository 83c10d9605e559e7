"""Entries as Parquet: every field that a store holds, exactly, with payloads and vectors."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memora._arguments import metadata_json
from memora.context import canonical_query, context_of_canonical
from memora.errors import (
    ArgumentError,
    ContextError,
    CorruptEntryError,
    ModelMismatchError,
    QueryError,
    TransferError,
)
from memora.model import Content
from memora.transfer._rows import (
    ImportRow,
    InvalidRow,
    Problem,
    broken,
    recorded_entry,
    recorded_fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from typing_extensions import Self

    from memora.codec import Codec
    from memora.model import Context, EntryInfo
    from memora.protocols import Embedder, Vector

FORMAT = 1
"""Version of the columns, recorded in the file."""

# Maximum rows of a group, and bytes that end it earlier. Reader and writer hold one group in
# memory.
_GROUP_ROWS = 256
_GROUP_BYTES = 64 * 1024 * 1024
# Limits on a file that hold even if it is small: a forgery may claim more than it has.
_MOST_VALUES = 16 * 1024 * 1024  # in one column of a group
_LARGEST_GROUP = 1024 * 1024 * 1024  # bytes, if payloads have no limit
_COMPRESSED = 16  # compression factor accepted for a large group
_LEAST_TEXT, _REPEATED = 1024 * 1024 * 1024, 1000  # bytes of all rows; factor to the file's size
_TOLERANCE = 1e-3  # allowed deviation of a vector's length from 1, as for an embedder


def _schema(model: str, dimension: int) -> pa.Schema:
    text, number = pa.string(), pa.float64()
    return pa.schema(
        [
            pa.field("id", text, nullable=False),
            pa.field("query", text, nullable=False),
            pa.field("context", text, nullable=False),
            pa.field("created_at", number, nullable=False),
            pa.field("expires_at", number),
            pa.field("stale_seconds", number, nullable=False),
            pa.field("sliding_seconds", number),
            pa.field("tags", pa.list_(text), nullable=False),
            pa.field("metadata", text, nullable=False),
            pa.field("cost", number, nullable=False),
            pa.field("uses", pa.int64(), nullable=False),
            pa.field("last_used_at", number),
            # Not a fixed-size list: pyarrow before 26 cannot read nulls of that type.
            pa.field("vector", pa.list_(pa.float32())),
            pa.field("payload", pa.large_binary(), nullable=False),
        ],
        metadata={
            "memora.export": str(FORMAT),
            "memora.model": model,
            "memora.dimension": str(dimension),
        },
    )


class ParquetSink:
    """Writer of entries to an open file, in groups of rows."""

    def __init__(self, file: IO[bytes], embedder: Embedder) -> None:
        self._schema = _schema(embedder.identity, embedder.dimension)
        # Columns with repeated values; for the others a dictionary would be a wasted attempt.
        shared: Any = ["context", "metadata", "tags.list.element"]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=shared,
            write_page_checksum=True,
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, info: EntryInfo, content: Content, vector: Vector | None) -> None:
        """Add an entry."""
        entry = info.entry
        self._rows.append(
            {
                **recorded_fields(info),
                "query": entry.query,
                "context": entry.context.canonical,
                "metadata": content.metadata,
                "vector": vector,
                "payload": content.payload,
            }
        )
        self._bytes += len(content.payload) + len(content.metadata)
        self._bytes += len(entry.query) + len(entry.context.canonical)
        if len(self._rows) == _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the remaining rows and the file's footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Stop writing; otherwise the writer would write a footer when it is garbage-collected."""
        self._writer.is_open = False

    def _flush(self) -> None:
        if self._rows:
            rows = pa.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(rows, row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0


class ParquetSource:
    """An exported file; a context manager.

    Args:
        path: The file.
        embedder: The embedder that the vectors must be of, unless `embeds` is true.
        codec: Checks payloads.
        max_payload_bytes: Maximum size of a payload; None for no limit.
        embeds: Whether the vectors are recomputed, so that the file's do not matter.

    Raises:
        TransferError: The file is no export, has another format, or lacks a column.
        ModelMismatchError: The vectors are of another model.
    """

    def __init__(
        self,
        path: Path,
        *,
        embedder: Embedder,
        codec: Codec,
        max_payload_bytes: int | None,
        embeds: bool,
    ) -> None:
        self.name = str(path)
        self._codec = codec
        self._dimension = None if embeds else embedder.dimension
        self._max_payload_bytes = max_payload_bytes
        self._last: Context | None = None
        # Do not read vectors that will be recomputed.
        self._columns = [name for name in _COLUMNS if name != "vector" or not embeds]
        with _explained(self.name):
            self._size = path.stat().st_size
            metadata = pq.read_metadata(path)
            # Keep repeated values as a dictionary: one text for all rows that have it.
            self._file = pq.ParquetFile(
                path,
                metadata=metadata,
                read_dictionary=_shared(metadata),
                page_checksum_verification=True,
            )
        self.total: int = metadata.num_rows
        try:
            schema = metadata.schema.to_arrow_schema()
            self._check_sizes(metadata)
            _check_stamp(self.name, schema.metadata, None if embeds else embedder)
            _check_columns(self.name, schema)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self) -> Iterator[ImportRow | Problem]:
        """Yield the entries, row by row."""
        number = size = 0
        for group in range(self._file.num_row_groups):
            for batch in self._batches(group):
                columns = {name: _cells(batch.column(name)) for name in self._columns}
                for at in range(batch.num_rows):
                    number += 1
                    row = {name: cells[at] for name, cells in columns.items()}
                    size += sum(len(cell) for cell in row.values() if isinstance(cell, _SIZED))
                    if size > max(_LEAST_TEXT, _REPEATED * self._size):
                        raise TransferError(
                            f"{self.name} cannot be read: its first {number:,} rows hold "
                            f"{size:,} bytes, which its {self._size:,} bytes only repeat"
                        )
                    try:
                        yield self._import_row(row)
                    except InvalidRow as error:
                        yield Problem(f"row {number}", str(error))

    def _batches(self, group: int) -> Iterator[pa.RecordBatch]:
        with _explained(self.name):
            yield from self._file.iter_batches(
                batch_size=_GROUP_ROWS, row_groups=[group], columns=self._columns
            )

    def _check_sizes(self, metadata: pq.FileMetaData) -> None:
        """Refuse a file that claims far more memory than its size, before it is read."""
        largest = self._max_payload_bytes or _LARGEST_GROUP
        most_values, problem = max(_MOST_VALUES, self._size), ""
        if metadata.num_rows > self._size:
            problem = f"{metadata.num_rows:,} rows"
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(at) for at in range(group.num_columns)]
            packed = sum(column.total_compressed_size for column in columns)
            size = sum(column.total_uncompressed_size for column in columns)
            if size > max(2 * _GROUP_BYTES + largest, _COMPRESSED * min(packed, self._size)):
                problem = f"{size:,} bytes in group {number + 1} of rows"
            for column in columns:
                if column.num_values > most_values:
                    problem = f"{column.num_values:,} values of {column.path_in_schema}"
                if "DELTA_BYTE_ARRAY" in column.encodings:
                    problem = f"texts of {column.path_in_schema} as parts of one another"
        if problem:
            raise TransferError(
                f"{self.name} cannot be read: its {self._size:,} bytes state {problem}, which "
                "no export of Memora's does"
            )

    def _import_row(self, row: dict[str, Any]) -> ImportRow:
        for name, nullable in _COLUMNS.items():
            if row.get(name) is None and not nullable:
                raise broken(name, None, "a value")
        if self._last is None or self._last.canonical != row["context"]:
            self._last = _context(row["context"])  # consecutive rows often share one
        entry, uses, last = recorded_entry(row, text=_query(row["query"]), context=self._last)
        return ImportRow(
            entry=entry,
            content=Content(self._payload(row["payload"]), _metadata(row["metadata"])),
            vector=None if self._dimension is None else _vector(row["vector"], self._dimension),
            uses=uses,
            last_used_at=last,
        )

    def _payload(self, payload: bytes) -> bytes:
        most = self._max_payload_bytes
        if most is not None and len(payload) > most:
            raise InvalidRow(
                f"payload has {len(payload):,} bytes, expected at most the {most:,} that "
                "max_payload_bytes and max_bytes allow"
            )
        try:
            self._codec.check(payload)
        except CorruptEntryError as error:
            raise broken("payload", payload[:16], f"an undamaged result: {error}") from None
        return payload


_SIZED = (str, bytes)
# Columns by name; True if nullable.
_COLUMNS = {field.name: field.nullable for field in _schema("", 1)}
_KINDS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "text": ("text", lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)),
    "number": (
        "numbers",
        lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
    ),
    "whole": ("whole numbers", pa.types.is_integer),
    "texts": (
        "lists of text",
        lambda kind: _is_list(kind) and _is_any(kind.value_type, "text"),
    ),
    "vector": (
        "lists of float32",
        lambda kind: _is_list(kind) and pa.types.is_floating(kind.value_type),
    ),
    "bytes": ("bytes", lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind)),
}
_KIND_OF = {
    "id": "text",
    "query": "text",
    "context": "text",
    "tags": "texts",
    "metadata": "text",
    "uses": "whole",
    "vector": "vector",
    "payload": "bytes",
}


def _shared(metadata: pq.FileMetaData) -> list[str]:
    """Return the text and bytes columns that have a dictionary."""
    found: dict[str, None] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                found[column.path_in_schema] = None
    return list(found)


def _is_any(kind: pa.DataType, wanted: str) -> bool:
    return bool(pa.types.is_null(kind) or _KINDS[wanted][1](kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _check_stamp(name: str, metadata: dict[bytes, bytes] | None, embedder: Embedder | None) -> None:
    found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
    try:
        version, dimension = int(found["memora.export"]), int(found["memora.dimension"])
        model = found["memora.model"]
    except (KeyError, ValueError):
        raise TransferError(
            f"{name} is no export of Memora's: its schema does not say memora.export, "
            "memora.model and memora.dimension (other programs leave them out when they rewrite "
            "a file)"
        ) from None
    if version != FORMAT:
        raise TransferError(
            f"{name} has export format {version}, and this version of Memora reads {FORMAT}"
            + ("; upgrade memora-cache" if version > FORMAT else "")
        )
    if embedder is not None and (model, dimension) != (embedder.identity, embedder.dimension):
        raise ModelMismatchError(
            f"{name} holds vectors of {model!r} ({dimension} dimensions), but this cache embeds "
            f"with {embedder.identity!r} ({embedder.dimension} dimensions), and vectors of two "
            "models cannot be compared; import it with reembed=True (--reembed) to embed its "
            "queries with this cache's model, or open a cache with the first model"
        )


def _check_columns(name: str, schema: pa.Schema) -> None:
    if missing := [column for column in _COLUMNS if column not in schema.names]:
        raise TransferError(
            f"{name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"expected {', '.join(_COLUMNS)}"
        )
    for column in _COLUMNS:
        if schema.names.count(column) > 1:
            raise TransferError(f"{name} has the column {column} twice")
        wanted = _KIND_OF.get(column, "number")
        if not _is_any(schema.field(column).type, wanted):
            raise TransferError(
                f"{name}: the column {column} holds {schema.field(column).type}, expected "
                f"{_KINDS[wanted][0]}"
            )


def _cells(column: pa.Array) -> list[Any]:
    """Return the values of a column; vectors are arrays, and text that is not UTF-8 is bytes."""
    if pa.types.is_dictionary(column.type):
        values = _cells(column.dictionary)
        return [None if at is None else values[at] for at in column.indices.to_pylist()]
    if _is_list(column.type):
        if pa.types.is_floating(column.type.value_type):
            return [
                cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None
                for cell in column
            ]
        if pa.types.is_dictionary(column.type.value_type):
            return [_cells(cell.values) if cell.is_valid else None for cell in column]
    try:
        cells: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        cells = [_cell(cell) for cell in column]
    return cells


def _cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else b"not UTF-8"


def _query(value: Any) -> str:
    try:
        text = canonical_query(value)
    except QueryError as error:
        raise broken("query", value, f"a text: {error}") from None
    if text != value:
        raise broken("query", value, "no white space around it, and Unicode's form NFC")
    return text


def _context(value: Any) -> Context:
    try:
        return context_of_canonical(value)
    except ContextError as error:
        raise InvalidRow(f"{broken('context', value, 'a context')}: {error}") from None


def _metadata(value: Any) -> str:
    try:
        found = json.loads(value)
        metadata_json(found)
    except (TypeError, ValueError, RecursionError, ArgumentError):
        raise broken("metadata", value, "a JSON object") from None
    text: str = value
    return text


def _vector(value: Any, dimension: int) -> Vector | None:
    if value is None:
        return None
    if len(value) != dimension:
        raise InvalidRow(f"vector has {len(value)} numbers, expected {dimension}")
    vector: Vector = np.array(value, dtype=np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(length - 1) < _TOLERANCE:  # also true for NaN
        raise InvalidRow(f"vector has the length {length:.4g}, expected a finite one of length 1")
    return vector


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Add the file's name to errors of Arrow, which are ValueErrors and OSErrors."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TransferError(f"{name} cannot be read: {reason}") from error
