"""The door: `Memora`.

Validates what the application passes, forwards to the pipeline, and keeps the cache's own faults
away from the application.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

from memora import pipeline
from memora._log import make_logger
from memora.codec import Codec
from memora.config import CacheConfig
from memora.embedders import CachedEmbedder, as_embedder, load_embedder
from memora.errors import (
    ArgumentError,
    ClosedError,
    ConfigError,
    JudgeError,
    SerializationError,
)
from memora.judge import Judge
from memora.metrics import Metrics, Operation
from memora.model import Explanation, LookupResult
from memora.protocols import IndexedStore
from memora.stores import open_store
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from memora.protocols import Clock, Embedder, Store

T = TypeVar("T")

# Health turns bad when a tenth of the recent operations failed, and no earlier than at the fifth
# failure: one fault in a young cache is not an outage.
_UNHEALTHY_ERROR_RATE = 0.1
_UNHEALTHY_ERRORS = 5


class Memora:
    """A semantic cache. Every method may be called from any thread.

    Args:
        config: Settings; without one, `CacheConfig.load()`.
        embedder: An `Embedder`, or any callable from a list of texts to vectors, instead of the
            model that the settings name.
        store: A store instead of the one that the settings name.
        clock: Seconds since the epoch.

    Raises:
        ConfigError: A setting is wrong, or needs an optional dependency that is missing.
        EmbedderError: The model cannot be loaded.
        StoreError: The store cannot be opened, or does not belong to this model or version.
    """

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        embedder: Embedder | Callable[[list[str]], Any] | None = None,
        store: Store | None = None,
        clock: Clock = time.time,
    ) -> None:
        if config is None:
            config = CacheConfig.load()
        if not isinstance(config, CacheConfig):
            raise ConfigError(f"config must be a CacheConfig, got {type(config).__name__}")
        self._config = config
        self._log = make_logger(config.log_level, json_logs=config.json_logs)
        chosen = (
            load_embedder(config.model_name, use_onnx=config.use_onnx)
            if embedder is None
            else as_embedder(embedder)
        )
        if store is None:
            store = open_store(config, embedder=chosen)
        self._metrics = Metrics(enabled=config.enable_metrics)
        self._embedder = chosen
        self._ports = pipeline.Ports(
            embedder=CachedEmbedder(
                chosen,
                config.embedding_cache_size,
                timer=lambda: self._metrics.timed("embedding"),
            ),
            store=store,
            codec=Codec(),
            clock=lambda: float(clock()),
            judge=Judge(
                chosen.identity,
                enabled=config.judge == "on",
                cross_lingual=config.cross_lingual,
            ),
        )
        self._closed = False
        self._warn_of_settings_without_effect()

    @property
    def config(self) -> CacheConfig:
        """The settings this cache was opened with."""
        return self._config

    def lookup(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
    ) -> LookupResult:
        """Find a stored result for a query that means the same, in exactly the same context.

        Args:
            query: What is asked; not blank.
            context: What has to be equal: any JSON-like nesting, dates, enums, UUIDs, paths, sets,
                dataclasses, pydantic models. None and {} are the same.
            similarity_threshold: Least probability, in [0, 1], that the stored result is right;
                by default the setting.

        Returns:
            A hit or a miss, with its reason. If the cache itself fails, a miss with the reason
            "error".

        Raises:
            QueryError: The query is not a text, or blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The threshold is out of range.
        """
        self._check_open()
        request = pipeline.Request.of(query, context)
        threshold = self._threshold(similarity_threshold)
        try:
            with self._metrics.timed("lookup"):
                found = pipeline.lookup(self._ports, request, threshold=threshold)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it must not reach the application
            self._report("judge" if isinstance(fault, JudgeError) else "lookup", fault)
            return LookupResult(is_hit=False, reason="error", explanation=_said(fault))
        self._metrics.count_lookup(found)
        self._log.debug(
            "cache_hit" if found else "cache_miss",
            reason=found.reason,
            similarity=found.similarity,
            entry_id=found.entry_id,
        )
        return found

    def explain(
        self,
        query: str,
        context: Mapping[str, Any] | None = None,
        similarity_threshold: float | None = None,
    ) -> Explanation:
        """Tell what a lookup would do now, and why: all candidates that it would judge.

        It is not counted as a lookup, and no result is decoded. `print` what it returns.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            similarity_threshold: As for `lookup`.

        Returns:
            The decision, and up to five candidates. If the cache itself fails, the reason is
            "error".

        Raises:
            QueryError: The query is not a text, or blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The threshold is out of range.
        """
        self._check_open()
        request = pipeline.Request.of(query, context)
        threshold = self._threshold(similarity_threshold)
        try:
            return pipeline.explain(self._ports, request, threshold=threshold)
        except Exception as fault:  # noqa: BLE001 - as of a lookup
            self._log_fault("explain", fault)
            return Explanation(
                query=request.text,
                is_hit=False,
                reason="error",
                explanation=_said(fault),
                threshold=threshold,
            )

    def store(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        result: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        ttl: float | timedelta | None = None,
    ) -> str | None:
        """Store a result for a query in its context, replacing what was stored for the same two.

        Args:
            query: As for `lookup`.
            context: As for `lookup`.
            result: Any value that the codec can give back exactly; see `register_type`.
            metadata: JSON values, returned with each hit.
            ttl: How long the entry lives, in seconds or as a timedelta; by default the setting.

        Returns:
            The entry's id; None where nothing was stored, because the result cannot be serialised
            or is too large, or because the cache failed. That is logged and counted, not raised.

        Raises:
            QueryError: The query is not a text, or blank.
            ContextError: The context holds a value without canonical form.
            ArgumentError: The metadata is not JSON, or the TTL is not above 0.
        """
        self._check_open()
        request = pipeline.Request.of(query, context)
        copied = _metadata(metadata)
        ttl_seconds = self._config.ttl_seconds if ttl is None else _seconds("ttl", ttl)
        try:
            with self._metrics.timed("store"):
                entry_id = pipeline.store(
                    self._ports,
                    request,
                    result,
                    metadata=copied,
                    ttl_seconds=ttl_seconds,
                    max_payload_bytes=self._config.max_payload_bytes,
                )
        except SerializationError as error:
            self._metrics.count_skip()
            self._log.warning("result_not_stored", result_type=type(result).__name__)
            self._log.debug("result_not_stored_because", error=str(error))
            return None
        except Exception as fault:  # noqa: BLE001 - whatever it is, it must not reach the application
            self._report("store", fault)
            return None
        self._metrics.count_store()
        self._log.debug("cache_store", entry_id=entry_id)
        self._maintain()
        return entry_id

    def register_type(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Allow results of one of the application's classes: dataclass, pydantic model, enum, any.

        A stored record names its class, and only registered names are ever looked up: nothing is
        imported because a record says so. Register before the first lookup that may meet one.

        Args:
            cls: The class.
            name: What records call it; by default the class's module and name. Keep it when the
                class moves.
            encode: Turns an instance into a storable value, where its fields are not enough.
            decode: Turns that value back into an instance.
        """
        self._ports.codec.register(cls, name=name, encode=encode, decode=decode)

    def get_stats(self) -> dict[str, Any]:
        """Return the settings that matter, the number of entries, and what has happened so far.

        `total_entries` counts expired entries that are not removed yet; it is None where the store
        cannot tell.
        """
        self._check_open()
        return {
            "total_entries": self._count()[0],
            "max_entries": self._config.max_entries,
            "eviction_policy": self._config.eviction_policy,
            "threshold": self._config.similarity_threshold,
            "embedding_dim": self._ports.embedder.dimension,
            "model": self._ports.embedder.identity,
            "ttl_seconds": self._config.ttl_seconds,
            "storage": self._config.db_uri,
            "index_created": self._index_created(),
            **self._metrics.snapshot(),
        }

    def health_check(self) -> dict[str, Any]:
        """Try the embedder and the store, and judge the recent error rate; no fault raises."""
        entries, store_fault = self._count()
        checks: dict[str, dict[str, Any]] = {
            "embedding": _check(self._try_embedder()),
            "database": _check(store_fault or self._try_store()),
        }
        faults, recent = self._metrics.recent()
        failed = sum(faults.values())
        rate = failed / recent if recent else 0.0
        checks["error_rate"] = {
            "ok": failed < _UNHEALTHY_ERRORS or rate < _UNHEALTHY_ERROR_RATE,
            "details": f"Error rate: {rate:.1%} ({failed}/{recent})",
        }
        healthy = not self._closed and all(check["ok"] for check in checks.values())
        return {
            "status": "healthy" if healthy else "unhealthy",
            "checks": checks,
            "metrics": {
                "total_entries": entries,
                "recent_errors": faults,
            },
            "timestamp": int(self._ports.clock() * 1000),
        }

    def create_index(
        self,
        num_partitions: int | None = None,
        *,
        num_sub_vectors: int | None = None,
        index_type: str = "IVF_PQ",
    ) -> bool:
        """Index the LanceDB table, anew where it has an index.

        Lookups from RAM do not use it: it is for `hot_index="off"` and for other readers of the
        table. Below 256 entries, or in RAM only, this logs a warning and does nothing.

        Args:
            num_partitions: By default the square root of the number of entries.
            num_sub_vectors: Of the product quantisation, by default one for eight dimensions; a
                divisor of the dimension.
            index_type: IVF_PQ, IVF_FLAT, IVF_SQ, IVF_HNSW_PQ or IVF_HNSW_SQ.

        Returns:
            Whether the index was created.

        Raises:
            ArgumentError: An argument is out of range.
            StoreError: LanceDB refuses.
        """
        self._check_open()
        store = self._ports.store
        created = isinstance(store, IndexedStore) and store.create_index(
            num_partitions=num_partitions,
            num_sub_vectors=num_sub_vectors,
            index_type=index_type,
        )
        if not created:
            self._log.warning("index_not_created", entries=self._count()[0], needed=256)
        return created

    def get_index_stats(self) -> dict[str, Any]:
        """Return `has_index`, `total_entries`, and what else the store tells of its index."""
        self._check_open()
        store = self._ports.store
        stats = store.index_stats() if isinstance(store, IndexedStore) else {"has_index": False}
        return {"total_entries": self._count()[0], **stats}

    def close(self) -> None:
        """Release the store, its table brought up to date. Idempotent."""
        if not self._closed:
            self._closed = True
            self._ports.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _maintain(self) -> None:
        try:
            evicted = self._ports.store.maintain(max_entries=self._config.max_entries)
        except Exception as fault:  # noqa: BLE001 - what was stored is stored all the same
            self._report("maintain", fault)
            return
        if evicted:
            self._log.debug("cache_evict", entries=evicted)

    def _count(self) -> tuple[int | None, Exception | None]:
        try:
            return self._ports.store.count(), None
        except Exception as fault:  # noqa: BLE001 - a probe: the fault is the answer
            return None, fault

    def _index_created(self) -> bool:
        try:
            return bool(self.get_index_stats()["has_index"])
        except Exception:  # noqa: BLE001 - statistics never fail
            return False

    def _try_store(self) -> Exception | None:
        try:
            self._ports.store.check()
        except Exception as fault:  # noqa: BLE001 - a probe: the fault is the answer
            return fault
        return None

    def _try_embedder(self) -> Exception | None:
        try:
            self._embedder.embed(["health check"])  # not the cache of embeddings
        except Exception as fault:  # noqa: BLE001 - a probe: the fault is the answer
            return fault
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this cache has been closed; open another one")

    def _threshold(self, given: float | None) -> float:
        if given is None:
            return self._config.similarity_threshold
        return _share("similarity_threshold", given)

    def _report(self, operation: Operation, fault: Exception) -> None:
        self._metrics.count_fault(operation)
        self._log_fault(operation, fault)

    def _log_fault(self, operation: str, fault: Exception) -> None:
        # A foreign message may quote the query, so it is for DEBUG only.
        self._log.error("cache_error", operation=operation, error_type=type(fault).__name__)
        self._log.debug("cache_error_details", operation=operation, exc_info=fault)

    def _warn_of_settings_without_effect(self) -> None:
        in_ram = isinstance(self._ports.store, MemoryStore)
        ignored = {
            "eviction_policy": self._config.eviction_policy != "fifo",
            "cleanup_interval_seconds": self._config.cleanup_interval_seconds is not None,
            # In RAM only, nothing is kept and nothing is on disk.
            "durability": in_ram and self._config.durability != "process",
            "hot_index": in_ram and self._config.hot_index == "off",
        }
        if settings := [name for name, is_set in ignored.items() if is_set]:
            self._log.warning("settings_without_effect_in_this_version", settings=settings)


def _share(name: str, value: float) -> float:
    if not (_is_number(value) and 0 <= value <= 1):
        raise ArgumentError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not (_is_number(seconds) and 0 < seconds < math.inf):
        raise ArgumentError(f"{name} must be a number of seconds above 0, got {value!r}")
    try:
        return float(seconds)
    except OverflowError:
        raise ArgumentError(f"{name} is too large: {value!r}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _metadata(metadata: Mapping[str, Any] | None) -> str:
    """Return metadata as JSON, which nobody can change afterwards."""
    expected = "metadata must be a mapping of JSON values"
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"{expected}, got {metadata!r}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{expected}: {error}; got {metadata!r}") from error
    if json.loads(text) != metadata:
        raise ArgumentError(
            f"{expected}, with text keys, and lists rather than tuples; got {metadata!r}"
        )
    return text


def _said(fault: Exception) -> str:
    return f"the cache failed: {type(fault).__name__}: {fault}"


def _check(fault: Exception | None) -> dict[str, Any]:
    error = None if fault is None else f"{type(fault).__name__}: {fault}"
    return {"ok": fault is None, "error": error}
