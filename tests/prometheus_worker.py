"""A process of an application: serves a page of its own, on the first of some ports that is free.

    python tests/prometheus_worker.py DIRECTORY FIRST_PORT LAST_PORT HITS

Says which port that is, and ends when its standard input does. Run with `--fork` as a fifth
argument it is a child that was forked while its parent served a page.
"""

from __future__ import annotations

import os
import sys

from doubles import WordEmbedder

from memora import CacheConfig, Memora

directory, first, last, hits = sys.argv[1], *map(int, sys.argv[2:5])
cache = Memora(CacheConfig(db_uri=directory, judge="off"), embedder=WordEmbedder())
if sys.argv[5:] == ["--fork"]:
    inherited = cache.start_metrics_server(0)
    if child := os.fork():
        inherited.close()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    inherited.close()  # not this process's
    assert inherited._server.socket.fileno() == -1
server = cache.start_metrics_server(range(first, last + 1))
for _ in range(hits):
    cache.lookup("q")
sys.stdout.write(f"{server.port}\n")
sys.stdout.flush()
sys.stdin.read()
cache.close()
os._exit(0)
