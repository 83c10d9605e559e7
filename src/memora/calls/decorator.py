"""The decorator `cached`, and the validation of its options."""

# mypy: disable-error-code="overload-overlap"
# The overloads overlap, as a coroutine function is also a function; the first match is meant.

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from memora._arguments import check_options, flag, plain_function, share
from memora._durations import seconds
from memora.calls._binding import Rules
from memora.calls._decorated import kind_of
from memora.calls._plan import Behaviour, Plan
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from datetime import timedelta

    from memora.calls._decorated import AsyncCached, AsyncCachedStream, Cached
    from memora.calls._engine import Engine

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=AsyncIterator[Any])


class Decorator:
    """The decorator `cached` with its options applied."""

    def __init__(self, decorate: Callable[[Any], Any]) -> None:
        self._decorate = decorate

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCached[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, A], /) -> AsyncCachedStream[P, A]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...

    def __call__(self, function: Any, /) -> Any:
        """Return the decorated function."""
        return self._decorate(function)


class Caching:
    """`cache.cached`: decorates functions, so that their calls are answered from the cache.

    Use it without options, `@cache.cached`; with options, `@cache.cached(query_param="prompt")`; or
    as a function, `cache.cached(function, query_param="prompt")`. `__call__` explains the options.

    Args:
        cache: The cache that stores the results.
        log: Called with an event's name and fields if parameters are not part of the key.
        warn: Called likewise if a method's object is not part of the key and no option says so.
    """

    def __init__(
        self,
        cache: Engine,
        *,
        log: Callable[..., object] | None = None,
        warn: Callable[..., object] | None = None,
    ) -> None:
        self._cache = cache
        self._log, self._warn = log, warn

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, **options: Any
    ) -> AsyncCached[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, A], /, **options: Any) -> AsyncCachedStream[P, A]: ...

    @overload
    def __call__(self, function: Callable[P, R], /, **options: Any) -> Cached[P, R]: ...

    @overload
    def __call__(
        self,
        query_param: str = "query",
        strict_params: str | Iterable[str] | None = None,
        static_context: Mapping[str, Any] | None = None,
        auto_strict: bool = False,  # noqa: FBT001, FBT002 - by position in 0.1.0
        *,
        ignore: str | Iterable[str] | None = None,
        key: Callable[..., str] | None = None,
        context: Callable[..., Mapping[str, Any] | None] | None = None,
        instance: Callable[[Any], Any] | None = None,
        namespace: str | None = None,
        version: str | None = None,
        returns: Any = None,
        similarity_threshold: float | None = None,
        max_age: float | str | timedelta | None = None,
        ttl: float | str | timedelta | None = None,
        stale_ttl: float | str | timedelta | None = None,
        sliding: bool | None = None,
        refresh_ahead: float | str | timedelta | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], bool] | None = None,
        single_flight: bool = True,
    ) -> Decorator: ...

    def __call__(  # type: ignore[misc] # noqa: PLR0913 - `query_param` by position is `given`
        self,
        given: Any = None,
        /,
        strict_params: str | Iterable[str] | None = None,
        static_context: Mapping[str, Any] | None = None,
        auto_strict: bool = False,  # noqa: FBT001, FBT002 - by position in 0.1.0
        *,
        ignore: str | Iterable[str] | None = None,
        key: Callable[..., str] | None = None,
        context: Callable[..., Mapping[str, Any] | None] | None = None,
        instance: Callable[[Any], Any] | None = None,
        namespace: str | None = None,
        version: str | None = None,
        returns: Any = None,
        similarity_threshold: float | None = None,
        max_age: float | str | timedelta | None = None,
        ttl: float | str | timedelta | None = None,
        stale_ttl: float | str | timedelta | None = None,
        sliding: bool | None = None,
        refresh_ahead: float | str | timedelta | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], bool] | None = None,
        single_flight: bool = True,
        query_param: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Return the decorated function, or a decorator.

        Args:
            given: The function; or `query_param`, by position.
            query_param: The parameter that is compared by meaning, "query" by default.
            strict_params: The parameters that must be equal; by default all others.
            static_context: More context, the same for every call. Without `strict_params` and
                `auto_strict` it is the whole context.
            auto_strict: Parameters must be equal if their value is not a text.
            ignore: Parameters that do not change the result.
            key: Returns the query, given the parameters that its own parameters name.
            context: Returns the context, given the parameters that its own parameters name, `self`
                included; replaces the context made of the parameters.
            instance: Called with a method's object; returns a value that identifies it.
            namespace: Functions with the same namespace share entries; by default none do.
            version: Replaces the digest of the function's code in the key: entries of another
                version are not served.
            returns: The class of the result, or any type that contains classes. They are
                registered, in addition to those in the function's return annotation.
            similarity_threshold: As for `lookup`.
            max_age: As for `lookup`.
            ttl: As for `store`.
            stale_ttl: As for `store`.
            sliding: As for `store`.
            refresh_ahead: Refresh a result in the background if a hit has less than this time left
                to live. Not for streams.
            tags: As for `store`; "{doc_id}" in "doc:{doc_id}" stands for the parameter's value.
            condition: Called with a result, or the list of a stream's items; returns whether to
                store it.
            single_flight: Whether equal calls at the same time run the function only once. Not for
                streams.
            **unknown: Raises an error.

        Raises:
            ArgumentError: An option is wrong, unknown, or names a parameter that does not exist.
            ContextError: The static context holds a value without canonical form.
        """
        check_options("cached", unknown, _OPTIONS)
        function = None if isinstance(given, str) else given
        if isinstance(given, str) and query_param is not None:
            raise ArgumentError(f"query_param is given twice: {given!r} and {query_param!r}")
        named = given if isinstance(given, str) else query_param
        rules = Rules(
            query_param="query" if named is None else named,
            strict_params=None if strict_params is None else _names("strict_params", strict_params),
            static_context=_mapping("static_context", static_context) or None,
            auto_strict=flag("auto_strict", auto_strict),
            ignore=_names("ignore", ignore or ()),
            tags=_names("tags", tags or ()),
            key=plain_function("key", key),
            context=plain_function("context", context),
            instance=plain_function("instance", instance),
        )
        behaviour = Behaviour(
            similarity_threshold=None
            if similarity_threshold is None
            else share("similarity_threshold", similarity_threshold),
            max_age=None if max_age is None else seconds("max_age", max_age),
            ttl=None if ttl is None else seconds("ttl", ttl),
            stale_ttl=None if stale_ttl is None else seconds("stale_ttl", stale_ttl),
            sliding=None if sliding is None else flag("sliding", sliding),
            refresh_ahead=None
            if refresh_ahead is None
            else seconds("refresh_ahead", refresh_ahead),
            condition=plain_function("condition", condition),
            single_flight=flag("single_flight", single_flight),
        )
        space = None if namespace is None else _names("namespace", [namespace])[0]
        edition = None if version is None else _names("version", [version])[0]

        def decorate(function: Any) -> Any:
            if not callable(function) and not isinstance(function, (staticmethod, classmethod)):
                raise ArgumentError(f"cached decorates functions, got {function!r}")
            plan = Plan(self._cache, function, rules, behaviour, namespace=space, version=edition)
            self._cache.accept_result(plan.annotated(), returns)
            self._tell(plan, rules)
            return kind_of(plan.function)(plan)

        return Decorator(decorate) if function is None else decorate(function)

    def _tell(self, plan: Plan, rules: Rules) -> None:
        """Log once, at decoration, which parameters are not part of the key."""
        if self._warn is not None and plan.has_silent_owner:
            self._warn("method_without_its_object", function=plan.identity)
        chosen = {
            "strict_params": rules.strict_params is not None,
            "static_context": rules.static_context is not None,
            "auto_strict": rules.auto_strict,
        }
        because = [option for option, given in chosen.items() if given]
        uncounted = plan.binding.uncounted
        if self._log is not None and because and uncounted:
            self._log(
                "parameters_not_in_context",
                function=plan.identity,
                parameters=uncounted,
                because=because,
                **({"unless": "not a text"} if rules.auto_strict else {}),
            )


_OPTIONS = set(inspect.signature(Caching.__call__).parameters) - {"self", "given", "unknown"}


@overload
def create_cached_decorator(cache: Engine) -> Caching: ...


@overload
def create_cached_decorator(cache: Engine, **options: Any) -> Decorator: ...


def create_cached_decorator(cache: Engine, **options: Any) -> Caching | Decorator:
    """Return the decorator `cached` of any cache, with these options applied if there are any."""
    return Caching(cache)(**options) if options else Caching(cache)


def _names(option: str, names: str | Iterable[str]) -> tuple[str, ...]:
    listed: object = (names,) if isinstance(names, str) else names
    if isinstance(listed, Mapping) or not isinstance(listed, Iterable):
        raise ArgumentError(f"{option} must be a list of texts, got {names!r}")
    found = tuple(listed)
    for name in found:
        if not isinstance(name, str) or not name.strip():
            raise ArgumentError(f"{option} must be texts that are not blank, got {name!r}")
    return tuple(dict.fromkeys(found))


def _mapping(option: str, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, Mapping):
        raise ArgumentError(f"{option} must be a mapping such as {{'agent': 'sql'}}, got {value!r}")
    return value
