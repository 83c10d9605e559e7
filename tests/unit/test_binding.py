from __future__ import annotations

import datetime as dt
import inspect
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial, wraps
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from memora.calls._binding import FUNCTION, Binding, Rules
from memora.calls._identity import identity_of, is_method
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable


def binding(function: Any, *, owner: bool = False, **rules: Any) -> Binding:
    return Binding(
        inspect.signature(function), Rules(**rules), name="f", fixed={FUNCTION: "m.f"}, owner=owner
    )


def called(
    bound: Binding, *args: Any, **kwargs: Any
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    arguments = bound.bind(args, kwargs)
    assert arguments is not None
    return bound.call(arguments)


def test_a_call_is_a_query_a_context_and_tags() -> None:
    def f(query: str, model: str, top: int = 3) -> None: ...

    bound = binding(f, tags=("model:{model}",))

    assert called(bound, "x", "m") == (
        "x",
        {FUNCTION: "m.f", "model": "m", "top": 3},
        ("model:m",),
    )


def test_defaults_are_not_changed_by_calls() -> None:
    def f(query: str, **more: Any) -> None: ...

    bound = binding(f)
    assert called(bound, "x", a=1)[1] == {FUNCTION: "m.f", "more": {"a": 1}}
    assert called(bound, "x")[1] == {FUNCTION: "m.f"}


def test_the_owner_is_no_parameter() -> None:
    def f(self: Any, query: str, *more: str) -> None: ...

    bound = binding(f, owner=True, ignore=("self",))

    assert called(bound, object(), "x", "a")[1] == {FUNCTION: "m.f", "more": ("a",)}
    with pytest.raises(ArgumentError, match=r"f\(\) has the parameters query, more; strict_params"):
        binding(f, owner=True, strict_params=("self",))
    with pytest.raises(ArgumentError, match="names 'self'"):
        binding(f, owner=True, tags=("{self}",))


def test_an_owner_among_any_arguments_is_left_out() -> None:
    def f(*args: Any, query: str) -> None: ...

    bound = binding(f, owner=True, ignore=("args",))

    assert called(bound, object(), query="x")[1] == {FUNCTION: "m.f"}
    counted = binding(f, owner=True, instance=lambda owner: owner["tenant"])
    assert called(counted, {"tenant": 7}, 1, query="x")[1] == {
        FUNCTION: "m.f",
        "self": 7,
        "args": (1,),
    }


def test_a_method_is_told_by_its_place_and_its_first_parameter() -> None:
    class Agent:
        def method(self, query: str) -> None: ...

        @staticmethod
        def static(query: str) -> None: ...

        @staticmethod
        def nothing() -> None: ...

    def outside(self: Any, query: str) -> None: ...

    functions = (Agent.method, Agent.static, Agent.nothing, outside, len, Agent)
    assert [is_method(one) for one in functions] == ["self", *[None] * 5]


class Color(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("a b", "x:a b"),
        (7, "x:7"),
        (Color.RED, "x:red"),
        (dt.date(2024, 3, 1), "x:2024-03-01"),
        (PurePosixPath("a/b"), "x:a/b"),
    ],
)
def test_values_in_tags_have_one_text(value: Any, tag: str) -> None:
    def f(query: str, doc: Any) -> None: ...

    assert called(binding(f, tags=("x:{doc}",)), "q", value)[2] == (tag,)


def test_a_tag_of_nothing_is_left_out() -> None:
    def f(query: str, doc: Any = None) -> None: ...

    assert called(binding(f, tags=("all", "x:{doc}")), "q")[2] == ("all",)


def test_captured_values_that_are_not_there_yet_are_left_out() -> None:
    def make() -> Any:
        def f(query: str) -> Any:
            return late

        identity = identity_of(f)
        late = 3
        return identity

    assert make().endswith("make.<locals>.f")


def ask(query: str, model: str = "small") -> str:
    return model


def cited(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def outer(*args: Any) -> Any:
        return function(*args)

    return outer


@dataclass
class Settings:
    model: str


CAPTURED = [
    *("1", 1, 1.0, True, None, b"1", ("1",), {"a": 1}, {"a": 2}, {1}, Color.RED),
    *(dt.date(2024, 3, 1), Settings("small"), Settings("large"), Settings),
    *(len, ask, cited(identity_of), lru_cache(is_method)),
    *(partial(ask, model="a"), partial(ask, model="b"), partial(ask, "a")),
    *(lambda query: query, lambda query: query * 2),
]


def capturing(value: object) -> str:
    return identity_of(lambda query: (query, value))


def test_functions_that_have_captured_different_things_are_different() -> None:
    assert len({capturing(value) for value in CAPTURED}) == len(CAPTURED)
    assert capturing({"a": 1, "b": 2}) == capturing({"b": 2, "a": 1})
    assert capturing(object()) == capturing(object())  # nobody can tell in the next run


def test_a_captured_text_cannot_be_read_in_the_name() -> None:
    assert "secret" not in capturing("secret")


def test_functions_that_have_captured_each_other_have_an_end() -> None:
    def make(model: str) -> Callable[[str], Any]:
        def one(query: str) -> Any:
            return one, two

        def two(query: str) -> Any:
            return one, model

        return one

    assert identity_of(make("small")) == identity_of(make("small"))
    assert identity_of(make("small")) != identity_of(make("large"))


def test_what_stands_elsewhere_is_the_same_lambda() -> None:
    one = lambda query: query in {"a", "b", "c"}  # noqa: E731
    two = lambda query: query in {"a", "b", "c"}  # noqa: E731

    assert identity_of(one) == identity_of(two)
