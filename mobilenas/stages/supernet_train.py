"""Training a supernet: `mobilenas supernet-train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilenas.evaluate.evaluator import check_anchors
from mobilenas.nn import AnySupernet
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free
from mobilenas.space import AnySpace, any_space_from_dict
from mobilenas.strategies import make_strategy
from mobilenas.strategies.phases import first_phases
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.device import pick_device
from mobilenas.train.distill import (
    Teacher,
    check_teacher,
    load_teacher,
    teacher_name,
    teacher_parent,
)
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.images import TrainingImages, check_same_data, choose_images, data_parent
from mobilenas.train.recipe import Objective, make_optimizer
from mobilenas.train.supernets import (
    SupernetRun,
    SupernetSettings,
    new_supernet,
    open_supernet_run,
)
from mobilenas.train.trainer import Trainer, fit, is_trained


def create_supernet_run(
    path: Path, space: AnySpace, data: str, seed: int, config: SupernetConfig
) -> SupernetRun:
    """Load the data, draw the splits and write splits.json and, last, run.json.

    The classes of the space become those of the data. Raises BadInput when the folder already holds
    a run, and, before anything is written, when the config does not fit the space, the images or
    this machine.
    """
    check_free(path)
    images = choose_images(data, space.resolution, config, seed, config.calibrate_images)
    named = _with_classes(space, len(images.data.classes))
    settings = SupernetSettings(space=named, data=data, seed=seed, config=config)
    own = any_space_from_dict(named)
    make_strategy(config.strategy, own, seed, config.sandwich_random)
    first_phases(config, own, seed)
    images.training(pick_device(config.device))
    make_optimizer(config, new_supernet(settings))
    teacher = _teacher(config.teacher, images)
    images.store_splits(path)
    facts = {
        "data": images.data.found.to_dict(),
        "data_checksum": images.checksum(),
        "classes": images.data.classes,
        "mean": images.data.mean,
        "std": images.data.std,
        "teacher_checksum": None if teacher is None else fingerprint(teacher),
    }
    parents = data_parent(data) | teacher_parent(config)
    run = RunFolder.create(path, "supernet", settings, parents=parents, facts=facts)
    return SupernetRun(run, settings, own, images)


def resume_supernet_run(path: Path, given: Mapping[str, Any]) -> SupernetRun:
    """The run in a folder. given: settings that the user gave again: space, data, seed, config;
    data and a saved teacher may be in another place now.

    Raises BadInput where one of them is another than that of the run.
    """
    config, data = given.get("config"), given.get("data")
    check_same_data(RunFolder.to_resume(path, "supernet"), data)
    run = open_supernet_run(path, data=data, teacher=config and config.saved_teacher)
    space = given.get("space")
    named = None if space is None else _with_classes(space, run.space.num_classes)
    again = config and config.resuming(run.settings.config)
    run.folder.check_unchanged({"space": named, "seed": given.get("seed"), "config": again})
    return run


def train_supernet(run: SupernetRun, processes: Processes = SINGLE) -> AnySupernet:
    """Train a supernet from its last checkpoint, or from the start, to the end.

    Raises Diverged, which leaves the last good checkpoint.
    """
    settings, config, images = run.settings, run.settings.config, run.images
    with processes.together():
        device = pick_device(config.device)
        strategy = make_strategy(config.strategy, run.space, settings.seed, config.sandwich_random)
        name = None if is_trained(run.folder) else teacher_name(run.folder, config)
        teacher = _teacher(name, images)
        if teacher is not None:
            check_teacher(run.folder, teacher)
            teacher.to(device)
        supernet = new_supernet(settings)
        trainer = Trainer(
            supernet,
            config,
            images.training(device, processes),
            seed=settings.seed,
            device=device,
            processes=processes,
        )
    objective = Objective(config, run.space.num_classes, settings.seed, teacher)
    first = first_phases(config, run.space, settings.seed)
    task = SupernetTask(strategy, config, objective, len(images.splits.train), first)
    fit(run.folder, task, trainer)
    return supernet


def score_supernet(run: SupernetRun) -> list[dict[str, Any]]:
    """Measure and store the accuracy of three archs of a trained run, with batch norms as they are
    and recalibrated: those of the least, the median and the most FLOPs.
    """
    rows = check_anchors(run)
    run.folder.store_result({"validation": rows})
    return rows


def _teacher(name: str | None, images: TrainingImages) -> Teacher | None:
    if name is None:
        return None
    data = images.data
    return load_teacher(name, data.classes, (data.mean, data.std), images.resolution, None)


def _with_classes(space: AnySpace, num_classes: int) -> dict[str, Any]:
    return space.to_dict() | {"num_classes": num_classes}
