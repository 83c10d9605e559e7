"""The results of `stores.py` as a table in Markdown, and with matplotlib as plots.

python benchmarks/plot_stores.py [benchmarks/results/stores.json]
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Cell: TypeAlias = "dict[str, Any]"
ORDER = (
    "memora",
    "memora-memory",
    "memora-store",
    "mneme",
    "gptcache",
    "redisvl",
    "reminiscence",
    "lancedb",
    "lancedb-batch",
)


def results(cells: Iterable[Cell], scene: str, cell: str) -> Iterator[Cell]:
    """Yield the cells of a scene that have a result, as one flat dictionary each."""
    for found in cells:
        if found["scene"] == scene and found["cell"] == cell and "result" in found:
            yield {**found, **found["result"]}


def middle(cells: Iterable[Cell], *path: str) -> float | None:
    """Return the median over repetitions of what stands at a path."""
    values = []
    for cell in cells:
        value: Any = cell
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value))
    return median(values) if values else None


def by(cells: Iterable[Cell], *names: str) -> dict[tuple[Any, ...], list[Cell]]:
    """Group cells."""
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[name] for name in names)].append(cell)
    return groups


def shown(value: float | None, unit: str = "") -> str:
    """Print three significant digits."""
    if value is None:
        return "-"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004
    return f"{digits}{unit}"


def table(header: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table's lines, the first column to the left; none without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    marks = "---|" + "---:|" * (header.count("|"))
    return [f"| {header} |", f"|{marks}", *lines, ""] if lines else []


def section(title: str, lines: list[str]) -> list[str]:
    """Return the lines under a heading; none without lines, where a scene was not run."""
    return [f"## {title}", "", *lines] if lines else []


def pair(cells: list[Cell], *path: str) -> str:
    """Print p50 / p99."""
    low, high = middle(cells, *path, "p50"), middle(cells, *path, "p99")
    return "-" if low is None else f"{shown(low)} / {shown(high)}"


def of_sizes(cells: list[Cell]) -> list[str]:
    """Return the table of entries."""
    serve = by(results(cells, "sizes", "serve"), "engine", "entries")
    built = by(results(cells, "sizes", "build"), "engine", "entries")

    def row(entries: int, engine: str) -> list[str]:
        served = serve[engine, entries]
        made = built.get((engine, entries)) or [cell["build"] for cell in served]
        return [
            f"{entries:,} {engine}",
            pair(served, "hit"),
            pair(served, "exact"),
            pair(served, "miss"),
            pair(made, "store"),
            shown(middle(served, "recall")),
            shown(middle(served, "memory", "total")),
            shown(middle(made, "disk_per_entry")),
            shown(middle(served, "first")),
            pair(served, "early"),
            shown(middle(served, "settled")),
        ]

    header = (
        "entries, engine | semantic hit, ms | exact hit, ms | miss, ms | store, ms | recall@1 "
        "| RAM B/entry | disk B/entry | first answer, s "
        "| hit in the first second, ms | idle after, s"
    )
    ordered = sorted(serve, key=lambda pair: (pair[1], ORDER.index(pair[0])))
    return table(header, (row(entries, engine) for engine, entries in ordered))


def of_variants(cells: list[Cell], scene: str, name: str) -> list[str]:
    """Return the table of contexts or payload sizes."""
    serve = by(results(cells, scene, "serve"), "entries", name, "engine")
    built = by(results(cells, scene, "build"), "entries", name, "engine")
    header = (
        f"entries, {name}, engine | hit, ms | exact hit, ms | store, ms | RAM B/entry "
        "| disk B/entry | first answer, s"
    )
    rows = (
        [
            f"{key[0]:,}, {key[1]:,}, {key[2]}",
            pair(serve[key], "hit"),
            pair(serve[key], "exact"),
            pair(built[key], "store"),
            shown(middle(serve[key], "memory", "total")),
            shown(middle(built[key], "disk_per_entry")),
            shown(middle(serve[key], "first")),
        ]
        for key in sorted(serve)
    )
    return table(header, rows)


def of_memory(cells: list[Cell]) -> list[str]:
    """Return the table of RAM with payloads hot and not."""
    header = "hot payloads, bytes | RAM B/entry | after every payload was read"
    groups = by(
        (
            {**cell, "hot": cell["options"]["hot_payload_bytes"]}
            for cell in results(cells, "memory", "serve")
        ),
        "entries",
        "hot",
    )
    return table(
        header,
        (
            [
                f"{entries:,} entries, {hot:,}",
                shown(middle(group, "memory", "total")),
                shown(middle(group, "memory_touched", "total")),
            ]
            for (entries, hot), group in groups.items()
        ),
    )


def of_durability(cells: list[Cell]) -> list[str]:
    """Return the table of acknowledgements."""
    header = "engine, durability, threads | store, ms | stores a second | one sync, ms"
    found = results(cells, "durability", "acks")
    return table(
        header,
        (
            [
                f"{cell['engine']}, {cell['options']['durability']}, {cell['threads']}",
                pair([cell], "store"),
                shown(cell["per_second"]),
                pair([cell], "sync"),
            ]
            for cell in found
        ),
    )


def of_company(cells: list[Cell]) -> list[str]:
    """Return the table of threads, a writer and processes."""

    def rows() -> Iterator[list[str]]:
        for cell in results(cells, "company", "threads"):
            yield [
                f"{cell['entries']:,} {cell['engine']}, threads: {cell['threads']}",
                pair([cell], "hit"),
                shown(cell["per_second"]),
            ]
        for cell in results(cells, "company", "writer"):
            for name, words in (("quiet", "alone"), ("busy", "beside a writer")):
                yield [f"{cell['entries']:,} {cell['engine']}, {words}", pair([cell], name), "-"]
        for cell in results(cells, "company", "processes"):
            beside = ", beside one that writes" * cell["writer"]
            yield [
                f"{cell['entries']:,} memora, processes: {cell['processes']}{beside}",
                f"{shown(cell['p50'])} / {shown(cell['p99'])}",
                shown(cell["per_second"]),
            ]
        for cell in results(cells, "company", "visible"):
            yield [
                f"{cell['entries']:,} memora, until another process sees an entry",
                f"{shown(cell['delay']['p50'])}, at most {shown(cell['max'])}",
                "-",
            ]

    return table("entries, engine, company | hit, ms | lookups a second", rows())


def of_churn(cells: list[Cell]) -> list[str]:
    """Return the table of disk and RAM under constant replacement."""

    def rows() -> Iterator[list[str]]:
        for cell in results(cells, "churn", "churn"):
            data, points = cell["live"] * cell["data"], cell["points"]
            ratios = [point["disk"] / data for point in points if point["stores"] >= cell["live"]]
            yield [
                f"{cell['engine']}, {cell['live']:,} stay of {points[-1]['stores']:,}",
                shown(max(ratios, default=None)),
                shown(ratios[-1] if ratios else None),
                shown(cell["closed"] / data),
                pair(points, "store"),
                shown((points[-1]["ram"] - points[len(points) // 2]["ram"]) / 2**20),
            ]

    header = "engine | disk / data, most | last | closed | store, ms | RAM, second half, MiB"
    return table(header, rows())


def report(found: dict[str, Any], plots: list[str]) -> str:
    """Return the page."""
    about, cells = found["about"], found["cells"]
    versions = {k: v for engine in about["versions"].values() for k, v in engine.items()}
    failed = [
        f"- {cell['scene']} {cell['cell']}, {cell['engine']}, {cell['entries']:,} entries: "
        f"{cell['error']}"
        for cell in cells
        if "error" in cell
    ]
    intro = (
        f"{about['machine']}; {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}. "
        f"Vectors: {about['vectors']}. Seed {about['seed']}; OpenBLAS and OpenMP threads: "
        f"{about['blas_threads']}; {about['started']}; load average "
        f"{about['load_at_start']:.1f} at the start and {about['load_at_end']:.1f} at the end. "
        "p50 / p99, medians over fresh processes. How it is measured, and our bias: "
        "[README](../README.md#stores)."
    )
    lines = [
        "# Stores",
        "",
        "```console",
        f"$ {about['command']}",
        "```",
        "",
        intro,
        "",
        *(f"![{name}]({name})" for name in plots),
        "",
        *section("Entries", of_sizes(cells)),
        *section("Contexts", of_variants(cells, "contexts", "contexts")),
        *section("Payload sizes", of_variants(cells, "payloads", "payload")),
        *section("Memory", of_memory(cells)),
        *section("Durability", of_durability(cells)),
        *section("Threads, a writer, processes", of_company(cells)),
        *section("Churn", of_churn(cells)),
    ]
    if failed or found["missing"]:
        absent = [f"- {name}: {why}" for name, why in found["missing"].items()]
        lines += section("Not measured", [*absent, *failed, ""])
    return "\n".join(lines)
