"""What decorated functions need of a cache, and what may be said of a call."""

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
    """What may be said of a cached call, beside its query and context."""

    similarity_threshold: float | None
    """As for `lookup`; and the next."""
    max_age: float | str | timedelta | None
    ttl: float | str | timedelta | None
    """As for `store`; and the next five. The cost is by default the seconds that it took."""
    stale_ttl: float | str | timedelta | None
    sliding: bool | None
    tags: str | Iterable[str] | None
    metadata: Mapping[str, Any] | None
    cost: float | None
    condition: Callable[[Any], bool] | None
    """Is given the result, and says whether to store it."""
    refresh_ahead: float | str | timedelta | None
    """Compute anew, in the background, what a hit finds with less than so long to live."""
    refresh: bool
    """Compute anew now, and store; no lookup."""
    bypass: bool
    """Only call."""
    single_flight: bool
    """Whether those who miss on the very same query and context wait for one of them."""


class Computation:
    """What computes the result of a call whose arguments somebody may change meanwhile."""

    __slots__ = ("faithful",)

    faithful: bool
    """Whether the last result is of the arguments that the call is stored under."""

    def __call__(self) -> Any:
        """Compute it."""
        raise NotImplementedError

    def aside(self) -> Computation | None:
        """Return what computes the same later, of copies; None where there are none."""
        raise NotImplementedError


def is_faithful(compute: object) -> bool:
    """Tell whether what was just computed may be stored."""
    return not isinstance(compute, Computation) or compute.faithful


def aside(compute: Callable[[], Any]) -> Callable[[], Any] | None:
    """Return what may compute a result in the background, after the call has returned."""
    return compute.aside() if isinstance(compute, Computation) else compute


class Engine(Protocol):
    """A cache, as `Memora` is one. Each method may be called from any thread."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    def accept_result(self, function: Callable[..., object], returns: Any = None) -> None:
        """Take the classes that a function returns for registered."""
        ...

    def note_uncacheable(self, function: str, reason: Unkeyed, fault: Exception) -> None:
        """Count a call of a function that is only run, because it has no key."""
        ...

    def get_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], T],
        **options: Unpack[CallOptions],
    ) -> T:
        """Return what is stored for a query, or else compute it and store that."""
        ...

    def aget_or_compute(
        self,
        query: str,
        context: Mapping[str, Any] | None,
        compute: Callable[[], Awaitable[T]],
        **options: Unpack[CallOptions],
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
