"""Export, then import: whatever a store holds, the other one then holds the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from doubles import FakeClock, WordEmbedder
from hypothesis import given, settings
from hypothesis import strategies as st

from memora import CacheConfig, Memora
from memora.codec import Codec
from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import QueryError
from memora.model import Content, Entry
from memora.selection import Selection

DIMENSION = 4
NOW = 1_700_000_000.0
CODEC = Codec()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _is_query(text: str) -> bool:
    try:
        return canonical_query(text) == text
    except QueryError:
        return False


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
exotic = st.tuples(json_values, st.binary(max_size=9)) | st.dates() | st.complex_numbers()
contexts = st.dictionaries(
    texts, st.none() | st.integers() | texts | st.dates() | st.lists(texts), max_size=3
)
seconds = st.floats(0.001, 1e6)


@st.composite
def vectors(draw: st.DrawFn) -> Any:
    numbers = draw(st.lists(st.floats(-1, 1, width=32), min_size=DIMENSION, max_size=DIMENSION))
    array = np.array(numbers, np.float64)
    length = np.linalg.norm(array)
    return None if length < 1e-3 else (array / length).astype(np.float32)


@st.composite
def held(draw: st.DrawFn, results: st.SearchStrategy[Any], places: Any) -> Any:
    """Draw an entry that has not ended, its content, vector and uses."""
    query = draw(texts.filter(_is_query))
    context = canonical_context(draw(places))
    expires = draw(st.none() | seconds)
    entry = Entry(
        id=draw(st.uuids(version=4)).hex,
        key=exact_key(query, context),
        query=query,
        context=context,
        created_at=NOW - draw(st.floats(0, 1e8)),
        expires_at=None if expires is None else NOW + expires,
        stale_seconds=draw(st.floats(0, 1e6)),
        sliding_seconds=draw(st.none() | seconds),
        tags=tuple(sorted(draw(st.sets(texts.filter(str.strip), max_size=2)))),
        cost=draw(st.floats(0, 1e300)),
    )
    metadata = draw(st.dictionaries(st.text(max_size=5), json_values, max_size=2))
    uses = draw(st.integers(0, 2**31 - 1))
    # A use long ago does not slide an end beyond what it was.
    last = NOW - draw(st.floats(1e7, 1e8))
    content = Content(CODEC.encode(draw(results)), json.dumps(metadata))
    return entry, content, draw(vectors()), uses, last


def everything(cache: Memora, *, vectors: bool) -> dict[bytes, Any]:
    store = cache._ports.store
    found = {}
    for holding in store.select(Selection(), now=NOW):
        entry, content, vector = store.fetch(holding.entry.key, now=NOW) or (None, None, None)
        assert entry is not None
        numbers = vector.tolist() if vectors and vector is not None else None
        found[entry.key] = (entry, content, numbers, holding.uses, holding.last_used_at)
    return found


def moved(entries: list[Any], name: str) -> tuple[Memora, Memora]:
    def open_cache() -> Memora:
        embedder = WordEmbedder(dimension=DIMENSION)
        config = CacheConfig(max_entries=None, log_level="ERROR")
        return Memora(config, embedder=embedder, clock=FakeClock(NOW))

    first, second = open_cache(), open_cache()
    for entry, content, vector, uses, last in entries:
        first._ports.store.put(entry, content, vector=vector)
        first._ports.store.touch(entry.key, now=last, times=uses)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        first.export_entries(path)
        second.import_entries(path)
        assert second.import_entries(path).written == 0
    return first, second


@settings(max_examples=100)
@given(st.lists(held(json_values | exotic, contexts), max_size=6, unique_by=lambda one: one[0].key))
def test_parquet_gives_back_all_that_a_store_holds(entries: list[Any]) -> None:
    first, second = moved(entries, "e.parquet")

    assert everything(second, vectors=True) == everything(first, vectors=True)
    assert len(everything(second, vectors=True)) == len(entries)


plain_contexts = st.dictionaries(
    texts.filter(lambda text: not text.startswith("$")),
    st.none() | st.integers() | texts | st.lists(texts),
    max_size=3,
)


@settings(max_examples=100)
@given(st.lists(held(json_values, plain_contexts), max_size=6, unique_by=lambda one: one[0].key))
def test_json_lines_give_back_all_but_the_vectors(entries: list[Any]) -> None:
    first, second = moved(entries, "e.jsonl")

    before, after = everything(first, vectors=False), everything(second, vectors=False)
    assert {key: one[0] for key, one in after.items()} == {
        key: one[0] for key, one in before.items()
    }
    for key, one in after.items():
        assert _same(CODEC.decode(one[1].payload), CODEC.decode(before[key][1].payload))
        assert one[3:] == before[key][3:]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return CODEC.encode(one) == CODEC.encode(other)
