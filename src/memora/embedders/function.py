"""Embedder around any callable."""

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
    """Embedder that calls a function with texts, possibly from many threads at once."""

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
            fn: Maps n texts to n vectors: lists, an array, or anything that numpy reads as one.
                The vectors need not have length 1.
            identity: Identifies the model, such as "openai:text-embedding-3-small". The default is
                the function's module and name. Set it if the vectors depend on more than that, such
                as a client or a model name in a closure.
            dimension: Length of every vector; by default the function is called once to learn it.
            fits: Returns whether a text is within the model's window. By default every text of up
                to a million characters is.

        Raises:
            ConfigError: The function cannot be used, or has no name of its own.
            EmbedderError: The function failed in the call that learns the dimension.
        """
        if inspect.iscoroutinefunction(fn):
            raise ConfigError(f"{fn!r} is asynchronous: an embedder's function returns the vectors")
        self._fn = fn
        self._fits = fits or _is_short
        self._identity = identity or _name(fn)
        self._dimension = self._rows([_PROBE]).shape[1] if dimension is None else dimension

    @property
    def identity(self) -> str:
        """The given identity, or the function's module and name."""
        return self._identity

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._dimension

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector per text, in order; None for a text that does not fit.

        Raises:
            EmbedderError: The function failed, or did not return one usable vector per text.
        """
        fitting = [text for text in texts if self._fits(text)]
        if not fitting:
            return [None] * len(texts)
        rows = self._rows(fitting)
        units = unit_vectors(rows, dimension=self._dimension, model=self._identity)
        found = dict(zip(fitting, units, strict=True))
        return [found.get(text) for text in texts]

    def _rows(self, texts: list[str]) -> np.ndarray[Any, Any]:
        """Call the function; return its result as numbers of shape (texts, any)."""
        try:
            with contained:
                rows = np.asarray(self._fn(texts))
        except Exception as error:  # raised by the application's function
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
    """Return an embedder unchanged, or wrap a callable.

    Raises:
        ConfigError: The argument is neither.
    """
    # An embedder class has the same attributes as its instances, but must be called first.
    if not isinstance(candidate, type):
        # Not `isinstance`: from Python 3.12 on it does not see attributes that a proxy forwards.
        if all(hasattr(candidate, name) for name in ("identity", "dimension", "embed")):
            return cast("Embedder", candidate)
        if callable(candidate):
            return FunctionEmbedder(candidate)
    raise ConfigError(
        f"embedder must be an Embedder or a function from texts to vectors, got {candidate!r}"
    )


def _name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", "<nameless>")
    if name.endswith(">"):  # <lambda>, also the default for partial and callable objects
        raise ConfigError(
            f"{fn!r} has no name to record in the store: wrap it as "
            "FunctionEmbedder(fn, identity=...)"
        )
    return f"{fn.__module__}.{name}"
