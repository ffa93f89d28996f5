"""Depthwise convolution whose weight gradient is fast on a CPU.

oneDNN computes the weight gradient of a depthwise convolution with a dedicated kernel only when
the filter is at most three columns wide; a wider one goes to a kernel for dense grouped
convolutions that pads every group to 16 x 16 channels. On two AVX-512 cores that is 1.3 to 5 times
slower than need be, and was over half of a training step of a network of 7 x 7 and 9 x 9
filters. Filter columns are independent, so the gradient is taken here for at most three columns
at a time, from copies of the input shifted by as many columns.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.kernels import is_eager_training, refuse_second_derivatives

# The widest filter for which oneDNN takes its depthwise kernel.
_MAX_COLUMNS = 3
# Bytes of input handled at a time, so that the shifted copies are still in the cache when they
# are read. 2 to 8 MiB were best on every shape measured, 1 and 16 MiB up to 1.8 times slower;
# larger chunks mean fewer parallel regions, which are what a busy machine makes expensive.
_CHUNK_BYTES = 4 << 20
# Inputs below this many elements gain nothing or lose some 0.05 ms (8 x 48 x 8 x 8 breaks even).
_MIN_ELEMENTS = 1 << 15

_conv_backward = torch.ops.aten.convolution_backward.default


def _column_groups(kernel_size: int) -> list[tuple[int, int]]:
    """The (first column, number of columns) of the pieces a filter is cut into."""
    pieces = -(-kernel_size // _MAX_COLUMNS)
    edges = [kernel_size * i // pieces for i in range(pieces + 1)]
    return [(a, b - a) for a, b in pairwise(edges)]


def depthwise_weight_grad(x: Tensor, grad: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """The weight gradient of a depthwise convolution with padding ``kernel_size // 2``.

    ``x`` is the input (N, C, H, W), ``grad`` the gradient of the output (N, C, OH, OW), both
    float32 on the CPU and in any memory format (channels_last is the fast one). Returns
    (C, 1, kernel_size, kernel_size). For one number of threads the result is bit for bit the
    same each time.
    """
    n, c, h, w = x.shape
    oh, ow = grad.shape[2:]
    pad = kernel_size // 2
    num_chunks = max(1, min(n, -(-x.nbytes // _CHUNK_BYTES)))
    per_chunk = -(-n // num_chunks)
    rows = stride * (oh - 1) + kernel_size
    used = min(h, rows - pad)  # the last input rows may lie beyond the last strided window
    pieces = []
    for first, width in _column_groups(kernel_size):
        cols = stride * (ow - 1) + width
        # Column q of the buffer is column q + first - pad of x. What lies outside x is zeroed
        # once; chunks write over the inside only. The padding is part of the buffer because
        # oneDNN refuses its depthwise kernel for some paddings (9 rows on an 8-row image, say).
        lo = min(cols, max(0, pad - first))
        hi = max(lo, min(cols, w + pad - first))
        buffer = torch.empty(
            (per_chunk, c, rows, cols), dtype=x.dtype, memory_format=torch.channels_last
        ).zero_()
        total = x.new_zeros((c, 1, kernel_size, width))
        pieces.append((buffer, total, slice(lo, hi), slice(lo + first - pad, hi + first - pad)))
    for start in range(0, n, per_chunk):
        x_part = x[start : start + per_chunk]
        grad_part = grad[start : start + per_chunk]
        # A contiguous gradient would make oneDNN treat the buffer as contiguous too.
        grad_part = grad_part.contiguous(memory_format=torch.channels_last)
        for buffer, total, inside, source in pieces:
            shifted = buffer[: x_part.shape[0]]
            shifted[:, :, pad : pad + used, inside].copy_(x_part[:, :, :used, source])
            total += _conv_backward(
                grad_part,
                shifted,
                total,  # only its shape counts
                None,
                [stride, stride],
                [0, 0],
                [1, 1],
                False,
                [0, 0],
                c,
                [False, True, False],
            )[1]
    return torch.cat([total for _, total, _, _ in pieces], dim=3)


class _DepthwiseConv2dFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        refuse_second_derivatives()
        x, weight = ctx.saved_tensors
        stride, kernel_size = ctx.stride, weight.shape[-1]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            pad = kernel_size // 2
            grad_x = _conv_backward(
                grad,
                x,
                weight,
                None,
                [stride, stride],
                [pad, pad],
                [1, 1],
                False,
                [0, 0],
                weight.shape[0],
                [True, False, False],
            )[0]
        if ctx.needs_input_grad[1]:
            grad_weight = depthwise_weight_grad(x, grad, kernel_size, stride)
        return grad_x, grad_weight, None


@torch.jit.unused
def _use_fast_gradient(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradient by columns is legal here and was measured to be faster.

    Faster, by 1.3 to 5 times, in every case measured with a filter wider than 3 and an input not
    tiny: kernels 5 to 9, strides 1 and 2, 48 to 1152 channels, 7 x 7 to 112 x 112, batches 1 to
    128, one and two threads.
    """
    return (
        is_eager_training(weight, x)
        and weight.shape[-1] > _MAX_COLUMNS
        and x.dim() == 4
        and x.numel() >= _MIN_ELEMENTS
        and x.device.type == "cpu"
        and weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """What a `DepthwiseConv2d` of that weight makes of x; the weight may come from others."""
    if _use_fast_gradient(x, weight):
        out: Tensor = _DepthwiseConv2dFunction.apply(x, weight, stride)
        return out
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one filter a channel, "same" padding and no bias; trains faster on CPU.

    Takes (N, channels, H, W), returns (N, channels, ceil(H / stride), ceil(W / stride)) for the
    odd ``kernel_size``. Parameters, state dict, initialisation and values are those of
    ``nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels,
    bias=False)``; only the weight gradient is computed differently, and only where that is
    faster. Exporters, tracers, accelerators and evaluation see an ordinary convolution, and so do
    second derivatives within ``plain_kernels()``.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__(
            channels,
            channels,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=channels,
            bias=False,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, channels, H, W)."""
        # A bias is there once a batch norm has been folded in.
        if (
            torch.jit.is_scripting()  # type: ignore[attr-defined]
            or self.bias is not None
            or not _use_fast_gradient(input, self.weight)
        ):
            return F.conv2d(
                input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
        out: Tensor = _DepthwiseConv2dFunction.apply(input, self.weight, self.stride[0])
        return out
