"""The packaged models as one embedder, which chooses by the language of each text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memora.judge._language import OTHERS, language_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.embedders.onnx import OnnxEmbedder
    from memora.protocols import Vector

_ENGLISH = frozenset(("", "en"))  # and whatever cannot be told


class ByLanguage:
    """Embedder of the models for English and for others; their vectors have one length.

    A cosine of vectors of two models says nothing: the judge compares texts of one language only.
    A text in a language that no model reads gets no vector.

    Args:
        english: The model of English texts, and of those whose language cannot be told.
        others: The model of the languages in `OTHERS`, if any.
    """

    def __init__(self, english: OnnxEmbedder, others: OnnxEmbedder | None = None) -> None:
        self._english, self._others = english, others

    @property
    def identity(self) -> str:
        """The identities of both models."""
        english = self._english.identity
        return english if self._others is None else f"{english}+{self._others.identity}"

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._english.dimension

    @property
    def languages(self) -> frozenset[str]:
        """The languages that get a vector; see `language_of`."""
        return _ENGLISH if self._others is None else _ENGLISH | OTHERS

    @property
    def english_only(self) -> ByLanguage:
        """The same without the model for other languages."""
        return ByLanguage(self._english)

    def warm_up(self) -> None:
        """Load the English model; the other is loaded when the first text needs it."""
        self._english.warm_up()

    def missing(self) -> str | None:
        """Return a missing file that another process would need, or None."""
        return self._english.missing() or (self._others.missing() if self._others else None)

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector per text, in order; None for a text that no model reads in full.

        Raises:
            EmbedderError: A model could not be loaded or run.
        """
        found: list[Vector | None] = [None] * len(texts)
        told = [language_of(text) for text in texts]
        for model, languages in ((self._english, _ENGLISH), (self._others, OTHERS)):
            own = [at for at, language in enumerate(told) if language in languages]
            if model is not None and own:
                vectors = model.embed([texts[at] for at in own])
                for at, vector in zip(own, vectors, strict=True):
                    found[at] = vector
        return found
