"""Which function a call is of: its name and its code, stable across runs and processes."""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from memora.context import canonical_context
from memora.errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_OWNERS = ("self", "cls", "mcs")  # names by which the first parameter is taken for the owner
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, type)


def owner_of(function: Any) -> Any:
    """Return the object of a bound method, or the called object; None for a function."""
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        return owner
    return None if hasattr(function, "__qualname__") else function


def has_state(owner: object) -> bool:
    """Return whether an object is a class, or has state that may differ within its class."""
    if isinstance(owner, type):
        return True
    slots = (getattr(kind, "__slots__", ()) for kind in type(owner).__mro__)
    return bool(getattr(owner, "__dict__", None)) or any(slots)


def place_of(function: Callable[..., Any]) -> str:
    """Return the module and name of a callable."""
    bearer = named(function)
    return f"{_module_of(bearer)}.{bearer.__qualname__}"


def named(function: Callable[..., Any]) -> Any:
    """Return the object with the name of a callable: a function, or the class of an object."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)  # the function of a bound method
    return function if hasattr(function, "__qualname__") else type(function)


def identity_of(function: Callable[..., Any]) -> str:
    """Return a function's identity, stable across restarts: its module or file, and its name.

    A closure created several times with different captured values counts as several functions. So
    the identity includes captured functions and values that could be context, and the classes of
    other captured objects. Two objects of one class cannot be distinguished across runs: use
    `namespace` for those. The identity of a lambda, which has no name, includes its code.
    """
    return _identity(function, set())


def code_of(function: Callable[..., Any]) -> str:
    """Return a digest of a function's code, as compiled by this minor version of Python.

    It covers instructions, constants and names of the function and those it wraps, but not its
    place in the source or its docstring. "" if there is no bytecode to read.
    """
    codes = [repr(_code_form(code)) for code in _codes(function)]
    return _digest("\n".join(codes)) if codes else ""


def _identity(function: Any, seen: set[int]) -> str:
    bearer = named(function)
    name = place_of(bearer)
    if bearer.__qualname__.endswith("<lambda>"):
        name = f"{name}:{code_of(bearer)}"
    captured: list[tuple[str, object]] = []
    for one in _layers(bearer):
        if id(one) in seen:  # functions may capture each other or themselves
            continue
        seen.add(id(one))
        captured += _captured(one, seen)
    # A digest, because a captured text may be a secret, and the name is stored and logged.
    return f"{name}[{_digest(repr(captured))}]" if captured else name


def _layers(function: Any) -> list[Any]:
    """Return a function and those it wraps, the outermost first."""
    found = [function]
    while (inner := getattr(found[-1], "__wrapped__", None)) is not None and all(
        inner is not one for one in found
    ):
        found.append(inner)
    return found


def _codes(function: Any) -> Iterable[CodeType]:
    for one in _layers(named(function)):
        # The code of a class is that which creates or calls its objects.
        inside = ("__new__", "__init__", "__call__") if isinstance(one, type) else ()
        for part in (one, *(getattr(one, name, None) for name in inside)):
            if isinstance(code := getattr(part, "__code__", None), CodeType):
                yield code


def is_method(function: Callable[..., Any]) -> str | None:
    """Return the first parameter of a function defined in a class, if it is named like an owner."""
    if not inspect.isfunction(inspect.unwrap(function)):
        return None
    place, _, _ = getattr(function, "__qualname__", "").rpartition(".")
    if not place or place.endswith("<locals>"):
        return None
    first = next(iter(inspect.signature(function).parameters), None)
    return first if first in _OWNERS else None


def _module_of(bearer: Any) -> str:
    """Return a module's name if it is in a package, else its file, as names are ambiguous."""
    inner = inspect.unwrap(bearer)
    module: str = getattr(inner, "__module__", None) or "?"
    space: Mapping[str, Any] = getattr(inner, "__globals__", None) or vars(
        sys.modules.get(module, object)
    )
    if module == "__main__" and (spec := space.get("__spec__")) is not None:  # `python -m`
        module = str(spec.name)
    file = space.get("__file__")
    if "." in module or "__path__" in space or module in sys.stdlib_module_names:
        return module
    if file and "site-packages" not in (path := Path(os.path.abspath(file))).parts:  # noqa: PTH100 - keeps links, whose targets may change with each release
        return path.with_suffix("").as_posix()
    if file or module != "__main__":
        return module
    # A notebook: its server provides the file's name. A console has only its folder.
    session = space.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME") or ""
    return f"__main__:{Path(os.path.abspath(session)).as_posix()}"  # noqa: PTH100 - as above


def _code_form(code: CodeType) -> tuple[Any, ...]:
    """Return the parts of a code object that define its behaviour, without its position.

    A docstring is a constant that no instruction loads, but may move the others. So instructions
    are given with the constants that they load, instead of their places.
    """
    return (
        [
            (one.opcode, _constant_form(one.argval) if one.opcode in dis.hasconst else one.arg)
            for one in dis.get_instructions(code)
        ],
        getattr(code, "co_exceptiontable", b""),  # since 3.11
        code.co_names,
        code.co_varnames,
        code.co_freevars,
    )


def _constant_form(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _code_form(constant)
    if isinstance(constant, frozenset):  # its order differs between processes
        return sorted(repr(_constant_form(one)) for one in constant)
    if isinstance(constant, tuple):
        return tuple(map(_constant_form, constant))
    return constant


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _captured(inner: Any, seen: set[int]) -> Iterable[tuple[str, object]]:
    cells = getattr(inner, "__closure__", None) or ()
    names = inner.__code__.co_freevars if cells else ()
    for name, cell in zip(names, cells, strict=True):
        with suppress(ValueError):  # the cell may be empty: not assigned yet
            yield name, _form(cell.cell_contents, seen)


def _form(value: Any, seen: set[int]) -> object:
    """Return a value's identity, which is the same in each run."""
    if isinstance(value, partial):
        given = [_form(one, seen) for one in value.args]
        named_ones = {name: _form(one, seen) for name, one in value.keywords.items()}
        return _form(value.func, seen), given, named_ones
    if isinstance(value, _FUNCTIONS) or "__wrapped__" in getattr(value, "__dict__", ()):
        code = "" if isinstance(value, type) else code_of(value)
        return _identity(value, seen), code
    try:
        return canonical_context({"captured": value}).canonical
    except ContextError:
        return place_of(type(value))
