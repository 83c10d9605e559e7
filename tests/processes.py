"""Shared parts of tests with several processes: workers, and the entries expected after them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import tempfile
import threading
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import store_worker
from store_worker import CONTEXTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from memora import Memora

PATIENCE = 300.0  # seconds to wait for a process, generous for slow machines
# Processes are forked from one that has imported the needed modules but not used them, because
# importing LanceDB takes seconds.
_CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)


class Child:
    """A process that runs `target(channel, *arguments)`, and this end of the channel.

    Its output goes to files. It exits without running `atexit` functions.
    """

    def __init__(self, target: Callable[..., object], *arguments: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="memora-child-")
        self.channel, far = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_run, args=(self._folder.name, far, target, arguments), daemon=True
        )
        if hasattr(_CONTEXT, "set_forkserver_preload"):
            _CONTEXT.set_forkserver_preload(
                ["pytest", "store_worker", "lancedb", "memora.stores.redis"]
            )
        # The fork server of Python before 3.14 gets `sys.path` only this way.
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        try:
            self._process.start()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        far.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def printed(self, stream: str = "output") -> str:
        path = Path(self._folder.name, stream)
        return path.read_text() if path.exists() else ""

    def wait(self) -> None:
        """Wait for its exit, which must be with status 0."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, self.printed("errors")

    def kill(self) -> None:
        """Kill the process, as in a crash, if it still runs."""
        self._process.kill()
        self._process.join(PATIENCE)

    def end(self) -> None:
        self.kill()
        self.channel.close()
        self._folder.cleanup()


def _run(folder: str, channel: Connection, target: Callable[..., object], arguments: Any) -> None:
    for number, stream in enumerate(["output", "errors"], 1):
        with Path(folder, stream).open("wb") as file:
            os.dup2(file.fileno(), number)
    # A daemon, so that the parent's exit does not wait for it; but it may have children.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    target(channel, *arguments)


def run_script(channel: Connection, code: str, *arguments: str) -> None:
    """Run a script with these `sys.argv[1:]`, and `channel` as a global; usable as a `target`."""
    sys.argv[1:] = arguments
    exec(code, {"__name__": "__main__", "channel": channel})  # noqa: S102 - code of a test


class Process:
    """A worker (see `store_worker`) and the messages it has sent."""

    def __init__(self, path: Path | str, name: str, **task: Any) -> None:
        self._child = Child(store_worker.main, {"path": str(path), "name": name, **task})
        self.pid = self._child.pid
        self.told: list[dict[str, Any]] = []
        self._news: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(EOFError, OSError):  # the process ended, maybe in the middle of a message
            while True:
                self._news.put(self._child.channel.recv())
        self._news.put(None)

    def do(self, command: str, **arguments: Any) -> Process:
        self._child.channel.send((command, arguments))
        return self

    def wait_for(self, kind: str) -> dict[str, Any]:
        """Return the next message of a kind."""
        while True:
            one = self._news.get(timeout=PATIENCE)
            assert one is not None, self._child.printed("errors")
            self.told.append(one)
            if one["kind"] == kind:
                return one

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self.do(command, **arguments).wait_for(
            {
                "dump": "dump",
                "state": "state",
                "limit": "limited",
                "look": "found",
                "outdate": "outdated",
                "store": "stored",
                "uses": "used",
                "withdraw": "withdrawn",
            }[command]
        )

    def kill(self) -> None:
        """Kill the process, as in a crash, and read its remaining messages."""
        self._child.kill()
        while (one := self._news.get(timeout=PATIENCE)) is not None:
            self.told.append(one)
        self.end()

    def close(self) -> None:
        """Close the cache and wait for a normal exit."""
        self.do("close").wait_for("closed")
        self._child.wait()
        self.end()

    def end(self) -> None:
        self._child.kill()
        self._reader.join(PATIENCE)
        self._child.end()


def held(cache: Memora, keys: list[str]) -> dict[str, str]:
    """Return the number stored under each key."""
    found = {}
    for key in keys:
        for place, context in enumerate(CONTEXTS):
            answer = cache.lookup(key, context, 1.0)
            assert answer.reason != "error", answer.explanation
            if answer.reason == "exact":
                assert answer.result[:2] == [key, place]
                found[f"{key}/{place}"] = answer.result[2]
    return found


class History:
    """The messages of all processes, and the entries that may therefore be stored."""

    def __init__(self) -> None:
        self.stores: dict[str, dict[str, tuple[float, float]]] = {}  # key -> number -> begin, end
        self.deleted: set[str] = set()  # acknowledged
        self.deleting: set[str] = set()  # requested, maybe not acknowledged
        self.failed = 0

    def add(self, told: list[dict[str, Any]]) -> None:
        places = {}
        for one in told:
            if one["kind"] == "storing":
                places[one["number"]] = key = f"{one['key']}/{one['place']}"
                self.stores.setdefault(key, {})[one["number"]] = (one["at"], inf)
            elif one["kind"] == "stored":
                numbers = self.stores[places[one["number"]]]
                if one["ok"]:
                    numbers[one["number"]] = (numbers[one["number"]][0], one["at"])
                else:
                    self.failed += 1
                    del numbers[one["number"]]
            elif one["kind"] == "deleting":
                self.deleting.add(one["number"])
            elif one["kind"] == "deleted":
                self.deleted.add(one["number"])
            elif one["kind"] == "found" and one["result"]:
                assert one["result"][:2] == [one["key"], one["place"]]
            elif one["kind"] == "answer" and one["result"]:
                assert one["result"][1] == one["place"]
            assert one.get("reason") != "error", one

    def check(self, found: dict[str, str]) -> None:
        """Compare with the messages.

        No acknowledged entry may be lost, no deleted or replaced one be back, none be invented.
        """
        for key in self.stores.keys() | found.keys():
            stores = self.stores.get(key, {})
            last = {
                number
                for number, (_, end) in stores.items()
                if not any(
                    begin > end for begin, acknowledged in stores.values() if acknowledged < inf
                )
            }
            number = found.get(key)
            if number is None:
                assert not stores or last & self.deleting or self._all_pending(stores), (
                    f"{key}: {last} is lost"
                )
            else:
                assert number in stores, f"{key}: {number} was never stored"
                assert number in last, f"{key}: {number} is back; it was replaced by {last}"
                assert number not in self.deleted, f"{key}: {number} is back; it was deleted"

    @staticmethod
    def _all_pending(stores: dict[str, tuple[float, float]]) -> bool:
        return all(end == inf for _, end in stores.values())
