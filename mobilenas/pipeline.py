"""The stages joined through their run folders: what the commands call.

supernet run -> evolve run -> ONNX file. Each stage reads the JSON of the one before.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.config import load_supernet_config
from mobilenas.cost import CostModel
from mobilenas.errors import BadInput
from mobilenas.export import Accuracy, Report, export_onnx
from mobilenas.files import read_json, write_json
from mobilenas.progress import ProgressBar
from mobilenas.search import Progress, Result, check_feasible, evolve
from mobilenas.search.evaluate import SupernetEvaluator, check_anchors
from mobilenas.space import load_space, space_from_dict
from mobilenas.train.loop import train_supernet
from mobilenas.train.run import SupernetRun, create_run, open_run, read_settings

log = logging.getLogger(__name__)

PICKS = ("best", "knee", "cheapest")
_VERIFY_IMAGES = 64


def run_supernet(run: SupernetRun) -> list[dict[str, Any]]:
    """Train a run to its end; returns and stores the accuracy of three archs."""
    train_supernet(run)
    rows = check_anchors(run)
    write_json(run.folder / "result.json", {"validation": rows})
    return rows


def run_evolve(
    supernet: Path,
    out: Path,
    *,
    limits: dict[str, int],
    objectives: tuple[str, ...],
    population: int,
    generations: int,
    seed: int,
    resume: bool,
) -> Result:
    """Search with the supernet of a run folder; an infeasible budget stops before any work."""
    cost_model = CostModel(space_from_dict(read_settings(supernet).space))
    check_feasible(cost_model, limits)
    if not (supernet / "result.json").exists():
        raise BadInput(
            f"{supernet} is not trained to its end: `mobilenas supernet-train --resume --out "
            f"{supernet}` does it"
        )
    evaluator = SupernetEvaluator(open_run(supernet))
    counted = 0

    with ProgressBar("evolve", population * generations) as bar:

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
            population=population,
            generations=generations,
            seed=seed,
            evaluator=evaluator.describe(),
            resume=resume,
            on_generation=on_generation,
        )


def run_export(run: Path, *, arch: str | None, pick: str, out: Path | None) -> Report:
    """Export an arch of a finished search with the weights of its supernet, recalibrated.

    The accuracy in the file is that on the test images, which no stage before has seen; without
    test images it is that on the validation images.
    """
    if not (run / "front.json").exists():
        raise BadInput(f"{run} holds no finished search; `mobilenas evolve` makes one")
    found = read_json(run / "front.json")
    try:
        searched, front = found["settings"]["evaluator"], found["front"]
        folder, weights = Path(searched["supernet"]), searched["weights"]
    except (KeyError, TypeError):
        raise BadInput(f"{run / 'front.json'} is not the result of a search") from None
    name = arch or pick_arch(front, pick)
    supernet = open_run(folder)
    chosen = supernet.space.parse(name)
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
        accuracy = Accuracy(evaluator(chosen), f"{count} validation images, used in the search")
    return export_onnx(
        evaluator.network(chosen),
        out or run / f"{chosen}.onnx",
        data.train.pixels[rows],
        labels=data.train.labels[rows],
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        accuracy=accuracy,
        flops=CostModel(supernet.space).flops(chosen),
    )


def pick_arch(front: list[dict[str, Any]], pick: str) -> str:
    """The text form of an arch of a front: best accuracy, cheapest in FLOPs, or the knee.

    The knee is farthest above the straight line between the other two, both axes scaled to 0..1.
    """
    if pick not in PICKS:
        raise BadInput(f"--pick {pick}: choose one of {', '.join(PICKS)}")
    cheapest = min(front, key=lambda row: (row["flops"], -row["accuracy"]))
    best = max(front, key=lambda row: (row["accuracy"], -row["flops"]))
    width = best["flops"] - cheapest["flops"] or 1
    height = best["accuracy"] - cheapest["accuracy"] or 1

    def above_line(row: dict[str, Any]) -> float:
        gain = (row["accuracy"] - cheapest["accuracy"]) / height
        return float(gain - (row["flops"] - cheapest["flops"]) / width)

    rows = dict(zip(PICKS, (best, max(front, key=above_line), cheapest), strict=True))
    return str(rows[pick]["arch"])


def run_quickstart(out: Path, seed: int) -> tuple[Result, Report]:
    """The main job on the built-in digits; what is already in `out` is continued."""
    folder = out / "supernet"
    if (folder / "run.json").exists():
        run = open_run(folder)
        run.check_unchanged(space=None, data=None, seed=seed, config=None)
    else:
        config = load_supernet_config("quick", [])
        run = create_run(folder, load_space("digits"), "digits", seed, config)
    run_supernet(run)
    result = run_evolve(
        folder,
        out / "evolve",
        limits={"flops": CostModel(run.space).range("flops").median},
        objectives=("accuracy", "flops"),
        population=20,
        generations=8,
        seed=seed,
        resume=(out / "evolve" / "search.json").exists(),
    )
    return result, run_export(out / "evolve", arch=None, pick="best", out=None)
