"""What Prometheus is told, and by whom."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition, parser
from scrape import DASHBOARD, Page, expressions, numbers_of_page, numbers_of_stats, scrape

from memora import CacheConfig, Memora
from memora.errors import ArgumentError, ClosedError
from memora.metrics import BOUNDS
from memora.prometheus import BUCKETS, MemoraCollector, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import FakeClock, WordEmbedder

SQL = {"agent": "sql"}


@pytest.fixture
def cache(embedder: WordEmbedder, clock: FakeClock) -> Iterator[Memora]:
    config = CacheConfig(judge="off", max_entries=3, max_bytes=1_000_000)
    with Memora(config, embedder=embedder, clock=clock) as cache:
        yield cache


def use(cache: Memora, clock: FakeClock) -> None:
    """Have everything happen once, at least."""
    cache.get_or_compute("computed", SQL, lambda: 1)
    cache.get_or_compute("computed", SQL, lambda: 1)
    cache.store("total sales", SQL, 1, {"tokens": 812, "cost": 0.25}, ttl=60, stale_ttl=60)
    cache.store("other", SQL, object())
    cache.lookup_many(["total sales", "total sales", "total sales now please"], SQL, 0.5)
    cache.lookup("nothing", {"agent": "other"})
    clock.advance(90)
    cache.lookup("total sales", SQL)
    clock.advance(60)
    cache.lookup("total sales", SQL)
    cache._core.report("lookup", RuntimeError("broken"))
    for number in range(5):
        cache.store(f"q{number}", SQL, number, tags="doc:1")
    cache.invalidate("q4", SQL)
    cache.outdate("doc:1")
    cache.cleanup_expired()
    cache.store("last", SQL, 1)
    cache.clear()
    cache.store("last", SQL, 1)


def page_of(*args: Any) -> Page:
    registry = CollectorRegistry()
    registry.register(MemoraCollector(*args))
    return Page(generate_latest(registry).decode())


def test_a_page_agrees_with_the_statistics_number_by_number(
    cache: Memora, clock: FakeClock
) -> None:
    use(cache, clock)

    page = page_of(cache)

    expected = numbers_of_stats(cache)
    assert numbers_of_page(page, "semantic_cache") == expected
    assert expected["evictions_by_policy"] == {"fifo": 3}
    assert expected["misses_by_reason"] == {"expired": 1, "no_candidate": 2}
    assert expected["saved"]["tokens"] == 3 * 812


def test_a_histogram_is_cumulative_and_exact_at_its_bounds(cache: Memora) -> None:
    for seconds in (0.001, 0.0011, 0.3, 30.0):
        cache._metrics.timings.lookup(seconds)

    page = page_of(cache)

    def up_to(bound: str) -> float | None:
        return page("memora_lookup_seconds_bucket", le=bound)

    assert (up_to("0.001"), up_to("0.0025"), up_to("0.5"), up_to("10.0")) == (1, 2, 3, 3)
    assert up_to("+Inf") == page("memora_lookup_seconds_count") == 4
    assert page("memora_lookup_seconds_sum") == pytest.approx(30.3021)
    assert set(BUCKETS) <= set(BOUNDS)


def test_names_and_units_are_conventional(cache: Memora, clock: FakeClock) -> None:
    use(cache, clock)
    registry = CollectorRegistry()
    registry.register(MemoraCollector(cache))

    # The strict parser: counters end in _total, a unit is the end of its family's name, ...
    text = exposition.generate_latest(registry).decode()
    families = {one.name: one for one in parser.text_string_to_metric_families(text)}

    assert families["memora_lookup_seconds"].type == "histogram"
    assert families["memora_lookup_seconds"].unit == "seconds"
    assert families["memora_lookups"].type == "counter"
    assert families["memora_entry_bytes"].unit == "bytes"
    assert families["memora_error_ratio"].unit == "ratio"
    assert all(one.documentation.endswith(".") for one in families.values())
    assert all(name.startswith("memora_") for name in families)


def test_several_caches_share_a_page_under_their_names(
    cache: Memora, embedder: WordEmbedder
) -> None:
    with Memora(CacheConfig(), embedder=embedder) as other:
        other.store("q", SQL, 1)

        page = page_of({"answers": cache, "documents": other})

        assert page("memora_entries", cache="answers") == 0
        assert page("memora_entries", cache="documents") == 1
        assert len(page.families["memora_entries"].samples) == 2


def test_the_page_of_an_application_has_one_collector(cache: Memora) -> None:
    registry = CollectorRegistry(auto_describe=True)  # as the default one
    registry.register(MemoraCollector({"a": cache}))

    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(MemoraCollector({"b": cache}))


def test_a_closed_cache_is_left_out(cache: Memora, embedder: WordEmbedder) -> None:
    other = Memora(CacheConfig(), embedder=embedder)
    collector = MemoraCollector({"a": cache, "b": other})
    other.close()

    registry = CollectorRegistry()
    registry.register(collector)

    page = Page(generate_latest(registry).decode())
    assert [one.labels["cache"] for one in page.families["memora_entries"].samples] == ["a"]


@pytest.mark.parametrize("caches", [{}, {"": None}, {3: None}])
def test_caches_without_names_are_refused(caches: Any) -> None:
    with pytest.raises(ArgumentError, match="caches by their names"):
        MemoraCollector(caches)


@pytest.mark.parametrize("caches", [3, None, ["a"], {"a": 3}])
def test_what_is_no_cache_is_refused(caches: Any) -> None:
    with pytest.raises(ArgumentError, match="caches must be a cache"):
        MemoraCollector(caches)


def test_a_server_serves_until_the_cache_is_closed(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(), embedder=embedder)
    server = cache.start_metrics_server(0, name="answers")
    cache.lookup("q")

    page = scrape(server.port)
    cache.close()

    assert page("memora_lookups_total", cache="answers", reason="no_candidate") == 1
    with pytest.raises(OSError, match="refused"):
        scrape(server.port)
    server.close()
    with pytest.raises(ClosedError):
        cache.start_metrics_server(0)


def test_a_port_in_use_is_refused_and_the_next_of_several_is_taken(cache: Memora) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ArgumentError, match=f"port {port} .* is in use"):
            cache.start_metrics_server(port)
        server = cache.start_metrics_server([port, 0])

        assert server.port != port
        assert scrape(server.port)("memora_entries") == 0


@pytest.mark.parametrize("port", [-1, 65536, "9464", True, None, 9464.0, [], range(0), [9464, "x"]])
def test_what_is_no_port_is_refused(cache: Memora, port: Any) -> None:
    with pytest.raises(ArgumentError, match="port must be"):
        cache.start_metrics_server(port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_refused(cache: Memora, host: str) -> None:
    with pytest.raises(ArgumentError, match=f"{host}.*an address of this machine"):
        serve(cache, 0, host=host)


@pytest.mark.parametrize("host", [None, 5, b"127.0.0.1", "x" * 64 + ".example"])
def test_what_is_no_host_is_refused(cache: Memora, host: Any) -> None:
    with pytest.raises(ArgumentError, match=r"host must be|metrics cannot be served"):
        serve(cache, 0, host=host)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from memora import CacheConfig, Memora\n"
        "from memora.errors import ConfigError\n"
        "from memora.embedders import FunctionEmbedder\n"
        "embedder = FunctionEmbedder(lambda texts: [[1.0, 0.0] for _ in texts], identity='x')\n"
        "cache = Memora(CacheConfig(), embedder=embedder)\n"
        "try: cache.start_metrics_server(0)\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == (
        "the Prometheus exporter needs an optional dependency: "
        "pip install 'memora-cache[prometheus]'\n"
    )


def test_a_cache_without_an_exporter_loads_no_client() -> None:
    code = (
        "import sys\n"
        "from memora import CacheConfig, Memora\n"
        "Memora(CacheConfig())\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_dashboard_shows_every_metric_and_none_that_is_not_there(
    cache: Memora, clock: FakeClock
) -> None:
    use(cache, clock)
    page = page_of(cache)
    exported = {sample.name for sample in page.samples} | {"memora_refusals_total"}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported}

    shown = {name for one in expressions() for name in re.findall(r"\bmemora_\w+", one)}

    assert shown <= exported
    assert {re.sub(r"_bucket$", "", name) for name in shown} == families


def test_the_dashboard_uses_labels_that_are_there(cache: Memora, clock: FakeClock) -> None:
    use(cache, clock)
    labels = {label for one in page_of(cache).samples for label in one.labels} | {"kind"}

    for one in expressions():
        used = set(re.findall(r"(\w+)=~?\"", one))
        used |= {name for group in re.findall(r"by \(([^)]*)\)", one) for name in group.split(", ")}
        assert used <= labels, one


def test_grafana_understands_all_of_the_dashboard() -> None:
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="Grafana's schema needs Python 3.11"
    )
    from grafana_foundation_sdk.cog import encoder, plugins  # noqa: PLC0415

    plugins.register_default_plugins()
    said = json.loads(DASHBOARD.read_text("utf-8"))

    understood = encoder.JSONEncoder(sort_keys=True).encode(models.Dashboard.from_json(said))

    assert missing(said, json.loads(understood)) == []


def missing(said: Any, understood: Any, path: str = "$") -> list[str]:
    """Return where something that is said has got lost or changed."""
    if isinstance(said, dict) and isinstance(understood, dict):
        return [
            where
            for key, value in said.items()
            for where in missing(value, understood.get(key), f"{path}.{key}")
        ]
    if isinstance(said, list) and isinstance(understood, list) and len(said) == len(understood):
        return [
            where
            for number, (one, other) in enumerate(zip(said, understood, strict=True))
            for where in missing(one, other, f"{path}[{number}]")
        ]
    return [] if said == understood else [path]
