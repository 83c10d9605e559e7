"""Kinds of pandas: a frame is stored as its indexes and the arrays of its columns.

One Arrow table would turn column names into text, NaN into null, and objects into whatever they
resemble. Storing column by column converts nothing: a numpy column is its bytes, a nullable one its
values and mask, a categorical its codes and categories. Only what Arrow holds already (strings,
Arrow-backed dtypes) is stored as Arrow IPC.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from memora.codec._kind import Kind, UnsupportedError, at_key, keys_of

_ExtensionArray: Any = pd.api.extensions.ExtensionArray
_CategoricalDtype: Any = pd.CategoricalDtype
_Flags: Any = pd.Flags  # type: ignore[attr-defined]
_arrays: Any = pd.arrays  # the stubs lack some of these
_DateOffset: Any = pd.DateOffset
_PeriodDtype: Any = pd.PeriodDtype
_PeriodIndex: Any = pd.PeriodIndex
_StringDtype: Any = pd.StringDtype


def _values(column: Any) -> Any:
    """Return the array of a Series or an Index: numpy's if there is one, otherwise pandas'."""
    array = column.array
    return array.to_numpy() if type(array) is _arrays.NumpyExtensionArray else array


def _column(values: Any) -> Any:
    """Return the array of a column unchanged.

    Raises:
        TypeError: It is not a one-dimensional array. pandas would expand a forged range, a short
            index or a single number to as many rows as the record claims.
    """
    if not isinstance(values, (np.ndarray, _ExtensionArray)) or values.ndim != 1:
        raise TypeError("not the array of a column")
    return values


def _labels(index: Any) -> Any:
    if not isinstance(index, pd.Index):
        raise TypeError("not an index")
    return index


def _plain(values: Any) -> np.ndarray[Any, Any]:
    if not isinstance(values, np.ndarray):
        raise TypeError("not the numbers of an array")
    _column(values)
    return values


# Frames.


def _series_parts(series: Any) -> list[Any]:
    return [
        _values(series),
        series.index,
        series.name,
        dict(series.attrs),
        series.flags.allows_duplicate_labels,
    ]


def _series(values: Any, index: Any, name: Any, attrs: Any, duplicates: Any) -> Any:
    return _labelled(_bare_series(values, _labels(index), name), attrs, duplicates)


def _bare_series(values: Any, index: Any, name: Any = None) -> Any:
    return pd.Series(_column(values), index, dtype=values.dtype, name=name, copy=False)


def _frame_parts(frame: Any) -> list[Any]:
    return [
        frame.index,
        frame.columns,
        dict(frame.attrs),
        frame.flags.allows_duplicate_labels,
        *(_values(column) for _, column in frame.items()),
    ]


_BEFORE_COLUMNS = 4


def _frame(index: Any, columns: Any, attrs: Any, duplicates: Any, *arrays: Any) -> Any:
    frame: Any = pd.DataFrame(
        {place: _bare_series(array, index) for place, array in enumerate(arrays)},
        index=_labels(index),
        copy=False,
    )
    frame.columns = _labels(columns)
    return _labelled(frame, attrs, duplicates)


def _in_frame(frame: Any, part: int) -> str:
    if part < _BEFORE_COLUMNS:
        return (".index", ".columns", ".attrs", ".flags")[part]
    return at_key(frame.columns[part - _BEFORE_COLUMNS])


def _labelled(whole: Any, attrs: dict[Any, Any], duplicates: bool) -> Any:  # noqa: FBT001
    whole.attrs = attrs
    if not duplicates:
        # Bypass the setter, which hashes all labels: forged numbers may all share one hash.
        whole._flags = _Flags(whole, allows_duplicate_labels=False)  # noqa: SLF001
    return whole


# Indexes.


def _index_parts(index: Any) -> list[Any]:
    freq = getattr(index, "freq", None) if index.dtype.kind in "mM" else None
    return [_values(index), index.name, freq]


def _index(values: Any, name: Any, freq: Any) -> Any:
    if _column(values).dtype == object:
        keys_of([value for value in values if isinstance(value, Hashable)])
    index: Any = pd.Index(values, values.dtype, copy=False, name=name, tupleize_cols=False)
    if freq is None:
        return index
    if not isinstance(freq, BaseOffset):
        raise TypeError("not a frequency")
    # Bypass the constructor's check: pandas' own tz_convert keeps a frequency that the values no
    # longer follow.
    (index if hasattr(index, "_freq") else index._data)._freq = freq  # noqa: SLF001
    return index if index.freq == freq else type(index)(values, freq=freq, name=name)


def _multi_index_parts(index: Any) -> list[Any]:
    return [list(index.names), index.sortorder, *index.levels, *map(np.asarray, index.codes)]


def _multi_index(names: Any, sortorder: Any, *parts: Any) -> Any:
    half = len(parts) // 2
    for level, codes in zip(parts[:half], parts[half:], strict=True):
        _check_codes(codes, level)
        if len(codes) != len(parts[half]):
            raise ValueError("not the codes of an index")
    if not isinstance(names, list):
        raise TypeError("not the names of an index")
    # Bypass the constructor's check, which hashes all labels: see `_labelled`.
    return pd.MultiIndex(
        parts[:half], parts[half:], sortorder=sortorder, names=names, verify_integrity=False
    )


def _check_codes(codes: Any, labels: Any) -> None:
    if _plain(codes).dtype.kind != "i":
        raise TypeError("not codes")
    if len(codes) and not -1 <= codes.min() <= codes.max() < len(_labels(labels)):
        raise ValueError("not the codes of these labels")


def _offset_parts(offset: Any) -> list[Any]:
    try:
        exact = to_offset(offset.freqstr) == offset
    except ValueError:
        exact = False
    if not exact:
        raise UnsupportedError(f"a frequency of {type(offset).__name__}; set it to None first")
    return [offset.freqstr]


# Arrays.


def _categorical(codes: Any, categories: Any, ordered: Any) -> Any:
    _check_codes(codes, categories)
    make = _CategoricalDtype._from_fastpath  # noqa: SLF001 - does not hash labels: see `_labelled`
    return pd.Categorical.from_codes(codes, dtype=make(_labels(categories), ordered))


def _ticks(array: Any) -> np.ndarray[Any, Any]:
    ticks: np.ndarray[Any, Any] = array.asi8.view(f"{array.dtype.kind}8[{array.unit}]")
    return ticks


def _datetimes(ticks: Any, zone: Any) -> Any:
    index = pd.DatetimeIndex(_plain(ticks), copy=False)
    return (index if zone is None else index.tz_localize("UTC").tz_convert(zone)).array


def _sparse_parts(array: Any) -> list[Any]:
    places = array.sp_index.to_int_index().indices
    return [array.sp_values, places, len(array), array.fill_value, array.kind]


def _sparse(values: Any, places: Any, length: int, fill: Any, kind: str) -> Any:
    _plain(values)
    _plain(places)
    if hasattr(_arrays.SparseArray, "from_indices"):  # pandas 3.1
        return _arrays.SparseArray.from_indices(values, places, length, fill_value=fill, kind=kind)
    index: Any = type(_arrays.SparseArray([0]).sp_index.to_int_index())(length, places)
    index = index.to_block_index() if kind == "block" else index
    dtype = pd.SparseDtype(values.dtype, fill)
    return _arrays.SparseArray(values, sparse_index=index, fill_value=fill, dtype=dtype)


def _string_parts(array: Any) -> list[Any]:
    try:
        data = array.__arrow_array__()
    except UnicodeEncodeError:  # a lone surrogate, which Arrow cannot hold
        data = np.asarray(array, dtype=object)
    return [array.dtype.storage, array.dtype.na_value is pd.NA, data]


def _strings(storage: str, na: bool, data: Any) -> Any:  # noqa: FBT001
    dtype = _StringDtype(storage) if na else _StringDtype(storage, na_value=np.nan)
    if isinstance(data, np.ndarray):
        return pd.array(_column(data), dtype)
    # A dictionary type would be expanded to one text per row.
    if str(data.type) not in {"string", "large_string"}:
        raise TypeError("not the texts of an array")
    return dtype.__from_arrow__(data)


def _masked_kind(name: str, cls: Any) -> Kind:
    return Kind(
        name,
        (cls,),
        lambda array: [array.to_numpy(array.dtype.numpy_dtype, na_value=0), array.isna()],
        cls,
    )


# Scalars.


def _timestamp(ticks: Any, zone: Any, fold: int) -> Any:
    moment: Any = pd.Timestamp(ticks)
    if zone is None:
        return moment.replace(fold=fold) if fold else moment
    return moment.tz_localize("UTC").tz_convert(zone)


KINDS = (
    Kind("pd.df", (pd.DataFrame,), _frame_parts, _frame, _in_frame),
    Kind("pd.series", (pd.Series,), _series_parts, _series),
    Kind(
        "pd.range",
        (pd.RangeIndex,),
        lambda i: [i.start, i.stop, i.step, i.name],
        lambda a, b, c, name: pd.RangeIndex(a, b, c, name=name),
    ),
    Kind("pd.multi", (pd.MultiIndex,), _multi_index_parts, _multi_index),
    Kind(
        "pd.index",
        (
            pd.Index,
            pd.DatetimeIndex,
            pd.TimedeltaIndex,
            pd.PeriodIndex,
            pd.IntervalIndex,
            pd.CategoricalIndex,
        ),
        _index_parts,
        _index,
    ),
    Kind(
        "pd.dateoffset",
        (pd.DateOffset,),
        lambda offset: [offset.n, offset.normalize, offset.kwds],
        lambda n, normalize, kwds: _DateOffset(n, normalize, **kwds),
    ),
    Kind("pd.freq", (BaseOffset,), _offset_parts, to_offset, family=True),
    Kind(
        "pd.categorical",
        (pd.Categorical,),
        lambda c: [c.codes, c.categories, c.ordered],
        _categorical,
    ),
    _masked_kind("pd.integers", _arrays.IntegerArray),
    _masked_kind("pd.floats", _arrays.FloatingArray),
    _masked_kind("pd.booleans", _arrays.BooleanArray),
    Kind(
        "pd.strings",
        (_arrays.StringArray, _arrays.ArrowStringArray),
        _string_parts,
        _strings,
        family=True,
        size=lambda _storage, _na, data: 8 * len(data),  # one object per row, null or not
    ),
    Kind(
        "pd.arrow",
        (_arrays.ArrowExtensionArray,),
        lambda array: [array.__arrow_array__()],
        _arrays.ArrowExtensionArray,
    ),
    Kind(
        "pd.datetimes",
        (_arrays.DatetimeArray,),
        lambda array: [_ticks(array), array.tz],
        _datetimes,
    ),
    Kind(
        "pd.timedeltas",
        (_arrays.TimedeltaArray,),
        lambda array: [_ticks(array)],
        lambda ticks: pd.TimedeltaIndex(_plain(ticks), copy=False).array,
    ),
    Kind(
        "pd.periods",
        (_arrays.PeriodArray,),
        lambda array: [array.asi8, str(array.dtype)],
        lambda ordinals, dtype: (
            _PeriodIndex.from_ordinals(_plain(ordinals), freq=_PeriodDtype(dtype).freq).array
        ),
    ),
    Kind(
        "pd.intervals",
        (_arrays.IntervalArray,),
        lambda array: [array.left, array.right, array.closed],
        lambda left, right, closed: _arrays.IntervalArray.from_arrays(
            _labels(left), _labels(right), closed
        ),
        size=lambda left, right, _: 8 * (len(_labels(left)) + len(_labels(right))),
    ),
    Kind("pd.sparse", (_arrays.SparseArray,), _sparse_parts, _sparse),
    Kind(
        "pd.numpy",
        (_arrays.NumpyExtensionArray,),
        lambda array: [array.to_numpy()],
        lambda values: _arrays.NumpyExtensionArray(_plain(values)),
    ),
    Kind("pd.na", (type(pd.NA),), lambda _: (), lambda: pd.NA),
    Kind("pd.nat", (type(pd.NaT),), lambda _: (), lambda: pd.NaT),
    Kind("pd.timestamp", (pd.Timestamp,), lambda t: [t.asm8, t.tz, t.fold], _timestamp),
    Kind("pd.timedelta", (pd.Timedelta,), lambda delta: [delta.asm8], pd.Timedelta),
    Kind(
        "pd.period",
        (pd.Period,),
        lambda p: [p.ordinal, str(pd.PeriodDtype(p.freq))],
        lambda ordinal, dtype: pd.Period(ordinal=ordinal, freq=_PeriodDtype(dtype).freq),
    ),
    Kind("pd.interval", (pd.Interval,), lambda i: [i.left, i.right, i.closed], pd.Interval),
)
