"""Embedders: what turns a text into a unit vector.

`load_embedder` is the only place that chooses one. Importing this package loads no model and no
library that runs one; those are imported where they are first used.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from memora.embedders.cached import CachedEmbedder
from memora.embedders.function import FunctionEmbedder, as_embedder
from memora.embedders.hub import download
from memora.embedders.onnx import OnnxEmbedder
from memora.embedders.sentence_transformers import SentenceTransformersEmbedder
from memora.errors import EmbedderError

if TYPE_CHECKING:
    from memora.protocols import Embedder

__all__ = [
    "CachedEmbedder",
    "FunctionEmbedder",
    "OnnxEmbedder",
    "SentenceTransformersEmbedder",
    "as_embedder",
    "is_packaged",
    "load_embedder",
    "local_model",
]

_PACKAGED = Path(__file__).parent.parent / "models" / "all-MiniLM-L6-v2"
_PACKAGED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")


def load_embedder(model_name: str, *, use_onnx: bool) -> Embedder:
    """Choose the embedder for a model.

    Args:
        model_name: The packaged model, else a sentence-transformers directory, else a name on the
            Hugging Face hub.
        use_onnx: Run the model's ONNX file with onnxruntime; otherwise the sentence-transformers
            library runs it, with torch.

    Raises:
        ConfigError: There is no such model, or it cannot be run this way.
        MissingExtraError: sentence-transformers is needed and not installed.
        EmbedderError: The model could not be fetched or loaded.
    """
    if not use_onnx:
        return SentenceTransformersEmbedder(model_name)
    if is_packaged(model_name):
        return OnnxEmbedder(_PACKAGED, digest=_recorded_digest())
    local = local_model(model_name)
    if local is not None:
        return OnnxEmbedder(local)
    return OnnxEmbedder(download(model_name, meant=_near(model_name)), name=model_name)


def is_packaged(model_name: str) -> bool:
    """Tell whether a name is that of the model in the package."""
    return model_name in _PACKAGED_NAMES


def _near(model_name: str) -> str | None:
    """Return the packaged model that a name is like, whatever its case and owner."""
    packaged = _PACKAGED_NAMES[0]
    bare = model_name.strip().rpartition("/")[2].lower().replace("_", "-")
    return packaged if difflib.get_close_matches(bare, [packaged.lower()]) else None


def local_model(model_name: str) -> Path | None:
    """Return the directory that a name is, if it is one.

    Raises:
        EmbedderError: It may not be looked at.
    """
    try:
        path = Path(model_name).expanduser()
        return path if path.is_dir() else None
    except RuntimeError:  # "~nobody": there is no such home, so no such directory
        return None
    except OSError as error:
        raise EmbedderError(f"cannot look for {model_name!r}: {error.strerror}") from error


def _recorded_digest() -> str:
    """Look up the packaged weights' hash; to compute it would take longer than to load them."""
    lines = (_PACKAGED / "SHA256SUMS").read_text("utf-8").splitlines()
    return next(line[:12] for line in lines if line.endswith("  onnx/model.onnx"))
