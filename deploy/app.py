"""An application with a shared cache and probes: `uvicorn --factory app:make_app`.

Replace `answer_of` by yours. All settings come from the environment, as `MEMORA_*`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def make_app(config: CacheConfig | None = None) -> FastAPI:
    """Return the application; each worker process makes its own."""
    cache = Memora(CacheConfig.load() if config is None else config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with cache:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/ask")
    @cache.cached(query_param="question")
    def ask(question: str, tenant: str) -> dict[str, Any]:
        return {"answer": answer_of(question), "tenant": tenant, "computed_at": time.time()}

    # A cache that fails is a miss: the application is ready without it, and alive.
    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    # What only a restart repairs; a server that is away is none of it.
    @app.get("/live")
    async def live(response: Response) -> dict[str, Any]:
        return _said(await cache.ahealth_check("live"), response)

    @app.get("/cache")  # for people and alerts
    async def health(response: Response) -> dict[str, Any]:
        return _said(await cache.ahealth_check("ready"), response)

    return app


def _said(health: dict[str, Any], response: Response) -> dict[str, Any]:
    response.status_code = 200 if health["status"] == "healthy" else 503
    return health


def answer_of(question: str) -> str:
    """Stand in for what is expensive."""
    time.sleep(0.1)
    return f"The answer to {question!r}"
