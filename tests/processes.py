"""What the tests with several processes share: workers, and what may be stored after them."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store_worker import CONTEXTS

if TYPE_CHECKING:
    from memora import Memora

PATIENCE = 60.0  # of a process that does anything at all


class Process:
    """A worker (see `store_worker`), and all that it has told."""

    def __init__(self, path: Path | str, name: str, **task: Any) -> None:
        task = {"path": str(path), "name": name, **task}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("store_worker.py")), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def do(self, command: str, **arguments: Any) -> Process:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()
        return self

    def wait_for(self, kind: str) -> dict[str, Any]:
        """Return the next line of a kind."""
        while True:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, "".join(self._errors)
            self.told.append(json.loads(line))
            if self.told[-1]["kind"] == kind:
                return self.told[-1]

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
        """End as a crash does; take in what it still told."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            if line.endswith("\n"):
                self.told.append(json.loads(line))
        self.end()

    def close(self) -> None:
        """End in an orderly way."""
        if self._process.poll() is None:
            self.do("close").wait_for("closed")
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert self._process.wait(PATIENCE) == 0, "".join(self._errors)
        self.end()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def held(cache: Memora, keys: list[str]) -> dict[str, str]:
    """Return the number that is stored under each key."""
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
    """What all processes have told, and what may therefore be stored now."""

    def __init__(self) -> None:
        self.stores: dict[str, dict[str, tuple[float, float]]] = {}  # key -> number -> begin, end
        self.deleted: set[str] = set()  # acknowledged
        self.deleting: set[str] = set()  # also where the process died before it said so
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
        """Nothing acknowledged is lost; nothing deleted or replaced is back; nothing is made up."""
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
