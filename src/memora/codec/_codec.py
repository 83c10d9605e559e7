"""The codec: bytes for a value, the value for bytes, and the application's own types by name."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from memora._faults import contained
from memora.codec import _stdlib
from memora.codec._envelope import seal, unseal
from memora.codec._kind import Kind, UnsupportedError
from memora.codec._objects import kind_of_class
from memora.codec._tree import Reader, Writer, is_json
from memora.errors import ArgumentError, CorruptEntryError, MemoraError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

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

    >>> codec = Codec()
    >>> codec.decode(codec.encode({"rows": [(1, 2.0), (3, None)]}))
    {'rows': [(1, 2.0), (3, None)]}
    """

    def __init__(self) -> None:
        self._by_type: dict[type, Kind] = {}
        self._by_name: dict[str, tuple[type, Kind]] = {}

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
        when one comes back.

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
            raise SerializationError(str(refusal)) from refusal.__cause__
        except RecursionError:
            raise SerializationError("cannot store result: it is nested too deeply") from None
        except MemoraError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # as iterators and orjson put it
            raise SerializationError(
                "cannot store result: it changed while it was being stored"
            ) from error
        return seal(tree, writer.blobs, plain=writer.plain)

    def decode(self, payload: bytes) -> Any:
        """Return the value that `encode` was given.

        Raises:
            CorruptEntryError: The bytes are damaged, or not of this format.
            SerializationError: They hold a class nobody registered, or need a library that is not
                installed.
        """
        content = unseal(payload)
        try:
            tree = orjson.loads(content.tree)
            if content.plain:
                return tree
            with contained:
                return Reader(self._kind_named, content.blobs).value(tree)
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

    def _kind_of(self, cls: type) -> Kind | None:
        return self._by_type.get(cls) or _builtin_kind(cls)

    def _kind_named(self, name: str) -> Kind:
        if name.startswith(OWN):
            name = name.removeprefix(OWN)
            if name not in self._by_name:
                raise SerializationError(
                    f"stored result holds a {name!r}, which is not registered here; "
                    f"register_type(<the class>, name={name!r}) before looking it up"
                )
            return self._by_name[name][1]
        prefix, dot, _ = name.partition(".")
        kind = (_library(prefix) if dot else _STDLIB).by_name.get(name)
        if kind is None:
            raise CorruptEntryError(
                f"stored result holds a {name!r}, which this Memora cannot read"
            )
        return kind


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
        raise CorruptEntryError(f"stored result is of an unknown library, {prefix!r}")
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
