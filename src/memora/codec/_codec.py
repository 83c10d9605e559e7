"""The codec: encodes and decodes values, and registers the application's own types."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson
from typing_extensions import is_typeddict

from memora._faults import contained
from memora.codec import _stdlib
from memora.codec._envelope import seal, unseal
from memora.codec._kind import Kind, UnsupportedError
from memora.codec._objects import kind_of_class
from memora.codec._proof import same
from memora.codec._tree import Reader, Writer, is_json
from memora.codec._types import (
    Source,
    can_have_instances,
    is_data,
    source_of_function,
    sources_of_class,
)
from memora.concurrency.fork import register_for_reinit
from memora.errors import ArgumentError, CorruptEntryError, MemoraError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LEAST_ALLOWANCE = 64 * 1024 * 1024  # bytes that any result may take, even if its payload is small
_SHOWN = 200  # maximum length of a name quoted in an error

OWN = "@"  # prefix of an application type's name, so that it cannot clash with a built-in kind

_EXACT = (  # the tree holds only JSON's own types; if not, orjson must fail, not convert
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)

_LIBRARIES = MappingProxyType(  # name prefix in a payload: package, and the module with its kinds
    {
        "np": ("numpy", "memora.codec._numpy"),
        "pd": ("pandas", "memora.codec._pandas"),
        "pl": ("polars", "memora.codec._polars"),
        "pa": ("pyarrow", "memora.codec._arrow"),
        "pytz": ("pytz", "memora.codec._pytz"),
        "dateutil": ("dateutil", "memora.codec._dateutil"),
    }
)


class Codec:
    """Converter of results to bytes and back, exactly or not at all. Thread-safe.

    Args:
        max_expansion: How many times larger than its payload a decoded value may be, because it
            repeats or describes data it does not hold. 64 MiB are always allowed.

    >>> codec = Codec()
    >>> codec.decode(codec.encode({"rows": [(1, 2.0), (3, None)]}))
    {'rows': [(1, 2.0), (3, None)]}
    """

    def __init__(self, *, max_expansion: int = 16) -> None:
        self._max_expansion = max_expansion
        self._by_type: dict[type, Kind] = {}
        self._by_name: dict[str, tuple[type, Kind]] = {}
        self._sources: list[tuple[Source, bool]] = []  # and whether non-data classes count
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.RLock()  # guards the sources; reentrant for nested registrations

    def register(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Accept instances of an application's class.

        Without functions, an enum is stored by its member's name, a named tuple by its items, a
        pydantic model by its state, and any other class by its `__dict__` and `__slots__`; decoding
        runs no `__init__`. Classes of its fields are registered too if they are data (models,
        dataclasses, named tuples, enums and the like), when the first instance is met.

        Args:
            cls: The class. Subclasses have to be registered separately.
            name: Name of the class in records, by default its module and qualified name. Keep it
                when the class moves. A class may have several names: the last is written, all are
                read.
            encode: Converts an instance to a value of any supported kind, for a class that its
                fields do not fully describe.
            decode: Converts that value back to an instance. Anyone with write access to the store
                can choose the value.

        Raises:
            ArgumentError: Another class has the name, Memora already stores the class, its content
                is not in its attributes, or only one function is given.
        """
        if not isinstance(cls, type):
            raise ArgumentError(f"register a class, not an instance of {type(cls).__name__}")
        if (encode is None) != (decode is None):
            raise ArgumentError(f"{cls.__qualname__}: give encode and decode together, or neither")
        if _builtin_kind(cls) is not None:
            raise ArgumentError(f"{cls.__qualname__} is stored exactly without being registered")
        if name is None:
            name = f"{cls.__module__}.{cls.__qualname__}"
        known, _ = self._by_name.get(name, (cls, None))
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ArgumentError(
                f"{known.__module__}.{known.__qualname__} is registered as {name!r} already; "
                f"give {cls.__module__}.{cls.__qualname__} another name="
            )
        kind = kind_of_class(cls, OWN + name, encode=encode, decode=decode)
        self._by_name[name] = cls, kind
        self._by_type[cls] = kind
        self._follow(cls)

    def accept(self, function: Any, returns: Any = None) -> None:
        """Register the classes that a function returns, from its annotation or from `returns`.

        Annotations are read when an unregistered class is first met. An annotation that cannot be
        read, or a class that needs `encode` and `decode`, is skipped.

        Args:
            function: Its return annotation is used, and its scope resolves names in `returns`.
            returns: A type, or several.
        """
        self._add([(source_of_function(function, returns), True)], now=_is_local(function))

    def encode(self, result: Any) -> bytes:
        """Return bytes that `decode` converts back to an equal value of the same type.

        Object identity is not kept: an object used twice comes back as two equal objects.

        Raises:
            SerializationError: A part has no exact form; the message says which part and why.
        """
        writer = Writer(self._kind_of)
        try:
            node = result if is_json([result]) else writer.node(result)
            tree = orjson.dumps(node, option=_EXACT)
        except UnsupportedError as refusal:
            if refusal.of is None:
                refusal.of = type(result)
            raise refusal.told() from refusal.__cause__
        except RecursionError:
            raise SerializationError("cannot store result: it is nested too deeply") from None
        except MemoraError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # raised by iterators and orjson
            raise SerializationError(
                "cannot store result: it changed while it was being stored"
            ) from error
        payload = seal(tree, writer.blobs, plain=writer.plain)
        if writer.size > self._allowance(payload):
            raise SerializationError(
                "cannot store result: it describes far more than it holds, such as a column of "
                "nothing but nulls (max_expansion)"
            )
        # Kinds of Python and numpy are exact by construction, as tests show; others are checked.
        if not all(map(_is_proven, writer.kinds)):
            self._prove(result, payload)
        return payload

    def _prove(self, result: Any, payload: bytes) -> None:
        """Raise a SerializationError unless the payload decodes to an equal value."""
        try:
            again = self.decode(payload)
            if same(self._kind_of, result, again):
                return
            problem, cause = "it would be decoded to something else", None
        except Exception as error:  # noqa: BLE001 - a class of the application may raise anything
            problem, cause = f"it could not be read again ({type(error).__name__})", error
        cls = type(result)
        refusal = UnsupportedError(
            f"{problem}; give register_type() encode= and decode= for the class in it that its "
            "fields do not restore"
        )
        refusal.of = cls
        raise refusal.told() from cause

    def decode(self, payload: bytes) -> Any:
        """Return the value that was passed to `encode`.

        Raises:
            CorruptEntryError: The bytes are damaged, of another format, or would expand too much.
            SerializationError: They hold an unregistered class, or need a library that is not
                installed.
        """
        content = unseal(payload)
        try:
            tree = orjson.loads(content.tree)
            if content.plain:
                return tree
            allowance = self._allowance(payload)
            with contained:
                return Reader(self._kind_named, content.blobs, allowance=allowance).value(tree)
        except UnsupportedError as error:
            raise CorruptEntryError(
                "the stored result has content that Memora never stores"
            ) from error
        except (MemoraError, MemoryError):
            raise
        except RecursionError:
            raise SerializationError("stored result is nested too deeply to be read here") from None
        except Exception as error:  # a library may raise anything for parts that it did not write
            raise CorruptEntryError(
                f"stored result cannot be put together: {type(error).__name__}"
            ) from error

    @staticmethod
    def check(payload: bytes) -> None:
        """Check that bytes are an undamaged payload, without decoding it.

        Raises:
            CorruptEntryError: The payload is damaged or of another format.
        """
        unseal(payload)

    def _allowance(self, payload: bytes) -> int:
        return max(self._max_expansion * len(payload), _LEAST_ALLOWANCE)

    def _kind_of(self, cls: type) -> Kind | None:
        kind = self._by_type.get(cls) or _builtin_kind(cls)
        if kind is None and self._sources:
            self._read_sources()
            kind = self._by_type.get(cls)
        return kind

    def _follow(self, cls: type) -> None:
        self._add([(source, False) for source in sources_of_class(cls)], now=_is_local(cls))

    def _add(self, sources: list[tuple[Source, bool]], *, now: bool) -> None:
        with self._lock:
            self._sources += sources
            if now:  # names local to the enclosing function can be resolved only now
                self._read_sources()

    def _read_sources(self) -> None:
        """Register the classes in all sources; from fields, only classes that are data."""
        with self._lock:
            unread: list[tuple[Source, bool]] = []
            while self._sources:
                source, any_class = self._sources.pop()
                classes, rest = source.read()
                if rest:
                    unread.append((source._replace(annotations=rest), any_class))
                for cls in classes:
                    self._meet(cls, any_class=any_class)
            self._sources = unread

    def _meet(self, cls: type, *, any_class: bool) -> None:
        """Register a class found in an annotation, if possible."""
        if is_typeddict(cls):
            if cls not in self._by_type:
                self._by_type[cls] = _STDLIB.by_type[dict]  # placeholder: no value has this class
                self._follow(cls)
        elif (
            cls not in self._by_type
            and (is_data(cls) or any_class)
            and can_have_instances(cls)
            and f"{cls.__module__}.{cls.__qualname__}" not in self._by_name
        ):
            with suppress(ArgumentError):  # already stored without registration, or needs functions
                self.register(cls)

    def _kind_named(self, name: str) -> Kind:
        if name.startswith(OWN):
            name = name.removeprefix(OWN)
            if name not in self._by_name and self._sources:
                self._read_sources()
            if name not in self._by_name:
                shown = name[:_SHOWN]
                raise SerializationError(
                    f"stored result holds a {shown!r}, which is not registered here; "
                    f"register_type(<the class>, name={shown!r}) before looking it up"
                )
            return self._by_name[name][1]
        prefix, dot, _ = name.partition(".")
        kind = (_library(prefix) if dot else _STDLIB).by_name.get(name)
        if kind is None:
            raise CorruptEntryError(
                f"stored result holds a {name[:_SHOWN]!r}, which this Memora cannot read"
            )
        return kind


def _is_proven(name: str) -> bool:
    return name.startswith("np.") or not ("." in name or name.startswith(OWN))


def _is_local(named: Any) -> bool:
    return "<locals>" in getattr(named, "__qualname__", "")


class _Table(NamedTuple):
    """The kinds of one library, by type and by name."""

    by_type: MappingProxyType[type, Kind]
    by_name: MappingProxyType[str, Kind]
    families: tuple[Kind, ...]


def _table(kinds: tuple[Kind, ...]) -> _Table:
    return _Table(
        by_type=MappingProxyType({cls: kind for kind in kinds for cls in kind.types}),
        by_name=MappingProxyType({kind.name: kind for kind in kinds}),
        families=tuple(kind for kind in kinds if kind.family),
    )


_STDLIB = _table(_stdlib.KINDS)


@cache
def _library(prefix: str) -> _Table:
    package, module = _LIBRARIES.get(prefix, (None, None))
    if package is None or module is None:
        raise CorruptEntryError(f"stored result is of an unknown library, {prefix[:_SHOWN]!r}")
    try:
        import_module(package)
        return _table(import_module(module).KINDS)
    except (ImportError, AttributeError) as error:
        raise SerializationError(
            f"this result needs {package}, which is not installed here or too old: "
            f"pip install --upgrade {package}"
        ) from error


def _builtin_kind(cls: type) -> Kind | None:
    """Return Memora's own kind for a class; import no library the application does not use."""
    kind = _STDLIB.by_type.get(cls)
    if kind is not None:
        return kind
    root = cls.__module__.partition(".")[0]
    for prefix, (package, _) in _LIBRARIES.items():
        if root == package and package in sys.modules:
            table = _library(prefix)
            return table.by_type.get(cls) or next(
                (kind for kind in table.families if issubclass(cls, kind.types)), None
            )
    return None
