"""Kinds of polars, as Arrow IPC with polars' own metadata, checked before it is trusted."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import polars as pl

from memora.codec._ipc import growth
from memora.codec._kind import Blob, Kind, UnsupportedError, refused_kind

_EXTENSION: Any = getattr(pl, "BaseExtension", ())  # polars 2: types of the application


def _frame_parts(frame: pl.DataFrame) -> list[Any]:
    file = frame.write_ipc(None)
    file.seek(0)
    if pl.read_ipc(file, n_rows=0).schema != frame.schema or any(map(_is_foreign, frame.dtypes)):
        raise UnsupportedError("a polars column of this type may not be restored exactly; cast it")
    return [frame.height, Blob(file.getbuffer())]


def _is_foreign(dtype: Any) -> bool:
    """Return whether only a process that registered the type can read it as that type."""
    inner = getattr(dtype, "inner", None)
    return (
        isinstance(dtype, _EXTENSION)
        or (inner is not None and _is_foreign(inner))
        or any(_is_foreign(field.dtype) for field in getattr(dtype, "fields", ()))
    )


def _size(_height: int, blob: memoryview) -> int:
    return growth(blob)


def _frame(height: int, blob: memoryview) -> pl.DataFrame:
    try:
        frame = pl.read_ipc(BytesIO(blob))
    except pl.exceptions.PanicException as panic:  # not an Exception: no other handler catches it
        raise ValueError("not an Arrow file") from panic
    if frame.height != height:
        raise ValueError("not the rows of this frame")
    return frame


def _same_frames(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.schema == other.schema and one.equals(other, null_equal=True)


KINDS = (
    Kind("pl.df", (pl.DataFrame,), _frame_parts, _frame, same=_same_frames, size=_size),
    Kind(
        "pl.series",
        (pl.Series,),
        lambda series: _frame_parts(series.to_frame()),
        lambda height, blob: _frame(height, blob).to_series(),
        same=lambda one, other: _same_frames(one.to_frame(), other.to_frame()),
        size=_size,
    ),
    refused_kind(
        "pl.lazy", pl.LazyFrame, problem="a LazyFrame is a plan, not a result; collect() it first"
    ),
)
