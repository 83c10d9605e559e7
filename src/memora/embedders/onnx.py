"""Embedder for a sentence-transformers model directory with an ONNX file, run by onnxruntime.

Texts are not truncated, padded or batched. A text beyond the window has no vector. The others run
one by one, so a vector never depends on other texts: kernels with quantised activations may round
differently for another number of rows (on ARM a cosine of 0.9998 instead of 1), and models whose
activations share one scale differ far more. On one thread a batch would gain 9 % with the packaged
model, before padding. Many texts gain from threads instead, each of which takes one text at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from memora._faults import contained
from memora._onnxruntime import open_session
from memora.concurrency.fork import register_for_reinit
from memora.embedders._unit import unit_vectors
from memora.embedders._window import longest, may_fit, squeezed
from memora.errors import ConfigError, EmbedderError, MemoraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from memora.protocols import Vector

_UNLIMITED = 1_000_000  # a tokenizer without a limit states a number above this
# Starting a thread costs a twentieth of a text's time, and a server has other work to do.
_TEXTS_A_THREAD, _MOST_THREADS = 4, 8
_REMEDY = "set use_onnx=False to load the model with the sentence-transformers library"

# Without padding no mask is needed. Input shape: (texts, tokens, dimension).
_POOLINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "cls": lambda hidden: hidden[:, 0],
    "max": lambda hidden: hidden.max(axis=1),
    "mean": lambda hidden: hidden.mean(axis=1),
}
_INPUTS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    "attention_mask": np.ones_like,
    "input_ids": np.asarray,
    "token_type_ids": np.zeros_like,
}
_UNKNOWN = ("[UNK]", "<unk>")  # in WordPiece, and in other tokenizers
_SPACES = (" ", "  ", "\t", "\r", "\n", "\n\n", " \t\r\n ")  # `squeezed` makes each one space
# Exporters' names for the vector of a text, and for the vectors of its tokens.
_SENTENCE, _TOKENS = "sentence_embedding", ("last_hidden_state", "token_embeddings")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Content of the JSON files of a model directory."""

    weights: Path
    tokenizer: Path
    dimension: int
    window: int
    """Maximum tokens, including special ones."""
    pooling: str
    lowercase: bool


@dataclass(frozen=True, slots=True)
class _Runtime:
    """A loaded model."""

    tokenizer: Tokenizer
    session: onnxruntime.InferenceSession
    inputs: dict[str, type[np.signedinteger[Any]]]
    output: str
    unknown: int | None
    """The token for any character outside the vocabulary."""
    spaces_alike: bool
    """True if the tokenizer treats a run of white space as one space."""

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text))


class OnnxEmbedder:
    """Embedder that runs a model on the CPU; a text's vector does not depend on its batch."""

    def __init__(
        self, directory: Path, *, name: str | None = None, digest: str | None = None
    ) -> None:
        """Read the directory.

        Args:
            directory: A sentence-transformers directory with one ONNX file.
            name: Name in the identity; by default that of the directory.
            digest: Hash in the identity. If given, the model is loaded only at the first `embed`;
                otherwise the model is loaded, and its weights and tokenizer hashed, at once.

        Raises:
            ConfigError: A file is missing, or the model has a part that is not supported.
            EmbedderError: The model could not be loaded.
        """
        try:
            self._layout = _read(directory)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, MemoraError):
                raise
            raise ConfigError(
                f"{directory} is not laid out as a sentence-transformers model "
                f"({type(error).__name__}: {error}): {_REMEDY}"
            ) from error
        name = name or directory.resolve().name
        self._identity = f"{name}:onnx:sha256={digest or _digest(self._layout)}"
        self._runtime: _Runtime | None = None
        register_for_reinit(self)
        if digest is None:
            self._loaded()

    def reinit_after_fork(self) -> None:
        """Create the locks."""
        self._lock = threading.Lock()  # many threads may call the first `embed`
        self._sharing = threading.Lock()  # held while a batch uses several threads

    @property
    def identity(self) -> str:
        """Name, kind and hash of the model."""
        return self._identity

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        return self._layout.dimension

    def warm_up(self) -> None:
        """Load the model and run it once, so that the first query does not wait for it.

        Raises:
            EmbedderError: The model could not be loaded or run.
        """
        self.embed(["warm up"])

    def missing(self) -> str | None:
        """Return a missing file that another process would need, or None."""
        files = (self._layout.weights, self._layout.tokenizer)
        return next((str(path) for path in files if not path.is_file()), None)

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return one unit vector per text, in order; None for a text that is not read in full.

        Raises:
            EmbedderError: The model could not be loaded or run.
        """
        runtime = self._loaded()
        try:
            with contained:
                return self._vectors(texts, runtime)
        except MemoraError:
            raise
        except Exception as error:  # onnxruntime and tokenizers have no base class to catch
            raise EmbedderError(f"{self._identity} failed: {error}") from error

    def _vectors(self, texts: Sequence[str], runtime: _Runtime) -> list[Vector | None]:
        vector = partial(self._vector, runtime=runtime)
        threads = min(_processors(), _MOST_THREADS, len(texts) // _TEXTS_A_THREAD)
        # Only one batch uses a pool: concurrent batches already occupy other threads.
        if threads > 1 and self._sharing.acquire(blocking=False):
            try:
                with ThreadPoolExecutor(threads, "memora-embed") as pool:
                    found: Iterator[Vector | None]
                    try:
                        found = pool.map(vector, texts)
                    except RuntimeError:  # the interpreter is shutting down: no new threads
                        found = map(vector, texts)
                    return list(found)
            finally:
                self._sharing.release()
        return [vector(text) for text in texts]

    def _vector(self, text: str, runtime: _Runtime) -> Vector | None:
        text = text.strip()  # as sentence-transformers does; both return the same vector
        window = self._layout.window
        most = longest(window)
        if len(text) > most and runtime.spaces_alike:
            text = squeezed(text, most)
        if len(text) > most:
            return None
        text = text.lower() if self._layout.lowercase else text
        if not may_fit(text, window, runtime.count):
            return None
        ids = np.array([runtime.tokenizer.encode(text).ids])
        if ids.shape[1] > window or runtime.unknown in ids:
            return None
        inputs = {name: _INPUTS[name](ids).astype(kind) for name, kind in runtime.inputs.items()}
        (output,) = runtime.session.run([runtime.output], inputs)
        rows: NDArray[Any] = np.asarray(output)
        if runtime.output != _SENTENCE:
            rows = _POOLINGS[self._layout.pooling](rows)
        return unit_vectors(rows, dimension=self.dimension, model=self._identity)[0]

    def _loaded(self) -> _Runtime:
        with self._lock:
            if self._runtime is None:
                try:
                    with contained:
                        self._runtime = _load(self._layout)
                except MemoraError:
                    raise
                except Exception as error:  # a damaged file; each library has its own errors
                    raise EmbedderError(f"{self._identity} cannot be loaded: {error}") from error
            return self._runtime


def _load(layout: _Layout) -> _Runtime:
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(layout.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    session = open_session(layout.weights)
    inputs: dict[str, type[np.signedinteger[Any]]] = {
        declared.name: np.int32 if declared.type == "tensor(int32)" else np.int64
        for declared in session.get_inputs()
    }
    if unknown := sorted(inputs.keys() - _INPUTS.keys()):
        raise ConfigError(f"{layout.weights} wants {', '.join(unknown)} as input: {_REMEDY}")
    outputs = [declared.name for declared in session.get_outputs()]
    output = next((name for name in (_SENTENCE, *_TOKENS) if name in outputs), None)
    if output is None:
        raise ConfigError(f"{layout.weights} has only the outputs {', '.join(outputs)}: {_REMEDY}")
    found = (tokenizer.token_to_id(token) for token in _UNKNOWN)
    unk: int | None = next((token for token in found if token is not None), None)
    one, *more = (tokenizer.encode(f"a{space}b").ids for space in _SPACES)
    alike = all(ids == one for ids in more)
    return _Runtime(tokenizer, session, inputs, output, unk, alike)


def _processors() -> int:
    """Return the number of processors available to this process."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _digest(layout: _Layout) -> str:
    """Hash weights and tokenizer; a large model stores its weights beside the graph file."""
    digest = hashlib.sha256()
    weights = layout.weights.parent.glob(f"{layout.weights.name}*")
    for path in [*sorted(weights), layout.tokenizer]:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    settings = [layout.pooling, layout.window, layout.lowercase]  # they affect vectors too
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()[:12]


def _read(directory: Path) -> _Layout:
    modules = {
        module["type"].rpartition(".")[2]: module["path"]
        for module in _json(directory / "modules.json")
    }
    if unknown := sorted(modules.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise ConfigError(f"{directory} has a {unknown[0]} module: {_REMEDY}")
    transformer = directory / modules.get("Transformer", "")
    pooling = _json(directory / modules.get("Pooling", "1_Pooling") / "config.json")
    bert = _json(transformer / "sentence_bert_config.json", default={})
    prompts = _json(directory / "config_sentence_transformers.json", default={})
    if prompts.get("default_prompt_name"):
        raise ConfigError(f"{directory} puts a prompt before every text: {_REMEDY}")
    tokenizer = transformer / "tokenizer.json"
    if not tokenizer.is_file():
        raise ConfigError(f"{directory} has no tokenizer.json: {_REMEDY}")
    return _Layout(
        weights=_weights(directory),
        tokenizer=tokenizer,
        dimension=pooling.get("embedding_dimension") or pooling["word_embedding_dimension"],
        window=_window(transformer, bert),
        pooling=_pooling(pooling, directory),
        lowercase=bool(bert.get("do_lower_case")),
    )


def _weights(directory: Path) -> Path:
    """Return `model.onnx`, or the only ONNX file with another name."""
    usual = [directory / "onnx" / "model.onnx", directory / "model.onnx"]
    found = [path for path in usual if path.is_file()] or list(directory.rglob("*.onnx"))
    if not found:
        raise ConfigError(
            f"{directory} has no ONNX file: export one to onnx/model.onnx, or {_REMEDY}"
        )
    if len(found) > 1 and found[0] not in usual:
        names = ", ".join(sorted(path.name for path in found))
        raise ConfigError(f"{directory} has several ONNX files ({names}): name one model.onnx")
    return found[0]


def _window(transformer: Path, bert: dict[str, Any]) -> int:
    """Return the maximum number of tokens, by the rules of sentence-transformers."""
    if stated := bert.get("max_seq_length"):
        return int(stated)
    limits = [
        _json(transformer / "tokenizer_config.json", default={}).get("model_max_length"),
        _json(transformer / "config.json", default={}).get("max_position_embeddings"),
    ]
    known = [int(limit) for limit in limits if limit and limit < _UNLIMITED]
    if not known:
        raise ConfigError(f"{transformer} does not state its window: {_REMEDY}")
    return min(known)


def _pooling(config: dict[str, Any], directory: Path) -> str:
    """Return the single pooling mode, from the library's old or new format."""
    prefix = "pooling_mode_"
    names = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}
    flags = [
        key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on
    ]
    modes = [names.get(flag, flag) for flag in flags]
    mode = config.get("pooling_mode") or "+".join(modes)
    if mode not in _POOLINGS:
        raise ConfigError(f"{directory} pools by {mode or 'nothing'}: {_REMEDY}")
    return str(mode)


def _json(path: Path, *, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): {_REMEDY}") from error
