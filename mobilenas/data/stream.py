"""Batches whose images are read and changed one by one, in worker processes if wanted.

What `batches.py` does to images in memory, for images on disk and for timm's transforms. Here too
a batch is a function of (seed, step), so the number of workers changes nothing but the time.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, borrowed_generators
from mobilenas.data.augment import Augment
from mobilenas.data.batches import TrainBatches, eval_batches, normalise
from mobilenas.data.order import EpochOrder
from mobilenas.data.parts import EncodedImages
from mobilenas.data.pixels import Channels, short_side
from mobilenas.data.sources import Images, Part
from mobilenas.data.splits import Indices

Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """Training batches, whether from memory or from disk."""

    steps_per_epoch: int

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps `start` to `stop` - 1.

        Images (b, 3, R, R), float32, normalised, channels last, and labels (b,), int64.
        """


def make_batches(
    part: Part,
    indices: Indices,
    *,
    resolution: int,
    batch_size: int,
    seed: int,
    mean: Channels,
    std: Channels,
    augment: Augment,
    device: torch.device | str = "cpu",
    rows: Indices | None = None,
    workers: int = 0,
) -> Batches:
    """Training batches, by operations on whole batches where that is possible, as it is faster.

    rows: the positions in the batch that this process takes, None for all. workers: processes that
    read and change images; 0 does it in this one. Raises BadInput as `EpochOrder` does.
    """
    common: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "mean": mean, "std": std}
    common |= {"augment": augment, "device": device, "rows": rows}
    if augment.in_memory and _fits(part, resolution):
        return TrainBatches(part, indices, **common)
    return StreamBatches(part, indices, resolution=resolution, workers=workers, **common)


def make_eval_batches(
    part: Part,
    indices: Indices,
    *,
    resolution: int,
    batch_size: int,
    mean: Channels,
    std: Channels,
    device: torch.device | str = "cpu",
    crop: float = 1.0,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches in the order of `indices`, without augmentation; the last may be smaller.

    The short side is scaled to resolution / crop (bilinear, antialiased), then the centre is taken.
    Images in memory that have the resolution are taken as they are.
    """
    if _fits(part, resolution):
        yield from eval_batches(part, indices, batch_size, mean, std, device)
        return
    if batch_size < 1:
        raise BadInput(f"batch_size {batch_size}: at least 1 is wanted")
    if not 0 < crop <= 1:
        raise BadInput(f"crop {crop}: more than 0, at most 1 is wanted")
    starts = range(0, len(indices), batch_size)
    batches = [indices[start : start + batch_size] for start in starts]
    make = partial(centres, part, resolution, crop)
    for pixels, labels in _load(make, batches, workers, torch.device(device)):
        yield normalise(pixels, mean, std), labels


class StreamBatches:
    """Training batches of images that are read when wanted, with any `Augment`.

    The arguments are those of `make_batches`. The changes of the image at position p of step s are
    a function of (seed, s, p).
    """

    def __init__(
        self,
        part: Part,
        indices: Indices,
        *,
        resolution: int,
        batch_size: int,
        seed: int,
        mean: Channels,
        std: Channels,
        augment: Augment,
        device: torch.device | str = "cpu",
        rows: Indices | None = None,
        workers: int = 0,
    ) -> None:
        self.part = part
        self.resolution = resolution
        self.seed = seed
        self.device = torch.device(device)
        self.rows = np.arange(batch_size) if rows is None else rows
        self.workers = workers
        blocks = part.blocks if isinstance(part, EncodedImages) else None
        self._order = EpochOrder(indices, batch_size, seed, blocks)
        self._transform = augment.transform(resolution, mean, std)
        self.steps_per_epoch = self._order.steps_per_epoch

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """See `Batches`. Raises BadInput naming an image that is damaged."""
        return _load(self._make, range(start, stop), self.workers, self.device)

    def _make(self, step: int) -> Batch:
        chosen = self._order(step)[self.rows]
        shape = (len(chosen), 3, self.resolution, self.resolution)
        images = torch.empty(shape, memory_format=torch.channels_last)
        with borrowed_generators() as seed_generators:
            for row, (position, index) in enumerate(zip(self.rows, chosen, strict=True)):
                image = self.part.image(index)
                seed_generators(self.seed, Stream.AUGMENT_IMAGE, step, int(position))
                images[row] = self._transform(image)
        return images, torch.from_numpy(self.part.labels[chosen])


def _fits(part: Part, resolution: int) -> TypeGuard[Images]:
    return isinstance(part, Images) and part.pixels.shape[1:3] == (resolution, resolution)


def centres(part: Part, resolution: int, crop: float, indices: Indices) -> Batch:
    """Images (b, R, R, 3), uint8, as `make_eval_batches` takes them, and labels (b,)."""
    labels = torch.from_numpy(part.labels[indices])
    if _fits(part, resolution):
        return torch.from_numpy(part.pixels[indices]), labels
    from torchvision import transforms  # here: it takes a second to import

    scale = transforms.Resize(short_side(resolution, crop))
    centre = transforms.CenterCrop(resolution)
    pixels = np.stack([np.asarray(centre(scale(part.image(index)))) for index in indices])
    return torch.from_numpy(pixels), labels


class _Made(Dataset[Batch | BadInput]):
    """Whole batches as the items of a data set, so that a worker process makes each of them."""

    def __init__(self, make: Callable[[Any], Batch], keys: Sequence[Any]) -> None:
        self.make = make
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> Batch | BadInput:
        try:
            return self.make(self.keys[place])
        except BadInput as error:  # raised in a worker it would arrive as a page of traceback
            return error


def _load(
    make: Callable[[Any], Batch], keys: Sequence[Any], workers: int, device: torch.device
) -> Iterator[Batch]:
    loader = DataLoader(
        _Made(make, keys),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the global one
    )
    for made in loader:
        if isinstance(made, BadInput):
            raise made
        images, labels = made
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
