"""Single flight among threads and tasks: one computes, the others get it, nobody hangs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from doubles import threads_started, until

from memora.concurrency.flights import Flight, Flights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def flights() -> Iterator[Flights]:
    flights = Flights()
    yield flights
    assert len(flights) == 0
    assert not flights._left


def waiting(flights: Flights, key: bytes = KEY) -> int:
    return len(flights._queues.get(key, ())) - 1


@contextmanager
def threads(target: Callable[[int], object], count: int) -> Iterator[None]:
    """Run a function in threads of their own while the block runs, and until they end."""
    running = [threading.Thread(target=target, args=(n,), daemon=True) for n in range(count)]
    for thread in running:
        thread.start()
    yield
    for thread in running:
        thread.join(30)
        assert not thread.is_alive()


@asynccontextmanager
async def led(flights: Flights, value: object = None) -> AsyncIterator[None]:
    """Let another task lead while the block runs, and then land the value, if there is one."""
    may_end = anyio.Event()

    async def lead() -> None:
        async with flights.aclaim(KEY) as flight:
            assert flight.leads
            await may_end.wait()
            if value is not None:
                flight.land(value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        yield
        may_end.set()


class Computation:
    """What a flight is for: fails the first times, notes who led, and that they were alone."""

    def __init__(self, flights: Flights, *, failures: int = 0) -> None:
        self.flights, self.failures = flights, failures
        self.values: list[object] = []
        self.calls = self.errors = 0
        self.alone = threading.Lock()

    def compute(self) -> int:
        assert self.alone.acquire(blocking=False)
        try:
            self.calls += 1
            if self.calls <= self.failures:
                raise ConnectionError
            return self.calls
        finally:
            self.alone.release()

    def led(self, flight: Flight) -> None:
        if flight.leads:
            assert not flight.landed
            flight.land(self.compute())
        assert flight.landed
        self.values.append(flight.value)

    def in_thread(self, _: int) -> None:
        try:
            with self.flights.claim(KEY) as flight:
                self.led(flight)
        except ConnectionError:
            self.errors += 1

    async def in_task(self) -> None:
        try:
            async with self.flights.aclaim(KEY) as flight:
                self.led(flight)
        except ConnectionError:
            self.errors += 1


def test_whoever_is_alone_leads(flights: Flights) -> None:
    for _ in range(2):
        with flights.claim(KEY) as flight:
            assert (flight.leads, flight.landed) == (True, False)
            flight.land("a")
            assert (flight.landed, flight.value) == (True, "a")


def test_keys_do_not_wait_for_each_other(flights: Flights) -> None:
    with flights.claim(KEY) as one, flights.claim(OTHER) as other:
        assert one.leads
        assert other.leads
        assert len(flights) == 2


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_of_200_threads_one_computes(flights: Flights, failures: int) -> None:
    work = Computation(flights, failures=failures)
    with ExitStack() as stack, flights.claim(KEY) as flight:  # left without landing
        assert flight.leads
        stack.enter_context(threads(work.in_thread, 200))
        assert until(lambda: waiting(flights) == 200)
    assert (work.calls, work.errors) == (failures + 1, failures)
    assert work.values == [failures + 1] * (200 - failures)


@pytest.mark.anyio
@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_of_200_tasks_one_computes(flights: Flights, failures: int) -> None:
    work = Computation(flights, failures=failures)
    with threads_started() as started:
        async with anyio.create_task_group() as tasks, led(flights):
            for _ in range(200):
                tasks.start_soon(work.in_task)
            await anyio.wait_all_tasks_blocked()
            assert waiting(flights) == 200
    assert started == []
    assert (work.calls, work.errors) == (failures + 1, failures)
    assert work.values == [failures + 1] * (200 - failures)


@pytest.mark.parametrize("failures", [0, 1, 60])
@pytest.mark.parametrize("leader_lands", [False, True])
def test_of_threads_and_tasks_of_several_loops_one_computes(
    flights: Flights, failures: int, *, leader_lands: bool
) -> None:
    work = Computation(flights, failures=failures)

    async def loop() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(work.in_task)

    backends = ["asyncio", "trio", "asyncio", "trio"]
    with ExitStack() as stack, flights.claim(KEY) as flight:
        stack.enter_context(threads(lambda n: anyio.run(loop, backend=backends[n]), 4))
        stack.enter_context(threads(work.in_thread, 50))
        assert until(lambda: waiting(flights) == 250)
        if leader_lands:
            flight.land("early")
    if leader_lands:
        assert work.values == ["early"] * 250
    else:
        assert (work.calls, work.errors) == (failures + 1, failures)
        assert work.values == [failures + 1] * (250 - failures)


@pytest.mark.anyio
async def test_a_cancelled_leader_leaves_the_flight_to_another(flights: Flights) -> None:
    work = Computation(flights)
    async with anyio.create_task_group() as followers, anyio.create_task_group() as leaders:

        async def hang() -> None:
            async with flights.aclaim(KEY) as flight:
                assert flight.leads
                await anyio.sleep_forever()

        leaders.start_soon(hang)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            followers.start_soon(work.in_task)
        await anyio.wait_all_tasks_blocked()
        assert not work.calls
        leaders.cancel_scope.cancel()
    assert work.values == [1, 1, 1]


@pytest.mark.anyio
async def test_a_cancelled_waiter_leaves_no_trace(flights: Flights) -> None:
    work = Computation(flights)
    async with anyio.create_task_group() as others, led(flights, "value"):
        others.start_soon(work.in_task)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0) as scope:
            await work.in_task()
        assert scope.cancelled_caught
        others.start_soon(work.in_task)
        await anyio.wait_all_tasks_blocked()
        assert waiting(flights) == 2
    assert work.values == ["value"] * 2


@pytest.mark.anyio
async def test_a_waiter_that_is_cancelled_as_it_becomes_the_leader_passes_it_on(
    flights: Flights,
) -> None:
    work, may_end = Computation(flights), anyio.Event()

    async def lead() -> None:
        async with flights.aclaim(KEY):
            await may_end.wait()
        first.cancel_scope.cancel()  # it leads by now, and does not know yet

    async with anyio.create_task_group() as others, anyio.create_task_group() as first:
        others.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        first.start_soon(work.in_task)
        await anyio.wait_all_tasks_blocked()
        others.start_soon(work.in_task)
        await anyio.wait_all_tasks_blocked()
        assert waiting(flights) == 2
        may_end.set()
    assert work.values == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_is_woken_by_a_thread(flights: Flights, backend: str) -> None:
    work = Computation(flights)
    with (
        flights.claim(KEY) as flight,
        threads(lambda _: anyio.run(work.in_task, backend=backend), 1),
    ):
        assert until(lambda: waiting(flights) == 1)
        flight.land("value")
    assert work.values == ["value"]


@pytest.mark.parametrize("lands", [False, True])
def test_a_loop_that_was_closed_over_its_tasks_holds_nobody_up(
    flights: Flights, *, lands: bool
) -> None:
    work, closed, may_end = Computation(flights), threading.Event(), threading.Event()
    behind: list[Any] = []

    async def leave_behind() -> None:
        behind.append(asyncio.create_task(work.in_task()))
        await asyncio.sleep(0)

    def run(_: int) -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_behind())
        loop.close()
        closed.set()
        may_end.wait(20)  # another thread does not get its number

    with ExitStack() as stack, flights.claim(KEY) as flight:
        stack.enter_context(threads(run, 1))
        stack.callback(may_end.set)
        assert closed.wait(20)
        behind[0]._log_destroy_pending = False  # asyncio would complain, rightly
        assert waiting(flights) == 1
        stack.enter_context(threads(work.in_thread, 3))
        assert until(lambda: waiting(flights) == 4)
        if lands:
            flight.land(1)
    assert work.values == [1] * 3
    behind.clear()
    gc.collect()


def test_recursion_leads_without_waiting(flights: Flights) -> None:
    with flights.claim(KEY) as outer:
        with flights.claim(KEY) as inner, flights.claim(KEY) as third:
            assert inner.leads
            assert third.leads
            third.land("third")
        assert not outer.landed
        outer.land("outer")
        with flights.claim(KEY) as after:
            assert after.leads
    assert not inner.landed


@pytest.mark.anyio
async def test_recursion_in_a_task_its_children_and_its_worker_threads(flights: Flights) -> None:
    led = []

    def in_thread() -> None:
        with flights.claim(KEY) as flight:
            led.append(flight.leads)

    async def in_task() -> None:
        async with flights.aclaim(KEY) as flight:
            led.append(flight.leads)

    with anyio.fail_after(20):
        async with flights.aclaim(KEY) as flight:
            await in_task()
            in_thread()
            await anyio.to_thread.run_sync(in_thread)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_task)
            flight.land(1)
    assert led == [True] * 4


@pytest.mark.anyio
async def test_once_it_has_failed_the_same_task_waits_for_the_next_leader(
    flights: Flights,
) -> None:
    work, may_begin = Computation(flights), anyio.Event()

    async def later() -> None:
        await may_begin.wait()
        await work.in_task()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later)
        async with flights.aclaim(KEY):
            may_begin.set()
            await anyio.wait_all_tasks_blocked()
            assert waiting(flights) == 1
        async with flights.aclaim(KEY) as again:
            assert not again.leads
            assert again.value == 1


@pytest.mark.anyio
async def test_a_sync_claim_does_not_block_the_loop_its_leader_runs_in(flights: Flights) -> None:
    led, may_end = [], anyio.Event()

    async def lead() -> None:
        async with flights.aclaim(KEY) as flight:
            await may_end.wait()
            flight.land(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        with flights.claim(KEY) as flight:
            led.append(flight.leads)
            flight.land("for nobody")
        may_end.set()
    assert led == [True]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_does_not_become_the_leader_while_its_loop_is_blocked(
    flights: Flights, backend: str
) -> None:
    work = Computation(flights)

    async def loop() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work.in_task)
            await anyio.wait_all_tasks_blocked()
            work.in_thread(0)  # blocks the loop

    with ExitStack() as stack, flights.claim(KEY):
        stack.enter_context(threads(lambda _: anyio.run(loop, backend=backend), 1))
        assert until(lambda: waiting(flights) == 2)
    assert work.values == [1, 1]


@pytest.mark.parametrize("backend", ["threads", "asyncio", "trio"])
def test_whoever_has_waited_for_long_enough_leads_beside(flights: Flights, backend: str) -> None:
    led: list[tuple[bool, bool]] = []

    def wait(_: int) -> None:
        with flights.claim(KEY, timeout=0.01) as flight:
            led.append((flight.leads, flight.detached))
            flight.land("for nobody")

    async def await_(_: int) -> None:
        async with flights.aclaim(KEY, timeout=0.01) as flight:
            led.append((flight.leads, flight.detached))
            flight.land("for nobody")

    def run(n: int) -> None:
        if backend == "threads":
            wait(n)
        else:
            anyio.run(await_, n, backend=backend)

    work = Computation(flights)
    with ExitStack() as stack, flights.claim(KEY) as flight:
        stack.enter_context(threads(work.in_thread, 1))  # has the patience
        assert until(lambda: waiting(flights) == 1)
        with threads(run, 2):
            pass
        assert waiting(flights) == 1
        flight.land("for all")
    assert led == [(True, True)] * 2
    assert work.values == ["for all"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("value", ["landed", None])
def test_an_error_of_the_leader_is_its_own(
    flights: Flights, error: type[BaseException], value: str | None
) -> None:
    work = Computation(flights)

    def fail(stack: ExitStack) -> None:
        with flights.claim(KEY) as flight:
            stack.enter_context(threads(work.in_thread, 5))
            assert until(lambda: waiting(flights) == 5)
            if value is not None:
                flight.land(value)
            raise error

    with ExitStack() as stack, pytest.raises(error):
        fail(stack)
    assert work.values == [value or 1] * 5


def test_a_flight_is_landed_once_and_by_its_leader(flights: Flights) -> None:
    refused = []

    def follow(_: int) -> None:
        with flights.claim(KEY) as flight:
            with pytest.raises(RuntimeError, match="once, and by its leader"):
                flight.land(2)
            refused.append(flight.value)

    with flights.claim(KEY) as flight, threads(follow, 1):
        assert until(lambda: waiting(flights) == 1)
        flight.land(1)
        with pytest.raises(RuntimeError, match="once, and by its leader"):
            flight.land(2)
    assert refused == [1]


def test_a_block_may_be_ended_by_the_garbage_collector_within_another(flights: Flights) -> None:
    abandoned = flights.claim(KEY)
    abandoned.__enter__()
    with flights._lock:  # where the garbage collector may come
        del abandoned
        gc.collect()
    with flights.claim(OTHER):  # whoever has the lock next lets go
        assert waiting(flights) == -1


def test_a_value_is_not_kept(flights: Flights) -> None:
    class Value: ...

    kept: list[contextvars.Context] = []
    with flights.claim(KEY) as flight:
        kept.append(contextvars.copy_context())  # as a task that outlives the computation does
        value = Value()
        gone = weakref.ref(value)
        flight.land(value)
    del value, flight
    gc.collect()
    assert gone() is None


class Contention:
    """Many claims of two keys by one thread or task; some fail, some are cancelled."""

    def __init__(self, flights: Flights) -> None:
        self.flights = flights
        self.inside = {key: threading.Lock() for key in (KEY, OTHER)}
        self.wrong: list[int] = []
        self.ended = 0

    def keys(self, start: int) -> Iterator[tuple[int, bytes]]:
        for n in range(start, start + 60):
            yield n, (KEY, OTHER)[n % 2]

    def enter(self, n: int, key: bytes, flight: Flight) -> None:
        if flight.leads is flight.landed:
            self.wrong.append(n)
        if flight.leads and not self.inside[key].acquire(blocking=False):
            self.wrong.append(n)

    def leave(self, n: int, key: bytes, flight: Flight) -> None:
        if flight.leads:
            self.inside[key].release()
            if n % 3:
                flight.land(n)
        self.ended += 1

    def in_thread(self, start: int) -> None:
        for n, key in self.keys(start):
            with self.flights.claim(key) as flight:
                self.enter(n, key, flight)
                threading.Event().wait(0)  # lets others run
                self.leave(n, key, flight)

    async def in_task(self, start: int) -> None:
        for n, key in self.keys(start):
            with anyio.move_on_after(30 if n % 7 else 0.001):
                async with self.flights.aclaim(key) as flight:
                    self.enter(n, key, flight)
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                    self.leave(n, key, flight)


def test_under_contention_there_is_one_leader_at_a_time(flights: Flights) -> None:
    work = Contention(flights)

    async def tasks() -> None:
        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(work.in_task, n)

    def run(n: int) -> None:
        if n < 8:
            work.in_thread(n)
        else:
            anyio.run(tasks, backend=["asyncio", "trio"][n % 2])

    with threads(run, 12):
        pass
    assert not work.wrong
    assert work.ended > 8 * 60 + 4 * 8 * 60 * 0.8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_starts_with_no_flights() -> None:
    code = f"""
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from doubles import until
from memora.concurrency.flights import Flights
flights, key, other = Flights(), b"k" * 16, b"o" * 16
got, may_end = [], threading.Event()
def follow(key):
    with flights.claim(key) as flight:
        got.append(flight.value)
def lead():
    with flights.claim(other) as flight:
        may_end.wait()
        flight.land("other")
def child():
    assert len(flights) == 0
    with flights.claim(other) as flight:
        assert flight.leads
    with flights.claim(key) as flight:
        assert flight.leads
        with flights.claim(key) as inner:
            assert inner.leads
        flight.land("child's")
    assert len(flights) == 0
leader = threading.Thread(target=lead)
leader.start()
assert until(lambda: len(flights) == 1)
with flights.claim(key) as flight:
    follower = threading.Thread(target=follow, args=(key,))
    follower.start()
    assert until(lambda: len(flights._queues[key]) == 2)
    if (pid := os.fork()) == 0:
        child()
        flight.land("for nobody")  # its followers are in the parent
        assert len(flights) == 0
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(flights) == 2
    flight.land("parent's")
may_end.set()
leader.join()
follower.join()
assert got == ["parent's"] and len(flights) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
