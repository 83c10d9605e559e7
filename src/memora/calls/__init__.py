"""Decorated functions, and the machinery of calls: single flight, deadlines, circuit breakers."""

from memora.calls._binding import FUNCTION
from memora.calls._decorated import (
    AsyncCached,
    AsyncCachedStream,
    Cached,
    CachedStream,
    CallKey,
)
from memora.calls._engine import CallOptions, Engine
from memora.calls._plan import CacheInfo
from memora.calls.decorator import Caching, create_cached_decorator

__all__ = [
    "FUNCTION",
    "AsyncCached",
    "AsyncCachedStream",
    "CacheInfo",
    "Cached",
    "CachedStream",
    "Caching",
    "CallKey",
    "CallOptions",
    "Engine",
    "create_cached_decorator",
]
