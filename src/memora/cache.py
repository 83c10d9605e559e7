"""The public class `Memora`.

Validates arguments, forwards to the core, and keeps the cache's own faults away from the
application.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from memora import lifecycle, pipeline, transfer
from memora._arguments import (
    STORED_WITH,
    async_function,
    check_options,
    fields_of,
    flag,
    is_number,
    lifetime_of,
    metadata_json,
    plain_function,
    share,
    sync_function,
    tags_of,
)
from memora._clock import SteadyClock
from memora._durations import seconds
from memora._faults import contained
from memora._log import make_logger
from memora._show import one_line
from memora._uris import is_bucket, is_on_server, without_password
from memora.cached_call import CachedCalls, Call
from memora.calls._binding import UNKEYED, place_of, why_unkeyed
from memora.calls._engine import CallOptions
from memora.calls.decorator import Caching
from memora.codec import Codec
from memora.concurrency.breaker import Breaker
from memora.concurrency.bridge import drive
from memora.concurrency.executors import TaskExecutor, ThreadExecutor
from memora.concurrency.flights import Flights
from memora.concurrency.reentry import alone, busy, inside
from memora.concurrency.workers import Workers
from memora.config import CacheConfig, config_from, shown
from memora.context import canonical_context, canonical_query, exact_key, is_large
from memora.core import Core, said
from memora.embedders import CachedEmbedder, as_embedder, load_embedder
from memora.errors import ArgumentError, ClosedError, MemoraError, StoreError
from memora.health import Health, look_at_scheduler
from memora.judge import Judge
from memora.metrics import HealthCounters, Metrics, Timed, stats_of
from memora.model import AvailabilityCheck, Explanation, LookupResult
from memora.protocols import ALL_TIMES, IndexedStore, MeasuredStore
from memora.scheduler import CleanupScheduler
from memora.selection import Selection
from memora.shadow import Shadow
from memora.stores import open_store
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from os import PathLike
    from types import TracebackType
    from typing import Concatenate

    from typing_extensions import ParamSpec, Self, Unpack

    from memora.concurrency.executors import Executor
    from memora.config import Settings
    from memora.eviction import EvictionPolicy
    from memora.health import CheckResult, Kind
    from memora.lifecycle import Found
    from memora.model import Lifetime, Measures, Selected, Unkeyed
    from memora.prometheus import MetricsServer
    from memora.protocols import Clock, Embedder, Store
    from memora.reading import MetricsSnapshot
    from memora.transfer import ImportReport, Item, Progress

    P = ParamSpec("P")

S = TypeVar("S", bound="Memora")
T = TypeVar("T")

_WORKERS = 32  # maximum number of threads for calls with a deadline, hung ones included
_REFRESHERS = 4  # threads that refresh results in the background
_CLEANUP_SECONDS = 300.0  # default interval of the scheduler


def _twin(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return an async version of a rarely called method: it runs in a worker, without deadline."""

    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._chores.arun(partial(method, self, *args, **kwargs), None)

    call.__name__ = f"a{method.__name__}"
    call.__qualname__ = f"Memora.{call.__name__}"
    call.__doc__ = f"Do as `{method.__name__}`, without blocking the event loop."
    return call


@dataclass
class _Held:
    """What a store reported about its size."""

    entries: int | None = None
    measures: Measures | None = None
    has_index: bool = False


class Memora:
    """A semantic cache. Every method may be called from any thread.

    `Memora()` reads its settings from the environment; `Memora("./cache", ttl="1h")` overrides some
    of them. `Memora(config, ttl="1h")` overrides settings of `config` without changing that object.

    Args:
        config: Settings, or the `db_uri` or path of the store. Without settings,
            `CacheConfig.load()` provides them.
        embedder: An `Embedder`, or any callable from a list of texts to vectors; replaces the
            model named in the settings.
        store: A store that replaces the one named in the settings; it keeps its own eviction
            policy.
        eviction_policy: The setting; or an empty policy object that replaces the one it names.
        same_answer: For `mode="shadow"`: called with the result that would have been served and
            the fresh one; returns whether they agree. By default, results agree if they are equal.
        clock: Returns seconds since the epoch. Time in the cache never goes backwards: see the
            guide. A store on a server uses the server's clock, unless this argument is given.
        **settings: Settings of `CacheConfig` that override `config` and the environment; `ttl` is
            short for `ttl_seconds`.

    Raises:
        ConfigError: A setting is wrong, unknown, or given twice; or it needs an optional dependency
            that is missing.
        EmbedderError: The model cannot be loaded.
        StoreError: The store cannot be opened, or does not belong to this model or version.
    """

    def __init__(  # noqa: PLR0913 - the ports
        self,
        config: CacheConfig | str | PathLike[str] | None = None,
        *,
        embedder: Embedder | Callable[[list[str]], Any] | None = None,
        store: Store | None = None,
        eviction_policy: EvictionPolicy
        | Literal["fifo", "lru", "lfu", "s3fifo", "cost"]
        | None = None,
        same_answer: Callable[[Any, Any], object] | None = None,
        clock: Clock = time.time,
        **settings: Unpack[Settings],
    ) -> None:
        changed: dict[str, Any] = {**settings}
        if isinstance(eviction_policy, str):
            changed["eviction_policy"], eviction_policy = eviction_policy, None
        config = config_from(config, changed)
        self._config = config
        self._log = make_logger(config.log_level, json_logs=config.json_logs)
        chosen = (
            load_embedder(config.model_name, use_onnx=config.use_onnx)
            if embedder is None
            else as_embedder(embedder)
        )
        codec = Codec(max_expansion=config.max_expansion)
        self._shadow = None
        if config.mode == "shadow":
            self._shadow = Shadow(
                config,
                model=chosen.identity,
                codec=codec,
                same=same_answer,
                report=lambda fault: self._core.log_fault("shadow", fault),
            )
        steady = SteadyClock(clock)
        if store is None:
            store = open_store(config, embedder=chosen, policy=eviction_policy, clock=steady)
        counting = Metrics if config.enable_metrics else HealthCounters
        self._metrics = counting(
            clock=time.monotonic if clock is time.time else clock,  # a tenth of what `steady` takes
            policy=config.eviction_policy,
        )
        timings = self._metrics.timings
        self._ports = pipeline.Ports(
            embedder=CachedEmbedder(
                chosen,
                config.embedding_cache_size,
                timer=partial(Timed, timings.now, timings.embedding),
                warmed=self._metrics.leave_out,
            ),
            store=store,
            codec=codec,
            clock=steady,
            judge=Judge(
                chosen.identity,
                enabled=config.judge == "on",
                cross_lingual=config.cross_lingual,
            ),
            breakers=pipeline.Breakers(
                *(
                    Breaker(
                        failures=config.breaker_failures,
                        reset_seconds=config.breaker_reset_seconds,
                    )
                    for _ in pipeline.Breakers._fields
                )
            ),
            timings=timings,
        )
        core = Core
        if config.opentelemetry:
            from memora import otel  # noqa: PLC0415 - an extra

            core = otel.TracedCore
        self._core = core(config, self._ports, self._metrics, self._log, shadow=self._shadow)
        self._calls = CachedCalls(self._core)
        workers, flights = Workers(_WORKERS, "memora-call"), Flights()
        background = Workers(_REFRESHERS, "memora-refresh")
        patient = Workers(_WORKERS, "memora-encode")
        self._threads = ThreadExecutor(workers, background, flights)
        self._tasks = TaskExecutor(workers, patient, flights)
        self._chores = Workers(_WORKERS, "memora-chore")
        self._crews = (workers, background, patient, self._chores)
        self._health = Health(self._ports, chosen, self._metrics, workers)
        self._servers: list[MetricsServer] = []
        self._scheduler: CleanupScheduler | None = None
        self._scheduling = False  # whether its thread should be there
        self._closed = False
        self._told_of_no_criterion = False
        self._warn_of_settings_without_effect()
        if config.opentelemetry:
            otel.watch(config.table_name, self.read_metrics)
        self._log.debug(
            "cache_open",
            storage=without_password(config.db_uri),
            table=config.table_name,
            model=chosen.identity,
        )

    def __repr__(self) -> str:
        settings = shown(self._config)
        told = [f"db_uri={settings.pop('db_uri')!r}", f"model={self._ports.embedder.identity!r}"]
        told += [
            f"{name}={value!r}"
            for name, value in settings.items()
            if name != "model_name" and value != CacheConfig.model_fields[name].default
        ]
        state = ", closed" if self._closed else ""
        return f"<Memora {', '.join(told)}{state}>"

    @property
    def config(self) -> CacheConfig:
        """The settings with which this cache was opened."""
        return self._config

    def lookup(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
    ) -> LookupResult:
        """Find a stored result for a query with the same meaning, in exactly the same context.

        Args:
            query: The query's text; not blank.
            context: Values that must be equal for a hit: any JSON-like nesting, dates, enums,
                UUIDs, paths, sets, dataclasses, pydantic models. None and {} are the same.
            similarity_threshold: Minimum probability, in [0, 1], that the stored result is right;
                by default the setting.
            max_age: Maximum age of the stored result: seconds, a timedelta, or "10m".

        Returns:
            A hit or a miss, with its reason. If the cache itself fails, a miss with the reason
            "error", or "timeout" after `lookup_timeout_seconds`.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The threshold or the age is out of range.
            MemoraError: The cache failed, and `fail_open` is False.
        """
        return drive(self._lookup(self._threads, query, context, similarity_threshold, max_age))

    async def alookup(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
    ) -> LookupResult:
        """Do as `lookup`, without blocking the event loop."""
        return await self._lookup(self._tasks, query, context, similarity_threshold, max_age)

    def lookup_many(
        self,
        queries: Iterable[str | tuple[str, Mapping[str, Any] | None]],
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
    ) -> list[LookupResult]:
        """Look up several queries and embed them in one batch.

        Args:
            queries: Texts, or pairs of a text and its own context.
            context: Context of the texts without their own.
            similarity_threshold: As for `lookup`.
            max_age: As for `lookup`.

        Returns:
            One result per query, in order; as from `lookup`.

        Raises:
            MemoraError: As by `lookup`. If an argument is wrong, nothing has been looked up.
        """
        return drive(
            self._lookup_many(self._threads, queries, context, similarity_threshold, max_age)
        )

    async def alookup_many(
        self,
        queries: Iterable[str | tuple[str, Mapping[str, Any] | None]],
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
    ) -> list[LookupResult]:
        """Do as `lookup_many`, without blocking the event loop."""
        return await self._lookup_many(self._tasks, queries, context, similarity_threshold, max_age)

    def check_availability(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
    ) -> AvailabilityCheck:
        """Return whether a lookup would hit now, without reading a result or counting a use.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            similarity_threshold: As for `lookup`.
            max_age: As for `lookup`.

        Returns:
            Whether a result is available; not if the cache itself fails.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The threshold or the age is out of range.
        """
        self._check_open()
        request = pipeline.Request.of(query, context)
        threshold = self._threshold(similarity_threshold)
        oldest = inf if max_age is None else seconds("max_age", max_age)
        if self._config.mode == "shadow":
            return AvailabilityCheck(available=False)
        return drive(self._core.check(self._threads, request, threshold=threshold, max_age=oldest))

    def explain(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        elsewhere: bool = False,
    ) -> Explanation:
        """Explain what a lookup would do now, with all candidates that it would judge.

        It is not counted as a lookup, and no result is decoded. `print` the returned explanation.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            similarity_threshold: As for `lookup`.
            elsewhere: Also search all other contexts for entries that would be served there; slow
                in a large cache.

        Returns:
            The decision and up to five candidates; with `elsewhere`, also entries of other
            contexts. If the cache itself fails, the reason is "error".

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The threshold is out of range.
        """
        self._check_open()
        request = pipeline.Request.of(query, context)
        threshold = self._threshold(similarity_threshold)
        try:
            others = (
                lifecycle.elsewhere(self._ports, request, threshold=threshold) if elsewhere else ()
            )
            tell = partial(
                pipeline.explain,
                self._ports,
                request,
                threshold=threshold,
                elsewhere=tuple(one.shown() for one in others),
            )
            return drive(self._core.ask(self._threads, tell))
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            self._core.log_fault("explain", fault)
            return Explanation(
                query=request.text,
                is_hit=False,
                reason="error",
                explanation=said(fault),
                threshold=threshold,
            )

    def store(  # noqa: PLR0913 - the attributes of an entry
        self,
        query: str,
        context: Mapping[str, Any] | None,
        result: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        ttl: float | str | timedelta | None = None,
        stale_ttl: float | str | timedelta | None = None,
        sliding: bool | None = None,
        tags: str | Iterable[str] | None = None,
        cost: float | None = None,
    ) -> str | None:
        """Store a result for a query in its context, replacing any entry for the same two.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            result: Any value that the codec can restore exactly; see `register_type`.
            metadata: JSON values, returned with each hit.
            ttl: How long the entry lives: seconds, a timedelta, or "10m"; by default the setting.
            stale_ttl: How long after its TTL the entry is still served, with `is_stale` set.
            sliding: Whether the TTL restarts with each hit.
            tags: Sources on which the result depends, such as "doc:42"; see `invalidate` and
                `outdate`.
            cost: Cost of computing the result, in any unit that all entries share; by default
                `metadata["cost"]`, else 1. The eviction policy "cost" prefers to keep costly
                results.

        Returns:
            The entry's id. None if nothing was stored, because the result cannot be serialised or
            is too large, or because the cache failed; that is logged and counted, not raised.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The metadata is not JSON, a duration is not above 0, a tag is not a text,
                or the cost is below 0.
            MemoraError: The cache failed, and `fail_open` is False.
        """
        item = self._item(
            query,
            context,
            result,
            metadata,
            ttl=ttl,
            stale_ttl=stale_ttl,
            sliding=sliding,
            tags=tags,
            cost=cost,
        )
        return drive(self._core.store_many(self._threads, [item]))[0]

    async def astore(  # noqa: PLR0913 - as `store`
        self,
        query: str,
        context: Mapping[str, Any] | None,
        result: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        ttl: float | str | timedelta | None = None,
        stale_ttl: float | str | timedelta | None = None,
        sliding: bool | None = None,
        tags: str | Iterable[str] | None = None,
        cost: float | None = None,
    ) -> str | None:
        """Do as `store`, without blocking the event loop."""
        check = partial(
            self._item,
            query,
            context,
            result,
            metadata,
            ttl=ttl,
            stale_ttl=stale_ttl,
            sliding=sliding,
            tags=tags,
            cost=cost,
        )
        item = await self._aside(self._tasks, check, query, context, metadata)
        return (await self._core.store_many(self._tasks, [item]))[0]

    def store_many(self, items: Iterable[Item]) -> list[str | None]:
        """Store several results; embed their queries in one batch and write them at once.

        Args:
            items: Tuples of query, context and result; or mappings of the arguments of `store`.

        Returns:
            One id per item, in order; None as from `store`.

        Raises:
            MemoraError: As by `store`. If an argument is wrong, the message has the number of the
                item, and nothing has been stored.
        """
        return drive(self._core.store_many(self._threads, self._items(items)))

    async def astore_many(self, items: Iterable[Item]) -> list[str | None]:
        """Do as `store_many`, without blocking the event loop."""
        listed = list(items)
        found = await self._aside(self._tasks, partial(self._items, listed), listed)
        return await self._core.store_many(self._tasks, found)

    def get_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], T],
        **options: Unpack[CallOptions],
    ) -> T:
        """Return a stored result; on a miss, call `compute` and store its result.

        If several callers miss on exactly the same query and context at the same time, in any
        thread, task or process on the store, one leader computes and the others get its result. If
        the leader fails, the next one computes. A stale result is returned at once and refreshed in
        the background.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            compute: Called without arguments. Its exceptions pass through and are not stored. For
                an async function, use `aget_or_compute`.
            **options: See `memora.calls.CallOptions`.

        If the query or context has no key, or the cache is closed, `compute` is called without the
        cache. This is counted in `get_stats()["uncacheable"]` and logged once.

        Raises:
            ArgumentError: An option is out of range, as of `lookup` and `store`.
            ContextError: The context is not a mapping.
        """
        computing = sync_function("compute", compute)
        call = self._call(query, context, compute, options)
        if call is None:
            return computing()
        result: T = drive(self._calls.call(self._threads, call, computing))
        return result

    async def aget_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], Awaitable[T]],
        **options: Unpack[CallOptions],
    ) -> T:
        """Do as `get_or_compute`, in a task; cancelling it does not affect other callers.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            compute: An async function, or another callable that returns an awaitable.
            **options: See `memora.calls.CallOptions`.

        Raises:
            ArgumentError: `compute` did not return an awaitable, or as by `get_or_compute`.
        """
        computing = async_function("compute", compute)
        check = partial(self._call, query, context, compute, options)
        call = await self._aside(self._tasks, check, query, context, options.get("metadata"))
        if call is None:
            return await computing()
        result: T = await self._calls.call(self._tasks, call, computing)
        return result

    @property
    def cached(self) -> Caching:
        """A decorator for functions, methods and generators, sync and async: see `Caching`."""
        return Caching(self, log=self._log.debug, warn=self._log.warning)

    def disabled(self) -> AbstractContextManager[None]:
        """Return a context manager; cached calls in its block bypass the cache and store nothing.

        It affects the code called in the block and tasks started there, but no other threads.
        """
        return self._core.disabled()

    def caching_enabled(self) -> bool:
        """Return whether the caller is outside of all `disabled()` blocks."""
        return self._core.enabled

    def accept_result(self, function: Callable[..., object], returns: Any = None) -> None:
        """Register the classes that a function returns; called for decorated functions."""
        self._ports.codec.accept(function, returns)

    @property
    def closed(self) -> bool:
        """Whether the cache is closed."""
        return self._closed

    def note_uncacheable(self, function: str, reason: Unkeyed, fault: Exception) -> None:
        """Count and log a call that bypassed the cache; called by decorated functions."""
        self._core.uncacheable(function, reason, fault)

    @overload
    def invalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: Literal[False] = False,
    ) -> int: ...

    @overload
    def invalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: Literal[True],
    ) -> list[Selected]: ...

    def invalidate(  # noqa: PLR0913 - the criteria
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: bool = False,
    ) -> int | list[Selected]:
        """Delete the entries that meet all criteria; without criteria, none, with a warning.

        Args:
            query: The exact text; with `similarity_threshold`, also texts of the same meaning.
            context: The exact context; {} is the empty one.
            older_than_seconds: Minimum age of the entries: seconds, a timedelta, or "10m".
            context_contains: Keys and values that the context must have; nested mappings may have
                further keys too.
            tags: The entry has at least one of these tags.
            entry_id: An id returned by `store` or a lookup.
            similarity_threshold: In [0, 1]. Entries match if their similarity to the query, or
                their raw cosine, reaches it: deleting one too many is safer than keeping one.
            dry_run: Delete nothing, and return the entries that would be deleted.

        Returns:
            The number of deleted entries. With `dry_run`, the entries themselves: the most similar
            first if there is a similarity, else the oldest first.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: A context holds a value without canonical form.
            ArgumentError: Another criterion is out of range, or the model cannot read the query.
            StoreError: The store failed; some of the entries may still be there.
            EmbedderError: The model failed; nothing was deleted.
        """
        self._check_open()
        criteria = (query, context, older_than_seconds, context_contains, tags, entry_id)
        if all(one is None for one in criteria):
            if similarity_threshold is not None:
                raise ArgumentError("similarity_threshold needs a query to compare with")
            if not self._told_of_no_criterion:  # once, as the caller may be in a loop
                self._told_of_no_criterion = True
                self._log.warning(
                    "invalidate_without_criteria",
                    hint="nothing was deleted: name a criterion, or call clear() to delete all",
                )
            return [] if dry_run else 0
        found = self._find(
            query,
            context,
            older_than_seconds,
            context_contains=context_contains,
            tags=tags,
            entry_id=entry_id,
            similarity_threshold=similarity_threshold,
        )
        if dry_run:
            return [one.shown() for one in found]
        deleted = lifecycle.withdraw(self._ports, found)
        self._metrics.count_left("invalidated", deleted)
        self._log.info("cache_invalidate", entries=deleted)
        return deleted

    def entries(  # noqa: PLR0913 - the criteria
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
    ) -> list[Selected]:
        """Return the entries that meet all criteria and have not ended; without criteria, all.

        Args:
            query: As for `invalidate`.
            context: As for `invalidate`.
            older_than_seconds: As for `invalidate`.
            context_contains: As for `invalidate`.
            tags: As for `invalidate`.
            entry_id: As for `invalidate`.
            similarity_threshold: As for `invalidate`.

        Returns:
            The entries, the most similar first if there is a similarity, else the oldest first.

        Raises:
            MemoraError: As by `invalidate`.
        """
        self._check_open()
        found = self._find(
            query,
            context,
            older_than_seconds,
            context_contains=context_contains,
            tags=tags,
            entry_id=entry_id,
            similarity_threshold=similarity_threshold,
            now=self._ports.clock(),
        )
        return [one.shown() for one in found]

    def outdate(self, *tags: str) -> None:
        """Stop serving all entries stored so far with one of these tags, at once.

        Use it if a source has changed. It takes O(1) per tag, however many entries there are; they
        are removed in the background. To get their number, use `invalidate`.

        Raises:
            ArgumentError: A tag is not a text, or is blank.
            StoreError: The store failed; some of the entries may still be served.
        """
        self._check_open()
        for tag in tags_of(tags):
            with contained:
                alone(self._ports.store.outdate)(tag)
            self._metrics.count_outdated()
            self._log.info("cache_outdate")

    def clear(self) -> int:
        """Delete all entries; return how many.

        Raises:
            StoreError: The store failed; some entries may still be there.
        """
        self._check_open()
        deleted, swept = lifecycle.clear(self._ports)
        self._metrics.count_left("cleared", deleted)
        self._metrics.count_left("expired", swept)
        self._log.info("cache_clear", entries=deleted + swept)
        return deleted + swept

    def cleanup_expired(self) -> int:
        """Remove the expired and the outdated entries; return how many.

        They are never served, so this only frees space.

        Raises:
            StoreError: The store failed; some entries may still be there.
        """
        self._check_open()
        removed = lifecycle.sweep(self._ports)
        self._metrics.count_left("expired", removed)
        self._log.debug("cache_cleanup", entries=removed)
        return removed

    def export_entries(
        self,
        path: str | PathLike[str],
        *,
        skip_errors: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Write all entries that have not ended to a file, which appears once it is complete.

        Args:
            path: A `.parquet` file has complete entries, for `import_entries`; a `.jsonl` file is
                for people: without vectors, and with contexts and results as plain JSON.
            skip_errors: Skip, count and report entries that cannot be written, instead of raising.
            progress: Called with the number of entries done and the total.

        Returns:
            How many entries were written.

        Raises:
            ArgumentError: The path has another suffix.
            TransferError: The file cannot be written, or an entry cannot be written as JSON.
            MemoraError: The store failed, or a result is damaged.
        """
        self._check_open()
        moved = transfer.export_entries(
            self._ports, path, skip_errors=skip_errors, progress=progress
        )
        self._log.info("cache_export", entries=moved.written)
        return moved

    def import_entries(
        self,
        path: str | PathLike[str],
        *,
        skip_errors: bool = False,
        reembed: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Add the entries of an export to this cache, with their original age.

        The whole file is checked first. Entries that this cache already has, or has a newer version
        of for the same query and context, are skipped, so an interrupted import can be repeated.
        Expired entries are skipped too. The limits of this cache apply.

        Args:
            path: A `.parquet` file from `export_entries`, or a `.jsonl` file as for `warm`.
            skip_errors: Skip, count and report broken rows, instead of raising.
            reembed: Embed the queries of a `.parquet` file again if it is of another model.
            progress: Called with the number of rows done and the total.

        Returns:
            How many entries were written, were here already, had expired, or are broken.

        Raises:
            ArgumentError: The path has another suffix.
            TransferError: The file cannot be read, lacks a column, or has a broken row; the message
                has the row's number, column and value, and what is expected. Nothing was imported.
            ModelMismatchError: The file's vectors are of another model. Nothing was imported.
            MemoraError: The store or the model failed during the import; repeat it.
        """
        self._check_open()
        moved = transfer.import_entries(
            self._ports,
            self._config,
            path,
            skip_errors=skip_errors,
            reembed=reembed,
            progress=progress,
        )
        self._metrics.count_left("evicted", moved.evicted)
        self._log.info("cache_import", entries=moved.written, evicted=moved.evicted)
        return moved

    def warm(
        self,
        items: Iterable[Item] | str | PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> int:
        """Store known answers, embedded in batches; return how many were stored.

        A file or a sequence is checked completely before the first item is stored. Items of an
        iterator are stored up to the first broken one.

        Args:
            items: Mappings with `query` and `result`, and optionally `context`, `metadata`, `ttl`,
                `stale_ttl`, `sliding`, `tags` and `cost`, all as for `store`; tuples of query,
                context and result; or the path of a `.jsonl` file with one such mapping per line.
            progress: Called with the number of items done, and the total or None if unknown.

        Raises:
            ArgumentError: `items` is not an iterable, or is a path with another suffix.
            TransferError: The file cannot be read, or an item is broken; the message has its
                number, and how many items were stored.
            MemoraError: The store or the model failed; items stored before that stay.
        """
        self._check_open()
        moved = transfer.warm(self._ports, self._config, items, progress=progress)
        self._metrics.count_left("evicted", moved.evicted)
        self._log.info("cache_warm", entries=moved.written, evicted=moved.evicted)
        return moved.written

    def start_scheduler(
        self,
        interval_seconds: float | str | timedelta | None = None,
        initial_delay_seconds: float = 60.0,
    ) -> None:
        """Call `cleanup_expired` periodically in the background; a second start only warns.

        The thread does not keep the process alive, continues if a cleanup fails, starts again in a
        forked child, and ends with `close`.

        Args:
            interval_seconds: Time between two cleanups; by default the setting
                `cleanup_interval_seconds`, or five minutes.
            initial_delay_seconds: Time before the first cleanup.

        Raises:
            ArgumentError: A number is out of range.
        """
        self._check_open()
        if interval_seconds is None:
            interval_seconds = self._config.cleanup_interval_seconds or _CLEANUP_SECONDS
        scheduler = self._scheduler
        if scheduler is not None and scheduler.stats()["running"]:
            self._log.warning("scheduler_already_running")
            return
        self._scheduler = CleanupScheduler(
            self._clean,
            interval_seconds=seconds("interval_seconds", interval_seconds),
            initial_delay_seconds=initial_delay_seconds,
            clock=self._ports.clock,
            report=self._report_cleanup,
        )
        self._scheduling = self._scheduler.start()

    def stop_scheduler(self, timeout: float = 5.0) -> None:
        """Stop the background cleanup; wait up to `timeout` seconds for one that is running."""
        self._scheduling = False
        if self._scheduler is not None and not self._scheduler.stop(timeout):
            self._log.warning("scheduler_still_running", timeout=timeout)

    def get_scheduler_stats(self) -> dict[str, Any] | None:
        """Return running, interval_seconds, total_runs, total_deleted, last_run_time and errors.

        Also `last_error`, the type of the last error. None if the scheduler was never started.
        """
        return None if self._scheduler is None else self._scheduler.stats()

    def register_type(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Allow results of an application's class: a dataclass, pydantic model, enum, or any other.

        The types of its fields are registered too, if they declare fields themselves or are enums.

        A stored record names its class, and only registered names are resolved: a record never
        causes an import. Register a class before the first lookup that may return an instance.

        Args:
            cls: The class.
            name: Its name in stored records; by default the class's module and name. Keep the name
                if the class moves.
            encode: Converts an instance into a storable value, if its fields are not enough.
            decode: Converts that value back into an instance.
        """
        self._ports.codec.register(cls, name=name, encode=encode, decode=decode)

    def get_stats(self) -> dict[str, Any]:
        """Return the main settings, the size of the store, and the counters so far.

        `total_entries` includes expired entries that are not removed yet. It and the sizes are None
        if the store cannot report them. All other counters cover only this process, since it opened
        the cache. docs/operations.md explains each key.
        """
        self._check_open()
        held = self._look_at_store(index=True)
        reading = self._read(held)
        sizes = {family.name: family.values[()] for family in reading.gauges}
        return {
            "total_entries": sizes.get("entries"),
            "max_entries": self._config.max_entries,
            "eviction_policy": self._config.eviction_policy,
            "threshold": self._config.similarity_threshold,
            "embedding_dim": self._ports.embedder.dimension,
            "model": self._ports.embedder.identity,
            "ttl_seconds": self._config.ttl_seconds,
            "max_bytes": self._config.max_bytes,
            "scheduler": self.get_scheduler_stats(),
            "storage": without_password(self._config.db_uri),
            "index_created": held.has_index,
            **{name: sizes.get(name) for name in ("entry_bytes", "payload_bytes", "index_bytes")},
            **stats_of(reading),
        }

    def read_metrics(self) -> MetricsSnapshot:
        """Return a snapshot of all metrics, for an exporter: see `memora.reading`.

        Raises:
            ClosedError: The cache was closed.
        """
        self._check_open()
        return self._read(self._look_at_store())

    def _read(self, held: _Held) -> MetricsSnapshot:
        measures = held.measures
        gauges = {
            "entries": held.entries,
            "limit_entries": self._config.max_entries,
            "limit_bytes": self._config.max_bytes,
        }
        if measures is not None:
            gauges["entry_bytes"] = measures.bytes
            gauges["payload_bytes"] = measures.payload_bytes
            gauges["index_bytes"] = measures.index_bytes
        return self._metrics.read(gauges=gauges, measures=measures)

    def start_metrics_server(
        self, port: int | Sequence[int], *, host: str = "127.0.0.1", name: str | None = None
    ) -> MetricsServer:
        """Serve the metrics for Prometheus, over HTTP in a thread, until the cache is closed.

        To serve several caches on one page, or on an existing page of the application, see
        `memora.prometheus`.

        Args:
            port: A port, or 0 for any free one, which the returned server's `port` names. For
                applications with many processes, a sequence such as `range(9464, 9472)`, of which
                the first free port is used.
            host: The address to listen on; "0.0.0.0" for a Prometheus on another machine.
            name: Value of the label `cache` of all metrics; by default the name of the table.

        Raises:
            MissingExtraError: The extra `prometheus` is not installed.
            ArgumentError: The port is in use, or an argument is out of range.
        """
        self._check_open()
        from memora.prometheus import serve  # noqa: PLC0415 - an extra

        named = {self._config.table_name if name is None else name: self}
        server = serve(named, port, host=host)
        self._servers.append(server)
        return server

    def health_check(self, kind: Kind = "ready", *, timeout: float = 2.0) -> dict[str, Any]:
        """Check every part of the cache that a lookup needs; faults are reported, not raised.

        Args:
            kind: "ready" checks that everything works: embedding, database, index, error rate,
                scheduler, breakers, threads. "live" checks only the threads, because a restart of
                the process repairs those, but not a fault of the disk or the model.
            timeout: Seconds after which a part that does not respond is unhealthy.

        Returns:
            `status`, "healthy" or "unhealthy"; `checks`, by part: `ok`, `error` or `details`, and
            `duration_ms`; `metrics`; `timestamp`, in milliseconds.

        Raises:
            ArgumentError: The kind is unknown, or the timeout is not above 0.
        """
        return self._health.check(
            kind, timeout=timeout, closed=self._closed, scheduler=self._look_at_scheduler()
        )

    async def ahealth_check(
        self,
        kind: Kind = "ready",
        *,
        timeout: float = 2.0,
    ) -> dict[str, Any]:
        """Do as `health_check`, without blocking the event loop."""
        return await self._health.acheck(
            kind, timeout=timeout, closed=self._closed, scheduler=self._look_at_scheduler()
        )

    def create_index(
        self,
        num_partitions: int | None = None,
        *,
        num_sub_vectors: int | None = None,
        index_type: str = "IVF_PQ",
    ) -> bool:
        """Create the index of the LanceDB table, replacing an existing one.

        Lookups from RAM do not use it; it serves `hot_index="off"` and other readers of the table.
        With fewer than 256 entries, or a store in RAM only, this logs a warning and does nothing.

        Args:
            num_partitions: Number of partitions; by default the square root of the number of
                entries.
            num_sub_vectors: Number of sub-vectors of the product quantisation, a divisor of the
                dimension; by default one per eight dimensions.
            index_type: IVF_PQ, IVF_FLAT, IVF_SQ, IVF_HNSW_PQ or IVF_HNSW_SQ.

        Returns:
            Whether the index was created.

        Raises:
            ArgumentError: An argument is out of range.
            StoreError: LanceDB failed.
        """
        self._check_open()
        store = self._ports.store
        created = isinstance(store, IndexedStore) and alone(contained(store.create_index))(
            num_partitions=num_partitions,
            num_sub_vectors=num_sub_vectors,
            index_type=index_type,
        )
        if not created:
            entries = self._look_at_store().entries
            self._log.warning("index_not_created", entries=entries, needed=256)
        return created

    def get_index_stats(self) -> dict[str, Any]:
        """Return `has_index`, `total_entries`, and any other statistics of the store's index."""
        self._check_open()
        return drive(self._core.ask(self._threads, self._index_stats))

    def _index_stats(self) -> dict[str, Any]:
        store = self._ports.store
        if isinstance(store, IndexedStore):
            return store.index_stats()
        return {"total_entries": store.count(), "has_index": False}

    def close(self) -> None:
        """Stop the scheduler and all threads, bring the table up to date, and release the store.

        Idempotent. A fault of the disk, or of another part, is logged and counted, not raised. The
        log names acknowledged writes that could not be kept.

        If a signal handler or finalizer calls this while it interrupts the cache itself, a thread
        closes the cache soon after.
        """
        if busy():
            with suppress(RuntimeError):  # no new thread at exit, where stores are closed anyway
                threading.Thread(target=self.close, name="memora-close").start()
            return
        if self._closed:
            return
        self._closed = True
        steps: list[Callable[[], object]] = [server.close for server in self._servers]
        steps.append(self.stop_scheduler)
        if self._shadow is not None:
            steps.append(self._shadow.close)
        steps += [partial(inside.run, self._ports.store.close), self._end_threads]
        for step in steps:
            try:
                with contained:
                    step()
            except Exception as fault:  # noqa: BLE001 - the application is done with the cache
                self._core.report("maintain", fault)
                if isinstance(fault, StoreError):  # its message contains no query
                    self._log.error("cache_close_failed", reason=one_line(str(fault), 400))
        self._log.debug("cache_close")

    def _end_threads(self) -> None:
        self._health.close()
        for workers in self._crews:
            workers.close()

    acheck_availability = _twin(check_availability)
    aexplain = _twin(explain)
    ainvalidate = _twin(invalidate)
    aentries = _twin(entries)
    aoutdate = _twin(outdate)
    aclear = _twin(clear)
    acleanup_expired = _twin(cleanup_expired)
    aexport_entries = _twin(export_entries)
    aimport_entries = _twin(import_entries)
    awarm = _twin(warm)
    aget_stats = _twin(get_stats)
    aread_metrics = _twin(read_metrics)
    aclose = _twin(close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _lookup(
        self,
        executor: Executor,
        query: str,
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None,
        max_age: float | str | timedelta | None,
    ) -> LookupResult:
        self._check_open()
        return await self._core.lookup(
            executor,
            await self._aside(
                executor, partial(pipeline.Request.of, query, context), query, context
            ),
            threshold=self._threshold(similarity_threshold),
            max_age=inf if max_age is None else seconds("max_age", max_age),
        )

    async def _lookup_many(
        self,
        executor: Executor,
        queries: Iterable[str | tuple[str, Mapping[str, Any] | None]],
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None,
        max_age: float | str | timedelta | None,
    ) -> list[LookupResult]:
        self._check_open()
        if isinstance(queries, str):
            raise ArgumentError(f"queries must be an iterable of texts, got the text {queries!r}")
        asked = [query if isinstance(query, tuple) else (query, context) for query in queries]
        requests = await self._aside(
            executor, lambda: [pipeline.Request.of(*one) for one in asked], asked
        )
        return await self._core.lookup_many(
            executor,
            requests,
            threshold=self._threshold(similarity_threshold),
            max_age=inf if max_age is None else seconds("max_age", max_age),
        )

    async def _aside(self, executor: Executor, check: Callable[[], T], *given: object) -> T:
        """Check arguments; large ones of a task in a worker, because that takes long."""
        if executor is self._tasks and is_large(*given):
            return await self._chores.arun(check, None)
        return check()

    def _item(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        result: Any,
        metadata: Mapping[str, Any] | None = None,
        **life: Any,
    ) -> tuple[pipeline.Request, Any, str, Lifetime]:
        """Validate the arguments of `store`."""
        self._check_open()
        request = pipeline.Request.of(query, context)
        copied = metadata_json(metadata)
        return request, result, copied, lifetime_of(self._config, **life, metadata=metadata)

    def _items(self, items: Iterable[Item]) -> list[tuple[pipeline.Request, Any, str, Lifetime]]:
        found = []
        for number, item in enumerate(items, start=1):
            try:
                found.append(self._item(**{"context": None, **fields_of(item, STORED_WITH)}))
            except MemoraError as error:
                raise type(error)(f"item {number}: {error}") from error
        return found

    def _call(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], object],
        options: CallOptions,
    ) -> Call | None:
        """Validate the arguments of a cached call; None if it bypasses the cache."""
        if not self._core.enabled or options.get("bypass", False) is True:
            return None
        check_options("a call", options, CallOptions.__annotations__)
        flag("bypass", options.get("bypass", False))
        said: dict[str, Any] = {name: options.get(name) for name in STORED_WITH}
        metadata, max_age = options.get("metadata"), options.get("max_age")
        copied = metadata_json(metadata)
        lifetime = lifetime_of(self._config, **said)
        ahead = options.get("refresh_ahead")
        call = partial(
            Call,
            threshold=self._threshold(options.get("similarity_threshold")),
            max_age=inf if max_age is None else seconds("max_age", max_age),
            lifetime=lifetime,
            metadata=copied,
            costs=options.get("cost") is not None or "cost" in (metadata or {}),
            condition=plain_function("condition", options.get("condition")),
            refresh_ahead=0.0 if ahead is None else seconds("refresh_ahead", ahead),
            refresh=flag("refresh", options.get("refresh", False)),
            single_flight=flag("single_flight", options.get("single_flight", True)),
        )
        if context is not None and not isinstance(context, Mapping):
            canonical_context(context)  # raises
        try:
            self._check_open()
            return call(request=pipeline.Request.of(query, context))
        except UNKEYED as fault:
            self._core.uncacheable(place_of(compute), why_unkeyed(fault), fault)
            return None

    def _find(  # noqa: PLR0913 - the criteria
        self,
        query: str | None,
        context: Mapping[str, Any] | None,
        older_than_seconds: float | str | timedelta | None,
        *,
        context_contains: Mapping[str, Any] | None,
        tags: str | Iterable[str] | None,
        entry_id: str | None,
        similarity_threshold: float | None,
        now: float = ALL_TIMES,
    ) -> list[Found]:
        """Validate criteria, and return the entries that meet them."""
        threshold = (
            None
            if similarity_threshold is None
            else share("similarity_threshold", similarity_threshold)
        )
        wanted = tags_of(tags)
        text = None if query is None else canonical_query(query)
        if threshold is not None and text is None:
            raise ArgumentError("similarity_threshold needs a query to compare with")
        if entry_id is not None and not isinstance(entry_id, str):
            raise ArgumentError(f"entry_id must be a text, got {entry_id!r}")
        place = None if context is None else canonical_context(context)
        exact = text is not None and threshold is None
        before = inf
        if older_than_seconds is not None:
            before = self._ports.clock() - _age("older_than_seconds", older_than_seconds)
        part = None if context_contains is None else canonical_context(context_contains)
        if part is not None and not json.loads(part.canonical):
            raise ArgumentError(
                "context_contains={} is part of every context: expected one key, at least; "
                "clear() deletes all entries"
            )
        selection = Selection(
            key=exact_key(text, place) if exact and text and place else None,
            query=text if exact else None,
            entry_id=entry_id,
            fingerprint=None if place is None else place.fingerprint,
            contains=None if part is None else part.canonical,
            tags=frozenset(wanted),
            before=before,
        )
        if tags is not None and not wanted:  # no entry has one of no tags
            return []
        return lifecycle.find(
            self._ports,
            selection,
            meaning=None if exact else text,
            threshold=threshold or 0.0,
            now=now,
        )

    def _clean(self) -> int:
        return 0 if self._closed else self.cleanup_expired()

    def _report_cleanup(self, fault: Exception) -> None:
        self._core.report("cleanup", fault)

    def _look_at_scheduler(self) -> CheckResult:
        return look_at_scheduler(self.get_scheduler_stats(), wanted=self._scheduling)

    def _look_at_store(self, *, index: bool = False) -> _Held:
        """Read the store's size; values that it cannot report, or not in time, are None."""
        store, held = self._ports.store, _Held()

        def look() -> None:
            held.entries = store.count()
            held.measures = store.measure() if isinstance(store, MeasuredStore) else None
            if index and isinstance(store, IndexedStore):
                held.has_index = bool(store.index_stats()["has_index"])

        with suppress(Exception):  # statistics never fail
            drive(self._core.ask(self._threads, look))
        return held

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this cache has been closed; open another one")

    def _threshold(self, given: float | None) -> float:
        if given is None:
            return self._config.similarity_threshold
        return share("similarity_threshold", given)

    def _warn_of_settings_without_effect(self) -> None:
        on_server = is_on_server(self._config.db_uri)
        off_disk = isinstance(self._ports.store, MemoryStore) or on_server
        ignored = {
            # Without effect if no data is on a disk of this machine.
            "durability": off_disk and self._config.durability != "process",
            "hot_index": off_disk and self._config.hot_index == "off",
            # Without effect if all entries are in RAM anyway.
            "local_tier_bytes": not on_server and self._config.local_tier_bytes > 0,
            "storage_options": self._config.storage_options and not is_bucket(self._config.db_uri),
        }
        if settings := [name for name, is_set in ignored.items() if is_set]:
            self._log.warning("settings_without_effect", settings=settings)


def _age(name: str, value: float | str | timedelta) -> float:
    # 0 is allowed: it selects all entries stored before now.
    return 0.0 if is_number(value) and value == 0 else seconds(name, value)
