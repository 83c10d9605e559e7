"""Cached calls: a lookup; on a miss, one of the callers computes the result and stores it.

This module is built on `memora.core`; its coroutines take an executor too.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from memora import pipeline
from memora._arguments import metadata_json
from memora.calls._engine import aside, is_faithful
from memora.concurrency.executors import Budget
from memora.concurrency.flights import delays
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import busy
from memora.model import FAULTS
from memora.protocols import SharedStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.concurrency.executors import Executor
    from memora.core import Core
    from memora.model import Lifetime, LookupResult
    from memora.pipeline import Request
    from memora.protocols import Lease

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
    """Whether the caller gave a cost; if not, it is the seconds that computing takes."""
    condition: Callable[[Any], bool] | None = None
    refresh_ahead: float = 0.0
    refresh: bool = False
    single_flight: bool = True


class _Landed(NamedTuple):
    """The result that a leader passes to its followers."""

    value: Any
    stored: bool


class CachedCalls:
    """Makes the cached calls of one cache.

    Args:
        core: Looks up, stores, and reports faults.
    """

    def __init__(self, core: Core) -> None:
        self._core, self._ports = core, core.ports
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # By key. Empty after a fork: the parent's refreshes run in the parent only.
        self._refreshing: dict[bytes, object] = {}

    async def call(self, executor: Executor, call: Call, compute: Callable[[], Any]) -> Any:
        """Return the stored result of a call, or else make the call."""
        core, request = self._core, call.request
        look = partial(core.find, request=request, threshold=call.threshold, max_age=call.max_age)
        if busy():
            # Only make the call: waiting for a leader could mean waiting for this thread.
            if not call.refresh:
                core.count(request, await look(executor))
            return await executor.call(compute)
        budget = Budget(executor, core.config.lookup_timeout_seconds)
        outcome = _Outcome(request, core.count)
        if not call.refresh:
            found = await look(budget)
            if found.is_hit:
                core.count(request, found)
                self._refresh_ahead(budget, call, compute, found)
                return found.result
            outcome.so_far = found
        try:
            return await self._after_miss(budget, call, compute, outcome)
        finally:
            outcome.settle()

    async def _after_miss(
        self, executor: Budget, call: Call, compute: Callable[[], Any], outcome: _Outcome
    ) -> Any:
        """Make the call, or wait for the result of the caller that is making it."""
        config = self._core.config
        if call.refresh or not call.single_flight or config.mode == "shadow":
            outcome.settle()
            return (await self._computed(executor, call, compute)).value
        patience, began = config.single_flight_timeout_seconds, monotonic()
        async with executor.claim(call.request.key, timeout=patience) as flight:
            if flight.landed:
                return await self._followed(executor, call, compute, flight.value, outcome)
            failed = outcome.so_far is not None and outcome.so_far.reason in FAULTS
            if failed or flight.detached:
                # No second lookup, which would only take time, and no waiting for other processes:
                # if results cannot be stored, the processes would compute one after the other, and
                # the process that holds the lock may be this very one.
                outcome.settle()
                landed = await self._computed(executor, call, compute)
                flight.land(landed)
                return landed.value
            ends = inf if patience is None else began + patience
            async with self._locked(executor, call, ends) as found:
                outcome.settle(found)
                if found is None:
                    landed = await self._computed(executor, call, compute)
                else:
                    landed = _Landed(found.result, stored=True)
                flight.land(landed)
                return landed.value

    async def _computed(
        self, executor: Executor, call: Call, compute: Callable[[], Any]
    ) -> _Landed:
        """Make the call and store its result; its exceptions pass through."""
        started = time.perf_counter()
        value = await executor.call(compute)
        took = time.perf_counter() - started
        self._ports.timings.compute(took)
        if not is_faithful(compute) or not self._is_wanted(call, value):
            return _Landed(value, stored=False)
        lifetime = call.lifetime if call.costs else replace(call.lifetime, cost=took)
        # Each hit saves the seconds that computing took.
        metadata = metadata_json({"seconds": round(took, 6), **json.loads(call.metadata)})
        (entry_id,) = await self._core.store_many(
            executor, [(call.request, value, metadata, lifetime)]
        )
        return _Landed(value, stored=entry_id is not None)

    def _is_wanted(self, call: Call, value: Any) -> bool:
        with self._core.reporting("store"):
            return call.condition is None or bool(call.condition(value))
        return False

    async def _followed(
        self,
        executor: Executor,
        call: Call,
        compute: Callable[[], Any],
        landed: _Landed,
        outcome: _Outcome,
    ) -> Any:
        """Return the leader's result: if it was stored, a copy, as from any hit."""
        if landed.stored:
            found = await self._stored_since(executor, call)
            if found is not None:
                outcome.settle(found)
                return found.result
        if isinstance(landed.value, _READ_ONCE):
            return await executor.call(compute)
        return landed.value

    async def _stored_since(self, executor: Executor, call: Call) -> LookupResult | None:
        """Return the hit stored by now under exactly this query and context."""
        look = partial(pipeline.exact, self._ports, call.request, max_age=call.max_age)
        with self._core.reporting("lookup"):  # on a fault, it is computed
            found: LookupResult | None = await self._core.in_time(executor, look)
            return found
        return None

    @asynccontextmanager
    async def _locked(
        self, executor: Budget, call: Call, ends: float
    ) -> AsyncIterator[LookupResult | None]:
        """Lock the key among all processes on the store; yield a result stored since the lookup."""
        store = self._ports.store
        if not isinstance(store, SharedStore):
            yield await self._stored_since(executor, call)
            return
        async with self._releasing(executor) as lock:
            yield await self._wait(executor, call, store, lock, ends)

    @asynccontextmanager
    async def _releasing(self, executor: Executor) -> AsyncIterator[_HeldLock]:
        """Release the lock on exit; if a worker acquires it later, release it then."""
        lock = _HeldLock()
        try:
            yield lock
        except GeneratorExit:  # the event loop was closed with tasks pending: no await is possible
            self._release(lock)
            raise
        finally:
            if lock.held:
                with self._core.reporting("lookup"):
                    release = partial(self._release, lock)
                    timeout = self._core.config.lookup_timeout_seconds
                    await executor.finish(release, timeout=timeout)
            self._release(lock)  # if no worker did, or one acquires it later

    async def _wait(
        self, executor: Budget, call: Call, store: SharedStore, lock: _HeldLock, ends: float
    ) -> LookupResult | None:
        """Wait for the lock, a result stored by another process, the time `ends`, or a fault."""

        def look() -> LookupResult | None:
            self._acquire(store, call.request, lock)
            return pipeline.exact(self._ports, call.request, max_age=call.max_age)

        with self._core.reporting("lookup"):  # on a fault, it is computed
            for delay in delays():
                with executor.free():
                    found: LookupResult | None = await self._core.in_time(executor, look)
                if found is not None or lock.held:
                    return found
                if monotonic() >= ends:
                    break
                await executor.sleep(delay)
        return None

    def _acquire(self, store: SharedStore, request: Request, lock: _HeldLock) -> None:
        """Try to acquire the lock, and load entries that other processes stored."""
        lease: Lease | None = _NO_LEASE  # if locking fails, each process computes
        with self._core.reporting("lookup"):
            lease = store.try_lock(request.key)
        lock.hold(lease)
        store.refresh()

    def _release(self, lock: _HeldLock) -> None:
        with self._core.reporting("lookup"):
            lock.release()

    def _is_due(self, call: Call, lock: _HeldLock) -> bool:
        """Return whether the entry still needs a refresh and no other process is doing it."""
        store = self._ports.store
        if isinstance(store, SharedStore):
            self._acquire(store, call.request, lock)
            if not lock.held:
                return False
        return pipeline.fresh_for(self._ports, call.request) <= call.refresh_ahead

    def _refresh_ahead(
        self, executor: Executor, call: Call, compute: Callable[[], Any], found: LookupResult
    ) -> None:
        """Start one background refresh of a result that is stale or due for `refresh_ahead`."""
        left, key = found.ttl_remaining_seconds, call.request.key
        if left is None or (left > call.refresh_ahead and not found.is_stale):
            return
        mine, core = object(), self._core
        budget = Budget(executor, core.config.lookup_timeout_seconds)
        if self._refreshing.setdefault(key, mine) is not mine:  # atomic
            return
        again = aside(compute)  # copy the arguments now, before the caller can change them
        if again is None:
            self._refreshing.pop(key, None)
            return

        async def refresh() -> None:
            try:
                with core.reporting("refresh"):
                    async with self._releasing(budget) as lock:
                        if await core.in_time(budget, partial(self._is_due, call, lock)):
                            await self._computed(budget, call, again)
            finally:
                self._refreshing.pop(key, None)

        with core.reporting("refresh"):
            executor.spawn(refresh)
            return
        self._refreshing.pop(key, None)


class _Outcome:
    """The outcome of a call's lookup, counted once: a miss, unless a leader's result replaces it.

    Args:
        request: The request that was looked up.
        count: Function that counts the outcome.
    """

    def __init__(self, request: Request, count: Callable[[Request, LookupResult], None]) -> None:
        self.so_far: LookupResult | None = None
        """The miss that is not counted yet; None if there is none."""
        self._request, self._count = request, count

    def settle(self, found: LookupResult | None = None) -> None:
        """Count `found`, by default the miss. Later calls do nothing."""
        so_far, self.so_far = self.so_far, None
        if so_far is not None:
            self._count(self._request, found or so_far)


class _HeldLock:
    """A lock that a worker acquires, and releases at once if the call is over by then."""

    def __init__(self) -> None:
        self._leases: list[Lease] = []  # one, or none; `pop` is atomic
        self._over = False

    @property
    def held(self) -> bool:
        """Whether the lock is held."""
        return bool(self._leases)

    def hold(self, lease: Lease | None) -> None:
        """Hold the lock by a lease, unless that is None."""
        if lease is not None:
            self._leases.append(lease)
            if self._over:
                self.release()

    def release(self) -> None:
        """Release the lock, also if it is acquired later. Idempotent."""
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
