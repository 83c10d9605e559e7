"""The interface of a cache that decorated functions need, and the options of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from datetime import timedelta

    from typing_extensions import Unpack

    from memora.model import LookupResult, Unkeyed

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """Options of a cached call, in addition to its query and context."""

    similarity_threshold: float | None
    """As for `lookup`, like `max_age`."""
    max_age: float | str | timedelta | None
    ttl: float | str | timedelta | None
    """As for `store`, like the next five. The default cost is the seconds of computing."""
    stale_ttl: float | str | timedelta | None
    sliding: bool | None
    tags: str | Iterable[str] | None
    metadata: Mapping[str, Any] | None
    cost: float | None
    condition: Callable[[Any], bool] | None
    """Called with the result; returns whether to store it."""
    refresh_ahead: float | str | timedelta | None
    """Refresh a result in the background if a hit has less than this time left to live."""
    refresh: bool
    """Skip the lookup: compute now, and store."""
    bypass: bool
    """Skip the cache: only compute."""
    single_flight: bool
    """Whether simultaneous misses on exactly the same query and context compute only once."""


class Computation:
    """Computes the result of a call whose arguments the application may change meanwhile."""

    __slots__ = ("faithful",)

    faithful: bool
    """Whether the last result belongs to the arguments in the call's key."""

    def __call__(self) -> Any:
        """Compute the result."""
        raise NotImplementedError

    def aside(self) -> Computation | None:
        """Return the same computation on copied arguments; None if they cannot be copied."""
        raise NotImplementedError


def is_faithful(compute: object) -> bool:
    """Return whether the last computed result may be stored."""
    return not isinstance(compute, Computation) or compute.faithful


def aside(compute: Callable[[], Any]) -> Callable[[], Any] | None:
    """Return a function that can compute a result in the background after the call; or None."""
    return compute.aside() if isinstance(compute, Computation) else compute


class Engine(Protocol):
    """The interface of a cache such as `Memora`. Each method may be called from any thread."""

    @property
    def closed(self) -> bool:
        """Whether the cache is closed."""
        ...

    def accept_result(self, function: Callable[..., object], returns: Any = None) -> None:
        """Register the classes that a function returns."""
        ...

    def note_uncacheable(self, function: str, reason: Unkeyed, fault: Exception) -> None:
        """Count a call that bypassed the cache, because it has no key."""
        ...

    def get_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], T],
        **options: Unpack[CallOptions],
    ) -> T:
        """Return the stored result for a query; on a miss, compute and store it."""
        ...

    def aget_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], Awaitable[T]],
        **options: Unpack[CallOptions],
    ) -> Awaitable[T]:
        """Do as `get_or_compute`, without blocking the event loop."""
        ...

    def lookup(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | None = None,
    ) -> LookupResult:
        """Find the stored result for a query."""
        ...

    def alookup(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | None = None,
    ) -> Awaitable[LookupResult]:
        """Do as `lookup`, without blocking the event loop."""
        ...

    def invalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
    ) -> int:
        """Delete the entries that meet all criteria; return how many."""
        ...

    def ainvalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
    ) -> Awaitable[int]:
        """Do as `invalidate`, without blocking the event loop."""
        ...

    def caching_enabled(self) -> bool:
        """Return whether caching is enabled for this thread or task."""
        ...
