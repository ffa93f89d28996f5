"""The stages joined through their run folders: what the commands call.

supernet run -> evolve run -> ONNX file. Each stage reads the JSON of the one before.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.titles import latency_cost
from mobilenas.deploy import Target, run_export_trained
from mobilenas.evaluate.evaluator import SupernetEvaluator, check_anchors
from mobilenas.evaluate.truth import read_benchmark, read_truth
from mobilenas.export import Report
from mobilenas.rank.run import Ranking, rank
from mobilenas.retrain import Asked, run_train, training_settings
from mobilenas.search import Progress, Result, check_feasible, evolve
from mobilenas.search.evolve import SETTINGS
from mobilenas.search.problem import SCORE, default_objectives, parse_objectives
from mobilenas.space import AnySpace, any_space_from_dict, load_space, space_from_dict
from mobilenas.train.alone_run import create_train_run, open_train_run
from mobilenas.train.config import SupernetConfig, load_supernet_config
from mobilenas.train.loop import train_supernet
from mobilenas.train.run import SupernetRun, check_trained, create_run, open_run, read_settings

log = logging.getLogger(__name__)


def run_supernet(run: SupernetRun) -> list[dict[str, Any]]:
    """Train a run to its end; returns and stores the accuracy of three archs."""
    train_supernet(run)
    return score_supernet(run)


def score_supernet(run: SupernetRun) -> list[dict[str, Any]]:
    """Measure and store the accuracy of three archs of a trained run."""
    rows = check_anchors(run)
    write_json(run.folder / "result.json", {"validation": rows})
    return rows


def open_or_create(
    folder: Path, space: AnySpace, data: str, seed: int, config: SupernetConfig
) -> SupernetRun:
    """The run in a folder, which has to be of these settings, or a new one."""
    if not (folder / "run.json").exists():
        return create_run(folder, space, data, seed, config)
    run = open_run(folder)
    run.check_unchanged(space=space, data=data, seed=seed, config=config)
    return run


@dataclass(frozen=True)
class Search:
    """What a search is asked for.

    supernet: run folder. objectives: as `search.problem.parse_objectives` reads them, None for
    those of `default_objectives`. resolution: height and width of a detector's images; costs are
    then those of backbones on these.
    """

    supernet: Path
    budget: Budget
    objectives: str | None = None
    population: int = 20
    generations: int = 20
    seed: int = 0
    resolution: tuple[int, int] | None = None


def resumed(out: Path, search: Search, given: Collection[str]) -> Search:
    """`search` with every field that is not `given` taken from the search in `out`, if one is.

    Raises BadInput for a search.json that is damaged.
    """
    path = out / SETTINGS
    if not path.exists():
        return search
    kept = ("objectives", "population", "generations", "seed")
    stored = read_json(path, *kept, "limits", "places")
    try:
        limits = dict(stored["limits"])
        latencies = tuple(
            LatencyLimit(place, limits.pop(latency_cost(name), None))
            for name, place in stored["places"]["latency_tables"].items()
        )
        fields = {name: stored[name] for name in kept} | {
            "objectives": ",".join(stored["objectives"]),
            "supernet": Path(stored["places"]["supernet"]),
            "resolution": stored.get("resolution") and tuple(stored["resolution"]),
            "budget": Budget(limits, latencies),
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInput(f"{path} does not hold the settings of a search") from None
    return replace(search, **{name: x for name, x in fields.items() if name not in given})


def run_evolve(search: Search, out: Path, *, resume: bool) -> Result:
    """Search with the supernet of a run folder; an infeasible budget stops before any work."""
    supernet, latencies = search.supernet, search.budget.latencies
    space = space_from_dict(read_settings(supernet).space)
    costed = space if search.resolution is None else space.backbone(*search.resolution)
    cost_model, limits = search.budget.look_up(costed)
    if search.objectives is None:
        objectives = default_objectives(cost_model)
    else:
        objectives = parse_objectives(search.objectives, cost_model, latencies)
    if not resume:  # else first of all the search has to be the one that was started
        check_feasible(cost_model, limits)
    check_trained(supernet)
    evaluator = SupernetEvaluator(open_run(supernet))
    tables = zip(latencies, cost_model.tables, strict=True)
    places = {
        "supernet": str(supernet.resolve()),
        "latency_tables": {table.name: latency.place(table) for latency, table in tables},
    }
    counted, by_accuracy = 0, SCORE not in objectives

    with ProgressBar("evolve", search.population * search.generations) as bar:

        def on_generation(progress: Progress) -> None:
            nonlocal counted
            best = f"{100 * progress.best:.2f} %" if by_accuracy else f"score {progress.best:.2f}"
            note = f"generation {progress.generation}, {progress.evaluations} archs, best {best}"
            bar.advance(progress.evaluations - counted, note)
            counted = progress.evaluations

        return evolve(
            cost_model.space,
            evaluator,
            cost_model,
            run=out,
            naswot=None if by_accuracy else partial(evaluator.naswot, seed=search.seed),
            objectives=objectives,
            limits=limits,
            population=search.population,
            generations=search.generations,
            seed=search.seed,
            evaluator=evaluator.describe(),
            places=places,
            resume=resume,
            on_generation=on_generation,
        )


def run_rank(
    supernet: Path,
    truth: Path | None,
    benchmark: str | None,
    data_root: Path | None,
    asked: Ranking,
    out: Path,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Rank a trained supernet against a file of accuracies, or else against a benchmark."""
    space = any_space_from_dict(read_settings(supernet).space)
    if truth is not None:
        known = read_truth(truth, space)
    else:
        known = read_benchmark(benchmark or "", data_root, space)
    check_trained(supernet)
    return rank(SupernetEvaluator(open_run(supernet)), known, asked, out, resume=resume)


def newest_run(*folders: Path) -> Path:
    """The one of these run folders whose result is the newest. Raises BadInput if none has one."""
    results = [folder / name for folder in folders for name in ("result.json", "front.json")]
    there = [path for path in results if path.exists()]
    if not there:
        raise BadInput(
            f"no finished run in {' or '.join(map(str, folders))}: `mobilenas train` and "
            "`mobilenas evolve` make one; --run names another folder"
        )
    return max(there, key=lambda path: path.stat().st_mtime).parent


def run_quickstart(out: Path, seed: int) -> tuple[Result, dict[str, Any], Report]:
    """The main job on the built-in digits; what is already in `out` is continued.

    Returns the search's result, that of the winner's training, and the report of its export.
    """
    folder = out / "supernet"
    digits = load_space("digits")
    run = open_or_create(folder, digits, "digits", seed, load_supernet_config("quick", []))
    run_supernet(run)
    budget = Budget({"flops": CostModel(digits).range("flops").median})
    search = Search(folder, budget, generations=8, seed=seed)
    resume = (out / "evolve" / SETTINGS).exists()
    found = run_evolve(search, out / "evolve", resume=resume)
    if (out / "train" / "run.json").exists():
        training = open_train_run(out / "train")
    else:
        asked = Asked(search=out / "evolve", inherit=folder, seed=seed)
        training = create_train_run(out / "train", training_settings(asked))
    trained = run_train(training)
    return found, trained, run_export_trained(out / "train", Target())
