"""Which archs of a search to train stand-alone, so that the next prediction is a better one."""

from collections.abc import Collection, Sequence

import numpy as np

from mobilenas.search.ask_tell import Evaluation
from mobilenas.search.problem import Problem
from mobilenas.space import AnyArch, Arch

_EXPLORATION = 2.0  # standard deviations


def choose_archs(
    problem: Problem, evaluations: Sequence[Evaluation], n: int, known: Collection[AnyArch]
) -> list[Arch]:
    """Up to n canonical archs of the evaluations of a search, none of them known, all different.

    Under a limit of the search's first cost the arch of the highest quality is chosen; the n limits
    lie between the cheapest tenth of what was evaluated and the dearest, in a search for one arch
    all at the latter. Every second arch is the one that may be the best: quality and two standard
    deviations have the largest sum (upper confidence bound, Auer 2002), where these are known.
    """
    space = problem.cost_model.space
    fresh = {space.canonical(each.arch): each for each in evaluations}
    fresh = {arch: each for arch, each in fresh.items() if arch not in known}
    archs, rows = list(fresh), list(fresh.values())
    if not archs:
        return []
    cost = next(iter(problem.cost_objectives), None)
    costs = np.array([0.0 if cost is None else each.costs[cost] for each in rows])
    quality = np.array([getattr(each, problem.quality) for each in rows])
    deviation = np.array([each.deviation or 0.0 for each in rows])
    limits = np.linspace(np.quantile(costs, 0.1), costs.max(), n)
    chosen: list[int] = []
    for number, limit in enumerate(limits[: len(archs)]):
        left = np.setdiff1d(np.arange(len(archs)), chosen)
        within = left[costs[left] <= limit]
        within = within if len(within) else left
        bound = quality + (number % 2) * _EXPLORATION * deviation
        chosen.append(int(within[np.argmax(bound[within])]))
    return [archs[i] for i in chosen]
