"""ISTA-NAS: the sparse recovery, what is taken by it, and the weights of that."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toys import ImageBatches, Steps, cells, configured, searched

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import EdgeCellCosts, costs_of
from mobilenas.space import EdgeCellSpace, Space, load_listed_space, load_space
from mobilenas.strategies.compressed import Node, make_nodes
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.ista import Ista
from mobilenas.strategies.lasso import lasso
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.searchable import Searchable

Matrix = NDArray[np.float64]
SPACES = ["darts", "nb201", "blocks"]


def space_of(name: str) -> Space | EdgeCellSpace:
    return load_space("digits:width=0.5,resolution=8") if name == "blocks" else cells(name)


def ista(space: Space | EdgeCellSpace, **settings: Any) -> Ista:
    return Ista(searched(space).choices, configured(Ista, **settings), seed=0)


def steps_in(strategy: Ista, space: Space | EdgeCellSpace) -> Steps:
    generator = torch.Generator().manual_seed(0)
    supernet = strategy.supernet(searched(space), strategy.config, generator)
    return Steps(supernet, strategy.config, ImageBatches, space=space)


def residual(matrix: Matrix, b: Matrix, prices: Matrix, z: Matrix) -> float:
    """How far z is from what makes a minimum (Karush, Kuhn and Tucker)."""
    slopes = matrix.T @ (b - matrix @ z)
    off = np.maximum(np.abs(slopes) - prices, 0)
    return float(np.where(z != 0, np.abs(slopes - prices * np.sign(z)), off).max())


@pytest.mark.parametrize("columns", [14, 21, 28, 35, 5, 3])
def test_the_recovery_is_exact(columns: int) -> None:
    rows = min(7, (columns + 1) // 2)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        matrix, b = rng.random((rows, columns)), rng.normal(size=rows) * (1e-3, 0.3)[seed % 2]
        prices = 1e-5 * rng.uniform(0.2, 3, columns) if seed % 3 else np.full(columns, 1e-5)
        z = lasso(matrix, b, prices)
        assert residual(matrix, b, prices, z) < 1e-12
        assert np.count_nonzero(z) <= rows
    assert not lasso(matrix, 0 * b, prices).any()
    assert not lasso(matrix, b, prices + np.abs(matrix.T @ b).max()).any()


def test_a_price_moves_the_choice_as_it_is_predicted_to() -> None:
    """With A the identity, z is b less the price, and the larger one is taken."""
    node = Node(range(1), 1, [np.eye(2)], np.eye(2), (None,))
    b = np.array([1.0, 0.9])
    for prices, taken in (([0.1, 0.1], 0), ([0.3, 0.1], 1), ([0.15, 0.1], 0)):
        z = node.recovered(b, np.array(prices))
        np.testing.assert_allclose(z, b - prices, rtol=1e-12)
        assert node.chosen(z) == {0: taken}
    costs = [[np.array([1.0, 3.0])]]
    np.testing.assert_allclose(node.dearness(costs, 2.0), [2 / 3, 4 / 3])
    np.testing.assert_allclose(node.dearness([], 2.0), 1)


def test_prices_stay_above_0_whatever_a_fitted_latency_is() -> None:
    node = Node(range(1), 1, [np.eye(3)], np.eye(3), (None,))
    for weight in (0.1, 1e6):
        for ms in ([-0.5, 0.0, 0.25], [-2.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]):
            found = node.dearness([[np.array(ms)]], weight)
            assert (found > 0).all() and (np.diff(found) >= 0).all()
            assert np.isfinite(node.recovered(np.array([1.0, 0.9, 0.8]), 0.1 * found)).all()


def test_the_weights_are_the_coefficients_and_what_they_leave_of_b() -> None:
    for node in make_nodes(searched(cells("darts")).choices, seed=0):
        rng = np.random.default_rng(0)
        b = torch.tensor(rng.normal(size=len(node.matrix)), requires_grad=True)
        z = node.recovered(b.detach().numpy(), np.full(node.matrix.shape[1], 1e-5))
        taken = node.chosen(z)
        support = [int(node.members[p - node.places.start][c].argmax()) for p, c in taken.items()]
        cut = np.zeros_like(z)
        cut[support] = z[support]
        matrix = node.matrix
        bias = ((matrix.T @ matrix - np.eye(len(z))).T @ cut)[support]
        released = matrix[:, support].T @ b.detach().numpy() - bias
        weights = node.weights(b, z)
        found = np.array([w.item() for w in weights.values()])
        np.testing.assert_allclose(found, released, rtol=1e-12, atol=1e-12)
        for weight, column in zip(weights.values(), support, strict=True):
            (gradient,) = torch.autograd.grad(weight, b, retain_graph=True)
            np.testing.assert_allclose(gradient.numpy(), matrix[:, column])


def test_the_two_inputs_of_a_node_are_different() -> None:
    node = make_nodes(searched(cells("darts")).choices, seed=0)[1]  # three edges
    alike = 0
    for seed in range(200):
        b = 1e-3 * np.random.default_rng(seed).normal(size=7)
        z = node.recovered(b, np.full(21, 1e-5))
        assert len(node.chosen(z)) == 2
        first, second = np.argsort(-np.abs(z))[:2] // 7
        alike += first == second
    assert alike > 20  # of the two largest as such


def test_whatever_there_is_can_be_taken() -> None:
    for name in SPACES:
        for node in make_nodes(searched(space_of(name)).choices, seed=3):
            for column in range(node.matrix.shape[1]):
                z = node.recovered(node.matrix[:, column], np.full(node.matrix.shape[1], 1e-3))
                assert np.flatnonzero(np.abs(z) > 1e-9).tolist() == [column]


def test_where_there_is_no_coefficient_something_is_taken_all_the_same() -> None:
    node = make_nodes(searched(cells("nb201")).choices, seed=0)[2]  # three edges of five ops
    z = node.recovered(node.matrix[:, 1], np.full(15, 1e-3))
    assert np.count_nonzero(np.abs(z) > 1e-20) == 1
    assert node.chosen(z) == {3: 1, 4: 0, 5: 0}  # `none` of the edges without any
    assert all(scores.sum() > 0 for scores in node.scores(z))
    space = load_listed_space("nb201:channels=4,cells=1,ops=[skip_connect,nor_conv_3x3]")
    node = make_nodes(Searchable(costs_of(space)).choices, seed=0)[2]
    z = node.recovered(node.matrix[:, 1], np.full(6, 1e-3))
    assert node.chosen(z)[3] == 1 and all(scores.sum() > 0 for scores in node.scores(z))


def test_cells_of_two_edges_a_node_never_take_none() -> None:
    nodes = make_nodes(searched(cells("darts")).choices, seed=0)
    assert [node.matrix.shape for node in nodes] == [(7, n) for n in (14, 21, 28, 35)] * 2
    assert all(not members[0].any() for node in nodes for members in node.members)


@pytest.mark.parametrize("name", SPACES)
def test_only_what_is_taken_runs_and_it_is_what_is_derived(name: str) -> None:
    space = space_of(name)
    strategy = ista(space)
    steps = steps_in(strategy, space)
    for n in range(3):
        step = steps(n, n / 2)
        strategy.step(step)
        views = strategy.views(step, Stream.ARCH_STEP)
        taken = [view if isinstance(view, dict) else {} for view in views]
        assert all(len(view) <= 1 for view in taken[: len(step.searchable.choices.ops)])
        one_hot = torch.cat(strategy.occurrences())
        if isinstance(space, EdgeCellSpace):
            genes = np.array([next(iter(view), -1) for view in taken[: len(space.choices)]])
            arch = space.decode(genes)
            assert name != "darts" or one_hot.sum() == 16  # two of 14, 21, 28 and 35, twice
            exact = EdgeCellCosts(space).of(arch)["flops"]
        else:
            arch = space.decode(np.array([next(iter(view)) for view in taken]))  # type: ignore[assignment]
            exact = step.searchable.costs.of(arch)["flops"]  # type: ignore[arg-type]
        assert strategy.derive(step.searchable, {}) == arch
        assert step.cost.of("flops", strategy.occurrences()).item() == exact


def test_a_chain_of_blocks_passes_on_what_it_takes() -> None:
    space = load_space("macro:width=0.25,resolution=8,num_classes=4")
    strategy = ista(space)
    steps = steps_in(strategy, space)
    views = strategy.views(steps(0), Stream.ARCH_STEP)
    assert all(abs(w.item()) == 1 for view in views for w in view.values())  # type: ignore[union-attr]
    logits = steps.trainer.module(steps.held(0)[0], views)
    assert logits.std(0).min() > 0.01  # images differ
    (w,) = views[0].values()  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(w, strategy.parameters[0])
    node, b = strategy.nodes[0], strategy.parameters[0]
    (own,) = node.weights(b, strategy.z[0]).values()
    torch.testing.assert_close(gradient, torch.autograd.grad(own, b)[0] / own.detach().abs())


def test_what_is_taken_stays_until_the_next_recovery() -> None:
    strategy = ista(cells("darts"), recoveries=4)
    steps = Steps(torch.nn.Linear(1, 1), strategy.config, space=cells("darts"))
    rng = np.random.default_rng(0)
    changed = []
    for n in range(17):
        before = [each.copy() for each in strategy.z]
        strategy.views(steps(n, n / 16), Stream.ARCH_STEP)
        pairs = zip(before, strategy.z, strict=True)
        changed.append(not all(np.array_equal(a, b) for a, b in pairs))
        with torch.no_grad():
            for b in strategy.parameters:
                b.add_(torch.from_numpy(rng.normal(size=len(b))))
    # Four, of which the one of the start found the same; in the last step there is none.
    assert changed == [False, *[n % 4 == 0 for n in range(1, 16)], False]
    many = ista(cells("darts"), recoveries=50)
    found = many.z
    for progress in (0.0, 0.5, 1.0):  # more recoveries than steps
        many.views(steps(0, progress), Stream.ARCH_STEP)
        found, before = many.z, found
    assert found is before


def test_what_is_not_taken_forgets_its_momentum() -> None:
    space = cells("nb201")
    strategy = ista(space)
    steps = steps_in(strategy, space)
    taken = []
    for n in range(4):
        strategy.fit(steps(n, n / 4))
        weights = dict(steps.trainer.module.named_parameters())
        taken.append({name for name, weight in weights.items() if weight.grad is not None})
        state = steps.trainer.optimizer.state
        assert {name for name, weight in weights.items() if weight in state} == taken[-1]
        with torch.no_grad():
            for b in strategy.parameters:
                b.copy_(-b.roll(1))
    assert taken[0] != taken[1]


def test_a_limit_makes_dear_what_costs_much() -> None:
    searchable = searched(space_of("blocks"))
    node = ista(space_of("blocks")).nodes[0]
    assert ExpectedCost(searchable.costs, {}).limited() == []
    limited = ExpectedCost(searchable.costs, {"flops": 1.0}).limited()
    costs = dict(zip(searchable.choices.ops[0].candidates, limited[0][0], strict=True))
    single = np.array([costs[f"e{e}k{k}"] for e in (3, 6) for k in (3, 5, 7)])
    np.testing.assert_allclose(node.dearness(limited, 1e6), single / single.mean(), rtol=1e-5)


@pytest.mark.parametrize("setting", ["recoveries=0", "price=0"])
def test_settings_that_it_cannot_have(setting: str) -> None:
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        load_search_config("ista", "cpu", [setting])
