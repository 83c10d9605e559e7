"""Metrics of caches for Prometheus: a collector for a registry, and a standalone server.

Needs the extra `prometheus`. Each scrape reads the caches: nothing is counted twice, and there is
no cost between scrapes.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from memora.concurrency.fork import register_for_reinit
from memora.errors import ArgumentError, ClosedError, MissingExtraError

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise MissingExtraError("the Prometheus exporter", extra="prometheus") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from memora.config import CacheConfig
    from memora.reading import Distribution, Family, MetricsSnapshot

__all__ = ["BUCKETS", "MemoraCollector", "MetricsServer", "serve"]

BUCKETS = (*(float(f"{step}e{power}") for power in range(-5, 1) for step in (1, 2.5, 5)), 10, inf)
"""Upper bounds of the exported histograms, in seconds; each is one of `memora.metrics.BOUNDS`."""

_BOUNDS: list[str] = [floatToGoString(bound) for bound in BUCKETS]  # type: ignore[no-untyped-call]
_PORTS = range(65_536)


class Readable(Protocol):
    """The interface of a cache such as `Memora`."""

    @property
    def config(self) -> CacheConfig:
        """The cache's settings."""
        ...

    def read_metrics(self) -> MetricsSnapshot:
        """Return all metrics.

        Raises:
            ClosedError: The cache was closed.
        """
        ...


class MemoraCollector(Collector):
    """A collector for the metrics of caches; register one for all caches of a registry.

    Args:
        caches: One cache, labelled with the name of its table; or a mapping of names to several
            caches. The name is the label `cache` of all metrics. Closed caches are left out.

    Raises:
        ArgumentError: There is no cache, a value is not a cache, or a name is blank.
    """

    def __init__(self, caches: Readable | Mapping[str, Readable]) -> None:
        try:
            named = caches if isinstance(caches, Mapping) else {caches.config.table_name: caches}
        except AttributeError:
            named = {}
        readable = (callable(getattr(cache, "read_metrics", None)) for cache in named.values())
        if not named or not all(map(_is_name, named)) or not all(readable):
            raise ArgumentError(f"caches must be a cache, or caches by their names, got {caches!r}")
        self._caches = dict(named)

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families, each with the values of all caches."""
        found: dict[str, Any] = {}
        for cache, source in self._caches.items():
            try:
                reading = source.read_metrics()
            except ClosedError:
                continue
            for family in reading.counters:
                _add(found, CounterMetricFamily, family, cache, family.values)
            for gauge in reading.gauges:
                _add(found, GaugeMetricFamily, gauge, cache, gauge.values)
            for histogram in reading.histograms:
                values = {at: _buckets(one) for at, one in histogram.values.items()}
                _add(found, HistogramMetricFamily, histogram, cache, values)
        yield from found.values()


class MetricsServer:
    """A server for a page of metrics, in a daemon thread of this process, until it is closed.

    A forked child has no server; it must start its own, on another port.
    """

    def __init__(self, collector: Collector, port: int, host: str) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port: int = self._server.server_port
        """The port on which the server listens."""
        self._open: bool | None = None
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.Lock()  # guards the attributes below
        if self._open:  # a forked child, which inherits the socket, but not the thread
            self._server.socket.close()
        self._open = self._open is None

    def close(self) -> None:
        """Stop the server and release its port. Idempotent."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def serve(
    caches: Readable | Mapping[str, Readable], port: int | Sequence[int], *, host: str = "127.0.0.1"
) -> MetricsServer:
    """Serve the metrics of caches over HTTP, at `/metrics`.

    Args:
        caches: As for `MemoraCollector`.
        port: A port, or 0 for any free one. For an application with several processes, each with
            its own page, a sequence such as `range(9464, 9472)`, of which the first free port is
            used.
        host: The address to listen on; "0.0.0.0" for a Prometheus on another machine. Everyone who
            can reach it can read the metrics, which contain numbers, but no texts.

    Raises:
        ArgumentError: The port is invalid or in use, or the host is not an address of this machine.
    """
    collector = MemoraCollector(caches)
    ports = list(port) if isinstance(port, Sequence) else [port]
    if not ports or not all(type(one) is int and one in _PORTS for one in ports):
        raise ArgumentError(f"port must be a number from 0 to 65535, or several, got {port!r}")
    if not isinstance(host, str):
        raise ArgumentError(f"host must be the text of an address or a name, got {host!r}")
    for one in ports:
        try:
            return MetricsServer(collector, one, host)
        except (OSError, UnicodeError) as error:  # UnicodeError: the host's name is invalid
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                raise ArgumentError(
                    f"metrics cannot be served at {host!r}, port {one} ({error}): expected an "
                    "address of this machine, and a port that this user may listen at"
                ) from error
    raise ArgumentError(
        f"port {port!r} of {host!r} is in use: give another one, several such as "
        "range(9464, 9472) to take the first that is free, or 0 for any"
    )


def _is_name(given: object) -> bool:
    return isinstance(given, str) and bool(given.strip())


def _add(
    found: dict[str, Any],
    kind: Any,
    family: Family[Any],
    cache: str,
    values: Mapping[tuple[str, ...], Any],
) -> None:
    metric = found.get(family.name)
    if metric is None:
        name, labels = f"memora_{family.name}", ("cache", *family.labels)
        metric = found[family.name] = kind(name, family.help, labels=labels, unit=family.unit)
    for labels, value in values.items():
        arguments: Iterable[Any] = value if isinstance(value, tuple) else (value,)
        metric.add_metric((cache, *labels), *arguments)


def _buckets(found: Distribution) -> tuple[list[tuple[str, float]], float]:
    return list(zip(_BOUNDS, map(found.up_to, BUCKETS), strict=True)), found.sum
