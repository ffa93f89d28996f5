"""Batches of images, from memory or from disk, as functions of (seed, step).

Nothing lives between two batches, so a killed run that continues at step s sees the very batches
of an unbroken one, nothing about the data is saved, and worker processes change only the time.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, borrowed_generators, generator
from mobilenas.data.augment import Augment
from mobilenas.data.images import Channels, EncodedImages, Images, Part
from mobilenas.data.order import EpochOrder
from mobilenas.data.pixels import short_side
from mobilenas.data.splits import Indices
from mobilenas.data.whole_batches import augment_batch, normalise, send

# Images (b, 3, R, R), float32, normalised, channels last, and labels (b,), int64.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Preparation:
    """How images become the input of a network.

    resolution: side in pixels. mean, std: per channel, in units of 0..1. crop: share of the short
    side that is kept in evaluation: it is scaled to resolution / crop (bilinear, antialiased), then
    the centre is taken. Raises BadInput for a crop that is not above 0 and at most 1.
    """

    resolution: int
    mean: Channels
    std: Channels
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise BadInput(f"crop {self.crop}: it must be above 0 and at most 1")

    def centres(self, part: Part, indices: Indices) -> Batch:
        """Images (b, R, R, 3), uint8, as evaluation sees them, and labels (b,).

        Images in memory that have the resolution are taken as they are.
        """
        labels = torch.from_numpy(part.labels[indices])
        if self.fits(part):
            return torch.from_numpy(part.pixels[indices]), labels
        from torchvision import transforms  # here: it takes a second to import

        scale = transforms.Resize(short_side(self.resolution, self.crop))
        centre = transforms.CenterCrop(self.resolution)
        pixels = np.stack([np.asarray(centre(scale(part.image(index)))) for index in indices])
        return torch.from_numpy(pixels), labels

    def fits(self, part: Part) -> TypeGuard[Images]:
        """Whether the images are in memory and have the resolution."""
        size = (self.resolution, self.resolution)
        return isinstance(part, Images) and part.pixels.shape[1:3] == size


@dataclass(frozen=True)
class Loader:
    """Makes batches on a device. workers: processes that read and change images one by one; 0
    does it in this one. Whole batches in memory need none.
    """

    preparation: Preparation
    device: torch.device | str = "cpu"
    workers: int = 0

    def training(
        self,
        part: Part,
        indices: Indices,
        *,
        batch_size: int,
        seed: int,
        augment: Augment,
        rows: Indices | None = None,
    ) -> "TrainingBatches":
        """Shuffled, augmented batches. rows: the positions in the batch that this process takes,
        None for all. Raises BadInput as `EpochOrder` does.
        """
        blocks = part.blocks if isinstance(part, EncodedImages) else None
        order = EpochOrder(indices, batch_size, seed, blocks)
        taken = np.arange(batch_size) if rows is None else rows
        return TrainingBatches(self, part, order, taken, seed, augment)

    def evaluation(self, part: Part, indices: Indices, batch_size: int) -> Iterator[Batch]:
        """Batches in the order of `indices`, without augmentation; the last may be smaller.

        Raises BadInput, at the first batch, for a batch size below 1 or a damaged image.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size {batch_size}: it must be 1 or more")
        starts = range(0, len(indices), batch_size)
        keys = [indices[start : start + batch_size] for start in starts]
        make = partial(self.preparation.centres, part)
        mean, std = self.preparation.mean, self.preparation.std
        workers = 0 if self.preparation.fits(part) else self.workers
        for pixels, labels in _load(make, keys, workers, torch.device(self.device)):
            yield normalise(pixels, mean, std), labels


class TrainingBatches:
    """Training batches; call it with the number of the step."""

    def __init__(
        self,
        loader: Loader,
        part: Part,
        order: EpochOrder,
        rows: Indices,
        seed: int,
        augment: Augment,
    ) -> None:
        self.part = part
        self.rows = rows
        self.seed = seed
        self.augment = augment
        self.steps_per_epoch = order.steps_per_epoch
        self._preparation = loader.preparation
        self._device = torch.device(loader.device)
        self._order = order
        self._make, self._workers = self._whole, 0
        if not (augment.in_memory and self._preparation.fits(part)):
            self._make, self._workers = self._one_by_one, loader.workers
            p = self._preparation
            self._transform = augment.transform(p.resolution, p.mean, p.std)

    def __call__(self, step: int) -> Batch:
        """The batch of a step. Raises BadInput naming an image that is damaged."""
        images, labels = self._make(step)
        return send(images, self._device), send(labels, self._device)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps `start` to `stop` - 1, by the worker processes if there are."""
        return _load(self._make, range(start, stop), self._workers, self._device)

    def _whole(self, step: int) -> Batch:
        """By operations on the whole batch, on the device."""
        assert isinstance(self.part, Images)
        chosen = self._order(step)
        rng = generator(self.seed, Stream.AUGMENT, step)
        mine = chosen[self.rows]
        pixels = send(torch.from_numpy(self.part.pixels[mine]), self._device)
        mean, std = self._preparation.mean, self._preparation.std
        images = augment_batch(pixels, self.rows, len(chosen), rng, self.augment, mean, std)
        return images, torch.from_numpy(self.part.labels[mine])

    def _one_by_one(self, step: int) -> Batch:
        """By timm's transforms: the changes of the image at position p are those of (step, p)."""
        chosen = self._order(step)[self.rows]
        side = self._preparation.resolution
        images = torch.empty((len(chosen), 3, side, side), memory_format=torch.channels_last)
        with borrowed_generators() as seed_generators:
            for row, (position, index) in enumerate(zip(self.rows, chosen, strict=True)):
                image = self.part.image(index)
                seed_generators(self.seed, Stream.AUGMENT_IMAGE, step, int(position))
                images[row] = self._transform(image)
        return images, torch.from_numpy(self.part.labels[chosen])


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
    if workers:
        loader = DataLoader(
            _Made(make, keys),
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
            worker_init_fn=_hush,
        )
        made: Iterator[Batch | BadInput] = iter(loader)
    else:
        made = map(make, keys)
    for batch in made:
        if isinstance(batch, BadInput):
            raise batch
        images, labels = batch
        yield send(images, device), send(labels, device)


def _hush(_: int) -> None:
    """Let a worker end without a word when who takes its batches was interrupted: the thread that
    hands them over calls this hook alone, and would print a page of traceback behind the last line.
    """
    sys.excepthook = lambda *_: None
