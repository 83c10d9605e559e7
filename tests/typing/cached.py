"""Decorated functions as a user types them. Never run: mypy and pyright read it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

from memora import Memora
from memora.calls import AsyncCached, AsyncCachedStream, Cached, Caching, create_cached_decorator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from memora import LookupResult
    from memora.calls import CacheInfo, CallKey, Engine


memora: Engine = Memora()


def functions(engine: Engine) -> None:
    """Signatures survive, bare and with options."""
    cached: Caching = create_cached_decorator(engine)

    @cached
    def bare(query: str, top: int = 3) -> float:
        return 1.0

    assert_type(bare("x"), float)
    assert_type(bare("x", top=1), float)
    bare(3)  # type: ignore[arg-type]
    bare("x", tap=1)  # type: ignore[call-arg]

    def length(prompt: str) -> int:
        return len(prompt)

    assert_type(cached(length, query_param="prompt")("x"), int)
    assert_type(cached("prompt")(length)("x"), int)

    @cached(query_param="prompt", strict_params=["model"], ttl="10m", tags=("a", "{model}"))
    def ask(prompt: str, model: str) -> list[str]:
        return [prompt, model]

    assert_type(ask("x", "m"), list[str])
    assert_type(ask.refresh("x", "m"), list[str])
    found: LookupResult = ask.lookup("x", model="m")
    key: CallKey = ask.cache_key("x", "m")
    info: CacheInfo = ask.cache_info()
    assert_type(ask.invalidate("x", "m"), int)
    assert_type(ask.cache_clear(), int)
    ask.lookup(3, "m")  # type: ignore[arg-type]
    name: str = ask.__name__
    cached(strict_parms=["model"])  # type: ignore[call-overload]
    cached(ttl=[])  # type: ignore[call-overload]
    given: Cached[[str], list[str]] = cached(partial(ask, model="m"))
    del found, key, info, name, given


async def coroutines(engine: Engine) -> None:
    """So do those of async functions."""
    cached = Caching(engine)

    @cached
    async def ask(query: str, top: int = 3) -> float:
        return 1.0

    assert_type(await ask("x"), float)
    assert_type(await ask.refresh("x"), float)
    found: LookupResult = await ask.lookup("x", 3)
    assert_type(await ask.invalidate("x"), int)
    assert_type(await ask.acache_clear(), int)
    await ask(3)  # type: ignore[arg-type]
    coroutine: Coroutine[Any, Any, float] = ask("x")

    @cached(ttl=60)
    async def stream(query: str) -> AsyncIterator[str]:
        yield query

    async for item in stream("x"):
        assert_type(item, str)
    async for item in stream.refresh("x"):
        assert_type(item, str)
    kind: AsyncCachedStream[[str], AsyncIterator[str]] = stream
    await coroutine
    del found, kind


def streams(engine: Engine) -> None:
    """And of generators."""

    @Caching(engine)
    def stream(query: str, top: int) -> Iterator[str]:
        yield query

    assert_type([*stream("x", 1)], list[str])
    stream("x")  # type: ignore[call-arg]


async def methods(engine: Engine) -> None:
    """Methods are bound."""
    cached = Caching(engine)

    class Agent:
        @cached
        def ask(self, query: str, top: int = 3) -> float:
            return 1.0

        @cached(ttl=60)
        async def aask(self, query: str) -> float:
            return 1.0

        @cached
        async def stream(self, query: str) -> AsyncIterator[str]:
            yield query

        @cached
        @classmethod
        def of_class(cls, query: str) -> float:
            return 1.0

        @cached
        @staticmethod
        async def of_none(query: str) -> float:
            return 1.0

        @classmethod
        @cached
        async def inside(cls, query: str) -> float:
            return 1.0

    agent = Agent()
    assert_type(agent.ask("x", top=1), float)
    assert_type(agent.ask.refresh("x", 1), float)
    assert_type(Agent.ask(agent, "x"), float)
    agent.ask("x", "many")  # type: ignore[arg-type]
    assert_type(await agent.aask("x"), float)
    bound: AsyncCached[[str], float] = agent.aask
    async for item in agent.stream("x"):
        assert_type(item, str)
    # Neither checker tells a class method from another, so through the class it is not bound.
    assert_type(agent.of_class("x"), float)
    assert_type(agent.of_class.lookup("x").is_hit, bool)
    assert_type(await Agent.of_none("x"), float)
    assert_type(await agent.inside("x"), float)
    del bound
