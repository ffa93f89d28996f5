"""What a right int8 quantisation of a network loses, simulated in torch."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.nn import fold_for_export
from mobilenas.runtimes.base import Floats
from mobilenas.runtimes.quantize import divergence

MARGIN = 2
_SMALLEST = 2e-3  # nats: less is chance among ways to round
_BATCH = 16


def divergence_limit(network: nn.Module, images: Floats) -> float:
    """The mean divergence (nats) of class probabilities that an int8 file may have from torch's.

    images: normalised (N, 3, R, R), those that the file was calibrated with. MARGIN times what the
    network has with int8 weights, a scale a channel, and every output of a layer in 8 bits between
    the least and the largest value on these images.
    """
    folded = fold_for_export(copy.deepcopy(network).cpu().float())
    expected = _logits(folded, images)
    leaves = [part for part in folded.modules() if not any(part.children())]
    seen = {part: [0.0, 0.0] for part in leaves}

    def observe(part: nn.Module, _: object, output: Tensor) -> None:
        low, high = seen[part]
        seen[part] = [min(low, float(output.min())), max(high, float(output.max()))]

    def coarsen(part: nn.Module, _: object, output: Tensor) -> Tensor:
        low, high = seen[part]
        step = max(high - low, 1e-30) / 255
        return (output / step).round().mul(step).clamp(low, high)

    hooks = [part.register_forward_hook(observe) for part in leaves]
    _logits(folded, images)
    for hook in hooks:
        hook.remove()
    for part in leaves:
        part.register_forward_hook(coarsen)
        if isinstance(part, nn.Conv2d | nn.Linear):
            step = part.weight.abs().flatten(1).amax(1).clamp_min(1e-30) / 127
            step = step.reshape(-1, *[1] * (part.weight.ndim - 1))
            part.weight = nn.Parameter((part.weight / step).round() * step, requires_grad=False)
    return MARGIN * divergence(expected, _logits(folded, images)) + _SMALLEST


def _logits(network: nn.Module, images: Floats) -> Floats:
    with torch.inference_mode():
        batches = torch.from_numpy(images).split(_BATCH)
        return np.concatenate([network(batch).numpy() for batch in batches])
