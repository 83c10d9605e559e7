"""Entries on a Redis or Valkey server, for all machines that use it: `redis://`."""

from memora.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
