"""The results of `stores.py` as tables in Markdown, and with matplotlib as plots.

python benchmarks/plot_stores.py [benchmarks/results/stores.json]
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tabulate_stores import by, middle, report, results

if TYPE_CHECKING:
    from collections.abc import Callable

    from tabulate_stores import Cell

Groups: TypeAlias = "dict[tuple[Any, ...], list[Cell]]"
Panel: TypeAlias = "tuple[str, str, Callable[[Any], None]]"
RESULTS = Path(__file__).parent / "results" / "stores.json"
MANY = 10_000  # from here on, an engine's own weight is little of its memory
# One colour an engine, in every plot; ours are drawn thicker.
STYLE = {
    "memora": ("#0b6e4f", "o"),
    "memora-memory": ("#6bbf59", "s"),
    "memora-store": ("#08415c", "D"),
    "mneme": ("#c1121f", "^"),
    "gptcache": ("#f3722c", "v"),
    "redisvl": ("#9d4edd", "P"),
    "reminiscence": ("#7f7f7f", "X"),
    "lancedb": ("#b08968", "<"),
    "lancedb-batch": ("#dda15e", ">"),
}


def lines(axes: Any, groups: Groups, *path: str, least: int = 0) -> None:
    """Draw a line an engine, and a band to p99 where there is one."""
    for engine, (colour, marker) in STYLE.items():
        sizes = sorted(size for name, size in groups if name == engine and size >= least)
        values = [(n, middle(groups[engine, n], *path)) for n in sizes]
        points = [(n, value) for n, value in values if value]
        if not points:
            continue
        width = 2.4 if engine.startswith("memora") else 1.3
        x, y = [n for n, _ in points], [value for _, value in points]
        axes.plot(x, y, color=colour, marker=marker, lw=width, ms=5, label=engine)
        if path[-1] == "p50":
            high = [middle(groups[engine, n], *path[:-1], "p99") or value for n, value in points]
            axes.fill_between(x, y, high, color=colour, alpha=0.1, lw=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.4)
    axes.set_xlabel("entries")


def churned(axes: Any, cells: list[Cell], *, disk: bool) -> None:
    """Draw what constant replacement does, from where it begins."""
    for cell in results(cells, "churn", "churn"):
        colour, marker = STYLE[cell["engine"]]
        data = cell["live"] * cell["data"]
        points = [point for point in cell["points"] if point["stores"] >= cell["live"]]
        x = [point["stores"] / cell["live"] for point in points]
        y = [point["disk"] / data if disk else point["store"]["p50"] for point in points]
        label = f"{cell['engine']}, {cell['live']:,} entries"
        axes.plot(x, y, color=colour, marker=marker, ms=3, label=label)
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.4)
    axes.set_xlabel("stores, as a multiple of the entries that stay")


def page(plt: Any, path: Path, panels: list[Panel]) -> str:
    """Save panels side by side, with one legend; return the file's name."""
    figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.9), squeeze=False)
    handles: dict[str, Any] = {}
    for one, (title, label, fill) in zip(axes[0], panels, strict=True):
        fill(one)
        one.set_title(title)
        one.set_ylabel(label)
        found, labels = one.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    columns = max(min(len(handles), 5), 1)
    figure.legend(handles.values(), handles, loc="lower center", ncol=columns, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path.name


def draw(cells: list[Cell], folder: Path) -> list[str]:
    """Draw the plots; return their names."""
    import_module("matplotlib").use("Agg")
    plt = import_module("matplotlib.pyplot")
    serve = by(results(cells, "sizes", "serve"), "engine", "entries")
    built = by(results(cells, "sizes", "build"), "engine", "entries")
    for key, group in serve.items():
        built.setdefault(key, [cell["build"] for cell in group if "build" in cell])

    def of(groups: Groups, *path: str, least: int = 0) -> Callable[[Any], None]:
        return lambda axes: lines(axes, groups, *path, least=least)

    plots: dict[str, list[Panel]] = {
        "lookup": [
            ("Semantic hit: p50, shaded to p99", "ms", of(serve, "hit", "p50")),
            ("Exact hit: p50, shaded to p99", "ms", of(serve, "exact", "p50")),
        ],
        "store": [
            ("Store, acknowledged: p50, shaded to p99", "ms", of(built, "store", "p50")),
            ("From opening to the first answer", "s", of(serve, "first")),
        ],
        "space": [
            ("RAM, 1 KB payloads", "bytes an entry", of(serve, "memory", "total", least=MANY)),
            ("Disk, 1 KB payloads", "bytes an entry", of(built, "disk_per_entry")),
        ],
        "churn": [
            ("Disk under replacement", "disk / data", lambda a: churned(a, cells, disk=True)),
            ("Store under replacement", "ms, p50", lambda a: churned(a, cells, disk=False)),
        ],
    }
    return [page(plt, folder / f"stores-{name}.png", panels) for name, panels in plots.items()]


def main() -> None:
    """Write the page, and the plots where matplotlib is."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    found = json.loads(source.read_text("utf-8"))
    plots: list[str] = []
    if find_spec("matplotlib"):
        plots = draw(found["cells"], source.parent)
    else:
        print("no plots: pip install matplotlib")
    page = source.with_suffix(".md")
    page.write_text(report(found, plots), "utf-8")
    print(f"{page} and {len(plots)} plots")


if __name__ == "__main__":
    main()
