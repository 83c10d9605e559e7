"""Validation of arguments other than queries and contexts."""

from __future__ import annotations

import inspect
import json
import random
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from memora._durations import seconds
from memora._names import nearest
from memora._show import one_line
from memora.errors import ArgumentError, OptionError
from memora.model import Lifetime

if TYPE_CHECKING:
    from datetime import timedelta

    from memora.config import CacheConfig

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_FUNCTIONS = (FunctionType, MethodType, partial)

_PAIRED = ("query", "context", "result")
STORED_WITH = ("metadata", "ttl", "stale_ttl", "sliding", "tags", "cost")
"""The optional arguments of a store."""


def lifetime_of(  # noqa: PLR0913 - the arguments of `Memora.store`
    config: CacheConfig,
    *,
    ttl: float | str | timedelta | None = None,
    stale_ttl: float | str | timedelta | None = None,
    sliding: bool | None = None,
    tags: str | Iterable[str] | None = None,
    cost: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Lifetime:
    """Return the lifetime of an entry, from the arguments or else the settings.

    Raises:
        ArgumentError: An argument is out of range.
    """
    return Lifetime(
        ttl_seconds=_with_jitter(
            config.ttl_seconds if ttl is None else seconds("ttl", ttl), config.ttl_jitter
        ),
        stale_seconds=(config.stale_ttl_seconds or 0.0)
        if stale_ttl is None
        else seconds("stale_ttl", stale_ttl),
        sliding=config.sliding_ttl if sliding is None else flag("sliding", sliding),
        tags=tags_of(tags),
        cost=cost_of(cost, metadata),
    )


def check_options(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise OptionError for unknown options; its message suggests the nearest known name."""
    options = sorted(known)
    for name in sorted(set(given) - set(options)):
        meant = nearest(name, options)
        hint = f"; did you mean {meant!r}?" if meant else f": expected {', '.join(options)}"
        raise OptionError(f"{name!r} is no option of {where}{hint}")


def fields_of(item: object, known: Iterable[str]) -> Mapping[str, Any]:
    """Return the fields of an item to store: a mapping, or a tuple of query, context and result.

    Raises:
        ArgumentError: The item is neither, lacks query or result, or has an unknown field.
    """
    if isinstance(item, tuple) and len(item) == len(_PAIRED):
        return dict(zip(_PAIRED, item, strict=True))
    if not isinstance(item, Mapping):
        raise ArgumentError(
            f"the item is {one_line(repr(item), 80)}, expected a mapping with query and result, or "
            "(query, context, result)"
        )
    allowed = (*_PAIRED, *known)
    if unknown := [name for name in item if name not in allowed]:
        raise ArgumentError(f"unknown field {unknown[0]!r}, expected {', '.join(allowed)}")
    for name in ("query", "result"):
        if name not in item:
            raise ArgumentError(f"{name} is missing")
    return item


def largest_payload(config: CacheConfig) -> int | None:
    """Return the maximum size of an encoded result in bytes; None if unlimited."""
    limits = (config.max_payload_bytes, config.max_bytes)
    return min((limit for limit in limits if limit is not None), default=None)


def share(name: str, value: float) -> float:
    """Return a number from 0 to 1; raises ArgumentError for anything else."""
    if not (is_number(value) and 0 <= value <= 1):
        raise ArgumentError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def flag(name: str, value: bool) -> bool:  # noqa: FBT001 - the value to check
    """Return True or False; raises ArgumentError for anything else."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be True or False, got {value!r}")
    return value


def plain_function(name: str, value: F | None) -> F | None:
    """Return a function that is not async, or None; raises ArgumentError for anything else."""
    if value is not None and not callable(value):
        raise ArgumentError(f"{name} must be a function, got {value!r}")
    if inspect.iscoroutinefunction(value):
        raise ArgumentError(f"{name} must not be async: the cache does not await {value!r}")
    return value


def sync_function(name: str, value: Callable[[], T]) -> Callable[[], T]:
    """Return a checked sync function that takes no arguments.

    Raises:
        ArgumentError: The value is async or not a function. The returned function raises it too, if
            the value returns a coroutine.
    """
    help_ = f"{name} is async: await aget_or_compute(...) instead, or pass a plain function"
    if inspect.iscoroutinefunction(_called(name, value)):
        raise ArgumentError(f"{help_}; got {value!r}")
    given: object = value
    if not isinstance(given, _FUNCTIONS):  # a decorated function's call, which returns any value
        return value

    def call() -> T:
        result = value()
        returned: object = result
        if inspect.iscoroutine(returned):  # e.g. from a lambda
            returned.close()
            raise ArgumentError(f"{help_}; {value!r} returned a coroutine")
        return result

    return call


def async_function(name: str, value: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """Return a checked function that takes no arguments and returns an awaitable.

    Raises:
        ArgumentError: The value is not a function. The returned function raises it too, if the
            value does not return an awaitable.
    """
    if inspect.iscoroutinefunction(_called(name, value)):
        return value

    def call() -> Awaitable[T]:
        result: object = value()
        if not inspect.isawaitable(result):
            raise ArgumentError(
                f"{name} must be async, and {value!r} returned a {type(result).__name__}: call "
                "get_or_compute(...) instead, or pass an async function"
            )
        return result

    return call


def _called(name: str, value: Any) -> Any:
    """Return the function that runs when a value is called; ArgumentError if not callable."""
    if inspect.iscoroutine(value):
        value.close()  # it will not be awaited
    if not callable(value):
        raise ArgumentError(
            f"{name} must be a function, called without arguments, got {value!r}: pass the "
            "function itself, or a lambda that calls it"
        )
    return value if isinstance(value, _FUNCTIONS) else type(value).__call__


def tags_of(tags: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return tags sorted and without duplicates; a text is one tag. May raise ArgumentError."""
    expected = "tags must be texts that are not blank, such as 'doc:42'"
    if tags is None:
        return ()
    if isinstance(tags, str):
        tags = (tags,)
    listed: object = tags  # the application may have passed anything
    if isinstance(listed, Mapping) or not isinstance(listed, Iterable):
        raise ArgumentError(f"{expected}; got {tags!r}")
    found: list[Any] = list(listed)
    for tag in found:
        if not isinstance(tag, str) or not tag.strip():
            raise ArgumentError(f"{expected}; got {tag!r}")
        try:
            tag.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"{expected}, and UTF-8; got {tag!r}") from None
    return tuple(sorted(set(found)))


def cost_of(cost: float | None, metadata: Mapping[str, Any] | None) -> float:
    """Return the cost, else that in the metadata, else 1; raises ArgumentError below 0."""
    if cost is None:
        said: Any = (metadata or {}).get("cost")
        # The application may use this key of its metadata for something else.
        return float(said) if _is_cost(said) else 1.0
    if not _is_cost(cost):
        raise ArgumentError(f"cost must be a finite number, 0 or more, got {cost!r}")
    return float(cost)


def _is_cost(value: Any) -> bool:
    return is_number(value) and 0 <= value <= sys.float_info.max  # excludes larger ints, and NaN


def is_number(value: object) -> bool:
    """Return whether a value is a real number other than True and False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def metadata_json(metadata: Mapping[str, Any] | None) -> str:
    """Return metadata as JSON, which later changes do not affect; raises ArgumentError."""
    expected = "metadata must be a mapping of JSON values"
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"{expected}, got {metadata!r}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{expected}: {error}; got {metadata!r}") from error
    if json.loads(text) != metadata:
        raise ArgumentError(
            f"{expected}, with text keys, and lists rather than tuples; got {metadata!r}"
        )
    return text


def _with_jitter(ttl_seconds: float | None, jitter: float) -> float | None:
    if ttl_seconds is None or not jitter:
        return ttl_seconds
    # Never longer than the TTL, and above 0.
    return ttl_seconds * (1 - min(jitter * random.random(), 0.999))  # noqa: S311 - not a secret
