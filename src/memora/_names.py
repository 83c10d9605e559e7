"""Suggestions for unknown names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Short names of settings and options, and their names in other caches, for which `difflib` would
# suggest a wrong name or none.
_ALIASES = {
    "ttl_seconds": "ttl expire expires_in expiration",
    "ttl_jitter": "jitter",
    "sliding_ttl": "sliding sliding_expiration",
    "stale_ttl_seconds": "stale stale_ttl stale_while_revalidate",
    "similarity_threshold": "threshold thresh similarity min_similarity min_score score_threshold "
    "cutoff",
    "model_name": "model embedding embedding_model embeddings encoder vectorizer",
    "use_onnx": "onnx",
    "db_uri": "uri url path dir directory folder location storage db db_path cache_dir data_dir "
    "persist_directory redis_url redis_uri connection_string dsn",
    "table_name": "table collection collection_name name namespace index_name prefix",
    "max_entries": "max_size maxsize size capacity limit max_items cache_size",
    "max_bytes": "max_memory max_memory_bytes",
    "eviction_policy": "policy eviction evict",
    "enable_metrics": "metrics stats",
    "opentelemetry": "otel tracing",
    "log_level": "logging level verbose debug",
    "lookup_timeout_seconds": "timeout timeout_seconds deadline",
    "durability": "fsync sync",
    "cleanup_interval_seconds": "cleanup_interval cleanup_seconds",
    # Options of calls and of the decorator.
    "query_param": "query prompt param arg argument",
    "strict_params": "strict params",
    "ignore": "ignore_params exclude excluded",
    "key": "key_fn key_func key_builder",
    "refresh": "force force_refresh",
    "bypass": "skip skip_cache no_cache",
    "max_age": "max_age_seconds",
    "ttl": "ttl_seconds",
}
_MEANT = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_LIKENESS = 0.7  # minimum ratio of difflib; below, a suggestion would mislead


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None if none is similar."""
    found = {one: one for one in known}
    for alias, meant in _MEANT.items():
        # Options of a call have the names of settings without the unit.
        short = (meant, meant.removesuffix("_seconds"), meant.removesuffix("_ttl"))
        if alias not in found and (one := next((one for one in short if one in found), None)):
            found[alias] = one
    bare = name.lower().replace("-", "_")
    close = difflib.get_close_matches(bare, found, n=1, cutoff=_LIKENESS)
    return found[close[0]] if close else None
