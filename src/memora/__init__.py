"""Memora: a semantic cache for LLM applications that judges before it serves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memora import errors

if TYPE_CHECKING:
    from memora.cache import Memora
    from memora.calls import create_cached_decorator
    from memora.config import CacheConfig
    from memora.model import AvailabilityCheck, EntryInfo, Evidence, Explanation, LookupResult
    from memora.model import EntryInfo as Selected  # its former name
    from memora.scheduler import CleanupScheduler

    __version__: str

__all__ = [
    "AvailabilityCheck",
    "CacheConfig",
    "CleanupScheduler",
    "EntryInfo",
    "Evidence",
    "Explanation",
    "LookupResult",
    "Memora",
    "Selected",
    "create_cached_decorator",
    "errors",
]

_HOMES = {
    "AvailabilityCheck": "model",
    "CacheConfig": "config",
    "CleanupScheduler": "scheduler",
    "EntryInfo": "model",
    "Evidence": "model",
    "Explanation": "model",
    "LookupResult": "model",
    "Memora": "cache",
    "Selected": "model",
    "create_cached_decorator": "calls",
}
_RENAMED = {"Selected": "EntryInfo"}  # a former name still works


if not TYPE_CHECKING:  # checkers see the names above, and no others

    def __getattr__(name: str) -> Any:
        # Loaded at first use (PEP 562): `import memora` costs an application nothing at start.
        if name in _HOMES:
            return getattr(import_module(f"memora.{_HOMES[name]}"), _RENAMED.get(name, name))
        if name == "__version__":
            return import_module("importlib.metadata").version("memora-cache")
        raise AttributeError(f"module 'memora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
