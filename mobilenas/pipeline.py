"""The stages joined through their run folders: what the commands call.

supernet run -> evolve run -> ONNX file. Each stage reads the JSON of the one before.
"""

import logging
from pathlib import Path
from typing import Any

from mobilenas.cost import COSTS, CostModel
from mobilenas.errors import BadInput
from mobilenas.export import Report, export_onnx
from mobilenas.files import read_json, write_json
from mobilenas.progress import ProgressBar
from mobilenas.report.text import cost_lines
from mobilenas.search import Progress, Result, check_feasible, evolve
from mobilenas.search.evaluate import SupernetEvaluator, check_anchors
from mobilenas.space import Space
from mobilenas.train.loop import train_supernet
from mobilenas.train.run import SupernetRun, open_run

log = logging.getLogger(__name__)

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
    run = open_run(supernet)
    cost_model = CostModel(run.space)
    log.info(describe_costs(run.space, cost_model, limits))
    check_feasible(cost_model, limits)
    evaluator = SupernetEvaluator(run)
    counted = 0

    with ProgressBar("evolve", population * generations) as bar:

        def on_generation(progress: Progress) -> None:
            nonlocal counted
            best = f"best {100 * progress.best_accuracy:.2f} %"
            note = f"generation {progress.generation}, {progress.evaluations} archs, {best}"
            bar.advance(progress.evaluations - counted, note)
            counted = progress.evaluations

        return evolve(
            run.space,
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


def describe_costs(space: Space, cost_model: CostModel, limits: dict[str, int]) -> str:
    """Range of each cost over the space, and the share that meets the limits."""
    facts = {}
    for name in COSTS:
        extent = cost_model.range(name)
        facts[name] = {"min": extent.minimum, "median": extent.median, "max": extent.maximum}
    share = cost_model.feasible_share(dict(limits)) if limits else 1.0
    return f"{space.name}\n{cost_lines(facts)}\nfeasible {100 * share:.1f} % of the space"


def run_export(run: Path, *, arch: str | None, pick: str, out: Path | None) -> Report:
    """Export an arch of a finished search with the weights of its supernet, recalibrated."""
    found = read_json(run / "front.json")
    source = Path(found["settings"]["evaluator"]["supernet"])
    supernet = open_run(source)
    row = _pick(found["front"], pick) if arch is None else None
    chosen = supernet.space.parse(arch or row["arch"])  # type: ignore[index]
    evaluator = SupernetEvaluator(supernet)
    network = evaluator.network(chosen)
    images = supernet.data.train
    rows = supernet.splits.validate[:_VERIFY_IMAGES]
    return export_onnx(
        network,
        out or run / f"{chosen}.onnx",
        images.pixels[rows],
        labels=images.labels[rows],
        mean=supernet.data.mean,
        std=supernet.data.std,
        classes=supernet.data.classes,
        accuracy=row["accuracy"] if row else evaluator(chosen),
        flops=CostModel(supernet.space).flops(chosen),
    )


def _pick(front: list[dict[str, Any]], pick: str) -> dict[str, Any]:
    """A row of the front: best accuracy, cheapest, or the knee.

    The knee is farthest above the straight line between the two ends, both axes scaled to 0..1.
    """
    by_cost = sorted(front, key=lambda row: (row["flops"], row["accuracy"]))
    best = max(by_cost, key=lambda row: row["accuracy"])
    if pick not in ("best", "knee", "cheapest"):
        raise BadInput(f"--pick {pick}: choose best, knee or cheapest")
    if pick == "best":
        return best
    if pick == "cheapest":
        return by_cost[0]
    cheap = by_cost[0]
    width = best["flops"] - cheap["flops"] or 1
    height = best["accuracy"] - cheap["accuracy"] or 1

    def above(row: dict[str, Any]) -> float:
        gain = (row["accuracy"] - cheap["accuracy"]) / height
        return float(gain - (row["flops"] - cheap["flops"]) / width)

    return max(by_cost, key=above)
