"""Does `memora calibrate` count what this benchmark counts, and keep a budget on unseen queries?

python benchmarks/quality/calibrate.py --output benchmarks/results/calibrate.md

The development files mark some of their rows "heldout": nothing is trained or developed on them.
Here they are the test: thresholds are recommended by the other rows, then tried on these, and
nothing is chosen by how that ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1]))  # for machine

import numpy as np
from data import RIGHT, Pairs, Stream, load_stream, records
from evaluate import DATA, Bench
from machine import machine
from policies import judge_policy
from replay import Replay, Scene, through_library
from vectors import default_cache

from memora.context import canonical_query
from memora.tuning import GRID, curve, interval, recommend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from replay import Outcome

    from memora.tuning import Of

# Files of pairs with both labels.
FILES = {
    "qqp": "qqp/pairs_train.jsonl.gz",
    "semantoneg": "nearmiss/semantoneg_dev.jsonl.gz",
    "synthetic": "nearmiss/synthetic_pairs_dev.jsonl",
    "handwritten": "pairs/handwritten_dev.jsonl",
}
TESTED = ("qqp", "semantoneg")  # of them, those with enough rows for a test
STREAMS = ("mixed", "traps", "banking77")
BUDGETS = (0.005, 0.01, 0.02, 0.05)
KINDS: tuple[Of, ...] = ("all", "hits")
_SAMPLE, _DRAWS = 2_000, 400
_SEED = 20
_COMMAND = "python benchmarks/quality/calibrate.py --output benchmarks/results/calibrate.md"
_DOCS = "../../docs/operations.md#tuning-the-threshold"
_PROGRAM = "from memora.cli import main; main()"


@dataclass(frozen=True)
class Seen:
    """Pairs with their scores by the benchmark."""

    similarity: NDArray[np.float64]
    right: NDArray[np.bool_]

    def counts(self) -> list[tuple[int, int]]:
        """Return how many are served, and how many of them wrongly, by each threshold."""
        served = [self.similarity >= threshold for threshold in GRID]
        return [(int(chosen.sum()), int((chosen & ~self.right).sum())) for chosen in served]

    def wrong(self, threshold: float, of: Of) -> tuple[int, int]:
        """Return how many are served wrongly, and of how many."""
        served = self.similarity >= threshold
        whole = int(served.sum()) if of == "hits" else len(served)
        return int((served & ~self.right).sum()), whole


def memora(*arguments: str | Path) -> dict[str, Any]:
    """Run `memora calibrate --json`; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "calibrate", *map(str, arguments), "--json"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seen(bench: Bench, name: str, rows: Sequence[dict[str, Any]]) -> Seen:
    """Score rows of pairs as the benchmark does."""
    suite = Pairs(
        name,
        [canonical_query(row["a"]) for row in rows],
        [canonical_query(row["b"]) for row in rows],
        np.array([bool(row["same"]) for row in rows]),
        [""] * len(rows),
    )
    scores, _ = bench.pair_scores(judge_policy(kept=bench.cache), suite)
    return Seen(scores, suite.same)


def shadow(scene: Scene, path: Path, *, identity: str) -> None:
    """Replay a stream through a cache in shadow mode, whose answers are the classes."""
    answers = scene.stream.classes.tolist()
    found, _ = through_library(
        scene, answers, identity=identity, mode="shadow", shadow_log=str(path)
    )
    if any(one.is_hit for one in found):
        raise RuntimeError("a hit in shadow mode")


def halves(stream: Stream) -> tuple[Stream, Stream]:
    """Part a stream by its classes, at random: no class is in both."""
    draw = np.random.default_rng(_SEED)
    first = draw.random(int(stream.classes.max()) + 1) < 0.5  # noqa: PLR2004
    parts = []
    for wanted in (True, False):
        kept = np.flatnonzero(first[stream.classes] == wanted).tolist()
        parts.append(
            Stream(
                stream.name,
                [stream.texts[at] for at in kept],
                stream.classes[kept],
                stream.components[kept],
                [stream.types[at] for at in kept],
                stream.negatives,
            )
        )
    return parts[0], parts[1]


def scene_of(bench: Bench, stream: Stream) -> Scene:
    """Return a stream, ready to be replayed."""
    return Scene.of(stream, bench.vectors.of(stream.texts))


def pairs_part(bench: Bench, folder: Path) -> tuple[list[str], dict[str, tuple[Seen, Seen]]]:
    """Compare the curves of pairs; return the rows of a table, and what is scored of TESTED."""
    lines, tested = [], {}
    for name, file in FILES.items():
        rows = [row for row in records(bench.data / file) if row["a"].strip() and row["b"].strip()]
        development = [row for row in rows if row.get("split", "dev") == "dev"]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in development), "utf-8")
        ours = seen(bench, name, development)
        told = [(point["served"], point["wrong"]) for point in memora(path)["curve"]]
        lines.append(_compared(f"pairs: {name}", len(development), told, ours.counts()))
        if name in TESTED:
            kept_back = [row for row in rows if row.get("split") == "heldout"]
            tested[name] = ours, seen(bench, name, kept_back)
        _say(name)
    return lines, tested


def streams_part(bench: Bench, folder: Path) -> tuple[list[str], list[str]]:
    """Compare the curves of shadow logs; then choose by one half, and serve the other."""
    lines, kept = [], []
    for name in STREAMS:
        stream = load_stream(bench.data, name)
        whole = bench.scene(name)
        path = folder / f"{name}.log"
        shadow(whole, path, identity=bench.vectors.identity)
        told = [(p["served"], p["wrong"]) for p in memora("--from-log", path)["curve"]]
        replay = Replay(whole, judge_policy(kept=bench.cache))
        counts = []
        for threshold in GRID:
            found = replay.run(threshold, store="always")
            counts.append((int(found.hit.sum()), int(_wrong(found).sum())))
        lines.append(_compared(f"shadow log: {name}", len(stream), told, counts))
        seen_half, other = halves(stream)
        path = folder / f"{name}-half.log"
        shadow(scene_of(bench, seen_half), path, identity=bench.vectors.identity)
        serving = Replay(scene_of(bench, other), judge_policy(kept=bench.cache))
        for of in KINDS:
            for budget in BUDGETS:
                advice = memora("--from-log", path, "--max-wrong", str(budget), "--of", of)
                chosen = advice["recommendation"]
                if chosen["threshold"] is None:
                    kept.append(_none(name, of, budget, chosen["status"]))
                    continue
                outcome = serving.run(chosen["threshold"])
                wrong, hits = (int(one.sum()) for one in (_wrong(outcome), outcome.hit))
                tried = wrong, hits if of == "hits" else len(other)
                share = hits / len(other)
                kept.append(_kept(name, of, budget, chosen, tried=tried, served=share))
        _say(f"shadow {name}")
    return lines, kept


def _wrong(outcome: Outcome) -> NDArray[np.bool_]:
    """Return the wrong hits; an unlabelled pair has unequal answers, so it counts as wrong."""
    found: NDArray[np.bool_] = outcome.hit & (outcome.verdicts != RIGHT)
    return found


def tests_part(tested: dict[str, tuple[Seen, Seen]]) -> tuple[list[str], list[str]]:
    """Try recommendations on rows that were kept back: of all development rows, and of samples."""
    lines, sampled = [], []
    draw = np.random.default_rng(_SEED)
    for name, (ours, unseen) in tested.items():
        judged = curve(ours.similarity, ours.right)
        for of in KINDS:
            for budget in BUDGETS:
                found = recommend(judged, budget, of=of)
                if found.point is None or found.wrong is None:
                    lines.append(_none(name, of, budget, found.status))
                    continue
                threshold = found.point.threshold
                told = {
                    "threshold": threshold,
                    "wrong": {"value": found.wrong.value, "high": found.wrong.high},
                }
                served = float((unseen.similarity >= threshold).mean())
                tried = unseen.wrong(threshold, of)
                lines.append(_kept(name, of, budget, told, tried=tried, served=served))
        sampled += [
            _sampled(name, ours, unseen, draw, of=of, budget=budget)
            for of in KINDS
            for budget in BUDGETS
        ]
        _say(f"test {name}")
    return lines, sampled


def _sampled(  # noqa: PLR0913 - one row
    name: str, ours: Seen, unseen: Seen, draw: np.random.Generator, *, of: Of, budget: float
) -> str:
    chosen = broken = 0
    for _ in range(_DRAWS):
        rows = draw.choice(len(ours.right), min(_SAMPLE, len(ours.right) // 2), replace=False)
        found = recommend(curve(ours.similarity[rows], ours.right[rows]), budget, of=of)
        if found.point is None:
            continue
        wrong, whole = unseen.wrong(found.point.threshold, of)
        chosen, broken = chosen + 1, broken + (wrong / max(whole, 1) > budget)
    of_chosen = f"{100 * broken / chosen:.1f}" if chosen else "-"
    return f"| {name} | {of} | {100 * budget:g} | {chosen} of {_DRAWS} | {broken} | {of_chosen} |"


def _compared(
    name: str, count: int, told: list[tuple[int, int]], ours: list[tuple[int, int]]
) -> str:
    off = [max(abs(a - c), abs(b - d)) for (a, b), (c, d) in zip(told, ours, strict=True)]
    equal = sum(one == 0 for one in off)
    return f"| {name} | {count:,} | {equal} of {len(off)} | {max(off)} |"


def _none(name: str, of: Of, budget: float, status: str) -> str:
    said = {"too_few": "too few", "out_of_reach": "out of reach"}[status]
    return f"| {name} | {of} | {100 * budget:g} | {said} | | | | |"


def _kept(  # noqa: PLR0913 - one row
    name: str,
    of: Of,
    budget: float,
    chosen: dict[str, Any],
    *,
    tried: tuple[int, int],
    served: float,
) -> str:
    wrong, whole = tried
    low, high = (float(end[0]) for end in interval(np.array([wrong]), np.array([whole]), 0.95))
    share = wrong / max(whole, 1)
    verdict = "yes" if share <= budget else "**no**"
    shown = chosen["wrong"]
    return (
        f"| {name} | {of} | {100 * budget:g} | {chosen['threshold']:g} "
        f"| {100 * shown['value']:.2f}, at most {100 * shown['high']:.2f} | {100 * served:.1f} "
        f"| {100 * share:.2f} ({100 * low:.2f} to {100 * high:.2f}) | {verdict} |"
    )


def _say(what: str) -> None:
    print(f"{time.perf_counter() - _START:6.1f} s  {what}", file=sys.stderr, flush=True)


_START = time.perf_counter()
_TRIED = """
| | wrong of | budget % | threshold | wrong % where it was chosen | served % | wrong % | kept |
|---|---|---:|---:|---:|---:|---:|---|"""


def report(
    curves: Sequence[str], tested: Sequence[str], sampled: Sequence[str], served: Sequence[str]
) -> str:
    """Return the page."""
    lines = [
        "# Choosing a threshold by labelled pairs",
        "",
        f"Made by `{_COMMAND}`; [how to choose one]({_DOCS}). {machine('memora-cache', 'scipy')}.",
        "",
        "## The same curve",
        "",
        (
            "What `memora calibrate` counts at each of its 201 thresholds, beside what "
            "`benchmarks/quality` counts: for pairs its scores of the same development rows; for "
            'streams its replay where everything is stored (`store="always"`), as it is in shadow '
            "mode. Where they differ by one, the fifth nearest candidate is another, by rounding."
        ),
        "",
        "| | pairs or lookups | thresholds with equal counts | largest difference |",
        "|---|---:|---:|---:|",
        *curves,
        "",
        "## On pairs it has not seen",
        "",
        (
            "Chosen by the development rows, which the judge was trained on too, and tried on the "
            'rows marked "heldout", which nothing was trained on. In brackets the 95 % interval of '
            "the test."
        ),
        _TRIED,
        *tested,
        "",
        (
            f"The same from samples of {_SAMPLE:,} development pairs (of a smaller file half), "
            f"drawn {_DRAWS} times: how often something was recommended, and in how many of those "
            "the budget was broken on the rows kept back. With 95 % confidence that may be 5 %."
        ),
        "",
        "| | wrong of | budget % | recommended | broken | % |",
        "|---|---|---:|---:|---:|---:|",
        *sampled,
        "",
        "## From shadow mode to serving",
        "",
        (
            "Streams parted by their classes: one half is looked up in shadow mode, where "
            "everything is stored; the other half is served at the threshold that its log "
            "recommends, and stored on a miss. Unlabelled neighbours count as wrong. Not only "
            "the queries differ here: a cache that serves holds fewer entries, and one that is "
            "missing can bring another, wrong one to the top."
        ),
        _TRIED,
        *served,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compare, test, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="the labelled queries")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of embeddings")
    parser.add_argument("--output", type=Path, help="by default the screen")
    arguments = parser.parse_args()
    missing = [file for file in FILES.values() if not (arguments.data / file).is_file()]
    if missing:
        print(f"No data: {arguments.data} lacks {', '.join(missing)}; --data.", file=sys.stderr)
        sys.exit(2)
    bench = Bench(arguments.data, arguments.cache)
    with tempfile.TemporaryDirectory() as folder:
        curves, tested = pairs_part(bench, Path(folder))
        more, served = streams_part(bench, Path(folder))
    text = report([*curves, *more], *tests_part(tested), served)
    if arguments.output is None:
        print(text)
        return
    arguments.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
