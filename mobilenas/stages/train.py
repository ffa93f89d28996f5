"""Stand-alone training of one network: `mobilenas train`."""

import logging
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_text
from mobilenas.cost.budget import known_tables
from mobilenas.cost.edge_model import costs_of
from mobilenas.cost.titles import latency_cost
from mobilenas.data import Part
from mobilenas.data.images import Channels
from mobilenas.nn.saved import load_network
from mobilenas.report.card import network_card
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import KINDS, check_free, is_run
from mobilenas.search.front import read_search
from mobilenas.space import Space, load_network_space, network_space_from_dict
from mobilenas.stages.searched import find_supernet, is_by_gradient
from mobilenas.train.calibrate import accuracy
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.config import NetworkConfig, load_network_config
from mobilenas.train.device import pick_device
from mobilenas.train.distill import teacher_parent
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.images import (
    TrainingImages,
    check_same_data,
    choose_images,
    data_parent,
    data_place,
)
from mobilenas.train.network_task import NetworkTask
from mobilenas.train.networks import (
    TEACHER_IMAGES,
    NetworkRun,
    NetworkSettings,
    fresh_network,
    make_teacher,
    new_network,
    open_network_run,
    ready_teacher,
    saved_accuracy,
    teacher_images,
)
from mobilenas.train.recipe import Objective, make_optimizer
from mobilenas.train.supernets import SupernetSettings
from mobilenas.train.trainer import CHECKPOINT, Trainer, fit, is_trained

CARD = "README.md"  # where the hub looks for it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What a stand-alone training is asked for; None where the user left it to the rest.

    search: run folder of a finished search, whose `pick` (best if None) is trained on its data.
    inherit: supernet run. weights: saved network. resolution: side of the images. preset,
    overrides: as `load_network_config` takes them; the preset is `digits` for the digits, else
    `usual_preset`.
    """

    space: str | None = None
    arch: str | None = None
    search: Path | None = None
    pick: str | None = None
    data: str | None = None
    inherit: Path | None = None
    weights: Path | None = None
    resolution: int | None = None
    seed: int | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()
    usual_preset: str = "cifar10"

    def config(self, data: str) -> NetworkConfig:
        """The recipe for these data. Raises BadInput."""
        preset = self.preset or ("digits" if data == "digits" else self.usual_preset)
        return load_network_config(preset, list(self.overrides))

    def config_again(self, folder: RunFolder) -> NetworkConfig | None:
        """The recipe for the data of a run, if a part of it is given again. Raises BadInput."""
        return self.config(folder.settings["data"]) if self.preset or self.overrides else None


def training_settings(asked: Asked) -> NetworkSettings:
    """Which network is trained, on what and from which weights. Raises BadInput.

    Space and data that are not given are those of the supernet that was searched or is inherited
    from, or of the search by gradient; the space may come from the saved network. Without any of
    these the data are the built-in digits.
    """
    if asked.inherit and asked.weights:
        raise BadInput("--inherit and --weights: a network starts from one of them")
    space, arch, data = asked.space, _arch(asked), asked.data
    known: dict[str, Any] | None = None  # the space that comes with what training starts from
    supernet = asked.inherit
    if asked.search is not None and supernet is None:
        if is_by_gradient(asked.search):
            learnt = RunFolder.open(asked.search, "search")
            known, data = learnt.settings["space"], data or data_place(learnt)
        elif space is None or data is None:
            supernet = find_supernet(asked.search, "--space and --data")
    if supernet is not None:
        trained = RunFolder.open(supernet, "supernet")
        trained.check_finished()
        settings = trained.read(SupernetSettings)
        known, data = settings.space, data or data_place(trained)
    if asked.weights is not None:
        saved, _ = load_network(asked.weights)
        known, arch = saved.space.to_dict(), arch or str(saved.arch)
    if arch is None:
        raise BadInput("which network? give --arch (of --space), --search or --weights")
    if space is not None:
        known = load_network_space(space).to_dict()
    elif known is None:
        raise BadInput(f"arch {arch}: give its --space")
    if asked.resolution is not None:
        known = known | {"resolution": asked.resolution}
    return NetworkSettings(
        space=network_space_from_dict(known).to_dict(),
        arch=arch,
        data=data or "digits",
        seed=asked.seed or 0,
        config=asked.config(data or "digits"),
        inherit=realpath(asked.inherit) if asked.inherit else None,
        weights=realpath(asked.weights) if asked.weights else None,
    )


def create_network_run(
    path: Path,
    settings: NetworkSettings,
    images: TrainingImages | None = None,
    search: Path | None = None,
) -> NetworkRun:
    """Load the data, draw the splits and write splits.json and, last, run.json.

    images: those of a run of another arch with the same settings, which saves reading them again.
    search: run folder of the search that the arch is from, which the run names as a parent.
    The classes of `settings.space` become those of the data. Raises BadInput when the folder
    already holds a run, and, before anything is written, when settings, data and weights do not
    fit.
    """
    check_free(path)
    config, seed = settings.config, settings.seed
    resolution = network_space_from_dict(settings.space).resolution
    start_run = _start(settings)
    if images is None:
        images = choose_images(
            settings.data, resolution, config, seed, calibrate=0, start=start_run
        )
    # Weights were trained with a mean and std of their own; supernets of before do not tell.
    if settings.inherit is not None and start_run is not None and "mean" in start_run.facts:
        own = (start_run.fact("mean", Channels), start_run.fact("std", Channels))
        images = images.normalised_by(*own)
    if settings.weights is not None:
        _, info = load_network(Path(settings.weights))
        images = images.normalised_by(info.mean, info.std)
        if info.classes != images.data.classes:
            log.info("%s: trained on other classes, the classifier starts anew", settings.weights)
    data = images.data
    named = settings.space | {"num_classes": len(data.classes)}
    settings = settings.model_copy(update={"space": named})
    space = network_space_from_dict(named)
    arch = space.parse(settings.arch)
    places = {"supernet": settings.inherit, "network": settings.weights}
    parents = {role: place for role, place in places.items() if place}
    draft = RunFolder(path, "train", settings.model_dump(mode="json"), parents)
    run = NetworkRun(draft, settings, space, arch, images)
    start = new_network(run)
    make_optimizer(config, start)
    teacher, calibration = make_teacher(run), teacher_images(run)
    images.training(pick_device(config.device))
    images.store_splits(path)
    facts = {
        "data": images.data.found.to_dict(),
        "data_checksum": images.checksum(),
        "mean": data.mean,
        "std": data.std,
        "teacher_checksum": None if teacher is None else fingerprint(teacher),
    }
    if calibration is not None:
        facts[TEACHER_IMAGES] = len(calibration.splits.calibrate)
    if settings.inherit or settings.weights:
        facts["weights_checksum"] = fingerprint(start)
    parents |= data_parent(settings.data) | teacher_parent(config)
    if search is not None:
        parents["search"] = realpath(search)
    folder = RunFolder.create(path, "train", settings, parents=parents, facts=facts)
    return NetworkRun(folder, settings, space, arch, images)


def _start(settings: NetworkSettings) -> RunFolder | None:
    """The run that trained the weights that a network starts from, where there is one."""
    if settings.inherit is not None:
        return RunFolder.open(Path(settings.inherit), "supernet")
    if settings.weights is not None:
        saved = Path(settings.weights)
        home = saved.parent if saved.is_dir() else saved.parent.parent
        if any(is_run(home, kind) for kind in KINDS):
            run = RunFolder.open(home, *KINDS)
            return run if run.kind in ("train", "search") else None
    return None


def resume_network_run(path: Path, asked: Asked) -> NetworkRun:
    """The run in a folder. What it was made from may be in another place now: checksums tell.

    Raises BadInput where what is asked for now is another setting, or other data or weights.
    """
    folder = RunFolder.to_resume(path, "train")
    check_same_data(folder, asked.data)
    run = reopen_network_run(path, asked)
    starts = {"inherit": asked.inherit, "weights": asked.weights}
    known = {x for x in starts if _may_move(folder, x)}
    if any(starts[name] for name in known):
        new_network(run)  # which refuses other weights
    again = asked.config_again(folder)
    space = None
    if asked.space is not None:
        given = {"num_classes": run.space.num_classes}
        if asked.resolution is not None:
            given["resolution"] = asked.resolution
        space = load_network_space(asked.space).to_dict() | given
    run.folder.check_unchanged(
        {
            "arch": _arch(asked),
            **{name: x and realpath(x) for name, x in starts.items() if name not in known},
            "space": space,
            "seed": asked.seed,
            "config": again and again.resuming(run.settings.config),
        }
    )
    if asked.resolution not in (None, run.space.resolution):
        raise BadInput(f"{path} was started with --resolution {run.space.resolution}")
    return run


def reopen_network_run(path: Path, asked: Asked) -> NetworkRun:
    """The run in a folder, with what it was made from where `asked` says that it lies now."""
    folder = RunFolder.open(path, "train")
    again = asked.config_again(folder)
    return open_network_run(
        path,
        data=asked.data,
        supernet=asked.inherit if _may_move(folder, "inherit") else None,
        network=asked.weights if _may_move(folder, "weights") else None,
        teacher=again.saved_teacher if again else None,
    )


def _may_move(folder: RunFolder, start: str) -> bool:
    """Whether what a run starts from, inherit or weights, is known by its checksum."""
    return bool(folder.settings.get(start)) and "weights_checksum" in folder.facts


def _arch(asked: Asked) -> str | None:
    """The arch that is asked for, if any is, by its text form or as one of a search."""
    if asked.pick and (asked.arch or not asked.search):
        raise BadInput(f"--pick {asked.pick}: it chooses among --search, in place of --arch")
    if asked.arch or not asked.search:
        return asked.arch
    return read_search(asked.search).pick(asked.pick or "best")


def train_network(run: NetworkRun, processes: Processes = SINGLE) -> NetworkTask:
    """Train a network from its last checkpoint, or from the start, to the end.

    Raises Diverged, which leaves the last good checkpoint.
    """
    settings, config = run.settings, run.settings.config
    with processes.together():
        device = pick_device(config.device)
        batches = run.images.training(device, processes)
        resumed = (run.folder.path / CHECKPOINT).exists()
        teacher = None if is_trained(run.folder) else ready_teacher(run, device)
        trainer = Trainer(
            fresh_network(run) if resumed else new_network(run),
            config,
            batches,
            seed=settings.seed,
            device=device,
            processes=processes,
        )
    objective = Objective(config, run.space.num_classes, settings.seed, teacher)
    task = NetworkTask(run, objective, batches.steps_per_epoch)
    fit(run.folder, task, trainer)
    if processes.is_main:
        task.save_last(trainer)
    return task


def finish_train(run: NetworkRun) -> dict[str, Any]:
    """Measure the best network of a finished training on the test images. Stores and returns the
    result, accuracies in 0..1 and latencies in ms, and writes the network's model card.
    """
    tables = known_tables(run.space) if isinstance(run.space, Space) else []
    costs = costs_of(run.space, tables).of(run.arch)  # type: ignore[arg-type]
    latency = {table.name: costs.pop(latency_cost(table.name)) for table in tables}
    test = run.images.data.test
    result = {
        "space": run.space.name,
        "arch": str(run.arch),
        "accuracy": saved_accuracy(run.network),
        "last_accuracy": saved_accuracy(run.last),
        "validation_images": len(run.images.splits.validate),
        "test_accuracy": None if test is None else accuracy_on(run, test),
        "test_images": 0 if test is None else len(test),
        **costs,
        "latency_ms": latency,
    }
    data = run.images.data.found.to_dict()
    write_text(run.network / CARD, network_card(result, run.folder.settings, data))
    run.folder.store_result(result)
    return result


def accuracy_on(run: NetworkRun, part: Part) -> float:
    """Top-1 in 0..1 of the best network of a run on all images of a part."""
    device = pick_device(run.settings.config.device)
    network, _ = load_network(run.network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return accuracy(network, run.images.evaluation(part, device))
