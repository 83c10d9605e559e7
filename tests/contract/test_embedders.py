"""The law of every embedder: one suite, one parameter an embedder."""

from __future__ import annotations

import json
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memora
from memora.embedders import (
    CachedEmbedder,
    FunctionEmbedder,
    SentenceTransformersEmbedder,
    load_embedder,
)
from memora.protocols import Embedder

if TYPE_CHECKING:
    from memora.protocols import Vector

PACKAGED = Path(memora.__file__).parent / "models" / "all-MiniLM-L6-v2"
TEXTS = [
    "How do I reset my password?",
    "I forgot my password",
    "What is the capital of France, and how many people live there today?",
    "weather",
    "the naïve façade of a café",
]
ODD = ["", " ", "\n\t", "\u00a0", "\ufeffa", "½ m²", "Ünïcödé", "?!.,"]
WINDOW = 254  # words of one token each, beside the two special tokens


def packaged(_: Path) -> Embedder:
    return load_embedder("all-MiniLM-L6-v2", use_onnx=True)


def from_directory(path: Path) -> Embedder:
    shutil.copytree(PACKAGED, path / "copy")
    return load_embedder(str(path / "copy"), use_onnx=True)


def cached(path: Path) -> Embedder:
    return CachedEmbedder(packaged(path), 3)


def noise(texts: list[str]) -> list[list[float]]:
    seeds = [zlib.crc32(text.encode()) for text in texts]
    return [np.random.default_rng(seed).normal(size=16).tolist() for seed in seeds]


def function(_: Path) -> Embedder:
    return FunctionEmbedder(
        noise, fits=lambda text: len(text.split()) <= WINDOW and "\u1275" not in text
    )


def sentence_transformers(path: Path) -> Embedder:
    """Make a checkpoint with random weights and the packaged tokenizer."""
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    shutil.copytree(PACKAGED, path / "random", ignore=shutil.ignore_patterns("onnx"))
    config = json.loads((PACKAGED / "config.json").read_text("utf-8"))
    small = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1}
    bert = transformers.BertModel(transformers.BertConfig(**(config | small)))
    bert.save_pretrained(path / "random")
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    (path / "random" / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    return SentenceTransformersEmbedder(str(path / "random"))


@pytest.fixture(
    scope="module",
    params=[
        packaged,
        from_directory,
        cached,
        function,
        pytest.param(
            sentence_transformers,
            marks=pytest.mark.extra("sentence-transformers"),
        ),
    ],
    ids=lambda maker: maker.__name__,
)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return request.param(tmp_path_factory.mktemp("embedder"))


def one(embedder: Embedder, text: str) -> Vector:
    (vector,) = embedder.embed([text])
    assert vector is not None
    return vector


def words(n: int) -> str:
    return " ".join(["hello"] * n)


def test_it_is_an_embedder(embedder: Embedder) -> None:
    assert isinstance(embedder, Embedder)


def test_vectors_are_unit_float32_of_the_stated_dimension(embedder: Embedder) -> None:
    for vector in embedder.embed(TEXTS):
        assert vector is not None
        assert vector.dtype == np.float32
        assert vector.shape == (embedder.dimension,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]) == []


def test_the_identity_says_something(embedder: Embedder) -> None:
    assert embedder.identity.strip()


def test_a_batch_gives_the_vectors_of_its_texts_alone_and_in_order(embedder: Embedder) -> None:
    texts = [*TEXTS, TEXTS[0], words(WINDOW)]

    for text, vector in zip(texts, embedder.embed(texts), strict=True):
        assert vector is not None
        assert vector @ one(embedder, text) >= 0.9999


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    assert one(embedder, TEXTS[0]) @ one(embedder, TEXTS[3]) < 0.9999


def test_a_text_that_fills_the_window_is_served_and_one_word_more_is_not(
    embedder: Embedder,
) -> None:
    short, full, over = embedder.embed([TEXTS[0], words(WINDOW), words(WINDOW + 1)])

    assert short is not None
    assert full is not None
    assert over is None


def test_only_texts_beyond_the_window_give_only_none(embedder: Embedder) -> None:
    assert embedder.embed([words(300), words(3000)]) == [None, None]


def test_odd_texts_have_vectors(embedder: Embedder) -> None:
    for text, vector in zip(ODD, embedder.embed(ODD), strict=True):
        assert vector is not None, repr(text)
        assert np.isfinite(vector).all(), repr(text)


def test_a_text_with_characters_that_a_model_does_not_know_has_no_vector(
    embedder: Embedder,
) -> None:
    known, unknown = embedder.embed(["Show me products", "Show me \u1275 products"])

    assert known is not None
    assert unknown is None


def test_threads_get_the_vectors_that_one_thread_gets(embedder: Embedder) -> None:
    alone = [one(embedder, text) for text in TEXTS]

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(embedder.embed, [TEXTS] * 24))

    for batch in batches:
        for vector, expected in zip(batch, alone, strict=True):
            assert vector is not None
            assert vector @ expected >= 0.9999
