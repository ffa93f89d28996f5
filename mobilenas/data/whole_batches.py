"""Changes of whole batches of images in memory: far faster than one image at a time."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
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
    drawn = _draw(rng, (count, *pixels.shape[1:]), augment)[:, rows]
    draws = _Draws(*send(torch.from_numpy(drawn), pixels.device))
    normalised = normalise(_crop_and_flip(pixels, draws, augment), mean, std)
    return _cut_out(normalised, draws, augment.cutout)


@dataclass(frozen=True)
class _Draws:
    """What chance decided for each image of a batch, each (N,), int64, where the pixels are."""

    top: Tensor  # of the crop, in the padded image
    left: Tensor
    flip: Tensor  # 1 or 0
    centre_y: Tensor  # of the cutout
    centre_x: Tensor


def send(x: Tensor, device: torch.device | str) -> Tensor:
    """To the device without waiting for it: CUDA copies pinned memory on its own."""
    if torch.device(device).type == "cuda" and not x.is_cuda:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], augment: Augment) -> NDArray[np.int64]:
    """What the fields of `_Draws` are of a whole batch, (5, count)."""
    count, height, width, _ = shape
    # All are drawn, used or not: turning one augmentation off leaves the others as they were.
    offsets = rng.integers(0, 2 * augment.crop_padding + 1, size=(2, count))
    flip = (rng.random(count) < 0.5) & augment.flip
    centre_y = rng.integers(0, height, size=count)
    centre_x = rng.integers(0, width, size=count)
    return np.stack([*offsets, flip, centre_y, centre_x])


def _crop_and_flip(pixels: Tensor, draws: _Draws, augment: Augment) -> Tensor:
    """(N, H, W, 3) uint8 -> the same: a window of each zero-padded image, mirrored or not."""
    count, height, width, _ = pixels.shape
    pad = augment.crop_padding
    padded = torch.nn.functional.pad(pixels, (0, 0, pad, pad, pad, pad))
    arange = partial(torch.arange, device=pixels.device)
    across = arange(width).expand(count, width)
    columns = draws.left[:, None] + torch.where(draws.flip[:, None] > 0, width - 1 - across, across)
    lines = draws.top[:, None] + arange(height)
    # One gather from the list of all pixels of the padded batch.
    image = arange(count)[:, None, None] * padded.shape[1]
    source = (image + lines[:, :, None]) * padded.shape[2] + columns[:, None, :]
    return padded.view(-1, 3).index_select(0, source.view(-1)).view(pixels.shape)


def normalise(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels-last memory, zero mean, unit std."""
    count, height, width, _ = pixels.shape
    # Whole lines of pixels: three times as fast on a CPU as an inner loop over three channels.
    scale, shift = send(torch.tensor([std, mean]).repeat(1, width) * 255, pixels.device)
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
        distance = torch.arange(length, device=centre.device) - (centre[:, None] - side // 2)
        inside.append((distance >= 0) & (distance < side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return normalised.masked_fill_(square, 0)
