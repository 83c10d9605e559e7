"""Decorated functions: they call the cache, which calls the original function on a miss."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType, MethodType
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

from memora.calls._binding import (
    CODE,
    FUNCTION,
    UNKEYED,
    Binding,
    code_of,
    has_state,
    identity_of,
    is_method,
    named,
    owner_form,
    owner_of,
    unsaid_owner,
    why_unkeyed,
)
from memora.calls._engine import Computation
from memora.calls._streams import arelay, recording_of, relay
from memora.concurrency.fork import register_for_reinit
from memora.context import canonical_context
from memora.errors import ArgumentError, ClosedError, ContextError

if TYPE_CHECKING:
    from typing_extensions import Self

    from memora.calls._binding import Arguments, Call, Rules
    from memora.calls._engine import Engine
    from memora.calls._streams import Recording
    from memora.model import LookupResult, Unkeyed

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
A = TypeVar("A", bound=AsyncIterator[Any])


class CacheInfo(NamedTuple):
    """Counts of a function's calls in this process."""

    hits: int
    """Calls answered without running the function."""
    misses: int
    """Calls that ran the function, whether or not its result was stored."""
    uncacheable: Mapping[Unkeyed, int] = MappingProxyType({})
    """The misses that could not be looked up or stored, by the missing part of the key."""

    def __repr__(self) -> str:
        said = f", uncacheable={dict(self.uncacheable)}" if self.uncacheable else ""
        return f"CacheInfo(hits={self.hits}, misses={self.misses}{said})"


class CallKey(NamedTuple):
    """The query and context under which a call's result is stored."""

    query: str
    context: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The options that apply to all calls of a function. Durations are seconds."""

    similarity_threshold: float | None
    max_age: float | None
    ttl: float | None
    stale_ttl: float | None
    sliding: bool | None
    refresh_ahead: float | None
    condition: Callable[[Any], bool] | None
    single_flight: bool

    def of(self, *names: str) -> dict[str, Any]:
        """Return the options with these names that are not None."""
        said = {name: getattr(self, name) for name in names}
        return {name: value for name, value in said.items() if value is not None}


class Plan:
    """The state that a decorated function and its bound forms share."""

    def __init__(  # noqa: PLR0913 - the decorator's options
        self,
        cache: Engine,
        function: Any,
        rules: Rules,
        behaviour: Behaviour,
        *,
        namespace: str | None,
        version: str | None,
    ) -> None:
        self.cache = cache
        self.of_class = isinstance(function, classmethod)
        static = isinstance(function, staticmethod)
        self.function: Callable[..., Any] = (
            function.__func__ if self.of_class or static else function
        )
        # Like a plain function, and unlike a method that is already bound.
        self.binds = (
            hasattr(type(self.function), "__get__")
            and not isinstance(self.function, MethodType)
            and not static
        )
        self.bearer = named(self.function)
        self.name: str = self.bearer.__qualname__
        self.identity = identity_of(self.function) if namespace is None else namespace
        # The arguments of a partial are part of each call, like the call's own arguments.
        inner: Any = self.function
        self.given: tuple[Any, ...] = ()
        self.given_by_name: dict[str, Any] = {}
        if isinstance(inner, functools.partial):
            self.given, self.given_by_name, inner = inner.args, inner.keywords, inner.func
        self._inner = inner
        self._rules = rules
        code = version
        if code is None:
            code = code_of(self.function) if namespace is None else ""
        self._fixed: dict[str, object] = {FUNCTION: self.identity}
        if code:
            self._fixed[CODE] = code
        self._bound_signature: inspect.Signature | None = None
        self._bound_object = self._object(namespace)
        first = is_method(inner)
        self.binding = self._bind(owner=self.of_class or first is not None)
        owned = first == "self" and not static
        if owned and not rules.settles("self"):
            raise ArgumentError(unsaid_owner(self.name, "self"))
        # No option but `strict_params` says whether the object counts.
        self.has_silent_owner = owned and not replace(rules, strict_params=None).settles("self")
        self._owned: Binding | None = None
        self.condition = behaviour.condition
        life = ("ttl", "stale_ttl", "sliding")
        self.computing = behaviour.of(
            "similarity_threshold", "max_age", "refresh_ahead", "condition", *life
        )
        if not behaviour.single_flight:
            self.computing["single_flight"] = False
        self.looking = behaviour.of("similarity_threshold", "max_age")
        self.storing = behaviour.of(*life)
        register_for_reinit(self)
        self.forget()

    def reinit_after_fork(self) -> None:
        """Create a new lock, as another thread may have held the old one at a fork.

        Reentrant, as a signal handler may call the function at any time.
        """
        self._lock = threading.RLock()

    def count_hit(self) -> None:
        """Count a call that was answered without running the function."""
        with self._lock:
            self._hits += 1

    def count_miss(self) -> None:
        """Count a call that runs the function."""
        with self._lock:
            self._misses += 1

    def info(self) -> CacheInfo:
        """Return the counts."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, dict(self._uncacheable))

    def forget(self) -> None:
        """Reset the counts to 0."""
        with self._lock:
            self._hits = self._misses = 0
            self._uncacheable: Counter[Unkeyed] = Counter()

    def key(self, binding: Binding, arguments: Arguments) -> Call | None:
        """Return the key of a call; count a call without one, and return None."""
        try:
            call = binding.settled(arguments)
            if self.cache.closed:
                raise ClosedError("the cache has been closed")
        except UNKEYED as fault:
            if self.cache.caching_enabled():
                reason = why_unkeyed(fault)
                with self._lock:
                    self._uncacheable[reason] += 1
                self.cache.note_uncacheable(self.identity, reason, fault)
            return None
        return call

    def annotated(self) -> Any:
        """Return the function whose annotations declare the type of the result."""
        inner = inspect.unwrap(self.bearer)
        is_object = isinstance(inner, type) and inner is not self._inner
        return inspect.unwrap(inner.__call__) if is_object else inner

    def owned(self) -> Binding:
        """Return the binding of a method, whatever the name of its first parameter."""
        if self._owned is None:
            try:
                self._owned = self._bind(owner=True)
            except ArgumentError:  # not a method, though accessed through an instance
                self._owned = self.binding
        return self._owned

    def bound_signature(self) -> inspect.Signature:
        """Return the signature of a method without its first parameter."""
        if self._bound_signature is None:
            signature = inspect.signature(self.function)
            parameters = list(signature.parameters.values())
            if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del parameters[0]
            self._bound_signature = signature.replace(parameters=parameters)
        return self._bound_signature

    def _object(self, namespace: str | None) -> Any:
        """Return the object of a bound method, or the called object, if it is part of the key."""
        owner, rules = owner_of(self._inner), self._rules
        if owner is None or rules.instance is not None:
            return owner
        if namespace is not None or (rules.settles("self") and not isinstance(owner, type)):
            return None
        try:
            canonical_context({"self": owner_form(owner, None)} if has_state(owner) else {})
        except ContextError:
            raise ArgumentError(
                f"{unsaid_owner(self.name, 'self')}, or namespace= for this object"
            ) from None
        return owner

    def _bind(self, *, owner: bool) -> Binding:
        try:
            signature = inspect.signature(self._inner)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"the parameters of {self.name} cannot be read; decorate a function that calls it"
            ) from None
        return Binding(
            signature,
            self._rules,
            name=self.name,
            fixed=self._fixed,
            owner=owner,
            bound=self._bound_object,
        )


class _Computation(Computation):
    """A call of the function, made if the cache needs one."""

    __slots__ = ("_args", "_call", "_decorated", "_kwargs", "_thread", "counted")

    def __init__(
        self, decorated: _Decorated[...], call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._decorated, self._call = decorated, call
        self._args, self._kwargs = args, kwargs
        self._thread = threading.get_ident()
        self.counted, self.faithful = False, True

    def __call__(self) -> Any:
        decorated = self._decorated
        if not self.counted and self._thread == threading.get_ident():  # not a background refresh
            self.counted = True
            decorated._plan.count_miss()  # noqa: SLF001 - of this module
        # The application may have changed an argument during the lookup.
        self.faithful = decorated._is_still(self._call, self._args, self._kwargs)  # noqa: SLF001
        return decorated._plan.function(*self._args, **self._kwargs)  # noqa: SLF001

    def aside(self) -> _Computation | None:
        """Return the same call with copies of the arguments, which the application may change.

        Arguments that cannot be context, such as a client, are not copied: they are not data.
        """
        owners = min(self._decorated._binding.owners, len(self._args))  # noqa: SLF001
        memo: dict[int, Any] = {}
        try:
            args = (
                *self._args[:owners],
                *(_copied(value, memo) for value in self._args[owners:]),
            )
            kwargs = {name: _copied(value, memo) for name, value in self._kwargs.items()}
        except Exception:  # noqa: BLE001 - raised by an argument's own class
            return None
        copied = _Computation(self._decorated, self._call, args, kwargs)
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

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        args = (*self._owner, *args)
        arguments = self._arguments(args, kwargs)
        if arguments is None:
            inspect.signature(self._plan.function).bind(*args, **kwargs)
            raise TypeError(f"{self._plan.name}() does not take these arguments")
        return self._binding.settled(arguments)

    def _is_still(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
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
        plan = self._plan
        if self._owner:
            args = (*self._owner, *args)
        if (arguments := self._arguments(args, kwargs)) is None:
            return cast("R", plan.function(*args, **kwargs))  # raises its own TypeError
        if (call := plan.key(self._binding, arguments)) is None:
            plan.count_miss()
            return cast("R", plan.function(*args, **kwargs))
        query, context, tags = call
        computation = _Computation(self, call, args, kwargs)
        result = plan.cache.get_or_compute(
            query, context, computation, tags=tags, refresh=refresh, **plan.computing
        )
        computation.returned()
        return cast("R", result)


class CachedStream(Cached[P, R]):
    """A generator function whose items are stored when it has ended, and replayed later."""

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> R:
        args = (*self._owner, *args)
        start = functools.partial(self._plan.function, *args, **kwargs)
        if (arguments := self._arguments(args, kwargs)) is None:
            return cast("R", start())  # raises its own TypeError
        stream = _Stream(self._plan, self._binding, arguments, refresh=refresh)
        return cast("R", relay(start, stream.find, stream.keep))


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
        plan = self._plan
        if self._owner:
            args = (*self._owner, *args)
        if (arguments := self._arguments(args, kwargs)) is None:
            return cast("R", await plan.function(*args, **kwargs))  # raises its own TypeError
        if (call := plan.key(self._binding, arguments)) is None:
            plan.count_miss()
            return cast("R", await plan.function(*args, **kwargs))
        query, context, tags = call
        computation = _Computation(self, call, args, kwargs)
        result = await plan.cache.aget_or_compute(
            query, context, computation, tags=tags, refresh=refresh, **plan.computing
        )
        computation.returned()
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
        args = (*self._owner, *args)
        start = functools.partial(self._plan.function, *args, **kwargs)
        if (arguments := self._arguments(args, kwargs)) is None:
            return cast("A", start())  # raises its own TypeError
        stream = _Stream(self._plan, self._binding, arguments, refresh=refresh)
        return cast("A", arelay(start, stream.afind, stream.akeep))


class _Stream:
    """One call of a generator function: its lookup, and the storing of its items."""

    def __init__(
        self, plan: Plan, binding: Binding, arguments: Arguments, *, refresh: bool
    ) -> None:
        self._plan = plan
        self._binding = binding
        self._arguments = arguments
        self._refresh = refresh
        self._call: Call | None = None

    def find(self) -> Recording | None:
        found, call = None, self._begin()
        if call is not None and not self._refresh:
            with suppress(ClosedError):  # the cache was closed just now
                found = self._plan.cache.lookup(call.query, call.context, **self._plan.looking)
        return self._counted(found)

    async def afind(self) -> Recording | None:
        found, call = None, self._begin()
        if call is not None and not self._refresh:
            with suppress(ClosedError):  # as above
                found = await self._plan.cache.alookup(
                    call.query, call.context, **self._plan.looking
                )
        return self._counted(found)

    def keep(self, recording: Recording) -> None:
        call, cache = self._call, self._plan.cache
        if call is None or cache.closed:  # closed meanwhile; the caller has its items all the same
            return
        cache.get_or_compute(
            call.query, call.context, recording.as_result, **self._storing(call, recording)
        )

    async def akeep(self, recording: Recording) -> None:
        async def result() -> Any:
            return recording.as_result()

        call, cache = self._call, self._plan.cache
        if call is None or cache.closed:  # as above
            return
        await cache.aget_or_compute(
            call.query, call.context, result, **self._storing(call, recording)
        )

    def _storing(self, call: Call, recording: Recording) -> dict[str, Any]:
        wanted = self._plan.condition
        return {
            "refresh": True,  # the lookup has been done
            "tags": call.tags,
            "cost": recording.seconds,
            "condition": None if wanted is None else lambda _: wanted(recording.items),
            **self._plan.storing,
        }

    def _begin(self) -> Call | None:
        if self._plan.cache.caching_enabled():
            self._call = self._plan.key(self._binding, self._arguments)
        return self._call

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
