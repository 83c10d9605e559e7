"""Draws the pictures of README.md and docs/concepts.md; needs matplotlib.

python benchmarks/quality/picture.py [benchmarks/results/quality.json]

`questions` asks a cache some questions and shows what it served beside what a cosine threshold
would have served. `weights` shows what the shipped calibration takes off for each kind of evidence.
`pairs` shows the handwritten pairs that `run.py` scored: by their cosine, and by the judge.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from memora import CacheConfig, Memora

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
WEIGHTS = ROOT / "src" / "memora" / "judge" / "calibrations" / "all-MiniLM-L6-v2.json"
IMAGES = ROOT / "docs" / "images"
SAME, OTHER = "#0b6e4f", "#c1121f"
# Of the features that a feature's name does not say well.
NAMES = {
    "substitution": "words exchanged",
    "insertion": "words added",
    "names": "names differ",
    "siblings": "words that exclude each other",
    "polarity": "negation or opposite",
    "polarity_loose": "the same in loosely like texts",
    "explained": "all else are synonyms",
    "order": "roles exchanged",
    "bounds": "at least / at most",
    "question": "why / when",
    "quantifiers": "all / any / only",
}


# What is stored, and what is asked.
QUESTIONS = (
    ("What was our revenue in Q3 2024?", "How much revenue did we make in Q3 2024?"),
    ("What was our revenue in Q3 2024?", "What was our revenue in Q4 2024?"),
    ("Flights from Lyon to Zürich", "Show me flights from Lyon to Zürich"),
    ("Flights from Lyon to Zürich", "Flights from Zürich to Lyon"),
)


def questions(plt: Any, default: float) -> Any:
    """Ask a cache, and draw its decisions beside those of a cosine threshold of the same height."""
    figure, axes = plt.subplots(figsize=(10, 2.9), layout="constrained")
    axes.axis("off")
    columns = [(0.0, "stored"), (0.29, "asked"), (0.66, f"cosine ≥ {default:g}"), (0.83, "Memora")]
    for x, text in columns:
        axes.text(x, 1.0, text, weight="bold", fontsize=11, va="center")
    for row, (stored, asked) in enumerate(QUESTIONS):
        cache = Memora(CacheConfig(similarity_threshold=default))
        cache.store(stored, None, "the stored answer")
        found = cache.lookup(asked)
        nearest = found.nearest
        cosine = found.cosine if nearest is None else nearest.cosine
        similarity = found.similarity if nearest is None else nearest.similarity
        y = 0.79 - 0.22 * row
        axes.axhline(y + 0.11, color="#dddddd", lw=0.8)
        axes.text(0.0, y, stored, fontsize=10, va="center")
        axes.text(0.29, y, asked, fontsize=10, va="center")
        right = row % 2 == 0  # of each two, the second has another answer
        for x, score in ((0.66, cosine), (0.83, similarity)):
            served = score is not None and score >= default
            words = ("served", "miss") if right else ("WRONG HIT", "refused")
            word, colour = words[not served], SAME if served == right else OTHER
            axes.text(x, y, f"{score:.2f}  {word}", color=colour, fontsize=10.5, va="center")
        if found.evidence and not right:
            said = found.evidence[0]
            axes.text(0.83, y - 0.075, f"{said.kind}: {said.detail}", fontsize=7.5, va="center")
    axes.set_xlim(0, 1.07)
    axes.set_ylim(0, 1.08)
    return figure


def weights(plt: Any, calibration: dict[str, Any]) -> Any:
    """Draw what each kind of evidence is worth at most, and what the cosine is."""
    terms = calibration["terms"]
    least = {
        name: max(points, key=lambda point: abs(point[1]))[1]
        for name, points in terms.items()
        if name != "cosine"
    }
    order = sorted(least, key=lambda name: -least[name])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 4.6), width_ratios=(1.35, 1), layout="constrained"
    )
    bars = left.barh(
        [NAMES.get(name, name) for name in order],
        [least[name] for name in order],
        color=[SAME if least[name] > 0 else OTHER for name in order],
    )
    left.bar_label(bars, [f"{least[name]:+.1f}" for name in order], padding=3, fontsize=9)
    left.axvline(0, color="black", lw=0.8)
    left.margins(x=0.14)
    left.invert_yaxis()
    left.set_title("what evidence adds to the log odds, at most")
    left.grid(visible=True, axis="x", alpha=0.35)
    x, y = zip(*terms["cosine"], strict=True)
    right.plot((0.2, *x), (y[0], *y), color=SAME, marker="o", ms=4, lw=2)
    right.set_title("what the cosine adds")
    right.set_xlabel("cosine")
    right.grid(visible=True, alpha=0.35)
    return figure


def pairs(plt: Any, cosine: list[Any], judged: list[Any], default: float) -> Any:
    """Draw each pair at its cosine and its judged similarity, with both thresholds."""
    figure, axes = plt.subplots(figsize=(7.2, 5.4), layout="constrained")
    for wanted, colour, label, marker in (
        (True, SAME, "one answer serves both", "o"),
        (False, OTHER, "another answer", "X"),
    ):
        points = [
            (near[0], told[0])
            for near, told in zip(cosine, judged, strict=True)
            if near[1] == wanted
        ]
        axes.scatter(
            *zip(*points, strict=True),
            c=colour,
            marker=marker,
            s=42,
            alpha=0.7,
            edgecolors="white",
            linewidths=0.5,
            label=f"{label} ({len(points)})",
        )
    for line in (axes.axvline, axes.axhline):
        line(default, color="black", lw=0.8, ls=":")
    axes.text(
        0.01,
        default + 0.01,
        f"threshold {default:g}",
        fontsize=9,
        transform=axes.get_yaxis_transform(),
    )
    axes.set_xlabel("cosine of the two texts")
    axes.set_ylabel("judged similarity: probability that the answer is right")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(visible=True, alpha=0.35)
    axes.legend(loc="center left", frameon=True)
    return figure


def main() -> None:
    """Draw."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    found = json.loads(source.read_text("utf-8"))
    of = found["pairs"]["handwritten"]
    import_module("matplotlib").use("Agg")
    plt = import_module("matplotlib.pyplot")
    IMAGES.mkdir(parents=True, exist_ok=True)
    figures = {
        "questions": questions(plt, found["about"]["default"]),
        "weights": weights(plt, json.loads(WEIGHTS.read_text("utf-8"))),
        "pairs": pairs(
            plt, of["cosine"]["scores"], of["memora"]["scores"], found["about"]["default"]
        ),
    }
    for name, figure in figures.items():
        figure.savefig(IMAGES / f"{name}.png", dpi=90)
        print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
