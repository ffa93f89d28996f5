"""The global average of feature maps, whose gradient has the memory format of the map."""

import torch
from torch import Tensor, nn

from mobilenas.nn.kernels import is_eager_training


def global_average(x: Tensor) -> Tensor:
    """Feature map (n, channels, h, w) to (n, channels).

    The gradient that torch makes of a mean is contiguous, whatever the map is. Every layer before
    would go on with it, and a channels_last head takes half as long again then.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _keep_format(x)
    return x.mean(dim=(2, 3))


class Pool(nn.Module):
    """`global_average` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return global_average(x)


@torch.jit.unused
def _keep_format(x: Tensor) -> None:
    if is_eager_training(x) and x.is_contiguous(memory_format=torch.channels_last):
        x.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
