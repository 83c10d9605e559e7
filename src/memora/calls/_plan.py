"""What a decorated function and its bound forms share: key, options and counts."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from dataclasses import dataclass, replace
from types import MappingProxyType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from memora.calls._binding import (
    CODE,
    FUNCTION,
    UNKEYED,
    Binding,
    owner_form,
    unsaid_owner,
    why_unkeyed,
)
from memora.calls._identity import code_of, has_state, identity_of, is_method, named, owner_of
from memora.concurrency.fork import register_for_reinit
from memora.context import canonical_context
from memora.errors import ArgumentError, ClosedError, ContextError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memora.calls._binding import Arguments, BoundCall, Rules
    from memora.calls._engine import Engine
    from memora.model import Unkeyed


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

    def key(self, binding: Binding, arguments: Arguments) -> BoundCall | None:
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
