"""The search for archs on the accuracy/cost front. Imports no torch and no matplotlib."""

from mobilenas.search.nsga2 import Evaluation, Measured, NSGA2Search, Result
from mobilenas.search.pareto import hypervolume, non_dominated
from mobilenas.search.problem import Problem, check_feasible
from mobilenas.search.replay import explore

__all__ = [
    "Evaluation",
    "Measured",
    "NSGA2Search",
    "Problem",
    "Result",
    "check_feasible",
    "explore",
    "hypervolume",
    "non_dominated",
]
