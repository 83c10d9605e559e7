"""Find the classes in annotations: of a result's fields, and of a function's return type."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import typing
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ForwardRef, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SELF_MADE = frozenset({"builtins", "typing", "collections.abc", "typing_extensions"})


class Source(NamedTuple):
    """Annotations, and the namespaces that resolve them."""

    annotations: tuple[Any, ...]
    globals: dict[str, Any] | None = None
    """None if the annotations are resolved already."""
    locals: dict[str, Any] | None = None

    def read(self) -> tuple[list[type], tuple[Any, ...]]:
        """Return the classes found, and the annotations that cannot be resolved yet."""
        if self.globals is None:
            return list(classes_in(list(self.annotations))), ()
        found, unread = list[type](), list[Any]()
        for annotation in self.annotations:
            holder = SimpleNamespace(__annotations__={"it": annotation})
            try:
                read = typing.get_type_hints(holder, self.globals, self.locals)
            except Exception:  # noqa: BLE001 - a name that is not defined, or not yet
                unread.append(annotation)
            else:
                found += classes_in(read.get("it"))
        return found, tuple(unread)


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield the classes in a type, including those of its type arguments."""
    ahead, seen = [annotation], list[Any]()
    while ahead:
        one = ahead.pop()
        if any(one is known for known in seen):
            continue
        seen.append(one)
        origin = typing.get_origin(one)
        if origin is Literal:
            ahead += [type(member) for member in typing.get_args(one)]
        elif origin is not None:
            ahead += [origin, *typing.get_args(one)]
        elif isinstance(one, TypeVar):
            ahead += [one.__bound__, *one.__constraints__]
        elif isinstance(one, (list, tuple)):  # the parameters of a Callable, or several types
            ahead += one
        elif isinstance(one, type):
            yield one
        else:  # typing.NewType, or an alias made by `type`
            ahead += [
                getattr(one, name)
                for name in ("__supertype__", "__value__")
                if hasattr(one, name) and not isinstance(one, ForwardRef)
            ]


def is_data(cls: type) -> bool:
    """Return whether a class declares its fields or is an enum, so that its instances are data."""
    return (
        issubclass(cls, enum.Enum)
        or dataclasses.is_dataclass(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        or hasattr(cls, "__attrs_attrs__")
        or is_model(cls)
        or is_struct(cls)
    )


def is_model(cls: type) -> bool:
    """Return whether a class is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def is_struct(cls: type) -> bool:
    """Return whether a class is a msgspec.Struct."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(cls, msgspec.Struct)


def can_have_instances(cls: type) -> bool:
    """Return whether a result may have exactly this class."""
    protocol = getattr(cls, "_is_protocol", False)
    return not (inspect.isabstract(cls) or protocol or cls.__module__ in _SELF_MADE)


def sources_of_class(cls: Any) -> list[Source]:
    """Return the annotations of a class's fields, one source for each class that declares some."""
    scope, private = _scope_of(cls), getattr(cls, "__private_attributes__", {})
    found: list[Source] = []
    for base in cls.__mro__:
        names = {**_classes_of(vars(base)), **scope, cls.__name__: cls}
        annotations = tuple(
            annotation
            for name, annotation in _annotations(base).items()
            if (name in private or not is_model(cls)) and "ClassVar" not in str(annotation)
        )
        if annotations:
            space = getattr(sys.modules.get(base.__module__), "__dict__", {})
            found.append(Source(annotations, space, names))
    if is_model(cls):
        if not getattr(cls, "__pydantic_fields_complete__", cls.__pydantic_complete__):
            cls.model_rebuild(raise_errors=False)  # as pydantic does for the first instance
        found.append(Source(tuple(field.annotation for field in cls.model_fields.values())))
    attributes = tuple(one.type for one in getattr(cls, "__attrs_attrs__", ()))
    return [*found, Source(attributes)]


def source_of_function(function: Any, returns: Any) -> Source:
    """Return the source of a function's return annotation and of `returns`."""
    annotation = function if isinstance(function, type) else _annotations(function).get("return")
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    names = dict(_scope_of(function))
    for name, cell in zip(code.co_freevars if code and cells else (), cells, strict=True):
        with suppress(ValueError):  # an empty cell: the name is not assigned yet
            names[name] = cell.cell_contents
    given = (annotation, *(returns if isinstance(returns, (list, tuple)) else (returns,)))
    annotations = tuple(one for one in given if one is not None)
    return Source(annotations, getattr(function, "__globals__", {}), names)


def _annotations(holder: Any) -> Mapping[str, Any]:
    try:
        return getattr(holder, "__annotations__", None) or {}
    except Exception:  # noqa: BLE001 - Python 3.14 evaluates annotations on access
        return {}


def _classes_of(names: Mapping[str, Any]) -> dict[str, type]:
    return {name: value for name, value in names.items() if isinstance(value, type)}


def _scope_of(named: Any) -> dict[str, Any]:
    """Return the local names of a running function that defines a class or function.

    pydantic does the same: annotations do not record the scope of a local name.
    """
    place, made_inside, _ = getattr(named, "__qualname__", "").rpartition(".<locals>.")
    frame = sys._getframe() if made_inside else None  # noqa: SLF001 - the only way
    while frame is not None:
        if frame.f_code.co_name == place.rpartition(".")[2]:
            return _classes_of(frame.f_locals)
        frame = frame.f_back
    return {}
