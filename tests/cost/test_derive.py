"""The most probable arch within limits, against enumeration."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog
from tables import made_up_table

from mobilenas.cost import CostModel, derive
from mobilenas.cost.derive import most_probable
from mobilenas.space import Arch, Genes, Space, load_space

LATENCY = "latency_ms@made-up"


@pytest.fixture(scope="module")
def macro() -> CostModel:
    space = load_space("macro")
    return CostModel(space, [made_up_table(space, wobble=0.5)])


@pytest.fixture(scope="module")
def everything(macro: CostModel) -> Genes:
    return np.array(list(product(*(range(len(b.candidates)) for b in macro.space.blocks))))


def drawn(space: Space, seed: int) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.ones(len(block.candidates))) for block in space.blocks]


def enumerated(
    costs: CostModel,
    genes: Genes,
    probabilities: list[NDArray[np.float64]],
    limits: dict[str, float],
) -> Arch | None:
    """The first by (probability, the limited costs, genes) of those that meet all limits."""
    score = sum(np.log(p)[column] for p, column in zip(probabilities, genes.T, strict=True))
    keys = [costs.batch(cost, genes) for cost in limits if cost != "memory"]
    within = np.all([costs.batch(c, genes) <= limit for c, limit in limits.items()], axis=0)
    if not within.any():
        return None
    order = np.lexsort((*genes.T[::-1], *keys[::-1], -np.asarray(score), ~within))
    return costs.space.decode(genes[order[0]])


COSTS = [
    *(("flops",), ("params",), (LATENCY,), ("memory",)),
    *(("flops", "params"), (LATENCY, "flops"), ("memory", "params"), ("flops", "params", LATENCY)),
]


@pytest.mark.parametrize("names", COSTS, ids="+".join)
def test_it_is_the_best_of_all(macro: CostModel, everything: Genes, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    met = 0
    for seed in range(20):
        probabilities = drawn(macro.space, seed)
        limits = {}
        for name in names:
            extent = macro.range(name)
            limits[name] = extent.minimum + rng.uniform(0, 0.8) * (extent.maximum - extent.minimum)
        expected = enumerated(macro, everything, probabilities, limits)
        assert most_probable(macro, probabilities, limits) == expected
        met += expected is not None
    assert met > 10


def test_a_limit_that_is_met_exactly_is_met(macro: CostModel, everything: Genes) -> None:
    probabilities = drawn(macro.space, 0)
    for name in ("flops", "params", LATENCY):
        for genes in everything[::997]:
            cost = macro.batch(name, genes[None])[0].item()
            found = most_probable(macro, probabilities, {name: cost})
            assert found is not None and macro.of(found)[name] <= cost
            assert found == enumerated(macro, everything, probabilities, {name: cost})


def test_no_arch_is_none(macro: CostModel) -> None:
    probabilities = drawn(macro.space, 0)
    for name in ("flops", "memory", LATENCY):
        least = macro.range(name).minimum
        assert most_probable(macro, probabilities, {name: least * 0.999}) is None
        assert most_probable(macro, probabilities, {name: least}) is not None


def test_equal_probabilities_have_one_answer(macro: CostModel) -> None:
    equal = [np.full(len(b.candidates), 0.5) for b in macro.space.blocks]
    limit = {"flops": macro.range("flops").median}
    assert most_probable(macro, equal, limit) == macro.smallest("flops")
    assert most_probable(macro, equal, {}) == macro.space.decode(np.zeros(8, dtype=int))


def test_a_candidate_of_probability_0_is_the_last_resort(macro: CostModel) -> None:
    certain = [np.eye(len(b.candidates))[-1] for b in macro.space.blocks]
    largest = most_probable(macro, certain, {})
    assert largest is not None
    limit = {"flops": macro.flops(largest) - 1}
    found = most_probable(macro, certain, limit)
    assert found is not None and found != largest
    differ = [a != b for a, b in zip(found.blocks, largest.blocks, strict=True)]
    assert sum(differ) == 1


def test_the_price_of_one_cost_is_that_of_the_linear_programme() -> None:
    """Which is the price of the lowest bound; at others the bound is higher."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = [
            derive._Place(np.arange(n), rng.standard_normal(n), rng.integers(1, 1000, (n, 1)))
            for n in rng.integers(1, 8, size=6).tolist()
        ]
        low = sum(place.costs.min() for place in places)
        high = sum(place.costs.max() for place in places)
        limit = low + rng.uniform(0, 1.1) * (high - low)
        price = derive._price(places, limit)
        solved = linprog(
            -np.concatenate([place.values for place in places]),
            A_ub=np.concatenate([place.costs for place in places]).T,
            b_ub=[limit],
            A_eq=np.repeat(np.eye(6), [len(place.values) for place in places], axis=1),
            b_eq=np.ones(6),
        )
        assert price is not None
        best = sum((place.values - place.costs[:, 0] * price).max() for place in places)
        assert best + price * limit == pytest.approx(-solved.fun)
        assert derive._price(places, 0.99 * low) is None


@pytest.mark.parametrize("widths", [(1, None), (3, 9, None), (None,)])
def test_how_many_beginnings_are_gone_on_with_changes_nothing(
    widths: tuple[int | None, ...],
    macro: CostModel,
    everything: Genes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(derive, "_WIDTHS", widths)
    for seed in range(5):
        probabilities = drawn(macro.space, seed)
        for share in (0.02, 0.3, 0.6):
            limits = {}
            for name in ("flops", LATENCY):
                extent = macro.range(name)
                limits[name] = extent.minimum + share * (extent.maximum - extent.minimum)
            expected = enumerated(macro, everything, probabilities, limits)
            assert most_probable(macro, probabilities, limits) == expected


def test_bounds_leave_few_beginnings_of_a_large_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them 66,000 are compared at a time under three limits, which takes half a minute."""
    compared, undominated = [], derive._undominated

    def counting(score: Any, costs: Any, genes: Any) -> Any:
        compared.append(len(score))
        return undominated(score, costs, genes)

    monkeypatch.setattr(derive, "_undominated", counting)
    space = load_space("s1")
    costs = CostModel(space, [made_up_table(space, wobble=0.5)])
    for seed in range(3):
        limits = {name: costs.range(name).median for name in ("flops", "params", LATENCY)}
        assert most_probable(costs, drawn(space, seed), limits) is not None
    assert max(compared) < 5000
