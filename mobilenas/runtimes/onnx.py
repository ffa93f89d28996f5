"""A torch module as one self-contained ONNX model."""

import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import version_converter
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.base import INPUT, OPSET, OUTPUT, silence

# What ONNX's converter reaches from OPSET with the operators of our networks, and what ONNX Runtime
# loads of it (tests/export).
OPSETS = range(14, 27)
_PARTS_OF_SHAPES = 15  # the opset that Shape has had a start and an end since
_UNKNOWN = "unknown"  # a domain that the converter leaves alone


def to_onnx(module: nn.Module, example: Tensor) -> bytes:
    """The ONNX model of what `deployable` made, with OPSET and a free batch size; not verified."""
    # Two images: with one, the exporter takes the batch size for a constant.
    two = torch.cat([example[:1], example[:1]])
    return trace(module, two, [OUTPUT], ({0: torch.export.Dim("batch")},))


def to_onnx_quickly(module: nn.Module, example: Tensor) -> bytes:
    """The model of `to_onnx`, but for the names in it and the batch size, which is the example's.

    By torch's older exporter: 0.05 s for a block, where the one of `to_onnx` takes a second or
    more, which some hundred rows of a latency table do not have. What is left of its ways is taken
    out here, so that the nodes are the same and the quantiser does the same to them
    (tests/runtimes).
    """
    with silence(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,
            external_data=False,
        )
        proto = onnx.load(path)
    _constants_to_initializers(proto.graph)
    return _plain_bytes(proto)


def trace(
    module: nn.Module,
    example: Tensor,
    outputs: list[str],
    dynamic_shapes: tuple[dict[int, Any]] | None = None,
) -> bytes:
    """The ONNX model of a module with one input, for inputs of the example's shape.

    dynamic_shapes: as torch.onnx.export takes them. The same module gives the same bytes.
    """
    with silence():
        program = torch.onnx.export(
            module,
            (example,),
            None,
            input_names=[INPUT],
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            external_data=False,
            export_params=True,
            keep_initializers_as_inputs=False,
            optimize=True,
            verify=False,
            report=False,
            profile=False,
            dump_exported_program=False,
            verbose=False,
        )
    assert program is not None
    return _plain_bytes(program.model_proto)


def to_opset(model: bytes, opset: int) -> bytes:
    """A model of OPSET with another opset, one of OPSETS. Raises BadInput where an operator of the
    model is newer.
    """
    if opset == OPSET:
        return model
    proto = onnx.load_from_string(model)
    if opset > OPSET:
        return _plain_bytes(version_converter.convert_version(proto, opset))
    for node in proto.graph.node:
        if node.op_type == "Shape" and node.attribute and opset < _PARTS_OF_SHAPES:
            raise BadInput(f"--opset {opset}: this network needs {_PARTS_OF_SHAPES} or more")
        kept = [each for each in node.attribute if not _is_of_18(node, each)]
        del node.attribute[:]
        node.attribute.extend(kept)
        if node.op_type == "Split":
            node.domain = _UNKNOWN
    proto.opset_import.add(domain=_UNKNOWN, version=1)
    converted = version_converter.convert_version(proto, opset)
    converted.opset_import.remove(onnx.helper.make_opsetid(_UNKNOWN, 1))
    for node in converted.graph.node:
        if node.domain == _UNKNOWN:
            node.domain = ""
    return _plain_bytes(converted)


def _is_of_18(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Whether it came with opset 18 and says nothing: of a reduction the converter leaves it, and
    of a split, whose sizes are an input, it converts none.
    """
    if node.op_type == "Split":
        return attribute.name == "num_outputs" and len(node.input) == 2
    return attribute.name == "noop_with_empty_axes" and not attribute.i


def with_batch(model: bytes, batch: int | None) -> bytes:
    """A model with a free batch size with this one in place of it; None leaves it as it is."""
    if batch is None:
        return model
    proto = onnx.load_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return _plain_bytes(proto)


def with_metadata(model: bytes, metadata: dict[str, str]) -> bytes:
    """A model with these metadata alone."""
    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    return proto.SerializeToString(deterministic=True)


def metadata_in(model: bytes) -> dict[str, str]:
    """The metadata of a model that ONNX Runtime loads."""
    return {prop.key: prop.value for prop in onnx.load_from_string(model).metadata_props}


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Also the equal ones that the older exporter has once, and copies by Identity nodes: the
    quantiser needs each bias by itself.
    """
    values = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Constant":
            tensor = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            tensor = values[node.input[0]]
        else:
            graph.node.append(node)
            continue
        values[node.output[0]] = added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = node.output[0]


def _plain_bytes(model: onnx.ModelProto) -> bytes:
    """Without what exporters note for debugging: source paths and lines of this machine.

    The IR version becomes the least that the opset has: runtimes refuse one that they do not know,
    and exporters write their newest.
    """
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import, True)
    graph = model.graph
    del graph.value_info[:]
    for part in (graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
        del part.metadata_props[:]
        part.doc_string = ""
    return model.SerializeToString(deterministic=True)
