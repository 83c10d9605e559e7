"""All errors that Memora raises.

There are two kinds. An *argument* error is raised before anything has changed. A *fault* (of the
store, embedder, codec or judge) is raised only while a cache is being opened. Later, the cache
turns it into a miss, logs it, counts it and shows it in health, because a cache must never break
the application.

    MemoraError
    ├── ConfigError (ValueError)
    │   └── MissingExtraError (ImportError)
    ├── QueryError (ValueError)
    │   └── QueryTypeError (TypeError)
    ├── ContextError (TypeError)
    ├── ArgumentError (ValueError)
    │   └── OptionError (TypeError)
    ├── TransferError (ValueError)
    ├── ClosedError (RuntimeError)
    ├── DeadlineError (TimeoutError)
    ├── SerializationError (TypeError)
    ├── EmbedderError (RuntimeError)
    │   └── DimensionMismatchError (ValueError)
    ├── JudgeError (RuntimeError)
    ├── PartError (RuntimeError)
    ├── ReentryError (RuntimeError)
    ├── UnavailableError (RuntimeError)
    └── StoreError (OSError)
        ├── StorePathError
        ├── StoreFormatError (ValueError)
        ├── ModelMismatchError (ValueError)
        └── CorruptEntryError (ValueError)
"""


class MemoraError(Exception):
    """Base class of all errors that Memora raises on purpose."""


class ConfigError(MemoraError, ValueError):
    """A setting is wrong; the message names it, its value and the accepted values."""


class MissingExtraError(ConfigError, ImportError):
    """A setting needs an optional dependency that is not installed."""

    def __init__(self, needs: str, *, extra: str) -> None:
        """Build the message: the setting, and the command that installs the extra."""
        super().__init__(
            f"{needs} needs an optional dependency: pip install 'memora-cache[{extra}]'"
        )


class QueryError(MemoraError, ValueError):
    """The query is empty, blank or not encodable."""


class QueryTypeError(QueryError, TypeError):
    """The query is not a string."""


class ContextError(MemoraError, TypeError):
    """The context holds a value that has no stable canonical form."""


class ArgumentError(MemoraError, ValueError):
    """An argument of a call is out of range: a threshold, a TTL, metadata."""


class OptionError(ArgumentError, TypeError):
    """A call has an unknown keyword argument; the message names the nearest known one."""


class TransferError(MemoraError, ValueError):
    """A file of entries cannot be written or read; the message names the file, and the row."""


class ClosedError(MemoraError, RuntimeError):
    """The cache was used after `close()`."""


class DeadlineError(MemoraError, TimeoutError):
    """An operation did not finish within its deadline."""


class SerializationError(MemoraError, TypeError):
    """A result cannot be stored, or stored bytes name a type that is not registered."""

    path = ""
    """The place in the result, such as `choices[0].message`; contains none of its data."""
    type_name = ""
    """The class of the value at that place, with its module."""
    problem = ""
    """What is wrong with that class, and how to fix it."""


class EmbedderError(MemoraError, RuntimeError):
    """The embedder failed, or did not return one vector per text."""


class DimensionMismatchError(EmbedderError, ValueError):
    """The embedder's vectors have another dimension than it declared, or than the store has."""


class PartError(MemoraError, RuntimeError):
    """A part of the cache raised a `BaseException`, such as a library's panic or `SystemExit`."""


class UnavailableError(MemoraError, RuntimeError):
    """A part of the cache failed repeatedly, so its circuit breaker is open for a while."""


class ReentryError(MemoraError, RuntimeError):
    """A signal handler or finalizer called the cache while interrupting the cache itself."""


class JudgeError(MemoraError, RuntimeError):
    """The judge failed, so the lookup is refused."""


class StoreError(MemoraError, OSError):
    """The store failed."""


class StorePathError(StoreError):
    """The path cannot be opened, created or written."""


class StoreFormatError(StoreError, ValueError):
    """The table is not Memora's, or was written by a newer version."""


class ModelMismatchError(StoreError, ValueError):
    """The stored vectors were made by another embedding model."""


class CorruptEntryError(StoreError, ValueError):
    """A stored entry cannot be decoded."""
