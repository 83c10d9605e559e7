"""The logic of lookups and stores, shared by threads and tasks.

Its coroutines take an executor (`concurrency.executors`), which implements waiting. This module
turns faults of the cache into misses; `memora.cache` has already checked the arguments.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from memora import pipeline
from memora._arguments import largest_payload
from memora._faults import contained
from memora._show import excerpt, fault_line
from memora.concurrency.breaker import giving_up
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import Inside, busy, inside, refusal, refuse
from memora.errors import (
    DeadlineError,
    JudgeError,
    ReentryError,
    SerializationError,
    UnavailableError,
)
from memora.judge._language import NAMES, language_of
from memora.metrics import Timed
from memora.model import AvailabilityCheck, Content, LookupResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from structlog.typing import FilteringBoundLogger

    from memora.concurrency.executors import Executor
    from memora.config import CacheConfig
    from memora.metrics import HealthCounters, Operation
    from memora.model import Lifetime, Reason, Unkeyed
    from memora.pipeline import Decision, Draft, Ports, Request
    from memora.shadow import Shadow

# A batch gets one deadline per so many requests, because embedding a batch takes longer.
_BATCH = 32
_WARNINGS = 10_000  # remembered to log each once; keyed by names of functions and classes
T = TypeVar("T")


class Core:
    """Lookups and stores of one cache: deadlines, faults as misses, counts and logs."""

    def __init__(
        self,
        config: CacheConfig,
        ports: Ports,
        metrics: HealthCounters,
        log: FilteringBoundLogger,
        *,
        shadow: Shadow | None = None,
    ) -> None:
        self.timings = metrics.timings
        self.config, self.ports, self._metrics, self._log = config, ports, metrics, log
        self._shadow = shadow
        self._largest = largest_payload(config)
        self._disabled: ContextVar[bool] = ContextVar("disabled", default=False)
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._warned: set[tuple[object, ...]] = set()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Bypass the cache for cached calls in this block."""
        token = self._disabled.set(True)
        try:
            yield
        finally:
            self._disabled.reset(token)

    @property
    def enabled(self) -> bool:
        """Whether the caller is outside of all `disabled` blocks."""
        return not self._disabled.get()

    async def lookup(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> LookupResult:
        """Look up and count the outcome; a fault is a miss, unless `fail_open` is False."""
        found = await self.find(executor, request, threshold=threshold, max_age=max_age)
        self.count(request, found)
        return found

    async def find(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> LookupResult:
        """Look up as `lookup` does, but leave counting the outcome to the caller."""
        if busy():
            return self._resolved([request], [refusal()])[0]
        started = self.timings.now()
        try:
            with inside, contained:
                known = self._decide_in_memory(executor, request, max_age)
                if known is not None and known.verdict.served:
                    return pipeline.serve(self.ports, request, known)
            look = partial(self._look, request, threshold=threshold, max_age=max_age, known=known)
            found: LookupResult = await Inside(self.in_time(executor, look))
            return found  # noqa: TRY300 - an `else` would also be skipped by the return above
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            return self._resolved([request], [fault])[0]
        finally:
            self.timings.lookup(self.timings.now() - started)

    async def lookup_many(
        self, executor: Executor, requests: Sequence[Request], *, threshold: float, max_age: float
    ) -> list[LookupResult]:
        """Look up several requests in one batch."""
        if not requests:
            return []
        look = partial(self._look_many, requests, threshold=threshold, max_age=max_age)
        found: list[LookupResult | Exception]
        try:
            refuse()
            with Timed(self.timings.now, self.timings.lookup):
                found = await Inside(self.in_time(executor, look, items=len(requests)))
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            found = [fault] * len(requests)
        results = self._resolved(requests, found)
        for request, result in zip(requests, results, strict=True):
            self.count(request, result)
        return results

    def _resolved(
        self, requests: Sequence[Request], found: Sequence[LookupResult | Exception]
    ) -> list[LookupResult]:
        """Report each distinct fault once, and return misses in their place.

        With `fail_open=False`, count the outcomes and raise the first fault.
        """
        faults = {id(one): one for one in found if isinstance(one, Exception)}
        times = Counter(map(id, found))
        missed = {of: self._missed(fault, times=times[of]) for of, fault in faults.items()}
        results = [missed[id(one)] if isinstance(one, Exception) else one for one in found]
        for fault in faults.values():
            if not self.config.fail_open:
                for request, result in zip(requests, results, strict=True):
                    self.count(request, result)
                raise fault
        return results

    def _missed(self, fault: Exception, *, times: int) -> LookupResult:
        """Report a fault that failed `times` lookups, and return it as a miss."""
        self.report("judge" if isinstance(fault, JudgeError) else "lookup", fault, times=times)
        reason: Reason = "timeout" if isinstance(fault, DeadlineError) else "error"
        return LookupResult(is_hit=False, reason=reason, explanation=said(fault))

    async def check(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> AvailabilityCheck:
        """Return whether a lookup would hit; counted as an operation, but not as a lookup."""
        look = partial(pipeline.check, self.ports, request, threshold=threshold, max_age=max_age)
        found = AvailabilityCheck(available=False)
        with self.reporting("lookup"):
            found = await self.ask(executor, look)
            self._metrics.count_check()
        return found

    async def ask(self, executor: Executor, function: Callable[[], T]) -> T:
        """Run a function that queries parts of the cache, within the deadline of a lookup.

        Raises:
            DeadlineError: The function takes longer.
            ReentryError: See `memora.concurrency.reentry`.
        """
        refuse()
        found: T = await Inside(self.in_time(executor, contained(function)))
        return found

    async def store_many(
        self, executor: Executor, items: Sequence[tuple[Request, Any, str, Lifetime]]
    ) -> list[str | None]:
        """Store several results in one batch; return their ids, None for those not stored."""
        if not items:
            return []
        drafts: list[Draft | None] = []
        try:
            refuse()
            with Timed(self.timings.now, self.timings.store):
                return await Inside(self._stored_many(executor, items, drafts))
        except Exception as fault:
            self.report("store", fault, times=len(items) - drafts.count(None))
            if not self.config.fail_open:
                raise
            return [None] * len(items)

    async def _stored_many(
        self,
        executor: Executor,
        items: Sequence[tuple[Request, Any, str, Lifetime]],
        drafts: list[Draft | None],
    ) -> list[str | None]:
        """Store results; add to `drafts` their encoded form, None if there is none."""
        # No deadline: the results cannot change while the caller waits.
        drafts += await executor.run(partial(self._encoded, items), timeout=None)
        put = partial(self._put, [draft for draft in drafts if draft is not None])
        ids = iter(await self.in_time(executor, put, items=len(items)))
        return [None if draft is None else next(ids) for draft in drafts]

    @contextmanager
    def reporting(self, operation: Operation) -> Iterator[None]:
        """Report a fault of the block instead of raising it."""
        try:
            with contained:
                yield
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            self.report(operation, fault)

    @inside
    def report(self, operation: Operation, fault: BaseException, *, times: int = 1) -> None:
        """Log a fault and count it, `times` times if it failed that many items of a batch."""
        self._metrics.count_fault(operation, times)
        self.log_fault(operation, fault)

    def uncacheable(self, function: str, reason: Unkeyed, fault: Exception) -> None:
        """Count a cached call that bypasses the cache for lack of a key; warn the first time."""
        self._metrics.count_uncacheable(reason)
        if self._is_new("call", function, reason):
            self._log.warning(
                "call_not_cached", function=function, reason=reason, error_type=type(fault).__name__
            )
        self._log.debug("call_not_cached_because", function=function, error=str(fault))

    @inside
    def unverified(self, fault: Exception) -> None:
        """Count a lookup that was decided without the verifier; warn once of each kind of fault."""
        self._metrics.count_fault("verify")
        # The faults that opened the breaker have been logged.
        if not isinstance(fault, UnavailableError) and self._is_new("verify", type(fault)):
            self._log.warning("not_verified", error_type=type(fault).__name__)
        self._log.debug("not_verified_because", exc_info=fault)

    def _is_new(self, *said: object) -> bool:
        """Return whether a warning is new, and remember it."""
        if said in self._warned or len(self._warned) >= _WARNINGS:
            return False
        self._warned.add(said)
        return True

    def log_fault(self, operation: str, fault: BaseException) -> None:
        """Log a fault; its message goes to DEBUG only, as it may quote the query."""
        if isinstance(fault, ReentryError):
            return  # the interrupted code may have been writing a log line
        # The faults that opened the breaker have been logged.
        say = self._log.debug if isinstance(fault, UnavailableError) else self._log.error
        say("cache_error", operation=operation, error_type=type(fault).__name__)
        self._log.debug("cache_error_details", operation=operation, exc_info=fault)

    async def in_time(
        self, executor: Executor, function: Callable[[], Any], *, items: int = 1
    ) -> Any:
        """Run a function within the deadline of a lookup; longer for a large batch."""
        timeout = self.config.lookup_timeout_seconds
        if timeout is None:
            with contained:
                return await executor.run(function, timeout=None)
        with giving_up(), contained:
            return await executor.run(function, timeout=timeout * -(-items // _BATCH))

    # Shadow mode looks everything up, to learn what would have been served, and serves nothing.

    def _decide_in_memory(
        self, executor: Executor, request: Request, max_age: float
    ) -> Decision | None:
        if self._shadow is not None:
            return None
        return pipeline.decide_in_memory(
            self.ports, request, max_age=max_age, largest=executor.in_memory_bytes
        )

    def _look(
        self,
        request: Request,
        *,
        threshold: float,
        max_age: float,
        known: Decision | None = None,
    ) -> LookupResult:
        if self._shadow is None:
            return pipeline.lookup(
                self.ports, request, threshold=threshold, max_age=max_age, known=known
            )
        found, proposal = pipeline.shadow(self.ports, request, threshold=threshold, max_age=max_age)
        self._shadow.looked_up(request.key, proposal)
        return found

    def _look_many(
        self, requests: Sequence[Request], *, threshold: float, max_age: float
    ) -> list[LookupResult | Exception]:
        if self._shadow is None:
            return pipeline.lookup_many(self.ports, requests, threshold=threshold, max_age=max_age)
        look = partial(self._look, threshold=threshold, max_age=max_age)
        return [pipeline.caught(look, request) for request in requests]

    def count(self, request: Request, found: LookupResult) -> None:
        """Count and log the outcome of a lookup."""
        interrupted = busy()
        with inside:
            self._metrics.count_lookup(found)
            if not interrupted:  # else the interrupted code may have been writing a log line
                self._log_outcome(request, found)
                if found.reason == "language":
                    self._warn_of_language(language_of(request.text))

    def _warn_of_language(self, language: str) -> None:
        """Say once that the model does not read a language, and what to do."""
        if self._is_new("language"):
            self._log.warning(
                "language_not_read",
                language=NAMES[language],
                advice="only equal texts match; set model_name to a multilingual model",
            )

    def _log_outcome(self, request: Request, found: LookupResult) -> None:
        asked = {"query": excerpt(request.text)} if self.config.log_queries else {}
        if found.is_hit:
            if asked:
                asked["matched_query"] = excerpt(found.matched_query or "")
            self._log.debug(
                "cache_hit",
                reason=found.reason,
                similarity=found.similarity,
                entry_id=found.entry_id,
                **asked,
            )
        else:
            nearest = None if found.nearest is None else found.nearest.similarity
            self._log.debug("cache_miss", reason=found.reason, nearest_similarity=nearest, **asked)

    def _encoded(self, items: Sequence[tuple[Request, Any, str, Lifetime]]) -> list[Draft | None]:
        drafts: list[Draft | None] = []
        started = self.timings.now()
        for request, result, metadata, lifetime in items:
            try:
                payload = pipeline.encode(self.ports, result, max_payload_bytes=self._largest)
            except SerializationError as error:
                self._metrics.count_skip()
                because = error.problem or "it is larger than max_payload_bytes or max_bytes"
                if self._is_new("result", type(result), error.type_name, because):
                    self._log.warning(
                        "result_not_stored",
                        result_type=type(result).__name__,
                        path=error.path,
                        type=error.type_name,
                        because=because,
                    )
                self._log.debug("result_not_stored_because", error=str(error))
                drafts.append(None)
            else:
                drafts.append(pipeline.Draft(request, Content(payload, metadata), lifetime))
                if self._shadow is not None:
                    now = self.ports.clock()
                    self._shadow.stored(request.key, request.text, payload, now=now)
        self.timings.store_encode(self.timings.now() - started)
        return drafts

    def _put(self, drafts: list[Draft]) -> list[str]:
        if not drafts:
            return []
        ids = pipeline.store(self.ports, drafts)
        for draft, entry_id in zip(drafts, ids, strict=True):
            self._metrics.count_store()
            asked = {"query": excerpt(draft.request.text)} if self.config.log_queries else {}
            self._log.debug(
                "cache_store", entry_id=entry_id, bytes=len(draft.content.payload), **asked
            )
        self._maintain()
        return ids

    def _maintain(self) -> None:
        evicted = 0
        with self.reporting("maintain"):
            evicted = self.ports.store.maintain(
                max_entries=self.config.max_entries,
                max_bytes=self.config.max_bytes,
                now=self.ports.clock(),
            )
        if evicted:
            self._metrics.count_left("evicted", evicted)
            self._log.debug("cache_evict", entries=evicted)


def said(fault: BaseException) -> str:
    """Return the explanation of a miss caused by a fault."""
    return f"the cache failed: {fault_line(fault)}"
