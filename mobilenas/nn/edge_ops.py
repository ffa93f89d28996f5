"""The parts of networks of cells whose edges have ops: ops, what leads into a cell, stem and head.

As NAS-Bench-201 (Dong and Yang 2020) and DARTS (Liu et al. 2019) have them: an op on an edge is
ReLU, convolution, batch norm, and leaves its input as it is, which other edges read too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.blocks import conv_bn
from mobilenas.space import EdgeCellSpace
from mobilenas.space.edge_cells import EdgeCellShape, Features


class ReLUConvBN(nn.Sequential):
    """ReLU, the convolutions that follow each other, batch norm."""

    def __init__(self, *convs: nn.Conv2d, affine: bool) -> None:
        super().__init__(nn.ReLU(), *convs, nn.BatchNorm2d(convs[-1].out_channels, affine=affine))


class Zero(nn.Module):
    """Zeros of the size of what other ops put out."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class NormReLU(nn.Sequential):
    """Batch norm of a sum, and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class HalvedSize(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 to half the channels each, batch norm. The second one
    takes the pixels between those of the first (DARTS's factorized reduction).
    """

    def __init__(self, cin: int, cout: int, affine: bool) -> None:
        super().__init__()
        self.halves = nn.ModuleList(
            nn.Conv2d(cin, cout // 2, 1, stride=2, bias=False) for _ in range(2)
        )
        self.bn = nn.BatchNorm2d(cout, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        first, second = self.halves
        return self.bn(torch.cat([first(x), second(x[:, :, 1:, 1:])], dim=1))


class ResidualHalving(nn.Module):
    """NAS-Bench-201's block between stages, of stride 2; its shortcut is a pool and a 1x1
    convolution without batch norm.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ReLUConvBN(_conv(cin, cout, 3, stride=2), affine=True),
            ReLUConvBN(_conv(cout, cout, 3), affine=True),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), _conv(cin, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


def _separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Conv2d]:
    """A depthwise convolution, and a 1x1 one right behind it."""
    depthwise = nn.Conv2d(
        *(channels, channels, kernel, stride, kernel // 2 * dilation, dilation),
        groups=channels,
        bias=False,
    )
    return [depthwise, _conv(channels, channels, 1)]


def build_op(op: str, channels: int, stride: int, affine: bool, norm_pools: bool) -> nn.Module:
    """An op that keeps the channels. norm_pools: whether pools have a batch norm too, without
    which their outputs would be of another scale than those of the other ops.
    """
    if op == "none":
        return Zero(stride)
    if op == "skip_connect":
        return nn.Identity() if stride == 1 else HalvedSize(channels, channels, affine)
    if op.endswith("pool_3x3"):
        pool = (
            nn.AvgPool2d(3, stride, 1, count_include_pad=False)
            if op == "avg_pool_3x3"
            else nn.MaxPool2d(3, stride, 1)
        )
        norm = nn.BatchNorm2d(channels, affine=affine)
        return nn.Sequential(pool, norm) if norm_pools else pool
    kernel = int(op[-1])
    if op.startswith("nor_conv"):
        return ReLUConvBN(_conv(channels, channels, kernel, stride), affine=affine)
    if op.startswith("dil_conv"):
        return ReLUConvBN(*_separable(channels, kernel, stride, dilation=2), affine=affine)
    return nn.Sequential(
        ReLUConvBN(*_separable(channels, kernel, stride), affine=affine),
        ReLUConvBN(*_separable(channels, kernel, 1), affine=affine),
    )


def build_enter(shape: EdgeCellShape, before: Features, affine: bool, residual: bool) -> nn.Module:
    """What brings an input of a cell to its size and channels (`cost.edge_cells.enter_count`)."""
    cin, cout = before.channels, shape.states.channels
    if residual:
        return nn.Identity() if before == shape.states else ResidualHalving(cin, cout)
    if before.size == shape.states.size:
        return ReLUConvBN(_conv(cin, cout, 1), affine=affine)
    return HalvedSize(cin, cout, affine)


def build_stem(space: EdgeCellSpace) -> nn.ModuleList:
    """One part for each output that the first cell takes, each on the output of the one before."""
    spec, first = space.spec, space.stem[0].channels
    if spec.skeleton != "darts_imagenet":
        others = (nn.Identity() for _ in space.stem[1:])
        return nn.ModuleList([conv_bn(spec.in_channels, first, 3, 1, None), *others])
    half = conv_bn(spec.in_channels, first // 2, 3, 2, "relu")
    last = nn.Sequential(nn.ReLU(), conv_bn(first, first, 3, 2, None))
    return nn.ModuleList([nn.Sequential(half, conv_bn(first // 2, first, 3, 2, None)), last])


def build_head(space: EdgeCellSpace) -> nn.Module:
    """What stands before the pooling: in NAS-Bench-201 a batch norm and a ReLU."""
    if space.spec.skeleton != "nb201":
        return nn.Identity()
    return NormReLU(space.shapes[-1].output.channels)
