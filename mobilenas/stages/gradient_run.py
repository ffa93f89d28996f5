"""Searches by gradient in their run folders: created, resumed and opened.

run.json        settings, parents (data, latency tables), what the data was
splits.json     which images the weights are learnt from (train), and the architecture (validate)
log.jsonl       step, epoch, passes, loss, lr; now and then entropy, expected costs, the arch so far
tensorboard/    the same for TensorBoard
checkpoint.pt   weights, optimizer, architecture parameters, step (weights_only loadable)
timing.json     seconds of work so far, hardware
network/        the network of the derived arch with the weights of the supernet, where there is one
front.json      the derived arch and its costs, as a front of one
stage-1/, ...   where a search has several trainings, those before the last: log, checkpoint, and
                kept.json, the candidates that went on, which is written last
inherited.pt    where it goes on from another search: the weights and parameters of that
projections.jsonl, contributions.jsonl, labels.jsonl   the scores that a strategy decided by, synced
                  after each
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record, Seed, validated
from mobilenas.cost.budget import Budget
from mobilenas.cost.counts import supernet_params
from mobilenas.cost.edge_model import costs_of
from mobilenas.cost.memory import check_fits
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free
from mobilenas.space import (
    CellSpace,
    NetworkSpace,
    Space,
    network_space_from_dict,
)
from mobilenas.stages.inherited import (
    Inherited,
    InheritedSupernet,
    check_has_name,
    inherit_from,
    inherit_images,
    with_images_of,
    with_rate,
)
from mobilenas.stages.search_costs import (
    check_limits,
    digests,
    limited,
    moved_tables,
    places,
    say_fits,
    stored_costs,
    with_known_root,
)
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.methods import METHODS, method, strategy_class, strategy_name
from mobilenas.strategies.search_task import check_learns
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.device import pick_device
from mobilenas.train.images import (
    TrainingImages,
    check_same_data,
    choose_images,
    data_parent,
    stored_images,
)
from mobilenas.train.recipe import make_optimizer
from mobilenas.train.supernets import SupernetRun, open_supernet_run


class GradientSettings(Record):
    """What the user chose. space: a whole space as plain data, its classes those of the data.
    config: of the strategy's own shape. limits: {cost: largest value} of the derived arch.
    latency_tables: SHA-256 of the content of each, by name. inherits: the run that it goes on
    from.
    """

    strategy: str
    space: dict[str, Any]
    data: str
    seed: Seed
    config: dict[str, Any]
    limits: dict[str, int | float]
    latency_tables: dict[str, str]
    inherits: Inherited | None = None


@dataclass(frozen=True, eq=False)
class GradientRun:
    """A search by gradient in its run folder, its images, how it searches, and what."""

    folder: RunFolder
    settings: GradientSettings
    kind: type[LearnedStrategy]
    config: SearchConfig
    images: TrainingImages
    searchable: Searchable

    @property
    def space(self) -> NetworkSpace:
        """What is searched."""
        return self.searchable.space


def create_search_run(
    path: Path,
    strategy: str | type[LearnedStrategy],
    space: NetworkSpace,
    data: str,
    seed: int,
    config: SearchConfig,
    budget: Budget,
    parent: GradientRun | SupernetRun | None = None,
) -> GradientRun:
    """Load the data, draw the splits and write splits.json and, last, run.json. strategy: by its
    name, or a class of one's own, which the run is opened with again. parent: a finished run in the
    same space, whose supernet, images and splits this one goes on with (see `open_parent`).

    The classes of the space become those of the data. Raises BadInput when the folder already holds
    a run, and, before anything is written, what does not fit; InfeasibleBudget where no arch meets
    the budget.
    """
    check_free(path)
    kind = strategy_class(strategy)
    start = (parent.folder, parent.images) if parent else (None, None)
    inherits = inherit_from(kind, config, *start)
    searchable, limits = limited(space, budget)
    if config.precision == "fp16":
        raise BadInput("precision fp16: gradients of the architecture are not scaled; bf16 or fp32")
    if config.precision == "bf16" and kind.takes_differences(config):
        raise BadInput(
            f"precision bf16: strategy {strategy_name(kind)} takes differences of gradients, for "
            "which it is too coarse; fp32 or auto"
        )
    if config.teacher is not None:
        raise BadInput("teacher: a search by gradient has none; it must be left out")
    if config.ema_decay is not None:
        raise BadInput("ema_decay: a search by gradient keeps no average; it must be left out")
    if parent is None:
        images = choose_images(data, space.resolution, config, seed, calibrate=0)
    else:
        config = with_images_of(config, parent.images.config)
        config = inherits.tuning(config) if inherits else config
        images = inherit_images(parent.images, config, seed)
    if not isinstance(inherits, InheritedSupernet):  # which is trained no further
        check_learns(kind, config, len(images.splits.train))
    own = network_space_from_dict(space.to_dict() | {"num_classes": len(images.data.classes)})
    if parent is not None and own.to_dict() != parent.settings.space:
        raise BadInput(
            f"space {space.name} is not that of {parent.folder.path}, "
            f"{parent.space.name}: it must be left out with --from"
        )
    tables = searchable.costs.tables
    named = Searchable(costs_of(own, tables))
    check_limits(named, limits)  # of the classes that there are, which params hang on
    say_fits(tables)
    kind.check(named, config)
    ExpectedCost(named.costs, limits, config.cost_form)
    settings = GradientSettings(
        strategy=strategy_name(kind),
        space=own.to_dict(),
        data=data,
        seed=seed,
        config=config.model_dump(mode="json"),
        limits=limits,
        latency_tables=digests(tables),
        inherits=inherits,
    )
    device = pick_device(config.device)
    images.training(device)
    images.held(device)
    make_optimizer(config, new_supernet_of(kind, settings, config, named, seed))
    if parent is not None and inherits is not None:
        inherits.store(path, parent.folder, config)
    images.store_splits(path)
    facts = {
        "data": images.data.found.to_dict(),
        "data_checksum": images.checksum(),
        "classes": images.data.classes,
    }
    parents = (
        data_parent(data)
        | places(budget, tables)
        | ({parent.folder.kind: realpath(parent.folder.path)} if parent else {})
    )
    folder = RunFolder.create(path, "search", settings, parents=parents, facts=facts)
    return GradientRun(folder, settings, kind, config, images, named)


def resume_search_run(path: Path, given: Mapping[str, Any]) -> GradientRun:
    """The run in a folder. given: settings that the user gave again: strategy, space, data, seed,
    config, budget. Raises BadInput where one of them is another than that of the run.
    """
    folder = RunFolder.to_resume(path, "search")
    check_same_data(folder, given.get("data"))
    strategy = given.get("strategy")
    own = strategy if isinstance(strategy, type) else None
    space, config, budget = (given.get(name) for name in ("space", "config", "budget"))
    run = open_search_run(path, data=given.get("data"), strategy=own, budget=budget)
    named = strategy and strategy_name(strategy_class(strategy))
    same: dict[str, Any] = {"strategy": named, "seed": given.get("seed")}
    if space is not None:
        same["space"] = space.to_dict() | {"num_classes": run.searchable.space.num_classes}
    if config is not None:
        if run.settings.inherits is not None:
            config = with_rate(with_images_of(config, run.config), run.config.lr)
        same["config"] = config.resuming(run.config).model_dump(mode="json")
    if budget:
        known = with_known_root(budget, run.folder)
        same["limits"] = limited(run.searchable.space, known)[1]
    run.folder.check_unchanged(same)
    return run


def open_search_run(
    path: Path,
    data: str | None = None,
    strategy: type[LearnedStrategy] | None = None,
    budget: Budget | None = None,
) -> GradientRun:
    """The run in a folder, its data and latency tables. data: where they are now, if they moved;
    budget: which names tables by their paths, if these did. strategy: the class, where it is one of
    one's own.

    Raises BadInput naming what is missing or changed, and InfeasibleBudget as a new search would.
    """
    folder = RunFolder.open(path, "search").at(data=data)
    if budget:
        folder.read(GradientSettings)  # so that a damaged file is named
        folder = folder.at(**moved_tables(folder, with_known_root(budget, folder)))
    settings, kind, config, searchable = stored_search(folder, strategy)
    check_limits(searchable, settings.limits)
    images = stored_images(folder, searchable.space.resolution, config, settings.seed)
    return GradientRun(folder, settings, kind, config, images, searchable)


def stored_search(
    folder: RunFolder, strategy: type[LearnedStrategy] | None = None
) -> tuple[GradientSettings, type[LearnedStrategy], SearchConfig, Searchable]:
    """All that a run folder says of a search, but for its images. Raises BadInput."""
    settings = folder.read(GradientSettings)
    kind = strategy or strategy_class(settings.strategy)
    file, inherits = folder.path / "run.json", settings.inherits
    config = validated(kind.Config, settings.config, f"{file}: config", "the config")
    if (inherits or kind.must_start_from) and (inherits and inherits.kind) != kind.starts_from:
        raise BadInput(f"{file}: inherits: strategy {settings.strategy} does not start from this")
    space = network_space_from_dict(settings.space)
    costs = stored_costs(folder, space, settings.latency_tables)
    return settings, kind, config, Searchable(costs)


def open_parent(strategy: str, path: Path, data: str | None) -> GradientRun | SupernetRun:
    """The run that a strategy starts from. data: where its images are now, if they moved. Raises
    BadInput where it starts from none, or one of another kind.
    """
    takes = method(strategy).strategy.starts_from
    if takes is None:
        known = " and ".join(name for name, each in METHODS.items() if each.strategy.starts_from)
        raise BadInput(f"--from: strategy {strategy} starts from fresh weights; it is for {known}")
    if takes == "search":
        check_has_name(RunFolder.open(path, "search"))
        return open_search_run(path, data=data)
    run = open_supernet_run(path, data=data)
    if isinstance(run.space, CellSpace):
        raise BadInput(f"{path}: its cells, of space {run.space.name}, are for rank alone")
    return run


def new_supernet_of(
    kind: type[LearnedStrategy],
    settings: GradientSettings,
    config: SearchConfig,
    searchable: Searchable,
    seed: int,
) -> torch.nn.Module:
    """A fresh supernet of a search, or of one of its trainings. Raises BadInput."""
    space = searchable.space
    if isinstance(space, Space):  # gradients and the optimizer's state are as large as the weights
        check_fits(f"the supernet of {space.name}", 3 * 4 * supernet_params(space))
    if settings.inherits is not None:
        return settings.inherits.supernet(searchable, seed)
    start = torch.Generator().manual_seed(seed)
    return kind.supernet(searchable, config, start)
