"""Binding by hand is binding as Python does it."""

from __future__ import annotations

import inspect
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memora.calls._binding import FUNCTION, Binding, Rules
from memora.context import canonical_context

KINDS = inspect.Parameter
NAMES = ("a", "b", "c", "d", "e", "f")
values = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.text("xy", max_size=2))


@st.composite
def signatures(draw: st.DrawFn) -> inspect.Signature:
    names = iter(draw(st.permutations(NAMES)))
    parameters = []
    optional = False
    for kind in (KINDS.POSITIONAL_ONLY, KINDS.POSITIONAL_OR_KEYWORD):
        for _ in range(draw(st.integers(0, 2))):
            optional = optional or draw(st.booleans())
            default = draw(values) if optional else KINDS.empty
            parameters.append(inspect.Parameter(next(names), kind, default=default))
    if draw(st.booleans()):
        parameters.append(inspect.Parameter("args", KINDS.VAR_POSITIONAL))
    for _ in range(draw(st.integers(0, 2))):
        default = draw(values) if draw(st.booleans()) else KINDS.empty
        parameters.append(inspect.Parameter(next(names), KINDS.KEYWORD_ONLY, default=default))
    if draw(st.booleans()):
        parameters.append(inspect.Parameter("kwargs", KINDS.VAR_KEYWORD))
    return inspect.Signature(parameters)


def reference(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    # A function itself: `Signature.bind` of Python 3.13.0 takes what none would.
    scope: dict[str, Any] = {}
    exec(f"def f{signature}: return locals()", scope)  # noqa: S102 - of the names above
    try:
        arguments: dict[str, Any] = scope["f"](*args, **kwargs)
    except TypeError:
        return None
    return arguments


def binding(signature: inspect.Signature) -> Binding:
    rules = Rules(key=lambda: "query")
    return Binding(signature, rules, name="f", fixed={FUNCTION: "m.f"})


calls = st.tuples(
    st.lists(values, max_size=5).map(tuple),
    st.dictionaries(st.sampled_from((*NAMES, "args", "kwargs", "z")), values, max_size=4),
)


@given(signatures(), calls)
def test_arguments_are_those_that_the_function_gets(
    signature: inspect.Signature, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    args, kwargs = call

    assert binding(signature).bind(args, kwargs) == reference(signature, args, kwargs)


@given(signatures(), calls, calls)
def test_two_calls_have_one_context_if_and_only_if_their_arguments_are_equal(
    signature: inspect.Signature,
    one: tuple[tuple[Any, ...], dict[str, Any]],
    two: tuple[tuple[Any, ...], dict[str, Any]],
) -> None:
    bound = binding(signature)
    found = [(bound.bind(*call), reference(signature, *call)) for call in (one, two)]
    contexts, expected = [], []
    for arguments, known in found:
        if arguments is None or known is None:
            return
        contexts.append(canonical_context(bound.call(arguments).context))
        said = {name: value for name, value in known.items() if value not in (None, (), {})}
        expected.append(canonical_context({FUNCTION: "m.f", **said}))

    assert contexts == expected
