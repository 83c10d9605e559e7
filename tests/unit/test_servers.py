"""The servers that other tests are run against: that they are real, and gone when asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import servers as parts
from doubles import until

redis = pytest.importorskip("redis")

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from servers import redis_program, running
with running(redis_program()) as server:
    print(server.pid, server.folder, flush=True)
    sys.stdin.read()
"""


def test_a_killed_server_comes_back_on_its_port() -> None:
    with parts.running(parts.redis_program()) as server:
        server.kill()
        assert not server.answers()

        server.start()

        assert server.answers()
    assert not server.folder.exists()


def test_a_server_ends_with_the_killed_test_run() -> None:
    parts.redis_program()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, Path(parts.__file__).parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return not Path(folder).exists()
        return False

    assert until(gone)


@pytest.mark.parametrize("kind", ["redis search", "valkey search"])
def test_the_query_engine_is_there(servers: parts.Servers, kind: str) -> None:
    with redis.Redis.from_url(servers.uri(kind).partition("?")[0], protocol=2) as client:
        assert isinstance(client.execute_command("FT._LIST"), list)


def test_a_cluster_has_three_masters(servers: parts.Servers) -> None:
    uri = servers.uri("redis cluster").removeprefix("redis+cluster://")
    host, port = uri.split(",")[0].split(":")
    with redis.cluster.RedisCluster(host=host, port=int(port)) as client:
        assert len(client.get_primaries()) == 3
