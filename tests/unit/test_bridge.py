"""Driving a coroutine without a loop, and waking a task from another thread."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
import trio

from memora.concurrency.bridge import alarm, drive


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def twice(n: int) -> int:
    return 2 * n


def test_it_returns_what_the_coroutine_does() -> None:
    async def core() -> int:
        return await twice(await twice(5))

    assert drive(core()) == 20


def test_it_raises_what_the_coroutine_does() -> None:
    async def core() -> None:
        await twice(1)
        raise KeyError("port")

    with pytest.raises(KeyError, match="port"):
        drive(core())


def test_a_coroutine_that_suspends_is_an_error_and_is_closed() -> None:
    ended = []

    async def core() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match=r"core.* waits for an event loop"):
        drive(core())
    assert ended == [True]


def test_a_coroutine_that_suspends_again_while_it_is_closed_is_an_error() -> None:
    async def core() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        drive(core())


@pytest.mark.anyio
async def test_it_works_within_a_running_loop() -> None:
    assert drive(twice(2)) == 4


@pytest.mark.anyio
async def test_another_thread_ends_the_wait_of_a_task() -> None:
    wait, ring = alarm()
    woken = []

    async def waiter() -> None:
        await wait()
        woken.append(threading.get_ident())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter)
        await anyio.wait_all_tasks_blocked()
        assert not woken
        thread = threading.Thread(target=ring)
        thread.start()
    thread.join()
    assert woken == [threading.get_ident()]


def test_a_guest_and_its_host_are_told_apart() -> None:
    async def wait_in(seen: list[str]) -> None:
        wait, ring = alarm()
        seen.append(wait.__name__.removesuffix("_wait"))
        threading.Thread(target=ring).start()
        await wait()

    async def host() -> list[str]:
        loop, seen, done = asyncio.get_running_loop(), [], asyncio.Event()
        trio.lowlevel.start_guest_run(
            wait_in,
            seen,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda _: done.set(),
            host_uses_signal_set_wakeup_fd=True,
        )
        await wait_in(seen)
        await done.wait()
        return seen

    assert sorted(asyncio.run(host())) == ["asyncio", "trio"]


def test_an_alarm_of_a_loop_that_has_ended_says_so(anyio_backend: str) -> None:
    async def main() -> object:
        return alarm()[1]

    ring = anyio.run(main, backend=anyio_backend)
    with pytest.raises(RuntimeError):
        ring()
