"""Batches of images in memory as a function of (seed, step), by operations on whole batches.

No generator lives between two batches, so a killed run that continues at step s sees the very
batches of an unbroken one, and nothing about the data has to be saved.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.data.augment import Augment
from mobilenas.data.order import EpochOrder
from mobilenas.data.pixels import Channels
from mobilenas.data.sources import Images
from mobilenas.data.splits import Indices


class TrainBatches:
    """Shuffled, augmented, normalised training batches; call it with the number of the step.

    rows: the positions in the batch that this process takes, None for all; what an image looks
    like depends on its position in the whole batch only. `augment` has to be `in_memory`. Raises
    BadInput as `EpochOrder` does.
    """

    def __init__(
        self,
        images: Images,
        indices: Indices,
        *,
        batch_size: int,
        seed: int,
        mean: Channels,
        std: Channels,
        augment: Augment,
        device: torch.device | str = "cpu",
        rows: Indices | None = None,
    ) -> None:
        assert augment.in_memory
        self.images = images
        self.seed = seed
        self.mean = mean
        self.std = std
        self.augment = augment
        self.device = torch.device(device)
        self.rows = np.arange(batch_size) if rows is None else rows
        self._order = EpochOrder(indices, batch_size, seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (len(rows), 3, H, W), float32, channels last, and labels (len(rows),), int64."""
        chosen = self._order(step)
        shape = (len(chosen), *self.images.pixels.shape[1:])
        rng = generator(self.seed, Stream.AUGMENT, step)
        draws = _draw(rng, shape, self.augment).at(torch.from_numpy(self.rows))

        chosen = chosen[self.rows]
        pixels = torch.from_numpy(self.images.pixels[chosen]).to(self.device)
        labels = torch.from_numpy(self.images.labels[chosen]).to(self.device)
        moved = _crop_and_flip(pixels, draws, self.augment)
        normalised = normalise(moved, self.mean, self.std)
        return _cut_out(normalised, draws, self.augment.cutout), labels

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the steps `start` to `stop` - 1."""
        return map(self, range(start, stop))


def eval_batches(
    images: Images,
    indices: Indices,
    batch_size: int,
    mean: Channels,
    std: Channels,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as TrainBatches gives them, but in the order of `indices`, without augmentation.

    The last batch may be smaller. Raises BadInput (at the first batch) where `batch_size` < 1.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size {batch_size}: at least 1 is wanted")
    for start in range(0, len(indices), batch_size):
        rows = indices[start : start + batch_size]
        pixels = torch.from_numpy(images.pixels[rows]).to(device)
        labels = torch.from_numpy(images.labels[rows]).to(device)
        yield normalise(pixels, mean, std), labels


@dataclass(frozen=True)
class _Draws:
    """What chance decided for each image of a batch, each (N,)."""

    top: Tensor  # of the crop, in the padded image
    left: Tensor
    flip: Tensor
    centre_y: Tensor  # of the cutout
    centre_x: Tensor

    def at(self, rows: Tensor) -> "_Draws":
        """The draws of some images of the batch."""
        return _Draws(*(draw[rows] for draw in vars(self).values()))


def _draw(rng: np.random.Generator, shape: tuple[int, ...], augment: Augment) -> _Draws:
    count, height, width, _ = shape
    # All are drawn, used or not: turning one augmentation off leaves the others as they were.
    offsets = rng.integers(0, 2 * augment.crop_padding + 1, size=(2, count))
    flip = (rng.random(count) < 0.5) & augment.flip
    centre_y = rng.integers(0, height, size=count)
    centre_x = rng.integers(0, width, size=count)
    return _Draws(*map(torch.from_numpy, (offsets[0], offsets[1], flip, centre_y, centre_x)))


def _crop_and_flip(pixels: Tensor, draws: _Draws, augment: Augment) -> Tensor:
    """(N, H, W, 3) uint8 -> the same: a window of each zero-padded image, mirrored or not."""
    count, height, width, _ = pixels.shape
    pad = augment.crop_padding
    padded = torch.nn.functional.pad(pixels, (0, 0, pad, pad, pad, pad))
    across = torch.arange(width).expand(count, width)
    columns = draws.left[:, None] + torch.where(draws.flip[:, None], width - 1 - across, across)
    lines = draws.top[:, None] + torch.arange(height)
    # One gather from the list of all pixels of the padded batch.
    image = torch.arange(count)[:, None, None] * padded.shape[1]
    source = (image + lines[:, :, None]) * padded.shape[2] + columns[:, None, :]
    source = source.view(-1).to(pixels.device)
    return padded.view(-1, 3).index_select(0, source).view(pixels.shape)


def normalise(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels-last memory, zero mean, unit std."""
    count, height, width, _ = pixels.shape
    # Whole lines of pixels: three times as fast on a CPU as an inner loop over three channels.
    scale = torch.tensor(std, device=pixels.device).repeat(width) * 255
    shift = torch.tensor(mean, device=pixels.device).repeat(width) * 255
    lines = pixels.view(count, height, width * 3).to(torch.float32)
    return lines.sub_(shift).div_(scale).view(pixels.shape).permute(0, 3, 1, 2)


def _cut_out(normalised: Tensor, draws: _Draws, side: int) -> Tensor:
    """Set a square in each of (N, 3, H, W) to 0, in place; what lies outside the image is lost."""
    if not side:
        return normalised
    inside = []
    for centre, length in (
        (draws.centre_y, normalised.shape[2]),
        (draws.centre_x, normalised.shape[3]),
    ):
        distance = torch.arange(length) - (centre[:, None] - side // 2)
        inside.append((distance >= 0) & (distance < side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return normalised.masked_fill_(square.to(normalised.device), 0)
