"""Names of what is timed: one key for each distinct shape and candidate, whatever the space.

A key holds all that a latency depends on, so equal blocks of different spaces, and of one space,
share one row of a table:

    stem-3x224x224-32x112x112-k3-relu6
    block-40x28x28-80x14x14-e6k35-relu6       with squeeze-excite: ...-e6k35-swish-se0.5
    block-24x7x7-24x7x7-e6k5-relu6-noresidual keeps the shape, but its input is not added
    block-32x32x32-64x16x16-id                the 1x1 convolution in place of a block
    head-320x7x7-1280-1000-relu6              1x1 convolution, pooling, classifier

A block of linear paths has the row of what it folds into, the one path of the largest kernel.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.counts import candidate_count, head_count, stem_count
from mobilenas.space import Arch, Block, Candidate, Space


@dataclass(frozen=True)
class SpaceRows:
    """The rows of a space. fixed: stem, fixed blocks and head (a backbone has none), in every
    network.

    choices: per searchable block and candidate; None for the identity that costs nothing.
    """

    fixed: tuple[str, ...]
    choices: tuple[tuple[str | None, ...], ...]

    @property
    def distinct(self) -> tuple[str, ...]:
        """Every key once, in the order of the network."""
        keys = [*self.fixed, *(key for block in self.choices for key in block if key is not None)]
        return tuple(dict.fromkeys(keys))

    def counts(self, genes: Sequence[int]) -> Counter[str]:
        """How often each row stands in the network of the genes (blocks,)."""
        chosen = (block[gene] for block, gene in zip(self.choices, genes, strict=True))
        return Counter([*self.fixed, *(key for key in chosen if key is not None)])


def rows_of(space: Space) -> SpaceRows:
    """The rows that a latency table needs for a space."""
    fixed = [block_key(b, b.candidates[0]) for b in space.layers if not b.searchable]
    head = () if space.is_backbone else (head_key(space),)
    return SpaceRows(
        fixed=(stem_key(space), *(key for key in fixed if key is not None), *head),
        choices=tuple(tuple(block_key(b, c) for c in b.candidates) for b in space.blocks),
    )


def row_counts(space: Space, arch: Arch) -> Counter[str]:
    """How often each row stands in the network of an arch. Raises BadInput for a foreign arch."""
    return rows_of(space).counts(space.encode(arch).tolist())


def row_flops(space: Space) -> dict[str, int]:
    """Multiply-adds of every row of a space, for one image."""
    flops = {stem_key(space): stem_count(space).flops, head_key(space): head_count(space).flops}
    for block in space.layers:
        for candidate in block.candidates:
            key = block_key(block, candidate)
            if key is not None:
                flops[key] = candidate_count(block, candidate).flops
    return flops


def row_groups(keys: list[str]) -> NDArray[np.int64]:
    """A label for each row: those of blocks of one shape share a factor in the fit."""
    shapes = ["-".join(key.split("-")[:3]) for key in keys]
    return np.unique(shapes, return_inverse=True)[1]


def stem_key(space: Space) -> str:
    """The first convolution."""
    before = _shape(space.spec.in_channels, space.image_size)
    shapes = f"{before}-{_shape(space.stem_channels, space.layers[0].in_shape)}"
    return f"stem-{shapes}-k{space.spec.stem.kernel}-{space.stem_activation}"


def block_key(block: Block, candidate: Candidate) -> str | None:
    """A block built as one candidate; None where it is no operation at all."""
    if candidate.is_identity and block.keeps_shape:
        return None
    before = _shape(block.in_channels, block.in_shape)
    after = _shape(block.out_channels, block.out_shape)
    key = f"block-{before}-{after}-{block.folded(candidate)}"
    if candidate.is_identity:
        return key
    key += f"-{block.activation}"
    if block.squeeze_excite:
        key += f"-se{block.squeeze_excite:g}"
    return f"{key}-noresidual" if block.keeps_shape and not block.residual else key


def head_key(space: Space) -> str:
    """Last convolution, pooling and classifier."""
    last = space.layers[-1]
    before = _shape(last.out_channels, last.out_shape)
    return f"head-{before}-{space.head_channels}-{space.num_classes}-{space.head_activation}"


def _shape(channels: int, size: tuple[int, int]) -> str:
    return f"{channels}x{size[0]}x{size[1]}"
