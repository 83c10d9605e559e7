"""An async endpoint with a cache: `python examples/fastapi_app.py`, which also calls it.

To serve it: `uvicorn --factory fastapi_app:make_app`, in this folder.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import FastAPI, Query, Response

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = CacheConfig(db_uri="memory://", ttl_seconds=3600, log_level="WARNING")
# The cache would run the function for a blank question; an application need not.
_NOT_BLANK = Query(pattern=r"\S")
PRICES = {"Pro": "20 EUR", "Basic": "5 EUR"}


def make_app(config: CacheConfig = CONFIG) -> FastAPI:
    """Return the application; each worker process makes its own."""
    cache = Memora(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with cache:  # closed at shutdown; a store on disk then is up to date
            yield

    app = FastAPI(lifespan=lifespan)

    # FastAPI reads the parameters of the function behind it, as if there were no cache.
    @app.get("/ask")
    @cache.cached(query_param="question", namespace="ask")
    async def ask(question: str = _NOT_BLANK, tenant: str = "acme") -> dict[str, str]:
        return {"answer": await _llm(question), "tenant": tenant}

    @app.get("/stats")
    async def stats() -> dict[str, int]:
        info = ask.cache_info()
        return {"hits": info.hits, "misses": info.misses}

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        report = await cache.ahealth_check()
        response.status_code = 200 if report["status"] == "healthy" else 503
        return report

    return app


async def _llm(question: str) -> str:
    """Stand in for a model: slow, and it knows two prices."""
    await anyio.sleep(0.05)
    return next((price for plan, price in PRICES.items() if plan in question), "I do not know.")


def main() -> None:
    """Call the application without a network."""
    from fastapi.testclient import TestClient  # noqa: PLC0415 - not where it is served

    with TestClient(make_app()) as client:
        for question, tenant in (
            ("What does the Pro plan cost?", "acme"),
            ("How much does the Pro plan cost?", "acme"),
            ("How much does the Basic plan cost?", "acme"),
            ("What does the Pro plan cost?", "globex"),
        ):
            answer = client.get("/ask", params={"question": question, "tenant": tenant}).json()
            print(f"{tenant:<7} {question:<36} {answer['answer']:<7} {client.get('/stats').json()}")
        blank = client.get("/ask", params={"question": " "})
        print(f"blank: {blank.status_code}")
        health = client.get("/health")
        print(f"health: {health.status_code} {health.json()['status']}")


if __name__ == "__main__":
    main()
