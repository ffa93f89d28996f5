"""ML programs of Core ML, run operator by operator in torch.

Core ML itself runs on Apple's systems only. This shows anywhere what a file computes, from its own
graph and weights; arithmetic is float32, so what float16 loses of the activations is not seen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mobilenas.base.errors import VerificationFailed
from mobilenas.runtimes.base import INPUT, OUTPUT, Floats, Inputs, Run


def load_program(package: Path) -> Run:
    """What the .mlpackage folder computes. Raises VerificationFailed for an operator not known."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = ct.utils.load_spec(str(package))
    weights = package / "Data" / "com.apple.CoreML" / "weights"
    program = load(spec, spec.specificationVersion, str(weights))
    operations = [op for op in program.functions["main"].operations if op.op_type != "const"]
    for op in operations:
        if op.op_type not in _OPERATORS:
            raise VerificationFailed(f"the operator {op.op_type} of Core ML is not known here")

    def run(inputs: Inputs) -> Floats:
        values: dict[str, Any] = {INPUT: torch.from_numpy(inputs)}

        def value(variable: Any) -> Any:
            if isinstance(variable, list | tuple):
                return [value(each) for each in variable]
            return values[variable.name] if variable.name in values else _constant(variable.val)

        with torch.inference_mode():
            for op in operations:
                arguments = {name: value(variable) for name, variable in op.inputs.items()}
                found = _OPERATORS[op.op_type](**arguments)
                results = found if isinstance(found, tuple) else (found,)
                names = (output.name for output in op.outputs)
                values.update(zip(names, results, strict=True))
        logits: Floats = values[OUTPUT].numpy()
        return logits

    return run


def _constant(value: Any) -> Any:
    """Weights as float32 tensors, everything else as Python has it."""
    array = np.asarray(value)
    if array.ndim and np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(array.astype(np.float32))
    return array.tolist()


def _conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    if pad_type == "custom":
        top, bottom, left, right = pad
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != "valid":
        raise VerificationFailed(f"a padding of type {pad_type} is not known here")
    return F.conv2d(x, weight, bias, strides, 0, dilations, groups)


_OPERATORS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x,  # all is float32 here
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": lambda values, axis, interleave: torch.cat(values, axis),
    "conv": _conv,
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "mul": lambda x, y: x * y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keepdim=keep_dims),
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "sigmoid": lambda x: x.sigmoid(),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "silu": lambda x: F.silu(x),
    "split": lambda x, split_sizes, axis: x.split(split_sizes, axis),
    "thresholded_relu": lambda x, alpha: x.where(x >= alpha, 0.0),
}
