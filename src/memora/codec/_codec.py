"""The codec: bytes for a value, the value for bytes, and the application's own types by name."""

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
from memora._fork import renew_after_fork
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
from memora.errors import ArgumentError, CorruptEntryError, MemoraError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LEAST_ALLOWANCE = 64 * 1024 * 1024  # bytes that any result may take, however small its payload
_SHOWN = 200  # characters of a name that an error quotes

OWN = "@"  # before the name of an application's type, so that it never meets one of ours

_EXACT = (  # the walk leaves only JSON's own types; should it not, orjson is to refuse, not guess
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)

_LIBRARIES = MappingProxyType(  # prefix of the names on the wire: package, our table of its kinds
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
    """Turns results into bytes and back, exactly or not at all. Called from many threads at once.

    Args:
        max_expansion: How many times its size a payload may grow by what it refers to again and
            again, or describes without holding it; 64 MiB are always allowed.

    >>> codec = Codec()
    >>> codec.decode(codec.encode({"rows": [(1, 2.0), (3, None)]}))
    {'rows': [(1, 2.0), (3, None)]}
    """

    def __init__(self, *, max_expansion: int = 16) -> None:
        self._max_expansion = max_expansion
        self._by_type: dict[type, Kind] = {}
        self._by_name: dict[str, tuple[type, Kind]] = {}
        self._sources: list[tuple[Source, bool]] = []  # and whether any class in it is meant
        renew_after_fork(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._lock = threading.RLock()  # guards the sources; registering may come back here

    def register(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> None:
        """Accept instances of an application's class.

        Without functions: an enum by its member's name, a named tuple by its items, a pydantic
        model by its state, any other class by its `__dict__` and `__slots__`; no `__init__` runs
        when one comes back. The types of its fields are registered too, where they are data:
        models, dataclasses, named tuples, enums and the like, as soon as one is met.

        Args:
            cls: The class itself; its subclasses are classes of their own.
            name: What records call it, by default its module and name. Keep it when the class
                moves. A class may be registered under several names; the last is written, all
                are read.
            encode: Turns an instance into a value of any kind, where its fields are not enough.
            decode: Turns that value back into an instance. The value is as trustworthy as whoever
                can write the store.

        Raises:
            ArgumentError: Another class has the name, the class is one Memora stores by itself or
                one whose content is not in its attributes, or only one function is given.
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
        """Register the classes that a function returns, by its annotation or as is said here.

        They are read when a class is met that nobody registered; what cannot be read, or needs
        functions to be registered, is left out.

        Args:
            function: Whose annotation counts, and whose names `returns` is written in.
            returns: A type, or several.
        """
        self._add([(source_of_function(function, returns), True)], now=_is_local(function))

    def encode(self, result: Any) -> bytes:
        """Return the bytes that `decode` turns back into an equal value of the same type.

        Not kept: which parts of the value are one and the same object.

        Raises:
            SerializationError: Something in it has no exact form; the message says what and where.
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
        except (TypeError, ValueError, RuntimeError) as error:  # as iterators and orjson put it
            raise SerializationError(
                "cannot store result: it changed while it was being stored"
            ) from error
        payload = seal(tree, writer.blobs, plain=writer.plain)
        if writer.size > self._allowance(payload):
            raise SerializationError(
                "cannot store result: it describes far more than it holds, such as a column of "
                "nothing but nulls (max_expansion)"
            )
        # The kinds of Python itself and of numpy come back by construction, which tests show.
        if not all(map(_is_proven, writer.kinds)):
            self._prove(result, payload)
        return payload

    def _prove(self, result: Any, payload: bytes) -> None:
        """Raise a SerializationError unless a payload is read as the value that it was made of."""
        try:
            again = self.decode(payload)
            if same(self._kind_of, result, again):
                return
            problem, cause = "it would come back changed", None
        except Exception as error:  # noqa: BLE001 - whatever a class of the application raises
            problem, cause = f"it could not be read again ({type(error).__name__})", error
        cls = type(result)
        refusal = UnsupportedError(
            f"{problem}; give register_type() encode= and decode= for the class in it that does "
            "not come back from its fields"
        )
        refusal.of = cls
        raise refusal.told() from cause

    def decode(self, payload: bytes) -> Any:
        """Return the value that `encode` was given.

        Raises:
            CorruptEntryError: The bytes are damaged, not of this format, or would grow too much.
            SerializationError: They hold a class nobody registered, or need a library that is not
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
            raise CorruptEntryError("stored result holds what is never stored") from error
        except (MemoraError, MemoryError):
            raise
        except RecursionError:
            raise SerializationError("stored result is nested too deeply to be read here") from None
        except Exception as error:  # whatever a library raises for parts that are not its own
            raise CorruptEntryError(
                f"stored result cannot be put together: {type(error).__name__}"
            ) from error

    @staticmethod
    def check(payload: bytes) -> None:
        """Look whether bytes are undamaged ones of this format; nothing is put together.

        Raises:
            CorruptEntryError: They are not.
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
            if now:  # while the names of the function around it can be seen
                self._read_sources()

    def _read_sources(self) -> None:
        """Register the classes that are named where one is expected; of fields, only data."""
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
        """Register a class that was named in a type, where that is possible."""
        if is_typeddict(cls):
            if cls not in self._by_type:
                self._by_type[cls] = _STDLIB.by_type[dict]  # no value is of this class
                self._follow(cls)
        elif (
            cls not in self._by_type
            and (is_data(cls) or any_class)
            and can_have_instances(cls)
            and f"{cls.__module__}.{cls.__qualname__}" not in self._by_name
        ):
            with suppress(ArgumentError):  # it is stored anyway, or cannot be without functions
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
    """Return the kind Memora itself has for a class; import nothing the application has not."""
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
