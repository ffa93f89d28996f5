"""Networks that are trained stand-alone: their run folders, and the weights that they start from.

run.json        settings from which everything else follows, and what the data was
splits.json     indices of the train and validate images
log.jsonl       one row now and then: step, epoch, loss, lr; with accuracy where it was validated
tensorboard/    the same for TensorBoard
checkpoint.pt   all that a resumed run needs (weights_only loadable)
network/        the network of the best validation accuracy so far; at the end its model card
last/           the network of the last step
timing.json     seconds of work so far, hardware
result.json     accuracies, costs
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Count, Record, Seed, Share
from mobilenas.cost.memory import check_fits
from mobilenas.cost.model import flops_and_params
from mobilenas.data.images import Channels
from mobilenas.nn import AnyNetwork, Network, Supernet, plain_network
from mobilenas.nn.saved import Accuracy, NetworkInfo, load_network
from mobilenas.runs import RunFolder
from mobilenas.space import Arch, Genotype, NetworkSpace, network_space_from_dict
from mobilenas.train.calibrate import recalibrate
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.config import NetworkConfig
from mobilenas.train.distill import Teacher, check_teacher, load_teacher, teacher_name
from mobilenas.train.images import TrainingImages, are_of, stored_images, stored_splits
from mobilenas.train.supernets import SupernetSettings, load_supernet, open_supernet_run

TEACHER_IMAGES = "teacher_calibration_images"  # a fact: how many, of an arch of the supernet

_OF_NO_WEIGHT = {"name", "description", "resolution"}  # keys of a space


class NetworkSettings(Record):
    """What the user chose. `space` is a whole space as plain data, its classes those of `data`.

    The weights to start from are those that a supernet run has for the arch (inherit), those of a
    saved network (weights), or fresh ones.
    """

    space: dict[str, Any]
    arch: str
    data: str
    seed: Seed
    config: NetworkConfig
    inherit: str | None = None
    weights: str | None = None


class NetworkResult(Record, extra="ignore"):
    """Of result.json what others read. Accuracies in 0..1: that of the network of the last step on
    the validation images, that of the best one on the test images.
    """

    arch: str
    last_accuracy: Share
    validation_images: Count | None = None  # of runs before it was stored
    test_accuracy: Share | None
    test_images: Count
    flops: Count


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """The run of a stand-alone training, and its images."""

    folder: RunFolder
    settings: NetworkSettings
    space: NetworkSpace
    arch: Arch | Genotype
    images: TrainingImages

    @property
    def network(self) -> Path:
        """Where the network of the best validation accuracy is saved."""
        return self.folder.path / "network"

    @property
    def last(self) -> Path:
        """Where the network of the last step is saved."""
        return self.folder.path / "last"

    def info(self, accuracy: float, *, is_best: bool) -> NetworkInfo:
        """What is saved beside a network of this run; accuracy: on the validation images."""
        data, images = self.images.data, f"{len(self.images.splits.validate)} validation images"
        return NetworkInfo(
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            crop=self.settings.config.eval_crop,
            accuracy=Accuracy(
                accuracy, f"{images}, by which its epoch was chosen" if is_best else images
            ),
        )

    def supernet(self) -> Supernet | None:
        """The supernet whose weights are inherited, if any. Raises BadInput for another space."""
        if self.settings.inherit is None:
            return None
        folder = RunFolder.open(self.folder.parent("supernet", "--inherit"), "supernet")
        supernet = load_supernet(folder)
        ours, theirs = self.space.to_dict(), supernet.space.to_dict()
        odd = {key for key in ours | theirs if ours.get(key) != theirs.get(key)} - _OF_NO_WEIGHT
        if odd:
            raise BadInput(
                f"{folder.path} is a supernet of another space than {self.space.name}: it has "
                f"another {', '.join(sorted(odd))}"
            )
        data = self.images.data
        if folder.fact("classes", tuple[str, ...]) != data.classes:
            raise BadInput(f"{folder.path} is a supernet of other classes than {data.name} has")
        assert isinstance(supernet, Supernet), "a space of cells is another space"
        return supernet


def open_network_run(path: Path, **moved: Path | str | None) -> NetworkRun:
    """Open the run folder of a stand-alone training and its data.

    moved: where its parents are now: data, and what training starts from, supernet or network.
    Raises BadInput naming what is missing or changed.
    """
    run = RunFolder.open(path, "train").at(**moved)
    settings = run.read(NetworkSettings)
    space = network_space_from_dict(settings.space)
    config, seed = settings.config, settings.seed
    images = stored_images(run, space.resolution, config, seed)
    images = images.normalised_by(run.fact("mean", Channels), run.fact("std", Channels))
    return NetworkRun(run.as_read(settings), settings, space, space.parse(settings.arch), images)


def fresh_network(run: NetworkRun) -> AnyNetwork:
    """The network of a run, initialised from the seed."""
    config = run.settings.config
    params = int(flops_and_params(run.space, [run.arch])["params"][0])
    check_fits(f"the training of {run.arch}", 3 * 4 * params)
    return plain_network(
        run.space,
        run.arch,
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
        generator=torch.Generator().manual_seed(run.settings.seed),
    )


def new_network(run: NetworkRun) -> AnyNetwork:
    """The network as training starts, with the weights that the settings name.

    Raises BadInput for weights that do not fit, or are others than the run was started with.
    """
    network = fresh_network(run)
    supernet = run.supernet()
    if supernet is not None:
        assert isinstance(network, Network), "it is of the supernet's space"
        network.load_from(supernet)
    if run.settings.weights is not None:
        _start_from(network, run.folder.parent("network", "--weights"), run.images.data.classes)
    known = run.folder.facts.get("weights_checksum")
    if known not in (None, fingerprint(network)):
        place = run.settings.inherit or run.settings.weights
        raise BadInput(f"{place} has other weights than {run.folder.path} was started with")
    return network


def make_teacher(run: NetworkRun) -> Teacher | None:
    """The teacher that the settings name, if they do. Raises BadInput."""
    data = run.images.data
    name = teacher_name(run.folder, run.settings.config)
    if name is None:
        return None
    supernet = run.supernet() if name == "supernet" else None
    return load_teacher(name, data.classes, (data.mean, data.std), run.images.resolution, supernet)


def teacher_images(run: NetworkRun) -> TrainingImages | None:
    """The images whose calibration split the teacher is recalibrated on: those of the run, split
    as the supernet had them, where these are the same; else the supernet's own. None for a teacher
    that is no arch of the supernet. Raises BadInput.
    """
    if run.settings.config.teacher != "supernet":
        return None
    folder = RunFolder.open(run.folder.parent("supernet", "--inherit"), "supernet")
    images = run.images
    if not are_of(folder, images):
        data = images.data
        return open_supernet_run(folder.path).images.normalised_by(data.mean, data.std)
    splits = stored_splits(folder, len(images.data.train))
    return replace(images, splits=splits, seed=folder.read(SupernetSettings).seed)


def ready_teacher(run: NetworkRun, device: torch.device) -> Teacher | None:
    """The teacher on a device as training has it, an arch of the supernet recalibrated there.

    Raises BadInput where it is not the one that the run was started with.
    """
    teacher = make_teacher(run)
    if teacher is None:
        return None
    check_teacher(run.folder, teacher)
    teacher.to(device)
    images = teacher_images(run)
    if images is not None:
        if TEACHER_IMAGES not in run.folder.facts:
            raise BadInput(
                f"{run.folder.path} is of an earlier version, whose teacher had other batch norm "
                "statistics: it cannot go on, train it anew in another --out"
            )
        recalibrate(teacher, images.calibration(device))
    return teacher


def _start_from(network: AnyNetwork, path: Path, classes: tuple[str, ...]) -> None:
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


def saved_accuracy(path: Path) -> float:
    """The validation accuracy in 0..1 that is noted in a network that a training saved."""
    _, info = load_network(path)
    if info.accuracy is None:
        raise BadInput(f"{path} was not saved by a training: it has no accuracy")
    return info.accuracy.top1
