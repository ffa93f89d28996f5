"""NSGA-II (Deb et al. 2002) over the archs of a space: the whole front.

Two things are added: half of a generation are archs that a model of the quality takes for the best,
and the archs of extreme cost are looked at. docs/search.md has what they bring.
"""

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination

from mobilenas.base.errors import BadInput
from mobilenas.search.ask_tell import Search
from mobilenas.search.operators import (
    BlockCrossover,
    BlockMutation,
    FeasibleSampling,
    Unseen,
    cost_extremes,
)
from mobilenas.search.problem import Problem
from mobilenas.space import Genes


class NSGA2Search(Search):
    """A `Search` that looks for all archs that no other beats in every objective.

    Raises BadInput where there is no cost among the objectives.
    """

    def __init__(self, problem: Problem, **settings: Any) -> None:
        if not problem.cost_objectives:
            raise BadInput(f"a front needs a cost besides {problem.quality}")
        super().__init__(problem, **settings)
        space = problem.cost_model.space
        self._algorithm = NSGA2(
            pop_size=self.population,
            sampling=FeasibleSampling(problem, self.first),
            crossover=BlockCrossover(),
            mutation=BlockMutation(space),
            eliminate_duplicates=Unseen(self.proposed),
            seed=self.seed,
        )
        shape = PymooProblem(len(space.blocks), len(problem.objectives), len(problem.limits))
        self._algorithm.setup(shape, termination=NoTermination())
        self._asked: Any = None  # pymoo's population of the generation that was asked for

    def _propose(self) -> Genes | None:
        if self.generation > 0:
            self._select()
        self._asked = self._algorithm.ask()
        if self._asked is None:
            return None
        first: list[Any] = self._modelled()
        if self.generation == 1:
            # Not earlier: a score is in units of the first population, so that must be typical.
            first = [*cost_extremes(self.problem, self._algorithm.random_state), *first]
        if first:
            both = Population.merge(Population.new(X=np.array(first)), self._asked)
            self._asked = Unseen(self.proposed).do(both)[: self.population]
        return self._asked.get("X")

    def _select(self) -> None:
        """Let pymoo choose who survives the generation that was asked for last."""
        genes: Genes = self._asked.get("X")
        quality = np.zeros(len(genes))  # also of those that are not within the limits
        quality[self._feasible] = self.qualities(len(self.evaluations) - len(self._feasible))
        points = self.problem.points({self.problem.quality: quality, **self._costs(genes)})
        self._asked.set("F", points, "G", self.problem.violations(genes))
        known = np.delete(np.arange(len(genes)), self._missing)
        self._algorithm.tell(infills=self._asked[known])
