"""FLOPs and parameters from shape arithmetic: exact, without torch.

FLOPs are multiply-adds of convolution and linear layers for one image at the space's resolution
(the count of the MobileNet papers; some tools report twice this). Params are all trainable ones,
batch norm included. Linear paths (`path_activation: after_sum`) are counted as the one convolution
of the largest kernel that they fold into at inference; folded=False counts all paths, as trained.
A backbone has neither head convolution nor classifier.
"""

from dataclasses import dataclass
from math import prod

from mobilenas.space import Block, Candidate, Space
from mobilenas.space.space import split_channels


@dataclass(frozen=True)
class Count:
    flops: int = 0
    params: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.flops + other.flops, self.params + other.params)


def conv(cin: int, cout: int, kernel: int, area: int, groups: int = 1, bn: bool = True) -> Count:
    """A convolution with an output of `area` positions, with batch norm (2 params a channel)."""
    weights = cin // groups * cout * kernel**2
    return Count(weights * area, weights + (2 * cout if bn else 0))


def expand(block: Block, expansion: int) -> Count:
    """The 1x1 expansion; none at expansion 1 (a separable convolution, as in MobileNetV2)."""
    if expansion == 1:
        return Count()
    return conv(block.in_channels, block.in_channels * expansion, 1, prod(block.in_shape))


def path(block: Block, channels: int, kernel: int) -> Count:
    """One depthwise path over `channels` channels."""
    return conv(channels, channels, kernel, prod(block.out_shape), groups=channels)


def squeezed_channels(block: Block) -> int:
    """Width of the squeeze-excite bottleneck; 0 without it."""
    if not block.squeeze_excite:
        return 0
    return max(1, int(block.in_channels * block.squeeze_excite))


def squeeze_excite(block: Block, hidden: int) -> Count:
    """Two 1x1 convolutions with bias on the pooled features."""
    squeezed = squeezed_channels(block)
    if not squeezed:
        return Count()
    weights = 2 * hidden * squeezed
    return Count(weights, weights + hidden + squeezed)


def project(block: Block, hidden: int, num_bn: int = 1) -> Count:
    """The 1x1 projection with `num_bn` batch norms (the shadow ones in a supernet)."""
    weights = conv(hidden, block.out_channels, 1, prod(block.out_shape), bn=False)
    return weights + Count(0, 2 * block.out_channels * num_bn)


def after_sum(block: Block, hidden: int, num_bn: int = 1) -> Count:
    """The `num_bn` batch norms between the sum of linear paths and its activation."""
    return Count(0, 2 * hidden * num_bn if block.has_linear_paths else 0)


def identity(block: Block) -> Count:
    """Nothing, or the 1x1 convolution with batch norm where the shape changes."""
    if block.keeps_shape:
        return Count()
    return conv(block.in_channels, block.out_channels, 1, prod(block.out_shape))


def candidate_count(block: Block, candidate: Candidate, folded: bool = True) -> Count:
    """FLOPs and params of a block built as one candidate."""
    if candidate.is_identity:
        return identity(block)
    hidden = block.in_channels * candidate.expansion
    total = expand(block, candidate.expansion)
    if folded:
        candidate = block.folded(candidate)
    else:
        total += after_sum(block, hidden)
    widths = split_channels(hidden, len(candidate.kernels))
    for width, kernels in zip(widths, candidate.kernels, strict=True):
        for kernel in kernels:
            total += path(block, width, kernel)
    return total + squeeze_excite(block, hidden) + project(block, hidden)


def fixed_count(space: Space, folded: bool = True) -> Count:
    """Stem, fixed blocks and head: what every arch has."""
    total = stem_count(space)
    for block in space.layers:
        if not block.searchable:
            total += candidate_count(block, block.candidates[0], folded)
    return total if space.is_backbone else total + head_count(space)


def stem_count(space: Space) -> Count:
    """The first convolution."""
    area = prod(space.layers[0].in_shape)
    return conv(space.spec.in_channels, space.stem_channels, space.spec.stem.kernel, area)


def head_count(space: Space) -> Count:
    """The last convolution and the classifier."""
    last, linear = space.layers[-1], space.head_channels * space.num_classes
    features = conv(last.out_channels, space.head_channels, 1, prod(last.out_shape))
    return features + Count(linear, linear + space.num_classes)


def supernet_params(space: Space, shadow_bn: bool = True) -> int:
    """Trainable parameters of all weights of the space in one module."""
    total = fixed_count(space, folded=False)
    for block in space.blocks:
        num_bn = block.max_paths if shadow_bn else 1
        for expansion in block.expansions:
            hidden = block.in_channels * expansion
            total += expand(block, expansion) + squeeze_excite(block, hidden)
            total += after_sum(block, hidden, num_bn)
            total += project(block, hidden, 1 if block.has_linear_paths else num_bn)
            for width in split_channels(hidden, block.groups):
                for kernel in block.kernels:
                    total += path(block, width, kernel)
        if any(c.is_identity for c in block.candidates):
            total += identity(block)
    return total.params
