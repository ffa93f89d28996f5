"""The folder of a stand-alone training: its settings, splits and weights, all plain data.

run.json        settings from which everything else follows, and what the data was
splits.json     indices of the train and validate images
log.jsonl       one row now and then: step, epoch, loss, lr; with accuracy where it was validated
tensorboard/    the same for TensorBoard
checkpoint.pt   all that a resumed run needs (weights_only loadable)
network/        the network of the best validation accuracy so far
last/           the network of the last step
timing.json     seconds of work so far, hardware
result.json     accuracies, costs
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from mobilenas import __version__
from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.data import (
    Augment,
    Batches,
    ImageData,
    ImageFiles,
    Part,
    Splits,
    load_data,
    make_batches,
    make_eval_batches,
    make_splits,
    open_data,
)
from mobilenas.data.splits import Indices
from mobilenas.nn import Network, Supernet
from mobilenas.nn.saved import Accuracy, NetworkInfo, load_network
from mobilenas.space import Arch, Space, space_from_dict
from mobilenas.train.calibrate import Batch
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.config import TrainConfig
from mobilenas.train.device import pick_device
from mobilenas.train.distill import Teacher, load_teacher
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.folder import (
    RunSettings,
    check_data,
    checksum,
    read_run_json,
    read_splits,
    validation_size,
)
from mobilenas.train.recipe import make_optimizer
from mobilenas.train.run import stored_supernet

log = logging.getLogger(__name__)

_EVAL_BATCH = 256
_OF_NO_WEIGHT = {"name", "description", "resolution"}  # keys of a space


class TrainSettings(RunSettings):
    """What the user chose.

    The weights to start from are those that a supernet run has for the arch (inherit), those of a
    saved network (weights), or fresh ones.
    """

    arch: str
    config: TrainConfig
    inherit: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class TrainRun:
    """A run folder in memory: settings, space, arch, data and splits."""

    folder: Path
    settings: TrainSettings
    space: Space
    arch: Arch
    data: ImageData | ImageFiles
    splits: Splits

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def network(self) -> Path:
        """Where the network of the best validation accuracy is saved."""
        return self.folder / "network"

    @property
    def last(self) -> Path:
        """Where the network of the last step is saved."""
        return self.folder / "last"

    def info(self, accuracy: float, *, is_best: bool) -> NetworkInfo:
        """What is saved beside a network of this run; accuracy: on the validation images."""
        images = f"{len(self.splits.validate)} validation images"
        return NetworkInfo(
            classes=self.data.classes,
            mean=self.data.mean,
            std=self.data.std,
            crop=self.settings.config.eval_crop,
            accuracy=Accuracy(
                accuracy, f"{images}, by which its epoch was chosen" if is_best else images
            ),
        )

    def supernet(self) -> Supernet | None:
        """The supernet whose weights are inherited, if any. Raises BadInput for another space."""
        if self.settings.inherit is None:
            return None
        folder = Path(self.settings.inherit)
        supernet, classes = stored_supernet(folder)
        ours, theirs = self.space.to_dict(), supernet.space.to_dict()
        odd = {key for key in ours | theirs if ours.get(key) != theirs.get(key)} - _OF_NO_WEIGHT
        if odd:
            raise BadInput(
                f"{folder} is a supernet of another space than {self.space.name}: it has "
                f"another {', '.join(sorted(odd))}"
            )
        if classes != self.data.classes:
            raise BadInput(f"{folder} is a supernet of other classes than {self.data.name} has")
        assert isinstance(supernet, Supernet), "a space of cells is another space"
        return supernet


def fresh_network(run: TrainRun) -> Network:
    """The network of a run, initialised from the seed."""
    config = run.settings.config
    return Network(
        run.space,
        run.arch,
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
        generator=torch.Generator().manual_seed(run.settings.seed),
    )


def new_network(run: TrainRun) -> Network:
    """The network as training starts, with the weights that the settings name.

    Raises BadInput for weights that do not fit.
    """
    network, weights = fresh_network(run), run.settings.weights
    supernet = run.supernet()
    if supernet is not None:
        return network.load_from(supernet)
    if weights is not None:
        _start_from(network, Path(weights), run.data.classes)
    return network


def make_teacher(run: TrainRun) -> Teacher | None:
    """The teacher that the settings name, if they do.

    Raises BadInput, also for one that is another than that which the run started with.
    """
    name, data = run.settings.config.teacher, run.data
    if name is None:
        return None
    supernet = run.supernet() if name == "supernet" else None
    teacher = load_teacher(name, data.classes, (data.mean, data.std), supernet)
    path = run.folder / "run.json"
    if path.exists() and fingerprint(teacher) != read_json(path).get("teacher_checksum"):
        raise BadInput(f"teacher {name} is not the one that {run.folder} was started with")
    return teacher


def _start_from(network: Network, path: Path, classes: tuple[str, ...]) -> None:
    saved, info = load_network(path)
    if saved.arch != network.arch:
        raise BadInput(f"{path} holds {saved.arch}, another arch than {network.arch}")
    state = saved.state_dict()
    if info.classes != classes:
        state = {key: x for key, x in state.items() if not key.startswith("classifier.")}
    own = network.state_dict()
    odd = [key for key, x in state.items() if key not in own or own[key].shape != x.shape]
    if odd:
        raise BadInput(f"{path} does not fit space {network.space.name} (first: {odd[0]})")
    network.load_state_dict(own | state)


def create_train_run(folder: Path, settings: TrainSettings) -> TrainRun:
    """Load the data, draw the splits and write splits.json and, last, run.json.

    The classes of `settings.space` become those of the data. Raises BadInput when the folder
    already holds a run, and, before anything is written, when settings, data and weights do not
    fit.
    """
    if (folder / "run.json").exists():
        raise BadInput(
            f"{folder} already holds a run: --resume continues it, or choose another --out"
        )
    config = settings.config
    _augment(config)
    data = _read_data(settings)
    if settings.weights is not None:  # which were trained with a mean and std of their own
        _, info = load_network(Path(settings.weights))
        data = replace(data, mean=info.mean, std=info.std)
        if info.classes != data.classes:
            log.info("%s: trained on other classes, the classifier starts anew", settings.weights)
    labels = data.train.labels
    validate = validation_size(config, len(labels))
    splits = make_splits(
        labels, seed=settings.seed, validate=validate, calibrate=0, limit=config.limit
    )
    named = settings.space | {"num_classes": len(data.classes)}
    run = _joined(folder, settings.model_copy(update={"space": named}), data, splits)
    make_optimizer(config, new_network(run))
    teacher = make_teacher(run)
    train_batches(run, pick_device(config.device))
    write_json(folder / "splits.json", splits.to_json())
    about = {
        "mobilenas": __version__,
        "data_checksum": checksum(data),
        "mean": data.mean,
        "std": data.std,
        "teacher_checksum": None if teacher is None else fingerprint(teacher),
    }
    write_json(folder / "run.json", run.settings.model_dump(mode="json") | about)
    return run


def open_train_run(folder: Path) -> TrainRun:
    """Open a run folder and load its data. Raises BadInput naming what is missing or changed."""
    if not (folder / "run.json").exists():
        raise BadInput(f"{folder} holds no training; `mobilenas train` makes one")
    settings = read_run_json(folder / "run.json", TrainSettings)
    data = _read_data(settings)
    check_data(folder, data, settings.data)
    about = read_json(folder / "run.json", "mean", "std")
    data = replace(data, mean=tuple(about["mean"]), std=tuple(about["std"]))
    return _joined(folder, settings, data, read_splits(folder, len(data.train)))


def is_train_run(folder: Path) -> bool:
    """Whether a folder holds a stand-alone training, rather than another kind of run."""
    path = folder / "run.json"
    return path.exists() and "arch" in read_json(path)


def train_batches(run: TrainRun, device: torch.device, processes: Processes = SINGLE) -> Batches:
    """The augmented training batches of a run, of each the rows of this process."""
    config, data = run.settings.config, run.data
    return make_batches(
        data.train,
        run.splits.train,
        resolution=run.space.resolution,
        batch_size=config.batch_size,
        seed=run.settings.seed,
        mean=data.mean,
        std=data.std,
        augment=_augment(config),
        device=device,
        rows=processes.share(config.batch_size),
        workers=config.workers,
    )


def eval_batches(
    run: TrainRun, part: Part, device: torch.device, indices: Indices | None = None
) -> Iterator[Batch]:
    """The images of a part (those of `indices`, all if None) as evaluation sees them."""
    config = run.settings.config
    return make_eval_batches(
        part,
        np.arange(len(part)) if indices is None else indices,
        resolution=run.space.resolution,
        batch_size=_EVAL_BATCH,
        mean=run.data.mean,
        std=run.data.std,
        device=device,
        crop=config.eval_crop,
        workers=config.workers,
    )


def saved_accuracy(run: TrainRun, path: Path) -> float:
    """The validation accuracy in 0..1 that is noted in a saved network of a run."""
    _, info = load_network(path)
    if info.accuracy is None:
        raise BadInput(f"{path} was not saved by this training: it has no accuracy")
    return info.accuracy.top1


def _augment(config: TrainConfig) -> Augment:
    return Augment(**{field.name: getattr(config, field.name) for field in fields(Augment)})


def _read_data(settings: TrainSettings) -> ImageData | ImageFiles:
    config = settings.config
    if config.stream:
        return open_data(settings.data)
    return load_data(settings.data, space_from_dict(settings.space).resolution, config.eval_crop)


def _joined(
    folder: Path, settings: TrainSettings, data: ImageData | ImageFiles, splits: Splits
) -> TrainRun:
    space = space_from_dict(settings.space)
    return TrainRun(folder, settings, space, space.parse(settings.arch), data, splits)
