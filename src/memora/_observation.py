"""The methods of a cache that report: statistics, metrics, health and the table's index."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memora._administration import Administration
from memora._faults import contained
from memora._parts import in_tasks
from memora._uris import without_password
from memora.concurrency.bridge import drive
from memora.concurrency.reentry import alone
from memora.health import look_at_scheduler
from memora.metrics import stats_of
from memora.protocols import IndexedStore, MeasuredStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.health import CheckResult, ProbeKind
    from memora.model import Measures
    from memora.prometheus import MetricsServer
    from memora.reading import MetricsSnapshot


@dataclass
class _Held:
    """A store's report on its size."""

    entries: int | None = None
    measures: Measures | None = None
    has_index: bool = False


class Observation(Administration):
    """Methods that report on a cache."""

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

    def health_check(self, kind: ProbeKind = "ready", *, timeout: float = 2.0) -> dict[str, Any]:
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
            kind, timeout=timeout, closed=self._closed, scheduler=self._scheduler_state()
        )

    async def ahealth_check(
        self, kind: ProbeKind = "ready", *, timeout: float = 2.0
    ) -> dict[str, Any]:
        """Do as `health_check`, without blocking the event loop."""
        return await self._health.acheck(
            kind, timeout=timeout, closed=self._closed, scheduler=self._scheduler_state()
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
            num_partitions=num_partitions, num_sub_vectors=num_sub_vectors, index_type=index_type
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

    def _scheduler_state(self) -> CheckResult:
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

    aget_stats = in_tasks(get_stats)
    aread_metrics = in_tasks(read_metrics)
