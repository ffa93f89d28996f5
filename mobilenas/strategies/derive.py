"""The arch that a strategy ends in: the most probable one within the limits, exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mobilenas.cost.edge_model import Costs, EdgeCellCosts
from mobilenas.space import Arch, Genotype

Floats = NDArray[np.float64]
_WIDTHS = (1 << 8, 1 << 12, 1 << 16, None)  # of the search: beginnings that are gone on with
_ROUNDING = 1e-6  # of log probabilities, and of limits in the relaxed problem


@dataclass(frozen=True)
class _Place:
    """The candidates of one block: indices (n,), log probabilities (n,), costs (n, limits)."""

    candidates: NDArray[np.int64]
    log_p: Floats
    costs: Floats


def most_probable(
    costs: Costs,
    probabilities: Sequence[Floats],
    limits: Mapping[str, float],
) -> Arch | Genotype | None:
    """The arch of the largest product of probabilities that meets every limit {cost: largest
    value}; None where no arch does.

    probabilities: of each block, or edge of a cell, (candidates,); a candidate of probability 0 is
    taken where nothing else is within the limits. Of archs of one probability the cheapest is
    taken, of equal ones that of the first candidates.

    A peak, as memory is, forbids candidates. Other costs are sums over these: a multiple-choice
    knapsack, by dynamic programming with bounds (see `_best`), first among the most promising
    beginnings alone, then among more, until none had to be left out. Where a limit is of a cost
    that is listed for every genotype, all are looked at.
    """
    if isinstance(costs, EdgeCellCosts) and any(map(costs.is_listed, limits)):
        return _of_all(costs, probabilities, limits)
    allowed = [np.ones(len(p), dtype=bool) for p in probabilities]
    sums = []  # (what all archs have, the candidates of each block, the limit) of each other cost
    for cost, limit in limits.items():
        fixed, blocks, is_peak = costs.parts(cost)
        if not is_peak:
            sums.append((fixed, blocks, limit))
        elif fixed > limit:
            return None
        else:
            allowed = [keep & (block <= limit) for keep, block in zip(allowed, blocks, strict=True)]

    places = []
    for number, (p, keep) in enumerate(zip(probabilities, allowed, strict=True)):
        candidates = np.flatnonzero(keep)
        if not len(candidates):
            return None
        log_p = np.log(np.maximum(p[candidates], 1e-300))
        own = np.array([blocks[number][candidates] for _, blocks, _ in sums], float)
        places.append(_Place(candidates, log_p, own.T.reshape(len(candidates), len(sums))))
    start = np.array([fixed for fixed, *_ in sums], float)  # integers stay exact below 2^53
    most = np.array([limit for *_, limit in sums], float)
    prices = _prices(places, start, most)
    if prices is None:
        return None
    reached, genes = -np.inf, None
    for width in _WIDTHS:
        genes, score, is_whole = _best(places, start, most, prices, reached, width)
        if is_whole:
            break
        reached = max(reached, score)
    return None if genes is None else costs.space.decode(genes)


def _of_all(
    costs: EdgeCellCosts, probabilities: Sequence[Floats], limits: Mapping[str, float]
) -> Genotype | None:
    genes = costs.all_genes()
    spent = np.stack([costs.batch(cost, genes) for cost in limits], axis=1)
    within = np.all(spent <= list(limits.values()), axis=1)
    genes, spent = genes[within], spent[within]
    if not len(genes):
        return None
    score = np.zeros(len(genes))
    for p, gene in zip(probabilities, genes.T, strict=True):
        score += np.log(np.maximum(p, 1e-300))[gene]
    return costs.space.decode(genes[_undominated(score, spent, genes)[0]])


def _prices(places: Sequence[_Place], start: Floats, limits: Floats) -> Floats | None:
    """What a unit of each cost is worth in log probability, (limits,), where blocks may be
    mixtures of candidates: the dual solution of that linear programme. None where not even a
    mixture meets the limits.
    """
    if not len(limits):
        return limits
    owner = np.repeat(np.arange(len(places)), [len(place.log_p) for place in places])
    solved = linprog(
        -np.concatenate([place.log_p for place in places]),
        A_ub=np.concatenate([place.costs for place in places]).T / limits[:, None],
        b_ub=1 + _ROUNDING - start / limits,
        A_eq=owner == np.arange(len(places))[:, None],
        b_eq=np.ones(len(places)),
    )
    if solved.status == 2:
        return None
    # Any prices give bounds, these the tightest.
    dual = -solved.ineqlin.marginals if solved.status == 0 else np.zeros(len(limits))
    return np.maximum(dual, 0) / limits


def _best(
    places: Sequence[_Place],
    start: Floats,
    limits: Floats,
    prices: Floats,
    reached: float,
    width: int | None,
) -> tuple[NDArray[np.int64] | None, float, bool]:
    """Genes and log probability of the best arch, and whether no better one can have been missed.

    start: what all archs cost. reached: a log probability that some arch within the limits has.
    width: how many beginnings of archs are gone on with at most, None for all.

    A beginning is given up where a limit is passed by whatever follows; where it cannot become as
    probable as what is reached, by its score and what is left of the limits at their prices
    (Lagrangian relaxation); and where another is as probable and as cheap.
    """
    ahead_costs = [np.zeros(len(limits))]  # at least, from each place on
    ahead_score = [0.0]  # at most, costs at their prices taken off
    for place in reversed(places):
        ahead_costs.append(ahead_costs[-1] + place.costs.min(axis=0))
        ahead_score.append(ahead_score[-1] + float((place.log_p - place.costs @ prices).max()))
    genes = np.zeros((1, 0), dtype=np.int64)
    score, spent, is_whole = np.zeros(1), start[None], True
    for left, place in zip(reversed(range(len(places))), places, strict=True):
        score = (score[:, None] + place.log_p).ravel()
        spent = (spent[:, None] + place.costs).reshape(len(score), len(limits))
        index = np.tile(place.candidates, len(genes))
        genes = np.column_stack([np.repeat(genes, len(place.candidates), axis=0), index])
        # What is left rounds, and the costs themselves decide at the end.
        slack = 1e-9 if left else 0.0
        bound = score + (limits - spent) @ prices + ahead_score[left]
        within = np.all(spent + ahead_costs[left] <= limits * (1 + slack), axis=1)
        kept = np.flatnonzero(within & (bound >= reached - _ROUNDING))
        if width is not None and len(kept) > width:
            kept = kept[np.argsort(-bound[kept], kind="stable")[:width]]
            is_whole = False
        kept = kept[_undominated(score[kept], spent[kept], genes[kept])]
        genes, score, spent = genes[kept], score[kept], spent[kept]
    return (genes[0], float(score[0]), is_whole) if len(genes) else (None, -np.inf, is_whole)


def _undominated(score: Floats, costs: Floats, genes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that no other is at least as good as in score (n,) and costs (n, limits), the best
    first; of equal ones the first by genes (n, blocks).
    """
    order = np.lexsort((*genes.T[::-1], *costs.T[::-1], -score))
    costs = costs[order]
    if costs.shape[1] == 0:
        return order[:1]
    if costs.shape[1] == 1:
        cheapest = np.minimum.accumulate(costs[:, 0])
        return order[np.append(True, costs[1:, 0] < cheapest[:-1])[: len(order)]]
    kept: list[int] = []
    for row in range(len(order)):
        if not np.any(np.all(costs[kept] <= costs[row], axis=1)):
            kept.append(row)
    return order[kept]
