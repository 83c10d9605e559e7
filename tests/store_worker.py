"""A process that runs commands on a store, received over a channel, and reports on the same one.

Its task: `path`, `name`, `settings` of the cache, `constants` of modules to set (so that cases of
minutes and megabytes need only a few entries), `clock` as an offset in seconds. It announces each
operation before it begins, so that the last one of a killed worker is known.
"""

from __future__ import annotations

import importlib
import random
import time
import warnings
from typing import TYPE_CHECKING, Any

from doubles import WordEmbedder

from memora import CacheConfig, Memora
from memora.pipeline import Request
from memora.stores.disk._records import content_of
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# LanceDB is imported, but not used, in the process that forks.
warnings.filterwarnings("ignore", "lancedb fork support")

CONTEXTS: list[dict[str, Any]] = [{"place": "a"}, {"place": "b"}]


class Worker:
    """An open cache; each public method is a command."""

    def __init__(self, channel: Connection, path: str, name: str, settings: Any) -> None:
        self.channel, self.name = channel, name
        config = CacheConfig(**({"db_uri": path, "max_entries": None} | settings))
        self.cache = Memora(config, embedder=WordEmbedder())
        store = self.cache._ports.store
        assert isinstance(store, LanceStore)
        self.disk = store
        self.stored = 0

    def tell(self, kind: str, **what: Any) -> None:
        self.channel.send({"kind": kind, **what})

    def store(self, key: str, place: int, size: int = 10, **lifetime: Any) -> None:
        self.stored += 1
        number = f"{self.name} {self.stored}"
        result = [key, place, number, "x" * size]
        self.tell("storing", key=key, place=place, number=number, at=time.monotonic_ns())
        entry_id = self.cache.store(key, CONTEXTS[place], result, **lifetime)
        self.tell("stored", number=number, ok=entry_id is not None, at=time.monotonic_ns())

    def delete(self, key: str, place: int) -> None:
        """Delete the entry that this process sees under a key, as an eviction does."""
        with self.disk._writing:
            view = self.disk._view
            with view.lock:
                slot = view.hot.slot(Request.of(key, CONTEXTS[place]).key)
                if slot is None:
                    return
                stored, seq = view.hot.key(slot), view.hot.seq(slot)
                segment, offset, length = view.hot.location(slot)
                raw = view.segments[segment].read(offset, length)
            content = content_of(raw, stored)
            assert content is not None
            number = self.cache._ports.codec.decode(content.payload)[2]
            self.tell("deleting", key=key, place=place, number=number)
            self.disk._delete([(stored, seq)])
        self.disk._sync(self.disk._writer.appended)
        self.tell("deleted", key=key, place=place, number=number)

    def look(self, key: str, place: int) -> None:
        found = self.cache.lookup(key, CONTEXTS[place], 1.0)
        self.tell(
            "found",
            key=key,
            place=place,
            reason=found.reason,
            result=found.result if found.reason == "exact" else None,
        )

    def search(self, query: str, place: int) -> None:
        found = self.cache.lookup(query, CONTEXTS[place], 0.5)
        self.tell("answer", place=place, reason=found.reason, result=found.result)

    def work(self, seed: int, steps: int, keys: list[str], size: int = 10) -> None:
        chance = random.Random(seed)  # noqa: S311 - a reproducible sequence
        for _ in range(steps):
            key, place = chance.choice(keys), chance.randrange(2)
            action = chance.choices(["store", "delete", "look", "search"], [6, 1, 2, 1])[0]
            if action == "store":
                self.store(key, place, size)
            elif action == "delete":
                self.delete(key, place)
            elif action == "look":
                self.look(key, place)
            else:
                self.search(f"{key} please", place)
        self.tell("worked")

    def withdraw(self, **criteria: Any) -> None:
        self.tell("withdrawn", entries=self.cache.invalidate(**criteria))

    def outdate(self, tags: list[str]) -> None:
        self.cache.outdate(*tags)
        self.tell("outdated")

    def uses(self) -> None:
        """Send the known uses of every entry."""
        self.tell("used", uses={one.query: one.uses for one in self.cache.entries()})

    def dump(self, keys: list[str]) -> None:
        """Send the number stored under each key."""
        held = {}
        for key in keys:
            for place in range(2):
                found = self.cache.lookup(key, CONTEXTS[place], 1.0)
                if found.reason == "error":
                    held[f"{key}/{place}"] = "error"
                elif found.reason == "exact":
                    assert found.result[:2] == [key, place]
                    held[f"{key}/{place}"] = found.result[2]
        stats = self.cache.get_stats()
        self.tell("dump", held=held, count=stats["total_entries"], errors=stats["errors"])

    def state(self) -> None:
        maintenance = self.disk._maintenance
        self.tell(
            "state",
            owner=maintenance is not None and maintenance.owner,
            count=self.disk.count(),
            errors=self.cache.get_stats()["errors"],
            healthy=self.cache.health_check()["checks"]["database"]["ok"],
        )

    def limit(self, size: int | None) -> None:
        """Limit the size of files, to simulate a full disk."""
        import resource  # noqa: PLC0415 - not available on Windows
        import signal  # noqa: PLC0415

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        unlimited = resource.RLIM_INFINITY
        soft = unlimited if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, unlimited))
        self.tell("limited")

    def close(self) -> None:
        self.cache.close()
        self.tell("closed")


def main(channel: Connection, task: dict[str, Any]) -> None:
    for name, value in task.get("constants", {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    if offset := task.get("clock", 0):
        real = time.time_ns
        time.time_ns = lambda: real() + int(offset * 1e9)
    worker = Worker(channel, task["path"], task["name"], task.get("settings", {}))
    worker.tell("ready")
    while True:
        command, arguments = channel.recv()
        getattr(worker, command)(**arguments)
        if command == "close":
            return
