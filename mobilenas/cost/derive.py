"""The arch within limits whose blocks' values have the highest sum, exactly.

A search by gradient derives its most probable arch so, a model of the quality its best guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mobilenas.cost.edge_model import Costs, EdgeCellCosts
from mobilenas.space import Arch, Genotype

Floats = NDArray[np.float64]
_WIDTHS = (1 << 8, 1 << 12, 1 << 16, None)  # of the search: beginnings that are gone on with
_ROUNDING = 1e-6  # of sums of values, and of limits in the relaxed problem


@dataclass(frozen=True)
class _Place:
    """The candidates of one block: indices (n,), values (n,), costs (n, limits)."""

    candidates: NDArray[np.int64]
    values: Floats
    costs: Floats


def most_probable(
    costs: Costs,
    probabilities: Sequence[Floats],
    limits: Mapping[str, float],
) -> Arch | Genotype | None:
    """The arch of the largest product of probabilities that meets every limit, as of `best_sum`.

    probabilities: of each block, or edge of a cell, (candidates,); a candidate of probability 0 is
    taken where nothing else is within the limits.
    """
    return best_sum(costs, [np.log(np.maximum(p, 1e-300)) for p in probabilities], limits)


def best_sum(
    costs: Costs, values: Sequence[Floats], limits: Mapping[str, float]
) -> Arch | Genotype | None:
    """The arch of the highest sum of values that meets every limit {cost: largest value}; None
    where no arch does.

    values: of each block, or edge of a cell, (candidates,). Of archs of one sum the cheapest is
    taken, of equal ones that of the first candidates.

    A peak, as memory is, forbids candidates. Other costs are sums over these: a multiple-choice
    knapsack, by dynamic programming with bounds (see `_best`), first among the most promising
    beginnings alone, then among more, until none had to be left out. Where a limit is of a cost
    that is listed for every genotype, all are looked at.
    """
    if isinstance(costs, EdgeCellCosts) and any(map(costs.is_listed, limits)):
        return _of_all(costs, values, limits)
    allowed = [np.ones(len(row), dtype=bool) for row in values]
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
    for number, (row, keep) in enumerate(zip(values, allowed, strict=True)):
        candidates = np.flatnonzero(keep)
        if not len(candidates):
            return None
        own = np.array([blocks[number][candidates] for _, blocks, _ in sums], float)
        places.append(
            _Place(candidates, row[candidates], own.T.reshape(len(candidates), len(sums)))
        )
    start = np.array([fixed for fixed, *_ in sums], float)  # integers stay exact below 2^53
    most = np.array([limit for *_, limit in sums], float)
    prices = _prices(places, start, most)
    if prices is None:
        return None
    reached, genes = _at_prices(places, start, most, prices), None
    for width in _WIDTHS:
        genes, score, is_whole = _best(places, start, most, prices, reached, width)
        if is_whole:
            break
        reached = max(reached, score)
    return None if genes is None else costs.space.decode(genes)


def _of_all(
    costs: EdgeCellCosts, values: Sequence[Floats], limits: Mapping[str, float]
) -> Genotype | None:
    genes = costs.all_genes()
    spent = np.stack([costs.batch(cost, genes) for cost in limits], axis=1)
    within = np.all(spent <= list(limits.values()), axis=1)
    genes, spent = genes[within], spent[within]
    if not len(genes):
        return None
    score = np.zeros(len(genes))
    for row, gene in zip(values, genes.T, strict=True):
        score += row[gene]
    return costs.space.decode(genes[_in_order(score, spent, genes)[0]])


def _prices(places: Sequence[_Place], start: Floats, limits: Floats) -> Floats | None:
    """What a unit of each cost is worth in values, (limits,), where blocks may be
    mixtures of candidates: the dual solution of that linear programme. None where not even a
    mixture meets the limits.
    """
    if not len(limits):
        return limits
    if len(limits) == 1:
        return _price(places, (limits - start)[0])
    owner = np.repeat(np.arange(len(places)), [len(place.values) for place in places])
    solved = linprog(
        -np.concatenate([place.values for place in places]),
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


def _price(places: Sequence[_Place], limit: float) -> Floats | None:
    """The same for a single cost, without a solver: the lowest price at which the candidates that
    are then the best, block by block, stay within the limit. limit: for these alone.
    """
    shape = len(places), max(len(place.values) for place in places)
    values, costs = np.full(shape, -np.inf), np.zeros(shape)
    for row, place in enumerate(places):
        values[row, : len(place.values)] = place.values
        costs[row, : len(place.values)] = place.costs[:, 0]
    rows = np.arange(len(places))

    def spent(price: float) -> float:
        return float(costs[rows, np.argmax(values - price * costs, axis=1)].sum())

    if sum(place.costs.min() for place in places) > limit * (1 + _ROUNDING):
        return None
    low, high = 0.0, 1 / limit if limit > 0 else 1.0
    for _ in range(
        20
    ):  # at a higher price sums would round; any price gives bounds, if looser ones
        if spent(high) <= limit:
            break
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= limit else (middle, high)
    return np.array([high])


def _at_prices(places: Sequence[_Place], start: Floats, limits: Floats, prices: Floats) -> float:
    """The sum of the arch of the best candidates at these prices, often a good one; minus infinity
    where it is over a limit.
    """
    best = [int(np.argmax(place.values - place.costs @ prices)) for place in places]
    spent = start + sum(place.costs[i] for place, i in zip(places, best, strict=True))
    if np.any(spent > limits):
        return -np.inf
    return float(sum(place.values[i] for place, i in zip(places, best, strict=True)))


def _best(
    places: Sequence[_Place],
    start: Floats,
    limits: Floats,
    prices: Floats,
    reached: float,
    width: int | None,
) -> tuple[NDArray[np.int64] | None, float, bool]:
    """Genes and sum of the best arch, and whether no better one can have been missed.

    start: what all archs cost. reached: a sum that some arch within the limits has.
    width: how many beginnings of archs are gone on with at most, None for all.

    A beginning is given up where a limit is passed by whatever follows; where it cannot become as
    good as what is reached, by its score and what is left of the limits at their prices
    (Lagrangian relaxation); and where another is as good and as cheap.
    """
    ahead_costs = [np.zeros(len(limits))]  # at least, from each place on
    ahead_score = [0.0]  # at most, costs at their prices taken off
    for place in reversed(places):
        ahead_costs.append(ahead_costs[-1] + place.costs.min(axis=0))
        ahead_score.append(ahead_score[-1] + float((place.values - place.costs @ prices).max()))
    genes = np.zeros((1, 0), dtype=np.int64)
    score, spent, is_whole = np.zeros(1), start[None], True
    for left, place in zip(reversed(range(len(places))), places, strict=True):
        score = (score[:, None] + place.values).ravel()
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


def _in_order(score: Floats, costs: Floats, genes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows by score, of equal ones by costs, then by genes."""
    return np.lexsort((*genes.T[::-1], *costs.T[::-1], -score))


def _undominated(score: Floats, costs: Floats, genes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that no other is at least as good as in score (n,) and costs (n, limits), the best
    first; of equal ones the first by genes (n, blocks).
    """
    order = _in_order(score, costs, genes)
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
