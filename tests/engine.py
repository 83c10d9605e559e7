"""Shared parts of the engine's tests: sync and async calls, and parts that fail or hang."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from doubles import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memora import Memora

SIDES = ["threads", "asyncio", "trio"]


class Side:
    """Caller of a cache's methods, from this thread or as async twins from a task."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.name == "threads":
            return method(*args, **kwargs)
        twin = getattr(method.__self__, f"a{method.__name__}")  # type: ignore[attr-defined]
        return anyio.run(partial(twin, *args, **kwargs), backend=self.name)

    def compute(
        self,
        cache: Memora,
        query: str,
        compute: Callable[[], Any],
        context: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Call `get_or_compute`."""

        async def twin() -> Any:
            return compute()

        on_this_side = compute if self.name == "threads" else twin
        return self(cache.get_or_compute, query, context, on_this_side, **options)


class Faulty:
    """Wrapper of a cache's part that runs a function before an operation, to raise or hang."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.before: dict[str, Callable[[], object]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self.before.get(name, lambda: None)()
            return found(*args, **kwargs)

        return call


class FaultyStore(Faulty):
    """A store on disk: `get_in_memory` never finds an entry."""

    def get_in_memory(self, key: bytes, /, *, now: float) -> None:
        """Return None, as for an entry that is not in memory."""


class SharedFaultyStore(FaultyStore):
    """A store shared with other processes; counts the leases held."""

    leases = 0
    led_by_another = False

    def try_lock(self, _: bytes, /) -> SharedFaultyStore | None:
        """Return a lease: the store itself."""
        self._do("try_lock")
        if self.led_by_another:
            return None
        self.leases += 1
        return self

    def release(self) -> None:
        self._do("release")
        self.leases -= 1

    def refresh(self) -> None:
        self._do("refresh")

    def _do(self, name: str) -> None:
        self.calls.append(name)
        self.before.get(name, lambda: None)()


def by_another(function: Callable[..., object]) -> Callable[..., None]:
    """Return a function that runs in another thread, as another user of the store, and waits."""

    def act(*args: Any, **kwargs: Any) -> None:
        thread = threading.Thread(target=function, args=args, kwargs=kwargs)
        thread.start()
        thread.join(30)

    return act


def raising(fault: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise fault

    return act


class Hang:
    """Function that blocks its callers until `released` is set."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.released.wait(120)


@contextmanager
def hanging(part: Faulty, *operations: str) -> Iterator[Hang]:
    """Make operations hang in the block; calls that hang continue to after it, until released."""
    hang = Hang()
    part.before |= dict.fromkeys(operations, hang)
    try:
        yield hang
    finally:
        for operation in operations:
            del part.before[operation]


@contextmanager
def impatient(cache: Memora, seconds: float = 0.05) -> Iterator[None]:
    """Shorten the deadline in a block; make slow calls outside of it."""
    config = cache._config
    cache._config = cache._core.config = config.model_copy(
        update={"lookup_timeout_seconds": seconds}
    )
    try:
        yield
    finally:
        cache._config = cache._core.config = config


def at_rest(cache: Memora) -> bool:
    """Wait until all workers of the cache are idle; return False if that takes too long."""
    executor = cache._threads
    crews = (executor._workers, executor._background, cache._tasks._patient, cache._health._workers)
    return until(
        lambda: not any(len(crew._crew) > len(crew._idle) or crew._waiting for crew in crews)
    )
