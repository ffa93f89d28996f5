"""The stages joined through their run folders: what the commands call.

supernet run -> evolve run -> ONNX file. Each stage reads the JSON of the one before.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.config import SupernetConfig, load_supernet_config
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.names import latency_cost
from mobilenas.errors import BadInput
from mobilenas.export import Accuracy, Report, export_onnx
from mobilenas.files import read_json, write_json
from mobilenas.progress import ProgressBar
from mobilenas.rank.run import Ranking, rank
from mobilenas.rank.truth import read_benchmark, read_truth
from mobilenas.search import Progress, Result, check_feasible, evolve
from mobilenas.search.evaluate import SupernetEvaluator, check_anchors
from mobilenas.search.evolve import SETTINGS
from mobilenas.search.problem import ACCURACY, default_objectives, parse_objectives
from mobilenas.space import AnySpace, any_space_from_dict, load_space, space_from_dict
from mobilenas.train.loop import train_supernet
from mobilenas.train.run import SupernetRun, create_run, open_run, read_settings

log = logging.getLogger(__name__)

PICKS = ("best", "knee", "cheapest")
_VERIFY_IMAGES = 64


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
    those of `default_objectives`.
    """

    supernet: Path
    budget: Budget
    objectives: str | None = None
    population: int = 20
    generations: int = 20
    seed: int = 0


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
            "budget": Budget(limits, latencies),
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInput(f"{path} does not hold the settings of a search") from None
    return replace(search, **{name: x for name, x in fields.items() if name not in given})


def run_evolve(search: Search, out: Path, *, resume: bool) -> Result:
    """Search with the supernet of a run folder; an infeasible budget stops before any work."""
    supernet, latencies = search.supernet, search.budget.latencies
    cost_model, limits = search.budget.look_up(space_from_dict(read_settings(supernet).space))
    if search.objectives is None:
        objectives = default_objectives(cost_model)
    else:
        objectives = parse_objectives(search.objectives, cost_model, latencies)
    if not resume:  # else first of all the search has to be the one that was started
        check_feasible(cost_model, limits)
    _check_trained(supernet)
    evaluator = SupernetEvaluator(open_run(supernet))
    tables = zip(latencies, cost_model.tables, strict=True)
    places = {
        "supernet": str(supernet.resolve()),
        "latency_tables": {table.name: latency.place(table) for latency, table in tables},
    }
    counted = 0

    with ProgressBar("evolve", search.population * search.generations) as bar:

        def on_generation(progress: Progress) -> None:
            nonlocal counted
            best = f"best {100 * progress.best_accuracy:.2f} %"
            note = f"generation {progress.generation}, {progress.evaluations} archs, {best}"
            bar.advance(progress.evaluations - counted, note)
            counted = progress.evaluations

        return evolve(
            cost_model.space,
            evaluator,
            cost_model,
            run=out,
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
    _check_trained(supernet)
    return rank(SupernetEvaluator(open_run(supernet)), known, asked, out, resume=resume)


def run_export(run: Path, *, arch: str | None, pick: str, out: Path | None) -> Report:
    """Export an arch of a finished search with the weights of its supernet, recalibrated.

    The accuracy in the file is that on the test images, which no stage before has seen; without
    test images it is that on the validation images.
    """
    if not (run / "front.json").exists():
        raise BadInput(f"{run} holds no finished search; `mobilenas evolve` makes one")
    found = read_json(run / "front.json")
    try:
        settings, front = found["settings"], found["front"]
        folder, weights = Path(settings["places"]["supernet"]), settings["evaluator"]["weights"]
        cost = next(name for name in settings["objectives"] if name != ACCURACY)
    except (KeyError, TypeError):
        raise BadInput(f"{run / 'front.json'} is not the result of a search") from None
    name = arch or pick_arch(front, pick, cost)
    supernet = open_run(folder)
    space = space_from_dict(supernet.settings.space)
    chosen = space.parse(name)
    evaluator = SupernetEvaluator(supernet)
    if evaluator.describe()["weights"] != weights:
        raise BadInput(f"{folder} has other weights than those that {run} was searched with")
    data = supernet.data
    shuffled = np.random.default_rng(0).permutation(supernet.splits.validate)
    rows = shuffled[:_VERIFY_IMAGES]  # of all classes, also where the images came sorted
    if data.test is not None:
        accuracy = Accuracy(evaluator.test_accuracy(chosen), f"{len(data.test.labels)} test images")
    else:
        count = len(supernet.splits.validate)
        (share,) = evaluator([chosen])
        accuracy = Accuracy(share, f"{count} validation images, used in the search")
    return export_onnx(
        evaluator.network(chosen),
        out or run / f"{chosen}.onnx",
        data.train.pixels[rows],
        labels=data.train.labels[rows],
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        accuracy=accuracy,
        flops=CostModel(space).flops(chosen),
    )


@dataclass(frozen=True)
class Training:
    """What a stand-alone training is asked for; None where the user left it to the rest.

    search: run folder of a finished search, whose `pick` is trained on its data. inherit: supernet
    run. weights: saved network. resolution: side of the images.
    """

    space: str | None = None
    arch: str | None = None
    search: Path | None = None
    pick: str = "best"
    data: str | None = None
    inherit: Path | None = None
    weights: Path | None = None
    resolution: int | None = None
    seed: int = 0


def training_settings(asked: Training, config: TrainConfig) -> TrainSettings:
    """Which network is trained, on what and from which weights. Raises BadInput.

    Space and data are those of the search, the supernet or the saved network where they are not
    given; without any of these the data are the built-in digits.
    """
    if asked.inherit and asked.weights:
        raise BadInput("--inherit and --weights: a network starts from one of them")
    space, arch, data = asked.space, asked.arch, asked.data
    known: dict[str, Any] | None = None  # the space that comes with what training starts from
    supernet = asked.inherit
    if asked.search is not None:
        found = read_search(asked.search)
        arch, supernet = arch or found.pick(asked.pick), supernet or found.supernet
    if supernet is not None:
        settings = read_settings(supernet)
        known, data = settings.space, data or settings.data
    if asked.weights is not None:
        saved, _ = load_network(asked.weights)
        known, arch = saved.space.to_dict(), arch or str(saved.arch)
    if arch is None:
        raise BadInput("which network? give --arch (of --space), --search or --weights")
    if space is not None:
        known = load_space(space).to_dict()
    elif known is None:
        raise BadInput(f"arch {arch}: of which --space?")
    if asked.resolution is not None:
        known = known | {"resolution": asked.resolution}
    return TrainSettings(
        space=space_from_dict(known).to_dict(),
        arch=arch,
        data=data or "digits",
        seed=asked.seed,
        config=config,
        inherit=str(asked.inherit.resolve()) if asked.inherit else None,
        weights=str(asked.weights.resolve()) if asked.weights else None,
    )


def run_train(run: TrainRun) -> dict[str, Any]:
    """Train a network to its end in this process; returns what `finish_train` does."""
    train_network(run)
    return finish_train(run)


def finish_train(run: TrainRun) -> dict[str, Any]:
    """Measure the best network of a finished training on the test images; stores the result."""
    network, info = load_network(run.network)
    costs = CostModel(run.space, known_tables(run.space)).of(run.arch)
    latency = {
        table.name: costs.pop(latency_cost(table.name)) for table in known_tables(run.space)
    }
    result = {
        "space": run.space.name,
        "arch": str(run.arch),
        "accuracy": info.accuracy,
        "validation_images": len(run.splits.validate),
        "test_accuracy": test_accuracy(run, network),
        "test_images": 0 if run.data.test is None else len(run.data.test.labels),
        **training_facts(run),
        **costs,
        "latency_ms": latency,
        "network": str(run.network),
    }
    write_json(run.folder / "result.json", result)
    return result


def _check_trained(supernet: Path) -> None:
    if not (supernet / "result.json").exists():
        raise BadInput(
            f"{supernet} is not trained to its end: `mobilenas supernet-train --resume --out "
            f"{supernet}` does it"
        )


def pick_arch(front: list[dict[str, Any]], pick: str, cost: str = "flops") -> str:
    """The text form of an arch of a front: best accuracy, cheapest, or the knee.

    The knee is farthest above the straight line between the other two, both axes scaled to 0..1.
    """
    if pick not in PICKS:
        raise BadInput(f"--pick {pick}: choose one of {', '.join(PICKS)}")
    cheapest = min(front, key=lambda row: (row[cost], -row["accuracy"]))
    best = max(front, key=lambda row: (row["accuracy"], -row[cost]))
    width = best[cost] - cheapest[cost] or 1
    height = best["accuracy"] - cheapest["accuracy"] or 1

    def above_line(row: dict[str, Any]) -> float:
        gain = (row["accuracy"] - cheapest["accuracy"]) / height
        return float(gain - (row[cost] - cheapest[cost]) / width)

    rows = dict(zip(PICKS, (best, max(front, key=above_line), cheapest), strict=True))
    return str(rows[pick]["arch"])


def run_quickstart(out: Path, seed: int) -> tuple[Result, Report]:
    """The main job on the built-in digits; what is already in `out` is continued."""
    folder = out / "supernet"
    digits = load_space("digits")
    run = open_or_create(folder, digits, "digits", seed, load_supernet_config("quick", []))
    run_supernet(run)
    budget = Budget({"flops": CostModel(digits).range("flops").median})
    search = Search(folder, budget, generations=8, seed=seed)
    resume = (out / "evolve" / SETTINGS).exists()
    result = run_evolve(search, out / "evolve", resume=resume)
    return result, run_export(out / "evolve", arch=None, pick="best", out=None)
