"""Processes that serve pages, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import prometheus_worker
import pytest
from doubles import WordEmbedder, until
from processes import PATIENCE, Child
from scrape import expressions, numbers_of_page, numbers_of_stats, scrape

from memora import CacheConfig, Memora
from memora.cli.querylog import Columns, QueryLog
from memora.cli.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="no prometheus on PATH (Debian has a package of that name), so no real server scrapes",
)


def free_ports(number: int) -> tuple[int, int]:
    """Return the first and the last of so many ports in a row that are free now."""
    for first in range(20_000, 60_000, number):
        with ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first, first + number - 1
    raise AssertionError("no ports are free")


@contextmanager
def workers(directory: Path, *hits: int, fork: bool = False) -> Iterator[list[int]]:
    """Start a process for each; yield the ports that they serve at."""
    with Memora(CacheConfig(db_uri=str(directory), judge="off"), embedder=WordEmbedder()) as cache:
        cache.store("q", None, 1)
    first, last = free_ports(len(hits) + 2)
    ports = range(first, last + 1)
    with ExitStack() as stack:
        children = [
            Child(prometheus_worker.main, str(directory), ports, number, fork) for number in hits
        ]
        for child in children:
            stack.callback(child.end)
        assert all(child.channel.poll(PATIENCE) for child in children)
        yield [child.channel.recv() for child in children]
        for child in children:
            child.channel.send("end")
            child.wait()


def test_the_demo_s_page_agrees_with_its_statistics_number_by_number() -> None:
    with (
        as_file(files("memora") / "demo" / "queries.jsonl") as path,
        QueryLog(path, log_format=None, columns=Columns()) as log,
        Memora(CacheConfig(max_entries=200, judge="off"), embedder=WordEmbedder()) as cache,
    ):
        server = cache.start_metrics_server(0)
        report = list(Replay(cache, examples=1).run(log))[-1]

        page = scrape(server.port)
        numbers = numbers_of_page(page, "semantic_cache")

        assert numbers == numbers_of_stats(cache)
        assert numbers["total_requests"] == report.queries > 100
        assert numbers["hits"] == report.hits > 10
        assert numbers["evictions_by_policy"]["fifo"] > 0


def test_each_process_of_an_application_serves_a_page_of_its_own(tmp_path: Path) -> None:
    with workers(tmp_path / "db", 1, 2, 3) as ports:
        pages = [scrape(port) for port in ports]

        assert len(set(ports)) == 3
        hits = [page("memora_lookups_total", reason="exact") for page in pages]
        assert (hits, sum(filter(None, hits))) == ([1, 2, 3], 6)
        # Of the store they share.
        assert [page("memora_entries") for page in pages] == [1, 1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_serves_its_own_page_and_not_its_parent_s(tmp_path: Path) -> None:
    with workers(tmp_path / "db", 4, fork=True) as (port,):
        assert scrape(port)("memora_lookups_total", reason="exact") == 4


class Prometheus:
    """A real server, which scrapes some ports every second."""

    def __init__(self, folder: Path, targets: list[int]) -> None:
        (self.port, _), config = free_ports(1), folder / "prometheus.yml"
        addresses = ", ".join(f"'127.0.0.1:{port}'" for port in targets)
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            f"- {{job_name: app, static_configs: [{{targets: [{addresses}]}}]}}\n",
            "utf-8",
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(str(PROMETHEUS), f"--config.file={config}"),
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def __call__(self, what: str, **parameters: str) -> Any:
        """Ask its API."""
        asked = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{asked}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def value(self, expression: str) -> float | None:
        """Evaluate an expression that is one number; None where it is not there yet."""
        try:
            found = self("query", query=expression)["result"]
        except OSError:  # it is starting
            return None
        return float(found[0]["value"][1]) if found else None


@contextmanager
def prometheus(folder: Path, targets: list[int]) -> Iterator[Prometheus]:
    folder.mkdir()
    server = Prometheus(folder, targets)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


@needs_prometheus
def test_a_real_prometheus_scrapes_all_processes_and_knows_the_dashboard_s_queries(
    tmp_path: Path,
) -> None:
    with (
        workers(tmp_path / "db", 1, 2, 3) as ports,
        prometheus(tmp_path / "prometheus", ports) as server,
    ):
        hits = 'sum(memora_lookups_total{result="hit"})'
        assert until(lambda: server.value(hits) == 6, seconds=90), server.value(hits)

        assert server.value("sum(up)") == 3
        assert server.value("sum(memora_lookup_seconds_count)") == 6
        assert server.value("max(memora_entries)") == 1
        about = server("metadata")  # by families or by samples, as its version has it
        counter = about.get("memora_lookups") or about["memora_lookups_total"]
        assert counter[0]["type"] == "counter"
        assert about["memora_lookup_seconds"][0]["type"] == "histogram"
        for expression in expressions():
            server("query", query=filled(expression))
        assert server.value(filled("sum(memora_entries{cache=~'$cache'})")) == 3


@needs_prometheus
def test_prometheus_s_own_linter_has_nothing_to_say(embedder: WordEmbedder) -> None:
    with Memora(CacheConfig(max_bytes=1_000_000), embedder=embedder) as cache:
        cache.get_or_compute("q", None, lambda: 1)
        cache.lookup("q")
        port = cache.start_metrics_server(0).port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            page = answer.read()

    done = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, check=False
    )

    assert (done.stdout + done.stderr).decode() == ""
    assert done.returncode == 0


def filled(expression: str) -> str:
    """Return an expression as Grafana sends it: all caches, of a minute."""
    return re.sub(r"\$__(rate_interval|range)", "1m", expression.replace("$cache", ".*"))
