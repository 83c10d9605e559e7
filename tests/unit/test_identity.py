"""Which calls share entries: of which function, of which object, and of arguments that change."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from doubles import WordEmbedder, until

import memora
from memora import CacheConfig, Memora
from memora.calls import FUNCTION, CacheInfo
from memora.calls._binding import CODE
from memora.calls._identity import code_of, identity_of
from memora.errors import ArgumentError, ContextError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from doubles import FakeClock

SOURCE = str(Path(memora.__file__).parents[1])


@pytest.fixture
def cache(clock: FakeClock) -> Iterator[Memora]:
    with Memora(CacheConfig(judge="off"), embedder=WordEmbedder(), clock=clock) as opened:
        yield opened


def defined(source: str, **scope: Any) -> Any:
    exec(source, scope)  # noqa: S102 - programs
    return scope["ask"]


ASK = "def ask(query):\n    return {'a': query + 'x'}\n"


@pytest.mark.parametrize(
    "same",
    [
        f"\n\n# moved\n{ASK}",
        "def ask(query):\n    'Documented.'\n    return {'a': query + 'x'}\n",
        "def ask(query: 'str') -> 'dict':\n    # a comment\n    return {'a': query + 'x'}\n",
    ],
)
def test_code_that_does_the_same_is_the_same(same: str) -> None:
    assert code_of(defined(same)) == code_of(defined(ASK))


@pytest.mark.parametrize(
    "other",
    [
        ASK.replace("'x'", "'y'"),
        ASK.replace("'a'", "'b'"),
        ASK.replace("+", "*"),
        "def ask(query):\n    return {'a': other + 'x'}\n",
        "def ask(query):\n    def inner(): return query + 'x'\n    return {'a': inner()}\n",
        "async def ask(query):\n    return {'a': query + 'x'}\n",
    ],
)
def test_code_that_does_something_else_is_another(other: str) -> None:
    assert code_of(defined(other)) != code_of(defined(ASK))


def test_nested_code_counts() -> None:
    nested = "def ask(query):\n    def inner(one):\n        return one in {'a', 'b'}, (1, %s)\n"
    assert code_of(defined(nested % 2)) == code_of(defined(nested % 2))
    assert code_of(defined(nested % 2)) != code_of(defined(nested % 3))
    assert code_of(defined(nested % 1)) != code_of(defined(nested % "True"))


def test_code_is_the_same_in_each_process() -> None:
    code = (
        f"import sys; sys.path.insert(0, {SOURCE!r})\n"
        "from memora.calls._identity import code_of\n"
        "def ask(query): return [q for q in query if q in {'a', 'b', 'c', 'd', None, 3}]\n"
        "print(code_of(ask))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_what_wraps_a_function_counts() -> None:
    def prompted(prompt: str) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            @wraps(function)
            def outer(query: str) -> Any:
                return function(prompt + query)

            return outer

        return wrap

    ask = defined(ASK)
    assert identity_of(prompted("a")(ask)) != identity_of(prompted("b")(ask))
    assert identity_of(prompted("a")(ask)) == identity_of(prompted("a")(ask))
    changed = defined(ASK.replace("'x'", "'y'"))
    assert code_of(prompted("a")(ask)) != code_of(prompted("a")(changed))


def test_an_edited_function_does_not_return_its_old_answers(cache: Memora) -> None:
    old = cache.cached(defined(ASK))
    new = cache.cached(defined(ASK.replace("'x'", "'y'")))

    assert (old("q"), new("q"), old("q")) == ({"a": "qx"}, {"a": "qy"}, {"a": "qx"})
    assert old.cache_info() == CacheInfo(1, 1)
    assert new.cache_clear() == 2  # both versions


def test_a_version_is_in_place_of_the_code(cache: Memora) -> None:
    old = cache.cached(version="1")(defined(ASK))
    same = cache.cached(version="1")(defined(ASK.replace("'x'", "'y'")))
    new = cache.cached(version="2")(defined(ASK))

    assert (old("q"), same("q"), new("q")) == ({"a": "qx"},) * 3
    assert (same.cache_info().hits, new.cache_info().hits) == (1, 0)
    assert old.cache_key("q").context[CODE] == "1"
    space = cache.cached(namespace="n")(defined(ASK))
    assert space.cache_key("q").context == {FUNCTION: "n"}
    both = cache.cached(namespace="n", version="1")(defined(ASK))
    assert both.cache_key("q").context == {FUNCTION: "n", CODE: "1"}
    for wrong in ("", " ", 1):
        with pytest.raises(ArgumentError, match="version"):
            cache.cached(version=wrong)  # type: ignore[call-overload]


def test_what_has_no_code_has_a_name() -> None:
    assert (code_of(len), identity_of(len)) == ("", "builtins.len")


@pytest.mark.parametrize(
    ("scope", "place"),
    [
        ({"__name__": "__main__", "__file__": "/a/app.py"}, "/a/app.ask"),
        ({"__name__": "app", "__file__": "/a/app.py"}, "/a/app.ask"),
        ({"__name__": "__mp_main__", "__file__": "/a/app.py"}, "/a/app.ask"),
        ({"__name__": "company.app", "__file__": "/a/company/app.py"}, "company.app.ask"),
        ({"__name__": "six", "__file__": "/venv/site-packages/six.py"}, "six.ask"),
        ({"__name__": "json", "__file__": "/python/json/__init__.py", "__path__": []}, "json.ask"),
        (
            {
                "__name__": "__main__",
                "__file__": "/a/company/app.py",
                "__spec__": SimpleNamespace(name="company.app"),
            },
            "company.app.ask",
        ),
        ({"__name__": "__main__", "__vsc_ipynb_file__": "/a/b.ipynb"}, "__main__:/a/b.ipynb.ask"),
        ({"__name__": "made"}, "made.ask"),
    ],
)
def test_a_function_is_named_by_its_package_or_its_file(scope: dict[str, Any], place: str) -> None:
    assert identity_of(defined(ASK, **scope)) == place


def test_programs_of_one_file_name_share_nothing(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {SOURCE!r})\n"
        "from memora import Memora\n"
        "@Memora().cached\n"
        "def ask(query):\n"
        "    return query\n"
        "print(ask.cache_key('How many orders do we have?'))\n"
    )
    found: dict[str, set[str]] = {}
    for name in ("sales", "support"):
        (folder := tmp_path / name).mkdir()
        (folder / "app.py").write_text(code)
        for arguments in (["app.py"], ["-m", "app"], ["-c", "import app"]):
            done = subprocess.run(
                [sys.executable, *arguments], cwd=folder, check=True, capture_output=True, text=True
            )
            found.setdefault(name, set()).add(done.stdout)
    assert [len(keys) for keys in found.values()] == [1, 1]  # however a program is started
    assert found["sales"] != found["support"]


class TestOwners:
    def test_a_method_that_says_nothing_of_its_object_is_refused(self, cache: Memora) -> None:
        for options in ({}, {"auto_strict": True}, {"static_context": {"a": 1}}, {"version": "1"}):
            with pytest.raises(ArgumentError) as refused:

                class Agent:
                    @cache.cached(**options)  # type: ignore[call-overload,untyped-decorator]
                    def ask(self, query: str) -> None: ...

            for remedy in ("ignore=['self']", "instance=", "context="):
                assert remedy in str(refused.value)

    def test_an_identity_of_the_object_counts(self, cache: Memora) -> None:
        class Agent:
            def __init__(self, tenant: str) -> None:
                self.tenant = tenant

            @cache.cached(instance=lambda self: self.tenant)
            def ask(self, query: str, top: int = 3) -> str:
                return f"{self.tenant} {top}"

            @cache.cached(instance=lambda agent: agent.tenant, strict_params=["model"])
            def tell(self, query: str, model: str) -> str:
                return self.tenant

        one, two = Agent("one"), Agent("two")
        for _ in range(2):
            assert (one.ask("x"), two.ask("x"), two.ask("x", 4)) == ("one 3", "two 3", "two 4")
            assert (one.tell("x", "m"), two.tell("x", "m")) == ("one", "two")
        assert Agent.ask.cache_info() == CacheInfo(3, 3)
        assert Agent("one").ask.lookup("x").result == "one 3"
        assert Agent.ask.cache_key(one, "x") == one.ask.cache_key("x")
        context = one.ask.cache_key("x").context
        assert (context["self"], context["top"]) == ("one", 3)

    def test_an_identity_that_fails_has_no_key(self, cache: Memora) -> None:
        class Agent:
            @cache.cached(instance=lambda self: self.absent)
            def ask(self, query: str) -> int:
                return id(self)

        one, two = Agent(), Agent()
        assert (one.ask("x"), two.ask("x")) == (id(one), id(two))
        assert Agent.ask.cache_info().uncacheable == {"context": 2}
        with pytest.raises(ContextError, match="instance= raised AttributeError"):
            one.ask.lookup("x")

    def test_a_method_nobody_could_tell_for_one_has_no_key(self, cache: Memora) -> None:
        def ask(this: Any, query: str) -> int:
            return id(this)

        class Agent:
            above = cache.cached(ask)

        one, two = Agent(), Agent()
        assert (one.above("x"), two.above("x")) == (id(one), id(two))
        assert Agent.above.cache_info().uncacheable == {"context": 2}
        with pytest.raises(ContextError, match=r"ignore=\['this'\]"):
            one.above.lookup("x")

    def test_objects_with_a_state_and_their_methods_are_refused_or_count(
        self, cache: Memora
    ) -> None:
        class Agent:
            def __init__(self, tenant: Any) -> None:
                self.tenant = tenant

            def __call__(self, query: str) -> Any:
                return self.tenant

            def ask(self, query: str) -> Any:
                return self.tenant

        one, two = Agent("one"), Agent("two")
        for wrong in (one, one.ask):
            with pytest.raises(ArgumentError, match=r"instance=.* or namespace="):
                cache.cached(wrong)
        by_tenant = cache.cached(instance=lambda agent: agent.tenant)
        pairs = [
            (by_tenant(one), by_tenant(two)),
            (by_tenant(one.ask), by_tenant(two.ask)),
            (cache.cached(namespace="1")(one), cache.cached(namespace="2")(two)),
        ]
        for first, second in pairs:
            for _ in range(2):
                assert (first("x"), second("x")) == ("one", "two")
            assert second.cache_info() == CacheInfo(1, 1)
        one.tenant = "three"
        assert [first("x") for first, _ in pairs] == ["three", "three", "one"]
        both = cache.cached(namespace="3", instance=lambda agent: agent.tenant)
        assert (both(one)("x"), both(two)("x")) == ("three", "two")

    def test_an_object_that_gets_a_state_later_counts_then(self, cache: Memora) -> None:
        class Agent:
            tenant: Any = "none"

            def ask(self, query: str) -> Any:
                return self.tenant

        agent = Agent()
        ask = cache.cached(agent.ask)
        assert ask("x") == ask("x") == "none"
        agent.tenant = object()
        assert ask("x") is ask("x") is agent.tenant
        assert ask.cache_info() == CacheInfo(1, 3, {"context": 2})

    def test_a_bound_class_method_is_of_its_class(self, cache: Memora) -> None:
        class Agent:
            @classmethod
            def ask(cls, query: str) -> str:
                return cls.__name__

        class Other(Agent): ...

        for _ in range(2):
            assert cache.cached(Agent.ask)("x") == "Agent"
            assert cache.cached(Other.ask)("x") == "Other"

    def test_what_is_decorated_twice_says_it_twice(self, cache: Memora) -> None:
        class Agent:
            @cache.cached(ignore=["self"])
            def ask(self, query: str) -> str:
                return "answer"

            def __init__(self) -> None:
                self.tenant = "one"

        with pytest.raises(ArgumentError, match="namespace="):
            cache.cached(Agent().ask)

    def test_a_class_method_is_of_its_class(self, cache: Memora) -> None:
        class Agent:
            @cache.cached
            @classmethod
            def ask(cls, query: str) -> str:
                return cls.__name__

        class Other(Agent): ...

        for _ in range(2):
            assert (Agent.ask("x"), Other.ask("x")) == ("Agent", "Other")

    def test_strict_params_are_all_and_a_warning(
        self, capsys: pytest.CaptureFixture[str], cache: Memora
    ) -> None:
        class Agent:
            @cache.cached(strict_params=["model"])
            def ask(self, query: str, model: str) -> int:
                return id(self)

        assert Agent().ask("x", "m") == Agent().ask("x", "m")
        assert capsys.readouterr().err.count("method_without_its_object") == 1
        cache.cached(strict_params=["model"], ignore=["self"])(Agent.__dict__["ask"].__wrapped__)
        assert capsys.readouterr().err == ""


class TestChangedArguments:
    def test_a_stream_is_stored_as_it_was_called(self, cache: Memora) -> None:
        @cache.cached
        def stream(query: str, history: list[str], options: dict[str, Any]) -> Iterator[int]:
            history.append(query)
            options["seen"] = True
            yield len(history)

        assert list(stream("x", [], {})) == [1]
        assert stream.lookup("x", [], {}).result == [1]
        assert stream.lookup("x", ["x"], {"seen": True}).is_miss
        assert list(stream("x", ["x"], {"seen": True})) == [2]

    def test_an_async_stream_too(self, cache: Memora) -> None:
        @cache.cached
        async def stream(query: str, history: list[str]) -> AsyncIterator[int]:
            history.append(query)
            yield len(history)

        async def main() -> list[list[int]]:
            found = []
            for history in ([], ["x"], []):
                found.append([one async for one in stream("x", history)])  # noqa: PERF401 - 3.10
            return found

        assert asyncio.run(main()) == [[1], [2], [1]]

    def test_what_runs_in_the_background_has_copies(self, cache: Memora, clock: FakeClock) -> None:
        seen: list[tuple[list[str], object]] = []

        @cache.cached(ttl=10, stale_ttl=100, ignore="client")
        def ask(query: str, history: list[str], client: object) -> int:
            seen.append((list(history), client))
            history.append(query)
            return len(seen)

        client = object()
        ask("x", ["a"], client)
        clock.advance(15)
        history = ["a"]
        assert ask("x", history, client) == 1
        history.append("mine")
        assert until(lambda: ask.lookup("x", ["a"], client).result == 2)
        assert seen == [(["a"], client)] * 2
        assert history == ["a", "mine"]
        assert ask.lookup("x", ["a", "mine"], client).is_miss

    def test_what_cannot_be_copied_is_not_run_in_the_background(
        self, cache: Memora, clock: FakeClock
    ) -> None:
        class Stubborn(dict[str, int]):
            def __deepcopy__(self, memo: Any) -> Any:
                raise TypeError("no copies")

        ran = []

        @cache.cached(ttl=10, stale_ttl=100)
        def ask(query: str, value: Any) -> int:
            ran.append(value)
            return len(ran)

        ask("x", Stubborn(a=1))
        clock.advance(15)
        assert ask("x", Stubborn(a=1)) == ask("x", Stubborn(a=1)) == 1
        assert len(ran) == 1
        clock.advance(100)
        assert ask("x", Stubborn(a=1)) == 2

    @pytest.mark.parametrize("kind", ["plain", "stream"])
    def test_an_argument_that_changes_during_the_lookup_is_not_stored(
        self, cache: Memora, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        history = ["a"]

        @cache.cached
        def plain(query: str, history: list[str]) -> list[str]:
            return list(history)

        @cache.cached
        def stream(query: str, history: list[str]) -> Iterator[str]:
            yield from history

        lookup = cache._core._find

        async def slow(*args: Any, **options: Any) -> Any:
            found = await lookup(*args, **options)
            history.append("b")
            return found

        monkeypatch.setattr(cache._core, "_find", slow)
        ask: Any = {"plain": plain, "stream": stream}[kind]
        assert list(ask("x", history)) == ["a", "b"]
        assert cache.get_stats()["total_entries"] == 0
