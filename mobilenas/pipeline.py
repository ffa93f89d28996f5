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
from mobilenas.base.files import read_json
from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.titles import latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.truth import read_benchmark, read_truth
from mobilenas.export import Report
from mobilenas.rank.run import Ranking, rank
from mobilenas.runs import RunFolder
from mobilenas.search import Progress, Result, check_feasible, evolve
from mobilenas.search.evolve import SETTINGS
from mobilenas.search.problem import SCORE, default_objectives, parse_objectives
from mobilenas.space import any_space_from_dict, load_space, space_from_dict
from mobilenas.stages.export import Target, run_export_trained
from mobilenas.stages.supernet_train import (
    create_supernet_run,
    resume_supernet_run,
    score_supernet,
    train_supernet,
)
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.train.config import load_supernet_config
from mobilenas.train.networks import open_network_run
from mobilenas.train.supernets import SupernetSettings, open_supernet_run

log = logging.getLogger(__name__)


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
    trained = RunFolder.open(supernet, "supernet")
    space = space_from_dict(trained.read(SupernetSettings).space)
    costed = space if search.resolution is None else space.backbone(*search.resolution)
    cost_model, limits = search.budget.look_up(costed)
    if search.objectives is None:
        objectives = default_objectives(cost_model)
    else:
        objectives = parse_objectives(search.objectives, cost_model, latencies)
    if not resume:  # else first of all the search has to be the one that was started
        check_feasible(cost_model, limits)
    trained.check_finished()
    evaluator = SupernetEvaluator(open_supernet_run(supernet))
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
    trained = RunFolder.open(supernet, "supernet")
    space = any_space_from_dict(trained.read(SupernetSettings).space)
    if truth is not None:
        known = read_truth(truth, space)
    else:
        known = read_benchmark(benchmark or "", data_root, space)
    trained.check_finished()
    return rank(SupernetEvaluator(open_supernet_run(supernet)), known, asked, out, resume=resume)


def run_quickstart(out: Path, seed: int) -> tuple[Result, dict[str, Any], Report]:
    """The main job on the built-in digits; what is already in `out` is continued.

    Returns the search's result, that of the winner's training, and the report of its export.
    """
    folder = out / "supernet"
    digits, config = load_space("digits"), load_supernet_config("quick", [])
    if (folder / "run.json").exists():
        given = {"space": digits, "data": "digits", "seed": seed, "config": config}
        run = resume_supernet_run(folder, given)
    else:
        run = create_supernet_run(folder, digits, "digits", seed, config)
    train_supernet(run)
    score_supernet(run)
    budget = Budget({"flops": CostModel(digits).range("flops").median})
    search = Search(folder, budget, generations=8, seed=seed)
    resume = (out / "evolve" / SETTINGS).exists()
    found = run_evolve(search, out / "evolve", resume=resume)
    if (out / "train" / "run.json").exists():
        training = open_network_run(out / "train")
    else:
        asked = Asked(search=out / "evolve", inherit=folder, seed=seed)
        training = create_network_run(out / "train", training_settings(asked))
    train_network(training)
    trained = finish_train(training)
    return found, trained, run_export_trained(out / "train", Target())
