"""Read a page of metrics as Prometheus does, and compare it with `get_stats`.

Also read the dashboard's queries.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client import Metric

    from memora import Memora

DASHBOARD = Path(__file__).parents[1] / "docs" / "dashboards" / "memora.json"


def expressions() -> list[str]:
    """Return the queries of the dashboard, with Grafana's variables not yet replaced."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


class Page:
    """A scraped page."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {}
        for family in text_string_to_metric_families(text):
            assert family.name not in self.families, "a family may come once only"
            self.families[family.name] = family
        self.samples = [one for family in self.families.values() for one in family.samples]

    def __call__(self, name: str, /, **labels: str) -> float | None:
        """Return the single sample with this name and these labels, among possible others."""
        found = [
            one.value
            for one in self.samples
            if one.name == name and labels.items() <= one.labels.items()
        ]
        assert len(found) < 2, f"{name} {labels} is ambiguous"
        return found[0] if found else None

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels."""
        return sum(
            one.value
            for one in self.samples
            if one.name == name and labels.items() <= one.labels.items()
        )

    def by(self, label: str, name: str, /, **labels: str) -> dict[str, float]:
        """Return the non-zero samples, by one of their labels."""
        return {
            one.labels[label]: one.value
            for one in self.samples
            if one.name == name and labels.items() <= one.labels.items() and one.value
        }


def scrape(port: int) -> Page:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return Page(answer.read().decode())


def numbers_of_stats(cache: Memora) -> dict[str, Any]:
    """Return the numbers of `get_stats` that an exporter also has, under unique names."""
    stats = cache.get_stats()
    found: dict[str, Any] = {
        name: stats[name]
        for name in (
            *("total_entries", "max_entries", "max_bytes"),
            *("entry_bytes", "payload_bytes", "index_bytes"),
            *("hits", "misses", "total_requests", "stale_hits", "results_stored"),
            *("results_not_stored", "error_rate", "outdated_tags", "saved"),
        )
    }
    for name in (
        *("hits_by_reason", "misses_by_reason", "refusals_by_kind", "errors"),
        "uncacheable",
        *("evictions_by_policy", "removals_by_reason"),
    ):
        found[name] = {label: value for label, value in stats[name].items() if value}
    for name in ("lookup", "store", "embedding", "compute"):
        found[f"{name}_samples"] = stats[f"{name}_latency_ms"]["samples"]
    for operation, stages in stats["stage_latency_ms"].items():
        for stage, latency in stages.items():
            found[f"{operation}_{stage}_samples"] = latency["samples"]
    return found


def numbers_of_page(page: Page, cache: str) -> dict[str, Any]:
    """Return the same numbers from a page."""
    of = {"cache": cache}
    found: dict[str, Any] = {
        "total_entries": page("memora_entries", **of),
        "max_entries": page("memora_limit_entries", **of),
        "max_bytes": page("memora_limit_bytes", **of),
        **{name: page(f"memora_{name}", **of) for name in ("entry_bytes", "payload_bytes")},
        "index_bytes": page("memora_index_bytes", **of),
        "hits": page.total("memora_lookups_total", result="hit", **of),
        "misses": page.total("memora_lookups_total", result="miss", **of),
        "total_requests": page.total("memora_lookups_total", **of),
        "stale_hits": page.total("memora_stale_hits_total", **of),
        "results_stored": page("memora_stores_total", result="stored", **of),
        "results_not_stored": page("memora_stores_total", result="not_stored", **of),
        "error_rate": page("memora_error_ratio", **of),
        "outdated_tags": page("memora_outdated_tags_total", **of),
        "saved": {
            name: page(f"memora_saved_{name}_total", **of)
            for name in ("calls", "seconds", "tokens", "cost")
        },
        "hits_by_reason": page.by("reason", "memora_lookups_total", result="hit", **of),
        "misses_by_reason": page.by("reason", "memora_lookups_total", result="miss", **of),
        "refusals_by_kind": page.by("kind", "memora_refusals_total", **of),
        "uncacheable": page.by("reason", "memora_uncacheable_total", **of),
        "errors": page.by("operation", "memora_errors_total", **of),
        "evictions_by_policy": page.by("policy", "memora_evictions_total", **of),
        "removals_by_reason": page.by("reason", "memora_removals_total", **of),
    }
    for name in ("lookup", "store", "embedding", "compute"):
        found[f"{name}_samples"] = page(f"memora_{name}_seconds_count", **of)
    stages = page.families["memora_stage_seconds"].samples
    for one in stages:
        if one.name.endswith("_count") and of.items() <= one.labels.items():
            name = f"{one.labels['operation']}_{one.labels['stage']}_samples"
            found[name] = one.value
    return found
