"""An application process that serves its own metrics page, at the first free port of a range."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from doubles import WordEmbedder

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def main(channel: Connection, directory: str, ports: range, hits: int, fork: bool) -> None:  # noqa: FBT001
    """Send the port, and end on a message. With `fork`, run in a child of a process with a page."""
    cache = Memora(CacheConfig(db_uri=directory, judge="off"), embedder=WordEmbedder())
    if fork:
        inherited = cache.start_metrics_server(0)
        if child := os.fork():
            inherited.close()
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        inherited.close()  # the parent's server
        assert inherited._server.socket.fileno() == -1
    server = cache.start_metrics_server(ports)
    for _ in range(hits):
        cache.lookup("q")
    channel.send(server.port)
    channel.recv()
    cache.close()
    os._exit(0)
