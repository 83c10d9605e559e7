from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import json
import pickle
import sys
import threading
import time
from contextlib import aclosing, closing
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio
import pytest
from doubles import WordEmbedder, until

from memora import CacheConfig, Memora
from memora.calls import (
    FUNCTION,
    AsyncCached,
    AsyncCachedStream,
    Cached,
    CachedStream,
    CacheInfo,
    Caching,
    create_cached_decorator,
)
from memora.calls import _streams as streams_module
from memora.calls._binding import CODE
from memora.calls._identity import code_of, identity_of
from memora.errors import ArgumentError, ClosedError, ContextError, QueryError
from memora.pipeline import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from doubles import FakeClock


@pytest.fixture
def cache(clock: FakeClock) -> Iterator[Memora]:
    with Memora(CacheConfig(judge="off"), embedder=WordEmbedder(), clock=clock) as opened:
        yield opened


@pytest.fixture
def cached(cache: Memora) -> Caching:
    return Caching(cache)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def own(decorated: Any) -> dict[str, str]:
    """Return what says in a context which function it is."""
    function = decorated.__wrapped__
    return {FUNCTION: identity_of(function), CODE: code_of(function)}


async def later(query: str) -> bool:
    return bool(query)


class TestFunctions:
    def test_a_call_runs_the_function_once(self, cached: Caching) -> None:
        ran: list[tuple[str, int]] = []

        @cached
        def ask(query: str, top: int = 3) -> str:
            ran.append((query, top))
            return f"{query} {top}"

        assert [ask("best songs"), ask("best songs"), ask("best songs", 4)] == [
            "best songs 3",
            "best songs 3",
            "best songs 4",
        ]
        assert ran == [("best songs", 3), ("best songs", 4)]
        assert ask.cache_info() == CacheInfo(hits=1, misses=2)

    def test_what_means_the_same_hits(self, cached: Caching) -> None:
        ask = cached(similarity_threshold=0.6)(lambda query: [query])

        ask("the best songs of all time")

        assert ask("the best songs of all times") == ["the best songs of all time"]

    def test_how_an_argument_is_passed_does_not_matter(self, cached: Caching) -> None:
        @cached
        def ask(query: str, model: str = "a", *, top: int = 3) -> float:
            return time.perf_counter()

        first = ask("x")

        assert first == ask(query="x") == ask("x", "a") == ask(model="a", query="x", top=3)
        assert first != ask("x", "b")

    def test_every_other_parameter_counts_by_default(self, cached: Caching) -> None:
        @cached
        def ask(query: str, /, model: str, *more: int, top: int = 3, **options: Any) -> None: ...

        assert ask.cache_key("x", "a", 1, 2, user="u").context == {
            **own(ask),
            "model": "a",
            "more": (1, 2),
            "top": 3,
            "options": {"user": "u"},
        }
        assert ask.cache_key("x", "a").context.keys() == {FUNCTION, CODE, "model", "top"}

    def test_none_is_left_out_and_zero_is_not(self, cached: Caching) -> None:
        @cached
        def ask(query: str, a: Any = None, b: Any = None) -> None: ...

        assert ask.cache_key("x", None, 0).context.keys() == {FUNCTION, CODE, "b"}

    def test_none_is_a_result(self, cached: Caching) -> None:
        ran = []

        @cached
        def ask(query: str) -> None:
            ran.append(query)

        calls: list[Callable[[str], Any]] = [ask, ask]
        assert [call("x") for call in calls] == [None, None]
        assert ran == ["x"]

    def test_two_functions_share_nothing(self, cached: Caching) -> None:
        @cached
        def one(query: str) -> int:
            return 1

        @cached
        def two(query: str) -> int:
            return 2

        assert (one("x"), two("x")) == (1, 2)

    def test_a_namespace_is_shared(self, cached: Caching) -> None:
        one = cached(namespace="n")(lambda query: 1)
        two = cached(namespace="n")(lambda query: 2)

        assert (one("x"), two("x")) == (1, 1)
        assert one.cache_key("x").context == {FUNCTION: "n"}

    def test_closures_over_other_values_share_nothing(self, cached: Caching) -> None:
        def make(model: str, client: object) -> Cached[[str], str]:
            @cached
            def ask(query: str) -> str:
                return f"{model} of {type(client).__name__}"

            return ask

        small, large = make("small", object()), make("large", object())

        assert (small("x"), large("x")) == ("small of object", "large of object")
        assert make("small", object())("x") == small("x")
        assert len(make("m" * 1000, object()).cache_key("x").context[FUNCTION]) < 200
        assert small.cache_clear() == 1

    def test_lambdas_share_entries_only_if_they_are_the_same(self, cached: Caching) -> None:
        one, two = (
            cached(lambda query: sorted({1, 2}, key=lambda item: item)),
            cached(lambda query: sorted({1, 2}, key=lambda item: -item)),
        )
        same = [cached(lambda query: query) for _ in range(2)]

        assert one.cache_key("x") != two.cache_key("x")
        assert same[0].cache_key("x") == same[1].cache_key("x")

    def test_a_script_is_told_from_other_scripts(self, cached: Caching) -> None:
        def named(**scope: Any) -> str:
            scope["__name__"] = "__main__"
            exec("def ask(query): ...", scope)  # noqa: S102 - scripts
            identity: str = cached(scope["ask"]).cache_key("x").context[FUNCTION]
            return identity

        here = Path.cwd().as_posix()
        assert named() == f"__main__:{here}.ask"
        assert named(__file__="there/report.py") == f"{here}/there/report.ask"
        package = SimpleNamespace(name="company.report")
        assert named(__spec__=package, __file__="report.py") == "company.report.ask"
        alone = SimpleNamespace(name="report")
        assert named(__spec__=alone, __file__="there/report.py") == f"{here}/there/report.ask"

    def test_exceptions_pass_and_are_not_cached(self, cached: Caching) -> None:
        failures = [KeyError("first"), ContextError("the function's own")]

        @cached
        def ask(query: str) -> int:
            if failures:
                raise failures.pop(0)
            return 1

        with pytest.raises(KeyError, match="first"):
            ask("x")
        with pytest.raises(ContextError, match=r"^the function's own$"):
            ask("x")
        assert ask("x") == 1

    def test_a_result_without_form_in_bytes_is_returned(self, cached: Caching) -> None:
        ask = cached(lambda query: object())

        assert ask("x") is not ask("x")

    def test_wrong_arguments_are_the_functions_own_error(self, cached: Caching) -> None:
        def plain(query: str, top: int) -> None: ...

        ask: Any = cached(plain)
        for args, kwargs in [
            ((), {}),
            (("x",), {"tap": 1}),
            (("x", 1, 2), {}),
            (("x",), {"query": 1}),
        ]:
            with pytest.raises(TypeError) as told:
                plain(*args, **kwargs)
            with pytest.raises(TypeError) as ours:
                ask(*args, **kwargs)
            assert str(ours.value) == str(told.value)
            with pytest.raises(TypeError):
                ask.cache_key(*args, **kwargs)

    def test_positional_options_of_the_first_version_work(self, cached: Caching) -> None:
        @cached("prompt", ["model"], {"team": "a"}, True)  # noqa: FBT003 - as it was
        def ask(prompt: str, model: str, top: int, style: str) -> None: ...

        context = ask.cache_key("x", "m", 3, "s").context
        assert context == {
            **own(ask),
            "model": "m",
            "team": "a",
            "top": 3,
        }

    def test_any_cache_has_a_decorator(self, cache: Memora) -> None:
        ask = create_cached_decorator(cache)(query_param="q")(lambda q: [q])
        given = create_cached_decorator(cache, query_param="q", namespace="m")(lambda q: {q})
        again = Caching(cache)(namespace="n")(lambda query: 1)
        bare = Caching(cache)(lambda query: 2)

        assert (ask("x"), given("x"), again("x"), bare("x")) == (["x"], {"x"}, 1, 2)

    def test_a_decorated_function_looks_like_itself(self, cached: Caching) -> None:
        def ask(query: str, top: int = 3) -> str:
            """Ask."""
            return query

        ask.mine = 1  # type: ignore[attr-defined]
        decorated: Any = cached(ask)

        assert decorated.__wrapped__ is ask
        assert (decorated.__name__, decorated.__doc__, decorated.mine) == ("ask", "Ask.", 1)
        assert decorated.__qualname__ == ask.__qualname__
        assert inspect.signature(decorated) == inspect.signature(ask)
        assert repr(decorated).startswith("<cached test_decorator.") or "ask" in repr(decorated)
        assert not inspect.iscoroutinefunction(decorated)

    def test_partials_are_calls_of_their_function(self, cached: Caching) -> None:
        def ask(model: str, query: str, top: int = 1) -> str:
            return f"{model} {top}"

        small = cached(functools.partial(ask, "small", top=2))
        large = cached(functools.partial(ask, "large"))

        assert (small("x"), large("x"), small(query="x")) == ("small 2", "large 1", "small 2")
        assert large.cache_key("x").context == {
            **own(large),
            "model": "large",
            "top": 1,
        }

    def test_objects_that_can_be_called(self, cached: Caching) -> None:
        ask = cached(Callable_())

        assert (ask("x", 1), ask("x", top=1), ask("x", 2)) == (1, 1, 2)
        assert ask.cache_info().hits == 1
        assert ask.cache_key("x", 1).context[FUNCTION] == identity_of(Callable_)

    def test_functions_are_pickled_by_name(self) -> None:
        assert pickle.loads(pickle.dumps(of_module)) is of_module  # noqa: S301 - our own

    def test_counting_is_safe_in_threads(self, cached: Caching) -> None:
        ask = cached(lambda query: 1)
        ask("x")
        threads = [
            threading.Thread(target=lambda: [ask("x") for _ in range(200)]) for _ in range(4)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

        assert ask.cache_info() == CacheInfo(hits=800, misses=1)


class Callable_:  # noqa: N801 - so that nothing is hidden
    def __call__(self, query: str, top: int) -> int:
        return top


of_module = Caching(mock.Mock())(lambda query: 1)
of_module.__qualname__ = "of_module"


class TestRules:
    def test_strict_params_are_all_that_counts(self, cached: Caching) -> None:
        @cached(strict_params=["model"], static_context={"team": "a"})
        def ask(query: str, model: str, user: object) -> None: ...

        assert ask.cache_key("x", "m", object()).context == {
            **own(ask),
            "team": "a",
            "model": "m",
        }

    def test_one_name_is_a_list_of_one(self, cached: Caching) -> None:
        @cached(strict_params="model")
        def ask(query: str, model: str, user: str) -> None: ...

        assert ask.cache_key("x", "m", "u").context.keys() == {FUNCTION, CODE, "model"}

    def test_static_context_alone_is_all_the_context(self, cached: Caching) -> None:
        static = {"team": ["a"]}

        @cached(static_context=static)
        def ask(query: str, model: str) -> None: ...

        static["team"].append("b")
        assert ask.cache_key("x", "m").context == {
            **own(ask),
            "team": ["a"],
        }

    def test_an_empty_static_context_says_nothing(self, cached: Caching) -> None:
        @cached(static_context={})
        def ask(query: str, model: str) -> None: ...

        assert ask.cache_key("x", "m").context.keys() == {FUNCTION, CODE, "model"}

    def test_auto_strict_counts_what_is_no_text(self, cached: Caching) -> None:
        class Size(str, Enum):
            SMALL = "small"

        @cached(auto_strict=True, ignore="trace")
        def ask(
            query: str, *more: int, a: Any = "t", b: Any = 0, trace: Any = 1, **o: Any
        ) -> None: ...

        assert ask.cache_key("x").context.keys() == {FUNCTION, CODE, "b"}
        assert ask.cache_key("x", 1, a=Size.SMALL, z="t").context.keys() == {
            FUNCTION,
            CODE,
            "a",
            "b",
            "more",
            "o",
        }

    def test_what_is_ignored_does_not_count(self, cached: Caching) -> None:
        @cached(ignore=["client", "options"])
        def ask(query: str, model: str, client: object, **options: Any) -> None: ...

        assert ask.cache_key("x", "m", object(), a=1).context.keys() == {FUNCTION, CODE, "model"}

    def test_what_does_not_count_is_told_once(self, cache: Memora) -> None:
        told: list[tuple[str, dict[str, Any]]] = []
        cached = Caching(cache, log=lambda event, **fields: told.append((event, fields)))

        def ask(query: str, model: str, user: str) -> int:
            return 1

        cached(ask)("x", "m", "u")
        cached(ignore="user")(ask)
        cached(context=lambda model: {"model": model})(ask)
        assert told == []
        strict = cached(strict_params="model")(ask)
        strict("x", "m", "u")
        cached(static_context={"a": 1})(ask)
        cached(auto_strict=True, ignore="user")(ask)
        assert [(event, one["parameters"], one["because"]) for event, one in told] == [
            ("parameters_not_in_context", ["user"], ["strict_params"]),
            ("parameters_not_in_context", ["model", "user"], ["static_context"]),
            ("parameters_not_in_context", ["model"], ["auto_strict"]),
        ]

    def test_key_makes_the_query_of_parameters(self, cached: Caching) -> None:
        @cached(query_param="messages", key=lambda messages: messages[-1]["content"])
        def chat(messages: list[dict[str, str]], model: str) -> str:
            return model

        assert chat.cache_key([{"content": "a"}, {"content": "b"}], "m") == (
            "b",
            {**own(chat), "model": "m"},
        )

    def test_key_needs_no_query_param(self, cached: Caching) -> None:
        @cached(key="{} {}".format)
        def ask(a: str, b: str) -> None: ...

        assert ask.cache_key("x", b="y").query == "x y"
        assert ask.cache_key("x", "y").context.keys() == {FUNCTION, CODE, "a", "b"}

    @pytest.mark.parametrize(
        "key",
        [
            lambda query, top: f"{query} {top}",
            lambda top, query, other=1: f"{query} {top}",
            lambda query, /, *, top: f"{query} {top}",
            lambda **all_: f"{all_['query']} {all_['top']}",
            lambda query, **more: f"{query} {more['top']}",
            lambda *args, **kwargs: f"{args[0]} {args[1]}",
        ],
    )
    def test_key_may_take_parameters_in_any_way(self, cached: Caching, key: Any) -> None:
        @cached(key=key)
        def ask(query: str, top: int = 3) -> None: ...

        assert ask.cache_key(query="x").query == "x 3"

    def test_context_is_made_in_place_of_parameters(self, cached: Caching) -> None:
        @cached(context=lambda user: {"tenant": user["tenant"]}, static_context={"v": 1})
        def ask(query: str, user: dict[str, str]) -> None: ...

        context = ask.cache_key("x", {"tenant": "t", "name": "n"}).context
        assert (context["tenant"], context["v"], "user" in context) == ("t", 1, False)
        assert cached(context=lambda: None)(ask.__wrapped__).cache_key("x", {}).context.keys() == {
            FUNCTION,
            CODE,
        }

    def test_tags_name_parameters(self, cache: Memora, cached: Caching) -> None:
        @cached(tags=["all", "doc:{doc_id}", "{{x}} {doc_id}/{part}"])
        def ask(query: str, doc_id: int, part: Any = None) -> int:
            return 1

        ask("x", 7)
        assert cache.entries()[0].tags == ("all", "doc:7")
        ask("y", 7, "a")
        assert cache.entries("y")[0].tags == ("all", "doc:7", "{x} 7/a")
        assert cache.invalidate(tags="doc:7") == 2

    def test_options_reach_the_cache(
        self, cache: Memora, cached: Caching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @cached(
            ttl="10m",
            stale_ttl=5,
            sliding=True,
            similarity_threshold=1,
            max_age="1h",
            single_flight=False,
            refresh_ahead=1,
            condition=bool,
        )
        def ask(query: str) -> int:
            return 0

        seen: dict[str, Any] = {}
        compute = cache.get_or_compute

        def spy(*args: Any, **options: Any) -> Any:
            seen.update(options)
            return compute(*args, **options)

        monkeypatch.setattr(cache, "get_or_compute", spy)
        ask("x")
        assert seen == {
            "ttl": 600.0,
            "stale_ttl": 5.0,
            "sliding": True,
            "similarity_threshold": 1.0,
            "max_age": 3600.0,
            "refresh_ahead": 1.0,
            "single_flight": False,
            "condition": bool,
            "refresh": False,
            "tags": (),
        }
        assert cache.entries() == []

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"query_param": "prompt"}, "query_param 'prompt' is not one of them"),
            ({"query_param": "more"}, "query_param 'more' is not one of them"),
            ({"query_param": "prompt", "key": str}, "query_param 'prompt' is not one of them"),
            ({"strict_params": ["modle"]}, "strict_params names 'modle'"),
            ({"strict_params": ["query"]}, "strict_params names 'query', which is the query"),
            ({"ignore": ["usr"]}, "ignore names 'usr'"),
            ({"ignore": "query"}, "ignore names 'query', which is the query"),
            ({"ignore": "model", "strict_params": "model"}, "'model' is in strict_params and in"),
            ({"tags": "doc:{doc}"}, "the tag 'doc:{doc}' names 'doc'"),
            ({"tags": "doc:{more}"}, "the tag 'doc:{more}' names 'more'"),
            ({"static_context": {"model": 1}}, None),
            ({"static_context": {"model": 1}, "strict_params": "model"}, "has the key 'model'"),
            ({"static_context": {FUNCTION: "f"}}, "has the key 'memora.function'"),
            ({"context": lambda modle: {}}, "context= takes 'modle'"),
            ({"context": dict, "strict_params": "model"}, "in place of the parameters"),
        ],
    )
    def test_wrong_names_are_refused_at_decoration(
        self, cached: Caching, options: dict[str, Any], said: str | None
    ) -> None:
        def ask(query: str, model: str, *more: str) -> None: ...

        if said is None:
            cached(**options)(ask)
            return
        with pytest.raises(ArgumentError, match=r"has the parameters query, model.*; ") as refused:
            cached(**options)(ask)
        assert said in str(refused.value)
        assert "ask()" in str(refused.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"ttl": 0},
            {"ttl": "soon"},
            {"stale_ttl": -1},
            {"max_age": 0},
            {"refresh_ahead": "1 month"},
            {"sliding": 1},
            {"single_flight": "no"},
            {"auto_strict": 1},
            {"similarity_threshold": 1.1},
            {"similarity_threshold": True},
            {"tags": [1]},
            {"tags": " "},
            {"tags": "doc:{query"},
            {"tags": "doc:{query.name}"},
            {"tags": "doc:{query[0]}"},
            {"tags": "doc:{query!r}"},
            {"tags": "doc:{query:>5}"},
            {"tags": "doc:{}"},
            {"strict_params": 3},
            {"ignore": {"query": 1}},
            {"static_context": ["a"]},
            {"condition": 1},
            {"condition": later},
            {"key": "query"},
            {"key": later},
            {"context": {"a": 1}},
            {"namespace": ""},
            {"namespace": 3},
        ],
    )
    def test_wrong_options_are_refused_at_decoration(
        self, cached: Caching, options: dict[str, Any]
    ) -> None:
        with pytest.raises(ArgumentError):
            cached(**options)(lambda query: 1)

    def test_unknown_options_are_refused(self, cached: Caching) -> None:
        with pytest.raises(TypeError, match="strict_parms"):
            cached(strict_parms=["model"])  # type: ignore[call-overload]

    def test_what_is_no_function_is_refused(self, cached: Caching) -> None:
        decorator: Any = cached()
        with pytest.raises(ArgumentError, match=r"decorates functions, got 3"):
            decorator(3)
        with pytest.raises(ArgumentError, match=r"parameters of getattr cannot be read"):
            cached(getattr)

    def test_a_static_context_without_form_is_refused(self, cached: Caching) -> None:
        with pytest.raises(ContextError, match="client"):
            cached(static_context={"client": object()})(lambda query: 1)


class TestWithoutKey:
    """Calls that cannot be looked up or stored are run, counted, and told of once."""

    @pytest.mark.parametrize(
        "query",
        [None, 3, "", " ", "\n\u3000", "\ud800", ["parts"], [{"type": "text", "text": "x"}], b"x"],
        ids=repr,
    )
    def test_a_query_that_is_no_text_is_run(
        self, cache: Memora, cached: Caching, query: Any
    ) -> None:
        ask = cached("prompt")(lambda prompt: [prompt])

        assert ask(query) == [query]
        assert ask(query) is not ask(query)
        assert ask.refresh(query) == [query]
        assert ask.cache_info() == CacheInfo(hits=0, misses=4, uncacheable={"query": 4})
        assert repr(ask.cache_info()) == "CacheInfo(hits=0, misses=4, uncacheable={'query': 4})"
        assert cache.get_stats()["uncacheable"]["query"] == 4
        assert cache.get_stats()["total_requests"] == cache.get_stats()["total_entries"] == 0
        assert sum(cache.get_stats()["errors"].values()) == 0
        for look in (ask.cache_key, ask.lookup, ask.invalidate):
            with pytest.raises(QueryError):
                look(query)
        assert ask.cache_clear() == 0
        assert ask.cache_info() == CacheInfo(0, 0)

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            None,
            [{"role": "assistant", "tool_calls": []}],
            [{"role": "assistant", "content": None}],
            [{"role": "user", "content": ""}],
            [{"role": "user", "content": [{"type": "image_url"}]}],
        ],
        ids=repr,
    )
    def test_messages_without_a_text_are_run(self, cached: Caching, messages: Any) -> None:
        @cached(query_param="messages", key=lambda messages: messages[-1]["content"])
        def chat(messages: Any, model: str) -> str:
            return "answer"

        assert chat(messages, "m") == "answer"
        assert chat.cache_info() == CacheInfo(0, 1, {"query": 1})
        assert chat([{"role": "user", "content": "hello"}], "m") == "answer"
        assert chat.cache_info() == CacheInfo(0, 2, {"query": 1})

    def test_a_value_without_form_is_run(self, cache: Memora, cached: Caching) -> None:
        ring: list[Any] = []
        ring.append(ring)

        @cached(context=lambda value: {"value": value})
        def ask(query: str, value: Any) -> int:
            return 1

        values = [object(), float("nan"), ring, {"a": "\ud800"}, 10**5000, threading.Lock()]
        for value in values:
            assert ask("x", value) == 1
        assert ask.cache_info() == CacheInfo(0, 6, {"context": 6})
        assert cache.get_stats()["uncacheable"]["context"] == 6

    def test_a_parameter_that_cannot_be_context_is_named(self, cached: Caching) -> None:
        @cached
        def ask(query: str, client: object) -> int:
            return 1

        assert ask("x", object()) == ask.refresh("x", object()) == 1
        for call in (ask.lookup, ask.invalidate, ask.cache_key):
            with pytest.raises(ContextError, match=r"ask\(\): parameter 'client' .* ignore="):
                call("x", object())
        made = cached(context=lambda client: {"client": client})(ask.__wrapped__)
        with pytest.raises(ContextError, match=r"what context= returned"):
            made.lookup("x", object())

    @pytest.mark.parametrize("made", [3, [("a", 1)], {FUNCTION: "f"}, {CODE: "f"}])
    def test_a_context_that_is_none_is_run(self, cached: Caching, made: Any) -> None:
        ask = cached(context=lambda: made)(lambda query: 1)

        assert ask("x") == 1
        with pytest.raises(ContextError, match="context= "):
            ask.lookup("x")

    def test_a_key_or_context_that_fails_is_told_apart(self, cached: Caching) -> None:
        ask = cached(key=lambda query: query[9])(lambda query: 1)
        tell = cached(context=lambda query: {"a": query[9]})(lambda query: 1)

        assert (ask("x"), tell("x")) == (1, 1)
        assert ask.cache_info().uncacheable == {"query": 1}
        assert tell.cache_info().uncacheable == {"context": 1}
        with pytest.raises(QueryError, match="key= raised IndexError"):
            ask.lookup("x")
        with pytest.raises(ContextError, match="context= raised IndexError"):
            tell.lookup("x")

    def test_tags_without_text_are_run(self, cached: Caching) -> None:
        ask = cached(tags="{doc}")(lambda query, doc: 1)

        for value in ([1], " ", "\ud800", 10**5000):
            assert ask("x", value) == 1
        assert ask.cache_info().uncacheable == {"tags": 4}
        with pytest.raises(ArgumentError, match="'doc' is a list"):
            ask.lookup("x", [1])
        with pytest.raises(ArgumentError, match=r"'\{doc\}' is blank"):
            ask.lookup("x", " ")

    def test_a_closed_cache_leaves_the_call_its_value(self, cache: Memora, cached: Caching) -> None:
        ask = cached(lambda query: 1)

        @cached
        def stream(query: str) -> Iterator[int]:
            yield 1

        cache.close()
        assert (ask("x"), ask("x"), list(stream("x"))) == (1, 1, [1])
        assert ask.cache_info() == CacheInfo(0, 2, {"closed": 2})
        assert stream.cache_info() == CacheInfo(0, 1, {"closed": 1})
        with pytest.raises(ClosedError):
            ask.lookup("x")

    @pytest.mark.anyio
    async def test_async_functions_and_streams_are_run(
        self, cache: Memora, cached: Caching
    ) -> None:
        @cached
        async def ask(query: Any) -> Any:
            return [query]

        @cached
        async def stream(query: Any) -> AsyncIterator[Any]:
            yield query

        @cached
        def plain(query: Any) -> Iterator[Any]:
            yield query

        for query in (None, "", "\udfff", ["parts"]):
            assert await ask(query) == await ask.refresh(query) == [query]
            assert [one async for one in stream(query)] == list(plain(query)) == [query]
        cache.close()
        assert await ask("x") == ["x"]
        assert [one async for one in stream("x")] == list(plain("x")) == ["x"]
        assert ask.cache_info().uncacheable == {"query": 8, "closed": 1}
        assert stream.cache_info() == plain.cache_info()
        assert plain.cache_info() == CacheInfo(0, 5, {"query": 4, "closed": 1})

    def test_what_the_function_raises_passes(self, cached: Caching) -> None:
        @cached
        def ask(query: Any) -> None:
            raise KeyError(query)

        with pytest.raises(KeyError) as told:
            ask(None)
        assert told.value.__context__ is None

    def test_it_is_told_once_without_text(
        self, capsys: pytest.CaptureFixture[str], clock: FakeClock
    ) -> None:
        with Memora(CacheConfig(json_logs=True), embedder=WordEmbedder(), clock=clock) as cache:
            ask = cache.cached(lambda query, secret: 1)
            for number in range(3):
                ask(None, number)
                ask("query text", {"secret key": object()})
        events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        told = [one for one in events if one["event"] == "call_not_cached"]
        assert [(one["level"], one["reason"], one["error_type"]) for one in told] == [
            ("warning", "query", "QueryTypeError"),
            ("warning", "context", "ContextError"),
        ]
        assert all("<lambda>" in one["function"] for one in told)
        assert not any(word in json.dumps(told) for word in ("query text", "secret key"))

    def test_in_a_disabled_block_nothing_is_counted(self, cache: Memora, cached: Caching) -> None:
        ask = cached(lambda query: 1)
        with cache.disabled():
            assert ask(None) == 1  # type: ignore[arg-type]
        assert ask.cache_info() == CacheInfo(0, 1)


class TestMethods:
    def test_instances_share_entries_where_that_is_said(self, cached: Caching) -> None:
        class Agent:
            def __init__(self, name: str) -> None:
                self.name = name

            @cached(ignore=["self"])
            def ask(self, query: str, top: int = 3) -> str:
                return f"{self.name} {top}"

        one, two = Agent("one"), Agent("two")

        assert (one.ask("x"), two.ask("x"), two.ask("x", 4)) == ("one 3", "one 3", "two 4")
        assert Agent.ask(two, "x") == "one 3"
        assert Agent.ask.cache_key(two, "x") == one.ask.cache_key("x")
        assert one.ask.lookup("x").result == "one 3"
        assert one.ask.refresh("x") == "one 3"
        assert two.ask.refresh("x") == "two 3"
        assert one.ask.invalidate("x") == 1
        assert Agent.ask.cache_clear() == 1
        assert str(inspect.signature(one.ask)) == "(query: 'str', top: 'int' = 3) -> 'str'"
        assert list(inspect.signature(Agent.ask).parameters) == ["self", "query", "top"]
        assert one.ask.__name__ == "ask"

    def test_an_attribute_can_be_context(self, cached: Caching) -> None:
        class Agent:
            def __init__(self, tenant: str) -> None:
                self.tenant = tenant

            @cached(context=lambda self, top: {"tenant": self.tenant, "top": top})
            def ask(self, query: str, top: int = 3) -> str:
                return self.tenant

        assert [Agent("a").ask("x"), Agent("b").ask("x"), Agent("a").ask("x")] == ["a", "b", "a"]

    def test_the_owner_may_have_any_name(self, cached: Caching) -> None:
        class Agent:
            @cached(ignore=["this"])
            def ask(this, query: str) -> int:  # noqa: N805 - any name
                return 1

            @cached(instance=lambda self: 1)
            def loose(*args: Any, query: str) -> int:
                return len(args)

        assert Agent().ask("x") == 1
        assert Agent().loose(query="x") == Agent().loose(query="x") == 1
        assert Agent().loose(2, query="x") == 2
        assert Agent().loose.cache_key(2, query="x").context["args"] == (2,)
        assert list(inspect.signature(Agent().loose).parameters) == ["args", "query"]

    def test_class_methods_in_either_order(self, cached: Caching) -> None:
        class Agent:
            @cached
            @classmethod
            def below(cls, query: str, top: int = 1) -> str:
                return f"{cls.__name__} {top}"

            @classmethod
            @cached
            def above(cls, query: str, top: int = 1) -> str:
                return f"{cls.__name__} {top}"

        class Other(Agent): ...

        for name in ("below", "above"):
            one, two = getattr(Agent, name), getattr(Other(), name)
            assert (one("x"), two("x"), two("x", 2)) == ("Agent 1", "Other 1", "Other 2")
            assert (one("x"), two("x")) == ("Agent 1", "Other 1")
            ours: Any = vars(Agent)[name]
            info = getattr(ours, "__func__", ours).cache_info()
            assert info == CacheInfo(hits=2, misses=3)
        assert Other.below.cache_key("x") == Other().below.cache_key("x")
        assert str(inspect.signature(Agent.below)).startswith("(query")

    def test_static_methods_in_either_order(self, cached: Caching) -> None:
        class Agent:
            @cached
            @staticmethod
            def below(query: str, top: int = 1) -> float:
                return time.perf_counter()

            @staticmethod
            @cached
            def above(query: str, top: int = 1) -> float:
                return time.perf_counter()

        for ask in (Agent.below, Agent.above):
            assert ask("x") == ask("x", 1) != ask("x", 2)
        assert Agent.below("x") == Agent().below("x")
        assert Agent.above("x") == Agent().above("x")

    def test_a_function_in_a_class_without_an_owner_keeps_its_parameters(
        self, cached: Caching
    ) -> None:
        class Tools:
            @cached
            def ask(model: str, query: str) -> str:  # type: ignore[misc] # noqa: N805 - the test
                return model

        ask: Any = Tools.ask
        assert (ask("a", "x"), ask("b", "x")) == ("a", "b")

    def test_a_function_that_is_also_an_attribute_keeps_its_parameters(
        self, cached: Caching
    ) -> None:
        @cached
        def ask(model: str, query: str) -> str:
            return str(model)

        class Agent:
            method = ask

            def __str__(self) -> str:
                return "agent"

        assert (ask("a", "x"), ask("b", "x")) == ("a", "b")
        assert Agent().method("x") == "agent"

    def test_a_function_whose_first_parameter_is_the_query_is_no_method(
        self, cached: Caching
    ) -> None:
        class Agent:
            method = cached(lambda query: 1)

        assert Agent().method() == 1  # type: ignore[call-arg]

    def test_bound_methods_can_be_decorated(self, cached: Caching) -> None:
        class Agent:
            def ask(self, query: str) -> int:
                return id(self)

        agent = Agent()
        ask = cached(agent.ask)

        assert ask("x") == ask("x") == id(agent)

    def test_bound_methods_are_pickled_with_their_instance(self) -> None:
        again = pickle.loads(pickle.dumps(OfModule(3).ask))  # noqa: S301 - our own

        assert again._owner[0].number == 3

    def test_other_decorators_may_be_outside(self, cached: Caching) -> None:
        def outside(function: Any) -> Any:
            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            return wrapper

        class Agent:
            @outside
            @cached(ignore="self")
            def ask(self, query: str) -> int:
                return id(self)

        agents = [Agent(), Agent()]
        assert agents[0].ask("x") == agents[1].ask("x")


class OfModule:
    def __init__(self, number: int) -> None:
        self.number = number

    @Caching(mock.Mock())(ignore="self")
    def ask(self, query: str) -> int:
        return self.number


class TestAttributes:
    def test_lookup_shows_what_a_call_would_find(self, cached: Caching) -> None:
        ask = cached(lambda query, top: top)

        assert ask.lookup("x", 1).is_miss
        ask("x", 1)
        found = ask.lookup("x", top=1)
        assert (found.result, found.reason) == (1, "exact")

    def test_invalidate_deletes_one_call(self, cached: Caching) -> None:
        ask = cached(lambda query, top: top)
        ask("x", 1)
        ask("x", 2)

        assert (ask.invalidate("x", 1), ask.invalidate("x", 1)) == (1, 0)
        assert ask.lookup("x", 2).is_hit

    def test_clear_deletes_what_the_function_stored(self, cache: Memora, cached: Caching) -> None:
        one, two = cached(lambda query: 1), cached(namespace="n")(lambda query: 2)
        one("x")
        one("y")
        two("x")
        cache.store("x", {"top": 1}, 3)

        assert one.cache_clear() == 2
        assert one.cache_info() == CacheInfo(0, 0)
        assert two.lookup("x").is_hit
        assert cache.lookup("x", {"top": 1}).is_hit

    def test_refresh_computes_anew(self, cached: Caching) -> None:
        results = [1, 2]
        ask = cached(lambda query: results.pop(0))

        assert (ask("x"), ask("x"), ask.refresh("x"), ask("x")) == (1, 1, 2, 2)


@pytest.mark.anyio
class TestAsync:
    async def test_a_call_runs_the_function_once(self, cached: Caching) -> None:
        ran = []

        @cached(condition=lambda result: result != 0)
        async def ask(query: str, top: int = 3) -> int:
            ran.append(top)
            return top

        assert [await ask("x"), await ask("x", top=3), await ask("x", 0), await ask("x", 0)] == [
            3,
            3,
            0,
            0,
        ]
        assert ran == [3, 0, 0]
        assert isinstance(ask, AsyncCached)
        assert ask.cache_info() == CacheInfo(hits=1, misses=3)

    async def test_what_touches_the_cache_is_a_coroutine(self, cached: Caching) -> None:
        results = [1, 2, 3]

        @cached
        async def ask(query: str) -> int:
            return results.pop(0)

        assert await ask("x") == 1
        assert await ask.refresh("x") == 2
        assert (await ask.lookup("x")).result == 2
        assert await ask.invalidate("x") == 1
        assert await ask("x") == 3
        assert ask.cache_key("x").query == "x"
        assert await ask.acache_clear() == 1
        assert ask.cache_clear() == 0

    async def test_methods(self, cached: Caching) -> None:
        class Agent:
            def __init__(self, name: str) -> None:
                self.name = name

            @cached(ignore="self")
            async def ask(self, query: str) -> str:
                return self.name

            @cached
            @classmethod
            async def below(cls, query: str) -> str:
                return cls.__name__

            @classmethod
            @cached
            async def above(cls, query: str) -> str:
                return cls.__name__

            @staticmethod
            @cached
            async def static(query: str) -> str:
                return query

        assert [await Agent("a").ask("x"), await Agent("b").ask("x")] == ["a", "a"]
        assert await Agent("a").ask.lookup("x")
        assert [await Agent.below("x"), await Agent.above("x")] == ["Agent", "Agent"]
        assert [await Agent("a").above("x"), await Agent.static("x")] == ["Agent", "x"]

    async def test_frameworks_are_told(self, cached: Caching) -> None:
        class Agent:
            @cached(ignore="self")
            async def ask(self, query: str) -> int:
                return 1

            async def __call__(self, query: str) -> int:
                return 1

        async def plain(query: str) -> int:
            return 1

        for one in (Agent().ask, cached(plain), cached(Agent()), cached(functools.partial(plain))):
            assert isinstance(one, AsyncCached)
            assert inspect.iscoroutinefunction(one.__call__)
            if sys.version_info >= (3, 12):
                assert inspect.iscoroutinefunction(one)
            else:
                assert asyncio.iscoroutinefunction(one)
            assert inspect.iscoroutinefunction(inspect.unwrap(one)) or one.__wrapped__
            assert await one("x") == 1

    async def test_exceptions_pass_and_wrong_calls_are_told(self, cached: Caching) -> None:
        @cached
        async def ask(query: str, client: object = None) -> int:
            raise KeyError(query)

        wrong: Any = ask
        with pytest.raises(KeyError, match="x"):
            await ask("x")
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'query'"):
            await wrong()
        with pytest.raises(KeyError):
            await wrong(None)
        for call in (ask.lookup, ask.invalidate):
            with pytest.raises(ContextError, match="parameter 'client'"):
                await call("x", object())

    async def test_a_decorated_function_can_be_decorated(self, cached: Caching) -> None:
        async def ask(query: str) -> int:
            return 1

        async def items(query: str) -> AsyncIterator[int]:
            yield 1

        twice = cached(namespace="outer")(cached(ask))
        assert await twice("x") == await twice("x") == 1
        assert isinstance(cached(cached(items)), AsyncCachedStream)


class TestStreams:
    def test_items_are_kept_when_the_stream_has_ended(self, cached: Caching) -> None:
        ran = []

        @cached
        def ask(query: str) -> Iterator[str]:
            ran.append(query)
            yield "a"
            yield "b"

        assert isinstance(ask, CachedStream)
        stream = ask("x")
        assert ran == []
        assert next(stream) == "a"
        assert ask.lookup("x").is_miss
        assert list(stream) == ["b"]
        assert ask.lookup("x").result == ["a", "b"]
        assert list(ask("x")) == ["a", "b"]
        assert ran == ["x"]
        assert list(ask.refresh("x")) == ["a", "b"]
        assert ran == ["x", "x"]
        assert ask.cache_info() == CacheInfo(hits=1, misses=2)

    def test_what_is_returned_is_kept(self, cached: Caching) -> None:
        @cached
        def ask(query: str) -> Generator[str, None, dict[str, int]]:
            yield "a"
            return {"tokens": 1}

        def through() -> Generator[str, None, Any]:
            return (yield from ask("x"))

        for _ in range(2):
            stream = through()
            assert next(stream) == "a"
            with pytest.raises(StopIteration) as end:
                next(stream)
            assert end.value.value == {"tokens": 1}
        assert ask.cache_info() == CacheInfo(hits=1, misses=1)

    def test_an_empty_stream_is_a_result(self, cached: Caching) -> None:
        @cached
        def ask(query: str) -> Iterator[str]:
            return
            yield

        assert (list(ask("x")), list(ask("x"))) == ([], [])
        assert ask.cache_info() == CacheInfo(hits=1, misses=1)

    def test_abandoned_and_failed_streams_are_not_kept(self, cached: Caching) -> None:
        ended = []

        @cached
        def ask(query: str) -> Iterator[str]:
            try:
                yield "a"
                if query == "fails":
                    raise KeyError(query)
                yield "b"
            finally:
                ended.append(query)

        with closing(ask("closed")) as stream:  # type: ignore[type-var]
            next(stream)
        stream = ask("collected")
        next(stream)
        del stream
        gc.collect()
        with pytest.raises(KeyError):
            list(ask("fails"))
        ask("never started")
        assert ended == ["closed", "collected", "fails"]
        assert [ask.lookup(one).is_hit for one in (*ended, "never started")] == [False] * 4

    def test_what_is_sent_and_thrown_reaches_the_function(self, cached: Caching) -> None:
        @cached
        def ask(query: str) -> Generator[Any, Any, Any]:
            said = []
            for item in range(3):
                try:
                    said.append((yield item))
                except KeyError as error:
                    said.append(error.args[0])
            return said

        def talk() -> list[Any]:
            stream = ask("x")
            items = [next(stream), stream.send("sent"), stream.throw(KeyError("thrown"))]
            with pytest.raises(StopIteration) as end:
                next(stream)
            return [items, end.value.value]

        told = [[0, 1, 2], ["sent", "thrown", None]]
        assert talk() == told
        assert ask.lookup("x").is_miss
        assert list(ask("x")) == [0, 1, 2]
        assert ask.lookup("x").is_hit
        # The replay has nobody to talk to, so the function takes over where it stands.
        assert talk() == told
        assert ask.lookup("x").is_hit

    def test_a_replay_that_is_thrown_into_fails_where_the_function_would(
        self, cached: Caching
    ) -> None:
        length = 3

        @cached
        def ask(query: str) -> Generator[int, Any, None]:
            for item in range(length):  # noqa: UP028 - which has no send
                yield item

        list(ask("x"))
        for now in (3, 1):
            length = now
            stream = ask("x")
            assert [next(stream), next(stream)] == [0, 1]
            with pytest.raises(KeyError):
                stream.throw(KeyError("x"))
        stream = ask("x")
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(StopIteration):
            stream.send("more")
        length = 3
        stream = ask("x")
        assert [next(stream), stream.send("more")] == [0, 1]
        stream.close()

    def test_items_are_kept_as_they_were(self, cached: Caching) -> None:
        @cached
        def ask(query: str) -> Iterator[Any]:
            yield {"text": "a"}
            if query == "locks":
                yield threading.Lock()

        for item in ask("x"):
            item.clear()
        assert list(ask("x")) == [{"text": "a"}]
        assert len(list(ask("locks"))) == 2
        assert ask.lookup("locks").is_miss

    def test_options_hold_for_streams(self, cache: Memora, cached: Caching) -> None:
        @cached(ttl=10, tags="doc:{doc}", condition=lambda items: len(items) > 1)
        def ask(query: str, doc: int) -> Iterator[int]:
            yield from range(doc)

        list(ask("x", 1))
        list(ask("x", 2))
        assert [one.tags for one in cache.entries()] == [("doc:2",)]
        assert ask.lookup("x", 2).ttl_remaining_seconds == 10
        with cache.disabled():
            assert list(ask("x", 2)) == [0, 1]
            list(ask("x", 3))
        assert ask.lookup("x", 3).is_miss
        assert ask.cache_info() == CacheInfo(hits=0, misses=4)

    @pytest.mark.anyio
    async def test_a_condition_that_fails_leaves_a_stream_its_items(
        self, cache: Memora, cached: Caching
    ) -> None:
        @cached(condition=lambda items: items[7])
        def ask(query: str) -> Iterator[int]:
            yield 1

        @cached(condition=lambda items: items[7])
        async def aask(query: str) -> AsyncIterator[int]:
            yield 1

        assert list(ask("x")) == [item async for item in aask("x")] == [1]
        assert cache.get_stats()["errors"]["store"] == 2
        assert cache.get_stats()["total_entries"] == 0

    @pytest.mark.anyio
    async def test_a_stream_costs_what_running_it_took(
        self, cache: Memora, cached: Caching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0

        def wait(seconds: float) -> None:
            nonlocal now
            now += seconds

        monkeypatch.setattr(streams_module, "perf_counter", lambda: now)

        @cached
        def ask(query: str) -> Iterator[int]:
            wait(1)
            yield 1
            wait(2)

        @cached
        async def aask(query: str) -> AsyncIterator[int]:
            wait(3)
            yield 1
            wait(4)

        for _ in ask("x"):
            wait(100)  # whoever iterates
        async for _ in aask("x"):
            wait(100)
        store, clock = cache._ports.store, cache._ports.clock
        costs = [
            entry.cost
            for one in (ask, aask)
            if (entry := store.peek(Request.of(*one.cache_key("x")).key, now=clock()))
        ]
        assert costs == [3, 7]

    def test_a_stale_stream_is_run_again(self, clock: FakeClock, cached: Caching) -> None:
        ran = []

        @cached(ttl=10, stale_ttl=10)
        def ask(query: str) -> Iterator[int]:
            ran.append(1)
            yield 1

        list(ask("x"))
        clock.advance(15)
        assert ask.lookup("x").is_stale
        assert list(ask("x")) == [1]
        assert ran == [1, 1]

    def test_wrong_calls_are_told_at_once(self, cached: Caching) -> None:
        @cached
        def ask(query: str, client: object = None) -> Iterator[int]:
            yield 1

        wrong: Any = ask
        with pytest.raises(TypeError):
            wrong()
        assert list(ask("x", object())) == list(wrong(None)) == [1]
        assert ask.cache_info().uncacheable == {"context": 1, "query": 1}

    def test_what_another_function_stored_is_no_stream(self, cached: Caching) -> None:
        cached(namespace="n")(lambda query: "text")("x")

        @cached(namespace="n")
        def ask(query: str) -> Iterator[str]:
            yield "a"

        assert list(ask("x")) == ["a"]

    def test_a_cache_that_closes_meanwhile_breaks_nothing(
        self, cache: Memora, cached: Caching
    ) -> None:
        @cached
        def ask(query: str) -> Iterator[int]:
            yield 1
            cache.close()

        assert list(ask("x")) == [1]

    def test_methods(self, cached: Caching) -> None:
        class Agent:
            def __init__(self, name: str) -> None:
                self.name = name

            @cached(ignore="self")
            def ask(self, query: str) -> Iterator[str]:
                yield self.name

        assert list(Agent("a").ask("x")) == list(Agent("b").ask("x")) == ["a"]


@pytest.mark.anyio
class TestAsyncStreams:
    async def test_items_are_kept_when_the_stream_has_ended(
        self, cache: Memora, cached: Caching
    ) -> None:
        ran = []

        @cached
        async def ask(query: str, client: object = None) -> AsyncIterator[str]:
            ran.append(query)
            yield "a"
            yield "b"

        assert isinstance(ask, AsyncCachedStream)
        stream = ask("x")
        assert ran == []
        assert await anext(stream) == "a"
        assert (await ask.lookup("x")).is_miss
        assert [item async for item in stream] == ["b"]
        assert (await ask.lookup("x")).result == ["a", "b"]
        assert [item async for item in ask("x")] == ["a", "b"]
        assert ran == ["x"]
        assert [item async for item in ask.refresh("x")] == ["a", "b"]
        assert ran == ["x", "x"]
        assert ask.cache_info() == CacheInfo(hits=1, misses=2)
        assert [item async for item in ask("x", object())] == ["a", "b"]
        wrong: Any = ask
        with pytest.raises(TypeError):
            wrong()
        with cache.disabled():
            assert [item async for item in ask("y")] == ["a", "b"]
        assert await ask.invalidate("x") == 1

    async def test_abandoned_and_failed_streams_are_not_kept(self, cached: Caching) -> None:
        ended = []

        @cached
        async def ask(query: str) -> AsyncIterator[str]:
            try:
                yield "a"
                if query == "fails":
                    raise KeyError(query)
                yield "b"
            finally:
                ended.append(query)

        async with aclosing(ask("closed")) as stream:  # type: ignore[type-var]
            await anext(stream)
        with pytest.raises(KeyError):
            [item async for item in ask("fails")]
        assert ended == ["closed", "fails"]
        assert not [one for one in ended if await ask.lookup(one)]
        assert [item async for item in ask("whole")] == ["a", "b"]
        async with aclosing(ask("whole")) as stream:  # type: ignore[type-var]
            await anext(stream)
        assert ended == ["closed", "fails", "whole"]

    async def test_what_is_sent_and_thrown_reaches_the_function(self, cached: Caching) -> None:
        told: list[Any] = []

        @cached
        async def ask(query: str) -> Any:
            for item in range(3):
                try:
                    told.append((yield item))
                except KeyError as error:
                    told.append(error.args[0])

        async def talk() -> list[int]:
            stream = ask("x")
            items = [
                await anext(stream),
                await stream.asend("sent"),
                await stream.athrow(KeyError("thrown")),
            ]
            assert [item async for item in stream] == []
            return items

        assert await talk() == [0, 1, 2]
        assert told == ["sent", "thrown", None]
        assert (await ask.lookup("x")).is_miss
        assert [item async for item in ask("x")] == [0, 1, 2]
        del told[:]
        assert await talk() == [0, 1, 2]
        assert told == ["sent", "thrown", None]
        stream: Any = ask("x")
        await anext(stream)
        await stream.asend("sent")
        await stream.aclose()
        assert (await ask.lookup("x")).is_hit

    async def test_methods(self, cached: Caching) -> None:
        class Agent:
            @cached(ignore="self")
            async def ask(self, query: str) -> AsyncIterator[int]:
                yield id(self)

        agents = [Agent(), Agent()]
        first = [item async for item in agents[0].ask("x")]
        assert first == [item async for item in agents[1].ask("x")]


class TestTogether:
    def test_equal_calls_at_one_time_run_the_function_once(self, cached: Caching) -> None:
        started, go = threading.Event(), threading.Event()

        @cached
        def ask(query: str) -> int:
            started.set()
            assert go.wait(20)
            return 1

        results: list[int] = []
        threads = [threading.Thread(target=lambda: results.append(ask("x"))) for _ in range(3)]
        for one in threads:
            one.start()
        assert started.wait(20)
        go.set()
        for one in threads:
            one.join()

        assert results == [1, 1, 1]
        assert ask.cache_info() == CacheInfo(hits=2, misses=1)

    def test_what_runs_in_the_background_is_no_miss(
        self, clock: FakeClock, cached: Caching
    ) -> None:
        results = [1, 2]

        @cached(ttl=10, stale_ttl=10)
        def ask(query: str) -> int:
            return results.pop(0)

        assert ask("x") == 1
        clock.advance(15)
        assert ask("x") == 1
        assert until(lambda: ask.lookup("x").result == 2)
        assert ask.cache_info() == CacheInfo(hits=1, misses=1)

    @pytest.mark.anyio
    async def test_what_runs_in_the_background_of_a_task_is_no_miss(
        self, clock: FakeClock, cached: Caching
    ) -> None:
        results, ran_again = [1, 2], anyio.Event()

        @cached(ttl=10, stale_ttl=10)
        async def ask(query: str) -> int:
            if len(results) == 1:
                ran_again.set()
            return results.pop(0)

        assert await ask("x") == 1
        clock.advance(15)
        assert await ask("x") == 1
        with anyio.fail_after(20):
            await ran_again.wait()
        assert ask.cache_info() == CacheInfo(hits=1, misses=1)

    def test_disabled_calls_are_calls(self, cache: Memora, cached: Caching) -> None:
        results = [1, 2, 3]
        ask = cached(lambda query: results.pop(0))

        with cache.disabled():
            assert (ask("x"), ask("x")) == (1, 2)
        assert (ask("x"), ask("x")) == (3, 3)
