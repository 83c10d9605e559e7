"""What goes through the codec comes back: same types at every level, same values, same order."""

import collections
import datetime as dt
import math
import struct
import uuid
import zoneinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.extra import pandas as hpd
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from memora.codec import Codec
from memora.errors import CorruptEntryError, SerializationError

CODEC = Codec()
PARIS = "Europe/Paris"
DAY = dt.datetime.fromisoformat("2024-01-01")
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
MANY = settings(FEW, max_examples=250)


def through(value: Any) -> Any:
    payload = CODEC.encode(value)
    assert type(payload) is bytes
    return CODEC.decode(payload)


def assert_same(old: Any, new: Any) -> None:
    """Equal, and of equal types all the way down; NaN equals the same NaN, -0.0 is not 0.0."""
    assert type(old) is type(new)
    for types, check in CHECKS.items():
        if isinstance(old, types):
            check(old, new)
            return
    assert old is new or old == new


def assert_same_items(old: Any, new: Any) -> None:
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        assert_same(one, other)


def assert_same_deque(old: Any, new: Any) -> None:
    assert old.maxlen == new.maxlen
    assert_same_items(old, new)


def assert_same_mapping(old: Any, new: Any) -> None:
    assert_same_items(list(old), list(new))
    assert_same_items(list(old.values()), list(new.values()))


def order(member: Any) -> str:
    """Tell the members of a set apart, equal `repr`s and all."""
    if isinstance(member, float | complex):
        return repr(struct.pack("<dd", complex(member).real, complex(member).imag))
    if isinstance(member, tuple):
        return repr([order(part) for part in member])
    if isinstance(member, frozenset):
        return repr(sorted(map(order, member)))
    return repr(member)


def assert_same_moment(old: Any, new: Any) -> None:
    assert (old.replace(tzinfo=None), old.fold) == (new.replace(tzinfo=None), new.fold)
    assert_same(old.tzinfo, new.tzinfo)
    if isinstance(old, pd.Timestamp):
        assert (old.unit, old.asm8) == (new.unit, new.asm8)


def assert_same_array(old: Any, new: Any) -> None:
    assert old.dtype == new.dtype
    assert old.dtype.str == new.dtype.str
    assert old.shape == new.shape
    if isinstance(new, np.ndarray):
        assert new.flags.f_contiguous or not old.flags.f_contiguous
        assert new.flags.c_contiguous or old.flags.f_contiguous
    if old.dtype.kind in "OT":
        assert_same(old.ravel().tolist(), new.ravel().tolist())
    else:
        assert old.tobytes() == new.tobytes()


def assert_same_frame(old: Any, new: Any) -> None:
    assert_same([old.index, old.columns, dict(old.attrs)], [new.index, new.columns, new.attrs])
    assert old.flags == new.flags
    for (_, one), (_, other) in zip(old.items(), new.items(), strict=True):
        assert_same(one.array, other.array)


def assert_same_series(old: Any, new: Any) -> None:
    assert_same(
        [old.name, old.index, old.array, dict(old.attrs)],
        [new.name, new.index, new.array, new.attrs],
    )
    assert old.flags == new.flags


def assert_same_multi_index(old: Any, new: Any) -> None:
    assert_same(
        [*old.names, *old.levels, *map(np.asarray, old.codes)],
        [*new.names, *new.levels, *map(np.asarray, new.codes)],
    )


def assert_same_index(old: Any, new: Any) -> None:
    assert_same([old.name, old.array], [new.name, new.array])
    assert_same(getattr(old, "freq", None), getattr(new, "freq", None))


def assert_same_pandas_array(old: Any, new: Any) -> None:
    assert old.dtype == new.dtype
    if isinstance(old, pd.Categorical):
        assert_same([old.categories, old.codes], [new.categories, new.codes])
        assert old.ordered is new.ordered
    elif isinstance(old, pd.arrays.SparseArray):
        assert (old.kind, old.npoints) == (new.kind, new.npoints)
    assert_same(list(old), list(new))


def assert_same_polars_frame(old: Any, new: Any) -> None:
    assert (old.schema, old.shape) == (new.schema, new.shape)
    text = pl.col(pl.Categorical).cast(pl.String)
    assert_frame_equal(old.with_columns(text), new.with_columns(text), check_exact=True)


def assert_same_arrow_table(old: Any, new: Any) -> None:
    assert old.schema.equals(new.schema, check_metadata=True)
    assert_same(old.to_pylist(), new.to_pylist())


def assert_same_arrow_array(old: Any, new: Any) -> None:
    assert old.type == new.type
    assert_same(old.to_pylist(), new.to_pylist())


CHECKS = {  # the first that fits
    float: lambda old, new: assert_same(struct.pack("<d", old), struct.pack("<d", new)),
    complex: lambda old, new: assert_same([old.real, old.imag], [new.real, new.imag]),
    (list, tuple): assert_same_items,
    collections.deque: assert_same_deque,
    dict: assert_same_mapping,
    (set, frozenset): lambda old, new: assert_same(sorted(old, key=order), sorted(new, key=order)),
    SimpleNamespace: lambda old, new: assert_same(vars(old), vars(new)),
    (dt.datetime, dt.time): assert_same_moment,
    Decimal: lambda old, new: assert_same(old.as_tuple(), new.as_tuple()),
    (np.ndarray, np.generic): assert_same_array,
    pd.DataFrame: assert_same_frame,
    pd.Series: assert_same_series,
    pd.MultiIndex: assert_same_multi_index,
    pd.Index: assert_same_index,
    pd.api.extensions.ExtensionArray: assert_same_pandas_array,
    (pd.Period, pd.Interval): lambda old, new: assert_same(repr(old), repr(new)),
    type(pd.NA): lambda old, new: None,
    pl.DataFrame: assert_same_polars_frame,
    pl.Series: lambda old, new: assert_same(old.to_frame(), new.to_frame()),
    (pa.Table, pa.RecordBatch): assert_same_arrow_table,
    (pa.Array, pa.ChunkedArray): assert_same_arrow_array,
}


# Plain Python.

SURROGATES = st.text(st.characters(codec=None), max_size=8)
ZONES = st.sampled_from(
    [
        None,
        dt.timezone.utc,
        dt.timezone(dt.timedelta(hours=5, minutes=30)),
        dt.timezone(dt.timedelta(seconds=-7), "odd"),
        zoneinfo.ZoneInfo("UTC"),
        zoneinfo.ZoneInfo("Europe/Paris"),
    ]
)
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 1e16, 0.1])
    | st.complex_numbers()
    | SURROGATES
    | st.sampled_from(["!", "", "\0", "\ud800", "é" * 30])
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes(timezones=ZONES)
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.sampled_from([Decimal("NaN"), Decimal("-0.00"), Decimal("1E+999"), Decimal("-Infinity")])
    | st.fractions()
    | st.uuids()
    | ZONES
    | st.sampled_from(
        [PurePosixPath("a/../b"), PureWindowsPath("C:\\x"), Path("//a/\udcff"), Path()]
    )
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
)
KEYS = HASHABLE | st.tuples(HASHABLE, HASHABLE) | st.frozensets(st.integers() | st.text())


def containers(inner: Any) -> Any:
    return (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(collections.deque, st.lists(inner, max_size=3), st.sampled_from([None, 2, 9]))
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(KEYS, inner, max_size=3).map(lambda d: collections.defaultdict(list, d))
        | st.dictionaries(st.text(), inner, max_size=3).map(lambda d: SimpleNamespace(**d))
        | st.dictionaries(KEYS, st.integers(), max_size=3).map(collections.Counter)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.binary(max_size=9).map(bytearray)
    )


VALUES = st.recursive(HASHABLE, containers, max_leaves=25)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@MANY
@given(VALUES)
def test_any_nesting_of_python_values_comes_back(value: Any) -> None:
    assert_same(value, through(value))


@FEW
@given(JSON)
def test_any_json_comes_back(value: Any) -> None:
    assert_same(value, through(value))


@FEW
@given(st.floats())
def test_every_float_keeps_every_bit(number: Any) -> None:
    assert_same([number, {"x": number}], through([number, {"x": number}]))


def test_a_defaultdict_keeps_its_factory() -> None:
    for factory in (None, int, list, dict, set):
        assert through(collections.defaultdict(factory)).default_factory is factory


def test_fold_is_kept() -> None:
    late = dt.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"), fold=1)
    assert_same([late, late.time()], through([late, late.time()]))


def test_an_integer_may_have_any_length() -> None:
    assert_same([10**5000, -(10**5000)], through([10**5000, -(10**5000)]))


def test_a_decimal_keeps_its_signal() -> None:
    assert_same([Decimal("-sNaN12")], through([Decimal("-sNaN12")]))


def test_uuid_safety_is_kept() -> None:
    made = uuid.uuid1()
    assert through(made).is_safe is made.is_safe


def test_a_nan_keeps_its_payload() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    assert math.isnan(odd)
    assert_same(odd, through(odd))


def test_the_zones_of_dateutil_come_back() -> None:
    tz = pytest.importorskip("dateutil.tz")
    for zone in (tz.UTC, tz.tzoffset("there", 3600), tz.tzoffset(None, -1800)):
        new = through(DAY.replace(tzinfo=zone))
        assert_same(DAY.replace(tzinfo=zone), new)
        assert new.tzname() == DAY.replace(tzinfo=zone).tzname()
    with pytest.raises(SerializationError, match="zoneinfo"):
        through(DAY.replace(tzinfo=tz.gettz("Europe/Paris")))


def test_the_zones_of_pytz_come_back_with_the_offset_they_stand_at() -> None:
    pytz = pytest.importorskip("pytz")
    paris = pytz.timezone("Europe/Paris")
    summer = dt.datetime(2024, 7, 1)  # noqa: DTZ001 - pytz adds the zone itself
    for zone in (pytz.utc, pytz.FixedOffset(90), pytz.timezone("Etc/GMT+3"), paris):
        assert through(zone) is zone
        assert_same(zone.localize(summer), through(zone.localize(summer)))
    assert through(paris.localize(summer)).tzinfo is paris.localize(summer).tzinfo


# numpy.

DTYPES = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.array_dtypes(allow_subarrays=True)
    | hnp.nested_dtypes()
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@MANY
@given(ARRAYS, st.sampled_from(["C", "F", "strided", "reversed", "swapped"]))
def test_an_array_comes_back(array: Any, form: Any) -> None:
    if form == "F":
        array = np.asfortranarray(array)
    elif form == "strided" and array.ndim:
        array = array[::2]
    elif form == "reversed" and array.ndim:
        array = array[..., ::-1]
    elif form == "swapped":
        array = array.view(array.dtype.newbyteorder())
    new = through(array)
    assert_same_array(array, new)
    assert new.flags.writeable
    assert new.flags.aligned


@FEW
@given(ARRAYS.filter(lambda array: array.size))
def test_a_numpy_scalar_comes_back(array: Any) -> None:
    scalar = array.flat[0]
    assert_same([scalar], through([scalar]))


@FEW
@given(
    hnp.arrays(object, hnp.array_shapes(max_dims=2, max_side=3), elements=VALUES, fill=st.nothing())
)
def test_an_array_of_objects_comes_back(array: Any) -> None:
    assert_same(array, through(array))


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1),
        np.longlong(1),
        np.ulonglong(1),
        np.longdouble("0.1"),
        np.array([1, 2], np.longlong).astype(">i8"),
        np.bool_(1),
        np.str_("a\0"),
        np.bytes_(b"a\0"),
        np.void(b"a\0"),
        np.datetime64("NaT", "s"),
        np.datetime64(3, "25s"),
        np.timedelta64(5, "D"),
        np.array("x", object),
        np.array([[1, 2], [3, 4]], object),
        np.array([["a"], ["b", "c"], None], object),
        np.array([], "U5"),
        np.zeros((0, 3)),
        np.zeros(3, [("a", "<i4", (2, 2)), ("b", [("c", "S3"), ("d", ">f8")])]),
        np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.zeros(2, {"names": ["a"], "formats": ["i4"], "offsets": [4], "itemsize": 16}),
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.dtype("f4"),
        np.dtype(object),
        np.dtype([("a", "<i4")]),
        np.zeros(1, [("a", "<i4")])[0],
    ],
    ids=repr,
)
def test_a_numpy_value_comes_back(value: Any) -> None:
    new = through(value)
    assert_same(value, new)
    if isinstance(value, np.ndarray | np.generic):
        assert value.dtype.char == new.dtype.char


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 2 has it")
def test_an_array_of_text_of_any_length_comes_back() -> None:
    array = np.array([["a", "b\0"], ["", "é" * 99]], dtype=np.dtypes.StringDType())
    assert_same(array, through(array))


# pandas.

OBJECTS = [
    {"a": [1]},
    [1, (2,)],
    None,
    float("nan"),
    pd.NA,
    pd.NaT,
    "x",
    2**70,
    b"",
    pd.Timestamp(0),
]


def columns() -> Any:
    names = pd.array(["a", None, "é"], dtype=pd.StringDtype("python"))
    return (
        pd.array([1, None, 3], "Int64"),
        pd.array([1, None, 3], "UInt8"),
        pd.array([1.5, None, -0.0], "Float32"),
        pd.arrays.FloatingArray(np.array([np.nan, 1, 2]), np.array([False, True, False])),
        pd.array([True, None, False], "boolean"),
        names,
        pd.array(names, pd.StringDtype("pyarrow")),
        pd.array(["\ud800", None, "x"], pd.StringDtype("python")),
        pd.Categorical(["b", "a", None], ["c", "b", "a"], ordered=True),
        pd.Categorical([1, 2, 1]),
        pd.Categorical(pd.period_range("2024", periods=3, freq="M")),
        pd.date_range("2024", periods=3).array,
        pd.DatetimeIndex(np.array([1, "NaT", 2], "M8[s]")).array,
        pd.date_range("2024-10-27", periods=3, freq="h", tz=PARIS).array,
        pd.date_range("2024", periods=3, tz=dt.timezone(dt.timedelta(hours=3)), unit="us").array,
        pd.date_range("2024", periods=3, tz="UTC", unit="ms").array,
        pd.to_timedelta(["1D", None, "1ns"]).array,
        pd.TimedeltaIndex(np.array([1, 2, 3], "m8[s]")).array,
        pd.PeriodIndex(["2024-01", None, "2024-03"], freq="M").array,
        pd.period_range("2024", periods=3, freq="Q-JAN").array,
        pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3], closed="left"),
        pd.arrays.IntervalArray.from_tuples([(0.0, 1.0), None, (2.0, 3.0)]),
        pd.interval_range(pd.Timestamp("2024", tz=PARIS), periods=3).array,
        pd.arrays.SparseArray([0, 0, 1]),
        pd.arrays.SparseArray([1.5, np.nan, 1.5], kind="block"),
        pd.arrays.SparseArray([1.5, 2, 1.5], fill_value=1.5),
        pd.arrays.SparseArray([False, True, True]),
        pd.array([1, None, 3], "int64[pyarrow]"),
        pd.array([[1], None, [2, 3]], pd.ArrowDtype(pa.list_(pa.int64()))),
        pd.array([{"a": 1}, None, {"a": 2}], pd.ArrowDtype(pa.struct([("a", pa.int8())]))),
        pd.array([Decimal("1.10"), None, None], pd.ArrowDtype(pa.decimal128(9, 2))),
        pd.array(["a", None, "a"], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
        pd.array([dt.time(1), None, None], pd.ArrowDtype(pa.time64("us"))),
        np.array([1, 2, 3]),
        np.array([1, np.nan, -0.0]),
        np.array([1, 2j, np.nan]),
        np.array([True, False, True]),
        np.array(["a", "b", "c"], object),
        np.array(["a", None, float("nan")], object),
    )


def a_series(values: Any) -> Any:
    return pd.Series(values, dtype=values.dtype)


COLUMNS = [pytest.param(column, id=f"{column.dtype}-{n}") for n, column in enumerate(columns())]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_comes_back_as_array_series_frame_and_index(column: Any) -> None:
    series = a_series(column)
    frame = pd.DataFrame({"a": series, "b": series})
    assert series.dtype == column.dtype
    assert_same([column, series, frame], through([column, series, frame]))
    assert_same(series.iloc[[2, 0]], through(series.iloc[[2, 0]]))
    assert_same(series.iloc[:0], through(series.iloc[:0]))
    index = pd.Index(series, dtype=column.dtype, name="i")
    assert_same(index, through(index))
    assert_same(pd.Series(range(3), index), through(pd.Series(range(3), index)))


def indexes() -> Any:
    days = pd.date_range("2024", periods=3, freq="2D", name="day")
    return (
        pd.RangeIndex(3),
        pd.RangeIndex(5, -1, -2, name=("a", 1)),
        pd.Index([1, 2, 1], name="n"),
        pd.Index([0.5, np.nan, -0.0]),
        pd.Index([1, "a", None], dtype=object),
        pd.Index(["a", "b", "b"], dtype=object, name=0),
        pd.Index(["a", "b", "b"]),
        pd.Index([(1, 2), (3, 4), (5, 6)], tupleize_cols=False),
        pd.Index([True, False, True]),
        pd.Index([1, 2, 3], dtype="Int8"),
        days,
        days.tz_localize(PARIS),
        days[::-1],
        pd.date_range("2024-03-30", periods=3, freq="D", tz=PARIS),
        pd.date_range("2024", periods=3, freq="QE-JAN"),
        pd.date_range("2024", periods=3, freq=pd.DateOffset(months=1)),
        pd.DatetimeIndex(["2024", None, "2022"]),
        pd.timedelta_range("1h", periods=3, freq="90min"),
        pd.period_range("2024", periods=3, freq="W-MON"),
        pd.interval_range(0, 3),
        pd.CategoricalIndex(["a", "b", "a"], ["b", "a"], name="c"),
        pd.MultiIndex.from_product([["x"], [1, 2, 3]], names=["k", None]),
        pd.MultiIndex.from_tuples([(1, None), (2, "a"), (1, None)], names=["s", "s"]),
        pd.MultiIndex.from_arrays([days, pd.Categorical(["u", "v", "u"]), [0.5, np.nan, 1]]),
        pd.MultiIndex.from_product([[1, 2], [3, 4]])[:3],  # a level with an unused value
    )


@pytest.mark.parametrize("index", indexes(), ids=lambda index: type(index).__name__)
def test_an_index_comes_back_by_itself_as_rows_and_as_columns(index: Any) -> None:
    rows = pd.DataFrame({"a": [1, 2, 3]}, index)
    across = pd.DataFrame(np.arange(6).reshape(2, 3), columns=index)
    assert_same([index, rows, across], through([index, rows, across]))
    assert_same(index[:0], through(index[:0]))


FREQUENCIES = ["D", "B", "2h", "ME", "W-TUE", "QS-FEB", "YE", "-1D", "bh", "30min", "SME", "BME"]


@FEW
@given(
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - the zone is next
    st.sampled_from([None, PARIS, "UTC", "America/Sao_Paulo", "+02:00"]),
    st.sampled_from(FREQUENCIES),
    st.integers(0, 60),
    st.slices(60),
)
def test_any_regular_index_comes_back_with_its_frequency(
    start: Any, zone: Any, freq: Any, periods: Any, part: Any
) -> None:
    index = pd.DatetimeIndex(pd.date_range(start, periods=periods, freq=freq).tz_localize("UTC"))
    for form in (index, index.tz_convert(zone), index.tz_localize(None).normalize()):
        assert_same(form, through(form))
        assert_same(form[part], through(form[part]))


def frames() -> Any:
    numbers = np.arange(12.0).reshape(3, 4)
    return (
        pd.DataFrame(),
        pd.DataFrame(index=[1, 2]),
        pd.DataFrame(columns=["a", "b"]),
        pd.DataFrame({"a": []}),
        pd.DataFrame(numbers),
        pd.DataFrame(numbers, columns=[0, "0", None, (1, "a")]),
        pd.DataFrame(numbers, columns=["a", "a", "b", "a"]),
        pd.DataFrame(numbers, columns=[1.5, np.nan, 2**70, pd.Timestamp(0)]),
        pd.DataFrame(numbers.T.copy().T, index=["x", "x", "y"]).iloc[::2, ::2],
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [b"x", {"y": (1,)}]}),
        pd.DataFrame({"o": pd.Series(OBJECTS, dtype=object)}),
        pd.DataFrame({"swapped": np.array([1, 2], ">u2"), "half": np.array([1, np.nan], "f2")}),
        pd.DataFrame({"text": ["a", "b"], "more": ["c", np.nan]}),
        pd.DataFrame({n: [n, 0.5] for n in range(150)}),
    )


@pytest.mark.parametrize("frame", frames(), ids=lambda frame: "x".join(map(str, frame.shape)))
def test_a_frame_comes_back(frame: Any) -> None:
    assert_same([frame], through([frame]))


def test_what_hangs_on_a_frame_comes_back() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    frame.attrs = {"source": ("sql", 1)}
    frame.columns.name = "field"
    frame = frame.set_flags(allows_duplicate_labels=False)
    series = frame["a"].rename(("b", 2))
    assert_same([frame, series], through([frame, series]))
    assert series.flags == through(series).flags


def test_a_frame_that_came_back_can_be_changed() -> None:
    values = {
        "a": [1, 2],
        "b": ["x", "y"],
        "c": [0.5, 1],
        "d": pd.to_datetime(["2024-01-01", "2024-01-02"]),
        "e": pd.Categorical(["u", "v"]),
        "f": pd.array([1, None], "Int64"),
        "g": [True, False],
    }
    old, new = pd.DataFrame(values), through(pd.DataFrame(values))
    for frame in (old, new):
        frame.loc[0] = frame.loc[1]
        frame["h"] = frame["a"] * frame["c"]
        for name in values:
            frame.iloc[1, frame.columns.get_loc(name)] = frame[name].iloc[0]
    assert_same(old, new)


@FEW
@given(
    hpd.data_frames(
        [
            hpd.column("i", dtype=int),
            hpd.column("f", dtype=float),
            hpd.column("b", dtype=bool),
            hpd.column("t", dtype="datetime64[ns]"),
            hpd.column("d", dtype="timedelta64[ns]"),
            hpd.column("s", elements=st.text(), dtype=object),
            hpd.column(
                "o",
                elements=VALUES.map(lambda v: SimpleNamespace(v=v)),
                dtype=object,
                fill=st.nothing(),
            ),
        ],
        index=hpd.range_indexes(max_size=4) | hpd.indexes(dtype=int, max_size=4),
    )
)
def test_any_frame_comes_back(frame: Any) -> None:
    assert_same(frame, through(frame))


def pandas_scalars() -> Any:
    return (
        pd.NA,
        pd.NaT,
        pd.Timestamp("2024-01-02 03:04:05.678901234"),
        pd.Timestamp("2024", tz=PARIS),
        pd.Timestamp("2024", tz="UTC"),
        pd.Timestamp("2024", tz=dt.timezone.utc),
        pd.Timestamp("2024").as_unit("s"),
        pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert(PARIS),
        pd.Timestamp("2024").replace(fold=1),
        pd.Timedelta("1D 1ns"),
        pd.Timedelta(3, "s").as_unit("ms"),
        pd.Period("2024-01", freq="M"),
        pd.Period("2024", freq="Y-JUN"),
        pd.Interval(0, 1.5, closed="both"),
        pd.Interval(pd.Timestamp(0), pd.Timestamp(1)),
        pd.offsets.Week(weekday=2),
        pd.offsets.MonthEnd(3),
        pd.DateOffset(months=1, n=2),
        pd.date_range("2024", periods=1, tz=PARIS).tz,
    )


@pytest.mark.parametrize("value", pandas_scalars(), ids=repr)
def test_a_pandas_scalar_comes_back(value: Any) -> None:
    assert_same([value], through([value]))


# polars and pyarrow.


POLARS_2 = hasattr(pl, "Extension")
# Extension types are refused. Polars 1 cannot compare two categoricals without a global cache, nor
# keep a decimal's unset precision.
NOT_TRIED = [pl.Object, *([pl.Extension] if POLARS_2 else [pl.Categorical, pl.Decimal])]


@FEW
@given(dataframes(max_size=4, excluded_dtypes=NOT_TRIED))
def test_any_polars_frame_comes_back(frame: Any) -> None:
    assert_same(frame, through(frame))


def polars_columns() -> Any:
    return (
        pl.Series("c", ["b", "a", None, "b"], dtype=pl.Categorical),
        pl.Series("e", ["b", None], dtype=pl.Enum(["b", "c", "a"])),
        pl.Series("n", [[{"a": [1, None]}], None, []]),
        pl.Series("arr", [[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
        pl.Series("dec", [Decimal("1.20"), None], dtype=pl.Decimal(10, 2)),
        pl.Series("t", [DAY], dtype=pl.Datetime("ns", PARIS)),
        pl.Series("t", [DAY], dtype=pl.Datetime("ms")),
        pl.Series("d", [dt.timedelta(1)], dtype=pl.Duration("us")),
        pl.Series("i", [7], dtype=getattr(pl, "Int128", pl.Int64)),
        pl.Series("f", [float("nan"), -0.0, None]),
        pl.Series("s", ["é", None, ""]),
        pl.Series("b", [b"\0", None]),
        pl.Series("null", [None, None]),
        pl.Series("", [], dtype=pl.Int8),
        pl.Series("day", [dt.date(2024, 1, 1)]),
        pl.Series("time", [dt.time(1, 2, 3, 4)]),
    )


@pytest.mark.parametrize("series", polars_columns(), ids=lambda series: str(series.dtype))
def test_a_polars_column_comes_back(series: Any) -> None:
    frame = pl.DataFrame([series, series.alias("again")])
    assert_same([series, frame, frame.clear()], through([series, frame, frame.clear()]))
    assert_same(pl.concat([series, series]), through(pl.concat([series, series])))


def test_an_empty_polars_frame_comes_back() -> None:
    assert_same(pl.DataFrame(), through(pl.DataFrame()))


def arrow_arrays() -> Any:
    return (
        pa.array([1, None, 3]),
        pa.array([1.5, float("nan"), -0.0], pa.float32()),
        pa.array(["a", None, "é"]),
        pa.array(["a", None], pa.large_string()),
        pa.array([b"x", b""]),
        pa.array([[1], None, []]),
        pa.array([{"a": 1, "b": [None]}, None]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([DAY], pa.timestamp("ns", PARIS)),
        pa.array([Decimal("1.20")], pa.decimal128(9, 2)),
        pa.array([None, None]),
        pa.array([], pa.int8()),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array(range(9))[3:5],
    )


@pytest.mark.parametrize("array", arrow_arrays(), ids=lambda array: str(array.type))
def test_an_arrow_array_comes_back(array: Any) -> None:
    schema = pa.schema(
        [pa.field("a", array.type, metadata={"k": "v"}), pa.field("a", array.type)],
        metadata={"m": "n"},
    )
    table = pa.Table.from_arrays([array, array], schema=schema)
    chunked = pa.chunked_array([array, array], array.type)
    values = [array, table, table.slice(1), *table.to_batches(), chunked, *array[:1]]
    for old, new in zip(values, through(values), strict=True):
        assert_same(old, new)


def test_an_arrow_table_of_nothing_comes_back() -> None:
    for table in (pa.table({}), pa.table({"a": pa.chunked_array([], pa.int8())})):
        assert_same(table, through(table))


def test_arrow_chunks_with_dictionaries_of_their_own_come_back() -> None:
    one, other = (pa.array(list(text)).dictionary_encode() for text in ("aba", "cbc"))
    assert_same(pa.chunked_array([one, other]), through(pa.chunked_array([one, other])))


# Everything in everything.


def test_tables_and_arrays_come_back_from_any_depth() -> None:
    value = {
        "frames": [pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}), pa.table({"a": [1]})],
        ("k", 1): {"arrays": (np.arange(3), [np.float32(1), {"x": np.eye(2)}])},
        "cell": pd.Series([pd.DataFrame({"b": [np.arange(2)]}), pl.Series([1])]),
    }
    assert_same(value, through(value))


# Damage.

PAYLOADS = [
    CODEC.encode(value)
    for value in (
        {"answer": 42, "rows": [1, 2.5, None, "é"]},
        [(1, 2), b"bytes", np.arange(5), pd.DataFrame({"a": [1, None], "b": ["x", "y"]})],
    )
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=["plain", "tagged"])
def test_no_changed_byte_goes_unnoticed(payload: Any) -> None:
    for place in range(len(payload)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(payload)
            damaged[place] ^= flip
            with pytest.raises(CorruptEntryError):
                CODEC.decode(bytes(damaged))


@pytest.mark.parametrize("payload", PAYLOADS, ids=["plain", "tagged"])
def test_no_missing_or_added_byte_goes_unnoticed(payload: Any) -> None:
    for end in range(len(payload)):
        with pytest.raises(CorruptEntryError):
            CODEC.decode(payload[:end])
    with pytest.raises(CorruptEntryError):
        CODEC.decode(payload + b"\0")


@FEW
@given(st.binary())
def test_bytes_that_are_not_a_payload_are_corrupt(data: Any) -> None:
    with pytest.raises(CorruptEntryError):
        CODEC.decode(data)
