# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "onnx>=1.17"]
# ///
"""Write tiny.onnx: a model that looks each token up in a table, for what the packaged one is not.

uv run tests/data/make_tiny_onnx.py
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

TABLE = [
    [1, 0, 0],  # east
    [0, 2, 0],  # north
    [0, 0, 0],  # nowhere
    [np.nan, 0, 0],  # broken
]


def main() -> None:
    """Write the file beside this one."""
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"])
        for name in ("input_ids", "token_type_ids")
    ]
    hidden = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "length", len(TABLE[0])]
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "tiny",
        ids,
        [hidden],
        [numpy_helper.from_array(np.array(TABLE, np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = Path(__file__).with_name("tiny.onnx")
    path.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
