"""Workers: deadlines are kept, hung functions hold nobody else up, threads come and go."""

from __future__ import annotations

import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import until

from memora.concurrency import workers as workers_module
from memora.concurrency.workers import Workers
from memora.errors import ArgumentError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON = 0.01


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@contextmanager
def hung(workers: Workers, *timeouts: float | None) -> Iterator[threading.Event]:
    """Let threads hang while the block runs, each called with a timeout; None is submitted."""
    end, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        end.wait(30)

    for timeout in timeouts:
        if timeout is None:
            workers.submit(hang)
        else:
            with pytest.raises(DeadlineError, match=f"not done within {timeout} s"):
                workers.run(hang, timeout)
        assert begun.acquire(timeout=20)
    yield end
    end.set()


def at_work(workers: Workers) -> int:
    return len(workers._crew) - len(workers._idle)


@contextmanager
def thread(target: Callable[[], object]) -> Iterator[None]:
    running = threading.Thread(target=target, daemon=True)
    running.start()
    yield
    running.join(20)
    assert not running.is_alive()


def test_it_returns_what_the_function_does_and_raises_what_it_raises() -> None:
    workers = Workers(2, "test")

    assert workers.run(lambda: 42, 20) == 42
    assert workers.run(lambda: 43, None) == 43
    with pytest.raises(ZeroDivisionError):
        workers.run(lambda: 1 // 0, 20)
    for error in (SystemExit, KeyboardInterrupt, StopIteration):

        def fail(error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            workers.run(fail, 20)
    assert len(workers._crew) == 1


@pytest.mark.anyio
async def test_it_does_so_for_a_task() -> None:
    workers = Workers(2, "test")

    assert await workers.arun(lambda: 42, 20) == 42
    assert await workers.arun(lambda: 43, None) == 43
    with pytest.raises(ZeroDivisionError):
        await workers.arun(lambda: 1 // 0, 20)


def test_threads_are_daemons_with_a_name_and_started_when_needed() -> None:
    workers = Workers(3, "memora-model")
    assert not workers._crew
    for _ in range(5):
        found = workers.run(threading.current_thread, 20)
        assert found.daemon
        assert found.name == "memora-model-1"


def test_there_are_no_more_threads_than_the_limit() -> None:
    workers, gate, found = Workers(4, "test"), threading.Barrier(4), []

    def work() -> None:
        gate.wait(20)
        found.append(threading.get_ident())

    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(thread(lambda: workers.run(work, 20)))
    assert len(found) == 12
    assert len(set(found)) == len(workers._crew) == 4


def test_a_function_sees_the_callers_context_and_leaves_it_alone() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    workers, seen = Workers(1, "test"), []

    def work() -> int:
        found = variable.get()
        variable.set(99)
        seen.append(found)
        return found

    for value in (1, 2):
        variable.set(value)
        assert workers.run(work, 20) == value
        workers.submit(work)
        assert variable.get() == value
    assert until(lambda: seen == [1, 1, 2, 2])


@pytest.mark.parametrize("timeout", [SOON, 0, -1])
def test_nobody_waits_beyond_the_timeout_and_the_late_result_is_dropped(timeout: float) -> None:
    workers, end, ended = Workers(2, "test"), threading.Event(), []

    def work() -> str:
        end.wait(20)
        ended.append(True)
        return "late"

    with pytest.raises(DeadlineError, match=f"not done within {timeout} s"):
        workers.run(work, timeout)
    assert workers.run(lambda: "next", 20) == "next"
    end.set()
    assert until(lambda: ended and at_work(workers) == 0)
    assert workers.run(lambda: "after", 20) == "after"


def test_a_call_fails_at_once_where_all_threads_are_at_overdue_functions() -> None:
    workers = Workers(2, "test")
    with hung(workers, SOON, SOON):
        for timeout in (20, None):
            with pytest.raises(DeadlineError, match="no thread is free: test has 2, all at work"):
                workers.run(lambda: 1, timeout)
        with pytest.raises(DeadlineError, match="no thread is free"):
            workers.submit(lambda: 1)
    assert until(lambda: at_work(workers) == 0)
    assert workers.run(lambda: 1, 20) == 1


def test_a_call_waits_for_a_thread_that_may_come_free() -> None:
    workers = Workers(2, "test")
    got = []
    with ExitStack() as stack, hung(workers, SOON, None):
        with pytest.raises(DeadlineError, match="not done within"):
            workers.run(lambda: 1, SOON)
        assert not workers._waiting
        stack.enter_context(thread(lambda: got.append(workers.run(lambda: 2, 20))))
        assert until(lambda: workers._waiting)
    assert got == [2]


def test_who_waits_is_told_when_the_last_thread_becomes_overdue() -> None:
    workers, end, told = Workers(1, "test"), threading.Event(), []

    def wait() -> None:
        with pytest.raises(DeadlineError, match="no thread is free") as caught:
            workers.run(lambda: 1, None)
        told.append(caught.value)

    def hang() -> None:
        with pytest.raises(DeadlineError, match="not done"):
            workers.run(lambda: end.wait(20), 0.3)

    with thread(hang):
        assert until(lambda: at_work(workers) == 1)
        workers.submit(lambda: told.append("submitted"))
        with thread(wait):
            pass
    assert len(told) == 1
    end.set()
    assert until(lambda: told[1:] == ["submitted"])


def test_an_interrupted_caller_leaves_nothing_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(1, "test")

    def interrupt(timeout: float | None) -> float:
        raise KeyboardInterrupt

    with hung(workers, None):
        monkeypatch.setattr(workers_module, "within", interrupt)
        with pytest.raises(KeyboardInterrupt):
            workers.run(lambda: 1, 20)
        assert not workers._waiting


@pytest.mark.anyio
async def test_a_task_does_not_wait_beyond_the_timeout() -> None:
    workers, end = Workers(1, "test"), threading.Event()
    with pytest.raises(DeadlineError, match=r"not done within 0\.01 s"):
        await workers.arun(lambda: end.wait(20), SOON)
    with pytest.raises(DeadlineError, match="no thread is free"):
        await workers.arun(lambda: 1, 20)
    end.set()
    assert until(lambda: at_work(workers) == 0)
    assert await workers.arun(lambda: 1, 20) == 1


@pytest.mark.anyio
async def test_a_cancelled_task_leaves_its_function_to_itself() -> None:
    workers, end, ran = Workers(1, "test"), threading.Event(), []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workers.arun, lambda: end.wait(20), 20)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(workers.arun, lambda: ran.append(1), 20)
        await anyio.wait_all_tasks_blocked()
        assert len(workers._waiting) == 1
        tasks.cancel_scope.cancel()
    assert not workers._waiting
    end.set()
    assert until(lambda: at_work(workers) == 0)
    assert not ran
    assert await workers.arun(lambda: 1, 20) == 1


@pytest.mark.anyio
async def test_of_many_tasks_so_many_run_at_a_time_as_there_are_threads() -> None:
    workers, busy, most = Workers(3, "test"), [], []

    def work() -> None:
        busy.append(1)
        most.append(len(busy))
        busy.pop()

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(workers.arun, work, 20)
    assert len(most) == 200
    assert max(most) <= 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_has_ended_does_not_harm_the_thread(backend: str) -> None:
    workers, end = Workers(1, "test"), threading.Event()

    async def main() -> None:
        with anyio.move_on_after(SOON):
            await workers.arun(lambda: end.wait(20), None)

    anyio.run(main, backend=backend)
    end.set()
    assert workers.run(lambda: 1, 20) == 1
    assert len(workers._crew) == 1


def test_what_a_submitted_function_raises_is_reported() -> None:
    told: list[BaseException] = []
    workers, silent = Workers(1, "test", report=told.append), Workers(1, "silent")
    for each in (workers, silent):
        each.submit(lambda: 1 // 0)
        assert each.run(lambda: 1, 20) == 1

    assert [type(error) for error in told] == [ZeroDivisionError]


def test_a_reporter_that_fails_does_not_end_the_thread() -> None:
    def report(error: BaseException) -> None:
        raise OSError

    workers = Workers(1, "test", report=report)
    workers.submit(lambda: 1 // 0)
    assert workers.run(lambda: 1, 20) == 1
    assert workers._started == 1


def test_submitting_never_waits_and_there_is_an_end_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_BACKLOG", 3)
    workers, ran = Workers(1, "test"), []
    with hung(workers, None):
        for n in range(3):
            workers.submit(lambda n=n: ran.append(n))
        with pytest.raises(DeadlineError, match="no thread is free"):
            workers.submit(lambda: ran.append(3))
    assert until(lambda: len(ran) == 3)
    assert ran == [0, 1, 2]


def test_idle_threads_end_and_new_ones_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_IDLE_SECONDS", SOON)
    workers = Workers(1, "test")
    for n in (1, 2, 3):
        found = workers.run(threading.current_thread, 20)
        assert found.name == f"test-{n}"
        found.join(20)
        assert not found.is_alive()
        assert not workers._crew
        assert not workers._idle


def test_a_thread_that_is_told_as_it_gives_up_waiting_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers_module, "_IDLE_SECONDS", 0)
    workers = Workers(2, "test")
    for n in range(2000):
        assert workers.run(lambda n=n: n, 20) == n


def test_a_thread_that_is_told_just_as_it_gives_up_takes_the_job() -> None:
    class Told:
        def __init__(self) -> None:
            self.answers = [False, True]  # late, and then at once

        def acquire(self, timeout: float = -1) -> bool:
            return self.answers.pop(0)

    workers, job = Workers(1, "test"), workers_module._Job(lambda: 1, 0, None)
    worker: Any = workers_module._Worker(job)  # not idle any more: it has just been given the job
    worker.wakes = Told()

    assert workers._more(worker) is job
    assert worker.wakes.answers == []


def test_a_thread_of_the_parent_ends_in_the_child() -> None:
    workers, told = Workers(1, "test"), []
    worker = workers_module._Worker(workers_module._Job(lambda: 1, 0, lambda: told.append(1)))
    workers._work(worker)  # a fork has emptied the crew

    assert not told
    assert not workers._idle


def test_many_threads_get_each_their_own_result() -> None:
    workers, wrong = Workers(3, "test"), []

    def ask(start: int) -> None:
        for n in range(start, start + 200):
            if workers.run(lambda n=n: n, 20) != n:
                wrong.append(n)  # noqa: PERF401

    with ExitStack() as stack:
        for start in range(0, 1600, 200):
            stack.enter_context(thread(lambda start=start: ask(start)))
    assert not wrong
    assert not workers._waiting


def test_nothing_is_kept_of_a_call() -> None:
    class Value(Exception): ...  # noqa: N818

    def fail() -> None:
        raise Value

    workers = Workers(1, "test")
    gc.disable()
    try:
        gone = [weakref.ref(workers.run(Value, 20))]
        try:
            workers.run(fail, 20)
        except Value as error:
            gone.append(weakref.ref(error))
        assert until(lambda: [one() for one in gone] == [None, None])
    finally:
        gc.enable()


def test_a_thread_that_cannot_be_started_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = Workers(1, "test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            workers.run(lambda: 1, 20)
    assert workers.run(lambda: 1, 20) == 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, None])
def test_a_wrong_limit_is_named(limit: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"^limit must be .* got {limit!r}"):
        Workers(limit, "test")


HEAD = f"""
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from doubles import until
from memora.concurrency.workers import Workers
from memora.errors import DeadlineError
workers = Workers(2, "test")
"""


def run(code: str) -> str:
    """Run a script in a process of its own; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_hung_functions_do_not_keep_the_interpreter_from_exiting() -> None:
    output = run(
        """
workers.submit(threading.Event().wait)
try:
    workers.run(threading.Event().wait, 0.01)
except DeadlineError:
    print("the end")
"""
    )

    assert output == "the end\n"


def test_nor_do_those_of_tasks(anyio_backend: str) -> None:
    output = run(
        f"""
import anyio
async def main():
    try:
        await workers.arun(threading.Event().wait, 0.01)
    except DeadlineError:
        print("late")
    with anyio.move_on_after(0.01):
        await workers.arun(threading.Event().wait, None)
anyio.run(main, backend={anyio_backend!r})
print("the end")
"""
    )

    assert output == "late\nthe end\n"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@needs_fork
def test_a_forked_child_starts_with_fresh_workers() -> None:
    run(
        """
end = threading.Event()
for _ in range(2):
    try:
        workers.run(lambda: end.wait(20), 0.01)
    except DeadlineError:
        pass
if (child := os.fork()) == 0:
    ok = workers.run(lambda: 1, 20) == 1 and len(workers._crew) == 1
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
try:
    workers.run(lambda: 1, 20)
    raise SystemExit("it is stuck")
except DeadlineError:
    end.set()
assert until(lambda: len(workers._idle) == 2)
assert workers.run(lambda: 1, 20) == 1
"""
    )


@needs_fork
def test_a_function_may_fork() -> None:
    run(
        """
def fork():
    if (child := os.fork()) == 0:
        ok = workers.run(lambda: 1, 20) == 1
        os._exit(0 if ok else 1)
    return child
child = workers.run(fork, 20)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert workers.run(lambda: 1, 20) == 1
"""
    )
