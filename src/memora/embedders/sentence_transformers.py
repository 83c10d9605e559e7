"""Embedder run by the sentence-transformers library with torch, for models without ONNX file."""

from __future__ import annotations

import hashlib
import math
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memora._faults import contained
from memora.concurrency.fork import register_for_reinit
from memora.embedders._unit import unit_vectors
from memora.embedders._window import MOST_CHARACTERS, may_fit
from memora.errors import EmbedderError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.protocols import Vector


class SentenceTransformersEmbedder:
    """Embedder for any model that the library loads."""

    def __init__(self, model_name: str) -> None:
        """Load the model, from a directory or the hub.

        Raises:
            MissingExtraError: The library is not installed.
            EmbedderError: The library could not load the model.
        """
        try:
            library = import_module("sentence_transformers")
        except ImportError as error:
            raise MissingExtraError("use_onnx=False", extra="sentence-transformers") from error
        try:
            with contained:
                self._model = library.SentenceTransformer(model_name)
                self._dimension = int(self._model.encode("How long is a vector?").shape[0])
        except Exception as error:  # raised by the library, the hub or the network
            raise EmbedderError(
                f"{model_name!r} could not be loaded with sentence-transformers ({error}): name "
                "another model or a directory, or set use_onnx=True for the packaged model"
            ) from error
        # A directory's location does not matter; a hub model's name contains a slash.
        name = Path(model_name).resolve().name if Path(model_name).is_dir() else model_name
        self._identity = f"{name}:sentence-transformers:sha256={_digest(self._model)}"
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """Create the lock."""
        # A fast tokenizer cannot be used by two threads at once ("Already borrowed"), and torch
        # uses all cores for one call anyway.
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Name, library and hash of the weights."""
        return self._identity

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._dimension

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector per text, in order; None for a text that is not read in full.

        Raises:
            EmbedderError: The library failed.
        """
        try:
            with contained, self._lock:
                fitting = [text for text in texts if self._fits(text)]
                rows = self._model.encode(fitting, show_progress_bar=False)
        except Exception as error:
            raise EmbedderError(f"{self._identity} failed: {error}") from error
        if not fitting:
            return [None] * len(texts)
        units = unit_vectors(np.asarray(rows), dimension=self._dimension, model=self._identity)
        found = dict(zip(fitting, units, strict=True))
        return [found.get(text) for text in texts]

    def _fits(self, text: str) -> bool:
        window = self._model.max_seq_length
        if window is None or window == math.inf:  # such as averaged word vectors
            return len(text) <= MOST_CHARACTERS
        tokenizer = self._model.tokenizer
        prompt = self._model.prompts.get(self._model.default_prompt_name or "", "")

        def tokens(part: str) -> Any:
            return tokenizer(part, truncation=False, verbose=False)["input_ids"]

        text = f"{prompt}{text.strip()}"
        if not may_fit(text, window, lambda part: len(tokens(part))):
            return False
        ids = tokens(text)
        # Some tokenizers also use the unknown token as end token, which then carries no meaning.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
        return len(ids) <= window and unknown.isdisjoint(ids)


def _digest(model: Any) -> str:
    """Hash the weights, independent of the file or hub revision they came from."""
    byte = import_module("torch").uint8
    digest = hashlib.sha256()
    for tensor in model.parameters():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(byte).numpy())
    return digest.hexdigest()[:12]
