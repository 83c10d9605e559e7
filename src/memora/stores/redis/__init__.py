"""Store on a Redis or Valkey server, shared by all machines that use it: `redis://`."""

from memora.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
