"""Spans and metrics for OpenTelemetry, through the SDK that the application has set up.

Needs the extra `otel` and the setting `opentelemetry`. Names follow the semantic conventions of
database calls if there are any, and else begin with `memora.`. No texts are exported.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from memora.concurrency.fork import register_for_reinit
from memora.core import Core
from memora.errors import ClosedError, MissingExtraError
from memora.metrics import COUNTERS, GAUGES

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise MissingExtraError("opentelemetry=True", extra="otel") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memora.concurrency.executors import Executor
    from memora.metrics import Operation
    from memora.model import Lifetime, LookupResult
    from memora.pipeline import Request
    from memora.reading import Family, MetricsSnapshot

__all__ = ["TracedCore", "watch"]

_NAME, _VERSION = "memora", version("memora-cache")
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "tokens": "{token}", "": "1"}
# The advice of the semantic conventions for db.client.operation.duration, plus two for RAM hits.
_SECONDS = (0.00001, 0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


@dataclass
class _Doing:
    """An operation that is traced by a span."""

    attributes: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    """The type of its last fault, if any."""


_doing: ContextVar[_Doing | None] = ContextVar("doing", default=None)


class TracedCore(Core):
    """A core that traces each lookup and store with a span, and records its duration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tracer = trace.get_tracer(_NAME, _VERSION)
        self._durations = metrics.get_meter(_NAME, _VERSION).create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of lookups and stores.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )

    async def find(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> LookupResult:
        """Look up, in a span."""
        with self._span("lookup") as said:
            found = await super().find(executor, request, threshold=threshold, max_age=max_age)
            said.update(_outcome([found], threshold))
            return found

    async def lookup_many(
        self, executor: Executor, requests: Sequence[Request], *, threshold: float, max_age: float
    ) -> list[LookupResult]:
        """Look up several requests, in one span."""
        with self._span("lookup", len(requests)) as said:
            found = await super().lookup_many(
                executor, requests, threshold=threshold, max_age=max_age
            )
            said.update(_outcome(found, threshold))
            return found

    async def store_many(
        self, executor: Executor, items: Sequence[tuple[Request, Any, str, Lifetime]]
    ) -> list[str | None]:
        """Store several results, in one span."""
        with self._span("store", len(items)) as said:
            ids = await super().store_many(executor, items)
            said["memora.stored"] = sum(one is not None for one in ids)
            return ids

    def report(self, operation: Operation, fault: BaseException, *, times: int = 1) -> None:
        """Count and log a fault, and mark the operation's span as failed."""
        if (doing := _doing.get()) is not None:
            doing.failed = type(fault).__qualname__
        super().report(operation, fault, times=times)

    @contextmanager
    def _span(self, name: str, items: int = 1) -> Iterator[dict[str, Any]]:
        """Yield the attributes that the span gets at its end."""
        operation = name if items == 1 else f"BATCH {name}"
        table = self.config.table_name
        about = {
            "db.system.name": _NAME,
            "db.collection.name": table,
            "db.operation.name": operation,
        }
        doing = _Doing({} if items == 1 else {"db.operation.batch.size": items})
        token = _doing.set(doing)
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"{operation} {table}",
            kind=trace.SpanKind.INTERNAL,  # as for any in-process database
            attributes=about,  # already at the start, for samplers
            record_exception=False,  # the message may quote the query
            set_status_on_exception=False,
        ) as span:
            try:
                yield doing.attributes
            finally:
                _doing.reset(token)
                if doing.failed is not None:
                    about["error.type"] = doing.failed
                    span.set_status(trace.StatusCode.ERROR)
                span.set_attributes(about | doing.attributes)
                self._durations.record(time.perf_counter() - started, about)


def _outcome(found: Sequence[LookupResult], threshold: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "memora.threshold": threshold,
        "db.response.returned_rows": sum(one.is_hit for one in found),
    }
    if len(found) == 1:  # a batch has no single result
        (only,) = found
        told |= {"memora.result": "hit" if only.is_hit else "miss", "memora.reason": only.reason}
        if only.nearest is not None:
            told["memora.similarity"] = only.nearest.similarity
    return told


class _Watched:
    """The caches of this process whose metrics are exported, through shared instruments."""

    def __init__(self) -> None:
        self._caches: list[tuple[str, WeakMethod[Callable[[], MetricsSnapshot]]]] = []
        self._instruments: list[object] = []
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.Lock()  # guards the attributes above

    def add(self, table: str, read: Callable[[], MetricsSnapshot], /) -> None:
        """Export the metrics of a cache from now on, under the name of its table, while it is open.

        Args:
            table: The table's name; other caches of the process must have other names.
            read: The cache's `read_metrics`; the reference does not keep the cache alive.
        """
        with self._lock:
            self._caches = [one for one in self._caches if one[1]() is not None]
            self._caches.append((table, WeakMethod(read)))
            if not self._instruments:
                self._instruments = list(self._create())

    def _create(self) -> Iterator[object]:
        meter = metrics.get_meter(_NAME, _VERSION)
        kinds = (
            ("counters", COUNTERS, meter.create_observable_counter),
            ("gauges", GAUGES, meter.create_observable_gauge),
        )
        for kind, families, create in kinds:
            for name, (said, unit, _) in families.items():
                yield create(
                    f"memora.{name}",
                    callbacks=[partial(self._observe, kind, name)],
                    unit=_UNITS[unit],
                    description=said,
                )

    def _observe(self, kind: str, name: str, _: object, /) -> Iterable[metrics.Observation]:
        for table, method in list(self._caches):
            read = method()
            if read is None:
                continue
            try:
                families: tuple[Family[float], ...] = getattr(read(), kind)
            except ClosedError:
                continue
            for family in families:
                if family.name == name:
                    yield from _observations(family, table)


def _observations(family: Family[float], table: str) -> Iterator[metrics.Observation]:
    keys = [f"memora.{label}" for label in family.labels]
    for labels, value in family.values.items():
        about = {"db.collection.name": table, **dict(zip(keys, labels, strict=True))}
        yield metrics.Observation(value, about)


watch = _Watched().add
