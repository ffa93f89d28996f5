"""The order of an epoch, a function of (seed, epoch)."""

from dataclasses import dataclass

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.data.splits import Indices

WINDOW_BYTES = 256 << 20  # of blocks that are mixed with each other, so held at a time


@dataclass(frozen=True, eq=False)
class Blocks:
    """Images that can only be read together: the row groups of parquet files."""

    starts: Indices  # (B,), the index of the first image of each, ascending from 0
    sizes: Indices  # (B,), in bytes


class EpochOrder:
    """Which images each step shows: call it with the number of the step.

    The last partial batch is left out, so an epoch shows an image at most once. Raises BadInput
    where `batch_size` is less than 1 or more than the number of `indices`.
    """

    def __init__(
        self, indices: Indices, batch_size: int, seed: int, blocks: Blocks | None = None
    ) -> None:
        if not 1 <= batch_size <= len(indices):
            raise BadInput(
                f"batch_size {batch_size}: must be 1..{len(indices)}, "
                f"as there are {len(indices)} training images"
            )
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.blocks = blocks
        self.steps_per_epoch = len(indices) // batch_size
        # The order of one epoch, kept only because shuffling anew for each batch is slow.
        self._order = (-1, indices)

    def __call__(self, step: int) -> Indices:
        """The indices (batch_size,) of the images of this step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = generator(self.seed, Stream.ORDER, epoch)
            self._order = (epoch, shuffle(self.indices, rng, self.blocks))
        start = position * self.batch_size
        return self._order[1][start : start + self.batch_size]


def shuffle(
    indices: Indices,
    rng: np.random.Generator,
    blocks: Blocks | None,
    window_bytes: int = WINDOW_BYTES,
) -> Indices:
    """A permutation of `indices`; with blocks one that reads them nearly in sequence.

    The blocks come in random order, and the images of successive blocks of about `window_bytes`
    in all are mixed. Blocks that fit into one window are mixed as if there were none.
    """
    mixed: Indices = rng.permutation(indices)
    if blocks is None:
        return mixed
    order = rng.permutation(len(blocks.sizes))
    window = np.empty_like(order)
    window[order] = (np.cumsum(blocks.sizes[order]) - 1) // window_bytes
    block = np.searchsorted(blocks.starts, mixed, side="right") - 1
    return mixed[np.argsort(window[block], kind="stable")]
