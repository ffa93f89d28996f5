"""A search by ask and tell, whatever strategy chooses the archs. It knows no files."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.search.additive import LATEST, AdditiveModel
from mobilenas.search.pareto import non_dominated
from mobilenas.search.problem import PREDICTION, QUALITIES, SCORE, Problem, score
from mobilenas.space import Arch, Genes

log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """What was measured of an arch: all that `problem.QUALITIES` has for the search's quality.

    accuracy: in the supernet, 0..1. prediction, deviation: of a `Predictor`, in the same unit; a
    prediction may lie beyond 0 or 1.
    """

    accuracy: float
    naswot: float | None = None
    prediction: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluated arch: accuracy in 0..1, costs by name, and the generation (from 1) it is of.

    naswot, prediction, deviation: as of `Measured`. score: of a search by score, known when the
    search has ended.
    """

    generation: int
    arch: Arch
    accuracy: float
    costs: dict[str, float]
    naswot: float | None = None
    prediction: float | None = None
    deviation: float | None = None
    score: float | None = None

    def row(self) -> dict[str, Any]:
        """Plain data; only archs within the limits are evaluated."""
        head = {"generation": self.generation, "arch": str(self.arch), "accuracy": self.accuracy}
        more = {name: getattr(self, name) for name in (*Measured._fields[1:], SCORE)}
        known = {name: value for name, value in more.items() if value is not None}
        return {**head, **known, **self.costs, "feasible": True}


@dataclass(frozen=True)
class Result:
    """The non-dominated evaluations, cheapest first, and all of them in order. In a search by
    prediction the front has a network once, whatever names it was evaluated under.
    """

    front: list[Evaluation]
    evaluations: list[Evaluation]


class Search(ABC):
    """`ask` for the archs of a generation, `tell` what was measured of them, until `ask` ends.

    A deterministic function of its arguments and of what it is told. generations: counts the
    initial population. max_evaluations: no more archs than these are asked for. first: archs that
    the first population has, as far as they are within the limits. In a search by
    score the reference of `problem.score` are the archs within the limits of the first population
    (of a later one, should that have none). Raises BadInput for numbers that make no sense.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        population: int = 20,
        generations: int = 20,
        max_evaluations: int | None = None,
        seed: int = 0,
        first: Sequence[Arch] = (),
    ) -> None:
        most = 1 if max_evaluations is None else max_evaluations
        if population < 2 or generations < 1 or most < 1:
            raise BadInput(
                "a search needs population >= 2, generations >= 1 and max_evaluations >= 1"
            )
        self.problem = problem
        self.population, self.generations = population, generations
        self.max_evaluations, self.seed = max_evaluations, seed
        self.first = tuple(first)
        self._model = AdditiveModel(problem, seed)
        self.generation = 0
        self.evaluations: list[Evaluation] = []
        self.proposed: set[tuple[int, ...]] = set()  # the genes of all archs, in the limits or not
        # Of the generation that was asked for: which of it is within the limits, and these archs
        # with their costs as far as nothing was told of them.
        self._feasible: NDArray[np.int64] = np.array([], dtype=np.int64)
        self._open: list[tuple[Arch, dict[str, float]]] = []
        self._missing: list[int] = []  # of the generation: those in the limits that stay unknown
        self.left_out: list[Arch] = []  # that were asked for, and that nothing was told of

    @abstractmethod
    def _propose(self) -> Genes | None:
        """The genes (n, blocks) of the next generation, none of them proposed before; some may be
        outside of the limits. None where nothing is left to propose.
        """

    def ask(self) -> list[Arch] | None:
        """The archs of the next generation that are within the limits, each once in a search; there
        may be none. None where the search has ended.
        """
        if self._open:
            raise ValueError(f"nothing was told of {len(self._open)} archs that were asked for")
        found = len(self.evaluations)
        if self.generation == self.generations or found == self.max_evaluations:
            return None
        genes = self._propose()
        if genes is None:
            log.info("generation %d: no arch is left to propose", self.generation + 1)
            return None
        self.generation += 1
        self.proposed.update(map(tuple, genes.tolist()))
        feasible = np.flatnonzero((self.problem.violations(genes) <= 0).all(axis=1))
        most = len(feasible) if self.max_evaluations is None else self.max_evaluations - found
        self._feasible, self._missing = feasible[:most], feasible[most:].tolist()
        space, feasible = self.problem.cost_model.space, genes[self._feasible]
        costs = {name: values.tolist() for name, values in self._costs(feasible).items()}
        self._open = [
            (space.decode(row), dict(zip(costs, values, strict=True)))
            for row, *values in zip(feasible, *costs.values(), strict=True)
        ]
        return [arch for arch, _ in self._open]

    def tell(self, measured: Mapping[Arch, Measured]) -> list[Evaluation]:
        """What was measured of the archs that were asked for, or of the next of them in order; the
        evaluations that this makes. Raises ValueError for other archs and for no such measurements.
        """
        told = self._open[: len(measured)]
        if list(measured) != [arch for arch, _ in told]:
            raise ValueError("told of other archs than were asked for, or in another order")
        needed = QUALITIES[self.problem.quality]
        for arch, values in measured.items():
            if not 0 <= values.accuracy <= 1:
                raise ValueError(f"the accuracy of {arch} is {values.accuracy}, not in 0..1")
            given = tuple(
                name for name, x in zip(values._fields, values, strict=True) if x is not None
            )
            if given != needed:
                raise ValueError(f"a search by {self.problem.quality} needs {needed}, not {given}")
        evaluations = [
            Evaluation(self.generation, arch, costs=costs, **values._asdict())
            for (arch, costs), values in zip(told, measured.values(), strict=True)
        ]
        self._open = self._open[len(told) :]
        self.evaluations += evaluations
        return evaluations

    def leave_out(self, arch: Arch) -> None:
        """Go on without an arch that was asked for, of which nothing is told: it was proposed, and
        is never asked for again. Raises ValueError for another.
        """
        archs = [asked for asked, _ in self._open]
        if arch not in archs:
            raise ValueError(f"{arch} was not asked for")
        place = archs.index(arch)
        del self._open[place]
        of_generation = len(self._feasible) - len(archs) + place
        self._missing.append(int(self._feasible[of_generation]))
        self._feasible = np.delete(self._feasible, of_generation)
        self.left_out.append(arch)

    def _modelled(self) -> list[tuple[int, ...]]:
        """Half a generation of archs that should be good by what was measured, or fewer where it
        says nothing.
        """
        start = max(0, len(self.evaluations) - LATEST)
        if start == len(self.evaluations):
            return []
        space = self.problem.cost_model.space
        genes = np.array([space.encode(each.arch) for each in self.evaluations[start:]])
        qualities = self.qualities(start)
        return self._model.archs(genes, qualities, self.population // 2, self.proposed)

    def qualities(self, start: int = 0) -> NDArray[np.float64]:
        """What the search maximises, of the evaluations from `start` on: (evaluations - start,)."""
        quality, evaluations = self.problem.quality, self.evaluations[start:]
        if quality != SCORE or not evaluations:
            return np.array([getattr(e, quality) for e in evaluations])
        of_first = self.evaluations[0].generation
        first = takewhile(lambda e: e.generation == of_first, self.evaluations)
        measured, reference = (
            np.array([(e.accuracy, e.naswot) for e in several]) for several in (evaluations, first)
        )
        return score(measured, reference)

    def result(self) -> Result:
        """What has been found so far."""
        evaluations, qualities = self.evaluations, self.qualities()
        if self.problem.quality == SCORE:
            pairs = zip(evaluations, qualities.tolist(), strict=True)
            evaluations = [replace(evaluation, score=value) for evaluation, value in pairs]
        values = {
            name: np.array([e.costs[name] for e in evaluations])
            for name in self.problem.cost_objectives
        }
        front = non_dominated(self.problem.points({self.problem.quality: qualities, **values}))
        cost = np.array([e.costs[self.problem.shown_cost] for e in evaluations])
        order = sorted(front, key=lambda i: (cost[i], -qualities[i], str(evaluations[i].arch)))
        if not self.problem.cost_objectives:  # equal archs may be many: the cheapest is the answer
            order = order[:1]
        if self.problem.quality == PREDICTION:  # which is one of a network, not of its names
            once: dict[Arch, int] = {}
            for i in order:
                once.setdefault(self.problem.cost_model.space.canonical(evaluations[i].arch), i)
            order = list(once.values())
        return Result([evaluations[i] for i in order], evaluations)

    def _costs(self, genes: Genes) -> dict[str, NDArray[Any]]:
        model = self.problem.cost_model
        return {name: model.batch(name, genes) for name in model.costs}
