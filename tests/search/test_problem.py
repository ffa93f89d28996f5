import numpy as np
import pytest
from scipy.stats import zscore

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.latency import find_table
from mobilenas.cost.titles import latency_cost
from mobilenas.search import Problem, check_feasible
from mobilenas.search.problem import score
from mobilenas.space import load_space


def test_accuracy_is_negated_and_costs_are_not():
    values = {"accuracy": np.array([0.5, 0.7]), "params": np.array([3, 4])}
    problem = Problem(CostModel(load_space("macro")), ("accuracy", "params"))
    assert problem.points(values).tolist() == [[-0.5, 3], [-0.7, 4]]


def test_a_score_is_the_sum_of_both_in_deviations_of_the_reference():
    rng = np.random.default_rng(0)
    measured = np.column_stack([rng.random(30), rng.normal(700, 20, 30)])
    np.testing.assert_allclose(score(measured, measured), zscore(measured).sum(axis=1))
    # The unit of NASWOT does not matter, nor what is scored beside an arch.
    scaled = measured * [1, 1000] + [0, 5]
    np.testing.assert_allclose(score(scaled[3:7], scaled), score(measured, measured)[3:7])
    # Where all of the reference are alike in one of the two, the other decides.
    alike = np.array([[0.1, 690.0], [0.1, 720.0], [0.1, 750.0]])
    np.testing.assert_allclose(score(alike, alike), zscore(alike[:, 1]), atol=1e-9)
    assert score(np.array([[0.2, 720.0]]), alike) == pytest.approx(0.1)


def test_violations_are_relative_to_the_limit():
    space = load_space("macro")
    cost_model = CostModel(space)
    genes = space.sample_genes(50, np.random.default_rng(0))
    problem = Problem(cost_model, limits={"flops": 50_000_000, "params": 1_000_000})
    violations = problem.violations(genes)
    assert violations.shape == (50, 2)
    np.testing.assert_allclose(violations[:, 0], cost_model.flops_batch(genes) / 50e6 - 1)
    np.testing.assert_array_equal(violations[:, 1] <= 0, cost_model.batch("params", genes) <= 1e6)
    assert Problem(cost_model).violations(genes).shape == (50, 0)


@pytest.mark.parametrize(
    ("objectives", "limits", "message"),
    [
        (("flops",), {}, "exactly one of accuracy, score, prediction"),
        (("accuracy", "score", "flops"), {}, "exactly one of"),
        (("accuracy", "watts"), {}, "no cost 'watts'"),
        (("accuracy", "flops", "flops"), {}, "distinct"),
        (("accuracy", "flops"), {"watts": 1}, "no cost 'watts'"),
        (("accuracy", "flops"), {"flops": 0}, "above 0"),
        (("accuracy", "flops"), {"flops": float("nan")}, "above 0"),
    ],
)
def test_bad_problems_name_what_is_wrong(objectives, limits, message):
    with pytest.raises(BadInput, match=message):
        Problem(CostModel(load_space("macro")), objectives, limits)


def test_infeasible_limit_raises_with_the_range():
    cost_model = CostModel(load_space("s1"))
    with pytest.raises(InfeasibleBudget) as raised:
        check_feasible(cost_model, {"params": 5e6, "flops": 100e6})
    assert str(raised.value) == (
        "no arch of s1 has at most 100M flops: the space ranges from 242.8M to 681.3M"
    )


def test_the_cheapest_arch_is_feasible_at_exactly_its_cost():
    cost_model = CostModel(load_space("s1"))
    minimum = cost_model.range("flops").minimum
    assert check_feasible(cost_model, {"flops": minimum}) == 0
    with pytest.raises(InfeasibleBudget):
        check_feasible(cost_model, {"flops": minimum - 1})


def test_limits_that_only_different_archs_meet_are_infeasible_together():
    names = [f"epyc-zen5-onnxruntime-{dtype}-s2" for dtype in ("fp32", "int8")]
    space = load_space("s2")
    cost_model = CostModel(space, [find_table(name, space) for name in names])
    limits = dict(zip(map(latency_cost, names), (3.26, 2.17), strict=True))
    for name, limit in limits.items():
        check_feasible(cost_model, {name: limit})
    with pytest.raises(InfeasibleBudget, match=r"no arch of s2 meets .* together"):
        check_feasible(cost_model, limits)


def test_share_of_feasible_archs():
    cost_model = CostModel(load_space("macro"))
    assert check_feasible(cost_model, {}) == 1
    median = cost_model.range("flops").median
    assert check_feasible(cost_model, {"flops": median}) == pytest.approx(0.5, abs=0.02)
