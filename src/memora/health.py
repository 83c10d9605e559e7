"""Health checks: each part of a cache is tried and timed, with a timeout.

There are two checks, because an orchestrator reacts to them differently. *Ready*: does everything
that a lookup needs work now? If not, traffic goes elsewhere until it does. *Live*: can this process
work at all? If not, only a restart helps; a fault of the disk or the model does not count here.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from memora._durations import seconds
from memora._show import fault_line
from memora.concurrency.bridge import sleep, within
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.concurrency.workers import Workers
from memora.embedders import ByLanguage, OnnxEmbedder
from memora.errors import ArgumentError, DimensionMismatchError, EmbedderError
from memora.protocols import IndexedStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.metrics import HealthCounters
    from memora.pipeline import Ports
    from memora.protocols import Embedder, Store

ProbeKind: TypeAlias = Literal["ready", "live"]

# Unhealthy if more than a tenth of the operations of the last minutes failed, and at least five:
# one fault in a young cache is not an outage.
_ERROR_RATE = 0.1
_ERRORS = 5
# Healthy again this long after the last failure: a cache that gets no traffic because it is not
# ready has no operations that could lower the rate.
_ERROR_SECONDS = 60.0
_TRIED = 3  # number of parts that may hang
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.001, 0.02  # a task's first and longest polling interval


class CheckResult(NamedTuple):
    """The state of a part that needs no try."""

    ok: bool
    details: str


class _Try:
    """A try of one part, which runs in a thread."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.ended: float | None = None
        self.fault: BaseException | None = None
        self.value: Any = None
        # Released when done. Not an Event: a signal handler could deadlock on its internal lock.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def is_done(self) -> bool:
        """Whether the try has ended."""
        return self.ended is not None

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for the end of the try."""
        if self._gate.acquire(timeout=within(seconds)):
            self._gate.release()

    def end(self, fault: BaseException | None = None) -> None:
        """End the try, with a fault if there was one."""
        self.fault, self.ended = fault, time.perf_counter()
        self._gate.release()

    def run(self, function: Callable[[], Any]) -> None:
        """Run the try."""
        try:
            self.value = inside.run(function)
        except BaseException as fault:  # noqa: BLE001 - the fault is the result of the try
            self.end(fault.with_traceback(None))
        else:
            self.end()

    def answer(self) -> dict[str, Any]:
        """Return the result so far."""
        took = (self.ended or time.perf_counter()) - self.started
        if not self.is_done:
            error: str | None = f"DeadlineError: no answer within {took:.1f} s"
        else:
            error = None if self.fault is None else fault_line(self.fault)
        details = {"details": self.value} if isinstance(self.value, str) else {}
        return {"ok": error is None, "error": error, **details, "duration_ms": _ms(took)}


class Health:
    """The health checks of one cache.

    A hanging part occupies only one thread, however often the health is checked, because no new try
    begins while one is running.

    Args:
        ports: The cache's dependencies.
        embedder: The model itself, without the cache of its vectors.
        metrics: Provides the recent faults.
        workers: The workers that run the application's calls.
    """

    def __init__(
        self,
        ports: Ports,
        embedder: Embedder,
        metrics: HealthCounters,
        workers: Workers,
    ) -> None:
        self._ports, self._metrics, self._calls = ports, metrics, workers
        self._workers = Workers(_TRIED, "memora-health")
        self._parts: dict[str, Callable[[], Any]] = {
            "embedding": partial(_try_embedder, embedder),
            "database": partial(_try_store, ports.store),
            "index": partial(_try_index, ports.store),
        }
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.RLock()  # guards `_tries`; reentrant for signal handlers
        self._tries: dict[str, _Try] = {}

    def check(
        self, kind: ProbeKind, *, timeout: float, closed: bool, scheduler: CheckResult
    ) -> dict[str, Any]:
        """Return `status`, `checks`, `metrics` and `timestamp`.

        Raises:
            ArgumentError: An argument is out of range.
        """
        tries, deadline = self._begin(kind), time.monotonic() + seconds("timeout", timeout)
        for one in tries.values():
            one.wait(deadline - time.monotonic())
        return self._answer(kind, tries, closed=closed, scheduler=scheduler)

    async def acheck(
        self,
        kind: ProbeKind,
        *,
        timeout: float,
        closed: bool,
        scheduler: CheckResult,
    ) -> dict[str, Any]:
        """Do as `check`, without blocking the event loop."""
        tries, deadline = self._begin(kind), time.monotonic() + seconds("timeout", timeout)
        # Polls instead of blocking a thread, as there may be many checks with different timeouts.
        delay = _FIRST_LOOK_SECONDS
        while not all(one.is_done for one in tries.values()):
            if (left := deadline - time.monotonic()) <= 0:
                break
            await sleep(min(delay, left))
            delay = min(2 * delay, _LOOK_SECONDS)
        return self._answer(kind, tries, closed=closed, scheduler=scheduler)

    def close(self) -> None:
        """End the threads."""
        self._workers.close()

    @inside
    def _begin(self, kind: ProbeKind) -> dict[str, _Try]:
        if kind not in get_args(ProbeKind):
            raise ArgumentError(f"kind={kind!r}: expected {' or '.join(get_args(ProbeKind))}")
        if kind == "live":
            return {}
        with self._lock:
            for name, function in self._parts.items():
                known = self._tries.get(name)
                if known is None or known.is_done:
                    self._tries[name] = self._start(function)
            return dict(self._tries)

    def _start(self, function: Callable[[], Any]) -> _Try:
        one = _Try()
        try:
            self._workers.submit(partial(one.run, function))
        except Exception as fault:  # noqa: BLE001 - no thread was free, which is the result
            one.end(fault)
        return one

    @inside
    def _answer(
        self, kind: ProbeKind, tries: dict[str, _Try], *, closed: bool, scheduler: CheckResult
    ) -> dict[str, Any]:
        checks = {name: one.answer() for name, one in tries.items()}
        looks: dict[str, Callable[[], CheckResult]] = {
            "scheduler": lambda: scheduler,
            "workers": partial(_look_at_workers, self._calls),
        }
        if kind == "ready":
            looks = {"error_rate": self._error_rate, **looks, "breaker": self._breakers}
        for name, look in looks.items():
            started = time.perf_counter()
            ok, details = look()
            took = time.perf_counter() - started
            checks[name] = {"ok": ok, "details": details, "duration_ms": _ms(took)}
        if closed:
            error = "ClosedError: this cache has been closed"
            checks["cache"] = {"ok": False, "error": error, "duration_ms": 0.0}
        database = tries.get("database")
        entries = database.value if database is not None and database.is_done else None
        healthy = all(check["ok"] for check in checks.values())
        return {
            "status": "healthy" if healthy else "unhealthy",
            "checks": checks,
            "metrics": {"total_entries": entries, "recent_errors": self._metrics.lately().faults},
            "timestamp": int(self._ports.clock() * 1000),
        }

    def _error_rate(self) -> CheckResult:
        lately = self._metrics.lately()
        quiet = lately.quiet_seconds > _ERROR_SECONDS
        few = lately.failed < _ERRORS or lately.error_rate <= _ERROR_RATE
        details = f"Error rate: {lately.error_rate:.1%} ({lately.failed}/{lately.operations})"
        if quiet and not few:
            details += f", none in the last {_ERROR_SECONDS:.0f} s"
        return CheckResult(few or quiet, details)

    def _breakers(self) -> CheckResult:
        states = {name: one.state for name, one in self._ports.breakers._asdict().items()}
        # Half open counts as healthy: the next call is allowed, and only traffic can close it.
        ok = all(state != "open" for state in states.values())
        return CheckResult(ok, ", ".join(f"{name} {state}" for name, state in states.items()))


def look_at_scheduler(stats: dict[str, Any] | None, *, wanted: bool) -> CheckResult:
    """Return whether the scheduler runs if it should; faults of its work are in the error rate."""
    if stats is None:
        return CheckResult(ok=True, details="not started")
    running = bool(stats["running"])
    runs = f"{stats['total_runs']} runs, {stats['errors']} failed"
    return CheckResult(running or not wanted, f"{'running' if running else 'stopped'}: {runs}")


def _look_at_workers(workers: Workers) -> CheckResult:
    if workers.stuck():
        return CheckResult(ok=False, details="all threads hang in calls that are overdue")
    return CheckResult(ok=True, details="threads are free")


def _try_embedder(embedder: Embedder) -> None:
    (vector,) = embedder.embed(["health check"])
    if vector is not None and len(vector) != embedder.dimension:
        raise DimensionMismatchError(
            f"{embedder.identity} returned {len(vector)} numbers instead of {embedder.dimension}"
        )
    # The loaded model keeps working, but the next process could not load its files.
    missing = embedder.missing() if isinstance(embedder, OnnxEmbedder | ByLanguage) else None
    if missing is not None:
        raise EmbedderError(f"{missing} is gone: no other process can load the model")


def _try_store(store: Store) -> int:
    entries = store.count()
    store.check()
    return entries


def _try_index(store: Store) -> str:
    if not isinstance(store, IndexedStore):
        return "in RAM"
    stats = store.index_stats()
    parts = [f"hot index {stats['hot_index']}"] if "hot_index" in stats else []
    if not stats.get("loaded", True):
        parts.append("vectors are being loaded")
    kind = stats.get("index_type", "there") if stats["has_index"] else "none"
    return ", ".join([*parts, f"table index {kind}"])


def _ms(took: float) -> float:
    return round(took * 1000, 3)
