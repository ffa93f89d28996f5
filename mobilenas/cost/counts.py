"""FLOPs and parameters of archs from shape arithmetic: exact, vectorised, without torch.

FLOPs are multiply-adds of convolution and linear layers for one image at the space's resolution
(the count of the MobileNet papers; some tools report twice this). Params are all trainable ones,
batch norm included.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenas.errors import BadInput
from mobilenas.space import Arch, Block, Candidate, Genes, Space

COSTS = ("flops", "params")


@dataclass(frozen=True)
class Count:
    flops: int = 0
    params: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.flops + other.flops, self.params + other.params)


@dataclass(frozen=True)
class CostRange:
    """Smallest, median and largest value of a cost; min and max are exact, the median sampled."""

    minimum: int
    median: int
    maximum: int


def conv(cin: int, cout: int, kernel: int, size: int, groups: int = 1, bn: bool = True) -> Count:
    """A convolution with a square output of side `size`, with batch norm (2 params a channel)."""
    weights = cin // groups * cout * kernel**2
    return Count(weights * size**2, weights + (2 * cout if bn else 0))


def split_channels(channels: int, groups: int) -> list[int]:
    """Channels of each group; the first ones take what does not divide."""
    return [channels // groups + (i < channels % groups) for i in range(groups)]


def expand(block: Block, expansion: int) -> Count:
    """The 1x1 expansion; none at expansion 1 (a separable convolution, as in MobileNetV2)."""
    if expansion == 1:
        return Count()
    return conv(block.in_channels, block.in_channels * expansion, 1, block.in_size)


def path(block: Block, channels: int, kernel: int) -> Count:
    """One depthwise path over `channels` channels."""
    return conv(channels, channels, kernel, block.out_size, groups=channels)


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
    weights = conv(hidden, block.out_channels, 1, block.out_size, bn=False)
    return weights + Count(0, 2 * block.out_channels * num_bn)


def identity(block: Block) -> Count:
    """Nothing, or the 1x1 convolution with batch norm where the shape changes."""
    if block.keeps_shape:
        return Count()
    return conv(block.in_channels, block.out_channels, 1, block.out_size)


def candidate_count(block: Block, candidate: Candidate) -> Count:
    """FLOPs and params of a block built as one candidate."""
    if candidate.is_identity:
        return identity(block)
    hidden = block.in_channels * candidate.expansion
    total = expand(block, candidate.expansion)
    widths = split_channels(hidden, len(candidate.kernels))
    for width, kernels in zip(widths, candidate.kernels, strict=True):
        for kernel in kernels:
            total += path(block, width, kernel)
    return total + squeeze_excite(block, hidden) + project(block, hidden)


def fixed_count(space: Space) -> Count:
    """Stem, fixed blocks and head: what every arch has."""
    stem_size = space.layers[0].in_size
    spec, last = space.spec, space.layers[-1]
    total = conv(spec.in_channels, space.stem_channels, spec.stem.kernel, stem_size)
    for block in space.layers:
        if not block.searchable:
            total += candidate_count(block, block.candidates[0])
    total += conv(last.out_channels, space.head_channels, 1, last.out_size)
    linear = space.head_channels * space.num_classes
    return total + Count(linear, linear + space.num_classes)


def supernet_params(space: Space, shadow_bn: bool = True) -> int:
    """Trainable parameters of all weights of the space in one module."""
    total = fixed_count(space)
    for block in space.blocks:
        for expansion in block.expansions:
            hidden = block.in_channels * expansion
            total += expand(block, expansion) + squeeze_excite(block, hidden)
            total += project(block, hidden, block.max_paths if shadow_bn else 1)
            for width in split_channels(hidden, block.groups):
                for kernel in block.kernels:
                    total += path(block, width, kernel)
        if any(c.is_identity for c in block.candidates):
            total += identity(block)
    return total.params


class CostModel:
    """FLOPs and params of the archs of a space, as a table of block x candidate."""

    def __init__(self, space: Space) -> None:
        self.space = space
        fixed = fixed_count(space)
        counts = [[candidate_count(b, c) for c in b.candidates] for b in space.blocks]
        self._fixed: dict[str, int] = {name: getattr(fixed, name) for name in COSTS}
        self._tables: dict[str, NDArray[np.int64]] = {name: _padded(counts, name) for name in COSTS}

    def flops(self, arch: Arch) -> int:
        """Multiply-adds of conv and linear layers for one image."""
        return int(self.batch("flops", self.space.encode(arch)[None])[0])

    def params(self, arch: Arch) -> int:
        """Trainable parameters."""
        return int(self.batch("params", self.space.encode(arch)[None])[0])

    def flops_batch(self, genes: Genes) -> NDArray[np.int64]:
        """FLOPs (n,) of genes (n, blocks)."""
        return self.batch("flops", genes)

    def params_batch(self, genes: Genes) -> NDArray[np.int64]:
        """Params (n,) of genes (n, blocks)."""
        return self.batch("params", genes)

    def batch(self, cost: str, genes: Genes) -> NDArray[np.int64]:
        """The named cost (n,) of genes (n, blocks). Raises BadInput for an unknown name."""
        table = self._table(cost)
        return self._fixed[cost] + table[np.arange(len(table)), genes].sum(axis=1)

    def _table(self, cost: str) -> NDArray[np.int64]:
        if cost not in self._tables:
            raise BadInput(f"no cost {cost!r}; known are {', '.join(self._tables)}")
        return self._tables[cost]

    def range(self, cost: str = "flops", n: int = 20_000, seed: int = 0) -> CostRange:
        """Exact extremes and the median of `n` uniformly drawn archs."""
        rows = [
            row[:k] for row, k in zip(self._table(cost), self.space.num_candidates, strict=True)
        ]
        fixed = self._fixed[cost]
        drawn = self.batch(cost, self.space.sample_genes(n, np.random.default_rng(seed)))
        low, high = (fixed + sum(int(f(row)) for row in rows) for f in (np.min, np.max))
        return CostRange(low, int(np.median(drawn)), high)

    def feasible_share(self, limits: dict[str, float], n: int = 20_000, seed: int = 0) -> float:
        """Share of `n` uniformly drawn archs that meet every limit {cost: largest value}."""
        genes = self.space.sample_genes(n, np.random.default_rng(seed))
        meets = [self.batch(cost, genes) <= limit for cost, limit in limits.items()]
        return float(np.all(meets, axis=0).mean())


def _padded(counts: list[list[Count]], name: str) -> NDArray[np.int64]:
    table = np.zeros((len(counts), max(map(len, counts))), dtype=np.int64)
    for row, block in zip(table, counts, strict=True):
        row[: len(block)] = [getattr(count, name) for count in block]
    return table
