"""A store on disk in a forked child: it answers, stores, and leaves the parent's locks alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import PATIENCE, Child, run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

HEAD = """
import multiprocessing, os, signal, sys, time, warnings
warnings.filterwarnings("ignore", "lancedb fork support")
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
sys.path.insert(0, {tests!r})
from doubles import WordEmbedder, until
from memora import CacheConfig, Memora
def cache(**settings):
    settings = {{"max_entries": None, "max_staleness_seconds": 0.1}} | settings
    return Memora(CacheConfig(db_uri={path!r}, **settings), embedder=WordEmbedder())
def seen(cache, query, result):
    return until(lambda: cache.lookup(query).result == result)
def ended(child):
    deadline = time.monotonic() + 120
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise SystemExit("the child hangs")
        time.sleep(0.01)
    return found[1]
"""


def script(path: Path, code: str) -> str:
    return HEAD.format(tests=str(Path(__file__).parents[1]), path=str(path / "store")) + code


def run(path: Path, code: str) -> None:
    """Run a script in a process of its own; one that hangs or fails is a failure."""
    process = Child(run_script, "import os; os.setsid()\n" + script(path, code))
    try:
        process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it forked ends with it
        process.end()


def run_anew(path: Path, code: str) -> None:
    """Run it in an interpreter of its own, which ends as those do."""
    with subprocess.Popen(
        [sys.executable, "-c", script(path, code)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what it forked ends with it
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            output = "it hangs"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("durability", "hot_index"), [("memory", "off"), ("process", "int8"), ("power", "off")]
)
def test_both_sides_of_a_fork_see_what_the_other_does(
    tmp_path: Path, durability: str, hot_index: str
) -> None:
    run(
        tmp_path,
        f"""
parent = cache(durability={durability!r}, hot_index={hot_index!r})
parent.store("sales in march", None, 1)
parent.store("replaced", None, 1)
child = os.fork()
if child == 0:
    try:
        assert parent.lookup("sales in march").result == 1
        assert parent.lookup("sales in march please", None, 0.8).result == 1
        assert parent.store("of the child", None, 2) is not None
        assert parent.store("replaced", None, 2) is not None
        assert parent.lookup("of the child").result == 2
        assert seen(parent, "of the parent", 3)
        assert not any(parent.get_stats()["errors"].values())
        parent.close()
        os._exit(0)
    finally:
        os._exit(1)
assert seen(parent, "of the child", 2)
assert seen(parent, "replaced", 2)
parent.store("of the parent", None, 3)
assert ended(child) == 0
assert parent.health_check()["status"] == "healthy"
parent.close()
with cache() as again:
    assert again.lookup("of the child").result == 2
    assert again.lookup("of the parent").result == 3
    assert again.lookup("replaced").result == 2
    assert again.get_stats()["total_entries"] == 4
""",
    )


def test_a_child_of_multiprocessing_survives(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
def work(n, errors):
    try:
        assert parent.lookup("of the parent").result == 1
        assert parent.store(f"of child {n}", None, n) is not None
        assert parent.lookup(f"of child {n}").result == n
    except BaseException as error:
        errors.put(repr(error))
        raise
parent = cache()
parent.store("of the parent", None, 1)
context = multiprocessing.get_context("fork")
errors = context.SimpleQueue()
children = [context.Process(target=work, args=(n, errors)) for n in range(3)]
for child in children:
    child.start()
for child in children:
    child.join(120)
    assert child.exitcode == 0, (child.exitcode, errors.empty() or errors.get())
for n in range(3):
    assert seen(parent, f"of child {n}", n)
parent.close()
""",
    )


def test_a_child_that_closes_leaves_the_store_to_its_parent(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
from memora.errors import ClosedError
parent = cache()
parent.store("of the parent", None, 1)
child = os.fork()
if child == 0:
    parent.close()
    try:
        parent.lookup("of the parent")
    except ClosedError:
        os._exit(0)
    os._exit(1)
assert ended(child) == 0
assert parent.lookup("of the parent").result == 1
assert parent.store("later", None, 2) is not None
parent.close()
with cache() as again:
    assert again.get_stats()["total_entries"] == 2
""",
    )


OTHER = """
import lancedb
def another():
    # Forked before anything of LanceDB is used, it opens the store when it is asked.
    asked, answered = os.pipe(), os.pipe()
    if os.fork() == 0:
        seconds = float(os.read(asked[0], 10))
        with cache(max_staleness_seconds=0.05) as mine:
            maintenance = mine._ports.store._maintenance
            found = until(lambda: maintenance.owner, seconds=seconds)
        os.write(answered[1], b"%d" % found)
        os._exit(0)
    def takes_over(seconds):
        os.write(asked[1], b"%d" % seconds)
        return os.read(answered[0], 1) == b"1"
    return takes_over
"""


def test_the_parents_locks_stay_the_parents(tmp_path: Path) -> None:
    run_anew(
        tmp_path,
        OTHER
        + """
others = [another() for _ in range(3)]
parent = cache()
store = parent._ports.store
assert until(lambda: store._maintenance.owner)
for end in (os._exit, sys.exit):
    child = os.fork()
    if child == 0:
        assert parent.store("of the child", None, 2) is not None
        assert store._maintenance is None
        parent.close()
        end(0)
    assert ended(child) == 0
    assert not others.pop()(1)
    assert store._maintenance.owner
parent.close()
assert others.pop()(60)
""",
    )


def test_another_takes_over_when_the_parent_is_dead_and_the_child_lives(tmp_path: Path) -> None:
    run(
        tmp_path,
        OTHER
        + """
taken_over = another()
ready, go = os.pipe(), os.pipe()
parent = os.fork()
if parent == 0:
    mine = cache()
    assert until(lambda: mine._ports.store._maintenance.owner)
    mine.store("of the parent", None, 1)
    child = os.fork()
    if child == 0:
        os.close(go[1])
        assert mine.store("of the child", None, 2) is not None
        os.write(ready[1], b"%d\\n" % os.getpid())
        os.read(go[0], 1)  # ends when the script does, or says so
        assert mine.lookup("of the parent").result == 1
        assert mine.store("of the orphan", None, 3) is not None
        mine.close()
        os.write(ready[1], b"done\\n")
        os._exit(0)
    signal.pause()
os.close(ready[1])
assert os.read(ready[0], 100)
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
assert taken_over(60)
os.write(go[1], b"x")
assert os.read(ready[0], 100) == b"done\\n"
with cache() as again:
    assert again.lookup("of the parent").result == 1
    assert again.lookup("of the child").result == 2
    assert again.lookup("of the orphan").result == 3
""",
    )


def test_a_process_may_open_a_store_after_it_was_forked_from_one_that_did_not(
    tmp_path: Path,
) -> None:
    run(
        tmp_path,
        """
child = os.fork()
if child == 0:
    with cache() as mine:
        assert mine.store("of the child", None, 2) is not None
    os._exit(0)
assert ended(child) == 0
with cache() as mine:
    assert mine.lookup("of the child").result == 2
""",
    )


def test_opening_lancedb_in_a_child_of_one_that_uses_it_is_refused(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
from memora.errors import StoreError
parent = cache()
child = os.fork()
if child == 0:
    try:
        cache()
    except StoreError as error:
        os._exit(0 if "forked from one that uses LanceDB" in str(error) else 1)
    os._exit(2)
assert ended(child) == 0
parent.close()
""",
    )


def test_forks_while_threads_store_are_survived(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import threading
parent = cache(durability="process", max_staleness_seconds=0.02)
stop = threading.Event()
def work(n):
    i = 0
    while not stop.is_set():
        assert parent.store(f"thread {n} entry {i % 50}", None, i) is not None
        assert parent.lookup(f"thread {n} entry {i % 50}").result == i
        i += 1
threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(2)]
for thread in threads:
    thread.start()
for round in range(15):
    child = os.fork()
    if child == 0:
        try:
            found = parent.lookup("thread 0 entry 0").reason
            assert found != "error", found
            assert parent.store(f"child {round}", None, round) is not None
            assert parent.lookup(f"child {round}").result == round
            os._exit(0)
        finally:
            os._exit(1)
    assert ended(child) == 0
stop.set()
for thread in threads:
    thread.join(30)
for round in range(15):
    assert seen(parent, f"child {round}", round)
parent.close()
""",
    )
