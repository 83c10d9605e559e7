"""The public API: a change of a name or a parameter must be a deliberate one.

`python tests/packaging/test_public_api.py` writes the listing anew.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import memora

LISTING = Path(__file__).with_name("public_api.txt")


def public_api() -> str:
    """Return a line for each public name, setting, field, method and error."""
    lines = []
    for name in memora.__all__:
        value: Any = getattr(memora, name)
        if inspect.ismodule(value):
            lines += [f"{name}.{one}" for one in sorted(vars(value)) if one.endswith("Error")]
        elif not isinstance(value, type):
            lines.append(f"{name}{_parameters(value)}")
        elif fields := getattr(value, "model_fields", None):
            lines += [f"{name}.{one} = {field.default!r}" for one, field in fields.items()]
        else:
            if dataclasses.is_dataclass(value):
                lines += [f"{name}.{field.name}" for field in dataclasses.fields(value)]
            else:
                lines.append(f"{name}{_parameters(value)}")
            lines += _members(name, value)
    return "\n".join(lines) + "\n"


def _members(name: str, cls: type) -> list[str]:
    slots = (
        {field.name for field in dataclasses.fields(cls)}
        if dataclasses.is_dataclass(cls)
        else set()
    )
    members = [one for one in sorted(dir(cls)) if not one.startswith("_") and one not in slots]
    return [
        f"{name}.{one}" + (_parameters(value) if callable(value) else "")
        for one in members
        for value in [inspect.getattr_static(cls, one)]
        if not isinstance(value, classmethod)
    ]


def _parameters(function: Any) -> str:
    """Return the names, kinds and defaults of parameters, without annotations."""
    shown = [
        one.replace(annotation=inspect.Parameter.empty)
        for one in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(shown))


def test_the_public_api_is_the_listed_one() -> None:
    assert public_api() == LISTING.read_text("utf-8")


if __name__ == "__main__":
    LISTING.write_text(public_api(), "utf-8")
