"""Vectors of texts by the packaged model, and logits of pairs by the verifier, kept on disk.

A folder a model: `keys-N.npy` holds SHA-256 of texts, `vectors-N.npy` their vectors in the same
order (zeros: the model cannot read the text). A run that meets new texts adds a pair of files.
Logits are records of one file, added one by one: processes may share it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memora.embedders import PACKAGED, load_embedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from memora.protocols import Embedder, Verifier

MODEL = "all-MiniLM-L6-v2"
"""The model of English texts: the calibration is of its cosines."""
_BATCH = 256
_TOLD = 5_000  # texts to embed, from which on it takes long enough to say so


def default_cache() -> Path:
    """Return the folder of this user's caches, below it ours."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "memora-benchmarks"


def digest(text: str) -> bytes:
    """Return what a text is remembered by."""
    return hashlib.sha256(text.encode()).digest()[:16]


def readable(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of the rows that are vectors: the model could not read the others."""
    found: NDArray[np.bool_] = np.any(vectors != 0, axis=1)
    return found


class Vectors:
    """Looks vectors up, and has the model make those that are missing."""

    def __init__(self, cache: Path, *, embedder: Embedder | None = None) -> None:
        self._embedder = embedder or load_embedder(PACKAGED, use_onnx=True)
        named = hashlib.sha256(self.identity.encode()).hexdigest()[:12]
        self.folder = cache / f"{PACKAGED}-{named}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._parts: list[NDArray[np.float32]] = []
        for path in sorted(self.folder.glob("keys-*.npy")):
            # Written last, and read first: then its vectors are complete.
            vectors = np.load(path.with_name(path.name.replace("keys", "vectors")), mmap_mode="r")
            self._join(np.load(path), vectors.view(np.ndarray))

    @property
    def identity(self) -> str:
        """Of the model."""
        return self._embedder.identity

    @property
    def dimension(self) -> int:
        """Of a vector."""
        return self._embedder.dimension

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a row a text; zeros where the model cannot read it in full."""
        keys = [digest(text) for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows
        }
        if missing:
            self._make(missing)
        found = np.empty((len(texts), self.dimension), np.float32)
        for at, key in enumerate(keys):
            part, row = self._rows[key]
            found[at] = self._parts[part][row]
        return found

    def add(self, keys: Iterable[bytes], vectors: NDArray[np.float32]) -> None:
        """Remember vectors that were made elsewhere by the very same model."""
        array = np.array([np.frombuffer(key, np.uint8) for key in keys])
        number = f"{len(list(self.folder.glob('keys-*.npy'))):04}-{os.getpid()}"
        np.save(self.folder / f"vectors-{number}.npy", vectors)
        np.save(self.folder / f"keys-{number}.npy", array)
        self._join(array, vectors)

    def _make(self, missing: dict[bytes, str]) -> None:
        if len(missing) >= _TOLD:
            print(f"embedding {len(missing):,} texts, once ...", file=sys.stderr, flush=True)
        # Batches of one length: the model pads to the longest.
        order = sorted(missing, key=lambda key: len(missing[key]))
        made = np.zeros((len(order), self.dimension), np.float32)
        for start in range(0, len(order), _BATCH):
            batch = [missing[key] for key in order[start : start + _BATCH]]
            for at, vector in enumerate(self._embedder.embed(batch), start):
                if vector is not None:
                    made[at] = vector
        self.add(order, made)

    def _join(self, keys: NDArray[np.uint8], vectors: NDArray[np.float32]) -> None:
        part = len(self._parts)
        self._parts.append(vectors)
        self._rows |= {key.tobytes(): (part, row) for row, key in enumerate(keys)}


class Logits:
    """A verifier whose logits are kept.

    Args:
        cache: The folder of all that is kept.
        model: The verifier's file: its content names the file of logits.
        verifier: What reads the pairs that are new.
    """

    _RECORD = np.dtype([("pair", "V16"), ("logit", "<f4")])

    def __init__(self, cache: Path, model: Path, verifier: Verifier) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self.identity = f"verifier:sha256={hashlib.sha256(model.read_bytes()).hexdigest()[:12]}"
        self._path = cache / f"verifier-{self.identity.rpartition('=')[2]}.bin"
        self._verifier = verifier
        self._path.touch()
        found = np.fromfile(self._path, self._RECORD)
        self._known: dict[bytes, float] = dict(
            zip(map(bytes, found["pair"]), found["logit"].tolist(), strict=True)
        )
        self.new = 0
        """Pairs that the verifier has read."""

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        """Look them up; one that is missing is read, and appended to the file."""
        return [self._logit(pair) for pair in pairs]

    def _logit(self, pair: tuple[str, str]) -> float:
        key = digest("\0".join(pair))
        if key not in self._known:
            (logit,) = self._verifier.logits([pair])
            with self._path.open("ab", buffering=0) as file:
                file.write(np.array((key, logit), self._RECORD).tobytes())
            self._known[key], self.new = float(np.float32(logit)), self.new + 1
        return self._known[key]
