"""A model of what archs are worth that adds up over blocks, and the archs that are best by it."""

import numpy as np
import pytest
from additive import additive
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from mobilenas.cost import CostModel
from mobilenas.search import AgingSearch, Measured, NSGA2Search, Problem
from mobilenas.search import additive as model
from mobilenas.search.additive import AdditiveModel, Posterior
from mobilenas.space import load_space

S1, S1_SKIP = load_space("s1"), load_space("s1:candidates.skip=true")


def normalised(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0, rows of mean square length 1, as the regression takes them."""
    x = x - x.mean(axis=0)
    return np.asarray(x / np.sqrt((x**2).sum(axis=1).mean()))


@pytest.mark.parametrize(("n", "features"), [(12, 30), (30, 12)])
def test_the_posterior_is_that_of_the_closed_form(n: int, features: int) -> None:
    """At the share of noise, and the variance, under which y is most likely."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, features))
    y = x @ rng.standard_normal(features) + 0.5 * rng.standard_normal(n)
    posterior = Posterior(x, y)

    x, y = normalised(x), (y - y.mean()) / y.std()
    evidence = {}
    for noise in model._NOISES:
        kernel = x @ x.T + noise * np.eye(n)
        for variance in y @ np.linalg.solve(kernel, y) / n * np.array([0.9, 1, 1.1]):
            evidence[noise, variance] = multivariate_normal.logpdf(y, cov=variance * kernel)
    noise, variance = max(evidence, key=lambda key: evidence[key])
    covariance = np.linalg.inv(x.T @ x + noise * np.eye(features))  # of noise's own variance 1
    np.testing.assert_allclose(posterior.mean, covariance @ x.T @ y, atol=1e-10)

    # Draws keep to the mean by a factor u that is uniform in 0..1, so E[u^2] = 1/3.
    draws = np.array([posterior.draw(rng) - posterior.mean for _ in range(20_000)])
    expected = variance * noise * covariance / 3
    np.testing.assert_allclose(draws.T @ draws / len(draws), expected, atol=0.05 * expected.max())


def drawn(problem: Problem, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    space = problem.cost_model.space
    genes = space.sample_genes(n, np.random.default_rng(1))
    return genes, np.array(additive(space)([space.decode(row) for row in genes]))


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "flops", "params")])
def test_archs_are_new_networks_within_the_limits(objectives: tuple[str, ...]) -> None:
    costs = CostModel(S1_SKIP)
    limits = {name: costs.range(name).median for name in ("flops", "params", "memory")}
    problem = Problem(costs, objectives, limits)
    genes, quality = drawn(problem, 40)
    found = AdditiveModel(problem, seed=0).archs(genes, quality, 6, seen=set())
    assert len(set(found)) == len(found) == 6
    assert (problem.violations(np.array(found)) <= 0).all()
    archs = [S1_SKIP.decode(np.array(row)) for row in found]
    assert all(S1_SKIP.canonical(arch) == arch for arch in archs)
    again = AdditiveModel(problem, seed=0).archs(genes, quality, 6, seen=set(found[:3]))
    assert again and not set(again) & set(found[:3])


def test_archs_of_a_front_spread_over_its_costs() -> None:
    problem = Problem(CostModel(S1))
    genes, quality = drawn(problem, 100)
    found = AdditiveModel(problem, seed=0).archs(genes, quality, 30, seen=set())
    extent = problem.cost_model.range()
    share = (problem.cost_model.flops_batch(np.array(found)) - extent.minimum) / (
        extent.maximum - extent.minimum
    )
    assert share.min() < 0.2 and share.max() > 0.8


def test_equal_qualities_say_nothing() -> None:
    problem = Problem(CostModel(S1))
    genes, quality = drawn(problem, 10)
    assert AdditiveModel(problem, 0).archs(genes, 0 * quality, 5, set()) == []
    assert AdditiveModel(problem, 0).archs(genes[:1], quality[:1], 5, set()) == []


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "flops")])
def test_qualities_that_add_up_are_learnt_in_a_large_space(
    objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 blocks of 30 candidates, whose worth has nothing to do with their cost or structure."""
    table = np.random.default_rng(0).random((12, 30)) / 12

    def best(seed: int) -> float:
        search = (NSGA2Search if objectives[1:] else AgingSearch)(
            Problem(CostModel(S1), objectives), population=20, generations=15, seed=seed
        )
        while (archs := search.ask()) is not None:
            worth = [table[np.arange(12), S1.encode(arch)].sum() for arch in archs]
            search.tell(dict(zip(archs, map(Measured, worth), strict=True)))
        return float(search.qualities().max())

    found = np.mean([best(seed) for seed in range(3)])
    monkeypatch.setattr(AdditiveModel, "archs", lambda *_: [])
    without = np.mean([best(seed) for seed in range(3)])
    assert found > without + 0.05
