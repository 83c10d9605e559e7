"""The error tree in the module's docstring is the tree of the classes."""

from __future__ import annotations

import inspect

from memora import errors


def test_the_drawing_matches_the_classes() -> None:
    drawn: dict[str, tuple[str, str | None]] = {}  # name -> (parent, built-in)
    stack: list[str] = []
    lines = [line[4:] for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    for line in lines:
        text = line.lstrip("│├└─ ")
        depth = (len(line) - len(text)) // 4
        name, _, builtin = text.partition(" ")
        stack[depth:] = [name]
        drawn[name] = (stack[depth - 1] if depth else "Exception", builtin.strip("()") or None)

    defined = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and cls.__module__ == errors.__name__
    }
    assert set(drawn) == set(defined)
    for name, (parent, builtin) in drawn.items():
        bases = [base.__name__ for base in defined[name].__bases__]
        assert bases == [parent, *([builtin] if builtin else [])]
