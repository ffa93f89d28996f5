"""Supernets in their run folders: created, opened, and loaded with the weights that they have.

run.json        settings from which everything else follows, and what the data was
splits.json     indices of the train, calibrate and validate images
log.jsonl       one row now and then: step, passes, loss, lr
tensorboard/    the same for TensorBoard
checkpoint.pt   weights, optimizer state, step (weights_only loadable)
timing.json     seconds of work so far, hardware
result.json     validation accuracy of the smallest, median and largest arch
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record, Seed
from mobilenas.cost import supernet_params
from mobilenas.cost.memory import check_fits
from mobilenas.nn import AnySupernet, CellSupernet, Supernet
from mobilenas.runs import RunFolder
from mobilenas.runs.earlier import current_checkpoint
from mobilenas.space import AnySpace, CellSpace, any_space_from_dict
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.images import TrainingImages, stored_images
from mobilenas.train.trainer import CHECKPOINT


class SupernetSettings(Record):
    """What the user chose. `space` is a whole space as plain data, its classes those of `data`."""

    space: dict[str, Any]
    data: str
    seed: Seed
    config: SupernetConfig


@dataclass(frozen=True, eq=False)
class SupernetRun:
    """The run of a supernet, and its images."""

    folder: RunFolder
    settings: SupernetSettings
    space: AnySpace
    images: TrainingImages

    def load_supernet(self) -> AnySupernet:
        """The supernet with the weights of the last checkpoint, on the CPU. Raises BadInput."""
        return load_supernet(self.folder)


def new_supernet(settings: SupernetSettings) -> AnySupernet:
    """A fresh supernet, initialised from the seed."""
    space = any_space_from_dict(settings.space)
    generator = torch.Generator().manual_seed(settings.seed)
    config = settings.config
    shadow_bn, sharing = config.bn == "shadow", config.sharing
    if isinstance(space, CellSpace):
        if sharing != "none":
            raise BadInput(
                f"sharing {sharing}: cells share no weights; it must be none (--set sharing=none)"
            )
        if not config.zero_init_last:
            raise BadInput("zero_init_last false: cells have no residual blocks; it must be true")
        if not config.affine_last:
            raise BadInput("affine_last false: it is for blocks; with cells it must be true")
        return CellSupernet(space, shadow_bn=shadow_bn, generator=generator)
    # Weights, gradients and momentum.
    check_fits(f"the supernet of {space.name}", 3 * 4 * supernet_params(space))
    return Supernet(
        space,
        shadow_bn=shadow_bn,
        sharing=sharing,
        zero_init_last=config.zero_init_last,
        affine_last=config.affine_last,
        generator=generator,
    )


def open_supernet_run(path: Path, **moved: Path | str | None) -> SupernetRun:
    """Open the run folder of a supernet and its data.

    moved: where its parents are now: data, and a saved teacher. Raises BadInput naming what is
    missing or changed.
    """
    run = RunFolder.open(path, "supernet").at(**moved)
    settings = run.read(SupernetSettings)
    space = any_space_from_dict(settings.space)
    config, seed = settings.config, settings.seed
    images = stored_images(run, space.resolution, config, seed)
    return SupernetRun(run.as_read(settings), settings, space, images)


def load_supernet(run: RunFolder) -> AnySupernet:
    """The supernet of a run folder with the weights of its last checkpoint, their moving average
    where it has one, on the CPU. No image is loaded. Raises BadInput for a checkpoint that is
    missing, damaged or of another space.
    """
    path = run.path / CHECKPOINT
    state = current_checkpoint(load_checkpoint(path))
    supernet = new_supernet(run.read(SupernetSettings))
    try:
        average = state.get("average")
        if average is None:
            supernet.load_state_dict(state["module"])
        else:
            prefix = "module."  # of timm's ModelEmaV3
            supernet.load_state_dict({k.removeprefix(prefix): x for k, x in average.items()})
    except Exception:  # modules check little of what they are given
        raise BadInput(f"{path} does not fit what {run.path / 'run.json'} says") from None
    return supernet
