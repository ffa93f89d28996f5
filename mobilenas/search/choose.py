"""Which archs of a search to train stand-alone, so that the next prediction is a better one."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenas.search.ask_tell import Evaluation
from mobilenas.search.problem import Problem
from mobilenas.space import AnyArch, Arch

_EXPLORATION = 2.0  # standard deviations


def choose_archs(
    problem: Problem, evaluations: Sequence[Evaluation], n: int, known: Collection[AnyArch]
) -> list[Arch]:
    """Up to n canonical archs of the evaluations of a search, none of them known, all different.

    Every second arch is the one of the highest quality under a limit of the search's first cost;
    the n limits lie between the dearest arch and the cheapest tenth of what was evaluated, in a
    search for one arch all at the former. The others explore:

    - where the deviations are known, the arch that may be the best under the limit: quality and two
      standard deviations have the largest sum (upper confidence bound, Auer 2002);
    - else archs of the first generation, drawn from all that the limits allow, at even ranks of
      quality: a measure that misleads has then cost half of the trainings, not all of them.
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
    limits = np.linspace(costs.max(), np.quantile(costs, 0.1), n)[: len(archs)]
    # Whatever was known before shifts the turns: a single arch a round explores every second time.
    exploring = (np.arange(len(limits)) + len(known)) % 2 == 1
    chosen = [] if deviation.any() else _at_even_ranks(rows, quality, int(exploring.sum()))
    drawn = len(chosen)
    for limit, explores in zip(limits, exploring, strict=True):
        if explores and drawn:
            drawn -= 1
            continue
        left = np.setdiff1d(np.arange(len(archs)), chosen)
        within = left[costs[left] <= limit]
        within = within if len(within) else left
        bound = quality + explores * _EXPLORATION * deviation
        chosen.append(int(within[np.argmax(bound[within])]))
    return [archs[i] for i in chosen]


def _at_even_ranks(rows: Sequence[Evaluation], quality: NDArray[np.float64], n: int) -> list[int]:
    """Up to n of the first generation, the worst and the best among them."""
    of_first = np.flatnonzero([each.generation == 1 for each in rows])
    of_first = of_first[np.argsort(quality[of_first], kind="stable")]
    ranks = np.linspace(0, len(of_first) - 1, min(n, len(of_first))).round().astype(int)
    found: list[int] = of_first[ranks].tolist()
    return found
