"""Models of the Hugging Face hub, downloaded once and then read from its local cache."""

from __future__ import annotations

from pathlib import Path

from memora._faults import contained
from memora._show import one_line
from memora.errors import ConfigError, EmbedderError

# Weights in other formats, most of a repository's size, are not downloaded.
_FILES = ["*.json", "onnx/model.onnx*", "model.onnx*"]
_WAYS_OUT = (
    "name a directory, name the packaged model (all-MiniLM-L6-v2), or set use_onnx=False to load "
    "it with sentence-transformers"
)


def download(model_name: str, *, meant: str | None = None) -> Path:
    """Return the directory of a hub model's ONNX file, tokenizer and configuration.

    Args:
        model_name: `owner/name`; the default owner is sentence-transformers.
        meant: A packaged model with a similar name, for the error.

    Raises:
        ConfigError: The hub has no such model, or the name is invalid.
        EmbedderError: The hub could not be reached and the model is not in its local cache.
    """
    # Imported here because it takes longer than the rest of Memora.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError  # noqa: PLC0415

    hint = f"; did you mean {meant!r}, which is packaged and needs no network?" if meant else ""
    repository = model_name if "/" in model_name else f"sentence-transformers/{model_name}"
    try:
        with contained:
            return Path(snapshot_download(repository, allow_patterns=_FILES))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ConfigError(
            f"model_name={model_name!r} is neither a directory nor a model on the hub that can be "
            f"read: {_WAYS_OUT}{hint}"
        ) from error
    except Exception as error:  # raised by the hub's client or its network stack
        raise EmbedderError(
            f"{model_name!r} is not packaged, and could not be fetched from the hub "
            f"({one_line(str(error))}): connect this machine, {_WAYS_OUT}{hint}"
        ) from error
