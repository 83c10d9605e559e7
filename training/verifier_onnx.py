"""Write a trained verifier as one fused ONNX graph, as `scripts/build_model.py` does the embedder.

The graph is written node by node from the weights: the same weights give the same bytes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx
from build_model import IR_VERSION, OPSET, RUNTIME, Graph, layer, norm_of
from data import development_file
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

INPUTS: Final = ("input_ids", "token_type_ids", "attention_mask")


def network(
    weights: Mapping[str, NDArray[np.float32]],
    config: Mapping[str, Any],
    precision: Literal["int8", "dynamic", "fp32"],
) -> bytes:
    """Write the whole network.

    Args:
        weights: Of `Verifier.state_dict`.
        config: Of its encoder.
        precision: int8: weights with a scale for each 64 inputs, activations quantised by row.
            dynamic: onnxruntime's dynamic quantisation, a scale for each output. fp32: as trained.

    Returns:
        A serialized model from `input_ids`, `token_type_ids` and `attention_mask`, int64 of shape
        (pairs, length), to `logit`, float32 of shape (pairs,).
    """
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items()}
    graph = Graph("int8" if precision == "int8" else "fp32")
    graph.op("Cast", ["attention_mask"], "mask", {"to": onnx.TensorProto.INT32})
    tensor = _embeddings(graph, encoder, config)
    for number in range(config["num_hidden_layers"]):
        tensor = layer(graph, encoder, config, tensor, number)
    _head(graph, weights, tensor)
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"])
        for name in INPUTS
    ]
    output = helper.make_tensor_value_info("logit", onnx.TensorProto.FLOAT, ["batch"])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "memora-verifier", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME, 1)],
        ir_version=IR_VERSION,
        producer_name="memora",
    )
    if precision == "dynamic":
        return _dynamic(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _embeddings(
    graph: Graph, weights: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]
) -> str:
    word = graph.lookup("input_ids", weights["embeddings.word_embeddings.weight"], "word")
    table = graph.constant("types", weights["embeddings.token_type_embeddings.weight"])
    kind = graph.op("Gather", [table, "token_type_ids"], "type")
    length = graph.op("Shape", ["input_ids"], "length", {"start": 1, "end": 2})
    zero = graph.constant("zero", np.array([0]))
    table = graph.constant("positions", weights["embeddings.position_embeddings.weight"])
    position = graph.op("Slice", [table, zero, length], "position")
    summed = graph.op("Add", [graph.op("Add", [word, kind], "typed"), position], "embedded")
    norm = norm_of(graph, weights, "embeddings.LayerNorm")
    attributes = {"epsilon": config["layer_norm_eps"]}
    return graph.op("LayerNormalization", [summed, *norm], "layer.0", attributes)


def _head(graph: Graph, weights: Mapping[str, NDArray[np.float32]], tensor: str) -> None:
    weight = graph.op("Cast", ["attention_mask"], "weight", {"to": onnx.TensorProto.FLOAT})
    one = graph.constant("one", np.array([1]))
    row = graph.op("Unsqueeze", [weight, one], "weight.row")
    total = graph.op("MatMul", [row, tensor], "total.row")
    total = graph.op("Squeeze", [total, one], "total")
    tokens = graph.op("ReduceSum", [weight, one], "tokens", {"keepdims": 1})
    mean = graph.op("Div", [total, tokens], "mean")
    at = graph.constant("at", np.array([0]))
    first = graph.op("Gather", [tensor, at], "first.row", {"axis": 1})
    first = graph.op("Squeeze", [first, one], "first")
    both = graph.op("Concat", [first, mean], "both", {"axis": 1})
    inputs = [both, graph.constant("head", weights["head.weight"].T)]
    inputs.append(graph.constant("head.bias", weights["head.bias"]))
    graph.op("Squeeze", [graph.op("Gemm", inputs, "logit.row"), one], "logit")


def _dynamic(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            reduce_range=True,  # 8-bit products overflow on processors without VNNI
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gather"],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return development_file(path).read_bytes()
