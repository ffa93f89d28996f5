"""The inverted bottleneck with parallel depthwise paths; supernet and network share this code."""

import math
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from mobilenas.cost.counts import squeezed_channels
from mobilenas.nn.kernels import may_take
from mobilenas.nn.kernels.bottleneck import Layer, bottleneck
from mobilenas.nn.kernels.depthwise import DepthwiseConv2d
from mobilenas.nn.kernels.relu6 import ReLU6
from mobilenas.nn.sharing import Shared
from mobilenas.space import Block, Candidate, Space
from mobilenas.space.space import split_channels
from mobilenas.space.spec import BN_EPS, Activation

Kernels = tuple[tuple[int, ...], ...]


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


class NormAct(nn.Sequential):
    """Batch norm and activation of the sum of linear paths."""

    def __init__(self, channels: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps)
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


def stem(space: Space, in_chans: int | None = None) -> ConvBN:
    """The first convolution of a space; in_chans: of the images, if not those of the space."""
    spec = space.spec.stem
    return conv_bn(
        space.spec.in_channels if in_chans is None else in_chans,
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


def identity(block: Block, affine: bool = True) -> nn.Module:
    """Nothing, or the 1x1 convolution with batch norm where the shape changes. affine: whether that
    has a weight and a bias.
    """
    if block.keeps_shape:
        return nn.Identity()
    made = conv_bn(block.in_channels, block.out_channels, 1, block.stride, None, block.bn_eps)
    if not affine:
        made.bn = nn.BatchNorm2d(block.out_channels, block.bn_eps, affine=False)
    return made


class Paths(nn.ModuleDict):
    """Parallel depthwise convolutions `k3`, `k5`, ... of one channel group, summed."""

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for path in self.values():
            y = path(x)
            total = y if total is None else total + y
        assert total is not None, "there is at least one path"
        return total


class InvertedBottleneck(nn.Module):
    """1x1 expand, parallel depthwise paths, sum, 1x1 project, batch norm, residual.

    As in the released MixPath code every path has its own batch norm and activation. Linear paths
    (`path_activation: after_sum`) have a batch norm only; another one and the activation follow the
    sum, so that `fold_batch_norm` makes one convolution of all paths. All paths run; `Branch` is
    the block of a supernet, which chooses among them. drop_path acts on what is added to the input.

    kernels: per channel group the depthwise kernels that are there. The hidden channels are split
    among the groups, `widths`, and concatenated again (MixNet).
    """

    def __init__(
        self,
        kernels: Kernels,
        widths: list[int],
        residual: bool,
        *,
        expand: nn.Module,
        groups: Iterable[Paths],
        after_sum: Iterable[nn.Module],
        squeeze_excite: nn.Module,
        project: nn.Conv2d,
        bns: Iterable[nn.Module],
        drop_path: nn.Module,
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.widths = widths
        self.residual = residual
        self.expand = expand
        self.groups = nn.ModuleList(groups)
        self.after_sum = nn.ModuleList(after_sum)
        self.squeeze_excite = squeeze_excite
        self.project = project
        self.bns = nn.ModuleList(bns)
        self.drop_path = drop_path

    @classmethod
    def new(
        cls,
        block: Block,
        expansion: int,
        kernels: Kernels,
        num_bn: int = 1,
        drop_path: float = 0.0,
        affine_last: bool = True,
    ) -> Self:
        """The block with fresh weights. num_bn: number of shadow batch norms. drop_path: the rate
        at which a residual one is skipped. affine_last: whether the last batch norm has a weight
        and a bias.
        """
        hidden = block.in_channels * expansion
        act, eps, linear = block.activation, block.bn_eps, block.has_linear_paths

        def path(width: int, kernel: int) -> ConvBN:
            return ConvBN(
                DepthwiseConv2d(width, kernel, block.stride), None if linear else act, eps
            )

        widths = split_channels(hidden, len(kernels))
        pairs = zip(widths, kernels, strict=True)
        return cls(
            kernels,
            widths,
            block.adds_input,
            expand=(
                conv_bn(block.in_channels, hidden, 1, 1, act, eps)
                if expansion > 1
                else nn.Identity()
            ),
            groups=(Paths({f"k{k}": path(width, k) for k in group}) for width, group in pairs),
            after_sum=(
                (NormAct(hidden, act, eps) for _ in range(num_bn)) if linear else (nn.Identity(),)
            ),
            squeeze_excite=_squeeze_excite(block, hidden),
            project=nn.Conv2d(hidden, block.out_channels, 1, bias=False),
            bns=(
                nn.BatchNorm2d(block.out_channels, eps, affine=affine_last)
                for _ in range(1 if linear else num_bn)
            ),
            drop_path=_drop_path(drop_path),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (n, in_channels, h, w) to (n, out_channels, ceil(h / stride), ceil(w / stride))."""
        y = None if torch.jit.is_scripting() else self._in_one(x, self.expand)  # type: ignore[attr-defined]
        if y is None:
            y = self.bns[0](self._one_by_one(x))
        return x + self.drop_path(y) if self.residual else y

    @torch.jit.unused
    def after(self, stem: nn.Module, x: Tensor) -> Tensor | None:
        """What the block makes of what a stem makes of images x, where there is one function for
        both; otherwise None.
        """
        if self.residual or not isinstance(self.expand, nn.Identity):
            return None
        return None if is_watched(self) else self._in_one(x, stem)

    @torch.jit.unused
    def _in_one(self, x: Tensor, expand: nn.Module) -> Tensor | None:
        """What `_one_by_one` and the last batch norm do as one function, where there is one."""
        if not may_take(x):
            return None
        layers = [expand, *self.groups[0].values()]  # type: ignore[operator]
        others = (*self.groups[1:], *self.after_sum, self.squeeze_excite)
        if any(not isinstance(layer, ConvBN) or len(layer) < 3 for layer in layers):
            return None
        if any(not isinstance(other, nn.Identity) for other in others):
            return None
        if is_watched(expand, *self.children()):
            return None
        first, *paths = (Layer(layer.conv, layer.bn, layer.act) for layer in layers)
        return bottleneck(x, first, paths, self.project, self.bns[0])  # type: ignore[arg-type]

    def _one_by_one(self, x: Tensor) -> Tensor:
        """All up to the last batch norm."""
        hidden = self.expand(x)
        if len(self.widths) > 1:
            parts = hidden.split(self.widths, dim=1)
            # By index: neither TorchScript nor fx iterates over modules and tensors together.
            y = torch.cat([paths(parts[i]) for i, paths in enumerate(self.groups)], dim=1)
        else:
            y = self.groups[0](hidden)
        return self.project(self.squeeze_excite(self.after_sum[0](y)))


def is_watched(*modules: nn.Module) -> bool:
    """Whether modules, or parts of them, have hooks, which must see what goes through these."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = (part for module in modules for part in module.modules())
    return any(getattr(part, kind) for part in parts for kind in kinds)


def build(block: Block, candidate: Candidate, drop_path: float = 0.0) -> nn.Module:
    """The plain module of one candidate. drop_path: how often a residual block is skipped."""
    if candidate.is_identity:
        return identity(block)
    rate = drop_path if block.keeps_shape else 0.0
    return InvertedBottleneck.new(block, candidate.expansion, candidate.kernels, drop_path=rate)


def init_weights(
    module: nn.Module, generator: torch.Generator | None = None, zero_init_last: bool = True
) -> None:
    """Initialise as MobileNetV2-like networks are: conv N(0, 2 / fan_out), BN 1 and 0, linear
    U(+-1/sqrt(classes)), biases 0.

    fan_out counts the outputs that one weight reaches, so a depthwise kernel gets N(0, 2 / k^2).
    With zero_init_last residual blocks start as the identity: their last batch norms get weight 0
    (Goyal et al. 2017, section 5.1), without which a narrow supernet was still at chance level
    after 160 steps.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    for part in module.modules():
        if zero_init_last and isinstance(part, InvertedBottleneck) and part.residual:
            for norm in part.bns:
                if isinstance(norm, nn.BatchNorm2d) and norm.affine:
                    nn.init.zeros_(norm.weight)
        if isinstance(part, Shared):
            continue
        if isinstance(part, nn.Conv2d):
            fan_out = part.weight[0, 0].numel() * part.out_channels // part.groups
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
        elif isinstance(part, nn.Linear):
            bound = 1.0 / math.sqrt(part.out_features)
            nn.init.uniform_(part.weight, -bound, bound, generator=generator)
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def _squeeze_excite(block: Block, hidden: int) -> nn.Module:
    if not block.squeeze_excite:
        return nn.Identity()
    from timm.layers import SqueezeExcite  # timm takes a second to import and few spaces need it

    return SqueezeExcite(hidden, rd_channels=squeezed_channels(block))


def _drop_path(rate: float) -> nn.Module:
    if not rate:
        return nn.Identity()
    from timm.layers import DropPath

    return DropPath(rate)
