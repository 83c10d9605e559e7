"""What OpenTelemetry is told, through its SDK's exporters in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from memora import CacheConfig, Memora
from memora.core import Core
from memora.errors import EmbedderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import FakeClock, WordEmbedder
    from opentelemetry.sdk.trace import ReadableSpan

SQL = {"agent": "sql"}
SECRET = "a private question"  # noqa: S105 - a text, no password
EXPORTER, READER = InMemorySpanExporter(), InMemoryMetricReader()


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    """Set the SDK up, as an application does: once a process, and an example may have done so."""
    trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    metrics.set_meter_provider(MeterProvider([READER]))


@pytest.fixture
def cache(
    embedder: WordEmbedder, clock: FakeClock, request: pytest.FixtureRequest
) -> Iterator[Memora]:
    EXPORTER.clear()
    # A table of its own: what other tests counted is not mixed in.
    table = request.node.name.replace("[", "-").strip("]")
    config = CacheConfig(opentelemetry=True, judge="off", table_name=table)
    with Memora(config, embedder=embedder, clock=clock) as cache:
        yield cache


def spans() -> list[ReadableSpan]:
    return list(EXPORTER.get_finished_spans())


def told(cache: Memora) -> dict[str, dict[tuple[tuple[str, Any], ...], Any]]:
    """Return the points of this cache by metric, and by their attributes but the table's."""
    found: dict[str, dict[tuple[tuple[str, Any], ...], Any]] = {}
    data = READER.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    about = dict(point.attributes or {})
                    if about.pop("db.collection.name") == cache.config.table_name:
                        found.setdefault(metric.name, {})[tuple(sorted(about.items()))] = point
    return found


def test_a_lookup_is_a_span_with_the_conventional_attributes(cache: Memora) -> None:
    cache.store("total sales in june", SQL, 1)
    cache.lookup("total sales in june please", SQL, 0.5)
    cache.lookup("something else", SQL)
    table = cache.config.table_name

    store, hit, miss = spans()

    assert [one.name for one in (store, hit, miss)] == [
        *(f"store {table}", f"lookup {table}", f"lookup {table}")
    ]
    assert hit.attributes is not None
    assert dict(hit.attributes) == {
        "db.system.name": "memora",
        "db.collection.name": table,
        "db.operation.name": "lookup",
        "db.response.returned_rows": 1,
        "memora.result": "hit",
        "memora.reason": "semantic",
        "memora.threshold": 0.5,
        "memora.similarity": hit.attributes["memora.similarity"],
    }
    assert 0.5 <= float(str(hit.attributes["memora.similarity"])) < 1
    assert (miss.attributes or {})["memora.reason"] == "below_threshold"
    assert (store.attributes or {})["memora.stored"] == 1
    assert {one.kind for one in spans()} == {SpanKind.INTERNAL}
    assert {one.status.status_code for one in spans()} == {StatusCode.UNSET}


def test_a_batch_is_one_span(cache: Memora) -> None:
    cache.store_many([("a", SQL, 1), ("b", SQL, object())])
    cache.lookup_many(["a", "b", "c"], SQL)

    store, lookup = (dict(one.attributes or {}) for one in spans())

    assert (store["db.operation.name"], store["db.operation.batch.size"]) == ("BATCH store", 2)
    assert store["memora.stored"] == 1
    assert (lookup["db.operation.name"], lookup["db.operation.batch.size"]) == ("BATCH lookup", 3)
    assert lookup["db.response.returned_rows"] == 1


def test_a_batch_of_one_is_told_as_one(cache: Memora) -> None:
    cache.lookup_many(["q"], SQL)

    (lookup,) = (dict(one.attributes or {}) for one in spans())

    assert lookup["db.operation.name"] == "lookup"
    assert (lookup["memora.result"], lookup["memora.reason"]) == ("miss", "no_candidate")


@pytest.mark.parametrize("side", ["threads", "asyncio", "trio"])
def test_spans_belong_to_the_application_s(cache: Memora, side: str) -> None:
    """Also those that the model makes, though it may run in a thread."""
    tracer = trace.get_tracer("application")
    embed = cache._ports.embedder._inner.embed  # type: ignore[attr-defined]

    def traced(texts: Any) -> Any:
        with tracer.start_as_current_span("model"):
            return embed(texts)

    cache._ports.embedder._inner.embed = traced  # type: ignore[attr-defined]

    async def ask() -> None:
        with tracer.start_as_current_span("request"):
            await cache.alookup("q", SQL)

    if side == "threads":
        with tracer.start_as_current_span("request"):
            cache.lookup("q", SQL)
    else:
        anyio.run(ask, backend=side)

    model, lookup, request = spans()
    assert model.name == "model"
    assert model.parent == lookup.get_span_context()
    assert lookup.parent == request.get_span_context()


def test_a_fault_fails_the_span_and_not_the_application(cache: Memora) -> None:
    def broken(_: Any) -> Any:
        raise EmbedderError(f"cannot read {SECRET}")

    cache._ports.embedder._inner.embed = broken  # type: ignore[attr-defined]
    assert cache.lookup(SECRET, SQL).reason == "error"
    assert cache.lookup("q", SQL).is_miss

    found, other = spans()

    assert found.status.status_code is StatusCode.ERROR
    assert (found.attributes or {})["error.type"] == "EmbedderError"
    assert found.events == other.events == ()
    points = told(cache)["db.client.operation.duration"]
    assert {dict(about).get("error.type") for about in points} == {"EmbedderError"}


def test_a_fault_that_is_raised_fails_the_span(embedder: WordEmbedder) -> None:
    EXPORTER.clear()
    config = CacheConfig(opentelemetry=True, fail_open=False, table_name="closed")

    def broken(_: Any) -> Any:
        raise EmbedderError(f"cannot read {SECRET}")

    embedder.embed = broken  # type: ignore[method-assign]
    with Memora(config, embedder=embedder) as cache, pytest.raises(EmbedderError):
        cache.lookup("q", SQL)

    (found,) = spans()
    assert found.status.status_code is StatusCode.ERROR
    assert (found.attributes or {})["error.type"] == "EmbedderError"


def test_a_fault_of_the_background_fails_no_span_of_the_application(cache: Memora) -> None:
    with trace.get_tracer("application").start_as_current_span("request"):
        cache._core.report("cleanup", RuntimeError("broken"))

    (request,) = spans()
    assert request.status.status_code is StatusCode.UNSET


def test_no_text_is_told(cache: Memora) -> None:
    cache.store(SECRET, {"tenant": SECRET}, SECRET, {"said": SECRET}, tags=SECRET)
    cache.lookup(SECRET, {"tenant": SECRET})
    cache.lookup(f"{SECRET} please", {"tenant": SECRET})

    data = READER.get_metrics_data()

    assert data is not None
    assert len(spans()) == 3
    assert SECRET not in data.to_json() + "".join(one.to_json() for one in spans())


def test_metrics_agree_with_the_statistics(cache: Memora) -> None:
    cache.store("a", SQL, 1, {"tokens": 812, "cost": 0.25})
    cache.lookup("a", SQL)
    cache.lookup("a", SQL)
    cache.lookup("nothing", {"agent": "other"})

    points, stats = told(cache), cache.get_stats()

    def value(name: str, **labels: str) -> Any:
        wanted = tuple(sorted((f"memora.{label}", said) for label, said in labels.items()))
        return points[f"memora.{name}"][wanted].value

    assert value("lookups", result="hit", reason="exact") == stats["hits"] == 2
    assert value("lookups", result="miss", reason="no_candidate") == stats["misses"] == 1
    assert value("saved_tokens") == stats["saved"]["tokens"] == 1624
    assert value("entries") == stats["total_entries"] == 1
    assert value("error_ratio") == stats["error_rate"] == 0
    durations = {
        dict(about)["db.operation.name"]: point
        for about, point in points["db.client.operation.duration"].items()
    }
    assert (durations["lookup"].count, durations["store"].count) == (3, 1)
    assert durations["lookup"].explicit_bounds[-1] == 10.0


def test_a_cache_that_is_closed_or_gone_is_told_no_more(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(opentelemetry=True, table_name="gone"), embedder=embedder)
    cache.lookup("q")
    assert "memora.lookups" in told(cache)

    cache.close()

    assert "memora.lookups" not in told(cache)


def test_what_is_not_switched_on_is_not_there(embedder: WordEmbedder) -> None:
    EXPORTER.clear()
    with Memora(CacheConfig(table_name="off"), embedder=embedder) as cache:
        cache.lookup("q")

        assert type(cache._core) is Core
        assert spans() == []
        assert told(cache) == {}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_without_the_extra_the_error_says_what_to_install() -> None:
    said = run(
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from memora import CacheConfig, Memora\n"
        "from memora.errors import ConfigError\n"
        "try: Memora(CacheConfig(opentelemetry=True))\n"
        "except ConfigError as error: print(error)\n"
    )

    assert said == (
        "opentelemetry=True needs an optional dependency: pip install 'memora-cache[otel]'\n"
    )


def test_the_api_alone_is_enough_and_a_cache_without_it_loads_none() -> None:
    said = run(
        "import json, sys\n"
        "from memora import CacheConfig, Memora\n"
        "from memora.embedders import FunctionEmbedder\n"
        "embedder = FunctionEmbedder(lambda texts: [[1.0, 0.0] for _ in texts], identity='x')\n"
        "Memora(CacheConfig(), embedder=embedder).lookup('q')\n"
        "before = 'opentelemetry' in sys.modules\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "cache = Memora(CacheConfig(opentelemetry=True), embedder=embedder)\n"
        "print(json.dumps([before, cache.lookup('q').reason]))\n"
    )

    assert json.loads(said) == [False, "no_candidate"]
