"""The cost model with latency tables: names, values, ranges, and what it refuses."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import made_up_table

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.space import Space, load_space

MACRO = load_space("macro")
ALL = np.array(list(product(range(3), repeat=8)))
COSTS = ("flops", "params", "memory", "latency_ms@a", "latency_ms@b")


def two_tables() -> CostModel:
    tables = [made_up_table(MACRO, "a", wobble=1), made_up_table(MACRO, "b", wobble=1)]
    return CostModel(MACRO, tables)


def test_costs_are_counted_ones_and_one_a_table() -> None:
    assert CostModel(MACRO).costs == COSTS[:3]
    assert two_tables().costs == COSTS


def test_a_table_proportional_to_flops_gives_latencies_that_are(small_space: Space) -> None:
    table = made_up_table(small_space, ms_per_mflop=2.5, overhead_ms=7.0)
    cost_model = CostModel(small_space, [table])
    genes = small_space.sample_genes(50, np.random.default_rng(0))
    latency = cost_model.batch("latency_ms@made-up", genes)
    assert latency.dtype == np.float64
    np.testing.assert_allclose(latency, 7 + 2.5e-6 * cost_model.flops_batch(genes), rtol=1e-12)
    np.testing.assert_allclose(latency, table.predict(small_space, genes), rtol=1e-12)


@pytest.mark.parametrize("cost", COSTS)
def test_range_equals_enumeration(cost: str) -> None:
    values, found = two_tables().batch(cost, ALL), two_tables().range(cost)
    assert (found.minimum, found.maximum) == (values.min(), values.max())  # to the last bit
    assert found.median == pytest.approx(np.median(values), rel=0.03)
    assert {type(found.minimum), type(found.median)} == {float if "@" in cost else int}


def test_one_by_one_equals_batch_to_the_last_bit() -> None:
    cost_model = two_tables()
    genes = ALL[::97]
    values = {cost: cost_model.batch(cost, genes).tolist() for cost in COSTS}
    for i, row in enumerate(genes):
        assert cost_model.of(MACRO.decode(row)) == {cost: values[cost][i] for cost in COSTS}
    assert cost_model.batch("latency_ms@a", genes[:0]).shape == (0,)


def test_feasible_share_under_limits_of_every_kind() -> None:
    cost_model = two_tables()
    limits = {cost: float(np.quantile(cost_model.batch(cost, ALL), 0.8)) for cost in COSTS}
    meets = np.all([cost_model.batch(cost, ALL) <= x for cost, x in limits.items()], axis=0)
    assert 0.2 < meets.mean() < 0.8
    assert cost_model.feasible_share(limits) == pytest.approx(meets.mean(), abs=0.018)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(COSTS), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_an_arch_over_a_limit_has_a_single_step_that_helps(
    cost: str, tightness: float, seed: int
) -> None:
    cost_model = two_tables()
    extent = cost_model.range(cost)
    limit = extent.minimum + tightness * (extent.maximum - extent.minimum)
    genes = MACRO.sample_genes(1, np.random.default_rng(seed))
    excess = cost_model.excess(cost, limit, genes)[0]
    assert (excess > 0) == (cost_model.batch(cost, genes)[0] > limit)
    if excess > 0:
        steps = np.repeat(genes, 24, axis=0)
        steps[np.arange(24), np.repeat(np.arange(8), 3)] = np.tile(range(3), 8)
        assert cost_model.excess(cost, limit, steps).min() < excess


REFUSED: dict[str, tuple[list[Any], str]] = {
    "resolution": ([made_up_table(load_space("macro:resolution=64"))], "is for 64 px, space macro"),
    "space": ([made_up_table(load_space("digits"))], "lacks .* rows of space macro, such as stem-"),
    "twice": ([made_up_table(MACRO), made_up_table(MACRO)], "latency table made-up is given twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_does_not_fit_is_refused(name: str) -> None:
    tables, message = REFUSED[name]
    with pytest.raises(BadInput, match=message):
        CostModel(MACRO, tables)


def test_an_unknown_cost_is_answered_with_the_tables_too() -> None:
    known = "no cost 'latency_ms@c'; known are flops, params, memory, latency_ms@a, latency_ms@b"
    with pytest.raises(BadInput, match=known):
        two_tables().range("latency_ms@c")
