"""The codec's contract besides the round trip: what it refuses, whom it trusts, what it says."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import io
import json
import subprocess
import sys
import threading
import zlib
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from doubles import without_addresses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memora.codec import Codec, _codec, _stdlib
from memora.codec._envelope import seal
from memora.errors import ArgumentError, CorruptEntryError, SerializationError


@pytest.fixture
def codec() -> Codec:
    return Codec()


def through(codec: Codec, value: Any) -> Any:
    return codec.decode(codec.encode(value))


def forged(tree: Any, *blobs: bytes) -> bytes:
    """Bytes with a checksum that is right: what somebody with access to the store can write."""
    return seal(orjson.dumps(tree), [memoryview(blob) for blob in blobs], plain=False)


def array(dtype: Any, shape: list[int]) -> dict[str, Any]:
    """Bytes that a forger calls an array."""
    return tagged("np.array", dtype, shape, *(False,), {"!": 0})


def tagged(name: str, *parts: Any) -> dict[str, Any]:
    return {"!": [name, *parts]}


# What is refused, and how.


class Invoice:
    def __init__(self, total: float) -> None:
        self.total = total


class Rows(list[Any]):
    pass


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


T = TypeVar("T")
PRIVATE = "do not print me"
OBJECT_NAME = pd.Index([Text("x")], dtype=object)


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        (Invoice(1.0), "result:", "register_type()"),
        ({"rows": [1, 2, 3, Invoice(1.0)]}, "result['rows'][3]:", "Invoice"),
        ({"rows": (0, {7: Invoice(1.0)})}, "result['rows'][1][7]:", "Invoice"),
        ({("a", PRIVATE): Invoice(1.0)}, "result[<tuple>]:", "Invoice"),
        ({PRIVATE * 9: Invoice(1.0)}, "result[<str>]:", "Invoice"),
        ({10**5000: Invoice(1.0)}, "result[<int>]:", "Invoice"),
        ({(1, Level.LOW): 1}, "result<key <tuple>>[1]:", "Level"),
        ([Rows([PRIVATE])], "result[0]:", "Rows"),
        ([Text(PRIVATE)], "result[0]:", "Text"),
        ({Text(PRIVATE): 1}, "result<key <Text>>:", "Text"),
        ([Level.LOW], "result[0]:", "Level"),
        (collections.defaultdict(lambda: 0), "result:", "factory"),
        (collections.defaultdict(list, a=Invoice(1.0)), "result['a']:", "Invoice"),
        (collections.deque([0, Invoice(1.0)]), "result[1]:", "Invoice"),
        ({Invoice}, "result:", "type"),
        (pl.LazyFrame({"a": [1]}), "result:", "collect()"),
        (pl.DataFrame({"a": [object()]}), "result:", "DataFrame"),
        (np.ma.masked_array([1], [True]), "result:", ".mask"),
        (np.zeros(1, [("a", object)]), "result:", "objects"),
        (np.zeros(1, np.dtype("f8", metadata={"k": 1})), "result:", "float64"),
        (np.array([1]).view(np.recarray), "result:", "recarray"),
        (np.zeros(1, np.dtype((np.record, [("a", "i4")]))), "result:", "dtype"),
        (pd.DataFrame({"a": [1, Invoice(1.0)]}), "result['a'][1]:", "Invoice"),
        (pd.Series([1], index=[Invoice(1.0)]), "result[0]:", "Invoice"),
        (
            [pd.DataFrame({"a": [1]}).set_axis(pd.Index([Text("x")], dtype=object), axis=1)],
            "result[0].columns[0]:",
            "Text",
        ),
        (
            pd.date_range("2024", periods=3, freq=pd.offsets.CDay(holidays=["2024-01-02"])),
            "",
            "freq",
        ),
        ((n for n in [1]), "result:", "generator"),
        (io.BytesIO(b""), "result:", "BytesIO"),
        (threading.Lock(), "result:", "lock"),
        (print, "result:", "builtin_function_or_method"),
        (Invoice, "result:", "type"),
        (NotImplemented, "result:", "NotImplementedType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_changed_is_refused_by_place_and_type(
    codec: Codec, value: Any, where: str, why: str
) -> None:
    with pytest.raises(SerializationError) as refusal:
        codec.encode(value)
    message = str(refusal.value)
    assert message.startswith(f"cannot store {where}")
    assert why in message
    assert PRIVATE not in message


def test_an_arrow_type_of_the_applications_own_is_refused(codec: Codec) -> None:
    class Money(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.int64(), "money")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

    money = pa.ExtensionArray.from_storage(Money(), pa.array([1]))
    for value in (money, pa.table({"a": money}), pa.StructArray.from_arrays([money], ["m"])):
        with pytest.raises(SerializationError, match="extension type"):
            codec.encode(value)


def test_a_value_that_contains_itself_is_refused(codec: Codec) -> None:
    loops: list[Any] = [[], {}, collections.deque()]
    loops[0] += [loops[0]] * 3
    loops[1]["again"] = (loops[1], loops[1])
    loops[2].append([loops[2]])
    for loop in loops:
        with pytest.raises(SerializationError, match=r"contains itself$"):
            codec.encode(loop)


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: (v,), lambda v: {0: v}]
)
def test_depth_is_a_refusal_and_not_a_crash(codec: Codec, wrap: Any) -> None:
    def nested(value: Any, depth: int) -> Any:
        for _ in range(depth):
            value = wrap(value)
        return value

    deep = nested(float("inf"), 120)
    assert through(codec, deep) == deep
    assert through(codec, nested(None, 120)) == nested(None, 120)
    for depth in (122, 500, 100_000):
        with pytest.raises(SerializationError, match="deep"):
            codec.encode(nested(1, depth))


def test_a_full_stack_is_a_refusal_too(codec: Codec) -> None:
    value: Any = ()
    for _ in range(100):
        value = (value,)
    payload = codec.encode(value)

    def at_the_bottom(call: Any) -> Any:
        try:
            return at_the_bottom(call)
        except RecursionError:
            return call()

    with pytest.raises(SerializationError, match="nested too deeply"):
        at_the_bottom(lambda: codec.encode(value))
    with pytest.raises(SerializationError, match="nested too deeply"):
        at_the_bottom(lambda: codec.decode(payload))


def test_a_result_that_changes_meanwhile_is_refused(codec: Codec) -> None:
    growing: dict[str, Any] = {}

    def grow(_invoice: Invoice) -> int:
        growing[f"key {len(growing)}"] = 1
        return 1

    codec.register(Invoice, encode=grow, decode=Invoice)
    growing.update(a=Invoice(1.0), b=2)
    with pytest.raises(SerializationError, match="changed while"):
        codec.encode(growing)


# What orjson would change in silence.


@pytest.mark.parametrize(
    "value",
    [
        (),
        [(1,)],
        {1: 2},
        {True: 1},
        {None: 1},
        float("nan"),
        2**64,
        "\ud800",
        {"\ud800": 1},
        {"!": 1},
    ],
    ids=repr,
)
def test_nothing_goes_through_json_that_json_would_change(codec: Codec, value: Any) -> None:
    assert repr(through(codec, value)) == repr(value)


@pytest.mark.parametrize("value", [{}, {"a": [1, 0.5, None, True, "é"]}, -0.0, 2**64 - 1, "", []])
def test_plain_json_is_stored_as_itself(codec: Codec, value: Any) -> None:
    payload = codec.encode(value)
    assert payload[24:] == json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    assert repr(codec.decode(payload)) == repr(value)


def test_buffers_are_stored_as_they_are(codec: Codec) -> None:
    numbers = np.arange(10_000.0)
    for value in (numbers, pd.DataFrame({"a": numbers}), pl.Series(numbers), pa.array(numbers)):
        payload = codec.encode([value])
        assert numbers.tobytes() in payload
        assert len(payload) < numbers.nbytes + 2_000


def test_a_result_may_be_encoded_again_and_is_not_touched(codec: Codec) -> None:
    value = {"a": [(1,), np.arange(3)], "o": np.array(["x", np.nan], object)}
    assert codec.encode(value) == codec.encode(value)
    assert value["o"].tolist()[0:1] + value["a"][:1] == ["x", (1,)]
    assert type(value["o"][1]) is float


def test_decoded_values_share_nothing(codec: Codec) -> None:
    payload = codec.encode([[1], np.zeros(2), {"!": bytearray(b"x")}])
    first, second = codec.decode(payload), codec.decode(payload)
    first[0].append(2)
    first[1][0] = 9
    first[2]["!"][0] = 0
    assert repr(second) == repr(codec.decode(payload))


# Registered classes.


class Color(enum.Enum):
    RED = (1, "r")
    CRIMSON = RED


class Mode(str, enum.Enum):
    FAST = "fast"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: Any = None


@dataclasses.dataclass
class Base:
    name: str

    def __post_init__(self) -> None:
        self.name += "!"


@dataclasses.dataclass
class Report(Base):
    rows: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    at: tuple[int, ...]


class Slotted:
    __slots__ = ("__hidden", "empty", "shown")

    def __init__(self) -> None:
        self.shown = (1,)
        self.__hidden = {2}

    def state(self) -> tuple[Any, ...]:
        return self.shown, self.__hidden, hasattr(self, "empty")


class Both(Slotted):
    __slots__ = ("__dict__", "__weakref__")


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        raise AssertionError("__init__ must not run")


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    at: Point
    tags: set[str] = set()
    _note: str = pydantic.PrivateAttr("")


class Numbers(pydantic.RootModel[list[int]]):
    pass


CLASSES = (Color, Mode, Rights, Point, Report, Frozen, Slotted, Both, Box, Model, Numbers, Level)


@pytest.fixture
def registered(codec: Codec) -> Codec:
    for cls in CLASSES:
        codec.register(cls)
    return codec


@pytest.mark.parametrize(
    "value",
    [
        *(Color.CRIMSON, Mode.FAST, Level.LOW, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)),
        *(Point(1), Point(1, [Point(2)]), Report("a", rows=(1, {"x": Frozen((1,))})), Frozen(())),
        *(Model(at=Point(1)), Model(at=Point(1), tags={"a"}, extra=Frozen((2,))), Numbers([1, 2])),
        Model.model_construct(at="not a point"),
        {Point(1): {Level.LOW: [Mode.FAST]}},
    ],
    ids=repr,
)
def test_a_registered_class_comes_back(registered: Codec, value: Any) -> None:
    new = through(registered, [value])[0]
    assert type(new) is type(value)
    assert new == value
    assert repr(new) == repr(value)


def test_an_enum_comes_back_as_its_member(registered: Codec) -> None:
    assert through(registered, [Color.RED, Level.LOW])[0] is Color.RED


def test_what_equality_does_not_see_of_a_model_comes_back(registered: Codec) -> None:
    model = Model(at=Point(1), more=1)
    model._note = "n"
    new = through(registered, model)
    assert (new._note, new.model_extra, new.model_fields_set) == ("n", {"more": 1}, {"at", "more"})


def test_a_plain_class_comes_back_without_its_init(registered: Codec) -> None:
    box: Box[int] = object.__new__(Box)
    box.item = [1, (2,)]
    assert vars(through(registered, box)) == {"item": [1, (2,)]}


def test_slots_come_back_private_and_empty_ones_too(registered: Codec) -> None:
    assert through(registered, Slotted()).state() == ((1,), {2}, False)
    both = Both()
    both.more = 3
    new = through(registered, both)
    assert (new.state(), new.more) == (((1,), {2}, False), 3)


def test_functions_do_for_any_class(codec: Codec) -> None:
    codec.register(Rows, encode=list, decode=Rows)
    codec.register(
        Invoice, name="invoice", encode=lambda i: (i.total,), decode=lambda t: Invoice(*t)
    )
    new = through(codec, {"rows": Rows([1, Invoice(2.5)])})["rows"]
    assert type(new) is Rows
    assert new[1].total == 2.5


def test_a_subclass_is_a_class_of_its_own(codec: Codec) -> None:
    codec.register(Base)
    with pytest.raises(SerializationError, match="Report"):
        codec.encode(Report("a"))


def test_an_error_inside_an_instance_names_the_field(codec: Codec) -> None:
    codec.register(Report)
    with pytest.raises(SerializationError, match=r"result\[0\]\.rows\[1\]: .*Invoice"):
        codec.encode([Report("a", rows=[1, Invoice(1.0)])])


def test_an_unregistered_name_says_how_to_register_it(codec: Codec, registered: Codec) -> None:
    codec = Codec()
    codec.register(Point, name="geo.Point")
    payload = codec.encode(Point(1))
    with pytest.raises(SerializationError, match=r"register_type\(<the class>, name='geo.Point'\)"):
        registered.decode(payload)


def test_a_class_may_move_and_be_renamed(codec: Codec) -> None:
    codec.register(Point, name="old")
    payload = codec.encode(Point(1))
    codec.register(Point, name="new")
    assert codec.decode(payload) == Point(1)
    assert b"@new" in codec.encode(Point(1))
    later = Codec()
    later.register(Point, name="new")
    later.register(Point, name="old")
    assert later.decode(codec.encode(Point(1))) == Point(1)


def test_a_class_defined_again_takes_the_place_of_the_first(codec: Codec) -> None:
    def define() -> Any:
        class Cell:
            pass

        return Cell

    first, second = define(), define()
    codec.register(first)
    codec.register(second)
    assert type(through(codec, second())) is second


def test_codecs_share_no_registrations(registered: Codec) -> None:
    with pytest.raises(SerializationError):
        Codec().encode(Point(1))
    with pytest.raises(SerializationError):
        Codec().decode(registered.encode(Point(1)))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"cls": Invoice(1.0)}, "not an instance of Invoice"),
        ({"cls": Invoice, "encode": vars}, "together"),
        ({"cls": Invoice, "decode": Invoice}, "together"),
        ({"cls": Rows}, "encode= and decode="),
        ({"cls": Text}, "encode= and decode="),
        ({"cls": ValueError}, "encode= and decode="),
        ({"cls": dict}, "without being registered"),
        ({"cls": pd.DataFrame}, "without being registered"),
        ({"cls": np.float32}, "without being registered"),
        ({"cls": Invoice, "name": "taken"}, "another name="),
    ],
    ids=without_addresses,
)
def test_a_wrong_registration_is_refused_at_once(codec: Codec, arguments: Any, why: str) -> None:
    codec.register(Point, name="taken")
    with pytest.raises(ArgumentError, match=why):
        codec.register(**arguments)


def test_a_named_tuple_with_attributes_is_refused(codec: Codec) -> None:
    class Labelled(Point):
        pass

    codec.register(Labelled)
    value = Labelled(1)
    assert through(codec, value) == value
    value.label = "x"
    with pytest.raises(SerializationError, match="attributes"):
        codec.encode(value)


def test_an_error_of_the_applications_functions_is_ours(codec: Codec) -> None:
    codec.register(Invoice, encode=lambda invoice: invoice.missing, decode=Invoice)
    with pytest.raises(
        SerializationError, match=r"result\[0\]: .*Invoice.* AttributeError"
    ) as refusal:
        codec.encode([Invoice(1.0)])
    assert isinstance(refusal.value.__cause__, AttributeError)
    codec.register(Invoice, encode=vars, decode=lambda fields: fields["missing"])
    with pytest.raises(SerializationError, match="could not be read again"):
        codec.encode(Invoice(1.0))
    other = Codec()
    other.register(Invoice, encode=vars, decode=lambda fields: Invoice(fields["total"]))
    with pytest.raises(CorruptEntryError, match="KeyError") as damage:
        codec.decode(other.encode(Invoice(1.0)))
    assert isinstance(damage.value.__cause__, KeyError)


def test_a_member_that_is_gone_is_a_corrupt_entry(registered: Codec) -> None:
    with pytest.raises(CorruptEntryError):
        registered.decode(forged(tagged(f"@{Level.__module__}.Level", "GONE")))


# Damage and forgery.


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"", "cut short"),
        (lambda data: data[:23], "cut short"),
        (lambda data: b"XEM" + data[3:], "not one of Memora's"),
        (lambda data: data[:3] + b"\2" + data[4:], "version 2, this Memora reads 1"),
        (lambda data: data[:-1], "checksum"),
        (lambda data: data + b"x", "checksum"),
        (lambda data: data[:30] + b"?" + data[31:], "checksum"),
    ],
    ids=range(7),
)
def test_damage_is_told_apart(codec: Codec, change: Any, why: str) -> None:
    with pytest.raises(CorruptEntryError, match=why):
        codec.decode(change(codec.encode({"answer": [1, 2]})))


@pytest.mark.parametrize("place", [12, 16], ids=["blobs", "tree"])
def test_parts_that_do_not_add_up_are_corrupt(codec: Codec, place: int) -> None:
    for number in (b"\2\0\0\0", b"\xff\xff\xff\xff"):
        payload = bytearray(codec.encode([(1,), b"two"]))
        payload[place : place + 4] = number
        payload[4:8] = zlib.crc32(payload[8:]).to_bytes(4, "little")
        with pytest.raises(CorruptEntryError):
            codec.decode(bytes(payload))


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "@os.system", "eval", "builtins.eval", "@builtins.eval", "__import__"),
        *("wave.Wave_read", "@wave.Wave_read", "wave.", "np.wave", "pd.eval", "memora.codec.Codec"),
        *("", ".", "@"),
    ],
)
def test_a_record_cannot_have_anything_imported_or_called(registered: Codec, name: str) -> None:
    sys.modules.pop("wave", None)
    before = set(sys.modules)
    with pytest.raises((CorruptEntryError, SerializationError)):
        registered.decode(forged(tagged(name, "echo", "wave")))
    assert set(sys.modules) == before


KINDS = [
    *_stdlib.KINDS,
    *(k for lib in ("np", "pd", "pa", "pl") for k in _codec._library(lib).by_name.values()),
]
NAMES = sorted(kind.name for kind in KINDS)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.sampled_from(["<f8", "|O", "O", "V8", "M", "f8,O", "UTC", "python", "us", "left"])
    | st.just({"!": 0})
    | st.just({"!": 9}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
        | st.builds(
            lambda name, parts: tagged(name, *parts),
            st.sampled_from(NAMES),
            st.lists(inner, max_size=5),
        )
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), st.lists(JUNK, max_size=6))
def test_no_forgery_raises_anything_else(name: str, parts: list[Any]) -> None:
    codec = Codec()
    with contextlib.suppress(CorruptEntryError, SerializationError):
        codec.decode(forged(tagged(name, *parts), b"12345678"))


@pytest.mark.parametrize(
    "tree", [{"!": None}, {"!": []}, {"!": [1]}, {"!": 0}, {"!": "int"}, {"!": {}}]
)
def test_a_malformed_tag_is_corrupt(codec: Codec, tree: Any) -> None:
    with pytest.raises(CorruptEntryError):
        codec.decode(forged([tree]))


def test_an_array_of_objects_cannot_be_forged_from_bytes(codec: Codec) -> None:
    dtype = tagged("np.dtype", [["a", "|O"]], "V")
    for forgery in (tagged("np.dtype", "|O", "O"), dtype):
        with pytest.raises(CorruptEntryError):
            codec.decode(forged(array(forgery, [1]), b"12345678"))


def test_an_array_is_as_large_as_its_bytes(codec: Codec) -> None:
    huge = array(tagged("np.dtype", "<f8", "d"), [10**12])
    with pytest.raises(CorruptEntryError):
        codec.decode(forged(huge, b"12345678"))


# Libraries.


def test_importing_the_codec_and_plain_results_import_no_library() -> None:
    code = """
import sys, types, pathlib, importlib.util
package = types.ModuleType("memora")  # the codec alone: the package itself needs more
package.__path__ = [str(pathlib.Path(sys.argv[1]).parent.parent)]
sys.modules["memora"] = package
from memora.codec import Codec
codec = Codec()
assert codec.decode(codec.encode({1: (2.5, b"x")})) == {1: (2.5, b"x")}
print(sorted({"numpy", "pandas", "polars", "pyarrow", "pydantic"} & set(sys.modules)))
"""
    told = subprocess.run(
        [sys.executable, "-c", code, sys.modules["memora.codec"].__file__ or ""],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "[]\n"


def test_a_missing_library_is_named(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = codec.encode(pl.DataFrame({"a": [1]}))
    _codec._library.cache_clear()
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(SerializationError, match=r"pip install .*polars"):
        codec.decode(payload)
    monkeypatch.undo()
    assert codec.decode(payload).to_dict(as_series=False) == {"a": [1]}


def test_wire_names_are_ours_and_each_is_one_kind() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert all(name.isascii() and name.islower() and "_" not in name for name in NAMES)
    assert all(name.partition(".")[0] in _codec._LIBRARIES for name in NAMES if "." in name)


def test_many_threads_may_use_one_codec(codec: Codec) -> None:
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for _ in range(50):
                codec.register(Point, name=f"point {n}")
                assert codec.decode(codec.encode({n: [Point(n), np.arange(n)]}))[n][0] == Point(n)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
