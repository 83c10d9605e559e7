"""A signal handler or a finalizer that uses the cache, while its thread is inside it."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import WordEmbedder

from memora import CacheConfig, Memora
from memora.concurrency.reentry import Inside, alone, busy, inside, outside
from memora.embedders import FunctionEmbedder
from memora.errors import ReentryError
from memora.stores.memtable import Memtable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(params=["memory://", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memora]:
    uri = request.param if request.param == "memory://" else str(tmp_path / "store")
    with Memora(CacheConfig(db_uri=uri, judge="off"), embedder=WordEmbedder()) as cache:
        cache.store("stored", None, 1)
        yield cache


def in_time(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a thread that may hang."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    return found[0]


@contextmanager
def interrupted(
    monkeypatch: pytest.MonkeyPatch, method: str, action: Callable[[], Any]
) -> Iterator[list[Any]]:
    """Have the collector run a finalizer when the store first calls a method, under its lock."""
    original, told = getattr(Memtable, method), list[Any]()

    class Garbage:
        def __init__(self) -> None:
            self.ring = self

        def __del__(self) -> None:
            try:
                told.append(action())
            except ReentryError as error:
                told.append(error)

    def collected(self: Memtable, *args: Any, **kwargs: Any) -> Any:
        if garbage:
            garbage.clear()
            gc.collect()
        return original(self, *args, **kwargs)

    garbage = [Garbage()]
    with monkeypatch.context() as patched:
        patched.setattr(Memtable, method, collected)
        yield told
    assert len(told) == 1


ASKS: dict[str, Callable[[Memora], Any]] = {
    "lookup": lambda cache: cache.lookup("stored").reason,
    "lookup_many": lambda cache: [one.reason for one in cache.lookup_many(["a", "b"])],
    "store": lambda cache: cache.store("new", None, 2),
    "store_many": lambda cache: cache.store_many([("new", None, 2), ("newer", None, 3)]),
    "get_or_compute": lambda cache: cache.get_or_compute("stored", None, lambda: 7),
    "refresh": lambda cache: cache.get_or_compute("stored", None, lambda: 7, refresh=True),
    "check_availability": lambda cache: cache.check_availability("stored").available,
    "explain": lambda cache: cache.explain("stored").reason,
    "get_stats": lambda cache: cache.get_stats()["total_entries"],
    "health_check": lambda cache: cache.health_check("live")["status"],
}
SAYS = {
    "lookup": "error",
    "lookup_many": ["error", "error"],
    "store": None,
    "store_many": [None, None],
    "get_or_compute": 7,
    "refresh": 7,
    "check_availability": False,
    "explain": "error",
    "get_stats": None,
    "health_check": "healthy",
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("method", ["find", "put"])
def test_a_finalizer_within_the_store_is_answered_at_once(
    cache: Memora, monkeypatch: pytest.MonkeyPatch, method: str, ask: str
) -> None:
    with interrupted(monkeypatch, method, lambda: ASKS[ask](cache)) as told:
        in_time(lambda: (cache.store("other", None, 2), cache.lookup("stored")))
    assert told == [SAYS[ask]]
    assert (cache.lookup("stored").result, cache.lookup("other").result) == (1, 2)


@pytest.mark.parametrize("ask", ["invalidate", "entries", "clear", "outdate", "cleanup_expired"])
def test_what_cannot_be_withdrawn_now_is_an_error(
    cache: Memora, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    arguments = {"invalidate": ("stored",), "outdate": ("tag",)}.get(ask, ())
    with interrupted(monkeypatch, "find", lambda: getattr(cache, ask)(*arguments)) as told:
        in_time(lambda: cache.lookup("stored"))
    assert isinstance(told[0], ReentryError)
    assert "signal handler or a finalizer" in str(told[0])
    getattr(cache, ask)(*arguments)


@pytest.mark.parametrize("outer", ["entries", "clear", "check_availability", "get_stats"])
def test_whatever_was_interrupted(
    cache: Memora, monkeypatch: pytest.MonkeyPatch, outer: str
) -> None:
    method = {"entries": "select", "clear": "select", "get_stats": "__len__"}.get(outer, "find")
    arguments = ("stored",) if outer == "check_availability" else ()
    with interrupted(monkeypatch, method, lambda: cache.lookup("stored").reason) as told:
        in_time(lambda: getattr(cache, outer)(*arguments))
    assert told == ["error"]


def test_a_cache_that_is_closed_by_a_finalizer_closes_soon_after(
    cache: Memora, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    with interrupted(monkeypatch, "find", cache.close):
        in_time(lambda: cache.lookup("stored"))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert cache._closed


def test_refusals_are_counted_and_not_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The finalizer may have interrupted the writing of a line."""
    cache = Memora(CacheConfig(log_level="DEBUG"), embedder=WordEmbedder())
    with interrupted(monkeypatch, "find", lambda: cache.lookup("a")):
        in_time(lambda: cache.lookup("b"))
    stats = cache.get_stats()
    assert (stats["errors"]["lookup"], stats["misses_by_reason"]["error"]) == (1, 1)
    assert "cache_error" not in capsys.readouterr().err


def test_with_fail_open_off_a_refusal_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Memora(CacheConfig(fail_open=False), embedder=WordEmbedder())
    for ask in ("lookup", "lookup_many", "store", "get_or_compute"):
        asked = ASKS[ask]
        with interrupted(monkeypatch, "find", lambda asked=asked: asked(cache)) as told:
            in_time(lambda: cache.lookup("b"))
        assert isinstance(told[0], ReentryError)


def test_what_the_application_does_on_behalf_of_the_cache_may_use_it() -> None:
    vectors = Memora(CacheConfig(judge="off"), embedder=WordEmbedder())
    words = WordEmbedder()

    @vectors.cached
    def vector(query: str) -> list[float]:
        found = words.embed([query])[0]
        return [] if found is None else [float(one) for one in found]

    embedder = FunctionEmbedder(lambda texts: [vector(text) for text in texts], identity="nested")
    cache = Memora(CacheConfig(judge="off"), embedder=embedder)
    cache.store("a b c", None, 1)

    def outer() -> tuple[Any, ...]:
        return cache.lookup("a b c").result, cache.get_or_compute("a b c", None, lambda: 3)

    assert cache.get_or_compute("outer", None, outer) == (1, 1)
    assert vector.cache_info().misses >= 2
    assert not busy()


def test_marks_that_an_exception_left_behind_are_forgotten() -> None:
    def abandoned() -> None:
        inside.__enter__()  # Ctrl-C came before the block

    abandoned()
    assert not busy()
    with inside:
        abandoned()
        assert busy()
        with outside:
            assert not busy()
            abandoned()
        with pytest.raises(ReentryError):
            alone(lambda: None)()
    assert not busy()
    alone(lambda: None)()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_is_marked_while_it_runs_and_not_while_it_waits(backend: str) -> None:
    seen: list[tuple[str, bool]] = []

    async def work() -> str:
        seen.append(("begins", busy()))
        try:
            await anyio.sleep(0.01)
        except BaseException:
            seen.append(("cancelled", busy()))
            raise
        seen.append(("ends", busy()))
        return "done"

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beside)
            assert await Inside(work()) == "done"
        with anyio.move_on_after(0.01):
            await Inside(anyio.sleep(10))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await Inside(work())
        assert not busy()

    async def beside() -> None:
        seen.append(("beside", busy()))

    anyio.run(main, backend=backend)
    assert sorted(seen) == [
        ("begins", True),
        ("begins", True),
        ("beside", False),
        ("cancelled", True),
        ("ends", True),
    ]


STORM = """
import gc, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from doubles import WordEmbedder
from memora import CacheConfig, Memora
from memora.errors import ReentryError
config = CacheConfig(db_uri=sys.argv[2], judge="off", log_level="DEBUG", lookup_timeout_seconds=30)
cache = Memora(config, embedder=WordEmbedder())
sys.stderr = open("/dev/null", "w")
draw, done = random.Random(1), {"calls": 0, "refused": 0}
@cache.cached
def shout(query):
    return query.upper()
def use():
    query = draw.choice("abcdefgh")
    how = draw.randrange(9)
    if how < 3:
        assert cache.lookup(query).result in (None, query)
    elif how < 5:
        cache.store(query, None, query)
    elif how == 5:
        assert shout(query) == query.upper()
    elif how == 6:
        cache.get_stats()
    elif how == 7:
        cache.check_availability(query), cache.health_check("live")
    else:
        cache.invalidate(query)
handling = []
def handle(*_):
    if handling:  # or one would come upon another, for as long as the timer runs
        return
    handling.append(1)
    done["calls"] += 1
    try:
        use()
    except ReentryError:
        done["refused"] += 1
    finally:
        handling.clear()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
class Garbage:
    def __init__(self):
        self.ring = self
    def __del__(self):
        handle()
until = time.monotonic() + float(sys.argv[3])
while time.monotonic() < until:
    if draw.random() < 0.05:
        Garbage()
    try:
        use()
    except ReentryError:  # of a signal that came while a finalizer ran
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
cache.store("a", None, "a")
assert cache.lookup("a").result == "a"
# Nobody has waited for what waits for him.
assert "timeout" not in cache.get_stats()["misses_by_reason"]
cache.close()
assert done["calls"] > 20, done
print("fine")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timer")
@pytest.mark.parametrize("uri", ["memory://", "disk"])
def test_a_storm_of_signals_and_finalizers_ends(tmp_path: Path, uri: str) -> None:
    where = uri if uri == "memory://" else str(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", STORM, TESTS, where, "1"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "fine\n"), ended.stderr
