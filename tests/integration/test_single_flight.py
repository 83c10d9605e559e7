"""Processes on one store: one computes for all, whoever is killed is replaced, nothing is mixed."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from doubles import WordEmbedder, until
from processes import PATIENCE, Child, run_script

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD = """
import os, sys, threading
from functools import partial
from pathlib import Path
import anyio
from doubles import WordEmbedder, until
from memora import CacheConfig, Memora
folder, arguments = Path(sys.argv[1]), sys.argv[2:]
config = CacheConfig(
    db_uri=str(folder / "store"),
    judge="off",
    max_staleness_seconds=60,
    lookup_timeout_seconds=60,  # the machine may be busy: who is late computes for himself
)
cache = Memora(config, embedder=WordEmbedder())
def note(name):
    # One write of a few bytes to a file that is appended to: whole, also among processes.
    with open(folder / name, "ab", buffering=0) as file:
        file.write(b"x")
def noted(name, count):
    path = folder / name
    assert until(lambda: path.exists() and path.stat().st_size >= count, seconds=60), name
QUERY = "total sales in march for all regions"
ALIKE = QUERY + " please"
channel.send("ready")
channel.recv()
"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> None:
    """Make the table, which is not the matter here, and takes time."""
    Memora(CacheConfig(db_uri=str(tmp_path / "store")), embedder=WordEmbedder()).close()


class Process:
    """A script that waits to be told to go."""

    def __init__(self, folder: Path, code: str, *arguments: object) -> None:
        self.child = Child(run_script, HEAD + code, str(folder), *map(str, arguments))

    def begun(self) -> None:
        """Wait until it is ready to go."""
        if not self.child.channel.poll(PATIENCE) or self.child.channel.recv() != "ready":
            self.said()

    def go(self) -> None:
        self.child.channel.send("go")

    def said(self) -> str:
        """Return what it printed, once it has ended as it should."""
        self.child.wait()
        return self.child.printed()

    def kill(self) -> None:
        self.child.kill()


@contextmanager
def started(folder: Path, code: str, *arguments: object) -> Iterator[Process]:
    one = Process(folder, code, *arguments)
    try:
        yield one
    finally:
        one.child.end()


def go(*processes: Process) -> None:
    """Let them go when all are ready: on a busy machine they begin at very different times."""
    for process in processes:
        process.begun()
    for process in processes:
        process.go()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def no_flight_is_left(folder: Path) -> bool:
    return not list(folder.rglob("*.flight"))


MANY = """
def compute():
    note("calls")
    noted("begun", 200)  # so that the others have to wait for this
    return [1]
async def acompute():
    return await anyio.to_thread.run_sync(compute)
found = []
def call():
    note("begun")
    found.append(cache.get_or_compute(QUERY, None, compute))
async def acall():
    note("begun")
    found.append(await cache.aget_or_compute(QUERY, None, acompute))
async def tasks():
    async with anyio.create_task_group() as group:
        for _ in range(25):
            group.start_soon(acall)
threads = [threading.Thread(target=call) for _ in range(25)]
threads.append(threading.Thread(target=anyio.run, args=(tasks,), kwargs={"backend": arguments[0]}))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(80)
assert found == [[1]] * 50, found
assert len({id(one) for one in found}) == 50
assert len(cache._threads._flights) == 0
cache.close()
"""


def test_of_4_processes_with_50_threads_and_tasks_each_one_computes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(tmp_path, MANY, ["asyncio", "trio"][n % 2]))
            for n in range(4)
        ]
        go(*processes)
        for process in processes:
            process.said()

    assert size(tmp_path / "calls") == 1
    assert no_flight_is_left(tmp_path)


LEADING = """
def compute():
    note("leading")
    threading.Event().wait()  # until it is killed
cache.get_or_compute(QUERY, None, compute)
"""

FOLLOWING = """
def compute():
    note("calls")
    return [arguments[0]]
async def acompute():
    return compute()
import memora.cached_call
delays = memora.cached_call.delays
def noting():
    for delay in delays():
        note("waiting-" + arguments[0])
        yield delay
memora.cached_call.delays = noting
if arguments[1] == "threads":
    print(cache.get_or_compute(QUERY, None, compute))
else:
    print(anyio.run(partial(cache.aget_or_compute, QUERY, None, acompute), backend=arguments[1]))
cache.close()
"""


def test_when_the_leader_is_killed_one_other_computes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(started(tmp_path, LEADING))
        followers = [
            stack.enter_context(started(tmp_path, FOLLOWING, n, side))
            for n, side in enumerate(["threads", "asyncio", "trio"])
        ]
        go(leader)
        assert until(lambda: size(tmp_path / "leading") == 1, seconds=60)
        go(*followers)
        # Each has asked more than once, and goes on waiting.
        assert until(lambda: all(size(tmp_path / f"waiting-{n}") > 2 for n in range(3)), seconds=60)
        assert size(tmp_path / "calls") == 0

        leader.kill()
        said = {follower.said() for follower in followers}

    assert size(tmp_path / "calls") == 1
    assert len(said) == 1
    assert no_flight_is_left(tmp_path)


FAILING = """
def compute():
    note("calls")
    if arguments[0] == "fails":
        noted("waiting-1", 3)
        raise ConnectionError("mine")
try:
    print(cache.get_or_compute(QUERY, None, compute))
except ConnectionError as error:
    print(error)
cache.close()
"""


def test_when_the_leader_fails_it_has_the_error_and_another_computes(tmp_path: Path) -> None:
    with (
        started(tmp_path, FAILING, "fails") as leader,
        started(tmp_path, FOLLOWING, 1, "threads") as follower,
    ):
        go(leader)
        assert until(lambda: size(tmp_path / "calls") == 1, seconds=60)
        go(follower)
        assert (leader.said(), follower.said()) == ("mine\n", "['1']\n")

    assert size(tmp_path / "calls") == 2
    assert no_flight_is_left(tmp_path)


APART = """
query, context = [
    (QUERY, None), (ALIKE, None), (QUERY, {"tenant": 1}), (QUERY, {"tenant": 2})
][int(arguments[0])]
def compute():
    note("calls")
    noted("calls", 4)  # none goes on before all compute at the same time
    return arguments[0]
print(cache.get_or_compute(query, context, compute))
print(cache.get_or_compute(query, context, compute))
cache.close()
"""


def test_other_contexts_and_texts_that_are_only_alike_never_wait_for_each_other(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(started(tmp_path, APART, n)) for n in range(4)]
        go(*processes)
        assert [process.said() for process in processes] == [f"{n}\n{n}\n" for n in range(4)]

    assert size(tmp_path / "calls") == 4


BROKEN = """
from memora.errors import EmbedderError
def broken(texts):
    raise EmbedderError("gone")
cache._ports.embedder.embed = broken
def compute():
    note("calls")
    noted("calls", 3)  # none waits for another, as nobody could store
    return 1
print(cache.get_or_compute(QUERY, None, compute))
cache.close()
"""


def test_where_the_cache_fails_processes_do_not_compute_one_after_the_other(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(started(tmp_path, BROKEN)) for _ in range(3)]
        go(*processes)
        assert [process.said() for process in processes] == ["1\n"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_and_its_parent_compute_once(tmp_path: Path) -> None:
    code = """
import warnings
warnings.filterwarnings("ignore")
def compute():
    note("calls")
    noted("begun", 2)
    return [1]
child = os.fork()
status = 1
try:
    note("begun")
    assert cache.get_or_compute(QUERY, None, compute) == [1]
    assert cache.get_or_compute(QUERY, None, compute) == [1]
    status = 0
finally:
    if child == 0:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
cache.close()
"""
    with started(tmp_path, code) as process:
        go(process)
        process.said()

    assert size(tmp_path / "calls") == 1
    assert no_flight_is_left(tmp_path)
