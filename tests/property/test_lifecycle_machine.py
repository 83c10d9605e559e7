"""
Any sequence of calls, on every store at once, against a dictionary.

Never another context's answer, never one that has ended, was replaced, withdrawn or outdated, never
one more than allowed; and who leaves is who the policy has to choose. What has ended may leave a
store at any time, and has to when there is no other room, or at a cleanup.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from doubles import POLICY_MODELS, FakeClock, PolicyModel, WordEmbedder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memora import CacheConfig, Memora
from memora._clock import SteadyClock
from memora.context import canonical_context
from memora.errors import ArgumentError
from memora.eviction import make_policy
from memora.model import Entry, EntryInfo, Match
from memora.protocols import ALL_TIMES
from memora.selection import Selection
from memora.stores.disk.store import LanceStore
from memora.stores.memory import MemoryStore
from memora.stores.tiered import TieredStore

if TYPE_CHECKING:
    from servers import Servers, StorageServer

    from memora.judge import Verdict
    from memora.protocols import Store
    from memora.stores.memtable import Memtable

TEXTS = [
    "sales in march",
    "sales in april",
    "total sales in march please",
    "rain tomorrow",
    " rain tomorrow ",
    "rain and sun tomorrow",
    " ".join(f"w{i}" for i in range(60)),  # the model cannot read it
]
QUERIES = st.sampled_from(TEXTS)
NESTED = {"a": {"x": 1, "y": [2]}}
CONTEXTS = st.sampled_from([None, {}, {"a": 1}, {"a": 1.0}, {"a": True}, NESTED])
# A place, or the number of one that is held: what is asked for is there often enough.
PLACES = st.tuples(QUERIES, CONTEXTS) | st.integers(0, 3)
PARTS = st.sampled_from([{"a": 1}, {"a": True}, {"a": {"x": 1}}, {"a": {"y": []}}, {"b": 1}])
THRESHOLDS = st.sampled_from([0.0, 0.5, 0.85, 1.0])
TAGS = st.sampled_from([None, "red", ("red", "blue"), ["blue"], ("green", "green")])
# No age is a multiple of a quarter, and no entry ends in the second in which somebody asks: stores
# look at whole seconds where they make room.
AGES = st.sampled_from([None, None, 3.25, "6.25s"])
TTLS = st.sampled_from([None, None, 3.5, "10.5s", 60.5])
LIMIT = 4
STALENESS, FLUSHING = 15.0, 5.0
IN_RAM: dict[str, Any] = {"db_uri": "memory://"}
TIERED = IN_RAM | {"local_tier_bytes": 4000}  # three entries of the four
ON_DISK: list[dict[str, Any]] = [
    {"durability": "process"},
    {"durability": "memory", "hot_payload_bytes": 0},
    {"hot_index": "off", "hot_payload_bytes": 0},
]

ROUNDS = int(os.environ.get("LIFECYCLE_ROUNDS", "1"))  # so many times the usual examples

Place = tuple[str, str]  # a context and a text


def place_of(query: str, context: Any) -> Place:
    return repr(context or {}), query.strip()


def key_of(place: Place) -> bytes:
    return "\n".join(place).encode()


def contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], part[key]) for key in part)
    return repr(whole) == repr(part)


def seconds(duration: Any) -> float:
    return float(duration.rstrip("s") if isinstance(duration, str) else duration)


@dataclass
class Row:
    """What was stored."""

    entry_id: str
    context: Any
    query: str
    result: int
    created: float
    expires: float
    stale: float
    sliding: float | None
    tags: set[str]
    cost: float
    uses: int = 0
    last: float | None = None
    outdated: bool = False

    @property
    def ends(self) -> float:
        return self.expires + self.stale

    def alive(self, now: float) -> bool:
        return self.ends > now and not self.outdated

    def use(self, now: float) -> None:
        self.uses += 1
        self.last = now
        if self.sliding is not None and now < self.expires:
            self.expires = now + self.sliding

    def match(self, cosine: float) -> Match:
        context = canonical_context(self.context)
        entry = Entry(
            id=self.entry_id,
            key=bytes(16),
            query=self.query,
            context=context,
            created_at=self.created,
            expires_at=None,
        )
        return Match(entry, cosine)


@dataclass
class Model:
    """What one cache has to hold, in the order of storing, and what it may hold besides."""

    policy_type: type[PolicyModel]
    late: float = 0.0
    """How much longer entries are held whose end slides: a use may not have been heard of."""
    policy: PolicyModel = field(init=False)
    rows: dict[Place, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = self.policy_type()

    def needed(self, row: Row, now: float) -> bool:
        """Tell whether an entry has to be there, served or not."""
        late = 0.0 if row.sliding is None else self.late
        return row.ends + late > now and not row.outdated

    def store(self, place: Place, row: Row) -> None:
        if (old := self.rows.pop(place, None)) is not None:
            row.uses, row.last = old.uses, old.last
        self.rows[place] = row
        self.policy.admit(key_of(place), row.cost)
        for other, one in list(self.rows.items()):
            if one.outdated:
                self.drop(other)
        needed = [other for other, one in self.rows.items() if self.needed(one, row.created)]
        if len(needed) > LIMIT:
            for other in self.rows.keys() - set(needed):
                self.drop(other)
            (gone,) = self.policy.evict(1)
            del self.rows[next(other for other in self.rows if key_of(other) == gone)]

    def drop(self, place: Place) -> None:
        del self.rows[place]
        self.policy.remove(key_of(place))

    def use(self, row: Row, now: float) -> None:
        row.use(now)
        self.policy.touch(key_of(place_of(row.query, row.context)), 1)

    def reopen(self) -> None:
        self.policy = self.policy_type()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Tell the policy what a store keeps: who was stored and used, in order."""
        for key in list(self.policy.keys()):
            self.policy.remove(key)
        events = [(row.created, 0, place) for place, row in self.rows.items()]
        events += [
            (max(row.last, row.created), 1, place)
            for place, row in self.rows.items()
            if row.last is not None
        ]
        for _, used, place in sorted(events, key=lambda event: event[:2]):
            row = self.rows[place]
            if used:
                self.policy.touch(key_of(place), row.uses)
            else:
                self.policy.admit(key_of(place), row.cost)

    def select(  # noqa: PLR0913, PLR0917 - the criteria
        self,
        query: str | None,
        context: Any,
        older: Any,
        part: Any,
        tags: Any,
        entry_id: str | None,
        *,
        now: float,
    ) -> list[Row]:
        wanted = {tags} if isinstance(tags, str) else set(tags or ())
        return [
            row
            for (place, text), row in self.rows.items()
            if not row.outdated
            and (query is None or text == query.strip())
            and (context is None or place == repr(context))
            and (older is None or now - row.created > seconds(older))
            and (part is None or contains(row.context, part))
            and (tags is None or wanted & row.tags)
            and (entry_id is None or row.entry_id == entry_id)
        ]


class Unlisted(TieredStore):
    """Holds what is stored at once, and learns who is evicted at once.

    From lists, which the machine asks for after each step, it learns nothing.
    """

    def put_many(self, items: Any, /) -> None:
        super().put_many(items)
        for entry, _, _ in items:
            self.get(entry.key, now=entry.created_at)

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        return self.shared.select(selection, now=now)

    def maintain(self, **limits: Any) -> int:
        evicted = super().maintain(**limits)
        if evicted:
            self._forget_all(lambda _: True)
        return evicted


class LifecycleMachine(RuleBasedStateMachine):
    """Every call goes to all caches; each has to do what its model does."""

    modes: ClassVar[list[dict[str, Any]]]
    on_disk = False  # or in a bucket, where a store has the same parts
    on_server = False
    policies: ClassVar = list(POLICY_MODELS)

    @initialize(
        policy=st.runner().flatmap(lambda machine: st.sampled_from(machine.policies)),
        judge=st.sampled_from(["on", "off"]),
    )
    def start(self, policy: str, judge: str) -> None:
        self.clock = FakeClock()
        self.now = self.clock.now  # which never goes back, in the caches
        self.tied = False  # whether two things happened at one moment
        self.embedder = WordEmbedder()
        self.folder = tempfile.TemporaryDirectory()
        self.policy = policy
        always = {"eviction_policy": policy, "judge": judge}
        self.settings = [
            {"db_uri": self.place(i), "table_name": uuid.uuid4().hex} | always | mode
            for i, mode in enumerate(self.modes)
        ]
        self.caches = [self.open(settings) for settings in self.settings]
        late = STALENESS + FLUSHING if self.on_disk else 0.0
        self.models = [
            Model(POLICY_MODELS[policy], 0.0 if mode is IN_RAM else late) for mode in self.modes
        ]
        self.gone = "ab" * 16
        self.stored = 0

    def place(self, i: int) -> str:
        return f"{self.folder.name}/{i}"

    def open(self, settings: dict[str, Any]) -> Memora:
        # Its threads look so seldom that every step is the machine's.
        config = CacheConfig(
            max_entries=LIMIT,
            max_staleness_seconds=STALENESS,
            flush_interval_seconds=FLUSHING,
            **settings,
        )
        if config.db_uri != "memory://" or not config.local_tier_bytes:
            return Memora(config, embedder=self.embedder, clock=self.clock)
        policy = None if self.policy == "fifo" else make_policy(self.policy)
        store = Unlisted(
            MemoryStore(dimension=self.embedder.dimension, policy=policy),
            max_bytes=config.local_tier_bytes,
            max_staleness_seconds=STALENESS,
            clock=(clock := SteadyClock(self.clock)),
        )
        return Memora(config, embedder=self.embedder, store=store, clock=clock)

    def pairs(self) -> list[tuple[Memora, Model]]:
        return list(zip(self.caches, self.models, strict=True))

    def meant(self, asked: tuple[str, Any] | int) -> tuple[str, Any]:
        """Return a query and a context."""
        if isinstance(asked, int):
            held = list(self.models[0].rows.values())
            if not held:
                return TEXTS[asked], None
            row = held[asked % len(held)]
            return row.query, row.context
        return asked

    def tick(self) -> None:
        """End a moment in which something was stored or served."""
        self.tell()
        self.tied |= self.clock.now < self.now
        self.wait(0.001)

    def tell(self) -> None:
        """Have servers know what was served, where it does not ride with the next call to them."""

    @rule(
        asked=PLACES,
        ttl=TTLS,
        stale=st.sampled_from([None, None, 5]),
        sliding=st.booleans(),
        tags=TAGS,
        cost=st.sampled_from([None, 0.0, 5.0]),
    )
    def store(  # noqa: PLR0913 - what is stored
        self, asked: Any, ttl: Any, stale: Any, *, sliding: bool, tags: Any, cost: Any
    ) -> None:
        query, context = self.meant(asked)
        self.stored += 1
        lifetime: dict[str, Any] = {"ttl": ttl, "stale_ttl": stale, "sliding": sliding}
        for cache, model in self.pairs():
            entry_id = cache.store(query, context, self.stored, tags=tags, cost=cost, **lifetime)
            assert entry_id is not None
            row = Row(
                entry_id=entry_id,
                context=context or {},
                query=query.strip(),
                result=self.stored,
                created=self.now,
                expires=inf if ttl is None else self.now + seconds(ttl),
                stale=0.0 if ttl is None or stale is None else stale,
                sliding=seconds(ttl) if ttl is not None and sliding else None,
                tags={tags} if isinstance(tags, str) else set(tags or ()),
                cost=1.0 if cost is None else cost,
            )
            model.store(place_of(query, context), row)
        self.tick()

    @rule(places=st.lists(st.tuples(QUERIES, CONTEXTS), min_size=2, max_size=5))
    def fill(self, places: list[Any]) -> None:
        for asked in places:
            self.store(asked, None, None, sliding=False, tags=None, cost=None)

    @rule(which=st.lists(st.integers(0, 3), min_size=1, max_size=5))
    def serve(self, which: list[int]) -> None:
        for asked in which:
            self.lookup(asked, 1.0, None)

    def expected(
        self, cache: Memora, model: Model, asked: Place, threshold: float, oldest: float = inf
    ) -> tuple[Row | None, Verdict | None]:
        """Return what has to be served, and why where the judge decides."""
        place, text = asked
        here = {
            row.entry_id: row
            for (there, _), row in model.rows.items()
            if there == place and row.alive(self.now) and self.now - row.created <= oldest
        }
        exact = model.rows.get((place, text))
        if exact is not None and exact.entry_id in here:
            return exact, None
        cosines = {entry_id: self.cosine(text, row.query) for entry_id, row in here.items()}
        matches = [here[one].match(cosine) for one, cosine in cosines.items() if cosine is not None]
        matches.sort(key=lambda match: -match.cosine)
        verdict = cache._ports.judge.decide(text, matches, threshold=threshold)
        if verdict.served and verdict.nearest is not None and self.embed(text) is not None:
            return here[verdict.nearest.entry.id], verdict
        return None, verdict

    def embed(self, text: str) -> Any:
        return self.embedder.embed([text])[0]

    def cosine(self, one: str, other: str) -> float | None:
        first, second = self.embed(one), self.embed(other)
        return None if first is None or second is None else float(first @ second)

    def remaining(self, row: Row, *, used: bool) -> float | None:
        if row.expires == inf:
            return None
        left = max(row.expires - self.now, 0.0)
        return row.sliding if used and left and row.sliding is not None else left

    @rule(asked=PLACES, threshold=THRESHOLDS, max_age=AGES)
    def lookup(self, asked: Any, threshold: float, max_age: Any) -> None:
        query, context = self.meant(asked)
        oldest = inf if max_age is None else seconds(max_age)
        for cache, model in self.pairs():
            found = cache.lookup(query, context, threshold, max_age=max_age)
            place = place_of(query, context)
            row, verdict = self.expected(cache, model, place, threshold, oldest)
            if row is None:
                assert verdict is not None
                reasons = {"unreadable" if self.embed(query) is None else verdict.reason}
                ended = model.rows.get(place)
                if ended is not None and ended.ends <= self.now and "unreadable" not in reasons:
                    reasons.add("expired")  # as long as it has not been removed
                assert found.reason in reasons
                assert found.is_miss
                assert (found.result, found.is_stale) == (None, False)
                continue
            assert found.reason == ("exact" if verdict is None else "semantic")
            assert (found.entry_id, found.result) == (row.entry_id, row.result)
            assert found.matched_query == row.query
            similarity = 1.0 if verdict is None else verdict.similarity
            assert found.similarity == pytest.approx(similarity, abs=1e-5)
            assert found.age_seconds == pytest.approx(self.now - row.created)
            assert found.ttl_remaining_seconds == pytest.approx(self.remaining(row, used=True))
            assert found.is_stale == (row.expires <= self.now)
            model.use(row, self.now)
        self.tick()

    @rule(asked=PLACES, threshold=THRESHOLDS, max_age=AGES)
    def check_availability(self, asked: Any, threshold: float, max_age: Any) -> None:
        query, context = self.meant(asked)
        oldest = inf if max_age is None else seconds(max_age)
        for cache, model in self.pairs():
            cache.entries()  # by which the store tells a server what it has held back
            before = state_of(cache)
            found = cache.check_availability(query, context, threshold, max_age=max_age)
            explained = cache.explain(query, context, threshold)
            assert state_of(cache) == before
            place = place_of(query, context)
            row, _ = self.expected(cache, model, place, threshold)
            assert explained.is_hit == (row is not None)
            row, verdict = self.expected(cache, model, place, threshold, oldest)
            assert found.available == (row is not None)
            if row is not None:
                similarity = 1.0 if verdict is None else verdict.similarity
                assert found.similarity == pytest.approx(similarity, abs=1e-5)
                assert found.age_seconds == pytest.approx(self.now - row.created)
                left = self.remaining(row, used=False)
                assert found.ttl_remaining_seconds == pytest.approx(left)

    @rule(
        query=st.none() | st.none() | QUERIES,
        context=st.none() | st.none() | CONTEXTS,
        older=AGES,
        part=st.none() | PARTS,
        tags=st.sampled_from([None, None, "red", ["blue", "none"], []]),
        which=st.none() | st.integers(0, 6),
        threshold=st.sampled_from([None, None, 0.0, 0.3, 0.9, 1.0]),
        dry=st.sampled_from([True, True, False]),
    )
    def invalidate(  # noqa: PLR0913, PLR0917 - the criteria
        self,
        query: str | None,
        context: Any,
        older: Any,
        part: Any,
        tags: Any,
        which: int | None,
        threshold: float | None,
        *,
        dry: bool,
    ) -> None:
        for cache, model in self.pairs():
            known = [row.entry_id for row in model.rows.values()]
            entry_id = None if which is None else (*known, *[self.gone] * 7)[which]
            criteria: dict[str, Any] = {
                "query": query,
                "context": context,
                "older_than_seconds": older,
                "context_contains": part,
                "tags": tags,
                "entry_id": entry_id,
                "similarity_threshold": threshold,
            }
            unreadable = query is None or (tags != [] and self.embed(query) is None)
            if threshold is not None and unreadable:
                with pytest.raises(ArgumentError):
                    cache.invalidate(**criteria)
                continue
            exact = query if threshold is None else None
            rows = model.select(exact, context, older, part, tags, entry_id, now=self.now)
            if all(one is None for one in (query, context, older, part, tags, entry_id)):
                rows = []
            if query is not None and threshold is not None:
                rows = [row for row in rows if self.similarity(cache, query, row) >= threshold]
            going = cache.invalidate(**criteria, dry_run=True)
            expected = [row.entry_id for row in rows]
            if threshold is None:
                assert [one.entry_id for one in going] == expected
            else:
                assert {one.entry_id for one in going} == set(expected)
                similar = [one.similarity or 0.0 for one in going]
                assert similar == sorted(similar, reverse=True)
            if not dry:
                assert cache.invalidate(**criteria) == len(rows)
                for row in rows:
                    model.drop(place_of(row.query, row.context))
                    self.gone = row.entry_id

    def similarity(self, cache: Memora, query: str, row: Row) -> float:
        """Return how similar a meaning is, by the judge or by the cosine; below 0: not at all."""
        cosine = self.cosine(query, row.query)
        if cosine is None:
            return -1.0
        (judged,) = cache._ports.judge.assess(query.strip(), [(row.query, cosine)])
        return max(1.0 if query.strip() == row.query else judged.similarity, cosine)

    @rule(tags=st.sampled_from([["red"], ["blue", "green"], ["none"]]), swept=st.booleans())
    def outdate(self, tags: list[str], *, swept: bool) -> None:
        for cache, model in self.pairs():
            cache.outdate(*tags)
            for row in model.rows.values():
                row.outdated |= bool(row.tags & set(tags))
            self.agree(cache, model)
            if swept or isinstance(cache._ports.store, LanceStore):  # where it is done at any time
                self.clean(cache, model)

    @precondition(lambda self: any(row.outdated for row in self.models[0].rows.values()))
    @rule()
    def clear(self) -> None:
        for cache, model in self.pairs():
            assert cache.clear() == len(model.rows)
            for place in list(model.rows):
                model.drop(place)

    @rule()
    def cleanup_expired(self) -> None:
        for cache, model in self.pairs():
            self.clean(cache, model)

    def clean(self, cache: Memora, model: Model) -> None:
        ended = [place for place, row in model.rows.items() if not model.needed(row, self.now)]
        assert cache.cleanup_expired() == len(ended)
        for place in ended:
            model.drop(place)
        assert cache.get_stats()["total_entries"] == len(model.rows)

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.now = max(self.now, self.clock.now)

    @rule(seconds=st.sampled_from([1.0, 50.0]))
    def set_clock_back(self, seconds: float) -> None:
        for cache in self.caches:
            assert cache._ports.clock() == self.now
        self.clock.advance(-seconds)

    # On a server, which knows all that it knew, but for a clock that was set back since.

    @precondition(lambda self: self.on_server and self.clock.now >= self.now)
    @rule()
    def open_again(self) -> None:
        self.caches[1].close()
        self.caches[1] = self.open(self.settings[1])

    # On disk, and in a bucket. At one moment nobody remembers who was used first.

    @precondition(lambda self: self.on_disk and not (self.tied and self.policy == "lru"))
    @rule(which=st.integers(0, len(ON_DISK) - 1))
    def reopen(self, which: int) -> None:
        which = 1 + which % (len(self.modes) - 1)
        self.caches[which].close()
        self.caches[which] = self.open(self.settings[which])
        self.models[which].reopen()

    @precondition(lambda self: self.on_disk)
    @rule(which=st.integers(0, len(ON_DISK) - 1))
    def flush(self, which: int) -> None:
        store = self.disk(1 + which % (len(self.modes) - 1))
        store.flush()
        if store._view.graph is None:
            store._leave_to_table()

    @precondition(lambda self: self.on_disk and not (self.tied and self.policy == "lru"))
    @rule(which=st.integers(0, len(ON_DISK) - 1))
    def load_anew(self, which: int) -> None:
        which = 1 + which % (len(self.modes) - 1)
        store = self.disk(which)
        store.flush()
        view = store._view
        view._last_read -= 1000.0
        store._follow()
        assert store._view is not view
        self.models[which].begin_anew()

    def disk(self, which: int) -> LanceStore:
        store = self.caches[which]._ports.store
        assert isinstance(store, LanceStore)
        return store

    @invariant()
    def all_agree(self) -> None:
        for cache, model in self.pairs():
            self.agree(cache, model)

    def agree(self, cache: Memora, model: Model) -> None:
        assert cache._ports.clock() == self.now
        held = cache._ports.store.select(Selection(), now=ALL_TIMES)
        ids = {one.entry.id for one in held}
        for place, row in list(model.rows.items()):
            if row.entry_id not in ids and not row.outdated:
                assert not model.needed(row, self.now)
                model.drop(place)
        assert ids == {row.entry_id for row in model.rows.values() if not row.outdated}
        assert cache._ports.store.count() == len(model.rows) <= LIMIT  # get_stats takes longer
        shown = [
            (one.entry_id, one.query, set(one.tags), one.uses, one.last_used_at)
            for one in cache.entries()
        ]
        assert shown == [
            (row.entry_id, row.query, row.tags, row.uses, row.last)
            for row in model.rows.values()
            if row.alive(self.now)
        ]

    def teardown(self) -> None:
        for cache in getattr(self, "caches", []):
            assert cache.get_stats()["errors"] == dict.fromkeys(cache.get_stats()["errors"], 0)
            cache.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()


def state_of(cache: Memora) -> Any:
    """Return all that a use would change."""
    stats = cache.get_stats()
    counted = {name: stats[name] for name in ("hits", "misses", "total_requests", "errors")}
    store = shared_of(cache)
    if isinstance(store, (MemoryStore, LanceStore)):
        policy = hot_of(cache)._policy
        order = None if policy is None else deepcopy(policy).evict(LIMIT + 1)
    else:
        client = store._shards.server._client  # type: ignore[attr-defined]
        names = sorted(client.keys(f"memora:{{{cache._config.table_name}:*"))
        order = [(name, client.dump(name)) for name in names]
    return counted, stats["lookup_latency_ms"]["samples"], cache.entries(), order


def shared_of(cache: Memora) -> Store:
    store = cache._ports.store
    return store.shared if isinstance(store, TieredStore) else store


def hot_of(cache: Memora) -> Memtable:
    store = shared_of(cache)
    if isinstance(store, MemoryStore):
        return store._hot
    assert isinstance(store, LanceStore)
    return store._view.hot


class InRam(LifecycleMachine):
    modes: ClassVar[list[dict[str, Any]]] = [IN_RAM]


class Tiered(LifecycleMachine):
    modes: ClassVar[list[dict[str, Any]]] = [IN_RAM, TIERED]

    @invariant()
    def what_is_held_is_current(self) -> None:
        store = self.caches[1]._ports.store
        assert isinstance(store, TieredStore)
        current = {row.entry_id for row in self.models[1].rows.values() if row.alive(self.now)}
        for key in list(store._held):
            found = store.get_in_memory(key, now=self.now)
            assert not found or found[0].id in current


class OnEveryStore(LifecycleMachine):
    modes: ClassVar[list[dict[str, Any]]] = [IN_RAM, *ON_DISK]
    on_disk = True


class InABucket(LifecycleMachine):
    server: ClassVar[StorageServer]
    modes: ClassVar[list[dict[str, Any]]]
    on_disk = True

    def place(self, i: int) -> str:
        return f"{self.server.uri}/{Path(self.folder.name).name}-{i}"


@pytest.mark.servers
def test_in_a_bucket(s3: StorageServer) -> None:
    options = {"storage_options": s3.storage_options}
    InABucket.server = s3
    InABucket.modes = [IN_RAM, options, options | {"durability": "memory", "hot_payload_bytes": 0}]
    run_state_machine_as_test(
        InABucket, settings=settings(max_examples=6 * ROUNDS, stateful_step_count=25, deadline=None)
    )


InRam.TestCase.settings = settings(max_examples=250 * ROUNDS, stateful_step_count=40, deadline=None)
test_in_ram = InRam.TestCase
Tiered.TestCase.settings = settings(
    max_examples=100 * ROUNDS, stateful_step_count=40, deadline=None
)
test_tiered = Tiered.TestCase
OnEveryStore.TestCase.settings = settings(
    max_examples=20 * ROUNDS, stateful_step_count=25, deadline=None
)
test_on_every_store = OnEveryStore.TestCase


class OnAServer(LifecycleMachine):
    on_server = True


class InACluster(OnAServer):
    policies: ClassVar = ["fifo", "lru"]  # by the others, each shard chooses by itself

    def tell(self) -> None:
        # Shards hear of uses one after the other: their order is that of being told.
        for cache in self.caches[1:]:
            shared_of(cache)._shards.send_uses()  # type: ignore[attr-defined]


def run_on(machine: type[LifecycleMachine], uri: str, examples: int) -> None:
    class There(machine):  # type: ignore[misc, valid-type]
        modes: ClassVar[list[dict[str, Any]]] = [
            IN_RAM,
            {"db_uri": uri},
            {"db_uri": uri, "local_tier_bytes": 2**20},
        ]

    run_state_machine_as_test(
        There,
        settings=settings(max_examples=examples * ROUNDS, stateful_step_count=30, deadline=None),
    )


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["redis search", "redis", "valkey search"])
def test_on_a_server(servers: Servers, kind: str) -> None:
    run_on(OnAServer, servers.uri(kind), examples=60)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["redis cluster search", "redis cluster", "valkey cluster search"])
def test_in_a_cluster(servers: Servers, kind: str) -> None:
    run_on(InACluster, servers.uri(kind), examples=8)
