"""Decorated functions: they call the cache, which calls the original function on a miss."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from memora.calls._binding import FUNCTION
from memora.calls._engine import Computation
from memora.calls._streams import arelay, recording_of, relay
from memora.concurrency.bridge import drive
from memora.context import canonical_context
from memora.errors import ClosedError, ContextError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from memora.calls._binding import Arguments, Binding, BoundCall
    from memora.calls._plan import CacheInfo, Plan
    from memora.calls._streams import Recording
    from memora.model import LookupResult

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
A = TypeVar("A", bound=AsyncIterator[Any])


class CallKey(NamedTuple):
    """The query and context under which a call's result is stored."""

    query: str
    context: dict[str, Any]


class _Computation(Computation):
    """A call of the function, made if the cache needs one."""

    __slots__ = ("_call", "_decorated", "_start", "_thread", "counted")

    def __init__(
        self, decorated: _Decorated[...], call: BoundCall, start: functools.partial[Any]
    ) -> None:
        self._decorated, self._call, self._start = decorated, call, start
        self._thread = threading.get_ident()
        self.counted, self.faithful = False, True

    def __call__(self) -> Any:
        decorated, start = self._decorated, self._start
        if not self.counted and self._thread == threading.get_ident():  # not a background refresh
            self.counted = True
            decorated._plan.count_miss()  # noqa: SLF001 - of this module
        # The application may have changed an argument during the lookup.
        self.faithful = decorated._is_still(self._call, start.args, start.keywords)  # noqa: SLF001
        return start()

    def aside(self) -> _Computation | None:
        """Return the same call with copies of the arguments, which the application may change.

        Arguments that cannot be context, such as a client, are not copied: they are not data.
        """
        start, memo = self._start, dict[int, Any]()
        owners = min(self._decorated._binding.owners, len(start.args))  # noqa: SLF001
        try:
            args = (*start.args[:owners], *(_copied(one, memo) for one in start.args[owners:]))
            kwargs = {name: _copied(value, memo) for name, value in start.keywords.items()}
        except Exception:  # noqa: BLE001 - raised by an argument's own class
            return None
        again = functools.partial(start.func, *args, **kwargs)
        copied = _Computation(self._decorated, self._call, again)
        copied.counted = True
        return copied

    def returned(self) -> None:
        """Count the call, which has its result; later runs are in the background."""
        if not self.counted:
            self.counted = True
            self._decorated._plan.count_hit()  # noqa: SLF001 - of this module


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        canonical_context({"": value})
    except ContextError:
        return value
    return copy.deepcopy(value, memo)


class _Decorated(Generic[P]):
    """A function with a cache, bound to an instance or class if accessed through one.

    It has the name, documentation and signature of the original function, `__wrapped__`.
    """

    __wrapped__: Callable[P, Any]
    __self__: object  # only if accessed through an instance or class
    __signature__: inspect.Signature  # only if it differs from that of `__wrapped__`
    __name__: str
    __qualname__: str

    def __init__(self, plan: Plan) -> None:
        is_function = inspect.isfunction(plan.bearer)
        functools.update_wrapper(
            cast("Callable[..., Any]", self),  # its subclasses are callable
            plan.bearer,
            updated=("__dict__",) if is_function else (),
        )
        self.__wrapped__ = plan.function
        self._plan = plan
        self._binding = plan.binding
        self._owner: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<cached {self._plan.identity}>"

    def __reduce__(self) -> Any:
        # By name, like functions: the other process has its own cache.
        return (getattr, (self._owner[0], self.__name__)) if self._owner else self.__qualname__

    def cache_info(self) -> CacheInfo:
        """Return the number of calls answered with and without running the function."""
        return self._plan.info()

    def cache_clear(self) -> int:
        """Delete the entries of this function, or of its namespace; return how many.

        Raises:
            StoreError: The store failed; some entries may still be there.
        """
        self._plan.forget()
        return self._plan.cache.invalidate(context_contains={FUNCTION: self._plan.identity})

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> CallKey:
        """Return the query and context under which a call with these arguments is stored.

        Raises:
            TypeError: The function does not accept the arguments.
            QueryError: The query is not a text, or is blank.
            ContextError: A value has no canonical form.
        """
        call = self._call(args, kwargs)
        return CallKey(call.query, dict(call.context))

    def _get(self, instance: object, owner: type | None) -> Self:
        """Bind to an instance or class, as functions and class methods do."""
        plan = self._plan
        if self._owner or not (plan.of_class or (plan.binds and instance is not None)):
            return self
        first = instance
        if plan.of_class:
            first = type(instance) if owner is None else owner
        bound = object.__new__(type(self))
        vars(bound).update(vars(self))
        bound._owner = (first,)
        bound.__self__ = first
        bound._binding = plan.owned()
        bound.__signature__ = plan.bound_signature()
        return bound

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        plan = self._plan
        if plan.given or plan.given_by_name:
            args, kwargs = (*plan.given, *args), {**plan.given_by_name, **kwargs}
        return self._binding.bind(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
        args = (*self._owner, *args)
        arguments = self._arguments(args, kwargs)
        if arguments is None:
            inspect.signature(self._plan.function).bind(*args, **kwargs)
            raise TypeError(f"{self._plan.name}() does not take these arguments")
        return self._binding.settled(arguments)

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[functools.partial[Any], BoundCall | None]:
        """Return what makes a call, and its key: None for a call that bypasses the cache."""
        plan = self._plan
        if self._owner:
            args = (*self._owner, *args)
        start = functools.partial(plan.function, *args, **kwargs)
        if (arguments := self._arguments(args, kwargs)) is None:
            return start, None  # it raises its own TypeError
        if (call := plan.key(self._binding, arguments)) is None:
            plan.count_miss()
        return start, call

    def _streamed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool, in_task: bool
    ) -> tuple[functools.partial[Any], _Stream | None]:
        """Return what makes a call of a generator function, and what looks up and stores it."""
        args = (*self._owner, *args)
        start = functools.partial(self._plan.function, *args, **kwargs)
        if (arguments := self._arguments(args, kwargs)) is None:
            return start, None  # as above
        return start, _Stream(
            self._plan, self._binding, arguments, refresh=refresh, in_task=in_task
        )

    def _is_still(self, call: BoundCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        arguments = self._arguments(args, kwargs)
        return arguments is not None and self._binding.is_still(arguments, call)


class Cached(_Decorated[P], Generic[P, R]):
    """A function, method or generator function whose calls are answered from a cache."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(args, kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function without a lookup, and store its result."""
        return self._run(args, kwargs, refresh=True)

    def lookup(self, *args: P.args, **kwargs: P.kwargs) -> LookupResult:
        """Look for the result of a call, without making it."""
        call, plan = self._call(args, kwargs), self._plan
        return plan.cache.lookup(call.query, call.context, **plan.looking)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Delete the entries stored for exactly this call; return how many."""
        call = self._call(args, kwargs)
        return self._plan.cache.invalidate(call.query, call.context)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(
        self: Cached[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Cached[Q, R]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._get(instance, owner)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> R:
        start, call = self._prepared(args, kwargs)
        if call is None:
            return cast("R", start())
        plan, compute = self._plan, _Computation(self, call, start)
        result = plan.cache.get_or_compute(
            *call[:2], compute, tags=call.tags, refresh=refresh, **plan.computing
        )
        compute.returned()
        return cast("R", result)


class CachedStream(Cached[P, R]):
    """A generator function whose items are stored when it has ended, and replayed later."""

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> R:
        start, stream = self._streamed(args, kwargs, refresh=refresh, in_task=False)
        if stream is None:
            return cast("R", start())
        relayed = relay(
            start,
            lambda: drive(stream.find()),
            lambda recording: drive(stream.keep(recording)),
        )
        return cast("R", relayed)


class _AsyncDecorated(_Decorated[P]):
    """A decorated function whose cache operations are coroutines."""

    async def lookup(self, *args: P.args, **kwargs: P.kwargs) -> LookupResult:
        """Look for the result of a call, without making it."""
        call, plan = self._call(args, kwargs), self._plan
        return await plan.cache.alookup(call.query, call.context, **plan.looking)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Delete the entries stored for exactly this call; return how many."""
        call = self._call(args, kwargs)
        return await self._plan.cache.ainvalidate(call.query, call.context)

    async def acache_clear(self) -> int:
        """Do as `cache_clear`, without blocking the event loop."""
        self._plan.forget()
        return await self._plan.cache.ainvalidate(context_contains={FUNCTION: self._plan.identity})


class AsyncCached(_AsyncDecorated[P], Generic[P, R]):
    """An async function or method whose calls are answered from a cache."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        _mark_as_coroutine_function(self)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(args, kwargs)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function without a lookup, and store its result."""
        return await self._run(args, kwargs, refresh=True)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(
        self: AsyncCached[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> AsyncCached[Q, R]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._get(instance, owner)

    async def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False
    ) -> R:
        start, call = self._prepared(args, kwargs)
        if call is None:
            return cast("R", await start())
        plan, compute = self._plan, _Computation(self, call, start)
        result = await plan.cache.aget_or_compute(
            *call[:2], compute, tags=call.tags, refresh=refresh, **plan.computing
        )
        compute.returned()
        return cast("R", result)


class AsyncCachedStream(_AsyncDecorated[P], Generic[P, A]):
    """An async generator function whose items are stored when it has ended, and replayed later."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        return self._run(args, kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Call the function without a lookup, and store its items when it has ended."""
        return self._run(args, kwargs, refresh=True)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(
        self: AsyncCachedStream[Concatenate[Any, Q], A],
        instance: object,
        owner: type | None = None,
    ) -> AsyncCachedStream[Q, A]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._get(instance, owner)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> A:
        start, stream = self._streamed(args, kwargs, refresh=refresh, in_task=True)
        return cast("A", start() if stream is None else arelay(start, stream.find, stream.keep))


class _Stream:
    """One call of a generator function: its lookup, and the storing of its items.

    Args:
        plan: The function.
        binding: Its binding.
        arguments: The call's arguments.
        refresh: Whether to skip the lookup.
        in_task: Whether to use the cache's async methods; if not, no coroutine suspends.
    """

    def __init__(
        self, plan: Plan, binding: Binding, arguments: Arguments, *, refresh: bool, in_task: bool
    ) -> None:
        self._plan, self._binding, self._arguments = plan, binding, arguments
        self._refresh, self._in_task = refresh, in_task
        self._call: BoundCall | None = None

    async def find(self) -> Recording | None:
        found, plan = None, self._plan
        if plan.cache.caching_enabled():
            self._call = plan.key(self._binding, self._arguments)
        if (call := self._call) is not None and not self._refresh:
            with suppress(ClosedError):  # the cache was closed just now
                if self._in_task:
                    found = await plan.cache.alookup(call.query, call.context, **plan.looking)
                else:
                    found = plan.cache.lookup(call.query, call.context, **plan.looking)
        return self._counted(found)

    async def keep(self, recording: Recording) -> None:
        async def result() -> Any:
            return recording.as_result()

        call, cache = self._call, self._plan.cache
        if call is None or cache.closed:  # closed meanwhile; the caller has its items all the same
            return
        options = self._storing(call, recording)
        if self._in_task:
            await cache.aget_or_compute(call.query, call.context, result, **options)
        else:
            cache.get_or_compute(call.query, call.context, recording.as_result, **options)

    def _storing(self, call: BoundCall, recording: Recording) -> dict[str, Any]:
        wanted = self._plan.condition
        return {
            "refresh": True,  # the lookup has been done
            "tags": call.tags,
            "cost": recording.seconds,
            "condition": None if wanted is None else lambda _: wanted(recording.items),
            **self._plan.storing,
        }

    def _counted(self, found: LookupResult | None) -> Recording | None:
        # A stale result is a miss, because streams are not refreshed in the background.
        usable = found is not None and found.is_hit and not found.is_stale
        recording = recording_of(found.result) if found is not None and usable else None
        if recording is None:
            self._plan.count_miss()
            # The application may have changed an argument during the lookup.
            if self._call is not None and not self._binding.is_still(self._arguments, self._call):
                self._call = None
        else:
            self._plan.count_hit()
        return recording


def kind_of(function: Callable[..., Any]) -> type[Any]:
    """Return the class above that wraps a function."""
    inner: Any = function.func if isinstance(function, functools.partial) else function
    if isinstance(inner, _Decorated):
        return type(inner)
    candidates = (inner, getattr(type(inner), "__call__", None))  # noqa: B004 - the class's
    if any(inspect.isasyncgenfunction(one) for one in candidates):
        return AsyncCachedStream
    if any(inspect.isgeneratorfunction(one) for one in candidates):
        return CachedStream
    if any(inspect.iscoroutinefunction(one) for one in candidates):
        return AsyncCached
    return Cached


def _mark_as_coroutine_function(function: Any) -> None:
    # For frameworks that check before they call. Before Python 3.12, only asyncio has a mark.
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        from asyncio import coroutines  # noqa: PLC0415 - heavy, and only needed here

        function._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001
