"""A batch is the same as one call after the other, and asks the model and the store once."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import FakeClock, WordEmbedder
from engine import SIDES, Faulty, FaultyStore, Side
from hypothesis import given, settings
from hypothesis import strategies as st

from memora import CacheConfig, LookupResult, Memora
from memora.errors import ArgumentError, ContextError, MemoraError, QueryError
from memora.stores.memory import MemoryStore


class Unserialisable:
    """No codec knows it."""


# Short enough to be alike and equal often; one that the model cannot read in full.
TEXTS = st.one_of(
    st.lists(
        st.sampled_from(["sales", "in", "march", "April", "regions"]), min_size=1, max_size=3
    ).map(" ".join),
    st.just("word " * 60),
)
CONTEXTS = st.sampled_from([None, {}, {"a": 1}, {"a": 2}])
RESULTS = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.builds(Unserialisable))
ITEMS = st.lists(st.tuples(TEXTS, CONTEXTS, RESULTS), max_size=8)
QUERIES = st.lists(st.tuples(TEXTS, CONTEXTS), max_size=8)


class Rig:
    """A cache that counts what is asked of its parts."""

    def __init__(self) -> None:
        self.embedder = Faulty(WordEmbedder())
        self.store = FaultyStore(MemoryStore(dimension=64))
        config = CacheConfig(judge="off", similarity_threshold=0.6, lookup_timeout_seconds=60)
        self.cache = Memora(
            config,
            embedder=self.embedder,
            store=self.store,  # type: ignore[arg-type]
            clock=FakeClock(),
        )

    def calls(self, operation: str) -> int:
        return self.embedder.calls.count(operation) + self.store.calls.count(operation)

    def forget_calls(self) -> None:
        self.embedder.calls.clear()
        self.store.calls.clear()


def seen(found: LookupResult) -> tuple[Any, ...]:
    """Return all of a result but the ids, which are random."""
    return (
        found.is_hit,
        found.reason,
        found.result,
        found.matched_query,
        found.similarity,
        found.cosine,
        found.nearest and found.nearest.query,
    )


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@settings(max_examples=40)
@given(items=ITEMS, queries=QUERIES)
def test_a_batch_is_the_same_as_one_call_after_the_other(
    side: Side, items: list[Any], queries: list[Any]
) -> None:
    batch, single = Rig(), Rig()

    ids = side(batch.cache.store_many, items)
    assert [one is None for one in ids] == [single.cache.store(*item) is None for item in items]
    storable = [item for item in items if not isinstance(item[2], Unserialisable)]
    assert batch.calls("put_many") == batch.calls("embed") == bool(storable)
    assert batch.store.count() == single.store.count()
    # Of the entries of one key the last is there, under the id that was returned for it.
    held = {found.entry_id for query in queries if (found := batch.cache.lookup(*query, 1.0))}
    assert held <= set(ids)

    fresh = Memora(
        batch.cache.config.model_copy(update={"embedding_cache_size": 0}),
        embedder=batch.embedder,
        store=batch.store,  # type: ignore[arg-type]
        clock=batch.cache._ports.clock,
    )
    batch.forget_calls()
    found = side(fresh.lookup_many, queries)
    assert [seen(one) for one in found] == [seen(single.cache.lookup(*query)) for query in queries]
    assert batch.calls("embed") == any(one.reason != "exact" for one in found)
    for rig in (batch, single):
        assert not any(rig.cache.get_stats()["errors"].values())
    assert fresh.get_stats()["total_requests"] == len(queries)


def test_an_empty_batch_does_nothing(side: Side) -> None:
    rig = Rig()

    assert side(rig.cache.store_many, []) == []
    assert side(rig.cache.lookup_many, []) == []
    assert rig.embedder.calls + rig.store.calls == []
    assert not any(rig.cache.get_stats()["errors"].values())


def test_the_context_of_a_batch_is_of_the_queries_without_one(side: Side) -> None:
    rig = Rig()
    rig.cache.store_many([("sales", {"a": 1}, 1), ("sales", None, 2)])

    found = side(rig.cache.lookup_many, ["sales", ("sales", None), ("sales", {"a": 3})], {"a": 1})

    assert [one.result for one in found] == [1, 2, None]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ((" ", None, 1), QueryError, "item 2: "),
        (("q", {"a": object()}, 1), ContextError, "item 2: "),
        ({"query": "q"}, ArgumentError, "item 2: result is missing"),
        ({"query": "q", "result": 1, "tll": 3}, ArgumentError, "item 2: unknown field 'tll'"),
        ({"query": "q", "result": 1, "ttl": -3}, ArgumentError, "item 2: ttl"),
        (
            ("q", 1),
            ArgumentError,
            "item 2: the item is .*, expected a mapping with query and result, or",
        ),
        (5, ArgumentError, "item 2: the item is .*, expected a mapping with query and result, or"),
    ],
)
def test_a_wrong_item_is_named_by_its_number_and_nothing_is_stored(
    side: Side, wrong: Any, error: type[MemoraError], message: str
) -> None:
    rig = Rig()

    with pytest.raises(error, match=message):
        side(rig.cache.store_many, [("a", None, 1), wrong, ("b", None, 2)])

    assert rig.embedder.calls + rig.store.calls == []
    assert rig.store.inner.count() == 0


def test_a_wrong_query_is_refused_and_nothing_is_looked_up(side: Side) -> None:
    rig = Rig()

    for queries in (["a", " "], ["a", ("b", {"a": object()})], "abc"):
        with pytest.raises(MemoraError):
            side(rig.cache.lookup_many, queries)
    assert rig.embedder.calls + rig.store.calls == []
