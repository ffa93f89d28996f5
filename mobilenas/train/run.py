"""The folder of a supernet run: its settings, splits and weights, all plain data.

run.json        settings from which everything else follows, and what the data was
splits.json     indices of the train, calibrate and validate images
log.jsonl       one row now and then: step, passes, loss, lr
checkpoint.pt   weights, optimizer state, step (weights_only loadable)
timing.json     seconds of work so far, hardware
result.json     validation accuracy of the smallest, median and largest arch
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mobilenas import __version__
from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.data import (
    Augment,
    ImageData,
    Splits,
    TrainBatches,
    load_data,
    make_splits,
)
from mobilenas.nn import AnySupernet, CellSupernet, Supernet
from mobilenas.space import AnySpace, CellSpace, any_space_from_dict
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.device import pick_device
from mobilenas.train.folder import (
    RunSettings,
    check_data,
    check_unchanged,
    checksum,
    read_run_json,
    read_splits,
    validation_size,
)
from mobilenas.train.sampling import make_sampler


class SupernetSettings(RunSettings):
    """What the user chose."""

    config: SupernetConfig


@dataclass(frozen=True)
class SupernetRun:
    """A run folder in memory: settings, space, data and splits."""

    folder: Path
    settings: SupernetSettings
    space: AnySpace
    data: ImageData
    splits: Splits

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def load_supernet(self) -> AnySupernet:
        """The supernet with the weights of the last checkpoint, on the CPU."""
        return restored(self.folder, self.settings, load_checkpoint(self.checkpoint, "model"))

    def check_unchanged(
        self,
        space: AnySpace | None,
        data: str | None,
        seed: int | None,
        config: SupernetConfig | None,
    ) -> None:
        """Raise BadInput when a setting that was given again (not None) is another one now."""
        given: dict[str, object] = {"data": data, "seed": seed, "config": config}
        if space is not None:
            given["space"] = _with_classes(space, self.space.num_classes)
        check_unchanged(self.folder, self.settings, given)


def new_supernet(space: AnySpace, settings: SupernetSettings) -> AnySupernet:
    """A fresh supernet, initialised from the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    shadow_bn = settings.config.bn == "shadow"
    if isinstance(space, CellSpace):
        return CellSupernet(space, shadow_bn=shadow_bn, generator=generator)
    return Supernet(space, shadow_bn=shadow_bn, generator=generator)


def restored(folder: Path, settings: SupernetSettings, state: dict[str, Any]) -> AnySupernet:
    """The supernet of a run folder with the weights of a checkpoint. Raises BadInput."""
    supernet = new_supernet(any_space_from_dict(settings.space), settings)
    try:
        supernet.load_state_dict(state["model"])
    except (RuntimeError, TypeError, AttributeError):
        raise BadInput(f"{folder / 'checkpoint.pt'} does not fit the space in run.json") from None
    return supernet


def train_batches(
    run: SupernetRun, device: torch.device, rows: npt.NDArray[np.int64] | None = None
) -> TrainBatches:
    """The augmented training batches of a run, or these rows of each. Raises BadInput."""
    config = run.settings.config
    return TrainBatches(
        run.data.train,
        run.splits.train,
        batch_size=config.batch_size,
        seed=run.settings.seed,
        mean=run.data.mean,
        std=run.data.std,
        augment=Augment(config.crop_padding, config.flip, config.cutout),
        device=device,
        rows=rows,
    )


def create_run(
    folder: Path, space: AnySpace, data: str, seed: int, config: SupernetConfig
) -> SupernetRun:
    """Load the data, draw the splits and write splits.json and, last, run.json.

    Raises BadInput when the folder already holds a run, and, before anything is written, when the
    config does not fit the space, the images or this machine.
    """
    if (folder / "run.json").exists():
        raise BadInput(
            f"{folder} already holds a supernet run: --resume continues it, or choose another --out"
        )
    images = load_data(data, space.resolution)
    count = len(images.train)
    validate = validation_size(config, count)
    splits = make_splits(
        images.train.labels,
        seed=seed,
        validate=validate,
        calibrate=_calibration_size(config, count, validate),
        limit=config.limit,
    )
    named = _with_classes(space, len(images.classes))
    settings = SupernetSettings(space=named, data=data, seed=seed, config=config)
    run = SupernetRun(folder, settings, any_space_from_dict(named), images, splits)
    make_sampler(config.sampler, run.space, seed)
    train_batches(run, pick_device(config.device))
    write_json(folder / "splits.json", splits.to_json())
    about = {
        "mobilenas": __version__,
        "data_checksum": checksum(images),
        "classes": images.classes,
    }
    write_json(folder / "run.json", settings.model_dump(mode="json") | about)
    return run


def read_settings(folder: Path) -> SupernetSettings:
    """The settings of a supernet run. Raises BadInput naming what is missing or wrong."""
    path = folder / "run.json"
    if not path.exists():
        raise BadInput(f"{folder} holds no supernet run; `mobilenas supernet-train` makes one")
    return read_run_json(path, SupernetSettings)


def stored_supernet(folder: Path) -> tuple[AnySupernet, tuple[str, ...]]:
    """The supernet of a run folder and the names of its classes, without loading its images.

    Raises BadInput naming what is missing or damaged.
    """
    settings = read_settings(folder)
    classes = read_json(folder / "run.json", "classes")["classes"]
    supernet = restored(folder, settings, load_checkpoint(folder / "checkpoint.pt", "model"))
    return supernet, tuple(classes)


def check_trained(folder: Path) -> None:
    """Raise BadInput unless the supernet in a run folder is trained to its end."""
    if not (folder / "result.json").exists():
        raise BadInput(
            f"{folder} is not trained to its end: `mobilenas supernet-train --resume --out "
            f"{folder}` does it"
        )


def open_run(folder: Path) -> SupernetRun:
    """Open a run folder and load its data. Raises BadInput naming what is missing or changed."""
    settings = read_settings(folder)
    space = any_space_from_dict(settings.space)
    data = load_data(settings.data, space.resolution)
    check_data(folder, data, settings.data)
    return SupernetRun(folder, settings, space, data, read_splits(folder, len(data.train)))


def _calibration_size(config: SupernetConfig, num_images: int, validate: int) -> int:
    train = min(config.limit or num_images, num_images - validate)
    return config.calibrate_images or min(2016, train)


def _with_classes(space: AnySpace, num_classes: int) -> dict[str, Any]:
    return space.to_dict() | {"num_classes": num_classes}
