"""The errors Memora raises, all of them.

Two kinds meet a caller. An *argument* error is raised at the door, before anything has changed.
A *fault* (store, embedder, codec, judge) is raised only while a cache is being opened; later on the
cache turns it into a miss, logs it, counts it and shows it in health, because a cache must never
break the application around it.

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
    """Anything Memora raises on purpose."""


class ConfigError(MemoraError, ValueError):
    """A setting is wrong; the message names it, its value and what is accepted."""


class MissingExtraError(ConfigError, ImportError):
    """A setting needs an optional dependency that is not installed."""

    def __init__(self, needs: str, *, extra: str) -> None:
        """Say what needs the extra, and the command that installs it."""
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
    """A call was given a keyword that there is not; the message names the nearest one."""


class TransferError(MemoraError, ValueError):
    """A file of entries cannot be written or read; the message names the file, and the row."""


class ClosedError(MemoraError, RuntimeError):
    """The cache was used after `close()`."""


class DeadlineError(MemoraError, TimeoutError):
    """Something has not been done in time."""


class SerializationError(MemoraError, TypeError):
    """A result cannot be stored, or stored bytes name a type nobody registered."""

    path = ""
    """Where in a result, such as `choices[0].message`; nothing of its data."""
    type_name = ""
    """The class, with its module, of what is there."""
    problem = ""
    """What is wrong with that class, and what to do."""


class EmbedderError(MemoraError, RuntimeError):
    """The embedder failed, or returned something that is not a vector per text."""


class DimensionMismatchError(EmbedderError, ValueError):
    """The embedder's vectors have another dimension than it, or the store, said."""


class PartError(MemoraError, RuntimeError):
    """A part of the cache raised what is no `Exception`: a panic of a library, `SystemExit`."""


class UnavailableError(MemoraError, RuntimeError):
    """A part of the cache has failed again and again, and is left alone for a while."""


class ReentryError(MemoraError, RuntimeError):
    """The cache was called by a signal handler or a finalizer that had interrupted it."""


class JudgeError(MemoraError, RuntimeError):
    """The judge failed, which refuses the lookup."""


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
