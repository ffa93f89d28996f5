"""Changes of whole batches of images in memory: far faster than one image at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mobilenas.data.augment import Augment
from mobilenas.data.images import Channels
from mobilenas.data.splits import Indices


def augment_batch(
    pixels: Tensor,
    rows: Indices,
    count: int,
    rng: np.random.Generator,
    augment: Augment,
    mean: Channels,
    std: Channels,
) -> Tensor:
    """Images (len(rows), H, W, 3), uint8, cropped, mirrored, normalised and cut out.

    rows: their positions in the whole batch of `count` images; what an image looks like depends on
    its position only. `augment` must be `in_memory`. Returns (len(rows), 3, H, W), float32,
    channels last.
    """
    assert augment.in_memory
    draws = _draw(rng, (count, *pixels.shape[1:]), augment).at(torch.from_numpy(rows))
    normalised = normalise(_crop_and_flip(pixels, draws, augment), mean, std)
    return _cut_out(normalised, draws, augment.cutout)


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
