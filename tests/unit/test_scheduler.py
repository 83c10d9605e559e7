"""The thread that works now and then: starting, stopping, failing, being forgotten, and forks."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from doubles import FakeClock, until

from memora.errors import ArgumentError
from memora.scheduler import CleanupScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON = 0.001
NEVER = 1e12  # seconds, and more than a wait may last


@contextmanager
def running(work: Callable[[], int], **options: Any) -> Iterator[CleanupScheduler]:
    """Run a scheduler that works again and again at once."""
    options = {"interval_seconds": SOON, "initial_delay_seconds": 0.0} | options
    scheduler = CleanupScheduler(work, **options)
    assert scheduler.start()
    try:
        yield scheduler
    finally:
        assert scheduler.stop(20)


class Work:
    """Works when it may, and says so."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.threads: set[threading.Thread] = set()
        self.at_once = self.most_at_once = 0

    def __call__(self) -> int:
        self.threads.add(threading.current_thread())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.set()
        assert self.may_end.wait(20)
        self.at_once -= 1
        return 2


def test_it_works_again_and_again_and_counts(clock: FakeClock) -> None:
    with running(lambda: 3, clock=clock) as scheduler:
        assert until(lambda: scheduler.stats()["total_runs"] >= 3)
    stats = scheduler.stats()

    assert stats == {
        "running": False,
        "interval_seconds": SOON,
        "total_runs": stats["total_runs"],
        "total_deleted": 3 * stats["total_runs"],
        "last_run_time": clock.now,
        "errors": 0,
        "last_error": None,
    }


def test_nothing_has_been_done_before_the_start() -> None:
    scheduler = CleanupScheduler(lambda: 1, interval_seconds=60)

    assert scheduler.stats() == {
        "running": False,
        "interval_seconds": 60.0,
        "total_runs": 0,
        "total_deleted": 0,
        "last_run_time": None,
        "errors": 0,
        "last_error": None,
    }
    assert scheduler.stop()


def test_it_waits_before_the_first_call_and_between_calls() -> None:
    with running(lambda: 1, initial_delay_seconds=NEVER) as scheduler:
        assert scheduler.stats()["running"]
        assert scheduler.stats()["total_runs"] == 0
    assert scheduler.stats()["total_runs"] == 0

    with running(lambda: 1, interval_seconds=NEVER) as scheduler:
        assert until(lambda: scheduler.stats()["total_runs"] == 1)
    assert scheduler.stats()["total_runs"] == 1


def test_its_thread_is_a_daemon_with_a_name() -> None:
    work = Work()
    work.may_end.set()
    with running(work):
        assert work.begun.wait(20)
    (thread,) = work.threads

    assert thread.daemon
    assert thread.name == "memora-cleanup"
    assert not thread.is_alive()


def test_it_starts_once_even_for_many_threads() -> None:
    work = Work()
    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0)
    gate = threading.Barrier(8)
    started: list[bool] = []

    def start() -> None:
        gate.wait()
        started.append(scheduler.start())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work.may_end.set()
    assert until(lambda: scheduler.stats()["total_runs"] >= 3)
    assert scheduler.stop(20)

    assert sorted(started) == [False] * 7 + [True]
    assert len(work.threads) == work.most_at_once == 1


def test_it_may_be_stopped_twice_and_started_again() -> None:
    scheduler = CleanupScheduler(lambda: 1, interval_seconds=SOON, initial_delay_seconds=0)
    for runs in (1, 2, 3):
        assert scheduler.start()
        assert not scheduler.start()
        assert until(lambda runs=runs: scheduler.stats()["total_runs"] >= runs)
        assert scheduler.stop(20)
        assert scheduler.stop(20)
        assert not scheduler.stats()["running"]


def test_stopping_waits_for_a_call_that_is_under_way() -> None:
    work = Work()
    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0)
    scheduler.start()
    assert work.begun.wait(20)

    assert not scheduler.stop(0.01)
    assert scheduler.stats()["running"]
    work.may_end.set()
    assert scheduler.stop(20)
    assert scheduler.stats()["total_runs"] == 1


def test_one_that_has_not_ended_goes_on_when_it_is_started_again() -> None:
    work = Work()
    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0)
    scheduler.start()
    assert work.begun.wait(20)
    assert not scheduler.stop(0)

    assert scheduler.start()
    assert not scheduler.start()
    work.may_end.set()
    assert until(lambda: scheduler.stats()["total_runs"] >= 3)
    assert scheduler.stop(20)
    assert len(work.threads) == work.most_at_once == 1


def test_one_that_is_started_again_while_it_works_waits_as_after_any_start() -> None:
    work = Work()
    with running(work, interval_seconds=NEVER) as scheduler:
        assert work.begun.wait(20)
        assert not scheduler.stop(0)
        assert scheduler.start()
        work.may_end.set()
        assert until(lambda: scheduler.stats()["total_runs"] == 2)
    assert len(work.threads) == 1


def test_a_finalizer_may_stop_it_at_any_moment() -> None:
    scheduler = CleanupScheduler(lambda: 1, interval_seconds=SOON)
    stopped = threading.Event()

    def collect() -> None:
        with scheduler._lock:  # where the garbage collector may come
            scheduler.stop()
            stopped.set()

    threading.Thread(target=collect, daemon=True).start()
    assert stopped.wait(20)


def test_work_may_stop_and_start_its_own_scheduler() -> None:
    said: list[bool] = []

    def work() -> int:
        said.append(scheduler.stop(20))
        if len(said) < 3:
            said.append(scheduler.start())
        return 1

    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0)
    scheduler.start()

    assert until(lambda: not scheduler.stats()["running"])
    assert said == [False, True, False]
    assert scheduler.stats()["total_runs"] == 2
    assert scheduler.stop()


@pytest.mark.parametrize("reporter_fails", [False, True])
def test_an_error_is_counted_and_reported_and_it_goes_on(*, reporter_fails: bool) -> None:
    told: list[Exception] = []

    def work() -> int:
        if len(told) < 2:
            raise OSError(f"disk {len(told)}")
        return 1

    def report(error: Exception) -> None:
        told.append(error)
        if reporter_fails:
            raise ValueError("no log")

    with running(work, report=report) as scheduler:
        assert until(lambda: scheduler.stats()["total_deleted"] >= 2)
    stats = scheduler.stats()

    assert [str(error) for error in told] == ["disk 0", "disk 1"]
    assert (stats["errors"], stats["last_error"]) == (2, "OSError")
    assert stats["total_runs"] == stats["total_deleted"] + 2


def test_without_a_reporter_an_error_is_counted() -> None:
    def work() -> int:
        raise KeyError

    with running(work) as scheduler:
        assert until(lambda: scheduler.stats()["errors"] >= 2)
    assert scheduler.stats()["last_error"] == "KeyError"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_would_end_its_thread_has_failed_and_goes_on() -> None:
    def work() -> int:
        raise SystemExit

    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0)
    assert scheduler.start()
    assert until(lambda: scheduler.stats()["errors"] >= 2)
    assert scheduler.stats()["running"]
    assert scheduler.stop()


def test_a_thread_that_cannot_be_started_leaves_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scheduler = CleanupScheduler(lambda: 1, interval_seconds=SOON)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            scheduler.start()
    assert not scheduler.stats()["running"]
    assert scheduler.start()
    assert scheduler.stop(20)


def test_an_interrupted_start_leaves_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start, work = threading.Thread.start, Work()
    work.may_end.set()

    def interrupted(self: threading.Thread) -> None:
        start(self)
        raise KeyboardInterrupt

    scheduler = CleanupScheduler(work, interval_seconds=SOON, initial_delay_seconds=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scheduler.start()
    assert scheduler.start()
    assert until(lambda: scheduler.stats()["total_runs"] >= 5)
    assert scheduler.stop(20)
    assert len(work.threads) == 1


class Cache:
    """Owns its scheduler, whose work and reporter are its methods."""

    def __init__(self, *, ring: bool = False, delay: float = 0.0, interval: float = SOON) -> None:
        self.ring = self if ring else None
        self.scheduler = CleanupScheduler(
            self.work,
            interval_seconds=interval,
            initial_delay_seconds=delay,
            report=self.report,
        )
        self.scheduler.start()

    def work(self) -> int:
        raise OSError

    def report(self, error: Exception) -> None:
        self.told = error

    def __del__(self) -> None:
        self.scheduler.stop()


@pytest.mark.parametrize("ring", [False, True], ids=["alone", "in a ring"])
@pytest.mark.parametrize("interval", [SOON, NEVER], ids=["busy", "waiting"])
def test_a_forgotten_owner_is_collected_and_the_thread_ends(*, ring: bool, interval: float) -> None:
    cache = Cache(ring=ring, interval=interval)
    scheduler, gone = cache.scheduler, weakref.ref(cache)
    assert until(lambda: scheduler.stats()["errors"])
    thread = scheduler._thread
    assert thread is not None

    del cache
    gc.collect()
    assert until(lambda: gone() is None)
    thread.join(20)
    assert not thread.is_alive()
    assert not scheduler.stats()["running"]


def test_a_thread_ends_with_the_owner_even_where_nobody_stops_it() -> None:
    class Owner:
        def work(self) -> int:
            return 0

    owner = Owner()
    scheduler = CleanupScheduler(owner.work, interval_seconds=NEVER, initial_delay_seconds=NEVER)
    scheduler.start()
    thread = scheduler._thread
    assert thread is not None

    del owner
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interval_seconds", 0),
        ("interval_seconds", -1),
        ("interval_seconds", math.nan),
        ("interval_seconds", math.inf),
        ("interval_seconds", True),
        ("interval_seconds", None),
        ("initial_delay_seconds", -1),
        ("initial_delay_seconds", math.nan),
        ("initial_delay_seconds", math.inf),
        ("initial_delay_seconds", False),
        ("initial_delay_seconds", "60"),
    ],
)
def test_a_wrong_argument_is_named(name: str, value: Any) -> None:
    options: dict[str, Any] = {"interval_seconds": 60, name: value}

    with pytest.raises(ArgumentError, match=rf"^{name} must be .* got {value!r}"):
        CleanupScheduler(lambda: 1, **options)


HEAD = """
import gc, os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
sys.path.insert(0, {tests!r})
from doubles import until
from memora.scheduler import CleanupScheduler
def ended(child):
    found = []
    if not until(lambda: found.append(os.waitpid(child, os.WNOHANG)) or found[-1][0]):
        os.kill(child, signal.SIGKILL)
        raise SystemExit("the child hangs")
    return os.waitstatus_to_exitcode(found[-1][1])
"""


def run(code: str) -> str:
    """Run a script in a process of its own; return what it wrote."""
    head = HEAD.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("moment", ["waiting for long", "at work"])
def test_a_process_with_a_running_scheduler_ends_by_itself(moment: str) -> None:
    delay = 3600 if moment == "waiting for long" else 0
    output = run(
        f"""
begun = threading.Event()
def work():
    begun.set()
    threading.Event().wait(3600)
scheduler = CleanupScheduler(work, interval_seconds=3600, initial_delay_seconds={delay})
assert scheduler.start()
assert {delay} or begun.wait(20)
print("the end")
"""
    )

    assert output == "the end\n"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@needs_fork
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    run(
        """
calls = []
def work():
    calls.append(os.getpid())
    return 1
scheduler = CleanupScheduler(work, interval_seconds=0.001, initial_delay_seconds=0)
scheduler.start()
assert until(lambda: len(calls) >= 3)
child = os.fork()
if child == 0:
    try:
        before = calls.count(os.getppid())
        assert before >= 3
        assert scheduler.stats()["running"]
        assert not scheduler.start()
        assert until(lambda: calls.count(os.getpid()) >= 3)
        assert scheduler.stop(20)
        assert not [t for t in threading.enumerate() if t.name == "memora-cleanup"]
        # It goes on from the parent's figures, which a fork does not cut in half.
        stats = scheduler.stats()
        assert stats["total_runs"] == stats["total_deleted"] >= before - 1 + 3
        assert scheduler.start() and scheduler.stop(20)
        os._exit(0)
    finally:
        os._exit(1)
assert ended(child) == 0
now = len(calls)
assert until(lambda: len(calls) > now)  # the parent's goes on
assert scheduler.stop(20)
"""
    )


@needs_fork
def test_a_child_starts_none_where_none_ran_or_its_owner_is_gone() -> None:
    run(
        """
class Owner:
    def work(self):
        return 1
never = CleanupScheduler(Owner().work, interval_seconds=0.001, initial_delay_seconds=0)
stopped = CleanupScheduler(lambda: 1, interval_seconds=0.001, initial_delay_seconds=0)
stopped.start()
assert stopped.stop(20)
owner = Owner()
owned = CleanupScheduler(owner.work, interval_seconds=3600, initial_delay_seconds=3600)
owned.start()
child = os.fork()
if child == 0:
    try:
        assert not never.stats()["running"] and not stopped.stats()["running"]
        assert owned.stats()["running"]
        del owner
        assert until(lambda: not owned.stats()["running"])
        os._exit(0)
    finally:
        os._exit(1)
assert ended(child) == 0
assert owned.stop(20)
"""
    )


@needs_fork
def test_work_that_forks_goes_on_in_both_processes() -> None:
    run(
        """
read, write = os.pipe()
forked = []
def work():
    if not forked:
        forked.append(os.fork())
    os.write(write, b"%d %d\\n" % (os.getpid(), threading.get_ident()))
    return 1
scheduler = CleanupScheduler(work, interval_seconds=0.01, initial_delay_seconds=0)
scheduler.start()
told = []
with os.fdopen(read) as lines:
    while any([pid for pid, _ in told].count(pid) < 5 for pid in (os.getpid(), *forked)):
        told.append(tuple(map(int, lines.readline().split())))
assert len(set(told)) == 2  # one thread each
os.kill(forked[0], signal.SIGKILL)
os.waitpid(forked[0], 0)
assert scheduler.stop(20)
"""
    )


@needs_fork
def test_forks_while_it_is_started_and_stopped_are_survived() -> None:
    run(
        """
scheduler = CleanupScheduler(lambda: 1, interval_seconds=1e-6, initial_delay_seconds=0)
stop = threading.Event()
def flutter():
    while not stop.is_set():
        scheduler.start()
        scheduler.stop(20)
thread = threading.Thread(target=flutter)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        stats = scheduler.stats()
        scheduler.start()
        fine = until(lambda: scheduler.stats()["total_runs"] > stats["total_runs"])
        fine = fine and stats["total_runs"] == stats["total_deleted"] and scheduler.stop(20)
        os._exit(0 if fine else 1)
    assert ended(child) == 0
stop.set()
thread.join()
assert scheduler.stop(20)
"""
    )
