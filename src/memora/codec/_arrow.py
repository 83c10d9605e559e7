"""Kinds of pyarrow, stored as Arrow IPC, which is exact by definition."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from memora.codec._ipc import growth
from memora.codec._kind import Blob, Kind, UnsupportedError

# An application's own extension type is known only to processes that registered it with Arrow; any
# other process reads its storage type. Arrow's own extension types are known everywhere.
_FOREIGN = re.compile(r"extension<(?!arrow\.)")


def _table_parts(table: Any) -> list[Any]:
    if any(_FOREIGN.search(str(kind)) for kind in table.schema.types):
        raise UnsupportedError(
            "an Arrow extension type may not be known where it is read; store .storage"
        )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write(table)
    return [Blob(sink.getvalue())]


def _table(blob: memoryview) -> Any:
    table = pa.ipc.open_stream(pa.py_buffer(blob)).read_all()
    table.validate(full=True)  # Arrow trusts offsets, and the checksum does not detect forgery
    return table


def _batch(blob: memoryview) -> Any:
    batch = pa.ipc.open_stream(pa.py_buffer(blob)).read_next_batch()
    batch.validate(full=True)
    return batch


def _alone(column: Any) -> Any:
    return pa.RecordBatch.from_arrays([column], [""])


# Arrow IPC is exact, and Arrow compares NaN as unequal. So the proof only checks that the value can
# be read, with the same schema or type and length.


def _same_schema(one: Any, other: Any) -> bool:
    same: bool = one.schema.equals(other.schema, check_metadata=True)
    return same and one.num_rows == other.num_rows


def _same_type(one: Any, other: Any) -> bool:
    return bool(one.type == other.type) and len(one) == len(other)


KINDS = (
    Kind("pa.table", (pa.Table,), _table_parts, _table, same=_same_schema, size=growth),
    Kind("pa.batch", (pa.RecordBatch,), _table_parts, _batch, same=_same_schema, size=growth),
    Kind(
        "pa.chunked",
        (pa.ChunkedArray,),
        lambda column: _table_parts(pa.table({"": column})),
        lambda blob: _table(blob).column(0),
        same=_same_type,
        size=growth,
    ),
    Kind(
        "pa.array",
        (pa.Array,),
        lambda array: _table_parts(_alone(array)),
        lambda blob: _batch(blob).column(0),
        family=True,
        same=_same_type,
        size=growth,
    ),
    Kind(
        "pa.scalar",
        (pa.Scalar,),
        lambda scalar: _table_parts(_alone(pa.repeat(scalar, 1))),
        lambda blob: _batch(blob).column(0)[0],
        family=True,
        same=lambda one, other: bool(one.type == other.type),
        size=growth,
    ),
)
