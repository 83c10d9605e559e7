"""What int8 costs: the packaged model beside its fp32 original, on labelled pairs.

    python scripts/build_model.py --precision fp32 --output DIR
    python benchmarks/embedding_quality.py --reference DIR [--candidate DIR ...]

Each file of pairs says whether one answer serves both texts; a model is judged by how well the
cosine ranks those that it does above those that it does not. STS-B, the usual measure, is not in
the shared data and is not used.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parent / "quality"))

import numpy as np
from data import records
from machine import machine
from metrics import auc
from scipy.stats import spearmanr

from memora.embedders import OnnxEmbedder, load_embedder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from memora.protocols import Embedder

PAIRS = (
    "qqp/pairs_train.jsonl.gz",
    "nearmiss/synthetic_pairs_dev.jsonl",
    "pairs/handwritten_dev.jsonl",
    "nearmiss/semantoneg_dev.jsonl.gz",
    "nearmiss/svamp_pairs_dev.jsonl.gz",
    "nearmiss/hwu_slot_pairs_dev.jsonl",
    "paraphrase/disflqa_dev.jsonl.gz",
)
SAMPLE = 5_000  # pairs of one file, at most


def read(path: Path, *, seed: int) -> tuple[list[str], list[str], NDArray[np.bool_]]:
    """Return left texts, right texts and labels of a seeded sample."""
    pairs = records(path)
    pairs = random.Random(seed).sample(pairs, min(SAMPLE, len(pairs)))  # noqa: S311
    left, right = ([str(pair[side]) for pair in pairs] for side in "ab")
    return left, right, np.array([bool(pair["same"]) for pair in pairs])


def cosines(embedder: Embedder, left: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
    """Score pairs; nan where a text is beyond the window."""
    texts = sorted({*left, *right})
    vectors = dict(zip(texts, embedder.embed(texts), strict=True))
    scores = [
        np.nan if (a := vectors[x]) is None or (b := vectors[y]) is None else float(a @ b)
        for x, y in zip(left, right, strict=True)
    ]
    return np.array(scores)


def rows(data: Path, models: dict[str, Embedder], *, seed: int) -> Iterator[str]:
    """Yield a line of the table for each file and each model after the first."""
    reference, *candidates = models
    for name in PAIRS:
        left, right, same = read(data / name, seed=seed)
        exact = cosines(models[reference], left, right)
        for candidate in candidates:
            scores = cosines(models[candidate], left, right)
            fits = np.isfinite(exact) & np.isfinite(scores)
            base, ours = auc(exact[fits], same[fits]), auc(scores[fits], same[fits])
            areas = "- | - | -"
            if base is not None and ours is not None:
                areas = f"{base:.4f} | {ours:.4f} | {ours - base:+.4f}"
            delta = np.abs(scores - exact)[fits]
            yield (
                f"| {name.partition('.')[0]} | {fits.sum()} | {candidate} | {areas} "
                f"| {spearmanr(exact[fits], scores[fits]).statistic:.4f} "
                f"| {delta.mean():.4f} | {delta.max():.4f} |"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="a directory with fp32")
    parser.add_argument("--candidate", type=Path, nargs="*", default=[], help="more to compare")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    if absent := [name for name in PAIRS if not (arguments.data / name).is_file()]:
        sys.exit(f"No data: {arguments.data} lacks {', '.join(absent)}; name it with --data.")
    models: dict[str, Embedder] = {
        "fp32": OnnxEmbedder(arguments.reference),
        "packaged": load_embedder("all-MiniLM-L6-v2", use_onnx=True),
        **{path.name: OnnxEmbedder(path) for path in arguments.candidate},
    }
    print(
        "| pairs | n | model | AUC fp32 | AUC | difference | Spearman | mean change | max change |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for row in rows(arguments.data, models, seed=arguments.seed):
        print(row, flush=True)
    print(
        f"\n{machine('onnxruntime', 'numpy')}; seed {arguments.seed}, at most {SAMPLE} pairs a "
        f"file; {models['packaged'].identity}. Change: of a pair's cosine. A file without AUC "
        "has one label only. STS-B is not in the shared data."
    )


if __name__ == "__main__":
    main()
