"""The search for archs under a budget: `mobilenas evolve`.

run.json            settings, parents (supernet, latency tables, ground truth)
evaluations.jsonl   one line an evaluated arch, synced after each group of archs
measured.jsonl      of a search by prediction: what was measured of archs, those of the truth too
front.json          the archs that no other beats in all objectives, and what they rest on
history.csv         all evaluations
front.png           their picture
"""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_text
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Record
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.latency import LatencyTable
from mobilenas.cost.titles import format_limits, latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.predictor import check_enough
from mobilenas.evaluate.truth import Truth, read_truth
from mobilenas.report.plots import plot_front
from mobilenas.report.text import cost_lines
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free, is_run
from mobilenas.search import (
    AgingSearch,
    Measured,
    NSGA2Search,
    Problem,
    Result,
    check_feasible,
    explore,
)
from mobilenas.search.ask_tell import Search as ArchSearch
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
from mobilenas.train.supernets import SupernetSettings, open_supernet_run

EVALUATIONS = "evaluations.jsonl"
_TABLE = "latency table "  # of the role of such a parent, before its name

log = logging.getLogger(__name__)


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


class SearchSettings(Record):
    """What may not change on resume, in the words of run.json and front.json.

    space, evaluator: what is searched and what is measured (which weights, which images), as plain
    data. resolution: of a backbone's images. latency_tables: SHA-256 of the content by name.
    """

    space: dict[str, Any]
    objectives: tuple[str, ...]
    limits: dict[str, int | float]
    population: int
    generations: int
    max_evaluations: int | None = None
    seed: int
    evaluator: dict[str, Any]
    resolution: tuple[int, int] | None = None
    latency_tables: dict[str, str]


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
        if role.startswith(_TABLE):
            place = run.find(role, "--latency") if Path(table).is_absolute() else table
            limit = limits.pop(latency_cost(role.removeprefix(_TABLE)), None)
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
        return search_archs(
            strategy(self.problem, **settings),
            measure,
            out,
            evaluator=about,
            parents=parents,
            facts={"data": self.evaluator.run.images.data.found.to_dict()},
            more=more,
            resume=resume,
        )

    def _measure(self, archs: list[Arch]) -> list[Measured]:
        naswots: Sequence[float | None] = [None] * len(archs)
        if self.problem.quality == SCORE:
            naswots = self.evaluator.naswot(archs, self.asked.seed)
        return [Measured(*pair) for pair in zip(self.evaluator(archs), naswots, strict=True)]

    def _parents(self) -> dict[str, str]:
        asked = self.asked
        tables = zip(asked.budget.latencies, self.problem.cost_model.tables, strict=True)
        parents = {"supernet": str(asked.supernet.resolve())}
        parents |= {f"{_TABLE}{table.name}": latency.place(table) for latency, table in tables}
        return parents | ({"truth": str(asked.truth.resolve())} if asked.truth else {})


def search_archs(
    search: ArchSearch,
    measure: Measure,
    out: Path,
    *,
    evaluator: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    more: Callable[[], Mapping[str, Any]] = dict,
    resume: bool = False,
) -> Result:
    """Run a search in a run folder, with what `measure` says of archs (see `search.replay`).

    evaluator: plain data that says what is measured; a resume with another one is refused, and so
    are latency tables with another content. parents, facts: of the run folder; they are never
    compared, as files move. more: what front.json says besides, asked for at the end.
    Raises InfeasibleBudget where no arch meets the limits; BadInput for a folder with another
    search, or evaluations that this search would not have made.
    """
    problem, cost_model = search.problem, search.problem.cost_model
    space = cost_model.space
    settings = SearchSettings(
        space=space.to_dict(),
        objectives=problem.objectives,
        limits=dict(problem.limits),
        population=search.population,
        generations=search.generations,
        max_evaluations=search.max_evaluations,
        seed=search.seed,
        evaluator=dict(evaluator or {}),
        resolution=space.image_size if space.is_backbone else None,
        latency_tables={table.name: _digest(table) for table in cost_model.tables},
    ).model_dump(mode="json")
    run = None
    if resume and is_run(out, "evolve"):
        run = RunFolder.open(out, "evolve")
        run.check_same(settings)
    elif resume:
        log.info("%s holds no search to resume: starting one", out)
    else:
        check_free(out)
    share = check_feasible(cost_model, problem.limits)
    if share == 0:
        limit = format_limits(problem.limits)
        log.warning("0 %% of the archs drawn from %s meet %s: few do, or none", space.name, limit)
    run = run or RunFolder.create(out, "evolve", settings, parents=parents, facts=facts)
    ranges = {name: asdict(cost_model.range(name)) for name in cost_model.costs}
    log.info("%s\n%s", space.name, cost_lines(ranges))
    if problem.limits:
        log.info("within the budget: %.1f %% of the space", 100 * share)
    with ProgressBar("evolve", search.population * search.generations) as bar:
        explore(search, out / EVALUATIONS, measure, _Shown(bar))
    result = search.result()
    about = {
        "settings": settings | {"places": _places(parents or {})},
        "feasible_share": share,
        "ranges": ranges,
        **more(),
    }
    _write_result(run, problem, result, about)
    return result


@dataclass
class _Shown:
    """Advances a bar to the number of evaluated archs, replayed ones included."""

    bar: ProgressBar
    counted: int = 0

    def __call__(self, search: ArchSearch) -> None:
        done, known = len(search.evaluations), search.qualities()
        note = f"generation {search.generation}, {done} archs"
        if done and search.problem.quality == SCORE:
            note += f", best score {known.max():.2f}"
        elif done:
            note += f", best {100 * known.max():.2f} %"
        self.bar.advance(done - self.counted, note)
        self.counted = done


def _places(parents: Mapping[str, str]) -> dict[str, Any]:
    """The parents as front.json has them."""
    tables = {
        role.removeprefix(_TABLE): place
        for role, place in parents.items()
        if role.startswith(_TABLE)
    }
    others = {role: place for role, place in parents.items() if not role.startswith(_TABLE)}
    return others | {"latency_tables": tables}


def _digest(table: LatencyTable) -> str:
    """SHA-256 of the content of a table, whatever the layout of its file."""
    content = json.dumps(table.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _write_result(run: RunFolder, problem: Problem, result: Result, about: dict[str, Any]) -> None:
    rows = [evaluation.row() for evaluation in result.evaluations]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run.path / "history.csv", table.getvalue())
    front = [evaluation.row() for evaluation in result.front]
    plot_front(
        run.path / "front.png",
        rows,
        front,
        problem.limits,
        problem.cost_model.space.name,
        problem.shown_cost,
        problem.quality,
    )
    run.store_result({"front": front, "evaluations": len(rows), **about})
