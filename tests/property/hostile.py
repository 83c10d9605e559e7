# ruff: noqa: FBT003 - parts, in their places
"""Feeds the cache what an attacker would, under limits of memory and CPU; prints what came of it.

Run as a program, by test_bounds.py: a limit of a process cannot be lifted again.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from decimal import Decimal
from enum import IntFlag
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from memora import CacheConfig, Memora
from memora.codec import Codec
from memora.codec._envelope import seal, unseal
from memora.embedders import FunctionEmbedder
from memora.errors import CorruptEntryError, MemoraError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY = 700 * 1024 * 1024
"""Bytes that everything may take beyond what the libraries do."""
M61 = 2**61 - 1  # what Python's hashes of numbers are modulo


class Bits(IntFlag):
    """A flag that keeps bits it does not know."""

    ONE = 1


def node(kind: str, *parts: Any) -> dict[str, Any]:
    return {"!": [kind, *parts]}


def sealed(tree: Any, *blobs: bytes) -> bytes:
    return seal(orjson.dumps(tree), [memoryview(blob) for blob in blobs], plain=False)


def numbers(*values: int, dtype: str = "<i8") -> tuple[dict[str, Any], bytes]:
    """Return the tree of an array whose bytes are the first blob, and those."""
    data = np.array(values, dtype)
    parts = node("np.dtype", dtype, data.dtype.char), node("tuple", len(data)), False, {"!": 0}
    return node("np.array", *parts), data.tobytes()


def stream(table: pa.Table | pa.RecordBatch, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write(table)
    return sink.getvalue()


def views(count: int, length: int) -> pa.Array:
    """Return texts that are all views of one long buffer."""
    words = np.zeros((count, 4), "<i4")
    words[:, 0] = length
    words[:, 1] = np.frombuffer(b"xxxx", "<i4")[0]
    buffers = [None, pa.py_buffer(words.tobytes()), pa.py_buffer(b"x" * length)]
    return pa.Array.from_buffers(pa.string_view(), count, buffers)


def repeated_blocks(times: int) -> bytes:
    """Return a polars file whose end names one batch again and again."""
    whole = pl.DataFrame({"a": range(20_000)}).write_ipc(None).getvalue()
    (size,) = struct.unpack_from("<i", whole, len(whole) - 10)
    footer = bytearray(whole[-10 - size : -10])
    (root,) = struct.unpack_from("<I", footer)
    (back,) = struct.unpack_from("<i", footer, root)
    (offset,) = struct.unpack_from("<H", footer, root - back + 4 + 2 * 3)
    at = root + offset
    vector = at + struct.unpack_from("<I", footer, at)[0]
    block = bytes(footer[vector + 4 : vector + 28])
    start = len(footer) + -len(footer) % 8 + 4
    footer += bytes(start - len(footer)) + struct.pack("<I", times) + block * times
    struct.pack_into("<I", footer, at, start - at)
    return whole[: -10 - size] + bytes(footer) + struct.pack("<i", len(footer)) + b"ARROW1"


def colliding_int64(count: int) -> list[int]:
    """Return numbers to which pandas' table of 64-bit integers gives one place."""
    found = []
    for high in range(1, count + 1):
        low = high  # high ^ low ^ low << 11 is 0 in 32 bits
        for _ in range(3):
            low = high ^ (low << 11) & 0xFFFFFFFF
        found.append((high << 33) | low)
    return found


def payloads() -> Iterator[tuple[str, bytes]]:  # noqa: PLR0915 - a list
    """Yield payloads that are to be refused, each with a right checksum."""
    huge, index = node("range", 0, 10**12, 1), node("pd.range", 0, 10**11, 1, None)
    short, eight = numbers(1)
    f8 = node("np.dtype", "<f8", "d")
    none = {"!": 0}
    yield "blob in a list", sealed([node("bytes", none)] * 5000, b"x" * 100_000)
    yield "blob as text", sealed({"a": [node("str", none)] * 5000}, b"x" * 100_000)
    many, bytes_of_many = numbers(*range(10_000))
    yield "blob as arrays", sealed([many] * 5000, bytes_of_many)
    yield "blob in dicts", sealed([node("dict", 1, node("bytearray", none))] * 5000, b"x" * 100_000)
    yield "shape of a range", sealed(node("np.array", f8, huge, False, none), b"")
    yield "texts of a range", sealed(node("np.array", "text", node("tuple", 1), False, huge))
    yield "texts in a range", sealed(node("np.array", "text", node("tuple", 1), False, [huge]))
    objects = node("np.dtype", "|O", "O")
    yield "objects of a range", sealed(node("np.array", objects, node("tuple", 1), False, huge, 0))
    yield (
        "holes of a range",
        sealed(node("np.array", objects, node("tuple", 1), False, [None], huge)),
    )
    empty = node("np.dtype", "|V0", "V")
    yield (
        "items of no bytes",
        sealed(node("np.array", empty, node("tuple", 10**12), False, none), b""),
    )
    series = ({}, True)
    yield "column of an index", sealed(node("pd.series", index, index, None, *series))
    scalar = node("np.array", f8, node("tuple"), False, none)
    yield "column of one number", sealed(node("pd.series", scalar, index, None, *series), eight)
    yield "frame of an index", sealed(node("pd.df", index, index, *series, index))
    yield "index of a range", sealed(node("pd.index", index, None, None))
    yield "codes of an index", sealed(node("pd.categorical", index, index, False))
    yield "levels of an index", sealed(node("pd.multi", [None], None, index, index))
    yield (
        "names of a range",
        sealed(node("pd.multi", huge, None, node("pd.range", 0, 9, 1, None), short), eight),
    )
    yield "moments of an index", sealed(node("pd.datetimes", index, None))
    yield "spans of an index", sealed(node("pd.timedeltas", index))
    yield "periods of an index", sealed(node("pd.periods", index, "period[D]"))
    yield "intervals of an index", sealed(node("pd.intervals", index, index, "left"))
    yield "numpy of an index", sealed(node("pd.numpy", index))
    yield (
        "sparse of an index",
        sealed(node("pd.sparse", index, index, 10**11, node("float", 0), "integer")),
    )
    table = stream(
        pa.table({"a": pa.array(["x" * 1_000_000]).dictionary_encode().take([0] * 5000)})
    )
    strings = node("pd.strings", "pyarrow", True, node("pa.chunked", none))
    yield "texts of a dictionary", sealed(strings, table)
    yield (
        "nothing but nulls",
        sealed(node("pa.table", none), stream(pa.table({"a": pa.nulls(2**31 - 1)}))),
    )
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array([1]))
    yield "one run", sealed(node("pa.array", none), stream(pa.record_batch([runs], [""])))
    zeros = pa.table({"a": np.zeros(20_000_000)})
    yield "compressed stream", sealed(node("pa.table", none), stream(zeros, compression="zstd"))
    overlapping = pa.record_batch([views(100_000, 1_000_000)], [""])
    yield "views in a table", sealed(node("pa.table", none), stream(overlapping))
    inner = pa.record_batch([pa.StructArray.from_arrays([views(100_000, 500_000)], ["x"])], [""])
    yield "views in structs", sealed(node("pa.array", none), stream(inner))
    packed = pl.DataFrame({"a": np.zeros(20_000_000)}).write_ipc(None, compression="zstd")
    yield "compressed file", sealed(node("pl.df", 20_000_000, none), packed.getvalue())
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, overlapping.schema) as writer:
        writer.write(overlapping)
    yield "views in a frame", sealed(node("pl.df", 100_000, none), sink.getvalue())
    yield (
        "a batch many times",
        sealed(node("pl.df", 20_000 * 20_000, none), repeated_blocks(20_000)),
    )
    endless = bytearray(stream(pa.table({"a": [1]})))
    batch = 8 + struct.unpack_from("<I", endless, 4)[0]  # behind the schema, which has no body
    root = batch + 8 + struct.unpack_from("<I", endless, batch + 8)[0]
    vector = root - struct.unpack_from("<i", endless, root)[0]
    (place,) = struct.unpack_from("<H", endless, vector + 4 + 2 * 3)
    back = -8 - struct.unpack_from("<I", endless, batch + 4)[0]
    struct.pack_into("<q", endless, root + place, back)
    yield "a stream that goes back", sealed(node("pa.table", none), bytes(endless))
    digits = [f"{number * M61:x}" for number in range(1, 20_001)]
    ints = [node("int", one) for one in digits]
    yield "colliding set", sealed(node("set", *ints))
    yield "colliding frozenset", sealed(node("frozenset", *(node("tuple", one) for one in ints)))
    pairs = [part for one in ints for part in (one, None)]
    for kind in ("dict", "odict", "counter"):
        yield f"colliding {kind}", sealed(node(kind, *pairs))
    yield "colliding defaultdict", sealed(node("defaultdict", None, *pairs))
    decimals = [node("decimal", str(number * M61)) for number in range(1, 20_000)]
    yield "colliding decimals", sealed(node("set", *decimals))
    shape = node("tuple", len(ints))
    holes = node("np.array", node("np.dtype", "<i8", "l"), node("tuple", 0), False, none)
    labels = node("np.array", objects, shape, False, ints, holes)
    yield "colliding labels", sealed(node("pd.index", labels, None, None), b"")
    yield (
        "long fraction",
        sealed(node("fraction", node("int", "f" * 900_000), node("int", "1" + "0" * 900_000))),
    )
    yield "deep", seal(b"[" * 100_000 + b"]" * 100_000, [], plain=True)
    yield "deep nodes", seal(b'{"!":["tuple",' * 400 + b"1" + b"]}" * 400, [], plain=False)
    yield "many bits", sealed(node("@hostile.Bits", node("int", "f" * 400_000)))
    yield "long name", sealed(node("x" * 1_000_000))
    yield (
        "negative blob",
        sealed(node("np.array", f8, node("tuple", -1, -8), False, none), b"x" * 64),
    )


def harmless() -> Iterator[tuple[str, bytes]]:
    """Yield payloads that look alike and may be decoded, in the same bounds."""
    collide, eight = numbers(*colliding_int64(20_000))
    labels = node("pd.index", collide, None, None)
    codes = node("np.array", node("np.dtype", "|i1", "b"), node("tuple", 8), False, {"!": 1})
    yield "colliding numbers", sealed(node("pd.categorical", codes, labels, False), eight, bytes(8))
    yield "unique labels", sealed(node("pd.series", collide, labels, None, {}, False), eight)
    yield "long range", sealed(node("range", 0, 10**18, 1))
    long, none = (node("pd.range", 0, stop, 1, None) for stop in (10**15, 0))
    yield "long index", sealed(node("pd.df", long, none, {}, True))
    yield (
        "long decimal",
        sealed(node("set", node("decimal", "9" * 3_000_000), node("decimal", "1e999999999"))),
    )
    yield "long integer", sealed(node("set", node("int", "f" * 3_000_000)))


def samples() -> list[Any]:
    """Return a value of each kind."""
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "s": ["a", "b", None],
            "c": pd.Categorical(["x", "y", "x"]),
            "t": pd.to_datetime(["2024-01-01", "2024-02-01", None], utc=True),
            "m": pd.array([1, None, 3], "Int64"),
        },
        index=pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["i", "j"]),
    )
    return [
        {"rows": [(1, 2.0), (3, None)], "tags": {1, 2, 3}, "big": 2**100},
        [Decimal("1.50"), Fraction(1, 3), frozenset({(1, 2), (3, 4)}), Counter("abca")],
        np.arange(12.0).reshape(3, 4),
        np.array([["a", None], [np.nan, 2]], dtype=object),
        frame,
        pd.Series(pd.interval_range(0, 3), name="iv"),
        pd.Series(pd.arrays.SparseArray([0, 0, 1])),
        pa.table({"a": [1, 2, None], "s": ["x", "y", None], "d": [[1], [], None]}),
        pa.array(["x" * 30, "y"], pa.string_view()),
        pl.DataFrame({"a": ["x" * 20, None], "c": pl.Series(["u", "v"], dtype=pl.Categorical)}),
    ]


def mutated(payload: bytes, rng: random.Random) -> bytes:
    """Change a payload somewhere, and seal it again."""
    content = unseal(payload)
    tree, blobs = bytearray(content.tree), [bytearray(blob) for blob in content.blobs]
    whole = [tree, *blobs] if rng.random() < 0.5 else [tree]
    for _ in range(rng.randint(1, 4)):
        part = rng.choice([one for one in whole if one])
        at = rng.randrange(len(part))
        how = rng.random()
        if how < 0.5:
            part[at] = rng.choice(b'0123456789"[]{},!-x') if part is tree else rng.randrange(256)
        elif how < 0.7:
            del part[at : at + rng.randint(1, 8)]
        else:
            piece = part[at : at + rng.randint(1, 60)]
            part[at:at] = piece * rng.choice((1, 2, 50))
    return seal(bytes(tree), [memoryview(blob) for blob in blobs], plain=content.plain)


def files(folder: Path, payload: bytes) -> Iterator[tuple[str, Path]]:
    """Yield Parquet files that are small, and would take gigabytes."""
    from memora.transfer._parquet import _schema  # noqa: PLC0415

    schema = _schema(FunctionEmbedder(embed).identity, 4)
    row: dict[str, Any] = {
        "id": "a" * 32, "query": "q", "context": "{}", "created_at": 1.0, "expires_at": None,
        "stale_seconds": 0.0, "sliding_seconds": None, "tags": ["t"], "metadata": "{}",
        "cost": 1.0, "uses": 0, "last_used_at": None, "vector": [1.0, 0.0, 0.0, 0.0],
        "payload": payload,
    }  # fmt: skip
    long, tag = "x" * 20_000_000, pa.array(["x" * 1_000_000])
    listed = "[" + "[]," * 15_000_000 + "[]]"

    def often(value: Any, kind: pa.DataType, count: int) -> pa.Array:
        # By indices: the writer is not to build what the reader must not.
        places = pa.array(np.zeros(count, np.int32))
        return pa.DictionaryArray.from_arrays(places, pa.array([value], kind))

    def listing(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)

    text, data = pa.string(), pa.large_binary()
    delta = {"use_dictionary": False, "column_encoding": {"query": "DELTA_BYTE_ARRAY"}}
    cases: dict[str, tuple[str, pa.Array, dict[str, Any]]] = {
        "one text in all rows": ("query", often(long, text, 400), {}),
        "one payload in all rows": ("payload", often(long.encode(), data, 400), {}),
        "one context in all rows": (
            "context",
            often(f'{{"a":"{long[:9_000_000]}"}}', text, 400),
            {},
        ),
        "a context of lists": ("context", pa.array([f'{{"a":{listed}}}']), {}),
        "one tag again and again": ("tags", listing(often(tag[0].as_py(), text, 5_000)), {}),
        "millions of tags": ("tags", listing(often("t", text, 30_000_000)), {}),
        "a long vector": ("vector", listing(pa.array(np.zeros(30_000_000, np.float32))), {}),
        "texts of one another": ("query", pa.array([long[:2_000_000]] * 20), delta),
        "rows of nothing": ("query", often("q", text, 100_000), {}),
    }
    for name, (changed, column, options) in cases.items():
        path = folder / f"{name.replace(' ', '-')}.parquet"
        columns = [
            column
            if field.name == changed
            else pa.array([row[field.name]], field.type).take(pa.array([0] * len(column)))
            for field in schema
        ]
        table = pa.table(columns, names=schema.names)
        stamp = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        with pq.ParquetWriter(
            path, table.schema, compression="zstd", store_schema=False, **options
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(stamp)
        yield name, path


def texts(longest: int) -> Iterator[str]:
    """Yield long texts of many kinds."""
    units = (
        "%1", "word ", "a", "\u4e2d", "e\u0301", "a" + "\u0301\u0316" * 90, "\u0301",
        "\u1100\u1161", "\u0e01\u0e34", "\u200b", "\x01", "\U000e0041", "\U0001f600\u200d",
        "\ufdfa", "9", "(", "-a", "not 1/2 ", "https://a.b/", "1e9",
    )  # fmt: skip
    for unit in units:
        yield unit * (longest // len(unit.encode())) + "?"
    yield "x" + " " * longest + "y"


def measured(name: str, function: Callable[[], str]) -> dict[str, Any]:
    started = time.process_time()
    try:
        outcome = function()
    except MemoryError:
        outcome = "MemoryError"
    except Exception as error:  # noqa: BLE001 - told to the test
        outcome = f"{type(error).__name__}: {str(error)[:300]}"
    return {"name": name, "outcome": outcome, "cpu": time.process_time() - started}


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def decoded(codec: Codec, payload: bytes) -> str:
    try:
        codec.decode(payload)
    except (CorruptEntryError, SerializationError) as error:
        return type(error).__name__
    return "decoded"


def decode_all(rng: random.Random, seconds: float) -> Iterator[dict[str, Any]]:
    codec = Codec()
    codec.register(Bits, name="hostile.Bits")
    hostile, kind = list(payloads()), list(harmless())
    originals = [codec.encode(value) for value in samples()]
    for payload in originals:
        codec.decode(payload)  # imports what it needs, before memory is limited
    for name, payload in hostile:
        yield measured(f"payload: {name}", lambda payload=payload: decoded(codec, payload))
    for name, payload in kind:
        yield measured(f"harmless: {name}", lambda payload=payload: decoded(codec, payload))
    ends = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < ends:
        payload = mutated(rng.choice(originals), rng)
        told = measured("mutated", lambda payload=payload: decoded(codec, payload))
        rounds += 1
        if told["outcome"] not in {"decoded", "CorruptEntryError", "SerializationError"}:
            yield {**told, "payload": payload.hex()[:2000]}
    yield {"name": "rounds", "outcome": "decoded", "cpu": 0.0, "rounds": rounds}


def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0, 0.0, 0.0, 0.0] for _ in texts]


def read_all(folder: Path) -> Iterator[dict[str, Any]]:
    with Memora(CacheConfig(log_level="ERROR"), embedder=embed) as cache:
        for path in sorted(folder.iterdir()):

            def read(path: Path = path) -> str:
                try:
                    cache.import_entries(path, reembed="vector" not in path.name)
                except MemoraError as error:
                    return type(error).__name__
                return "imported"

            yield measured(f"file: {path.stem}", read)


def look_all(longest: int) -> Iterator[dict[str, Any]]:
    for function in (None, embed):
        with Memora(
            CacheConfig(log_level="ERROR", log_queries=True, max_entries=50), embedder=function
        ) as cache:
            cache.store("What is the refund policy?", None, "30 days")
            cache.lookup("What is the policy on refunds?")
            for text in texts(longest):

                def look(text: str = text) -> str:
                    found = cache.lookup(text)
                    cache.explain(text)
                    cache.store(text, {"text": text[:10_000_000]}, "long")
                    again = cache.lookup(text, {"text": text[:10_000_000]})
                    return f"{found.reason} {again.result}"

                yield measured(f"text: {text[:4]!a}", look)


def store_all(rng: random.Random, rounds: int) -> Iterator[dict[str, Any]]:
    """Change the files of a store somewhere, and look what it says."""
    with tempfile.TemporaryDirectory() as folder:
        config = CacheConfig(db_uri=str(Path(folder) / "c"), log_level="ERROR")
        with Memora(config.model_copy(), embedder=embed) as cache:
            for number in range(20):
                cache.store(f"query {number}", {"n": number % 3}, {"rows": [number] * 50})
        paths = [path for path in Path(config.db_uri).rglob("*") if path.is_file()]
        whole = {path: path.read_bytes() for path in paths}

        def look() -> str:
            try:
                with Memora(config, embedder=embed) as cache:
                    for number in range(20):
                        cache.lookup(f"query {number}", {"n": number % 3})
                    cache.entries()
            except (MemoraError, OSError) as error:
                return f"refused by {type(error).__name__}"
            return "opened"

        for _ in range(rounds):
            for path, data in whole.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            changed = bytearray(whole[path := rng.choice([one for one in paths if whole[one]])])
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(changed))
            yield measured("store", look)


def main() -> None:
    warnings.simplefilter("ignore")
    seed, seconds, longest = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        list(files(Path(folder), Codec().encode("x")))
        parts = (
            decode_all(rng, seconds),
            read_all(Path(folder)),
            look_all(longest),
            store_all(rng, 5 + int(20 * seconds)),
        )
        for part in parts:
            for one in part:
                sys.stdout.write(f"{json.dumps(one)}\n")
            sys.stdout.flush()
    os._exit(0)  # what a forged value left behind is not collected


if __name__ == "__main__":
    main()
