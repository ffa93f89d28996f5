"""Convolutions merged into one (MergeNAS, Wang et al. 2020): those of an edge, and of a block.

Convolution is linear in its kernel, so a weighted sum of convolutions of one input is one with the
sum of their kernels, each padded with zeros. All that follows it, batch norm too, runs once, so the
sum is taken before it; and its scale has no effect behind a batch norm: weights of convolutions
count against each other only, unless what follows is multiplied by their sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.blocks import InvertedBottleneck, NormAct
from mobilenas.nn.choice_block import Branch, ChoiceBlock
from mobilenas.nn.edge_ops import ReLUConvBN, build_op
from mobilenas.nn.kernels.depthwise import depthwise_conv2d
from mobilenas.nn.sharing import plain_state
from mobilenas.nn.views import View, mix
from mobilenas.space import Block, Candidate


class MergedEdge(nn.Module):
    """All ops that an edge may have. The convolutions have one kernel, of the largest size, of
    which each is a mask, and one batch norm, without weight and bias; separable ones run once, and
    have one 1x1 convolution behind them. Other ops stand apart. The convolutions are all dense, or
    all depthwise.

    two_level: whether the branch of the convolutions is multiplied by the sum of their weights.
    """

    def __init__(
        self, ops: Sequence[str], channels: int, stride: int, norm_pools: bool, two_level: bool
    ) -> None:
        super().__init__()
        self.ops, self.two_level = ops, two_level
        self.taps = {index: _taps(op) for index, op in enumerate(ops) if is_convolution(op)}
        size = 1 + max(taps[-1] for taps in self.taps.values())  # around the middle tap, 0
        size = 2 * size - 1
        dense = ops[min(self.taps)].startswith("nor")
        self.conv = nn.Conv2d(
            channels, channels, size, stride, size // 2, groups=1 if dense else channels, bias=False
        )
        self.pointwise = nn.Identity() if dense else nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.apart = nn.ModuleDict(
            {
                str(index): build_op(op, channels, stride, False, norm_pools)
                for index, op in enumerate(ops)
                if index not in self.taps
            }
        )
        masks = torch.zeros(len(ops), size, size)
        for index, taps in self.taps.items():
            rows = torch.tensor(taps) + size // 2
            masks[index, rows[:, None], rows] = 1
        self.register_buffer("masks", masks, persistent=False)

    def forward(self, x: Tensor, view: View) -> Tensor:
        weights = {view: x.new_ones(())} if isinstance(view, int) else view
        merged = {index: w for index, w in weights.items() if index in self.taps}
        apart = {index: w for index, w in weights.items() if index not in self.taps}
        terms = []
        if merged:
            y = self.bn(self.pointwise(self.convolved(F.relu(x), merged)))
            terms.append(reduce(torch.add, merged.values()) * y if self.two_level else y)
        if apart:
            terms.append(mix(apart, lambda indices: [self.apart[str(i)](x) for i in indices]))
        return reduce(torch.add, terms)

    def convolved(self, x: Tensor, weights: Mapping[int, Tensor]) -> Tensor:
        """The sum of the convolutions of some ops, times their weights."""
        kernel = self.conv.weight
        shares = torch.stack([w.to(kernel) for w in weights.values()])
        kernel = kernel * (shares[:, None, None] * self.masks[list(weights)]).sum(0)  # type: ignore[index]
        if self.conv.groups > 1:
            return depthwise_conv2d(x, kernel, self.conv.stride[0])
        return F.conv2d(x, kernel, None, self.conv.stride, self.conv.padding)

    def plain(self, index: int) -> nn.Module:
        """The op of an index, with copies of its weights, that computes what the edge does."""
        if index not in self.taps:
            return self.apart[str(index)]
        taps = torch.tensor(self.taps[index]) + self.conv.kernel_size[0] // 2
        count, dilation = len(taps), int(taps[1] - taps[0]) if len(taps) > 1 else 1
        own = nn.Conv2d(
            self.conv.in_channels,
            self.conv.out_channels,
            count,
            self.conv.stride[0],
            padding=count // 2 * dilation,
            dilation=dilation,
            groups=self.conv.groups,
            bias=False,
        )
        behind = [self.pointwise] if isinstance(self.pointwise, nn.Conv2d) else []
        op = ReLUConvBN(own, *behind, affine=False).to(self.conv.weight)
        own.weight = nn.Parameter(self.conv.weight.detach()[:, :, taps[:, None], taps].clone())
        op[-1].load_state_dict(self.bn.state_dict())
        return op.train(self.training)


class MergedBlock(ChoiceBlock):
    """All candidates of a block, of one channel group. The depthwise kernels of an expansion are
    added up, each with its weight, so a mixture runs one convolution an expansion. One batch norm
    and activation follow, for any number of paths; last batch norms have neither weight nor bias.

    Each expansion is multiplied by the sum of the weights of its candidates.
    """

    def __init__(self, block: Block) -> None:
        linear = replace(block, path_activation="after_sum")
        super().__init__(linear, shadow_bn=False, affine_last=False)
        self.stride = block.stride
        for branch in self.branches.values():
            (paths,) = branch.groups  # type: ignore[misc]
            for name, path in list(paths.items()):
                paths[name] = path.conv

    def forward(self, x: Tensor, view: View) -> Tensor:
        if isinstance(view, int):
            return super().forward(x, view)
        terms = []
        for expansion in dict.fromkeys(self.candidates[index].expansion for index in view):
            of_it = {i: w for i, w in view.items() if self.candidates[i].expansion == expansion}
            y = self._merged(x, of_it)
            terms.append(reduce(torch.add, of_it.values()) * y)
        return reduce(torch.add, terms)

    @torch.no_grad()
    def copy_to(self, built: nn.Module, candidate: Candidate) -> None:
        """Copy the candidate's weights to a block that was built as this candidate. Where the paths
        of that have a batch norm each before their sum, these do nothing in eval mode.
        """
        if candidate.is_identity:
            super().copy_to(built, candidate)
            return
        assert isinstance(built, InvertedBottleneck)
        state = built.state_dict()
        for name, tensor in plain_state(self.chosen(candidate)).items():
            if name.startswith("groups."):
                name = name.replace(".weight", ".conv.weight")
            elif name not in state:  # the norm behind the sum is that of the one path
                name = name.replace("after_sum.0", f"groups.0.k{candidate.kernels[0][0]}")
            state[name] = tensor
        built.load_state_dict(state)
        if isinstance(built.after_sum[0], NormAct):
            for path in built.groups[0].values():  # type: ignore[operator]
                path.bn.reset_parameters()
                path.bn.weight.fill_((1 + path.bn.eps) ** 0.5)

    def _merged(self, x: Tensor, weights: Mapping[int, Tensor]) -> Tensor:
        """What candidates of one expansion make of x together."""
        first = self.candidates[next(iter(weights))]
        if first.is_identity:
            y: Tensor = self.identity(x)
            return y
        branch = self.branches[f"e{first.expansion}"]
        assert isinstance(branch, Branch)
        (paths,) = branch.groups
        largest = max(k for index in weights for k in self.candidates[index].kernels[0])
        kernels = []
        for index, weight in weights.items():
            for k in self.candidates[index].kernels[0]:
                own = paths[f"k{k}"].weight  # type: ignore[index]
                kernels.append(weight.to(own) * F.pad(own, [(largest - k) // 2] * 4))
        y = depthwise_conv2d(branch.expand(x), reduce(torch.add, kernels), self.stride)
        y = branch.project(branch.squeeze_excite(branch.after_sum_for(1)(y)))
        y = branch.bn_for(1)(y)
        return x + branch.drop_path(y) if branch.residual else y


def is_convolution(op: str) -> bool:
    """Whether an op of an edge can be merged with others."""
    return "_conv_" in op


def _taps(op: str) -> list[int]:
    """The rows, and columns, of an op's kernel around its middle: -2, 0, 2 of dil_conv_3x3."""
    half, step = int(op[-1]) // 2, 2 if op.startswith("dil") else 1
    return list(range(-half * step, half * step + 1, step))
