"""Unit vectors of real sentences for peers.py and redis_server.py, with the nearest of each query.

A folder holds `vectors.npy` (entries, 384 float32, unit), `queries.npy` (texts that are not stored;
query i < min(entries, 1000) rewords entry i), and `about.txt` (where they come from, in words).
`prepare` makes one with the packaged model, from a file of texts or from the packaged demo log.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DIMENSION = 384
THRESHOLD = 0.8  # cosine, for every engine
HIT = 0.82  # a query is a hit if the exact cosine of its nearest entry is at least this
MISS = 0.78  # and a miss if it is below this
CACHE = Path(__file__).parents[1] / ".cache" / "benchmarks"
QUERIES = 1000  # rewordings of the first entries
UNSEEN = 500  # queries that reword nothing
_FIELDS = ("query", "text", "question", "prompt")
_BATCH = 256


class Vectors:
    """The embedding of every text: rows of entries and of queries."""

    def __init__(self, entries: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        self._entries, self._queries = entries, queries

    def __call__(self, text: str) -> NDArray[np.float32]:
        """Return the row that a text names."""
        rows = self._entries if text[0] == "e" else self._queries
        number = text[1:9]  # none in an engine's own probe
        row: NDArray[np.float32] = rows[int(number) % len(rows) if number.isdecimal() else 0]
        return row


def text(kind: str, number: int) -> str:
    """Return the text of an entry ("e") or a query ("q"), as long as a question."""
    return f"{kind}{number:08d} what do we know about case {number:08d} by now?"


class Payloads:
    """Texts of one length that do not compress, as encoded results often do not."""

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        pool = np.random.default_rng(seed).integers(33, 127, 1 << 20, np.uint8)
        self._pool = pool.tobytes().decode("ascii")

    def __call__(self, number: int) -> str:
        """Return the payload of an entry."""
        start = number * 7919 % (len(self._pool) - self._length)
        return self._pool[start : start + self._length]


def prepare(cache: Path, entries: int, *, seed: int, corpus: Path | None = None) -> Path:
    """Return a folder with at least that many vectors; make it where there is none."""
    name = "demo" if corpus is None else corpus.stem
    for folder in sorted(cache.glob(f"vectors-{name}-{seed}-*")):
        if int(folder.name.rpartition("-")[2]) >= entries and (folder / "about.txt").is_file():
            return folder
    texts = list(dict.fromkeys(_read(corpus)))
    # Some texts are not readable by the model, and are left out afterwards.
    wanted = int(entries * 1.05) + UNSEEN + 100
    given = min(len(texts), wanted)
    stored = _filled(texts, wanted, random.Random(seed))  # noqa: S311
    folder = cache / f"vectors-{name}-{seed}-{entries}"
    folder.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n", "utf-8")
    kept, vectors = _embed(stored)
    if len(kept) < entries + UNSEEN:
        raise SystemExit(f"the model reads only {len(kept)} of {len(stored)} texts")
    rng = random.Random(seed + 1)  # noqa: S311
    sources = kept[: min(QUERIES, entries)]
    _, reworded = _embed([_reworded(text, rng) for text in sources])
    np.save(folder / "vectors.npy", vectors[:entries])
    np.save(folder / "queries.npy", np.concatenate([reworded, vectors[-UNSEEN:]]))
    origin = "the packaged demo log" if corpus is None else "a file of texts"
    (folder / "about.txt").write_text(
        f"{given:,} texts of {origin}, the others made of them by swapping words; "
        f"all-MiniLM-L6-v2, 384 dimensions; seed {seed}",
        "utf-8",
    )
    return folder


def nearest(folder: Path, entries: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the exact nearest of the first entries to each query, and its cosine; cached."""
    path = folder / f"nearest-{entries}.npz"
    if not path.is_file():
        vectors, queries = load(folder)
        best = np.full(len(queries), -2, np.float32)
        rows = np.zeros(len(queries), np.int64)
        for start in range(0, entries, 50_000):
            scores = queries @ vectors[start : min(start + 50_000, entries)].T
            top = scores.argmax(1)
            values = scores[np.arange(len(queries)), top]
            better = values > best
            rows[better], best[better] = top[better] + start, values[better]
        np.savez(path, rows=rows, best=best)
    with np.load(path) as found:
        return found["rows"], found["best"]


def load(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the vectors, mapped, and the queries."""
    # A plain array: rows of a memmap cost microseconds to make.
    vectors = np.load(folder / "vectors.npy", mmap_mode="r").view(np.ndarray)
    return vectors, np.load(folder / "queries.npy")


def _read(path: Path | None) -> Iterator[str]:
    log = resources.files("memora") / "demo" / "queries.jsonl" if path is None else path
    for line in log.read_text("utf-8").splitlines():
        text = line
        if line.startswith("{"):
            record = json.loads(line)
            text = next((record[field] for field in _FIELDS if field in record), "")
        if text := " ".join(text.split()):
            yield text


def _filled(texts: list[str], wanted: int, rng: random.Random) -> list[str]:
    """Shuffle, and add texts with one to three words of other texts until there are enough."""
    rng.shuffle(texts)
    known = dict.fromkeys(texts)
    split = [words for text in texts if len(words := text.split()) > 3]  # noqa: PLR2004
    words = [word for text in split for word in text if len(word) > 3]  # noqa: PLR2004
    while len(known) < wanted:
        text = list(rng.choice(split))
        for _ in range(rng.choice((1, 2, 3))):
            text[rng.randrange(len(text))] = rng.choice(words)
        known.setdefault(" ".join(text))
    return list(known)[:wanted]


def _reworded(text: str, rng: random.Random) -> str:
    words = text.split()
    way = rng.randrange(4)
    if way == 0 and len(words) > 4:  # noqa: PLR2004
        del words[rng.randrange(len(words))]
    elif way == 1:
        words += ["thanks"]
    else:
        words = [*(("please", "tell", "me"), ("hey", "so"))[way % 2], *words]
    return " ".join(words)


def _embed(texts: list[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Return the texts that the model can read in full, and their vectors."""
    from memora.embedders import load_embedder  # noqa: PLC0415 - not where vectors are given

    embedder = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
    found: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of one length
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        vectors = embedder.embed([texts[i] for i in chosen])
        found |= {i: v for i, v in zip(chosen, vectors, strict=True) if v is not None}
    kept = sorted(found)
    return [texts[i] for i in kept], np.stack([found[i] for i in kept])


def main() -> None:
    """Make a folder of vectors, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entries", type=int)
    parser.add_argument("--corpus", type=Path, help="texts: JSONL or a text a line")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    print(prepare(options.cache, options.entries, corpus=options.corpus, seed=options.seed))


if __name__ == "__main__":
    main()
