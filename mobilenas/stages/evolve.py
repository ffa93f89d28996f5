"""The search for archs under a budget: `mobilenas evolve`."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.titles import latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.predictor import check_enough
from mobilenas.evaluate.truth import Truth, read_truth
from mobilenas.evaluate.workers import THREADS, arch_workers, stored_threads
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import TABLE
from mobilenas.search import (
    AgingSearch,
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
from mobilenas.space import Arch, space_from_dict
from mobilenas.stages.measurements import MEASURED, Measurements
from mobilenas.stages.predicted import PredictedAccuracy, about_truth
from mobilenas.stages.search_run import SearchRun, SearchSettings
from mobilenas.train.supernets import SupernetSettings, open_supernet_run
from mobilenas.workers import ONE_WORKER, Workers, WorkersAsked


@dataclass(frozen=True)
class Search:
    """What a search is asked for.

    supernet: run folder. data: its images, where they have moved. truth: file of stand-alone
    accuracies, from which those of other archs are predicted. objectives: as
    `search.problem.parse_objectives` reads them, None for those of `default_objectives`; without a
    cost among them the best arch is looked for, not a front.
    resolution: height and width of a detector's images; costs are then those of backbones on these.
    workers: who measures archs; not on it, but on the number of their threads the result depends.
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
    workers: WorkersAsked = ONE_WORKER


def resumed(out: Path, search: Search, given: Collection[str]) -> Search:
    """`search` with every field that is not `given` taken from the search in `out`.

    Raises BadInput where there is none, or one that is damaged or of another kind.
    """
    run = RunFolder.to_resume(out, "evolve")
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
    """Search with the supernet of a run folder; `out` is the folder of the search.

    Raises BadInput and, before any work, InfeasibleBudget; WorkFailed if nothing can be measured.
    """
    prepared = Prepared.of(search, out, by_truth=search.truth is not None, resume=resume)
    truth = prepared.truth()
    about = {} if truth is None else about_truth(truth)
    run = prepared.start(out, about, resume=resume)
    run.announce()
    with prepared.workers() as workers:
        measurements = Measurements(workers, prepared.measured_quality, out / MEASURED)
        if truth is None:
            return prepared.explore(run, measurements)
        run, result, more = prepared.by_prediction(out, truth, measurements, about, resume=True)
        run.store(result, more, left_out=measurements.left_out)
        return result


@dataclass(frozen=True)
class Prepared:
    """A search that can start: its supernet is open, its budget within the space.

    threads: of each worker, None for a search that was started before they were noted.
    """

    asked: Search
    evaluator: SupernetEvaluator
    problem: Problem
    threads: int | None = None

    @classmethod
    def of(
        cls,
        search: Search,
        out: Path,
        *,
        by_truth: bool,
        resume: bool,
        evaluator: SupernetEvaluator | None = None,
    ) -> "Prepared":
        """Raises BadInput and InfeasibleBudget, before any work.

        by_truth: whether stand-alone accuracies are known, or will be. out: where the search is to
        be; if it is resumed, its objectives and limits must be these. evaluator: of the supernet,
        where it is open already.
        """
        there = RunFolder.to_resume(out, "evolve") if resume else None
        trained = RunFolder.open(search.supernet, "supernet")
        space = space_from_dict(trained.read(SupernetSettings).space)
        costed = space if search.resolution is None else space.backbone(*search.resolution)
        cost_model, limits = search.budget.look_up(costed)
        if search.objectives is None:
            objectives = default_objectives(cost_model, PREDICTION if by_truth else SCORE)
        else:
            latencies = search.budget.latencies
            objectives = parse_objectives(search.objectives, cost_model, latencies)
        if (PREDICTION in objectives) != by_truth:
            raise BadInput(
                f"objectives {','.join(objectives)}: {PREDICTION} goes with --truth or --rounds,"
                f" and these with {PREDICTION}"
            )
        threads: int | None = search.workers.threads_each(torch.get_num_threads())
        if there is not None:  # first of all it has to be the search of that folder
            there.check_same({"objectives": objectives, "limits": limits})
            threads = stored_threads(there)
        else:
            check_feasible(cost_model, limits)
        problem = Problem(cost_model, objectives, limits)
        trained.check_finished()
        if evaluator is None:
            evaluator = SupernetEvaluator(open_supernet_run(search.supernet, data=search.data))
        return cls(search, evaluator, problem, threads)

    def truth(self) -> Truth | None:
        """The stand-alone accuracies in the truth file, if there is one. Raises BadInput."""
        path, run = self.asked.truth, self.evaluator.run
        if path is None:
            return None
        truth = read_truth(path, run.space, run.folder).in_order()
        try:
            check_enough(truth.accuracy)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        return truth

    def start(
        self, out: Path, about: Mapping[str, Any], first: Sequence[Arch] = (), *, resume: bool
    ) -> SearchRun:
        """The search in its run folder. about: what is measured besides what the evaluator says.
        first: archs that the first population has.
        """
        asked = self.asked
        settings = {name: getattr(asked, name) for name in ("population", "generations", "seed")}
        threads = {} if self.threads is None else {THREADS: self.threads}
        strategy = NSGA2Search if self.problem.cost_objectives else AgingSearch
        return SearchRun.start(
            strategy(self.problem, first=first, **settings),
            out,
            evaluator={**self.evaluator.describe(), **threads, **about},
            parents=self._parents(),
            facts={"data": self.evaluator.run.images.data.found.to_dict()},
            resume=resume,
        )

    def workers(self) -> AbstractContextManager[Workers]:
        """Who measures archs."""
        return arch_workers(self.asked.workers, self.evaluator, self.asked.seed, self.threads)

    @property
    def measured_quality(self) -> str:
        """What is measured of an arch: a prediction rests on what a score does."""
        return ACCURACY if self.problem.quality == ACCURACY else SCORE

    def explore(self, run: SearchRun, measurements: Measurements) -> Result:
        """The search by accuracy or by score."""
        left_out, at_once = measurements.left_out, measurements.at_once
        return run.explore(measurements, left_out=left_out, at_once=at_once)

    def by_prediction(
        self,
        out: Path,
        truth: Truth,
        measurements: Measurements,
        about: Mapping[str, Any],
        *,
        resume: bool,
    ) -> tuple[SearchRun, Result, dict[str, Any]]:
        """The search by what `truth` predicts, which begins with the archs of the truth: its run,
        whose result is yet to be stored, what it found, and what front.json says of the prediction.
        """
        predicted = PredictedAccuracy(measurements, self.problem.cost_model, truth)
        known: Sequence[Any] = truth.archs
        run = self.start(out, about, known, resume=resume)
        left_out, at_once = measurements.left_out, measurements.at_once
        result = run.searched(predicted, left_out=left_out, at_once=at_once)
        return run, result, predicted.about()

    def _parents(self) -> dict[str, str]:
        asked = self.asked
        tables = zip(asked.budget.latencies, self.problem.cost_model.tables, strict=True)
        parents = {"supernet": realpath(asked.supernet)}
        parents |= {f"{TABLE}{table.name}": latency.place(table) for latency, table in tables}
        return parents | ({"truth": realpath(asked.truth)} if asked.truth else {})
