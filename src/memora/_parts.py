"""The parts of an open cache, and how its settings assemble them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from memora import pipeline
from memora._clock import SteadyClock
from memora._log import make_logger
from memora.cached_call import CachedCalls
from memora.codec import Codec
from memora.concurrency.breaker import Breaker
from memora.concurrency.executors import TaskExecutor, ThreadExecutor
from memora.concurrency.flights import Flights
from memora.concurrency.workers import Workers
from memora.core import Core
from memora.embedders import CachedEmbedder, as_embedder, load_embedder
from memora.errors import ClosedError
from memora.health import Health
from memora.judge import Judge
from memora.judge.verifier import CachedVerifier, packaged_verifier
from memora.metrics import HealthCounters, Metrics, Timed
from memora.shadow import Shadow
from memora.stores import REEMBED, open_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Concatenate

    from structlog.typing import FilteringBoundLogger
    from typing_extensions import ParamSpec

    from memora.config import CacheConfig
    from memora.eviction import EvictionPolicy
    from memora.prometheus import MetricsServer
    from memora.protocols import Clock, Embedder, Store

    P = ParamSpec("P")

C = TypeVar("C", bound="OpenCache")
T = TypeVar("T")

_WORKERS = 32  # maximum number of threads for calls with a deadline, hung ones included
_REFRESHERS = 4  # threads that refresh results in the background


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an open cache."""

    config: CacheConfig
    log: FilteringBoundLogger
    ports: pipeline.Ports
    metrics: HealthCounters
    core: Core
    shadow: Shadow | None
    threads: ThreadExecutor
    tasks: TaskExecutor
    chores: Workers
    """Threads for the methods that have no deadline, called from a task."""
    crews: tuple[Workers, ...]
    """All threads."""
    health: Health


def assemble(  # noqa: PLR0913 - the arguments of `Memora`
    config: CacheConfig,
    *,
    embedder: Embedder | Callable[[list[str]], Any] | None,
    store: Store | None,
    eviction_policy: EvictionPolicy | None,
    same_answer: Callable[[Any, Any], object] | None,
    clock: Clock,
) -> Parts:
    """Make the parts of a cache; see `Memora` for the arguments and the errors."""
    log = make_logger(config.log_level, json_logs=config.json_logs)
    chosen = (
        load_embedder(config.model_name, use_onnx=config.use_onnx)
        if embedder is None
        else as_embedder(embedder)
    )
    steady = SteadyClock(clock)
    if store is None:
        asked = chosen
        store, chosen = open_for(config, embedder=asked, policy=eviction_policy, clock=steady)
        if chosen is not asked:
            log.warning("table_of_english", advice=REEMBED)
    codec = Codec(max_expansion=config.max_expansion)
    make_breaker = partial(
        Breaker, failures=config.breaker_failures, reset_seconds=config.breaker_reset_seconds
    )
    verifying = Workers(_WORKERS, "memora-verify")
    packaged = packaged_verifier() if config.verifier == "on" else None
    judge = Judge(
        chosen.identity,
        enabled=config.judge == "on",
        cross_lingual=config.cross_lingual,
        verifier=packaged
        and CachedVerifier(
            packaged,
            workers=verifying,
            breaker=make_breaker(),
            report=lambda fault: core.unverified(fault),  # noqa: PLW0108 - `core` is made below
        ),
    )
    shadow = None
    if config.mode == "shadow":
        shadow = Shadow(
            config,
            about={
                "model": chosen.identity,
                "judge": config.judge,
                "verifier": "on" if judge.verifies else "off",
            },
            codec=codec,
            same=same_answer,
            report=lambda fault: core.log_fault("shadow", fault),
        )
    counting = Metrics if config.enable_metrics else HealthCounters
    metrics = counting(
        clock=time.monotonic if clock is time.time else clock,  # a tenth of what `steady` takes
        policy=config.eviction_policy,
    )
    timings = metrics.timings
    ports = pipeline.Ports(
        embedder=CachedEmbedder(
            chosen,
            config.embedding_cache_size,
            timer=partial(Timed, timings.now, timings.embedding),
            warmed=metrics.leave_out,
        ),
        store=store,
        codec=codec,
        clock=steady,
        judge=judge,
        breakers=pipeline.Breakers(*(make_breaker() for _ in pipeline.Breakers._fields)),
        timings=timings,
        languages=getattr(chosen, "languages", None),
    )
    engine = Core
    if config.opentelemetry:
        from memora import otel  # noqa: PLC0415 - an extra

        engine = otel.TracedCore
    core = engine(config, ports, metrics, log, shadow=shadow)
    workers, flights = Workers(_WORKERS, "memora-call"), Flights()
    background = Workers(_REFRESHERS, "memora-refresh")
    patient = Workers(_WORKERS, "memora-encode")
    chores = Workers(_WORKERS, "memora-chore")
    return Parts(
        config=config,
        log=log,
        ports=ports,
        metrics=metrics,
        core=core,
        shadow=shadow,
        threads=ThreadExecutor(workers, background, flights),
        tasks=TaskExecutor(workers, patient, flights),
        chores=chores,
        crews=(workers, background, patient, chores, verifying),
        health=Health(ports, chosen, metrics, workers),
    )


class OpenCache:
    """The parts of a cache as attributes, for the classes that `Memora` is made of."""

    def __init__(self, parts: Parts) -> None:
        self._config, self._log, self._ports = parts.config, parts.log, parts.ports
        self._metrics, self._core, self._shadow = parts.metrics, parts.core, parts.shadow
        self._threads, self._tasks = parts.threads, parts.tasks
        self._calls = CachedCalls(parts.core)
        self._chores, self._crews, self._health = parts.chores, parts.crews, parts.health
        self._servers: list[MetricsServer] = []
        self._closed = False

    @property
    def config(self) -> CacheConfig:
        """The settings with which this cache was opened."""
        return self._config

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this cache has been closed; open another one")


def in_tasks(
    method: Callable[Concatenate[C, P], T],
    coroutine: Callable[..., Coroutine[Any, Any, T]] | None = None,
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]:
    """Return the async version of a method, with the same parameters.

    Args:
        method: The method; without `coroutine`, it runs in a worker, without a deadline.
        coroutine: Does what the method does, by the executor that is its second argument.
    """

    @wraps(method)
    async def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if coroutine is not None:
            return await coroutine(self, self._tasks, *args, **kwargs)
        return await self._chores.arun(partial(method, self, *args, **kwargs), None)

    call.__name__ = f"a{method.__name__}"
    call.__qualname__ = f"Memora.{call.__name__}"
    call.__doc__ = f"Do as `{method.__name__}`, without blocking the event loop."
    return call
