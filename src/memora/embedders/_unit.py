"""Conversion of a model's output to unit vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memora.errors import DimensionMismatchError, EmbedderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memora.protocols import Vector


def unit_vectors(rows: NDArray[Any], *, dimension: int, model: str) -> list[Vector]:
    """Scale each row to length 1.

    Args:
        rows: Numbers of any real type, shape (n, dimension).
        dimension: The model's stated dimension.
        model: Its identity, for messages.

    Raises:
        DimensionMismatchError: The rows have another dimension.
        EmbedderError: A row is zero or not finite, so it has no direction.
    """
    if rows.shape[1] != dimension:
        raise DimensionMismatchError(
            f"{model} returned vectors of dimension {rows.shape[1]}, not {dimension}"
        )
    wide = rows.astype(np.float64)  # squares of large float32 values overflow
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise EmbedderError(f"{model} returned a vector that is zero or not finite")
    return list((wide / lengths).astype(np.float32))
