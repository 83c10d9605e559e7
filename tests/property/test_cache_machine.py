"""
Any sequence of calls, on every store at once, against a dictionary.

Never another context's answer, never an expired or replaced one, never one more than allowed.
"""

from __future__ import annotations

import tempfile
from typing import Any

from doubles import FakeClock, WordEmbedder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memora import CacheConfig, Memora
from memora.stores.lancedb import LanceStore

QUERIES = st.sampled_from(
    [
        "sales in march",
        "sales in april",
        "total sales in march please",
        "rain tomorrow",
        " rain tomorrow ",
        " ".join(f"w{i}" for i in range(60)),
    ]
)
CONTEXTS = st.sampled_from([None, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": [1, {"b": None}]}])
THRESHOLDS = st.sampled_from([0.0, 0.5, 0.85, 1.0])
LIMIT = 4
MODES: list[dict[str, Any]] = [
    {"db_uri": "memory://"},
    {"durability": "process"},
    {"durability": "memory", "hot_payload_bytes": 0},
    {"hot_index": "off", "hot_payload_bytes": 0},
]


class CacheMachine(RuleBasedStateMachine):
    """Every call goes to caches in RAM and on disk; all must agree with the model."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        self.settings = [
            {"db_uri": f"{self.folder.name}/{i}"} | mode for i, mode in enumerate(MODES)
        ]
        self.caches = [self.open(settings) for settings in self.settings]
        # (context form, text) -> (result, expires_at), in the order of storing
        self.model: dict[tuple[str, str], tuple[int, float]] = {}
        self.stored = 0

    @rule(query=QUERIES, context=CONTEXTS, ttl=st.sampled_from([None, 10.0]))
    def store(self, query: str, context: Any, ttl: float | None) -> None:
        self.stored += 1
        for cache in self.caches:
            assert cache.store(query, context, self.stored, ttl=ttl) is not None
        key = (repr(context), query.strip())
        self.model.pop(key, None)
        expires = float("inf") if ttl is None else self.clock.now + ttl
        self.model[key] = (self.stored, expires)
        while len(self.model) > LIMIT:
            del self.model[next(iter(self.model))]
        self.clock.advance(0.001)  # entries stored at one instant have an order of their own

    @rule(query=QUERIES, context=CONTEXTS, threshold=THRESHOLDS)
    def lookup(self, query: str, context: Any, threshold: float) -> None:
        alive = {
            key: result for key, (result, expires) in self.model.items() if expires > self.clock.now
        }
        here = {result for (place, _), result in alive.items() if place == repr(context)}
        exact = alive.get((repr(context), query.strip()))
        outcomes = set()
        for cache in self.caches:
            found = cache.lookup(query, context, threshold)
            if exact is not None:
                assert (found.reason, found.result, found.similarity) == ("exact", exact, 1.0)
            elif found.is_hit:
                assert found.result in here
                assert found.similarity is not None
                assert found.similarity >= threshold
            outcomes.add((found.reason, found.result))
        assert len(outcomes) == 1
        assert outcomes != {("error", None)}

    @rule(seconds=st.sampled_from([1.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(which=st.integers(1, len(MODES) - 1))
    def reopen(self, which: int) -> None:
        self.caches[which].close()
        self.caches[which] = self.open(self.settings[which])

    @rule(which=st.integers(1, len(MODES) - 1))
    def flush(self, which: int) -> None:
        store = self.caches[which]._ports.store
        assert isinstance(store, LanceStore)
        store.flush()
        if store._view.graph is None:
            store._leave_to_table()

    @rule(which=st.integers(1, len(MODES) - 1))
    def load_anew(self, which: int) -> None:
        store = self.caches[which]._ports.store
        assert isinstance(store, LanceStore)
        store.flush()
        store._view._looked_at -= 1000.0
        store._follow()

    def open(self, settings: dict[str, Any]) -> Memora:
        # Its threads look so seldom that every step is the machine's.
        config = CacheConfig(max_entries=LIMIT, max_staleness_seconds=15.0, **settings)
        return Memora(config, embedder=WordEmbedder(), clock=self.clock)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for cache in self.caches:
            assert cache.get_stats()["total_entries"] == len(self.model)

    def teardown(self) -> None:
        for cache in getattr(self, "caches", []):
            cache.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()


CacheMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
test_any_sequence_of_calls = CacheMachine.TestCase
