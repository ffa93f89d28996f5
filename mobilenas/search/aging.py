"""Regularised evolution (Real et al. 2019, algorithm 1): the best arch within a budget."""

from typing import Any

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.search.ask_tell import Search
from mobilenas.search.operators import crossover, sample_feasible
from mobilenas.search.problem import Problem
from mobilenas.space import Genes

# docs/search.md has what other numbers gave.
_LIVING = 5  # generations, after which an arch dies, however good it is
_TOURNAMENT = 0.25  # share of the living from which the best becomes a parent
_CROSSOVER = 0.5  # share of the children that have two parents
_STEPS = 20  # mutations of a child, until it is one that was not proposed before
_TRIES = 10  # children for each that a generation needs, before it goes without


class AgingSearch(Search):
    """A `Search` that looks for the arch of the highest quality within the limits.

    Half of a generation are the best archs by a model of the quality, the others children of the
    living. A child has one block that differs from that of its parent, or of the crossover of two.
    Archs that are one network count as one, under their canonical name, and none is asked for
    twice. A child over a limit is drawn again: costs are known before. Raises BadInput where costs
    are among the objectives.
    """

    def __init__(self, problem: Problem, **settings: Any) -> None:
        if problem.cost_objectives:
            raise BadInput(f"one arch is looked for by {problem.quality} alone; costs are limits")
        super().__init__(problem, **settings)
        self._rng = np.random.default_rng(self.seed)

    def _propose(self) -> Genes | None:
        space = self.problem.cost_model.space
        living = self.evaluations[-_LIVING * self.population :]
        if not living:
            drawn = sample_feasible(self.problem, self.population, self._rng, self.first)
            fresh = dict.fromkeys(self._canonical(genes) for genes in drawn)
            most = len(fresh)  # those of `first` besides
        else:
            genes = np.array([space.encode(evaluation.arch) for evaluation in living])
            fresh = dict.fromkeys(self._modelled())
            fresh |= self._children(genes, self.qualities(len(self.evaluations) - len(living)))
            most = self.population
        found = [genes for genes in fresh if genes not in self.proposed][:most]
        return np.array(found) if found else None

    def _children(
        self, living: Genes, qualities: np.ndarray[Any, np.dtype[np.float64]]
    ) -> dict[tuple[int, ...], None]:
        """A generation of archs within the limits that were not proposed before."""
        children: dict[tuple[int, ...], None] = {}
        for _ in range(_TRIES * self.population):
            child = self._parent(living, qualities)
            if self._rng.random() < _CROSSOVER:
                child = crossover(child, self._parent(living, qualities), self._rng)[0]
            for _ in range(_STEPS):
                changed = self._mutated(child)
                name = self._canonical(changed)
                if self.problem.excess(np.array([name]))[0]:
                    continue
                if name not in self.proposed and name not in children:
                    children[name] = None
                    break
                child = changed  # known: on from there
            if len(children) == self.population:
                break
        return children

    def _parent(self, living: Genes, qualities: np.ndarray[Any, np.dtype[np.float64]]) -> Genes:
        """The best of some that are drawn from the living."""
        count = max(1, round(_TOURNAMENT * len(living)))
        drawn = self._rng.choice(len(living), count, replace=False)
        return living[drawn[np.argmax(qualities[drawn])]]

    def _mutated(self, genes: Genes) -> Genes:
        """A copy in which one block has another candidate."""
        child, counts = genes.copy(), self.problem.cost_model.space.num_candidates
        choices = np.flatnonzero(counts > 1)
        if not len(choices):  # a space of one arch
            return child
        block = self._rng.choice(choices)
        child[block] = (child[block] + self._rng.integers(1, counts[block])) % counts[block]
        return child

    def _canonical(self, genes: Genes) -> tuple[int, ...]:
        space = self.problem.cost_model.space
        names: list[int] = space.encode(space.canonical(space.decode(genes))).tolist()
        return tuple(names)
