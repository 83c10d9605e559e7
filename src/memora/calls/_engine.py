"""What decorated functions need of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from memora.model import LookupResult

T = TypeVar("T")


class Engine(Protocol):
    """A cache, as `Memora` is one. Each method may be called from any thread."""

    def get_or_compute(  # noqa: PLR0913 - all that may be said of a call
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], T],
        *,
        similarity_threshold: float | None = None,
        max_age: float | None = None,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        sliding: bool | None = None,
        tags: Iterable[str] | None = None,
        cost: float | None = None,
        condition: Callable[[T], bool] | None = None,
        refresh_ahead: float | None = None,
        refresh: bool = False,
        single_flight: bool = True,
    ) -> T:
        """Return what is stored for a query, or else compute it and store that."""
        ...

    def aget_or_compute(  # noqa: PLR0913 - as above
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], Awaitable[T]],
        *,
        similarity_threshold: float | None = None,
        max_age: float | None = None,
        ttl: float | None = None,
        stale_ttl: float | None = None,
        sliding: bool | None = None,
        tags: Iterable[str] | None = None,
        cost: float | None = None,
        condition: Callable[[T], bool] | None = None,
        refresh_ahead: float | None = None,
        refresh: bool = False,
        single_flight: bool = True,
    ) -> Awaitable[T]:
        """Do as `get_or_compute`, without blocking the event loop; so do the other twins."""
        ...

    def lookup(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | None = None,
    ) -> LookupResult:
        """Find what is stored for a query."""
        ...

    def alookup(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        similarity_threshold: float | None = None,
        *,
        max_age: float | None = None,
    ) -> Awaitable[LookupResult]:
        """Do as `lookup`."""
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
        """Do as `invalidate`."""
        ...

    def caching_enabled(self) -> bool:
        """Tell whether this thread or task uses the cache now."""
        ...
