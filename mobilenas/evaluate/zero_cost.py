"""Scores of untrained networks: beside a supernet's accuracy, and baselines that it has to beat.

naswot: Mellor et al. 2021, "Neural Architecture Search without Training", section 3.
synflow: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving
synaptic flow", as a score of networks by Abdelfattah et al. 2021, "Zero-Cost Proxies for
Lightweight NAS", section 3.

Both work on a copy whose batch norms are as if new. Networks here start with residual blocks as
the identity (last batch norm of weight 0), in which state a score would be blind to the blocks.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)


def zero_cost_scores(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Both scores of an untrained network by name, from images (batch, channels, h, w).

    synflow takes their shape only. Raises BadInput as `naswot` does.
    """
    shape = tuple(images.shape[1:])
    return {"naswot": naswot(network, images), "synflow": synflow(network, shape)}


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """How differently a network sees images (batch, channels, h, w): the log determinant of the
    kernel (batch, batch) of how many units agree on two images, where a unit says whether the
    input of its activation is above 0. Higher is better.

    Raises BadInput where the units cannot tell all images apart, as when two are equal.
    """
    fresh = _fresh_copy(network)
    n = len(images)
    agreeing = [images.new_zeros(n, n)]  # then of each activation, twice; whole numbers

    def count_agreement(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        codes = torch.where(inputs[0].flatten(1) > 0, 1.0, -1.0)
        # Products of +-1 sum to agreeing minus differing units.
        agreeing.append(codes.shape[1] + codes @ codes.T)

    for part in fresh.modules():
        if isinstance(part, ACTIVATIONS):
            part.register_forward_pre_hook(count_agreement)
        elif isinstance(part, nn.BatchNorm2d):
            part.train()  # statistics of the batch: an untrained network has no others
    fresh(images)
    kernel = torch.stack(agreeing).cpu().double().sum(0) / 2  # not on MPS, which has no float64
    sign, log_determinant = np.linalg.slogdet(kernel.numpy())
    if sign <= 0:
        raise BadInput(f"naswot: the network cannot tell the {len(images)} images apart")
    return float(log_determinant)


def synflow(network: nn.Module, image_shape: tuple[int, ...]) -> float:
    """The log of the synaptic flow: sum of |w * dR/dw| over the weights w of all convolution and
    linear layers, R being the sum of the outputs for an image (channels, h, w) of ones and with
    all weights replaced by their absolute values. Higher is better.

    Activations are left out. All their inputs are positive here, so that is what ReLU does, whereas
    ReLU6 saturates at such inputs and would stop the flow. The gate of a squeeze-excite stays.
    """
    fresh = _fresh_copy(network).cpu().double()  # MPS has no float64
    for parent in list(fresh.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ACTIVATIONS):
                setattr(parent, name, nn.Identity())
    weights = [m.weight for m in fresh.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.abs_()
    ones = torch.ones(1, *image_shape, dtype=torch.float64)
    gradients = torch.autograd.grad(fresh(ones).sum(), weights)
    flows = [(w.detach() * g).sum() for w, g in zip(weights, gradients, strict=True)]
    return math.log(sum(torch.stack(flows).tolist()))


def _fresh_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norms are as new: weight 1, bias 0, statistics 0 and 1."""
    fresh = copy.deepcopy(network).eval()
    for part in fresh.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    return fresh
