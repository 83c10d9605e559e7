"""Generators that are recorded during iteration, and replayed later.

A replay behaves like the function: items come one by one, and `send` and `throw` reach the
function. For these, the replay starts the function and runs it up to the same item.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator


class Recording(NamedTuple):
    """A stream that ended normally."""

    items: list[Any]
    returned: Any = None
    seconds: float = 0.0
    """Time that the function took, without that of the consumer."""

    def as_result(self) -> Any:
        """Return the result to store: the items, and the return value if it is not None."""
        if self.returned is None:
            return self.items
        return {"items": self.items, "returned": self.returned}


def recording_of(result: Any) -> Recording | None:
    """Return the recording of a stored result; None if it was not stored by a stream."""
    if type(result) is list:
        return Recording(result)
    if type(result) is dict and result.keys() == {"items", "returned"}:
        return Recording(result["items"], result["returned"])
    return None


def relay(
    start: Callable[[], Generator[Any, Any, Any]],
    find: Callable[[], Recording | None],
    keep: Callable[[Recording], object],
) -> Generator[Any, Any, Any]:
    """Yield a function's items, or its stored ones.

    Args:
        start: Calls the function.
        find: Returns a stored recording, if any; called at the first `next`.
        keep: Called with the recording if the function ended normally.
    """
    kept = find()
    source = start() if kept is None else _Replay(kept, start)
    tape = _Tape(spoilt=kept is not None)
    step = partial(source.send, None)
    while True:
        began = perf_counter()
        try:
            item = step()
        except StopIteration as end:
            if (recording := tape.ended(perf_counter() - began, end.value)) is not None:
                keep(recording)
            return end.value
        tape.add(item, perf_counter() - began)
        try:
            sent = yield item
        except GeneratorExit:
            source.close()
            raise
        except BaseException as thrown:  # noqa: BLE001 - passed on to the function
            tape.spoil()
            step = partial(source.throw, thrown)
        else:
            if sent is not None:
                tape.spoil()
            step = partial(source.send, sent)


async def arelay(
    start: Callable[[], AsyncGenerator[Any, Any]],
    find: Callable[[], Awaitable[Recording | None]],
    keep: Callable[[Recording], Awaitable[object]],
) -> AsyncGenerator[Any, Any]:
    """Do as `relay`, for an async generator."""
    kept = await find()
    source = start() if kept is None else _AsyncReplay(kept, start)
    tape = _Tape(spoilt=kept is not None)
    step = partial(source.asend, None)
    while True:
        began = perf_counter()
        try:
            item = await step()
        except StopAsyncIteration:
            if (recording := tape.ended(perf_counter() - began)) is not None:
                await keep(recording)
            return
        tape.add(item, perf_counter() - began)
        try:
            sent = yield item
        except GeneratorExit:
            await source.aclose()
            raise
        except BaseException as thrown:  # noqa: BLE001 - passed on to the function
            tape.spoil()
            step = partial(source.athrow, thrown)
        else:
            if sent is not None:
                tape.spoil()
            step = partial(source.asend, sent)


class _Tape:
    """The items so far; dropped if they depend on more than the arguments."""

    def __init__(self, *, spoilt: bool) -> None:
        self._items: list[Any] | None = None if spoilt else []
        self._seconds = 0.0

    def add(self, item: Any, seconds: float) -> None:
        if self._items is None:
            return
        self._seconds += seconds
        try:
            # The consumer may change the item before the stream ends.
            self._items.append(item if type(item) is str else copy.deepcopy(item))
        except Exception:  # noqa: BLE001 - an item that cannot be copied cannot be stored either
            self.spoil()

    def spoil(self) -> None:
        self._items = None

    def ended(self, seconds: float, returned: Any = None) -> Recording | None:
        if self._items is None:
            return None
        return Recording(self._items, returned, self._seconds + seconds)


class _Replay:
    """A recording that behaves as the generator did."""

    def __init__(self, kept: Recording, start: Callable[[], Generator[Any, Any, Any]]) -> None:
        self._kept = kept
        self._start = start
        self._taken = 0
        self._awake: Generator[Any, Any, Any] | None = None

    def send(self, value: Any) -> Any:
        if value is not None or self._awake is not None:
            return self._wake().send(value)
        if self._taken == len(self._kept.items):
            raise StopIteration(self._kept.returned)
        self._taken += 1
        return self._kept.items[self._taken - 1]

    def throw(self, thrown: BaseException) -> Any:
        return self._wake().throw(thrown)

    def close(self) -> None:
        if self._awake is not None:
            self._awake.close()

    def _wake(self) -> Generator[Any, Any, Any]:
        if self._awake is None:
            self._awake = self._start()
            with suppress(StopIteration):  # the stream is shorter now; the next step raises again
                for _ in range(self._taken):
                    next(self._awake)
        return self._awake


class _AsyncReplay:
    """A recording that behaves as the async generator did."""

    def __init__(self, kept: Recording, start: Callable[[], AsyncGenerator[Any, Any]]) -> None:
        self._kept = kept
        self._start = start
        self._taken = 0
        self._awake: AsyncGenerator[Any, Any] | None = None

    async def asend(self, value: Any) -> Any:
        if value is not None or self._awake is not None:
            return await (await self._wake()).asend(value)
        if self._taken == len(self._kept.items):
            raise StopAsyncIteration
        self._taken += 1
        return self._kept.items[self._taken - 1]

    async def athrow(self, thrown: BaseException) -> Any:
        return await (await self._wake()).athrow(thrown)

    async def aclose(self) -> None:
        if self._awake is not None:
            await self._awake.aclose()

    async def _wake(self) -> AsyncGenerator[Any, Any]:
        if self._awake is None:
            self._awake = self._start()
            with suppress(StopAsyncIteration):  # shorter now; the next step raises again
                for _ in range(self._taken):
                    await self._awake.__anext__()
        return self._awake
