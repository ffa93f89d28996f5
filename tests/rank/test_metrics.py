"""Rank correlations against scipy and brute force, their intervals, and regret by enumeration."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.rank import metrics
from mobilenas.rank.metrics import (
    Estimate,
    RankMetrics,
    default_budgets,
    rank_metrics,
    regrets,
)

Floats = NDArray[np.float64]
CORRELATIONS = ("kendall", "spearman", "pearson", "top_quarter", "near_flops")


def draw(n: int, seed: int = 0, noise: float = 0.5) -> tuple[Floats, Floats, Floats]:
    """Predictions, truth and FLOPs of n archs, with ties in each."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n).round(1)
    flops = (1e7 * (30 + truth + rng.normal(size=n))).round(-6)
    return (truth + noise * rng.normal(size=n)).round(1), truth, flops


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def brute_tau_b(x: Floats, y: Floats, pairs: list[tuple[int, int]]) -> float:
    signs = np.array([(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs])
    ties = (signs == 0).sum(axis=0)
    return float(signs.prod(axis=1).sum() / math.sqrt(np.prod(len(pairs) - ties)))


@pytest.mark.parametrize("n", [3, 17, 60, 300])
def test_values_are_those_of_scipy(n: int) -> None:
    predicted, truth, flops = draw(n)
    found = rank_metrics(predicted, truth, flops, seed=0, resamples=20)
    assert found.n == n
    assert value(found.kendall) == pytest.approx(stats.kendalltau(predicted, truth).statistic)
    assert value(found.spearman) == pytest.approx(stats.spearmanr(predicted, truth).statistic)
    assert value(found.pearson) == pytest.approx(stats.pearsonr(predicted, truth).statistic)


def test_the_matrix_of_pairs_may_be_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = draw(50)
    whole = rank_metrics(*columns, seed=0, resamples=50)
    monkeypatch.setattr(metrics, "_PAIR_ROWS", 7)
    assert rank_metrics(*columns, seed=0, resamples=50) == whole


def test_intervals_are_percentiles_of_resampled_archs() -> None:
    """Second source: every resample by itself, its duplicates as archs like any other."""
    n, resamples = 40, 100
    predicted, truth, flops = draw(n)
    found = rank_metrics(predicted, truth, flops, seed=3, resamples=resamples)
    rows = generator(3, Stream.BOOTSTRAP).integers(n, size=(resamples, n))
    for name, statistic in (
        ("kendall", stats.kendalltau),
        ("spearman", stats.spearmanr),
        ("pearson", stats.pearsonr),
        ("top_quarter", lambda x, y: stats.kendalltau(*top_quarter(x, y))),
    ):
        values = [statistic(predicted[row], truth[row]).statistic for row in rows]
        estimate = getattr(found, name)
        expected = np.nanpercentile(values, [2.5, 97.5])
        np.testing.assert_allclose([estimate.low, estimate.high], expected, atol=1e-12)

    def near(row: NDArray[np.int64]) -> float:
        return brute_tau_b(predicted[row], truth[row], near_pairs(flops[row]))

    expected = np.percentile([near(row) for row in rows], [2.5, 97.5])
    interval = [found.near_flops.low, found.near_flops.high]
    np.testing.assert_allclose(interval, expected, atol=1e-12)


def top_quarter(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    best = y >= np.sort(y)[math.ceil(0.75 * (len(y) - 1))]
    return x[best], y[best]


def near_pairs(flops: Floats) -> list[tuple[int, int]]:
    pairs = combinations(range(len(flops)), 2)
    return [(i, j) for i, j in pairs if max(flops[i], flops[j]) <= 1.05 * min(flops[i], flops[j])]


@pytest.mark.parametrize("seed", range(5))
def test_near_equal_flops_against_enumeration(seed: int) -> None:
    predicted, truth, flops = draw(60, seed)
    pairs = near_pairs(flops)
    assert 50 < len(pairs) < 60 * 59 / 2
    found = rank_metrics(predicted, truth, flops, seed=0, resamples=10)
    assert found.near_flops_pairs == len(pairs)
    assert value(found.near_flops) == pytest.approx(brute_tau_b(predicted, truth, pairs))


def test_flops_know_little_of_pairs_with_near_equal_flops() -> None:
    rng = np.random.default_rng(0)
    flops = rng.uniform(1e7, 9e7, 300)
    truth = flops / 9e7 + 0.1 * rng.normal(size=300)
    found = rank_metrics(flops, truth, flops, seed=0, resamples=200)
    assert value(found.kendall) > 0.7
    assert abs(value(found.near_flops)) < 0.25


@pytest.mark.parametrize(("n", "top"), [(4, 1), (8, 2), (30, 8), (34, 9), (1000, 250)])
def test_the_top_quarter_is_by_true_accuracy(n: int, top: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(n) / n
    predicted = np.where(truth >= np.sort(truth)[-top], truth, rng.random(n) - 1)
    found = rank_metrics(predicted, truth, np.ones(n), seed=0, resamples=10)
    assert found.top_quarter_archs == top
    assert found.top_quarter.value == (pytest.approx(1) if top > 1 else None)
    assert value(found.kendall) < 1


def test_archs_as_good_as_the_last_of_the_top_quarter_are_in_it() -> None:
    truth = np.array([0.9, 0.8, 0.8, 0.8, 0.1, 0.2, 0.3, 0.4])
    found = rank_metrics(np.arange(8.0), truth, np.ones(8), seed=0, resamples=10)
    assert found.top_quarter_archs == 4


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int64, 25, elements=st.integers(-5, 5)),
    arrays(np.int64, 25, elements=st.integers(-5, 5)),
)
def test_order_alone_counts_and_a_turned_order_negates(x: NDArray, y: NDArray) -> None:
    flops = np.linspace(1e6, 2e6, 25)

    def of(predicted: Floats, truth: Floats) -> RankMetrics:
        return rank_metrics(predicted, truth, flops, seed=0, resamples=20)

    plain, bent, turned = of(x, y), of(np.exp(x), y / 7.0), of(-x, y)
    for name in CORRELATIONS:
        first, other = getattr(plain, name), getattr(turned, name)
        if name != "pearson":
            assert getattr(bent, name) == first
        if first.value is None:
            assert other == Estimate(None, None, None)
        else:
            expected = (-first.value, -first.high, -first.low)
            assert (other.value, other.low, other.high) == pytest.approx(expected, abs=1e-9)
            assert -1 - 1e-9 <= first.low <= first.high <= 1 + 1e-9


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Normal pairs of correlation r have Kendall 2/pi asin r and Spearman 6/pi asin r/2."""
    r, runs, hits = 0.7, 200, dict.fromkeys(CORRELATIONS, 0)
    rng = np.random.default_rng(0)

    def pairs(n: int) -> tuple[Floats, Floats]:
        x, y = rng.normal(size=(2, n))
        return x, r * x + math.sqrt(1 - r**2) * y

    true = {"kendall": 2 / math.pi * math.asin(r), "spearman": 6 / math.pi * math.asin(r / 2)}
    true |= {"pearson": r, "near_flops": true["kendall"]}  # all FLOPs are equal here
    true["top_quarter"] = stats.kendalltau(*top_quarter(*pairs(10_000))).statistic
    for seed in range(runs):
        found = rank_metrics(*pairs(60), np.ones(60), seed=seed, resamples=300)
        for name in CORRELATIONS:
            estimate = getattr(found, name)
            hits[name] += bool(estimate.low <= true[name] <= estimate.high)
    assert all(0.89 * runs <= count for count in hits.values()), hits
    # The interval of the top quarter, 15 archs of 60, is wider than it need be.
    assert all(hits[name] <= 0.99 * runs for name in CORRELATIONS if name != "top_quarter"), hits


@pytest.mark.parametrize("constant", ["predicted", "truth"])
def test_a_constant_has_no_correlation(constant: str) -> None:
    predicted, truth, flops = draw(40)
    if constant == "predicted":
        predicted = np.full(40, 0.1)
    else:
        truth = np.full(40, 0.1)
    found = rank_metrics(predicted, truth, flops, seed=0)
    assert all(getattr(found, name) == Estimate(None, None, None) for name in CORRELATIONS)
    json.dumps(found.to_dict(), allow_nan=False)


def test_few_archs_are_no_evidence_and_no_error() -> None:
    for n in (1, 2, 3, 29, 30):
        found = rank_metrics(*draw(n), seed=0, resamples=50)
        assert found.evidence == (n >= 30)
        json.dumps(found.to_dict(), allow_nan=False)
    assert rank_metrics(*draw(1), seed=0).kendall == Estimate(None, None, None)


def test_a_seed_repeats_and_another_differs() -> None:
    columns = draw(50)
    assert rank_metrics(*columns, seed=0) == rank_metrics(*columns, seed=0)
    other = rank_metrics(*columns, seed=1)
    assert other.kendall.value == rank_metrics(*columns, seed=0).kendall.value
    assert other.kendall.low != rank_metrics(*columns, seed=0).kendall.low


def test_numbers_that_are_none_or_do_not_match_are_named() -> None:
    ones = np.ones(3)
    with pytest.raises(BadInput, match=r"predicted\[1\] is nan: must be a finite number"):
        rank_metrics(np.array([1, np.nan, 2]), ones, ones, seed=0)
    with pytest.raises(BadInput, match=r"cost\[2\] is inf"):
        regrets(ones, ones, np.array([1, 2, np.inf]), [3])
    with pytest.raises(BadInput, match=r"one number an arch.*'predicted': 3, 'truth': 2"):
        rank_metrics(ones, ones[:2], ones, seed=0)
    with pytest.raises(BadInput, match="one arch or more"):
        rank_metrics(ones[:0], ones[:0], ones[:0], seed=0)


def test_regret_against_enumeration() -> None:
    rng = np.random.default_rng(0)
    truth, cost = rng.random(80), rng.uniform(10e6, 90e6, 80)
    predicted = (truth + rng.normal(size=80)).round(0)  # many ties
    budgets = default_budgets(cost)
    found = regrets(predicted, truth, cost, budgets)
    for budget, row in zip(budgets, found, strict=True):
        within = [i for i in range(80) if cost[i] <= budget]
        highest = max(predicted[i] for i in within)
        picked = [truth[i] for i in within if predicted[i] == highest]
        best = max(truth[i] for i in within)
        assert (row.budget, row.archs, row.best) == (budget, len(within), best)
        assert row.chosen == pytest.approx(sum(picked) / len(picked))
        assert row.points == pytest.approx(100 * (best - sum(picked) / len(picked)))
        mean = sum(truth[i] for i in within) / len(within)
        assert row.random_points == pytest.approx(100 * (best - mean))
    assert [row.archs for row in found] == [16, 32, 48, 64, 80]


def test_a_perfect_prediction_has_no_regret() -> None:
    _, truth, cost = draw(50)
    for row in regrets(3 * truth, truth, cost, default_budgets(cost)):
        assert row.points == pytest.approx(0)
        assert row.random_points >= 0


def test_a_budget_that_no_arch_meets_is_refused_with_the_range() -> None:
    cost = np.array([30e6, 60e6])
    message = "budget 20M: no arch meets it, they cost from 30M to 60M"
    with pytest.raises(BadInput, match=message):
        regrets(cost, cost, cost, [30e6, 20e6])
