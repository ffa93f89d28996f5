"""Small ONNX graphs made by hand, as other programs would write them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_graph(
    path: Path,
    sizes: tuple[Any, ...],
    dtype: int = TensorProto.FLOAT,
    *,
    weights: int = 0,
    metadata: dict[str, str] | None = None,
    inputs: int = 1,
) -> Path:
    """A graph that sums its image. weights: megabytes of a constant that it adds to the sum."""
    given = [helper.make_tensor_value_info(f"input.{i}", dtype, sizes) for i in range(inputs)]
    constant = numpy_helper.from_array(np.ones(max(1, weights * 250_000), np.float32), "constant")
    nodes = [
        helper.make_node("Cast", ["input.0"], ["image"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "constant"], ["output"]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", given, [output], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path
