"""Fit the judge's calibration for the packaged embedding model.

    python training/train.py [--data ../shared/data] [--check]

Writes `src/memora/judge/calibrations/all-MiniLM-L6-v2.json`. Needs the dependency group "train";
README.md beside this file says what is trained on what.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

import numpy as np
from additive import differences, document, fit, fit_map, probability
from data import HANDWRITTEN, PAIRS, development_file
from metrics import auc
from sources import EVALUATED, FAQ, LABELS, PROMPTS, QUESTIONS, Rows, Sources
from vectors import MODEL, Vectors, default_cache

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUTPUT = ROOT / "src" / "memora" / "judge" / "calibrations" / f"{MODEL}.json"
SEED = 3
SUITES: Final[dict[str, str | Path]] = {
    "pairs": HERE / "pairs.jsonl",
    "examples": HERE / "examples.jsonl",
    "hwu": PAIRS["hwu_slots"],
    "snips": PAIRS["snips_slots"],
    "semantoneg": PAIRS["semantoneg"],
    "disflqa": PAIRS["disflqa"],
}
WEIGHTS: Final = {
    "qqp": 40_000,
    "pairs": 10_000,
    "families": 8_000,
    "hwu": 3_000,
    "snips": 3_000,
    "examples": 1_000,
    "semantoneg": 400,
    "disflqa": 300,
    "arena": 300,
}
"""What a source counts in the fit, whatever its number of rows."""
MAP: Final = {"qqp": 5, "families": 2, "banking77": 1.2, "arena": 0.3}
"""What lists of candidates count in the map to a probability: a mix of caches, not of traps."""
DOUBTFUL = 0.9  # cosine from which on half of the neighbours that nobody labelled are duplicates
DEFAULT_THRESHOLD = 0.85
TOLERANCE = 0.01  # other machines add up, and embed, with other last digits


def main() -> int:
    """Fit, tell how well, and write or compare."""
    options = _options()
    data: Path = options.data
    needed = [QUESTIONS, LABELS, FAQ, PROMPTS, *EVALUATED, *SUITES.values()]
    if absent := [str(path) for path in needed if not development_file(data / path).is_file()]:
        print(f"not in {data}: {', '.join(absent)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    sources = Sources(data, Vectors(options.cache), seed=options.seed, split=options.split)
    rows: dict[str, Rows] = {
        "qqp": sources.qqp(),
        "families": sources.families(),
        "banking77": sources.banking77(),
        "arena": sources.arena(),
        **{name: sources.pairs(path) for name, path in SUITES.items()},
    }
    features = {name: found.features() for name, found in rows.items()}
    same = {name: np.array(found.same, np.bool_) for name, found in rows.items()}

    order = [name for name in WEIGHTS if len(rows[name])]
    model = fit(
        np.vstack([features[name] for name in order]),
        np.concatenate([same[name].astype(np.float64) for name in order]),
        np.concatenate(
            [np.full(len(rows[name]), WEIGHTS[name] / len(rows[name])) for name in order]
        ),
    )
    z = {name: model.z(features[name]) for name in rows}
    lists = []
    for name, weight in MAP.items():
        best = rows[name].best(z[name])
        right = same[name].astype(np.float64)
        if name == "qqp":
            right[~same[name] & (np.array(rows[name].cosine) >= DOUBTFUL)] = 0.5
        lists.append((float(weight), z[name][best], right[best]))
    points = fit_map(lists)

    for name, found in rows.items():
        told = auc(z[name], same[name])
        print(
            f"{name:11} {len(found):7,} rows, {same[name].mean():4.0%} same"
            f"{'' if told is None else f', ROC AUC {told:.3f}'}"
        )
    hand = sources.evaluation(PAIRS[HANDWRITTEN])  # nothing above has seen it
    answered, sum_of = np.array(hand.same), model.z(hand.features())
    served = probability(points, sum_of) >= DEFAULT_THRESHOLD
    print(
        f"handwritten, not trained on: ROC AUC {auc(sum_of, answered):.3f}; served at "
        f"{DEFAULT_THRESHOLD}: {served[answered].mean():.1%} of the same, "
        f"{served[~answered].mean():.1%} of the others"
    )
    print(f"{time.monotonic() - started:.0f} s")

    text = document(
        model,
        points,
        about="How the judge weighs what it finds, and the cosine, for texts embedded by this "
        "model; training/README.md says what it was fitted on.",
        model=MODEL,
        trained={
            "command": "python training/train.py"
            + (" --split dev" if options.split == "dev" else ""),
            "seed": options.seed,
            "sources": {name: len(found) for name, found in rows.items()},
        },
    )
    if options.check:
        before = json.loads(development_file(options.output).read_bytes())
        worst = max(differences(before, json.loads(text)), key=lambda x: x[1], default=("", 0.0))
        print(f"{options.output}: differs most in {worst[0] or 'nothing'}, by {worst[1]}")
        return int(worst[1] > TOLERANCE)
    options.output.write_text(text, "utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of vectors")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--split", choices=("all", "dev"), default="dev", help="of the rows that carry a mark"
    )
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
