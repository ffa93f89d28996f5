"""What must be true of the weights and biases of a float32 file: they are those of the network.

Logits do not tell a small error in the middle from another order of summation, and nothing of a
channel that is silent on all images. So every constant is looked at as well.
"""

import copy

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from mobilenas.base.errors import VerificationFailed
from mobilenas.nn import fold_for_export
from mobilenas.runtimes.base import Files, Floats

# Of the largest |weight| or |bias| of a layer. The constants of right files are equal to the bit;
# folding by another order of multiplications gives up to 1e-6.
CONSTANT_TOLERANCE = 1e-5
_LAYERS = (nn.Conv2d, nn.Linear)


def check_constants(files: Files, network: nn.Module) -> None:
    """Check the weights and biases of a file of ONNX Runtime or ExecuTorch.

    In ONNX each layer's, to CONSTANT_TOLERANCE; in a .pte file the bytes of each must be there.
    Other runtimes' files are not looked into. Raises VerificationFailed.
    """
    folded = fold_for_export(copy.deepcopy(network).cpu().float())
    layers = {name: part for name, part in folded.named_modules() if isinstance(part, _LAYERS)}
    if ".onnx" in files:
        _check_nodes(onnx.load_from_string(files[".onnx"]).graph, layers)
    elif ".pte" in files:
        _check_bytes(files[".pte"], layers)


def _check_nodes(graph: onnx.GraphProto, layers: dict[str, nn.Module]) -> None:
    """Each layer must be one node. What order they are in, the logits tell."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    left = {name: constants(layer) for name, layer in layers.items()}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = stored.get(node.input[1])
        if weight is None:
            raise VerificationFailed(f"the weight of {node.name} is no constant of the file")
        bias = stored[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        same = (n for n, (w, b) in left.items() if _near(weight, w) and _near(bias, b))
        found = next(same, None)
        if found is None:
            raise VerificationFailed(f"weight and bias of {node.name} are of no layer")
        del left[found]
    if left:
        raise VerificationFailed(f"the file has no node with the weight and bias of {min(left)}")


def _check_bytes(program: bytes, layers: dict[str, nn.Module]) -> None:
    """XNNPACK keeps constants as they are, channels last; biases of 0 may be left out."""
    for name, layer in layers.items():
        weight, bias = constants(layer)
        axes = [(0, 2, 3, 1), (1, 2, 3, 0)] if weight.ndim == 4 else [(0, 1), (1, 0)]
        orders = {np.ascontiguousarray(weight.transpose(order)).tobytes() for order in axes}
        if not any(order in program for order in (*orders, weight.tobytes())):
            raise VerificationFailed(f"the file has not the weight of {name}")
        if bias.any() and bias.tobytes() not in program:
            raise VerificationFailed(f"the file has not the bias of {name}")


def constants(layer: nn.Module) -> tuple[Floats, Floats]:
    """Weight and bias of a layer; zeros where it has no bias."""
    assert isinstance(layer, _LAYERS)
    weight: Floats = layer.weight.detach().numpy()
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.detach().numpy()
    return weight, bias


def _near(given: Floats, wanted: Floats) -> bool:
    if given.shape != wanted.shape:
        return False
    allowed = CONSTANT_TOLERANCE * float(np.abs(wanted).max())
    return bool((np.abs(given - wanted) <= allowed).all())
