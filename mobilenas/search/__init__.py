"""The search for archs on the accuracy/cost front. Imports no torch (but for `evaluate`)."""

from mobilenas.search.evolve import Evaluation, Progress, Result, evolve
from mobilenas.search.pareto import hypervolume, non_dominated
from mobilenas.search.problem import Problem, check_feasible

__all__ = [
    "Evaluation",
    "Problem",
    "Progress",
    "Result",
    "check_feasible",
    "evolve",
    "hypervolume",
    "non_dominated",
]
