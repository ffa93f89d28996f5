"""The run folder of a search.

run.json            settings, parents (supernet, latency tables, ground truth)
evaluations.jsonl   one line an evaluated arch, synced after each group of archs
front.json          the archs that no other beats in all objectives, and what they rest on
history.csv         all evaluations
front.png           their picture
"""

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mobilenas.base.files import write_text
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Count, Record, Seed
from mobilenas.cost.latency import LatencyTable
from mobilenas.cost.titles import format_limits
from mobilenas.report.plots import plot_front
from mobilenas.report.text import cost_lines
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import TABLE, check_free
from mobilenas.search import Problem, Result, check_feasible, explore
from mobilenas.search.ask_tell import Search
from mobilenas.search.problem import SCORE
from mobilenas.search.replay import GROUP, Measure

EVALUATIONS = "evaluations.jsonl"

log = logging.getLogger(__name__)


class SearchSettings(Record):
    """What may not change on resume, in the words of run.json and front.json.

    space, evaluator: what is searched and what is measured (which weights, which images), as plain
    data. resolution: of a backbone's images. latency_tables, own_costs: SHA-256 of the content by
    name; the latter are left out where there are none.
    """

    space: dict[str, Any]
    objectives: tuple[str, ...]
    limits: dict[str, int | float]
    population: Count
    generations: Count
    max_evaluations: Count | None = None
    seed: Seed
    evaluator: dict[str, Any]
    resolution: tuple[int, int] | None = None
    latency_tables: dict[str, str]
    own_costs: Annotated[dict[str, str], Field(default_factory=dict)]


@dataclass(frozen=True)
class SearchRun:
    """A search in its run folder.

    settings, parents: those of now, as parents may have moved. feasible_share: of the space, within
    the limits.
    """

    search: Search
    folder: RunFolder
    settings: dict[str, Any]
    parents: dict[str, str]
    feasible_share: float

    @classmethod
    def start(
        cls,
        search: Search,
        out: Path,
        *,
        evaluator: Mapping[str, Any] | None = None,
        parents: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> "SearchRun":
        """A new one, or with `resume` the one that is there.

        evaluator: plain data that says what is measured; a resume with another one is refused, and
        so are latency tables with another content. parents, facts: of the run folder; they are
        never compared, as files move.
        Raises InfeasibleBudget where no arch meets the limits; BadInput for a folder with another
        search.
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
            latency_tables={table.name: digest(table) for table in cost_model.tables},
            own_costs={costs.name: sha256_of(costs.to_dict()) for costs in cost_model.own},
        ).model_dump(mode="json", exclude=None if cost_model.own else {"own_costs"})
        if resume:
            RunFolder.to_resume(out, "evolve").check_same(settings)
        else:
            check_free(out)
        share = check_feasible(cost_model, problem.limits)
        if share == 0:
            limit = format_limits(problem.limits)
            log.warning("0 %% of the archs drawn from %s meet %s: few do", space.name, limit)
        if resume:
            run = RunFolder.open(out, "evolve")
        else:
            run = RunFolder.create(out, "evolve", settings, parents=parents, facts=facts)
        return cls(search, run, settings, dict(parents or {}), share)

    def announce(self) -> None:
        """Tell the user what the space costs, and how much of it is within the budget."""
        log.info("%s\n%s", self.search.problem.cost_model.space.name, cost_lines(self._ranges()))
        if self.search.problem.limits:
            log.info("within the budget: %.1f %% of the space", 100 * self.feasible_share)

    def explore(
        self,
        measure: Measure,
        *,
        left_out: Mapping[str, str] | None = None,
        at_once: int | None = GROUP,
    ) -> Result:
        """Search to the end and store the result; options as in `searched`."""
        result = self.searched(measure, left_out=left_out, at_once=at_once)
        self.store(result, {}, left_out=left_out)
        return result

    def searched(
        self,
        measure: Measure,
        *,
        left_out: Mapping[str, str] | None = None,
        at_once: int | None = GROUP,
    ) -> Result:
        """Search to the end, with what `measure` says of archs (see `search.replay`).

        left_out: the archs that cannot be measured, and why; `measure` may add to it. Raises
        BadInput for evaluations that this search would not have made.
        """
        search = self.search
        most = search.population * search.generations + len(search.first)
        with ProgressBar("evolve", most) as bar:
            explore(
                search,
                self.folder.path / EVALUATIONS,
                measure,
                _Shown(bar),
                left_out={} if left_out is None else left_out,
                at_once=at_once,
            )
        return search.result()

    def store(
        self,
        result: Result,
        more: Mapping[str, Any],
        *,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Write front.json, history.csv and front.png."""
        about = {
            "settings": self.settings | {"places": _places(self.parents)},
            "feasible_share": self.feasible_share,
            "ranges": self._ranges(),
            **more,
        }
        if own := self.left_out(left_out or {}):
            about["left_out"] = own
        _write_result(self.folder, self.search.problem, result, about)

    def left_out(self, why: Mapping[str, str]) -> dict[str, str]:
        """The archs that this search left out, and why, of all that could not be measured."""
        return {name: why[name] for name in sorted(map(str, self.search.left_out)) if name in why}

    def _ranges(self) -> dict[str, dict[str, float]]:
        cost_model = self.search.problem.cost_model
        return {name: asdict(cost_model.range(name)) for name in cost_model.costs}


@dataclass
class _Shown:
    """Advances a bar to the number of evaluated archs, replayed ones included.

    best: the highest quality among the archs that were counted.
    """

    bar: ProgressBar
    counted: int = 0
    best: float = -math.inf

    def __call__(self, search: Search) -> None:
        done = len(search.evaluations)
        if done and search.evaluations[-1].generation == search.evaluations[0].generation:
            self.best, first = -math.inf, 0  # scores are in units of the whole first generation
        else:
            first = self.counted
        self.best = max([self.best, *search.qualities(first).tolist()])
        note = f"generation {search.generation}, {done} archs"
        if done and search.problem.quality == SCORE:
            note += f", best score {self.best:.2f}"
        elif done:
            note += f", best {100 * self.best:.2f} %"
        self.bar.advance(done - self.counted, note)
        self.counted = done


def _places(parents: Mapping[str, str]) -> dict[str, Any]:
    """The parents as front.json has them."""
    tables = {
        role.removeprefix(TABLE): place for role, place in parents.items() if role.startswith(TABLE)
    }
    others = {role: place for role, place in parents.items() if not role.startswith(TABLE)}
    return others | {"latency_tables": tables}


def digest(table: LatencyTable) -> str:
    """SHA-256 of the content of a table, whatever the layout of its file."""
    return sha256_of(table.model_dump(mode="json"))


def sha256_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


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
