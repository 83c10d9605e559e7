"""Any callable as an embedder."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from memora._faults import contained
from memora.embedders._unit import unit_vectors
from memora.embedders._window import MOST_CHARACTERS
from memora.errors import ConfigError, EmbedderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memora.protocols import Embedder, Vector

_PROBE = "How long is a vector?"


class FunctionEmbedder:
    """Calls a function with texts; it may be called from many threads at once."""

    def __init__(
        self,
        fn: Callable[[list[str]], Any],
        *,
        identity: str | None = None,
        dimension: int | None = None,
        fits: Callable[[str], bool] | None = None,
    ) -> None:
        """Wrap a function.

        Args:
            fn: From n texts to n vectors: lists, an array, or anything that numpy reads as one.
                They need not be unit vectors.
            identity: Names what decides the vectors, such as "openai:text-embedding-3-small". By
                default the function's module and name, so state it where the function's
                surroundings decide them: a client, a model name in a closure.
            dimension: Of every vector; learnt by calling the function once when not given.
            fits: Whether a text is within the model's window; without it every text of up to a
                million characters is.

        Raises:
            ConfigError: The function cannot be used, or has no name of its own.
            EmbedderError: It failed when called to learn the dimension.
        """
        if inspect.iscoroutinefunction(fn):
            raise ConfigError(f"{fn!r} is asynchronous: an embedder's function returns the vectors")
        self._fn = fn
        self._fits = fits
        self._identity = identity or _name(fn)
        self._dimension = self._rows([_PROBE]).shape[1] if dimension is None else dimension

    @property
    def identity(self) -> str:
        """As given, or the function's module and name."""
        return self._identity

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._dimension

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector a text, in order; None for a text that does not fit.

        Raises:
            EmbedderError: The function failed, or did not return a usable vector a text.
        """
        fits = self._fits or _is_short
        fitting = [text for text in texts if fits(text)]
        if not fitting:
            return [None] * len(texts)
        rows = self._rows(fitting)
        units = unit_vectors(rows, dimension=self._dimension, model=self._identity)
        found = dict(zip(fitting, units, strict=True))
        return [found.get(text) for text in texts]

    def _rows(self, texts: list[str]) -> np.ndarray[Any, Any]:
        """Call the function; its answer as numbers of shape (texts, any)."""
        try:
            with contained:
                rows = np.asarray(self._fn(texts))
        except Exception as error:  # it is the application's
            raise EmbedderError(f"{self._identity} failed: {error!r}") from error
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or len(rows) != len(texts):  # noqa: PLR2004
            raise EmbedderError(
                f"{self._identity} returned {rows.dtype} of shape {rows.shape} for {len(texts)} "
                "texts, not a list of numbers for each"
            )
        return rows


def _is_short(text: str) -> bool:
    return len(text) <= MOST_CHARACTERS


def as_embedder(candidate: Embedder | Callable[[list[str]], Any], /) -> Embedder:
    """Return an embedder as it is, and wrap a callable.

    Raises:
        ConfigError: It is neither.
    """
    # A class has an embedder's attributes too, but is none before it is called.
    if not isinstance(candidate, type):
        # Not `isinstance`: from Python 3.12 on it does not see what a proxy forwards.
        if all(hasattr(candidate, name) for name in ("identity", "dimension", "embed")):
            return cast("Embedder", candidate)
        if callable(candidate):
            return FunctionEmbedder(candidate)
    raise ConfigError(
        f"embedder must be an Embedder or a function from texts to vectors, got {candidate!r}"
    )


def _name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", "<nameless>")
    if name.endswith(">"):  # <lambda>, and what partial and callable objects lack
        raise ConfigError(
            f"{fn!r} has no name to record in the store: wrap it as "
            "FunctionEmbedder(fn, identity=...)"
        )
    return f"{fn.__module__}.{name}"
