"""What must be true of the graph of an exported ONNX file."""

from collections import Counter

import onnx

from mobilenas.base.errors import VerificationFailed, one_line
from mobilenas.runtimes.base import INPUT, OUTPUT, Form

# What only training needs: folded or left out of a network that is exported for inference.
TRAINING_OPS = ("BatchNormalization", "Dropout")


def check_structure(model: bytes, form: Form) -> Counter[str]:
    """Number of nodes of each operator of a valid inference graph of this form.

    Raises VerificationFailed naming what is wrong: not valid ONNX; another opset; another input or
    output than `image` and `logits`, or with another batch size; an operator of training or outside
    the ONNX standard.
    """
    proto = load_valid(model)
    for values, name in ((proto.graph.input, INPUT), (proto.graph.output, OUTPUT)):
        if [value.name for value in values] != [name]:
            found = ", ".join(value.name for value in values)
            raise VerificationFailed(f"the model has {found}; it must have {name} alone")
        batch = values[0].type.tensor_type.shape.dim[0]
        if form.batch is None and not batch.dim_param:
            raise VerificationFailed(f"the batch size of {name} is fixed at {batch.dim_value}")
        if form.batch is not None and batch.dim_value != form.batch:
            raise VerificationFailed(f"the batch size of {name} is not fixed at {form.batch}")
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if opsets != [form.opset]:
        raise VerificationFailed(f"the model has opset {opsets}, not {form.opset}")
    return count_nodes(proto)


def load_valid(model: bytes) -> onnx.ModelProto:
    """The model of these bytes. Raises VerificationFailed when it is not valid ONNX."""
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # the checker, protobuf and shape inference have their own classes
        raise VerificationFailed(f"not a valid ONNX model: {one_line(error)}") from error
    return proto


def count_nodes(proto: onnx.ModelProto) -> Counter[str]:
    """Number of nodes of each operator.

    Raises VerificationFailed for one of training, or outside the ONNX standard.
    """
    foreign = [
        f"{n.domain}.{n.op_type}" for n in proto.graph.node if n.domain not in ("", "ai.onnx")
    ]
    if foreign:
        raise VerificationFailed(f"{foreign[0]} is not an operator of the ONNX standard")
    nodes = Counter(node.op_type for node in proto.graph.node)
    for op in TRAINING_OPS:
        if nodes[op]:
            raise VerificationFailed(f"{nodes[op]} {op} nodes are left of training")
    return nodes
