"""Kinds of numpy: arrays of every dtype, scalars, dtypes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from memora.codec._kind import Blob, Kind, UnsupportedError, refused_kind
from memora.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FORMAT: Any = np.lib.format  # some versions of numpy have no types for it
_TEXT: Any = getattr(np.dtypes, "StringDType", None)  # numpy 2: variable-length text
_NAN = np.nan  # the object that pandas and numpy use for a missing value
_MOST_AXES = 64  # numpy's limit of axes per array
_MANTISSA = int(np.finfo(np.longdouble).nmant)  # the size of a long double depends on the platform


def _dtype_parts(dtype: np.dtype[Any]) -> list[Any]:
    descr: Any = dtype.str if dtype.names is None else _FORMAT.dtype_to_descr(dtype)
    parts: list[Any] = [descr, dtype.char]
    if any(base.char in "gG" for base in _bases(dtype)):
        parts.append(_MANTISSA)
    try:
        again = _dtype(*parts)
        exact = again == dtype and again.type is dtype.type and dtype.metadata is None
    except (TypeError, ValueError):
        exact = False
    if not exact:
        raise UnsupportedError(f"an array of dtype {dtype.name!r} cannot be restored exactly")
    return parts


def _bases(dtype: np.dtype[Any]) -> Iterator[np.dtype[Any]]:
    if dtype.subdtype is not None:
        yield from _bases(dtype.subdtype[0])
    for field in (dtype.fields or {}).values():
        yield from _bases(field[0])
    yield dtype


def _dtype(descr: Any, char: str, mantissa: int = _MANTISSA) -> np.dtype[Any]:
    if mantissa != _MANTISSA:
        raise SerializationError(
            "stored result holds long doubles of another kind of machine; compute it again here"
        )
    dtype: np.dtype[Any] = _FORMAT.descr_to_dtype(descr)
    if dtype.char == char:
        return dtype
    alias = np.dtype(char).newbyteorder(descr[0])  # another C name for the same type
    return alias if alias.str == descr else dtype


def _array_parts(array: np.ndarray[Any, Any]) -> list[Any]:
    if _is_text(array.dtype):
        return ["text", array.shape, False, array.ravel().tolist()]
    if array.dtype.kind == "O":
        objects = array.ravel().tolist()
        holes = [place for place, value in enumerate(objects) if value is _NAN]
        for place in holes:
            objects[place] = None  # a text column has many, and JSON has no NaN
        return [array.dtype, array.shape, False, objects, np.array(holes, np.int64)]
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    if array.dtype.hasobject:
        raise UnsupportedError(
            "an array with Python objects inside its items; store them as columns"
        )
    return [array.dtype, array.shape, fortran, Blob(flat.view(np.uint8) if flat.nbytes else b"")]


def _is_text(dtype: np.dtype[Any]) -> bool:
    return _TEXT is not None and dtype == _TEXT()


def _array(
    dtype: Any,
    shape: Sequence[int],
    fortran: bool,  # noqa: FBT001 - a positional part
    data: Any,
    holes: Any = None,
) -> np.ndarray[Any, Any]:
    # Check exact types: a forged range as shape or items could claim any length.
    if type(shape) is not tuple or len(shape) > _MOST_AXES or {*map(type, shape)} - {int}:
        raise TypeError("not the shape of an array")
    if isinstance(dtype, str):
        if type(data) is not list or {*map(type, data)} - {str}:
            raise TypeError("not the texts of this array")
        return np.array(data, dtype=_TEXT()).reshape(shape)
    if dtype.kind == "O":
        if type(data) is not list or type(holes) is not np.ndarray:
            raise TypeError("not the items of this array")
        objects = np.fromiter(data, dtype=object, count=len(data))
        objects[holes] = _NAN
        return objects.reshape(shape)
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(data):
        raise ValueError("not the bytes of this array")
    array: np.ndarray[Any, Any] = np.empty(shape, dtype, order="F" if fortran else "C")
    if array.nbytes:
        flat = (array.T if fortran else array).reshape(-1).view(np.uint8)
        flat[:] = np.frombuffer(data, np.uint8)
    return array


def _size(dtype: Any, shape: Any, *_: Any) -> int:
    """Count items that take no bytes, because a reader makes an object for each."""
    empty = isinstance(dtype, np.dtype) and dtype.itemsize == 0 and type(shape) is tuple
    return max(0, 8 * prod(shape[:_MOST_AXES])) if empty else 0


def _scalar_parts(scalar: np.generic) -> list[Any]:
    if scalar.dtype.hasobject:
        raise UnsupportedError("a record with Python objects; store its fields")
    return [scalar.dtype, Blob(scalar.tobytes())]


KINDS = (
    Kind("np.dtype", (np.dtype,), _dtype_parts, _dtype, family=True),
    Kind("np.array", (np.ndarray,), _array_parts, _array, size=_size),
    # Functions such as `b"".join` accept only their own type: np.bytes_(n) would make n bytes.
    Kind(
        "np.str", (np.str_,), lambda text: [str.__str__(text)], lambda text: np.str_("".join(text))
    ),
    Kind("np.bytes", (np.bytes_,), lambda data: [bytes(data)], lambda d: np.bytes_(b"".join([d]))),
    Kind(
        "np.scalar",
        (np.generic,),
        _scalar_parts,
        lambda dtype, data: _array(dtype, (), False, data)[()],  # noqa: FBT003
        family=True,
    ),
    refused_kind(
        "np.masked",
        np.ma.MaskedArray,
        problem="a masked array has two arrays, .data and .mask; store those",
    ),
)
