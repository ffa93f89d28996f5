"""NSGA-II (Deb et al. 2002) over the archs of a space: resumable, every evaluation on disk.

A run folder holds search.json (the settings), evaluations.jsonl (one line an evaluated arch, synced
after each generation) and, at the end, front.json, history.csv and front.png.

Resume is replay. The search is a deterministic function of its settings, its seed and what was
measured, so a resumed search starts at the beginning and reads what it knows from
evaluations.jsonl. There is no other state, hence none that a kill could tear.
"""

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.base.files import append_jsonl, read_json, read_jsonl, write_json, write_text
from mobilenas.cost import CostModel
from mobilenas.cost.latency import LatencyTable
from mobilenas.cost.titles import format_limits
from mobilenas.report.plots import plot_front
from mobilenas.report.text import cost_lines
from mobilenas.search.operators import BlockCrossover, BlockMutation, FeasibleSampling, Unseen
from mobilenas.search.pareto import non_dominated
from mobilenas.search.problem import ACCURACY, SCORE, Problem, check_feasible, score
from mobilenas.space import Arch, Genes, Space, with_defaults

SETTINGS, EVALUATIONS, FRONT = "search.json", "evaluations.jsonl", "front.json"

log = logging.getLogger(__name__)

Measure = Callable[[list[Arch]], Sequence[float]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluated arch: accuracy in 0..1, costs by name, and the generation (from 1) it is of.

    naswot and score: of a search by score; the score is known when the search has ended.
    """

    generation: int
    arch: Arch
    accuracy: float
    costs: dict[str, float]
    naswot: float | None = None
    score: float | None = None

    def row(self) -> dict[str, Any]:
        """Plain data, as in evaluations.jsonl; only archs within the limits are evaluated."""
        head = {"generation": self.generation, "arch": str(self.arch), "accuracy": self.accuracy}
        more = {"naswot": self.naswot, "score": self.score}
        known = {name: value for name, value in more.items() if value is not None}
        return {**head, **known, **self.costs, "feasible": True}


@dataclass(frozen=True)
class Progress:
    """What a search has done after a generation; `evaluations` counts replayed ones too.

    best: the best accuracy, or score.
    """

    generation: int
    evaluations: int
    best: float


@dataclass(frozen=True)
class Result:
    """The non-dominated evaluations, cheapest first, and all of them in order."""

    front: list[Evaluation]
    evaluations: list[Evaluation]


def evolve(
    space: Space,
    evaluate: Measure,
    cost_model: CostModel,
    *,
    run: Path,
    naswot: Measure | None = None,
    objectives: tuple[str, ...] = (ACCURACY, "flops"),
    limits: Mapping[str, float] | None = None,
    population: int = 20,
    generations: int = 20,
    max_evaluations: int | None = None,
    seed: int = 0,
    evaluator: Mapping[str, Any] | None = None,
    places: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_generation: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Search for the archs that no other arch beats in every objective, within the limits.

    evaluate: accuracy in 0..1 of each of a list of archs, the only expensive step. Called with the
    archs of a generation that are within the limits, each once in the whole search; the others get
    their violation and a quality of 0.
    naswot: the NASWOT score of each of a list of archs, for the objective "score", which it makes
    together with the accuracy. The reference of `problem.score` are the archs within the limits of
    the first population (of a later one, should that have none).
    generations: counts the initial population; at most population * generations evaluations.
    evaluator: JSON data that says what `evaluate` measures (which weights, which images): kept in
    the run, and a resume with another one is refused. So are the contents of the latency tables.
    places: JSON data that says where supernet and tables lie: kept in the run for those who resume
    or export it, and never compared, as files move.
    Raises InfeasibleBudget where no arch meets the limits; BadInput for settings that make no
    sense, a folder with another search, or evaluations that this search would not have made.
    """
    settings = {
        "space": space.to_dict(),
        "objectives": list(objectives),
        "limits": dict(limits or {}),
        "population": population,
        "generations": generations,
        "max_evaluations": max_evaluations,
        "seed": seed,
        "evaluator": dict(evaluator or {}),
        "resolution": list(space.image_size) if space.is_backbone else None,
        "latency_tables": {table.name: _digest(table) for table in cost_model.tables},
    }
    if population < 2 or generations < 1 or (max_evaluations is not None and max_evaluations < 1):
        raise BadInput("a search needs population >= 2, generations >= 1 and max_evaluations >= 1")
    history = _History(run, settings, resume)
    problem = Problem(cost_model, objectives, dict(limits or {}))
    if (problem.quality == SCORE) != (naswot is not None):
        raise BadInput("a search by score, and no other, needs naswot")
    share = check_feasible(cost_model, problem.limits)
    if share == 0:
        limit = format_limits(problem.limits)
        log.warning("0 %% of the archs drawn from %s meet %s: few do, or none", space.name, limit)
    stored = settings | {"places": dict(places or {})}
    history.open(stored)
    ranges = {name: asdict(cost_model.range(name)) for name in cost_model.costs}
    log.info("%s\n%s", space.name, cost_lines(ranges))
    if problem.limits:
        log.info("within the budget: %.1f %% of the space", 100 * share)

    seen: set[tuple[int, ...]] = set()
    algorithm = NSGA2(
        pop_size=population,
        sampling=FeasibleSampling(problem),
        crossover=BlockCrossover(),
        mutation=BlockMutation(space),
        eliminate_duplicates=Unseen(seen),
        seed=seed,
    )
    shape = PymooProblem(len(space.blocks), len(problem.objectives), len(problem.limits))
    algorithm.setup(shape, termination=NoTermination())
    for generation in range(1, generations + 1):
        asked = algorithm.ask()
        if asked is None:
            log.info("generation %d: no arch is left that was not proposed before", generation)
            break
        genes: Genes = asked.get("X")
        seen.update(map(tuple, genes.tolist()))
        costs = {name: cost_model.batch(name, genes) for name in cost_model.costs}
        violations = problem.violations(genes)
        quality = np.zeros(len(genes))
        feasible = np.flatnonzero((violations <= 0).all(axis=1))
        if max_evaluations is not None:
            feasible = feasible[: max_evaluations - len(history.evaluations)]
        asked_for = {
            space.decode(genes[i]): {name: values[i].item() for name, values in costs.items()}
            for i in feasible
        }
        history.evaluate(generation, asked_for, evaluate, naswot)
        known = _qualities(problem, history.evaluations)
        quality[feasible] = known[len(known) - len(feasible) :]
        on_generation(Progress(generation, len(known), max(known, default=0.0)))
        if len(history.evaluations) == max_evaluations:
            break
        asked.set("F", problem.points({problem.quality: quality, **costs}), "G", violations)
        algorithm.tell(infills=asked)
    history.check_all_replayed()
    if not history.evaluations:
        raise InfeasibleBudget(
            f"none of {len(seen)} archs of {space.name} meets {format_limits(problem.limits)}"
        )
    evaluations = history.evaluations
    qualities = _qualities(problem, evaluations)
    if problem.quality == SCORE:
        scores = qualities.tolist()
        evaluations = [replace(e, score=x) for e, x in zip(evaluations, scores, strict=True)]
    result = Result(_front(problem, evaluations, qualities), evaluations)
    about = {"settings": stored, "feasible_share": share, "ranges": ranges}
    _write_result(run, problem, space.name, about, result)
    return result


class _History:
    """Evaluations in order: replayed from evaluations.jsonl as far as it goes, then appended."""

    def __init__(self, run: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = run / EVALUATIONS
        self.evaluations: list[Evaluation] = []
        self.replay = read_jsonl(self.path, "generation", "arch", ACCURACY)
        if not resume and self.replay:
            raise BadInput(f"{run} already holds a search: continue it with --resume or set --out")
        if resume and (run / SETTINGS).exists():
            _check_settings(run / SETTINGS, settings)
        elif resume:
            log.info("%s holds no search to resume: starting one", run)

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder ready to append to; nothing is written before."""
        write_json(self.path.with_name(SETTINGS), settings)

    def evaluate(
        self,
        generation: int,
        archs: dict[Arch, dict[str, float]],
        measure: Measure,
        naswot: Measure | None,
    ) -> None:
        """Append the evaluations of {arch: costs}; those that are not on disk are measured and
        written.
        """
        number = len(self.evaluations)
        replayed = self.replay[number : number + len(archs)]
        made = [
            Evaluation(
                generation, arch, row[ACCURACY], costs, row.get("naswot") if naswot else None
            )
            for (arch, costs), row in zip(archs.items(), replayed, strict=False)
        ]
        for place, (evaluation, row) in enumerate(zip(made, replayed, strict=True), number + 1):
            if not isinstance(row[ACCURACY], int | float) or not 0 <= row[ACCURACY] <= 1:
                raise BadInput(
                    f"{self.path} line {place}: accuracy {row[ACCURACY]} is no number in 0..1"
                )
            other = row.get("naswot")
            if naswot and not (isinstance(other, float) and math.isfinite(other)):
                raise BadInput(f"{self.path} line {place}: naswot {other} is no number")
            if evaluation.row() != row:
                raise BadInput(
                    f"{self.path} line {place} is {row['arch']}, where this search comes to"
                    f" {evaluation.arch}: the file was edited, or written by other library versions"
                )
        left = list(archs)[len(made) :]
        if left:
            untrained = map(float, naswot(left)) if naswot else [None] * len(left)
            for arch, accuracy, other in zip(left, measure(left), untrained, strict=True):
                if not 0 <= accuracy <= 1:
                    raise ValueError(f"the accuracy of {arch} is {accuracy}, not in 0..1")
                made.append(Evaluation(generation, arch, float(accuracy), archs[arch], other))
            append_jsonl(self.path, (evaluation.row() for evaluation in made[len(replayed) :]))
        self.evaluations += made

    def check_all_replayed(self) -> None:
        if len(self.evaluations) < len(self.replay):
            raise BadInput(f"{self.path} has more lines than this search evaluates archs")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    stored = read_json(path, "space")
    stored["space"] = with_defaults(stored["space"], path)
    for name, value in settings.items():
        if stored.get(name) != value:
            both = f" ({stored.get(name)} there, {value} here)"
            if name == "space":
                both = ""
            elif name == "latency_tables":
                there, here = (", ".join(x or ()) or "none" for x in (stored.get(name), value))
                both = f" ({there} there, {here} here, compared by content)"
            raise BadInput(
                f"{path.parent} was started with another {name}{both}:"
                f" resume it with the same settings or set --out"
            )


def _digest(table: LatencyTable) -> str:
    """SHA-256 of the content of a table, whatever the layout of its file."""
    content = json.dumps(table.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _qualities(problem: Problem, evaluations: list[Evaluation]) -> NDArray[np.float64]:
    """The accuracy of each, or its score, with the first evaluated generation as the reference."""
    if problem.quality == ACCURACY or not evaluations:
        return np.array([e.accuracy for e in evaluations])
    measured = np.array([(e.accuracy, e.naswot) for e in evaluations])
    first = [e.generation == evaluations[0].generation for e in evaluations]
    return score(measured, measured[first])


def _front(
    problem: Problem, evaluations: list[Evaluation], qualities: NDArray[np.float64]
) -> list[Evaluation]:
    values = {
        name: np.array([e.costs[name] for e in evaluations]) for name in problem.cost_objectives
    }
    front = non_dominated(problem.points({problem.quality: qualities, **values}))
    cost = values[problem.cost_objectives[0]]
    order = sorted(front, key=lambda i: (cost[i], -qualities[i], str(evaluations[i].arch)))
    return [evaluations[i] for i in order]


def _write_result(
    run: Path, problem: Problem, space_name: str, about: dict[str, Any], result: Result
) -> None:
    rows = [evaluation.row() for evaluation in result.evaluations]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run / "history.csv", table.getvalue())
    front = [evaluation.row() for evaluation in result.front]
    cost = problem.cost_objectives[0]
    picture = run / "front.png"
    plot_front(picture, rows, front, problem.limits, space_name, cost, problem.quality)
    write_json(run / FRONT, {"front": front, "evaluations": len(rows), **about})
