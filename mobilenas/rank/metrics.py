"""How well predictions order archs: rank correlations with intervals, and the regret of a search.

Every correlation is computed for the data and for resamples of its archs by the same code, so a
value and its interval are always of the same thing. The intervals are percentiles of a bootstrap
over archs (Efron & Tibshirani 1993, section 13.3), which takes the archs as drawn independently.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.base.units import format_size

Floats = NDArray[np.float64]

MIN_EVIDENCE = 30  # archs below which a correlation is no evidence of a ranking
TOP_SHARE = 0.25
NEAR_FLOPS = 0.05
BUDGET_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
_LOW, _HIGH = 2.5, 97.5
_PAIR_ROWS = 1024  # rows of the matrix of pairs that are in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A correlation and its 95 % interval; all None where one side is constant."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RankMetrics:
    """How one predictor orders n archs.

    kendall is tau-b. top_quarter: tau-b among the best quarter by true accuracy. near_flops: tau-b
    over the pairs of archs whose FLOPs differ by at most 5 % of the smaller, so what a predictor
    knows beyond FLOPs. evidence: whether n is large enough to say anything (30).
    """

    n: int
    evidence: bool
    kendall: Estimate
    spearman: Estimate
    pearson: Estimate
    top_quarter: Estimate
    top_quarter_archs: int
    near_flops: Estimate
    near_flops_pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, None for what is undefined."""
        return asdict(self)


@dataclass(frozen=True)
class Regret:
    """What trusting a predictor costs under a budget.

    archs: how many are within the budget. best, chosen: true accuracy (0..1) of the best of them
    and of the one predicted best (the mean of those, where several are). points: best - chosen in
    percentage points; random_points: what picking one of them blindly costs on average.
    """

    budget: float
    archs: int
    best: float
    chosen: float
    points: float
    random_points: float


def rank_metrics(
    predicted: Floats, truth: Floats, flops: Floats, *, seed: int, resamples: int = 1000
) -> RankMetrics:
    """The correlations of predictions (n,), on any scale, with true accuracies (n,).

    flops (n,): of the archs. Equal seeds give equal resamples, so predictors compare in pairs.
    An arch that a resample holds twice is tied with itself in both rankings; tau-b counts no such
    pair, in no part of its fraction, so the resampled values are not pulled to 0 or 1. Every
    resample has a top quarter of its own, whose interval is rather too wide than too narrow.
    Raises BadInput for lengths that differ, no archs, or numbers that are not finite.
    """
    _check(predicted=predicted, truth=truth, flops=flops)
    n = len(truth)
    rng = generator(seed, Stream.BOOTSTRAP)
    rows = np.vstack([np.arange(n), rng.integers(n, size=(resamples, n))])
    counts = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float32)
    cuts = np.quantile(truth[rows], 1 - TOP_SHARE, axis=1, keepdims=True)
    top = counts * (truth >= cuts)
    x, y = predicted[rows], truth[rows]
    return RankMetrics(
        n=n,
        evidence=n >= MIN_EVIDENCE,
        kendall=_estimate(_tau_b(predicted, truth, counts)),
        spearman=_estimate(_pearson(rankdata(x, axis=1), rankdata(y, axis=1))),
        pearson=_estimate(_pearson(x, y)),
        top_quarter=_estimate(_tau_b(predicted, truth, top)),
        top_quarter_archs=int(top[0].sum()),
        near_flops=_estimate(_tau_b(predicted, truth, counts, flops)),
        near_flops_pairs=_count_near(flops),
    )


def default_budgets(cost: Floats) -> list[float]:
    """The costs that 20, 40, 60, 80 and 100 % of the archs stay within."""
    return [float(budget) for budget in np.quantile(cost, BUDGET_SHARES)]


def regrets(
    predicted: Floats, truth: Floats, cost: Floats, budgets: Sequence[float]
) -> list[Regret]:
    """The regret under each budget of picking the arch that is predicted best.

    predicted, truth (accuracy, 0..1), cost: (n,) each. Raises BadInput for a budget that no arch
    meets, lengths that differ, or numbers that are not finite.
    """
    _check(predicted=predicted, truth=truth, cost=cost)
    return [_regret(predicted, truth, cost, budget) for budget in budgets]


def _regret(predicted: Floats, truth: Floats, cost: Floats, budget: float) -> Regret:
    within = cost <= budget
    if not within.any():
        raise BadInput(
            f"budget {format_size(budget)}: no arch meets it, they cost from "
            f"{format_size(cost.min())} to {format_size(cost.max())}"
        )
    found, accuracy = predicted[within], truth[within]
    best, chosen = float(accuracy.max()), float(accuracy[found == found.max()].mean())
    return Regret(
        budget=float(budget),
        archs=int(within.sum()),
        best=best,
        chosen=chosen,
        points=100 * (best - chosen),
        random_points=100 * (best - float(accuracy.mean())),
    )


def _check(**columns: Floats) -> None:
    (first, *_), lengths = columns, {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or not lengths[first]:
        raise BadInput(f"there must be one number an arch, and one arch or more; got {lengths}")
    for name, values in columns.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise BadInput(f"{name}[{row}] is {values[row]}: must be a finite number")


def _estimate(values: Floats) -> Estimate:
    """values: of the data, then of its resamples; NaN where undefined."""
    resampled = values[1:][np.isfinite(values[1:])]
    if np.isnan(values[0]) or not len(resampled):
        return Estimate(None, None, None)
    low, high = np.percentile(resampled, [_LOW, _HIGH])
    return Estimate(float(values[0]), float(low), float(high))


def _pearson(x: Floats, y: Floats) -> Floats:
    """Of each row (rows, n); NaN where x or y is constant."""
    constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.where(constant, np.nan, (x * y).sum(axis=1) / np.where(constant, 1, norm))


def _tau_b(
    x: Floats, y: Floats, counts: NDArray[np.float32], flops: Floats | None = None
) -> Floats:
    """Kendall's tau-b of x and y (n,) for each row of counts (rows, n), which says how often each
    arch is there; only over pairs of near-equal FLOPs, if given. NaN where x or y is constant.

    (concordant - discordant) / sqrt(pairs not tied in x * pairs not tied in y) (Kendall 1945). With
    a matrix M of pairs each sum is half of counts . M . counts, so resamples cost one product.
    """
    sums = np.zeros((3, len(counts)))
    for start in range(0, len(x), _PAIR_ROWS):
        part = slice(start, start + _PAIR_ROWS)
        sign_x, sign_y = (np.sign(z[part, None] - z).astype(np.float32) for z in (x, y))
        if flops is not None:
            sign_x *= _near(flops, part)
            sign_y *= _near(flops, part)
        matrices = (sign_x * sign_y, abs(sign_x), abs(sign_y))
        for total, matrix in zip(sums, matrices, strict=True):
            # Whole numbers below 2^24, so exact in float32; their sum need not be.
            total += np.einsum("rn,rn->r", counts[:, part] @ matrix, counts, dtype=np.float64)
    score, untied_x, untied_y = sums
    untied = np.sqrt(untied_x * untied_y)
    return np.divide(score, untied, out=np.full(len(score), np.nan), where=untied > 0)


def _near(flops: Floats, part: slice) -> NDArray[np.bool_]:
    """Which pairs (rows of the part, n) have near-equal FLOPs."""
    a, b = flops[part, None], flops
    return abs(a - b) <= NEAR_FLOPS * np.minimum(a, b)


def _count_near(flops: Floats) -> int:
    near = sum(
        int(_near(flops, slice(start, start + _PAIR_ROWS)).sum())
        for start in range(0, len(flops), _PAIR_ROWS)
    )
    return (near - len(flops)) // 2
