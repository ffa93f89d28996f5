"""The arch that a strategy ends in: the most probable one within the limits, exactly."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import Arch, Genotype


def most_probable(
    costs: CostModel | EdgeCellCosts,
    probabilities: Sequence[NDArray[np.float64]],
    limits: Mapping[str, float],
) -> Arch | Genotype | None:
    """The arch of the largest product of probabilities that meets every limit {cost: largest
    value}; None where no arch does.

    probabilities: of each block, or edge of a cell, (candidates,); a candidate of probability 0 is
    taken where nothing else is within the limits. Of archs of one probability the cheapest is
    taken, of equal ones that of the first candidates.

    Costs are sums over these, so a beginning of an arch that is dearer and less probable than
    another never has to be looked at again: what is left after each are the beginnings that
    no other dominates (a multiple-choice knapsack by dynamic programming). A peak, as memory is,
    forbids candidates.
    """
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

    genes = np.zeros((1, 0), dtype=np.int64)
    score = np.zeros(1)
    spent = np.array([[fixed for fixed, *_ in sums]], dtype=float)  # integers stay exact below 2^53
    for place in range(len(probabilities)):
        candidates = np.flatnonzero(allowed[place])
        if not len(candidates) or not len(genes):
            return None
        log_p = np.log(np.maximum(probabilities[place][candidates], 1e-300))
        own = np.array([blocks[place][candidates] for _, blocks, _ in sums]).T
        own = own.reshape(len(candidates), len(sums))
        left = [sum(b.min() for b in blocks[place + 1 :]) for _, blocks, _ in sums]
        score = (score[:, None] + log_p).ravel()
        spent = (spent[:, None] + own).reshape(len(score), len(sums))
        index = np.tile(candidates, len(genes))
        genes = np.column_stack([np.repeat(genes, len(candidates), axis=0), index])
        # What is left rounds, and the costs themselves decide at the end.
        slack = 1e-9 if place + 1 < len(probabilities) else 0.0
        within = np.all(
            spent + left <= np.array([limit * (1 + slack) for *_, limit in sums]), axis=1
        )
        kept = _undominated(score[within], spent[within], genes[within])
        genes, score, spent = genes[within][kept], score[within][kept], spent[within][kept]
    return costs.space.decode(genes[0]) if len(genes) else None


def _undominated(
    score: NDArray[np.float64], costs: NDArray[np.float64], genes: NDArray[np.int64]
) -> NDArray[np.int64]:
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
