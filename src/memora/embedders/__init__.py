"""Embedders, which convert a text to a unit vector.

Only `load_embedder` chooses one. Importing this package loads no model and no library that runs
one; those are imported on first use.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from memora.embedders.by_language import ByLanguage
from memora.embedders.cached import CachedEmbedder
from memora.embedders.function import FunctionEmbedder, as_embedder
from memora.embedders.hub import download
from memora.embedders.onnx import OnnxEmbedder
from memora.embedders.sentence_transformers import SentenceTransformersEmbedder
from memora.errors import EmbedderError

if TYPE_CHECKING:
    from memora.protocols import Embedder

__all__ = [
    "ByLanguage",
    "CachedEmbedder",
    "FunctionEmbedder",
    "OnnxEmbedder",
    "SentenceTransformersEmbedder",
    "as_embedder",
    "is_packaged",
    "load_embedder",
    "local_model",
]

_MODELS = Path(__file__).parent.parent / "models"
_ENGLISH, _OTHERS = _MODELS / "all-MiniLM-L6-v2", _MODELS / "use-multilingual-v3"
_ENGLISH_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
PACKAGED = "packaged"
"""The name of both packaged models together, each for its languages."""


def load_embedder(model_name: str, *, use_onnx: bool) -> Embedder:
    """Return the embedder for a model.

    Args:
        model_name: "packaged", the packaged English model, a sentence-transformers directory, or a
            name on the Hugging Face hub; checked in this order.
        use_onnx: Run the model's ONNX file with onnxruntime; otherwise the sentence-transformers
            library runs the model, with torch.

    Raises:
        ConfigError: The model does not exist, or cannot be run this way.
        MissingExtraError: sentence-transformers is needed and not installed.
        EmbedderError: The model could not be downloaded or loaded.
    """
    if not use_onnx:
        english = model_name == PACKAGED
        return SentenceTransformersEmbedder(_ENGLISH_NAMES[0] if english else model_name)
    if is_packaged(model_name):
        others = _packaged(_OTHERS) if model_name == PACKAGED and _OTHERS.is_dir() else None
        return ByLanguage(_packaged(_ENGLISH), others)
    local = local_model(model_name)
    if local is not None:
        return OnnxEmbedder(local)
    return OnnxEmbedder(download(model_name, meant=_near(model_name)), name=model_name)


def is_packaged(model_name: str) -> bool:
    """Return whether a name is that of a packaged model."""
    return model_name == PACKAGED or model_name in _ENGLISH_NAMES


def _near(model_name: str) -> str | None:
    """Return the packaged model if a name is close to its name, ignoring case and owner."""
    packaged = _ENGLISH_NAMES[0]
    bare = model_name.strip().rpartition("/")[2].lower().replace("_", "-")
    return packaged if difflib.get_close_matches(bare, [packaged.lower()]) else None


def local_model(model_name: str) -> Path | None:
    """Return the directory with this path, if there is one.

    Raises:
        EmbedderError: No permission to look.
    """
    try:
        path = Path(model_name).expanduser()
        return path if path.is_dir() else None
    except RuntimeError:  # a home such as "~nobody" does not exist
        return None
    except OSError as error:
        raise EmbedderError(f"cannot look for {model_name!r}: {error.strerror}") from error


def _packaged(directory: Path) -> OnnxEmbedder:
    """Return a packaged model by its recorded hash; hashing is slower than loading."""
    lines = (directory / "SHA256SUMS").read_text("utf-8").splitlines()
    digest = next(line[:12] for line in lines if line.endswith("  onnx/model.onnx"))
    return OnnxEmbedder(directory, digest=digest)
