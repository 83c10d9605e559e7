"""A process of an application: serves a page of its own, at the first free one of some ports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from doubles import WordEmbedder

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def main(channel: Connection, directory: str, ports: range, hits: int, fork: bool) -> None:  # noqa: FBT001
    """Say which port it is, and end when told so. `fork`: in a child of one that serves a page."""
    cache = Memora(CacheConfig(db_uri=directory, judge="off"), embedder=WordEmbedder())
    if fork:
        inherited = cache.start_metrics_server(0)
        if child := os.fork():
            inherited.close()
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        inherited.close()  # not this process's
        assert inherited._server.socket.fileno() == -1
    server = cache.start_metrics_server(ports)
    for _ in range(hits):
        cache.lookup("q")
    channel.send(server.port)
    channel.recv()
    cache.close()
    os._exit(0)
