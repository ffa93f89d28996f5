"""A search by gradient: `mobilenas search`. Weights and architecture are learnt together.

stages/gradient_run.py says what is in its run folder.
"""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.base.randomness import Stream, generator
from mobilenas.base.settings import Record, validated
from mobilenas.evaluate.truth import Truth
from mobilenas.runs import RunFolder
from mobilenas.search.front import Learnt
from mobilenas.space import Arch, Genotype
from mobilenas.stages.benchmark import standing_of
from mobilenas.stages.derived import NETWORK, NO_NETWORK, store_network
from mobilenas.stages.gradient_run import GradientRun, new_supernet_of, stored_search
from mobilenas.stages.search_costs import check_limits
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.strategies.search_task import SearchTask
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.device import pick_device, without_tf32
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import CHECKPOINT, Trainer, fit

KEPT = "kept.json"

log = logging.getLogger(__name__)


class StageResult(Record):
    """What goes on to the next training of a search: the candidates of each choice that are left,
    images times candidates, and seconds so far.
    """

    kept: dict[str, list[str]]
    spent: float
    seconds: float


def run_search(
    run: GradientRun, truths: Mapping[str, Truth] | None = None, processes: Processes = SINGLE
) -> dict[str, Any]:
    """Search from the last checkpoint, or from the start, to the end. Stores and returns what is
    in front.json. truths: of the space's archs, by data set, which the derived one is
    compared by; a search that was finished keeps what it was compared by before.

    Raises Diverged, which leaves the last good checkpoint.
    """
    task, searchable = _trained(run, processes), run.searchable
    arch = task.derive()
    assert arch is not None, "the budget was checked before the search"
    if dropped := task.dropped(arch):
        log.warning(
            "within the budget only candidates are left that the search had dropped, whose weights "
            "it did not train to the end: %s",
            ", ".join(dropped),
        )
    known = run.folder.result(Learnt).standing if run.folder.is_finished else {}
    result = {
        "front": [{"arch": str(arch), **searchable.costs.of(arch)}],  # type: ignore[arg-type]
        "settings": run.folder.settings,
        "probabilities": [p.tolist() for p in task.arrays()],
        "most_probable": str(task.strategy.derive(task.searchable, {})),
        "passes": task.spent / task.num_images,
        "standing": known
        | {
            name: asdict(standing_of(arch, truth, searchable))
            for name, truth in (truths or {}).items()
        },
    }
    if processes.is_main:
        if run.kind.no_network is None:
            store_network(run.folder.path / NETWORK, _searched(run, task), arch, run.images)
        else:
            log.info(NO_NETWORK, run.kind.no_network)
        run.folder.store_result(result)
    return result


def derive_again(
    path: Path, limits: Mapping[str, float], strategy: type[LearnedStrategy] | None = None
) -> Arch | Genotype:
    """The arch that a finished search ends in within limits {cost: largest value}, whatever its own
    are. Its images are not needed. strategy: as of `open_search_run`.

    Raises BadInput for costs that the search does not know, and InfeasibleBudget as a new search
    would.
    """
    folder = RunFolder.open(path, "search")
    folder.check_finished()
    settings, kind, config, searchable = stored_search(folder, strategy)
    for cost in limits:
        searchable.costs.check(cost)
    check_limits(searchable, limits)
    if last := kind.stages(config) - 1:
        file = path / f"stage-{last}" / KEPT
        searchable = kind.stage(searchable, config, last, _stage_result(file, searchable).kept)
    found = kind(searchable.choices, config, settings.seed)
    if settings.inherits is not None:
        module = settings.inherits.supernet(searchable, settings.seed)
        settings.inherits.give(path, module, found, settings.seed)
    state = load_checkpoint(path / CHECKPOINT, "task")["task"]
    try:
        found.load_state(state["strategy"])
    except Exception:  # it checks little of what it is given
        raise BadInput(f"{path / CHECKPOINT} does not fit what {path / 'run.json'} says") from None
    arch = found.derive(searchable, limits)
    assert arch is not None, "the limits were checked"
    return arch


def _stage_result(file: Path, whole: Searchable) -> StageResult:
    """What a training of a search has stored. whole: all choices. Raises BadInput."""
    found = validated(StageResult, read_json(file), file)
    for choice in whole.choices.ops:
        names = found.kept.get(choice.name, choice.candidates)
        if not names or not {*names} <= {*choice.candidates}:
            some = ", ".join(choice.candidates)
            raise BadInput(f"{file}: kept.{choice.name}: must be some of {some}")
    return found


def _searched(run: GradientRun, task: SearchTask) -> torch.nn.Module:
    """The supernet as it is at the end of a search."""
    module = new_supernet_of(run.kind, run.settings, run.config, task.searchable, run.settings.seed)
    state = load_checkpoint(run.folder.path / CHECKPOINT, "module")
    module.load_state_dict(state["module"])
    return module


def _trained(run: GradientRun, processes: Processes) -> SearchTask:
    """All trainings that a search is made of, up to their ends; the last one, in the run folder.
    Those before have folders within it, and are over once they have said what they kept.
    """
    kind, config = run.kind, run.config
    before, last = StageResult(kept={}, spent=0, seconds=0), kind.stages(config) - 1
    for number in range(last):
        folder = replace(run.folder, path=run.folder.path / f"stage-{number + 1}")
        file = folder.path / KEPT
        if file.exists():
            before = _stage_result(file, run.searchable)
            continue
        folder.path.mkdir(exist_ok=True)
        task = _stage(run, number, before, folder, processes)
        before = StageResult(
            kept=task.strategy.survivors(task.searchable),
            spent=task.spent,
            seconds=folder.seconds,
        )
        if processes.is_main:
            write_json(file, before.model_dump())
    return _stage(run, last, before, run.folder, processes)


def _stage(
    run: GradientRun, number: int, before: StageResult, folder: RunFolder, processes: Processes
) -> SearchTask:
    """One of them, with weights, parameters and an order of the images of its own."""
    settings, config, seed = run.settings, run.config, run.settings.seed
    if number:
        seed = int(generator(seed, Stream.STAGE, number).integers(1 << 32))
    images = replace(run.images, seed=seed)
    kind = run.kind
    differs = kind.takes_differences(config)
    if differs:
        config = config.model_copy(update={"precision": "fp32"})
    searchable = kind.stage(run.searchable, config, number, before.kept)
    with processes.together():
        device = pick_device(config.device)
        module = new_supernet_of(kind, settings, config, searchable, seed)
        strategy = kind(searchable.choices, config, seed)
        if settings.inherits is not None:
            settings.inherits.give(folder.path, module, strategy, seed)
        if kind.score_file is not None:
            strategy.scores = ScoreLog(folder.path / kind.score_file, processes.is_main)
        trainer = Trainer(
            module,
            config,
            images.training(device, processes),
            seed=seed,
            device=device,
            processes=processes,
        )
        held = images.held(device, processes)
    task = SearchTask(
        strategy,
        Objective(config, searchable.space.num_classes, seed, None),
        held,
        searchable,
        settings.limits,
        len(images.splits.train),
    )
    task.spent = before.spent
    with without_tf32() if differs else nullcontext():
        fit(folder, task, trainer, before.seconds)
    return task
