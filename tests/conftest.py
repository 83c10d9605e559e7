"""Shared fixtures, which also isolate tests from the environment's settings and the network."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from doubles import FakeClock, WordEmbedder
from hypothesis import HealthCheck, settings
from servers import Servers, StorageServer, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator

# Local runs try new examples; CI uses the same ones each time, so that it judges the change.
settings.register_profile(
    "memora",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("memora")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are processors: many tests wait for servers or processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Keep the modules and the thousands of tests out of all garbage collections to come."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(autouse=True)
def no_memora_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("MEMORA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block all connections to other machines, such as a download of a model."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = address[0] if isinstance(address, tuple) else address
            if host not in {"127.0.0.1", "::1", "localhost"}:
                raise OSError(f"the test suite has no network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def s3() -> Iterator[StorageServer]:
    with seaweedfs() as server:
        yield server
