"""Kinds for the classes an application registers, derived from the classes themselves."""

from __future__ import annotations

import enum
import sys
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any

from memora.codec._kind import Kind, UnsupportedError, at_index, in_attributes
from memora.codec._types import is_model, is_struct
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable


_MOST_FLAG_BITS = 4096


def kind_of_class(
    cls: Any, name: str, *, encode: Callable[[Any], Any] | None, decode: Callable[[Any], Any] | None
) -> Kind:
    """Return the kind of a registered class.

    Raises:
        ArgumentError: The class needs `encode` and `decode`: its content is not in attributes.
    """
    if encode is not None and decode is not None:
        return Kind(name, (cls,), lambda value: [encode(value)], decode)
    return next(build for matches, build in _SHAPES if matches(cls))(cls, name)


def _flag(cls: Any, name: str) -> Kind:
    def to_parts(member: Any) -> list[Any]:
        if member.value.bit_length() > _MOST_FLAG_BITS:
            raise UnsupportedError(f"a flag has more than {_MOST_FLAG_BITS:,} bits")
        return [member.value]

    def from_parts(value: int) -> Any:
        # Enum decomposes a flag bit by bit, in quadratic time, and caches the result.
        if value.bit_length() > _MOST_FLAG_BITS:
            raise ValueError("not a value of this flag")
        return cls(value)

    # By value, as a combination of members has no name.
    return Kind(name, (cls,), to_parts, from_parts)


def _enum(cls: Any, name: str) -> Kind:
    def to_parts(member: Any) -> list[str]:
        if cls.__members__.get(member.name) is not member:
            raise UnsupportedError(
                f"{cls.__qualname__} has no such member, but made one up; store its value"
            )
        return [member.name]

    return Kind(name, (cls,), to_parts, lambda key: cls[key])


def _named_tuple(cls: Any, name: str) -> Kind:
    def to_parts(value: Any) -> Any:
        if getattr(value, "__dict__", None):
            raise UnsupportedError("a named tuple with attributes needs encode= and decode=")
        return value

    return Kind(name, (cls,), to_parts, lambda *parts: cls._make(parts), at_index)


def _pydantic(cls: Any, name: str) -> Kind:
    def from_parts(state: Any) -> Any:
        model = cls.__new__(cls)
        model.__setstate__(state)
        return model

    return Kind(name, (cls,), lambda model: [model.__getstate__()], from_parts, in_attributes)


def _struct(cls: Any, name: str) -> Kind:
    unset = sys.modules["msgspec"].UNSET
    fields = cls.__struct_fields__

    def to_parts(struct: Any) -> tuple[Any, Any]:
        given = {field: getattr(struct, field) for field in fields}
        filled = {field: value for field, value in given.items() if value is not unset}
        return filled, getattr(struct, "__dict__", {})

    def from_parts(filled: dict[str, Any], attributes: dict[str, Any]) -> Any:
        # As msgspec's copying and pickling do: a struct cannot be made without its __init__.
        value = cls(**{field: filled.get(field, unset) for field in fields})
        if attributes:
            vars(value).update(attributes)
        return value

    return Kind(name, (cls,), to_parts, from_parts, in_attributes)


def _plain(cls: Any, name: str) -> Kind:
    slots = _slots(cls)

    def to_parts(value: Any) -> tuple[Any, Any]:
        filled = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        return getattr(value, "__dict__", {}), filled

    def from_parts(attributes: dict[str, Any], filled: dict[str, Any]) -> Any:
        value = object.__new__(cls)
        if attributes:
            vars(value).update(attributes)
        for slot in slots:
            if slot in filled:
                object.__setattr__(value, slot, filled[slot])
        return value

    return Kind(name, (cls,), to_parts, from_parts, in_attributes)


def _opaque(cls: Any, _name: str) -> Kind:
    raise ArgumentError(
        f"{cls.__qualname__} keeps content outside its attributes; register it with encode= and "
        "decode="
    )


def _slots(cls: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for slot in (own,) if isinstance(own, str) else own:
            private = slot.startswith("__") and not slot.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{slot}" if private else slot)
    return tuple(name for name in names if name not in {"__dict__", "__weakref__"})


def _has_hidden_content(cls: type) -> bool:
    """Return whether a base class is built in (dict, exception, array)."""
    return any(
        isinstance(base.__dict__.get("__new__"), BuiltinFunctionType)
        for base in cls.__mro__
        if base is not object
    )


_SHAPES: tuple[tuple[Callable[[type], bool], Callable[[Any, str], Kind]], ...] = (
    (lambda cls: issubclass(cls, enum.Flag), _flag),
    (lambda cls: issubclass(cls, enum.Enum), _enum),
    (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"), _named_tuple),
    (is_model, _pydantic),
    (is_struct, _struct),
    (_has_hidden_content, _opaque),
    (lambda _cls: True, _plain),
)
