"""An embedder for each group of languages, chosen by the language of each text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memora.judge._language import language_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.embedders.onnx import OnnxEmbedder
    from memora.protocols import Vector

ENGLISH = frozenset(("", "en"))
"""Languages of the first model's texts: English, and whatever cannot be told."""


class ByLanguage:
    """Embedder that knows which languages its model reads; other texts get no vector.

    Args:
        english: The model of English texts, and of those whose language cannot be told.
    """

    def __init__(self, english: OnnxEmbedder) -> None:
        self._english = english
        self.missing = english.missing
        self.warm_up = english.warm_up

    @property
    def identity(self) -> str:
        """The identity of the model."""
        return self._english.identity

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._english.dimension

    @property
    def languages(self) -> frozenset[str]:
        """The languages that get a vector."""
        return ENGLISH

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return a vector for each text in a language of `languages`; else None."""
        found: list[Vector | None] = [None] * len(texts)
        if read := [at for at, text in enumerate(texts) if language_of(text) in ENGLISH]:
            vectors = self._english.embed([texts[at] for at in read])
            for at, vector in zip(read, vectors, strict=True):
                found[at] = vector
        return found
