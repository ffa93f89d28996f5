"""Batches as a function of (seed, step).

No generator lives between two batches, so a killed run that continues at step s sees the very
batches of an unbroken one, and nothing about the data has to be saved.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobilenas.data.sources import Images
from mobilenas.errors import BadInput

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image; 0 or False turns one off.

    crop_padding: black pixels added on each side before a crop back to the size of the image.
    flip: left to right, with probability one half.
    cutout: side in pixels of a square, centred anywhere in the image, that is set to the mean.

    Raises BadInput where a number is negative.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 16

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} {getattr(self, name)}: 0 or more pixels are wanted")


class TrainBatches:
    """Shuffled, augmented, normalised training batches; call it with the number of the step.

    `steps_per_epoch` leaves out the last partial batch, so an epoch shows an image at most once.
    `rows` keeps only those of each batch, as they are in the whole one.
    Raises BadInput where `batch_size` is less than 1 or more than the number of `indices`.
    """

    def __init__(
        self,
        images: Images,
        indices: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        mean: Channels,
        std: Channels,
        augment: Augment,
        device: torch.device | str = "cpu",
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(indices):
            raise BadInput(
                f"batch_size {batch_size}: 1..{len(indices)} is wanted, "
                f"as there are {len(indices)} training images"
            )
        self.images = images
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.mean = mean
        self.std = std
        self.augment = augment
        self.device = torch.device(device)
        self.rows = np.arange(batch_size) if rows is None else rows
        self.steps_per_epoch = len(indices) // batch_size
        # The order of one epoch, kept only because shuffling anew for each batch is slow.
        self._order = (-1, indices)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (rows, 3, H, W), float32, channels last, and labels (rows,), int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, 1, epoch])
            self._order = (epoch, rng.permutation(self.indices))
        start = position * self.batch_size
        rows = self._order[1][start : start + self.batch_size][self.rows]

        pixels = torch.from_numpy(self.images.pixels[rows]).to(self.device)
        labels = torch.from_numpy(self.images.labels[rows]).to(self.device)
        rng = np.random.default_rng([self.seed, 2, step])
        all_draws = _draw(rng, (self.batch_size, *pixels.shape[1:]), self.augment)
        draws = _Draws(*(drawn[self.rows] for drawn in vars(all_draws).values()))
        moved = _crop_and_flip(pixels, draws, self.augment)
        normalised = _normalise(moved, self.mean, self.std)
        return _cut_out(normalised, draws, self.augment.cutout), labels


def eval_batches(
    images: Images,
    indices: npt.NDArray[np.int64],
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
        yield _normalise(pixels, mean, std), labels


@dataclass(frozen=True)
class _Draws:
    """What chance decided for each image of a batch, each (N,)."""

    top: Tensor  # of the crop, in the padded image
    left: Tensor
    flip: Tensor
    centre_y: Tensor  # of the cutout
    centre_x: Tensor


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


def _normalise(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
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
