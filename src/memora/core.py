"""The logic of lookups, stores and cached calls, shared by threads and tasks.

Its coroutines take an executor (`concurrency.executors`), which implements waiting. This module
turns faults of the cache into misses; `memora.cache` has already checked the arguments.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from memora import pipeline
from memora._arguments import largest_payload, metadata_json
from memora._faults import contained
from memora._show import excerpt, fault_line
from memora.calls._engine import aside, is_faithful
from memora.concurrency.executors import Budget
from memora.concurrency.flights import delays
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import Inside, busy, inside, refusal, refuse
from memora.errors import (
    DeadlineError,
    JudgeError,
    ReentryError,
    SerializationError,
    UnavailableError,
)
from memora.metrics import Timed
from memora.model import FAULTS, AvailabilityCheck, Content, LookupResult
from memora.protocols import SharedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from memora.concurrency.executors import Executor
    from memora.config import CacheConfig
    from memora.metrics import HealthCounters, Operation
    from memora.model import Lifetime, Reason, Unkeyed
    from memora.pipeline import Draft, Ports, Request
    from memora.protocols import Lease
    from memora.shadow import Shadow

# A batch gets one deadline per so many requests, because embedding a batch takes longer.
_BATCH = 32
_WARNINGS = 10_000  # remembered to log each once; keyed by names of functions and classes
T = TypeVar("T")
# Results that can be consumed only once: a second reader gets nothing, or an error.
_READ_ONCE = (Iterator, AsyncIterator, Awaitable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A cached call with validated arguments."""

    request: Request
    threshold: float
    max_age: float
    lifetime: Lifetime
    metadata: str
    costs: bool
    """Whether the lifetime has a given cost; if not, the cost is the time that computing takes."""
    condition: Callable[[Any], bool] | None = None
    refresh_ahead: float = 0.0
    refresh: bool = False
    single_flight: bool = True


class _Landed(NamedTuple):
    """The result that a leader passes to its followers."""

    value: Any
    stored: bool


class Core:
    """The engine of one cache."""

    def __init__(
        self,
        config: CacheConfig,
        ports: Ports,
        metrics: HealthCounters,
        log: FilteringBoundLogger,
        *,
        shadow: Shadow | None = None,
    ) -> None:
        self._timings = metrics.timings
        self._config, self._ports, self._metrics, self._log = config, ports, metrics, log
        self._shadow = shadow
        self._largest = largest_payload(config)
        self._disabled: ContextVar[bool] = ContextVar("disabled", default=False)
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # By key. Empty after a fork: the parent's refreshes run in the parent only.
        self._refreshing: dict[bytes, object] = {}
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
        found = await self._find(executor, request, threshold=threshold, max_age=max_age)
        self._count(request, found)
        return found

    async def _find(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> LookupResult:
        """Look up as `lookup` does, but leave counting the outcome to the caller."""
        if busy():
            return self._failed(request, refusal())
        started = self._timings.now()
        try:
            with inside:
                found = self._get_in_memory(executor, request, max_age)
            if found is None:
                look = partial(self._look, request, threshold=threshold, max_age=max_age)
                found = cast("LookupResult", await Inside(self._in_time(executor, look)))
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            return self._failed(request, fault)
        else:
            return found
        finally:
            self._timings.lookup(self._timings.now() - started)

    async def lookup_many(
        self, executor: Executor, requests: Sequence[Request], *, threshold: float, max_age: float
    ) -> list[LookupResult]:
        """Look up several requests in one batch."""
        if not requests:
            return []
        found: list[LookupResult | Exception]
        if busy():
            fault = refusal()
            found = [fault for _ in requests]
        else:
            found = await Inside(self._looked_up_many(executor, requests, threshold, max_age))
        results = self._reported(found)
        for request, result in zip(requests, results, strict=True):
            self._count(request, result)
        if not self._config.fail_open:
            for one in found:
                if isinstance(one, Exception):
                    raise one
        return results

    async def _looked_up_many(
        self, executor: Executor, requests: Sequence[Request], threshold: float, max_age: float
    ) -> list[LookupResult | Exception]:
        look = partial(self._look_many, requests, threshold=threshold, max_age=max_age)
        try:
            with Timed(self._timings.now, self._timings.lookup):
                found: list[LookupResult | Exception] = await self._in_time(
                    executor, look, items=len(requests)
                )
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            return [fault for _ in requests]
        return found

    def _reported(self, found: list[LookupResult | Exception]) -> list[LookupResult]:
        """Report each distinct fault once, and return misses in their place."""
        faults = {id(one): one for one in found if isinstance(one, Exception)}
        times = Counter(map(id, found))
        missed = {of: self._missed(fault, times=times[of]) for of, fault in faults.items()}
        return [missed[id(one)] if isinstance(one, Exception) else one for one in found]

    async def check(
        self, executor: Executor, request: Request, *, threshold: float, max_age: float
    ) -> AvailabilityCheck:
        """Return whether a lookup would hit; counted as an operation, but not as a lookup."""
        look = partial(pipeline.check, self._ports, request, threshold=threshold, max_age=max_age)
        try:
            found: AvailabilityCheck = await self.ask(executor, look)
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            self.report("lookup", fault)
            return AvailabilityCheck(available=False)
        self._metrics.count_check()
        return found

    async def ask(self, executor: Executor, function: Callable[[], T]) -> T:
        """Run a function that queries parts of the cache, within the deadline of a lookup.

        Raises:
            DeadlineError: The function takes longer.
            ReentryError: See `memora.concurrency.reentry`.
        """
        refuse()
        found: T = await Inside(self._in_time(executor, contained(function)))
        return found

    async def store(
        self,
        executor: Executor,
        request: Request,
        result: Any,
        *,
        metadata: str,
        lifetime: Lifetime,
    ) -> str | None:
        """Store a result; return the entry's id, or None if that failed."""
        (entry_id,) = await self.store_many(executor, [(request, result, metadata, lifetime)])
        return entry_id

    async def store_many(
        self, executor: Executor, items: Sequence[tuple[Request, Any, str, Lifetime]]
    ) -> list[str | None]:
        """Store several results in one batch; return their ids, None for those not stored."""
        if not items:
            return []
        if busy():
            return self._not_stored(refusal(), lost=len(items), items=len(items))
        return await Inside(self._stored_many(executor, items))

    async def _stored_many(
        self, executor: Executor, items: Sequence[tuple[Request, Any, str, Lifetime]]
    ) -> list[str | None]:
        lost = len(items)
        try:
            with Timed(self._timings.now, self._timings.store):
                # No deadline: the results cannot change while the caller waits.
                drafts = await executor.run(partial(self._encoded, items), timeout=None)
                kept = [draft for draft in drafts if draft is not None]
                lost = len(kept)
                put = partial(self._put, kept)
                ids = iter(await self._in_time(executor, put, items=len(items)))
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            return self._not_stored(fault, lost=lost, items=len(items))
        return [None if draft is None else next(ids) for draft in drafts]

    def _not_stored(self, fault: Exception, *, lost: int, items: int) -> list[str | None]:
        self.report("store", fault, times=lost)
        if not self._config.fail_open:
            raise fault
        return [None] * items

    async def call(self, executor: Executor, call: Call, compute: Callable[[], Any]) -> Any:
        """Return the stored result of a call, or else make the call."""
        if busy():
            # Only make the call: waiting for a leader could mean waiting for this thread.
            if not call.refresh:
                await self.lookup(
                    executor, call.request, threshold=call.threshold, max_age=call.max_age
                )
            return await executor.call(compute)
        executor = Budget(executor, self._config.lookup_timeout_seconds)
        outcome = _Outcome(call.request, self._count)
        if not call.refresh:
            found = await self._find(
                executor, call.request, threshold=call.threshold, max_age=call.max_age
            )
            if found.is_hit:
                self._count(call.request, found)
                self._look_ahead(executor, call, compute, found)
                return found.result
            outcome.so_far = found
        try:
            return await self._after_miss(executor, call, compute, outcome)
        finally:
            outcome.settle()

    async def _after_miss(
        self, executor: Budget, call: Call, compute: Callable[[], Any], outcome: _Outcome
    ) -> Any:
        """Make the call, or wait for another leader's result of it."""
        if call.refresh or not call.single_flight or self._shadow is not None:
            outcome.settle()
            return (await self._computed(executor, call, compute)).value
        patience, began = self._config.single_flight_timeout_seconds, monotonic()
        async with executor.claim(call.request.key, timeout=patience) as flight:
            if flight.landed:
                landed: _Landed = flight.value
                return await self._shared(executor, call, compute, landed, outcome)
            failed = outcome.so_far is not None and outcome.so_far.reason in FAULTS
            if failed or flight.detached:
                # No second lookup, which would only take time, and no waiting for other processes:
                # if results cannot be stored, the processes would compute one after the other, and
                # their leader may be this very process.
                outcome.settle()
                landed = await self._computed(executor, call, compute)
                flight.land(landed)
                return landed.value
            ends = inf if patience is None else began + patience
            async with self._lead(executor, call, ends) as found_by_other:
                outcome.settle(found_by_other)
                if found_by_other is None:
                    landed = await self._computed(executor, call, compute)
                else:
                    landed = _Landed(found_by_other.result, stored=True)
                flight.land(landed)
                return landed.value

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

    async def _in_time(
        self, executor: Executor, function: Callable[[], Any], *, items: int = 1
    ) -> Any:
        """Run a function within the deadline of a lookup; longer for a large batch."""
        timeout = self._config.lookup_timeout_seconds
        if timeout is None:
            with contained:
                return await executor.run(function, timeout=None)
        wait = pipeline.Wait()
        token = pipeline.waiting.set(wait)
        try:
            with contained:
                return await executor.run(function, timeout=timeout * -(-items // _BATCH))
        except DeadlineError:
            with inside:
                wait.give_up()
            raise
        finally:
            pipeline.waiting.reset(token)

    # Shadow mode looks everything up, to learn what would have been served, and serves nothing.

    def _get_in_memory(
        self, executor: Executor, request: Request, max_age: float
    ) -> LookupResult | None:
        if self._shadow is not None:
            return None
        return pipeline.get_in_memory(
            self._ports, request, max_age=max_age, largest=executor.in_memory_bytes
        )

    def _look(self, request: Request, *, threshold: float, max_age: float) -> LookupResult:
        if self._shadow is None:
            return pipeline.lookup(self._ports, request, threshold=threshold, max_age=max_age)
        found, proposal = pipeline.shadow(
            self._ports, request, threshold=threshold, max_age=max_age
        )
        self._shadow.looked_up(request.key, proposal)
        return found

    def _look_many(
        self, requests: Sequence[Request], *, threshold: float, max_age: float
    ) -> list[LookupResult | Exception]:
        if self._shadow is None:
            return pipeline.lookup_many(self._ports, requests, threshold=threshold, max_age=max_age)
        look = partial(self._look, threshold=threshold, max_age=max_age)
        return [pipeline.caught(look, request) for request in requests]

    def _failed(self, request: Request, fault: Exception) -> LookupResult:
        """Return a fault as a miss, or raise it if `fail_open` is False."""
        missed = self._missed(fault)
        if not self._config.fail_open:
            self._count(request, missed)
            raise fault
        return missed

    def _missed(self, fault: Exception, *, times: int = 1) -> LookupResult:
        """Report a fault that failed `times` lookups, and return it as a miss."""
        self.report("judge" if isinstance(fault, JudgeError) else "lookup", fault, times=times)
        reason: Reason = "timeout" if isinstance(fault, DeadlineError) else "error"
        return LookupResult(is_hit=False, reason=reason, explanation=said(fault))

    def _count(self, request: Request, found: LookupResult) -> None:
        """Count and log the outcome of a lookup."""
        interrupted = busy()
        with inside:
            self._metrics.count_lookup(found)
            if not interrupted:  # else the interrupted code may have been writing a log line
                self._log_outcome(request, found)

    def _log_outcome(self, request: Request, found: LookupResult) -> None:
        asked = {"query": excerpt(request.text)} if self._config.log_queries else {}
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
        started = self._timings.now()
        for request, result, metadata, lifetime in items:
            try:
                payload = pipeline.encode(self._ports, result, max_payload_bytes=self._largest)
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
                    now = self._ports.clock()
                    self._shadow.stored(request.key, request.text, payload, now=now)
        self._timings.store_encode(self._timings.now() - started)
        return drafts

    def _put(self, drafts: list[Draft]) -> list[str]:
        if not drafts:
            return []
        ids = pipeline.store(self._ports, drafts)
        for draft, entry_id in zip(drafts, ids, strict=True):
            self._metrics.count_store()
            asked = {"query": excerpt(draft.request.text)} if self._config.log_queries else {}
            self._log.debug(
                "cache_store", entry_id=entry_id, bytes=len(draft.content.payload), **asked
            )
        self._maintain()
        return ids

    def _maintain(self) -> None:
        try:
            with contained:
                evicted = self._ports.store.maintain(
                    max_entries=self._config.max_entries,
                    max_bytes=self._config.max_bytes,
                    now=self._ports.clock(),
                )
        except Exception as fault:  # noqa: BLE001 - the entries are stored all the same
            self.report("maintain", fault)
            return
        if evicted:
            self._metrics.count_left("evicted", evicted)
            self._log.debug("cache_evict", entries=evicted)

    async def _computed(
        self, executor: Executor, call: Call, compute: Callable[[], Any]
    ) -> _Landed:
        """Make the call and store its result; its exceptions pass through."""
        started = time.perf_counter()
        value = await executor.call(compute)
        took = time.perf_counter() - started
        self._timings.compute(took)
        if not is_faithful(compute) or not self._is_wanted(call, value):
            return _Landed(value, stored=False)
        lifetime = call.lifetime if call.costs else replace(call.lifetime, cost=took)
        entry_id = await self.store(
            executor,
            call.request,
            value,
            metadata=_measured(call.metadata, took),
            lifetime=lifetime,
        )
        return _Landed(value, stored=entry_id is not None)

    def _is_wanted(self, call: Call, value: Any) -> bool:
        try:
            with contained:
                return call.condition is None or bool(call.condition(value))
        except Exception as fault:  # noqa: BLE001 - the call has its result
            self.report("store", fault)
            return False

    async def _shared(
        self,
        executor: Executor,
        call: Call,
        compute: Callable[[], Any],
        landed: _Landed,
        outcome: _Outcome,
    ) -> Any:
        """Return the leader's result: if it was stored, a copy, as from any hit."""
        if landed.stored:
            found = await self._exactly(executor, call)
            if found is not None:
                outcome.settle(found)
                return found.result
        if isinstance(landed.value, _READ_ONCE):
            return await executor.call(compute)
        return landed.value

    async def _exactly(self, executor: Executor, call: Call) -> LookupResult | None:
        """Return the hit stored by now under exactly this query and context."""
        look = partial(pipeline.exact, self._ports, call.request, max_age=call.max_age)
        try:
            found: LookupResult | None = await self._in_time(executor, look)
        except Exception as fault:  # noqa: BLE001 - then it is computed
            self.report("lookup", fault)
            return None
        return found

    @asynccontextmanager
    async def _lead(
        self, executor: Budget, call: Call, ends: float
    ) -> AsyncIterator[LookupResult | None]:
        """Lead among all processes on the store; yield a result stored since the lookup."""
        store = self._ports.store
        if not isinstance(store, SharedStore):
            yield await self._exactly(executor, call)
            return
        async with self._given_back(executor) as lead:
            yield await self._wait(executor, call, store, lead, ends)

    @asynccontextmanager
    async def _given_back(self, executor: Executor) -> AsyncIterator[_Lead]:
        """Release the lease on exit, even if it is acquired only after that."""
        lead = _Lead()
        try:
            yield lead
        except GeneratorExit:  # the event loop was closed with tasks pending: no await is possible
            self._end(lead)
            raise
        finally:
            if not lead.held:
                self._end(lead)  # a worker may still acquire a lease
            else:
                end = partial(self._end, lead)
                try:
                    await executor.finish(end, timeout=self._config.lookup_timeout_seconds)
                except Exception as fault:  # noqa: BLE001 - the call has its result
                    self.report("lookup", fault)
                    self._end(lead)  # as no worker did

    async def _wait(
        self, executor: Budget, call: Call, store: SharedStore, lead: _Lead, ends: float
    ) -> LookupResult | None:
        """Wait until this process leads, another stores the result, `ends`, or a fault."""

        def look() -> LookupResult | None:
            self._take(store, call.request, lead)
            return pipeline.exact(self._ports, call.request, max_age=call.max_age)

        for delay in delays():
            try:
                with executor.free():
                    found: LookupResult | None = await self._in_time(executor, look)
            except Exception as fault:  # noqa: BLE001 - then it is computed
                self.report("lookup", fault)
                break
            if found is not None or lead.held:
                return found
            if monotonic() >= ends:
                break
            await executor.sleep(delay)
        return None

    def _take(self, store: SharedStore, request: Request, lead: _Lead) -> None:
        """Try to acquire the lease, and load entries that other processes stored."""
        try:
            with contained:
                lease = store.try_lock(request.key)
        except Exception as fault:  # noqa: BLE001 - then each process computes it
            self.report("lookup", fault)
            lease = _NO_LEASE
        lead.take(lease)
        store.refresh()

    def _end(self, lead: _Lead) -> None:
        try:
            with contained:
                lead.end()
        except Exception as fault:  # noqa: BLE001 - the call has its result
            self.report("lookup", fault)

    def _is_due(self, call: Call, lead: _Lead) -> bool:
        """Return whether the entry still needs a refresh and no other process is doing it."""
        store = self._ports.store
        if isinstance(store, SharedStore):
            self._take(store, call.request, lead)
            if not lead.held:
                return False
        return pipeline.fresh_for(self._ports, call.request) <= call.refresh_ahead

    def _look_ahead(
        self, executor: Executor, call: Call, compute: Callable[[], Any], found: LookupResult
    ) -> None:
        """Start one background refresh of a result that is stale or due for `refresh_ahead`."""
        left, key = found.ttl_remaining_seconds, call.request.key
        if left is None or (left > call.refresh_ahead and not found.is_stale):
            return
        mine = object()
        executor = Budget(executor, self._config.lookup_timeout_seconds)
        if self._refreshing.setdefault(key, mine) is not mine:  # atomic
            return
        again = aside(compute)  # copy the arguments now, before the caller can change them
        if again is None:
            self._refreshing.pop(key, None)
            return

        async def refresh() -> None:
            try:
                async with self._given_back(executor) as lead:
                    if await self._in_time(executor, partial(self._is_due, call, lead)):
                        await self._computed(executor, call, again)
            except Exception as fault:  # noqa: BLE001 - there is no caller to raise to
                self.report("refresh", fault)
            finally:
                self._refreshing.pop(key, None)

        try:
            executor.spawn(refresh)
        except Exception as fault:  # noqa: BLE001 - the hit is served all the same
            self._refreshing.pop(key, None)
            self.report("refresh", fault)


class _Outcome:
    """The outcome of a call's lookup, counted once: a miss, unless a leader's result replaces it.

    Args:
        request: The request that was looked up.
        count: Function that counts the outcome.
    """

    def __init__(self, request: Request, count: Callable[[Request, LookupResult], None]) -> None:
        self.so_far: LookupResult | None = None
        """The miss to count unless a hit replaces it; None if counted, or not a miss."""
        self._request, self._count = request, count

    def settle(self, found: LookupResult | None = None) -> None:
        """Count `found`, by default the miss. Later calls do nothing."""
        so_far, self.so_far = self.so_far, None
        if so_far is not None:
            self._count(self._request, found or so_far)


class _Lead:
    """A lease that a worker acquires, and releases at once if the call is over by then."""

    def __init__(self) -> None:
        self._leases: list[Lease] = []  # one, or none; `pop` is atomic
        self._over = False

    @property
    def held(self) -> bool:
        """Whether a lease is held."""
        return bool(self._leases)

    def take(self, lease: Lease | None) -> None:
        """Hold a lease, unless it is None."""
        if lease is not None:
            self._leases.append(lease)
            if self._over:
                self.end()

    def end(self) -> None:
        """Release the lease, and any acquired later. Idempotent."""
        self._over = True
        try:
            lease = self._leases.pop()
        except IndexError:
            return
        lease.release()


class _NoLease:
    """A null lease, used if locking failed."""

    def release(self) -> None:
        """Do nothing."""


_NO_LEASE = _NoLease()


def _measured(metadata: str, seconds: float) -> str:
    """Add to metadata the seconds that computing took, which each hit saves."""
    found: dict[str, Any] = json.loads(metadata)
    return metadata_json({"seconds": round(seconds, 6), **found})


def said(fault: BaseException) -> str:
    """Return the explanation of a miss caused by a fault."""
    return f"the cache failed: {fault_line(fault)}"
