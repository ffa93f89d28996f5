"""The search for archs under a budget: `mobilenas evolve`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.titles import latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.predictor import check_enough
from mobilenas.evaluate.truth import Truth, read_truth
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import is_run
from mobilenas.search import (
    AgingSearch,
    Measured,
    NSGA2Search,
    Problem,
    Result,
    check_feasible,
)
from mobilenas.search.problem import (
    ACCURACY,
    PREDICTION,
    SCORE,
    default_objectives,
    parse_objectives,
)
from mobilenas.search.replay import Measure
from mobilenas.space import Arch, space_from_dict
from mobilenas.stages.predicted import MEASURED, Measurements, PredictedAccuracy, truth_digest
from mobilenas.stages.search_run import TABLE, SearchRun, SearchSettings
from mobilenas.train.supernets import SupernetSettings, open_supernet_run


@dataclass(frozen=True)
class Search:
    """What a search is asked for.

    supernet: run folder. data: its images, where they have moved. truth: file of stand-alone
    accuracies, from which those of other archs are predicted. objectives: as
    `search.problem.parse_objectives` reads them, None for those of `default_objectives`; without a
    cost among them the best arch is looked for, not a front.
    resolution: height and width of a detector's images; costs are then those of backbones on these.
    """

    supernet: Path
    budget: Budget
    objectives: str | None = None
    population: int = 20
    generations: int = 20
    seed: int = 0
    resolution: tuple[int, int] | None = None
    data: str | None = None
    truth: Path | None = None


def resumed(out: Path, search: Search, given: Collection[str]) -> Search:
    """`search` with every field that is not `given` taken from the search in `out`, if one is.

    Raises BadInput for a run folder that is damaged or of another kind.
    """
    if not is_run(out, "evolve"):
        return search
    run = RunFolder.open(out, "evolve")
    stored = run.read(SearchSettings)
    limits = dict(stored.limits)
    latencies = []
    for role, table in run.parents.items() if "budget" not in given else ():
        if role.startswith(TABLE):
            place = run.find(role, "--latency") if Path(table).is_absolute() else table
            limit = limits.pop(latency_cost(role.removeprefix(TABLE)), None)
            latencies.append(LatencyLimit(place, limit))
    if "supernet" not in given:
        search = replace(search, supernet=run.parent("supernet", "--supernet"))
    if "truth" not in given and "truth" in run.parents:
        search = replace(search, truth=run.parent("truth", "--truth"))
    fields: dict[str, Any] = {
        "budget": Budget(limits, tuple(latencies)),
        "objectives": ",".join(stored.objectives),
        "population": stored.population,
        "generations": stored.generations,
        "seed": stored.seed,
        "resolution": stored.resolution,
    }
    return replace(search, **{name: x for name, x in fields.items() if name not in given})


def run_evolve(search: Search, out: Path, *, resume: bool) -> Result:
    """Search with the supernet of a run folder; an infeasible budget stops before any work."""
    prepared = Prepared.of(search, out, resume=resume)
    truth = prepared.read_truth(search.truth) if search.truth else None
    return prepared.run(out, truth, resume=resume)


@dataclass(frozen=True)
class Prepared:
    """A search that can start: its supernet is open, its budget within the space."""

    asked: Search
    evaluator: SupernetEvaluator
    problem: Problem

    @classmethod
    def of(cls, search: Search, out: Path, *, resume: bool) -> "Prepared":
        """Raises BadInput and InfeasibleBudget, before any work.

        out: where the search is to be; if it is resumed, its objectives and limits must be these.
        """
        trained = RunFolder.open(search.supernet, "supernet")
        space = space_from_dict(trained.read(SupernetSettings).space)
        costed = space if search.resolution is None else space.backbone(*search.resolution)
        cost_model, limits = search.budget.look_up(costed)
        if search.objectives is None:
            quality = ACCURACY if search.truth is None else PREDICTION
            objectives = default_objectives(cost_model, quality)
        else:
            latencies = search.budget.latencies
            objectives = parse_objectives(search.objectives, cost_model, latencies)
        problem = Problem(cost_model, objectives, limits)
        if (problem.quality == PREDICTION) != (search.truth is not None):
            raise BadInput(
                f"objectives {','.join(objectives)}: {PREDICTION} needs --truth FILE, and --truth"
                f" {PREDICTION}"
            )
        if resume and is_run(out, "evolve"):  # first of all it has to be the search of that folder
            goal = {"objectives": objectives, "limits": limits}
            RunFolder.open(out, "evolve").check_same(goal)
        else:
            check_feasible(cost_model, limits)
        trained.check_finished()
        run = open_supernet_run(search.supernet, data=search.data)
        return cls(search, SupernetEvaluator(run), problem)

    def read_truth(self, path: Path) -> Truth:
        """The stand-alone accuracies in a file. Raises BadInput."""
        truth = read_truth(path, self.evaluator.run.space)
        try:
            check_enough(truth.accuracy)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        return truth

    def run(self, out: Path, truth: Truth | None, *, resume: bool) -> Result:
        """The search in its run folder, by what `truth` predicts if it is given."""
        asked, about, parents = self.asked, self.evaluator.describe(), self._parents()
        measure: Measure = self._measure
        more: Callable[[], dict[str, Any]] = dict
        if truth is not None:
            about |= {"truths": len(truth.archs), "truth_sha256": truth_digest(truth)}
            measurements = Measurements(self.evaluator, asked.seed, out / MEASURED)
            predicted = PredictedAccuracy(measurements, self.problem.cost_model, truth)
            measure, more = predicted, predicted.about
        strategy = NSGA2Search if self.problem.cost_objectives else AgingSearch
        settings = {name: getattr(asked, name) for name in ("population", "generations", "seed")}
        run = SearchRun.start(
            strategy(self.problem, **settings),
            out,
            evaluator=about,
            parents=parents,
            facts={"data": self.evaluator.run.images.data.found.to_dict()},
            resume=resume,
        )
        return run.explore(measure, more)

    def _measure(self, archs: list[Arch]) -> list[Measured]:
        naswots: Sequence[float | None] = [None] * len(archs)
        if self.problem.quality == SCORE:
            naswots = self.evaluator.naswot(archs, self.asked.seed)
        return [Measured(*pair) for pair in zip(self.evaluator(archs), naswots, strict=True)]

    def _parents(self) -> dict[str, str]:
        asked = self.asked
        tables = zip(asked.budget.latencies, self.problem.cost_model.tables, strict=True)
        parents = {"supernet": str(asked.supernet.resolve())}
        parents |= {f"{TABLE}{table.name}": latency.place(table) for latency, table in tables}
        return parents | ({"truth": str(asked.truth.resolve())} if asked.truth else {})
