"""The inverted bottleneck with parallel depthwise paths; supernet and network share this code."""

import math

import torch
from torch import Tensor, nn

from mobilenas.cost.counts import squeezed_channels
from mobilenas.nn.depthwise import DepthwiseConv2d
from mobilenas.nn.relu6 import ReLU6
from mobilenas.space import Block, Candidate, Space
from mobilenas.space.space import split_channels
from mobilenas.space.spec import BN_EPS, Activation

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": ReLU6,
    "swish": nn.SiLU,
    "hard_swish": nn.Hardswish,
}


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm and, unless linear, an activation."""

    def __init__(self, conv: nn.Conv2d, activation: Activation | None, eps: float = BN_EPS) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels, eps)
        if activation is not None:
            self.act = _ACTIVATIONS[activation](inplace=True)


def conv_bn(
    cin: int,
    cout: int,
    kernel: int,
    stride: int,
    activation: Activation | None,
    eps: float = BN_EPS,
) -> ConvBN:
    """A dense convolution that keeps the size (up to the stride), with batch norm."""
    conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
    return ConvBN(conv, activation, eps)


def stem(space: Space) -> ConvBN:
    """The first convolution of a space."""
    spec = space.spec.stem
    channels = space.spec.in_channels
    return conv_bn(
        channels,
        space.stem_channels,
        spec.kernel,
        spec.stride,
        space.stem_activation,
        space.spec.bn_eps,
    )


def conv_head(space: Space) -> ConvBN:
    """The last convolution, 1x1, before the pooling."""
    channels = space.layers[-1].out_channels
    return conv_bn(channels, space.head_channels, 1, 1, space.head_activation, space.spec.bn_eps)


def identity(block: Block) -> nn.Module:
    """Nothing, or the 1x1 convolution with batch norm where the shape changes."""
    if block.keeps_shape:
        return nn.Identity()
    return conv_bn(block.in_channels, block.out_channels, 1, block.stride, None, block.bn_eps)


class InvertedBottleneck(nn.Module):
    """1x1 expand, parallel depthwise paths, sum, 1x1 project, batch norm, residual.

    As in the released MixPath code every path has its own batch norm and activation, and the
    batch norm after the projection is chosen by the number of active paths (shadow batch norm,
    Chu et al. 2020) when there are several; a single one serves all numbers.

    kernels: per channel group the depthwise kernels that are there. The hidden channels are split
    among the groups and concatenated again (MixNet).
    """

    def __init__(
        self, block: Block, expansion: int, kernels: tuple[tuple[int, ...], ...], num_bn: int
    ) -> None:
        super().__init__()
        hidden = block.in_channels * expansion
        act, eps = block.activation, block.bn_eps
        self.kernels = kernels
        self.widths = split_channels(hidden, len(kernels))
        self.expand = (
            conv_bn(block.in_channels, hidden, 1, 1, act, eps) if expansion > 1 else nn.Identity()
        )
        self.groups = nn.ModuleList(
            nn.ModuleDict(
                {f"k{k}": ConvBN(DepthwiseConv2d(width, k, block.stride), act, eps) for k in group}
            )
            for width, group in zip(self.widths, kernels, strict=True)
        )
        self.squeeze_excite = _squeeze_excite(block, hidden)
        self.project = nn.Conv2d(hidden, block.out_channels, 1, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(block.out_channels, eps) for _ in range(num_bn))
        self.residual = block.adds_input

    def forward(self, x: Tensor, kernels: tuple[tuple[int, ...], ...] | None = None) -> Tensor:
        """x (n, in_channels, h, w); kernels: the active paths of each group, all if None."""
        active = self.kernels if kernels is None else kernels
        hidden = self.expand(x)
        parts = hidden.split(self.widths, dim=1) if len(self.widths) > 1 else (hidden,)
        sums = [
            _path_sum(paths, part, group)
            for paths, part, group in zip(self.groups, parts, active, strict=True)
        ]
        y = torch.cat(sums, dim=1) if len(sums) > 1 else sums[0]
        y = self.bn_for(len(active[0]))(self.project(self.squeeze_excite(y)))
        return x + y if self.residual else y

    def bn_for(self, num_paths: int) -> nn.Module:
        """The batch norm after the projection for that many active paths."""
        return self.bns[num_paths - 1 if len(self.bns) > 1 else 0]

    def load_from(self, branch: "InvertedBottleneck") -> None:
        """Copy the weights of the own paths out of a supernet branch of the same expansion."""
        self.expand.load_state_dict(branch.expand.state_dict())
        for own, paths, group in zip(self.groups, branch.groups, self.kernels, strict=True):
            for k in group:
                own[f"k{k}"].load_state_dict(paths[f"k{k}"].state_dict())  # type: ignore[index]
        self.squeeze_excite.load_state_dict(branch.squeeze_excite.state_dict())
        self.project.load_state_dict(branch.project.state_dict())
        self.bns[0].load_state_dict(branch.bn_for(len(self.kernels[0])).state_dict())


class ChoiceBlock(nn.Module):
    """All candidates of a block: a branch an expansion, weights never shared between them."""

    def __init__(self, block: Block, shadow_bn: bool) -> None:
        super().__init__()
        kernels = (block.kernels,) * block.groups
        num_bn = block.max_paths if shadow_bn else 1
        self.branches = nn.ModuleDict(
            {f"e{e}": InvertedBottleneck(block, e, kernels, num_bn) for e in block.expansions}
        )
        if any(c.is_identity for c in block.candidates):
            self.identity = identity(block)

    def forward(self, x: Tensor, candidate: Candidate) -> Tensor:
        """Run the one candidate; nothing else is executed, so nothing else gets a gradient."""
        if candidate.is_identity:
            return self.identity(x)
        return self.branches[f"e{candidate.expansion}"](x, candidate.kernels)

    def copy_to(self, built: nn.Module, candidate: Candidate) -> None:
        """Copy the candidate's weights to a block that was built as this candidate."""
        if isinstance(built, InvertedBottleneck):
            built.load_from(self.branches[f"e{candidate.expansion}"])  # type: ignore[arg-type]
        else:
            built.load_state_dict(self.identity.state_dict())


def build(block: Block, candidate: Candidate) -> nn.Module:
    """The plain module of one candidate."""
    if candidate.is_identity:
        return identity(block)
    return InvertedBottleneck(block, candidate.expansion, candidate.kernels, num_bn=1)


def init_weights(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Initialise as MobileNetV2-like networks are: conv N(0, 2 / fan_out), BN 1 and 0, linear
    U(+-1/sqrt(classes)), biases 0.

    fan_out counts the outputs that one weight reaches, so a depthwise kernel gets N(0, 2 / k^2).
    Residual blocks start as the identity: their last batch norms get weight 0 (Goyal et al. 2017,
    section 5.1), without which a narrow supernet was still at chance level after 160 steps.
    """
    for part in module.modules():
        if isinstance(part, InvertedBottleneck) and part.residual:
            for norm in part.bns:
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
        if isinstance(part, nn.Conv2d):
            fan_out = part.weight[0, 0].numel() * part.out_channels // part.groups
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
        elif isinstance(part, nn.Linear):
            bound = 1.0 / math.sqrt(part.out_features)
            nn.init.uniform_(part.weight, -bound, bound, generator=generator)
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def _path_sum(paths: nn.Module, x: Tensor, kernels: tuple[int, ...]) -> Tensor:
    first, *others = (paths[f"k{k}"] for k in kernels)  # type: ignore[index]
    total: Tensor = first(x)
    for path in others:
        total = total + path(x)
    return total


def _squeeze_excite(block: Block, hidden: int) -> nn.Module:
    if not block.squeeze_excite:
        return nn.Identity()
    from timm.layers import SqueezeExcite  # timm takes a second to import and few spaces need it

    return SqueezeExcite(hidden, rd_channels=squeezed_channels(block))
