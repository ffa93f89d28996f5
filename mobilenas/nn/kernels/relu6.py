"""ReLU6 that works in place during training without a copy.

Autograd keeps the input of torch's in-place ReLU6, so it clones it: a read and a write of every
activation of the network for nothing, as the output tells which elements the gradient passes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.kernels import is_eager_training, refuse_second_derivatives


class _InPlaceReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0, 6)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivatives()
        (y,) = ctx.saved_tensors
        # 0 < y < 6 where and only where 0 < x < 6, so the output serves as well as the input.
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6)


@torch.jit.unused
def _goes_in_place(x: Tensor) -> bool:
    # On an accelerator a clone is cheaper than a function in Python.
    return is_eager_training(x) and x.is_cpu and not x.is_leaf


class ReLU6(nn.ReLU6):
    """``nn.ReLU6(inplace=True)`` with the same values and gradients, without the clone.

    Its output must not be changed in place by others during training: it is kept for backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Clamp ``input`` of any shape to 0..6."""
        if torch.jit.is_scripting() or not _goes_in_place(input):  # type: ignore[attr-defined]
            # The same values. In place as torch's own module calls it: relu6_ is exported with
            # bounds that are integers, which coremltools refuses. Networks are exported out of
            # place, where ExecuTorch's quantiser takes the range behind a relu6, and before a
            # hardtanh.
            return F.hardtanh(input, 0.0, 6.0, True) if self.inplace else F.relu6(input)
        out: Tensor = _InPlaceReLU6.apply(input)
        return out
