"""Draws what `run.py` measured; needs matplotlib, and nothing else.

python benchmarks/quality/plot.py [benchmarks/results/quality.json]
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parents[1] / "results" / "quality.json"
STREAMS = ("mixed", "qqp", "traps", "banking77", "clinc150")
_WIDEST = 5.0  # per cent error, to the right
_LEAST = 10  # lookups in a bin
# Name in the results: label, colour.
POLICIES = {
    "memora": ("Memora", "#0b6e4f"),
    "judge-alone": ("without the verifier", "#8fbfae"),
    "cosine": ("bare cosine", "#7f7f7f"),
}
PEERS = {
    "gptcache": ("GPTCache's default", "v", "#f3722c"),
    "gptcache-norm": ("GPTCache, NumpyNorm", "<", "#f8961e"),
    "mneme": ("mneme's default", "^", "#c1121f"),
    "redisvl": ("RedisVL's default", "P", "#9d4edd"),
    "reminiscence": ("reminiscence's default", "X", "#277da1"),
}


def hits(axes: Any, stream: dict[str, Any], default: str) -> None:
    """Draw hits over error: a line a policy, a mark a fixed default."""
    top = 0.0
    for name, (label, colour) in POLICIES.items():
        if not (found := stream["policies"].get(name)):
            continue
        points = [_point(found["requests"], of) for of in found["frontier"]]
        # One beyond the edge, so that the line reaches it.
        inside = sum(error <= _WIDEST for error, _ in points) + 1
        x, y = zip(*points[:inside], strict=True)
        ours = name == "memora"
        axes.plot(x, y, color=colour, lw=2.6 if ours else 1.6, label=label, zorder=3 + ours)
        top = max([top, *(hit for error, hit in points if error <= _WIDEST)])
        at = found["at"][default]
        if ours and 100 * at["error"] <= _WIDEST:
            spot = 100 * at["error"], 100 * at["hit_rate"]
            shipped = f"Memora at its default, {default}"
            axes.plot(*spot, "o", color=colour, mec="white", ms=10, label=shipped, zorder=6)
    for name, (label, marker, colour) in PEERS.items():
        of = stream["peers"].get(name)
        if of and 100 * of["error"] <= _WIDEST:
            spot = 100 * of["error"], 100 * of["hit_rate"]
            axes.plot(*spot, marker, color=colour, mec="white", ms=9, label=label, zorder=5)
    axes.axvline(1, color="black", lw=0.8, ls=":", zorder=1)
    axes.set_xlim(0, _WIDEST)
    axes.set_ylim(-0.03 * max(top, 1), 1.1 * max(top, 1))
    axes.set_xlabel("error: wrong hits of all requests, %")
    axes.set_ylabel("hits of all requests, %")


def reliable(axes: Any, stream: dict[str, Any]) -> None:
    """Draw how often a candidate was right over what its score said."""
    axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":", label="score = share")
    for name, (label, colour) in POLICIES.items():
        if not (found := stream["policies"].get(name)):
            continue
        bins = [bin_ for bin_ in found["calibration"]["bins"] if bin_["n"] >= _LEAST]
        x, y = ([bin_[key] for bin_ in bins] for key in ("stated", "observed"))
        low = [max(bin_["observed"] - bin_["low"], 0) for bin_ in bins]
        high = [max(bin_["high"] - bin_["observed"], 0) for bin_ in bins]
        width = 2.2 if name == "memora" else 1.4
        axes.errorbar(
            x, y, (low, high), color=colour, marker="o", ms=5, lw=width, elinewidth=1, label=label
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("score of the best candidate")
    axes.set_ylabel("share that was right")


def against(axes: Any, figures: list[tuple[str, dict[str, float]]], *, least: float) -> None:
    """Draw figures and their targets, one a line; `least` is where the scale begins, 0: linear."""
    for at, (_, of) in enumerate(figures):
        today, now, must, aim = (max(of[key], least) for key in ("today", "now", "must", "aim"))
        better = "#0b6e4f" if of["met"] else "#c1121f"
        axes.plot([today, now], [at, at], color="#bbbbbb", lw=2, zorder=2)
        axes.plot(must, at, "|", color="black", ms=13, mew=2, label="must", zorder=3)
        axes.plot(aim, at, "|", color="#f8961e", ms=13, mew=2, label="aim", zorder=3)
        axes.plot(today, at, "o", color="#7f7f7f", label="without the verifier", zorder=4)
        axes.plot(now, at, "o", color=better, ms=8, mec="white", zorder=5)
    for colour, label in (("#0b6e4f", "with it, met"), ("#c1121f", "with it, missed")):
        axes.plot([], [], "o", color=colour, ms=8, mec="white", label=label)
    axes.set_yticks(range(len(figures)), [name for name, _ in figures])
    axes.set_ylim(len(figures) - 0.5, -0.5)
    if least:
        axes.set_xscale("log")
        axes.set_xticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
        axes.minorticks_off()
    axes.set_xlabel("%")


def figures(rows: list[dict[str, Any]], *, higher: bool) -> list[tuple[str, dict[str, float]]]:
    """Return the measured figures with an aim of which more, or less, is better."""
    keys = ("today", "now", "must", "aim")
    return [
        (
            f"{row['title']}: {name}",
            {key: row[key][at] for key in keys} | {"met": name not in row["missed"]},
        )
        for row in rows
        if row["now"] and row["today"] and row["aim"]
        for at, name in enumerate(row["names"])
        if row["higher"][at] is higher
    ]


def without(
    axes: Any, runs: dict[str, Any], read: Callable[[dict[str, Any]], float], digits: int = 1
) -> None:
    """Draw what is left of a number without each kind of evidence."""
    kinds = list(runs)[::-1]  # the first one on top
    values = [read(runs[kind]) for kind in kinds]
    colours = ["#0b6e4f" if kind == "nothing" else "#8fbfae" for kind in kinds]
    bars = axes.barh(
        ["everything" if kind == "nothing" else f"no {kind}" for kind in kinds],
        values,
        color=colours,
    )
    blank = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # over the dotted line
    labels = [f"{value:.{digits}f}" for value in values]
    axes.bar_label(bars, labels, padding=4, fontsize=9, bbox=blank)
    axes.set_xlim(0, 1.18 * max([*values, 0.01]))
    axes.axvline(values[-1], color="black", lw=0.8, ls=":")
    axes.grid(visible=False, axis="y")


def page(
    plt: Any,
    path: Path,
    panels: list[tuple[str, Callable[[Any], None]]],
    size: tuple[float, float] = (4.6, 3.9),
) -> str:
    """Save panels, three a row, with one legend in the free place or below; return the name."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    ranks = {label: rank for rank, label in enumerate(_legend())}
    figure, axes = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False
    )
    flat = list(axes.flat)
    handles: dict[str, Any] = {}
    for one, (title, fill) in zip(flat, panels, strict=False):
        one.grid(visible=True, alpha=0.35)
        fill(one)
        one.set_title(title)
        found, labels = one.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    handles = dict(sorted(handles.items(), key=lambda item: ranks.get(item[0], 1)))
    for spare in flat[len(panels) :]:
        spare.axis("off")
    bottom = 0.0
    if handles and len(flat) > len(panels):
        flat[-1].legend(handles.values(), handles, loc="center", frameon=False, fontsize=11)
    elif handles:
        figure.legend(handles.values(), handles, loc="lower center", ncol=5, frameon=False)
        bottom = 0.12 / rows + 0.03 * -(-len(handles) // 5)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)
    return path.name


def draw(found: dict[str, Any], source: Path) -> list[str]:
    """Draw the plots beside the results; return their names."""
    import_module("matplotlib").use("Agg")
    plt = import_module("matplotlib.pyplot")
    default = f"{found['about']['default']:g}"
    streams = {name: found["streams"][name] for name in STREAMS if name in found["streams"]}
    pages: dict[str, list[tuple[str, Callable[[Any], None]]]] = {}
    if streams:
        pages["hits"] = [
            (name, lambda axes, of=of: hits(axes, of, default))  # type: ignore[misc]
            for name, of in streams.items()
        ]
        pages["calibration"] = [
            (f"{name}: {_errors(of)}", lambda axes, of=of: reliable(axes, of))  # type: ignore[misc]
            for name, of in streams.items()
        ]
    runs = found.get("ablation", {})
    if len(runs) > 1:
        measured = next(iter(runs.values()))["streams"]
        pages["ablation"] = [
            (
                f"{name}: hits at 1 % error, %",
                lambda axes, name=name: without(  # type: ignore[misc]
                    axes, runs, lambda run: 100 * run["streams"][name]["hits_at_1"]
                ),
            )
            for name in measured
        ]
        pages["ablation"].append(
            (
                "handwritten pairs: AUC",
                lambda axes: without(axes, runs, lambda run: run["handwritten_auc"], 3),
            )
        )
    named = {name: source.with_name(f"{source.stem}-{name}.png") for name in (*pages, "met")}
    names = [page(plt, named[name], panels) for name, panels in pages.items()]
    rows = found.get("targets", [])
    more, less = (figures(rows, higher=higher) for higher in (True, False))
    if more and less:
        sides: list[tuple[str, Callable[[Any], None]]] = [
            ("more is better", lambda axes: against(axes, more, least=0)),
            ("less is better", lambda axes: against(axes, less, least=0.1)),
        ]
        names.insert(0, page(plt, named["met"], sides, (6.5, 1.5 + 0.3 * len(more))))
    return names


def _legend() -> list[str]:
    """Return labels in the order of a legend; what is not among them follows the first."""
    ours = [label for label, _ in POLICIES.values()]
    peers = [label for label, _, _ in PEERS.values()]
    return [*ours, *peers, "score = share"]


def _errors(stream: dict[str, Any]) -> str:
    errors = {name: of["calibration"]["ece"] for name, of in stream["policies"].items()}
    named = {"memora": "", "judge-alone": "without verifier "}
    parts = [f"{label}{errors[name]:.3f}" for name, label in named.items() if name in errors]
    return f"ECE {', '.join(parts)}"


def _point(requests: int, of: dict[str, Any]) -> tuple[float, float]:
    served = of["right"] + of["wrong"] + of["unknown"]
    return 100 * of["wrong"] / requests, 100 * served / requests


def main() -> None:
    """Draw."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    names = draw(json.loads(source.read_text("utf-8")), source)
    print(", ".join(names))


if __name__ == "__main__":
    main()
