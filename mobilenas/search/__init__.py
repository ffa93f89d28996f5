"""The search for archs on the accuracy/cost front. Imports no torch and no matplotlib."""

from mobilenas.search.aging import AgingSearch
from mobilenas.search.ask_tell import Evaluation, Measured, Result, Search
from mobilenas.search.nsga2 import NSGA2Search
from mobilenas.search.pareto import hypervolume, non_dominated
from mobilenas.search.problem import Problem, check_feasible
from mobilenas.search.replay import explore

__all__ = [
    "AgingSearch",
    "Evaluation",
    "Measured",
    "NSGA2Search",
    "Problem",
    "Result",
    "Search",
    "check_feasible",
    "explore",
    "hypervolume",
    "non_dominated",
]
