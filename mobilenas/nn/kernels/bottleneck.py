"""An inverted bottleneck as one function, for training on a CPU.

1x1 expansion, parallel depthwise paths, their sum and the 1x1 projection, with all batch norms and
clamps between. By torch's operators each of these reads and writes whole maps, which takes about as
long as the arithmetic. `bottleneck.cpp` does what lies between two batch norms while a part of the
maps is in the cache. Kept for the backward pass are the outputs of convolutions; what batch norms
and clamps made of them is computed again.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.kernels import is_eager_training, refuse_second_derivatives
from mobilenas.nn.kernels.compiled import MOST_PATHS, Sizes, Sums, library, pointers
from mobilenas.nn.kernels.depthwise import DepthwiseConv2d
from mobilenas.nn.kernels.relu6 import ReLU6

_KERNELS = (3, 5, 7, 9)
_STRIDES = ((1, 1), (2, 2))
_LIMITS: dict[type[nn.Module], tuple[float, float]] = {
    nn.ReLU: (0.0, torch.inf),
    nn.ReLU6: (0.0, 6.0),
    ReLU6: (0.0, 6.0),
}
# Hidden maps of fewer values gain nothing: some 0.5 ms are spent outside the loops.
_MIN_ELEMENTS = 1 << 17


class Layer(NamedTuple):
    """A convolution, its batch norm and activation."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.Module


def bottleneck(
    x: Tensor, expand: Layer, paths: Sequence[Layer], project: nn.Conv2d, last: nn.BatchNorm2d
) -> Tensor | None:
    """What `project` and the last norm make of the sum of what paths make of what `expand` makes of
    x (n, c, h, w).

    `expand` is a 1x1 convolution, or any other before a block that has none: a network's stem.
    None where torch's operators must do it: outside of training on a CPU in float32 and
    channels_last, for other layers than those of MixPath, and where images need a gradient through
    a stem. Its gradients cannot be differentiated again.
    """
    if not _is_of_mixpath(expand, paths, project) or not _is_tracking(last):
        return None
    layers = (expand, *paths)
    parameters = (
        expand.conv.weight,
        project.weight,
        *(path.conv.weight for path in paths),
        *(layer.norm.weight for layer in layers),
        *(layer.norm.bias for layer in layers),
        last.weight,
        last.bias,
    )
    if not _fits(x, *parameters) or library() is None:
        return None
    if x.requires_grad and not _is_pointwise(expand.conv):
        return None
    norms = [*(layer.norm for layer in layers), last]
    stride, limits = paths[0].conv.stride[0], _LIMITS[type(expand.act)]
    strides = (expand.conv.stride[0], int(expand.conv.padding[0]), stride)
    out: Tensor = _Bottleneck.apply(norms, strides, limits, x, *parameters)
    return out


def _is_of_mixpath(expand: Layer, paths: Sequence[Layer], project: nn.Conv2d) -> bool:
    layers = (expand, *paths)
    return (
        1 <= len(paths) <= MOST_PATHS
        and type(expand.act) in _LIMITS
        and all(type(layer.act) is type(expand.act) for layer in layers)
        and all(_is_tracking(layer.norm) for layer in layers)
        and _is_dense(expand.conv)
        and _is_pointwise(project)
        and all(_is_depthwise(path.conv) for path in paths)
    )


def _is_tracking(norm: nn.Module) -> bool:
    """Whether a batch norm uses the statistics of the batch and follows them."""
    return (
        isinstance(norm, nn.BatchNorm2d)
        and type(norm).forward is nn.BatchNorm2d.forward
        and norm.training
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.affine
    )


def _is_dense(conv: nn.Module) -> bool:
    """Whether it is an ordinary convolution over squares with fewer zeros than these around."""
    return (
        isinstance(conv, nn.Conv2d)
        and type(conv).forward is nn.Conv2d.forward
        and all(len({*sides}) == 1 for sides in (conv.kernel_size, conv.stride, conv.padding))
        and (conv.dilation, conv.groups, conv.bias) == ((1, 1), 1, None)
        and conv.padding_mode == "zeros"
        and conv.padding[0] < conv.kernel_size[0]  # type: ignore[operator]
    )


def _is_pointwise(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding)
    return _is_dense(conv) and shape == ((1, 1), (1, 1), (0, 0))


def _is_depthwise(conv: nn.Module) -> bool:
    return (
        isinstance(conv, DepthwiseConv2d)
        and conv.kernel_size[0] in _KERNELS
        and conv.stride in _STRIDES
        and conv.bias is None
    )


def _fits(x: Tensor, *parameters: Tensor) -> bool:
    """Whether these are tensors of a training step that the kernels can take."""
    return (
        is_eager_training(*parameters, x)
        # What watches or replaces operators must see them.
        and not torch._C._len_torch_dispatch_stack()
        and all(t.dtype == torch.float32 and t.is_cpu for t in (x, *parameters))
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() // x.shape[1] * len(parameters[0]) >= _MIN_ELEMENTS
    )


class _Run:
    """A block of some sizes: what `bottleneck.cpp` reads and writes, and its calls."""

    def __init__(
        self,
        x: Tensor,
        expand: Tensor,
        project: Tensor,
        strides: tuple[int, int, int],
        kernels: Sequence[int],
        limits: tuple[float, float],
    ) -> None:
        functions = library()
        assert functions is not None
        self.functions = functions
        self.lanes = functions.lanes()
        self.images, colours, *line_size = x.shape
        step, margin, self.stride = strides
        self.window = expand.shape[2:]
        size = [(side + 2 * margin - self.window[0]) // step + 1 for side in line_size]
        self.channels = self.wide(len(expand))
        self.pixels = math.prod(size)
        self.out_size = [-(-side // self.stride) for side in size]
        self.out_pixels = math.prod(self.out_size)
        self.parts = torch.get_num_threads()
        outer = (self.images, expand[0].numel(), self.channels, len(project))
        seen = (self.window[0], step, margin, colours, *line_size)
        self.sizes = Sizes(*outer, *size, self.stride, len(kernels), self.parts, *seen)
        self.sizes.kernels[: len(kernels)] = list(kernels)
        self.sizes.low, self.sizes.high = limits

    def call(self, name: str, *arguments: Tensor | Sequence[Tensor] | None) -> None:
        """Run a function of the library; None is a null pointer."""
        places = [
            x.data_ptr() if isinstance(x, Tensor) else x if x is None else pointers(x)
            for x in arguments
        ]
        with torch.profiler.record_function(f"mobilenas::{name}"):
            getattr(self.functions, name)(ctypes.addressof(self.sizes), *places)

    def map(self, pixels: int) -> Tensor:
        """Room for an inner map of so many pixels an image."""
        room = torch.empty(self.images * pixels * self.channels)
        self.functions.prefer_huge_pages(room.data_ptr(), room.nbytes)
        return room

    def sums(self, norms: int, channels: int) -> Tensor:
        """Two sums a channel, for each part and batch norm."""
        return torch.zeros(self.parts, norms, 2, self.wide(channels), dtype=torch.float64)

    def wide(self, channels: int) -> int:
        """A number of channels up to a multiple of the lanes."""
        return -(-channels // self.lanes) * self.lanes

    def padded(self, x: Tensor) -> Tensor:
        """x (..., channels) with zeros for the channels that are not there."""
        return F.pad(x, (0, self.wide(x.shape[-1]) - x.shape[-1])).contiguous()

    def blocks(self, weight: Tensor) -> Tensor:
        """A matrix (m, n) as (m / lanes, n, lanes), with zeros for the rows that are not there."""
        more = F.pad(weight, (0, 0, 0, -len(weight) % self.lanes))
        return more.unflatten(0, (-1, self.lanes)).transpose(1, 2).contiguous()

    def track(
        self, norms: Sequence[nn.BatchNorm2d], affine: Sequence[Tensor], sums: Tensor, pixels: int
    ) -> Tensor:
        """The figures of batch norms (norms, 4, channels), whose running statistics follow.

        affine: their weights, then their biases. sums: of the values of so many pixels an image.
        """
        figures = torch.empty(len(norms), 4, sums.shape[-1])
        for i, norm in enumerate(norms):
            assert norm.running_mean is not None and norm.running_var is not None
            assert norm.num_batches_tracked is not None and norm.momentum is not None
            of = (affine[i], affine[len(norms) + i], norm.running_mean, norm.running_var)
            self.functions.track(
                self._sums(sums, i, norm.num_features, pixels),
                *(norm.eps, norm.momentum),
                *(x.data_ptr() for x in (*of, figures[i])),
            )
            norm.num_batches_tracked += 1
        return figures

    def end(
        self, figures: Tensor, sums: Tensor, channels: int, pixels: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From sums of gradients the ends of norms (norms, 2, channels), and the gradients of
        weights and biases (norms, channels).
        """
        ends = torch.empty(len(figures), 2, sums.shape[-1])
        weights, biases = torch.empty(2, len(figures), channels)
        for i, of in enumerate(zip(figures, ends, weights, biases, strict=True)):
            places = (x.data_ptr() for x in of)
            self.functions.track_backward(self._sums(sums, i, channels, pixels), *places)
        return ends, weights, biases

    def _sums(self, sums: Tensor, norm: int, channels: int, pixels: int) -> Any:
        """Where those of a norm are, as the library takes it."""
        count = self.images * pixels
        return ctypes.byref(
            Sums(channels, self.parts, sums.stride(0), count, sums[0, norm].data_ptr())
        )


class _Bottleneck(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norms: list[nn.BatchNorm2d],
        strides: tuple[int, int, int],
        limits: tuple[float, float],
        x: Tensor,
        expand: Tensor,
        project: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        hidden_norm, *path_norms, last = norms
        count = len(path_norms)
        weights, affine = rest[:count], rest[count:-2]  # affine: all weights, then all biases
        run = _Run(x, expand, project, strides, [k.shape[-1] for k in weights], limits)
        expand, project = expand.permute(0, 2, 3, 1).flatten(1), project.flatten(1)

        hidden, sums = run.map(run.pixels), run.sums(1, len(expand))
        run.call("expand", _lines(x), run.blocks(expand), hidden, sums)
        before = run.track([hidden_norm], affine[:: count + 1], sums, run.pixels)

        maps = [run.map(run.out_pixels) for _ in weights]
        packed = [run.padded(weight[:, 0].permute(1, 2, 0)) for weight in weights]
        sums = run.sums(count, len(expand))
        run.call("depthwise", hidden, before, packed, maps, sums)
        own = [x for i, x in enumerate(affine) if i % (count + 1)]
        after = run.track(path_norms, own, sums, run.out_pixels)

        lines, sums = x.new_empty(len(x), *run.out_size, len(project)), run.sums(1, len(project))
        run.call("project", maps, after, run.blocks(run.padded(project)), lines, sums)
        behind = run.track([last], rest[-2:], sums, run.out_pixels)
        out = torch.empty_like(lines)
        run.call("normalise", lines, behind, out)
        ctx.save_for_backward(
            *(x, expand, project, hidden, lines, before, after, behind, *maps, *packed)
        )
        ctx.run = run
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        run: _Run = ctx.run
        x, expand, project, hidden, lines, before, after, behind, *rest = ctx.saved_tensors
        maps, packed = rest[: len(rest) // 2], rest[len(rest) // 2 :]

        grad, sums = _lines(grad), run.sums(1, len(project))
        run.call("normalise_backward", lines, behind, grad, sums)
        last_ends, *of_last = run.end(behind, sums, len(project), run.out_pixels)

        grad_sum, sums = run.map(run.out_pixels), run.sums(len(maps), len(expand))
        grad_project = x.new_zeros(run.parts, len(project), run.channels)
        run.call(
            "project_backward",
            *(maps, after, run.blocks(project.t()), lines, behind, last_ends, grad),
            *(grad_sum, grad_project, sums),
        )
        ends, *of_paths = run.end(after, sums, len(expand), run.out_pixels)

        grad_weights = [weight.new_zeros(run.parts, *weight.shape) for weight in packed]
        grad_hidden = grad_sum if run.stride == 1 else run.map(run.pixels)
        sums, turned = run.sums(1, len(expand)), [weight.flip(0, 1) for weight in packed]
        run.call(
            "depthwise_backward",
            *(hidden, before, maps, after, ends, packed, turned),
            *(grad_sum, grad_weights, grad_hidden, sums),
        )
        ends, *of_hidden = run.end(before, sums, len(expand), run.pixels)

        lines = _lines(x)
        grad_x = torch.empty_like(lines) if ctx.needs_input_grad[3] else None
        grad_expand = x.new_zeros(run.parts, expand.shape[1], run.channels)
        run.call(
            "expand_backward",
            *(lines, hidden, before, ends, grad_hidden, run.blocks(run.padded(expand.t()))),
            *(grad_x, grad_expand),
        )
        real = slice(len(expand))
        inner = [(*first, *more) for first, more in zip(of_hidden, of_paths, strict=True)]
        return (
            *(None, None, None),
            None if grad_x is None else grad_x.permute(0, 3, 1, 2),
            grad_expand.sum(0).t()[real].unflatten(1, (*run.window, -1)).permute(0, 3, 1, 2),
            grad_project.sum(0)[:, real, None, None],
            *(each.sum(0)[..., real].permute(2, 0, 1)[:, None] for each in grad_weights),
            *inner[0],
            *inner[1],
            *(gradient[0] for gradient in of_last),
        )


def _lines(x: Tensor) -> Tensor:
    """A map (n, channels, h, w) as (n, h, w, channels), a view if it is channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()
