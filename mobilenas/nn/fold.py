"""Folding of what is linear at inference: batch norms into convolutions, linear paths into one."""

import copy
from collections import OrderedDict
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from mobilenas.nn.blocks import ConvBN, InvertedBottleneck, NormAct, Paths
from mobilenas.nn.edge_cells import PlainCell
from mobilenas.nn.edge_ops import HalvedSize, NormReLU, ReLUConvBN

Module = TypeVar("Module", bound=nn.Module)


def fold_batch_norm(module: Module) -> Module:
    """A copy of a network, or of a part of one, in eval mode with every batch norm folded into the
    convolution before it, and the linear paths of a block (`path_activation: after_sum`) into one
    depthwise convolution of the largest kernel, in each channel group. A batch norm of a sum of
    edges becomes a 1x1 depthwise convolution; what the output of a cell does not hang on is gone.
    """
    return fold_batch_norm_(copy.deepcopy(module).eval())


def fold_for_export(module: Module) -> Module:
    """`fold_batch_norm` of what becomes a file: nothing is trained, and nothing works in place.

    In place the export takes twice as long, and a ReLU6 is another operator (see `ReLU6`).
    """
    folded = fold_batch_norm(module).requires_grad_(False)
    for part in folded.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]
    return folded


def fold_batch_norm_(module: Module) -> Module:
    """`fold_batch_norm` in place, of a module in eval mode. Convolutions are replaced, not changed,
    so others may share them.
    """
    for part in reversed(list(module.modules())):  # the paths of a block come before it
        if isinstance(part, ConvBN):
            part.conv = fuse_conv_bn_eval(part.conv, part.bn)
            part.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(part, InvertedBottleneck):
            norm, after_sum = part.bns[0], part.after_sum[0]
            assert isinstance(norm, nn.BatchNorm2d)
            part.project = fuse_conv_bn_eval(part.project, norm)
            part.bns[0] = nn.Identity()
            if isinstance(after_sum, NormAct):
                _merge_paths_(part, after_sum)
        elif isinstance(part, ReLUConvBN):
            part[-2], part[-1] = _folded(part[-2], part[-1]), nn.Identity()
        elif isinstance(part, NormReLU):
            part[0] = _folded(_identity(part[0]), part[0])
        elif isinstance(part, HalvedSize):
            _fold_halves_(part)
        elif isinstance(part, PlainCell):
            part.drop_unused_()
    return module


def _folded(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)


def _identity(norm: nn.Module) -> nn.Conv2d:
    """A depthwise convolution that passes on what a batch norm takes."""
    assert isinstance(norm, nn.BatchNorm2d)
    channels = norm.num_features
    conv = skip_init(nn.Conv2d, channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(conv.weight)
    return conv.to(norm.running_mean).eval()


def _fold_halves_(part: HalvedSize) -> None:
    """The batch norm of the channels of two convolutions into both."""
    norm = part.bn
    assert isinstance(norm, nn.BatchNorm2d)
    values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    halves = zip(*(2 * [None] if v is None else v.chunk(2) for v in values), strict=True)
    for place, (mean, var, weight, bias) in enumerate(halves):
        conv = copy.deepcopy(part.halves[place])
        assert isinstance(conv, nn.Conv2d)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, None, mean, var, norm.eps, weight, bias
        )
        part.halves[place] = conv
    part.bn = nn.Identity()  # type: ignore[assignment]


def _merge_paths_(block: InvertedBottleneck, after_sum: NormAct) -> None:
    """Make one convolution, with activation, of the linear paths of each channel group, whose batch
    norms are folded already, and the batch norm after their sum.
    """
    norm = after_sum.bn
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = torch.ones_like(norm.running_var), torch.zeros_like(norm.running_var)
    if norm.affine:
        weight, bias = norm.weight, norm.bias
    scale = weight / torch.sqrt(norm.running_var + norm.eps)
    shift = bias - norm.running_mean * scale
    of_groups = zip(scale.split(block.widths), shift.split(block.widths), strict=True)
    for i, (group_scale, group_shift) in enumerate(of_groups):
        convs = [path.conv for path in block.groups[i].values()]  # type: ignore[operator]
        conv = _merged(convs, group_scale, group_shift)
        path = nn.Sequential(OrderedDict(conv=conv, act=copy.deepcopy(after_sum.act)))
        block.groups[i] = Paths({f"k{conv.kernel_size[0]}": path})
    block.kernels = tuple((max(group),) for group in block.kernels)
    block.after_sum[0] = nn.Identity()


def _merged(convs: list[nn.Conv2d], scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """scale * (the sum of depthwise convolutions of one input) + shift, (channels,) both, as one.

    A kernel that is padded with zeros computes the same, and convolution is linear in its kernel.
    """
    largest = max(convs, key=lambda conv: conv.kernel_size[0])
    weight, bias = torch.zeros_like(largest.weight), torch.zeros_like(shift)
    for conv in convs:
        border = (largest.kernel_size[0] - conv.kernel_size[0]) // 2
        weight = weight + F.pad(conv.weight, [border] * 4)
        assert conv.bias is not None
        bias = bias + conv.bias
    merged = copy.deepcopy(largest)
    merged.weight = nn.Parameter((weight * scale[:, None, None, None]).detach())
    merged.bias = nn.Parameter((bias * scale + shift).detach())
    return merged
