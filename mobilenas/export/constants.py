"""What must be true of the weights and biases in a file: they are those of the network.

Logits do not tell a small error in the middle from another order of summation, and nothing of a
channel that is silent on all images. So every constant is looked at as well.
"""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import nn

from mobilenas.base.errors import VerificationFailed
from mobilenas.nn import fold_for_export
from mobilenas.runtimes.base import Dtype, Files, Floats

# Of the largest |weight| or |bias| of a layer. The constants of right files are equal to the bit;
# folding by another order of multiplications gives up to 1e-6.
CONSTANT_TOLERANCE = 1e-5
_LEAST_SCALE = np.float32(2**-12)  # that XNNPACK's quantiser gives a channel
_BIAS_STEPS = 1.1  # half a step of rounding, half of the scale that is found
Layers = dict[str, nn.Conv2d | nn.Linear]


def check_constants(files: Files, dtype: Dtype, network: nn.Module) -> None:
    """Check the weights and biases of a file of ONNX Runtime or ExecuTorch.

    In ONNX each layer's, to CONSTANT_TOLERANCE; `check_int8` is for int8. In a .pte file the bytes
    of each must be there; of int8 biases what one scale of the input makes of them. Files of other
    runtimes are not looked into. Raises VerificationFailed.
    """
    folded = fold_for_export(copy.deepcopy(network).cpu().float())
    parts = folded.named_modules()
    layers = {name: part for name, part in parts if isinstance(part, nn.Conv2d | nn.Linear)}
    if ".onnx" in files and dtype == "fp32":
        _check_nodes(onnx.load_from_string(files[".onnx"]).graph, layers)
    elif ".pte" in files:
        check = _check_bytes if dtype == "fp32" else _check_int8_bytes
        check(files[".pte"], layers)


def _check_nodes(graph: onnx.GraphProto, layers: Layers) -> None:
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


def _check_bytes(program: bytes, layers: Layers) -> None:
    """XNNPACK keeps constants as they are; biases of 0 may be left out."""
    for name, layer in layers.items():
        weight, bias = constants(layer)
        if not _weight_in(program, weight):
            raise VerificationFailed(f"the file has not the weight of {name}")
        if bias.any() and bias.tobytes() not in program:
            raise VerificationFailed(f"the file has not the bias of {name}")


def _check_int8_bytes(program: bytes, layers: Layers) -> None:
    """Weights are int8, symmetric by channel; their scales stand beside them."""
    words = np.frombuffer(program[: len(program) // 4 * 4], np.int32)
    for name, layer in layers.items():
        weight, bias = constants(layer)
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scale = np.maximum(largest / np.float32(127), _LEAST_SCALE)
        # Times the inverse, as torch does: near a half the quotient may round the other way.
        inverse = (np.float32(1) / scale).reshape(-1, *[1] * (weight.ndim - 1))
        steps = np.rint(weight * inverse).astype(np.int8)
        if scale.tobytes() not in program or not _weight_in(program, steps):
            raise VerificationFailed(f"the file has not the weight of {name} in int8")
        there = bias.tobytes() in program or len(bias_places(words, bias / scale))
        if bias.any() and not there:
            raise VerificationFailed(f"the file has not the bias of {name} in int32")


def _weight_in(program: bytes, weight: npt.NDArray[Any]) -> bool:
    """Whether it is there in one of the orders that XNNPACK keeps: channels last or first."""
    last = [(0, 2, 3, 1), (1, 2, 3, 0)] if weight.ndim == 4 else [(0, 1), (1, 0)]
    return any(np.ascontiguousarray(weight.transpose(axes)).tobytes() in program for axes in last)


def bias_places(words: npt.NDArray[np.int32], wanted: Floats) -> npt.NDArray[np.intp]:
    """Where words are `wanted` over a common scale, that of the input, rounded."""
    top, count = int(np.abs(wanted).argmax()), len(wanted)
    starts = np.flatnonzero(words[top : len(words) - count + top + 1])
    scales = wanted[top] / words[starts + top]  # to half of a step of the largest
    starts, scales = starts[scales > 0], scales[scales > 0]
    for channel in range(count):
        off = np.abs(words[starts + channel] - wanted[channel] / scales)
        starts, scales = starts[off <= _BIAS_STEPS], scales[off <= _BIAS_STEPS]
    return starts


def constants(layer: nn.Conv2d | nn.Linear) -> tuple[Floats, Floats]:
    """Weight and bias of a layer; zeros where it has no bias."""
    weight: Floats = layer.weight.detach().numpy()
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.detach().numpy()
    return weight, bias


def _near(given: Floats, wanted: Floats) -> bool:
    if given.shape != wanted.shape:
        return False
    allowed = CONSTANT_TOLERANCE * float(np.abs(wanted).max())
    return bool((np.abs(given - wanted) <= allowed).all())
