"""Stand-alone training as a stage: which network, on what, from which weights, and the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_json
from mobilenas.cost import CostModel
from mobilenas.cost.budget import known_tables
from mobilenas.cost.titles import latency_cost
from mobilenas.data import Part
from mobilenas.nn.saved import load_network
from mobilenas.search.front import read_search
from mobilenas.space import load_space, space_from_dict
from mobilenas.train.alone import train_network
from mobilenas.train.alone_run import TrainRun, TrainSettings, eval_batches, saved_accuracy
from mobilenas.train.calibrate import accuracy
from mobilenas.train.config import TrainConfig, load_train_config
from mobilenas.train.device import pick_device
from mobilenas.train.folder import check_unchanged
from mobilenas.train.run import check_trained, read_settings


@dataclass(frozen=True)
class Asked:
    """What a stand-alone training is asked for; None where the user left it to the rest.

    search: run folder of a finished search, whose `pick` (best if None) is trained on its data.
    inherit: supernet run. weights: saved network. resolution: side of the images. preset,
    overrides: as `load_train_config` takes them; the preset is `digits` for the digits, else
    `cifar10`.
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

    def config(self, data: str) -> TrainConfig:
        """The recipe for these data. Raises BadInput."""
        preset = self.preset or ("digits" if data == "digits" else "cifar10")
        return load_train_config(preset, list(self.overrides))


def training_settings(asked: Asked) -> TrainSettings:
    """Which network is trained, on what and from which weights. Raises BadInput.

    Space and data that are not given are those of the supernet that was searched or is inherited
    from; the space may come from the saved network. Without any of these the data are the built-in
    digits.
    """
    if asked.inherit and asked.weights:
        raise BadInput("--inherit and --weights: a network starts from one of them")
    space, arch, data = asked.space, _arch(asked), asked.data
    known: dict[str, Any] | None = None  # the space that comes with what training starts from
    supernet = asked.inherit
    if asked.search is not None and supernet is None:
        supernet = read_search(asked.search).supernet
    if supernet is not None:
        settings = read_settings(supernet)
        check_trained(supernet)
        known, data = settings.space, data or settings.data
    if asked.weights is not None:
        saved, _ = load_network(asked.weights)
        known, arch = saved.space.to_dict(), arch or str(saved.arch)
    if arch is None:
        raise BadInput("which network? give --arch (of --space), --search or --weights")
    if space is not None:
        known = load_space(space).to_dict()
    elif known is None:
        raise BadInput(f"arch {arch}: give its --space")
    if asked.resolution is not None:
        known = known | {"resolution": asked.resolution}
    return TrainSettings(
        space=space_from_dict(known).to_dict(),
        arch=arch,
        data=data or "digits",
        seed=asked.seed or 0,
        config=asked.config(data or "digits"),
        inherit=str(asked.inherit.resolve()) if asked.inherit else None,
        weights=str(asked.weights.resolve()) if asked.weights else None,
    )


def check_asked(run: TrainRun, asked: Asked) -> None:
    """Raise BadInput when a setting that was given again is another one than that of the run."""
    settings, space = run.settings, None
    if asked.space is not None:
        given = {"num_classes": run.space.num_classes}
        if asked.resolution is not None:
            given["resolution"] = asked.resolution
        space = load_space(asked.space).to_dict() | given
    wanted: dict[str, object] = {
        "arch": _arch(asked),
        "data": asked.data,
        "inherit": asked.inherit and str(asked.inherit.resolve()),
        "weights": asked.weights and str(asked.weights.resolve()),
        "space": space,
        "seed": asked.seed,
        "config": asked.config(settings.data) if asked.preset or asked.overrides else None,
    }
    check_unchanged(run.folder, settings, wanted)
    if asked.resolution not in (None, run.space.resolution):
        raise BadInput(f"{run.folder} was started with --resolution {run.space.resolution}")


def _arch(asked: Asked) -> str | None:
    """The arch that is asked for, if any is, by its text form or as one of a search."""
    if asked.pick and (asked.arch or not asked.search):
        raise BadInput(f"--pick {asked.pick}: it chooses among --search, in place of --arch")
    if asked.arch or not asked.search:
        return asked.arch
    return read_search(asked.search).pick(asked.pick or "best")


def run_train(run: TrainRun) -> dict[str, Any]:
    """Train a network to its end in this process; returns what `finish_train` does."""
    train_network(run)
    return finish_train(run)


def finish_train(run: TrainRun) -> dict[str, Any]:
    """Measure the best network of a finished training on the test images; stores the result."""
    tables = known_tables(run.space)
    costs = CostModel(run.space, tables).of(run.arch)
    latency = {table.name: costs.pop(latency_cost(table.name)) for table in tables}
    test = run.data.test
    result = {
        "space": run.space.name,
        "arch": str(run.arch),
        "accuracy": saved_accuracy(run, run.network),
        "last_accuracy": saved_accuracy(run, run.last),
        "validation_images": len(run.splits.validate),
        "test_accuracy": None if test is None else accuracy_on(run, test),
        "test_images": 0 if test is None else len(test),
        **costs,
        "latency_ms": latency,
    }
    write_json(run.folder / "result.json", result)
    return result


def accuracy_on(run: TrainRun, part: Part) -> float:
    """Top-1 in 0..1 of the best network of a run on all images of a part."""
    device = pick_device(run.settings.config.device)
    network, _ = load_network(run.network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return accuracy(network, eval_batches(run, part, device))
