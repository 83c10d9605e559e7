"""The public class `Memora`.

Validates arguments, forwards to the core, and keeps the cache's own faults away from the
application.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from memora import lifecycle, pipeline
from memora._arguments import (
    STORED_WITH,
    async_function,
    check_options,
    fields_of,
    flag,
    lifetime_of,
    metadata_json,
    plain_function,
    share,
    sync_function,
)
from memora._durations import seconds
from memora._faults import contained
from memora._observation import Observation
from memora._parts import assemble, in_tasks
from memora._show import one_line
from memora._uris import is_bucket, is_on_server, without_password
from memora.cached_call import Call
from memora.calls._binding import UNKEYED, why_unkeyed
from memora.calls._engine import CallOptions
from memora.calls._identity import place_of
from memora.calls.decorator import Caching
from memora.concurrency.bridge import drive
from memora.concurrency.reentry import busy, inside
from memora.config import CacheConfig, config_from, shown
from memora.context import canonical_context, is_large
from memora.core import said
from memora.errors import ArgumentError, MemoraError, StoreError
from memora.model import AvailabilityCheck, Explanation, LookupResult
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from os import PathLike
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from memora.concurrency.executors import Executor
    from memora.config import Settings
    from memora.eviction import EvictionPolicy
    from memora.model import Lifetime, Unkeyed
    from memora.protocols import Clock, Embedder, Store
    from memora.transfer import Item

T = TypeVar("T")


class Memora(Observation):
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
        super().__init__(
            assemble(
                config,
                embedder=embedder,
                store=store,
                eviction_policy=eviction_policy,
                same_answer=same_answer,
                clock=clock,
            )
        )
        self._warn_of_settings_without_effect()
        if config.opentelemetry:
            from memora import otel  # noqa: PLC0415 - an extra

            otel.watch(config.table_name, self.read_metrics)
        self._log.debug(
            "cache_open",
            storage=without_password(config.db_uri),
            table=config.table_name,
            model=self._ports.embedder.identity,
            verifier=self._ports.judge.verifies,
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
        return drive(
            self._lookup(self._threads, query, context, similarity_threshold, max_age=max_age)
        )

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
            self._lookup_many(
                self._threads, queries, context, similarity_threshold, max_age=max_age
            )
        )

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
            The decision and up to ten candidates; with `elsewhere`, also entries of other
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
                elsewhere=tuple(others),
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
                `invalidate_tags`.
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
        life = {
            "ttl": ttl,
            "stale_ttl": stale_ttl,
            "sliding": sliding,
            "tags": tags,
            "cost": cost,
        }
        return drive(self._store(self._threads, query, context, result, metadata, **life))

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
        return drive(self._store_many(self._threads, items))

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
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
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
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | str | timedelta | None = None,
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

    async def _store(
        self,
        executor: Executor,
        query: str,
        context: Mapping[str, Any] | None,
        result: Any,
        metadata: Mapping[str, Any] | None = None,
        **life: Any,
    ) -> str | None:
        check = partial(self._item, query, context, result, metadata, **life)
        item = await self._aside(executor, check, query, context, metadata)
        return (await self._core.store_many(executor, [item]))[0]

    async def _store_many(self, executor: Executor, items: Iterable[Item]) -> list[str | None]:
        listed = list(items)
        found = await self._aside(executor, partial(self._items, listed), listed)
        return await self._core.store_many(executor, found)

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

    alookup = in_tasks(lookup, _lookup)
    alookup_many = in_tasks(lookup_many, _lookup_many)
    acheck_availability = in_tasks(check_availability)
    aexplain = in_tasks(explain)
    astore = in_tasks(store, _store)
    astore_many = in_tasks(store_many, _store_many)
    aclose = in_tasks(close)
