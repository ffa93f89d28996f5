"""The images of a training: its data, how they are split, and the batches made of them."""

import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.base.randomness import Stream, generator
from mobilenas.base.settings import Record
from mobilenas.data import (
    Batch,
    EncodedImages,
    ImageData,
    Images,
    Loader,
    Part,
    Preparation,
    Splits,
    TrainingBatches,
    make_splits,
    read_data,
)
from mobilenas.data.images import Channels
from mobilenas.data.pixels import try_all
from mobilenas.data.splits import Indices
from mobilenas.runs import RunFolder
from mobilenas.runs.places import absolute, has_paths, is_there
from mobilenas.train.config import TrainingConfig
from mobilenas.train.distributed import SINGLE, Processes

SPLITS = "splits.json"
CALIBRATION_IMAGES = 2016  # that batch norms are recalibrated on, at most, if nothing else is said
_SAME = ("train_images", "classes", "damaged")  # of what was found, where the images are the same
_FEWEST = 8  # training images: an export is verified on batches of up to as many
_EVAL_BATCH, _EVAL_SIDE = 256, 48  # images at a time, fewer where they are larger than this

log = logging.getLogger(__name__)


class _Found(Record, extra="ignore"):
    """Of what is noted of the data: the rows that are left out, as `read_data` takes them."""

    damaged: dict[str, list[int]] | None = None


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Data and splits of a training, and how its config has them prepared.

    resolution: side of the network's input in pixels. seed: of the order and the augmentation.
    """

    data: ImageData
    splits: Splits
    resolution: int
    config: TrainingConfig
    seed: int

    @property
    def preparation(self) -> Preparation:
        """How the images become the input of a network."""
        return Preparation(self.resolution, self.data.mean, self.data.std, self.config.eval_crop)

    def training(
        self, device: torch.device | str = "cpu", processes: Processes = SINGLE
    ) -> TrainingBatches:
        """The augmented training batches, of each the rows of this process. Raises BadInput."""
        return self._batches(self.splits.train, device, processes)

    def held(
        self, device: torch.device | str = "cpu", processes: Processes = SINGLE
    ) -> TrainingBatches:
        """Augmented batches of the held-out images, which an architecture is learnt from. Raises
        BadInput where they are less than a batch.
        """
        count, size = len(self.splits.validate), self.config.batch_size
        if count < size:
            raise BadInput(
                f"validate_images {count}: must be at least the batch_size, {size}, as the "
                "architecture learns from batches of held-out images"
            )
        return self._batches(self.splits.validate, device, processes)

    def evaluation(
        self,
        part: Part,
        device: torch.device | str = "cpu",
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """The images of a part (those of `indices`, all if None) as evaluation sees them.

        batch_size: `evaluation_batch` if None.
        """
        rows = np.arange(len(part)) if indices is None else indices
        size = batch_size or self.evaluation_batch
        return self._loader(device).evaluation(part, rows, size)

    def calibration(self, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Batches of the images that batch norms are recalibrated on, as evaluation sees them.

        In random order: class folders come sorted, and a batch should hold all classes.
        """
        indices = generator(self.seed, Stream.CALIBRATION).permutation(self.splits.calibrate)
        count = max(1, round(len(indices) / self.evaluation_batch))
        size = len(indices) // count  # equal batches, so that each image weighs the same
        for images, _ in self.evaluation(self.data.train, device, indices[: size * count], size):
            yield images

    @property
    def evaluation_batch(self) -> int:
        """Images at a time in evaluation: as many pixels as 256 images of 48 px, 256 at most."""
        return min(_EVAL_BATCH, max(1, _EVAL_BATCH * _EVAL_SIDE**2 // self.resolution**2))

    def normalised_by(self, mean: Channels, std: Channels) -> "TrainingImages":
        """The same with another mean and standard deviation."""
        return replace(self, data=replace(self.data, mean=mean, std=std))

    def store_splits(self, folder: Path) -> None:
        """Write splits.json."""
        write_json(folder / SPLITS, self.splits.to_json())

    def checksum(self) -> int:
        """Of the training images in memory, or of the names of those on disk; and of the labels."""
        train = self.data.train
        if isinstance(train, Images):
            images = zlib.crc32(train.pixels.data)
        else:
            names = (Path(train.name(index)).name for index in range(len(train)))
            images = zlib.crc32(os.fsencode("\n".join(names)))
        return zlib.crc32(train.labels.tobytes(), images)

    def _batches(
        self, indices: Indices, device: torch.device | str, processes: Processes
    ) -> TrainingBatches:
        return self._loader(device).training(
            self.data.train,
            indices,
            batch_size=self.config.batch_size,
            seed=self.seed,
            augment=self.config.augment(),
            rows=processes.share(self.config.batch_size),
        )

    def _loader(self, device: torch.device | str) -> Loader:
        return Loader(self.preparation, device, self.config.workers)


def data_parent(source: str) -> dict[str, str]:
    """The images as a parent of a run, if they are somewhere on disk."""
    return {"data": absolute(source)} if has_paths(source) else {}


def choose_images(
    source: str,
    resolution: int,
    config: TrainingConfig,
    seed: int,
    calibrate: int | None,
    *,
    start: RunFolder | None = None,
) -> TrainingImages:
    """The images of a new training, with splits drawn from the seed.

    calibrate: images for recalibration, None for 2,016 at most. start: the run whose weights the
    training starts from; if its images are the same, those for validation are among the ones that
    it held out, as its weights have seen all others. Of images that are streamed those for
    validation and testing are decoded once, so that a damaged one is found before the training and
    not after it. Raises BadInput.
    """
    data = read_data(source, resolution, config.eval_crop, stream=config.stream)
    count = len(data.train)
    validate = config.held_out(count)
    if count < _FEWEST:
        raise BadInput(
            f"{count} training images: there must be {_FEWEST} or more, to validate on a fifth of "
            "them and to verify an export"
        )
    if calibrate is None:
        calibrate = min(CALIBRATION_IMAGES, config.limit or count, max(0, count - validate))
    make = partial(
        make_splits,
        data.train.labels,
        seed=seed,
        validate=validate,
        calibrate=calibrate,
        limit=config.limit,
    )
    images = TrainingImages(data, make(), resolution, config, seed)
    if start is not None and are_of(start, images):
        held_out = Splits.from_json(read_json(start.path / SPLITS)).validate
        if 0 < len(held_out) < validate:
            log.info(
                "validating on %d images in place of %d: the weights of %s have seen the others",
                *(len(held_out), validate, start.path),
            )
        if len(held_out):
            images = replace(images, splits=make(held_out=held_out))
    if isinstance(data.train, EncodedImages) and not data.found.damaged:
        decodings = [try_all(data.train, images.splits.validate)]
        if isinstance(data.test, EncodedImages):
            decodings.append(try_all(data.test))
        if turned := sum(decoding.turned for decoding in decodings):
            log.info("of the validation and test images, %d are turned upright (EXIF)", turned)
    return images


def are_of(run: RunFolder, images: TrainingImages) -> bool:
    """Whether a run had the same images, at whatever resolution and wherever they are. Others that
    are as many, of the same classes, are taken for them, which changes no more than the draw.
    """
    there, here = run.facts.get("data"), images.data.found.to_dict()
    if isinstance(there, dict) and all(there.get(key) == here[key] for key in _SAME):
        return True
    return run.facts.get("data_checksum") == images.checksum()


def data_place(run: RunFolder) -> str:
    """Where the images of a run are now. Raises BadInput where they are gone."""
    source = str(run.settings["data"])
    if "data" in run.parents:
        return run.find("data", "--data")
    if not is_there(source):  # of a run of before
        raise BadInput(f"the data of {run.path} are no longer in {source}: give their --data")
    return source


def check_same_data(run: RunFolder, given: str | None) -> None:
    """Raise BadInput where images are given again that cannot be those of a run in another place:
    of the built-in ones and others on disk. Whether they are the same then tells their checksum.
    """
    if given is not None and not (has_paths(given) and has_paths(run.settings["data"])):
        run.check_unchanged({"data": given})


def stored_images(
    run: RunFolder, resolution: int, config: TrainingConfig, seed: int
) -> TrainingImages:
    """The images of the training in a run folder. Raises BadInput naming what is missing, or
    changed since the run was started.
    """
    source = data_place(run)
    damaged = run.fact("data", _Found).damaged if "data" in run.facts else None
    data = read_data(source, resolution, config.eval_crop, stream=config.stream, damaged=damaged)
    splits = stored_splits(run, len(data.train))
    images = TrainingImages(data, splits, resolution, config, seed)
    if images.checksum() != run.fact("data_checksum", int):
        raise BadInput(f"the images of {source} are not those that {run.path} was made from")
    return images


def stored_splits(run: RunFolder, count: int) -> Splits:
    """The splits of a training's run folder. count: of its training images. Raises BadInput."""
    try:
        splits = Splits.from_json(read_json(run.path / SPLITS))
    except BadInput as error:
        raise BadInput(f"{run.path}: {error}") from None
    for name, indices in vars(splits).items():
        if len(indices) and indices[-1] >= count:
            raise BadInput(
                f"{run.path / SPLITS}: {name} has image {indices[-1]}, there are {count}"
            )
    return splits
