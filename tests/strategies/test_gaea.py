"""GAEA: what its step minimises, how fast it is, and that probabilities stay probabilities."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import STEPS, Steps, Toy, choices, configured

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import EdgeCellSpace, load_listed_space, load_space
from mobilenas.strategies.gaea import LEAST, Gaea, exponentiated
from mobilenas.strategies.searchable import Searchable


def simplex(seed: int, n: int = 5) -> tuple[Tensor, Tensor]:
    """Probabilities and a gradient."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.dirichlet(np.ones(n))), torch.tensor(rng.normal(size=n))


def made(**settings: Any) -> Gaea:
    config = configured(Gaea, **settings)
    return Gaea(choices(3, 3), config, seed=0)  # type: ignore[arg-type]


def edge_cells(name: str) -> EdgeCellSpace:
    space = load_listed_space(name)
    assert isinstance(space, EdgeCellSpace)
    return space


def test_a_step_is_a_subtraction_of_logarithms() -> None:
    for seed in range(20):
        p, gradient = simplex(seed)
        moved = p * (-0.1 * gradient).exp()
        assert (exponentiated(p, 0.1 * gradient) - moved / moved.sum()).abs().max() < 1e-14


def test_a_step_is_the_proximal_one() -> None:
    """It minimises <gradient, q> + KL(q, p) / eta over the simplex."""
    eta, (p, gradient) = 0.5, simplex(3)

    def objective(q: Tensor) -> Tensor:
        return (q * gradient).sum(-1) + (q * (q / p).log()).sum(-1) / eta

    others = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(5), 20_000)).clamp_min(1e-12)
    assert objective(exponentiated(p, eta * gradient)) < objective(others).min()


@pytest.mark.parametrize("gap", [0.01, 0.1])
def test_how_many_steps_it_needs(gap: float) -> None:
    n, eta = 5, 0.1
    p, gradient = torch.full((n,), 1 / n).double(), torch.zeros(n).double()
    gradient[0] = -gap
    steps = 0
    while p[0] < 0.9:
        p, steps = exponentiated(p, eta * gradient), steps + 1
    assert 0 <= steps - math.log(9 * (n - 1)) / (eta * gap) < 1


def test_probabilities_stay_on_the_simplex_and_above_the_least(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = made(eta=1.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            strategy.apply([torch.tensor([0.0, 50.0, 1000.0])] * 2)
    assert len(caplog.records) == 1  # told once that eta is too large
    for p in strategy.probabilities():
        assert float(p.detach().sum()) == pytest.approx(1, abs=1e-6)
        assert float(p.detach().min()) > 0.8 * LEAST  # none below it, then over their sum


def test_a_single_level_takes_another_batch_of_the_training_images() -> None:
    strategy = made(level="single")
    steps = Steps(Toy(2), strategy.config)
    seen: list[tuple[str, int]] = []
    for name in ("train", "batch"):
        get = getattr(steps.trainer, name)
        seen_by = lambda n, name=name, get=get: (seen.append((name, n)), get(n))[1]  # noqa: E731
        setattr(steps.trainer, name, seen_by)
    steps.held = None  # never asked for
    strategy.step(steps(4))
    assert seen == [("batch", 4 + STEPS), ("train", 4)]
    assert strategy.config.held_out(1000) == strategy.config.batch_size
    assert made().config.held_out(1000) == 500


def test_the_rate_follows_the_number_of_steps() -> None:
    moved, toy = [], Toy(2)
    for eta in (None, 2000 / STEPS):
        strategy = made(eta=eta)
        strategy.learn(Steps(toy, strategy.config)(0))
        moved.append(strategy.parameters[0].detach())
    assert torch.equal(*moved)


def test_the_entropic_term_pulls_to_equal_probabilities() -> None:
    strategy = made(entropy_weight=0.5, eta=1.0)
    with torch.no_grad():
        strategy.parameters[0].copy_(torch.tensor([0.7, 0.2, 0.1]))
    steps = Steps(Toy(2), strategy.config)
    for n in range(20):
        step = steps(n)
        step.loss = lambda views, part: 0 * views[0][0]  # type: ignore[method-assign,misc]
        strategy.learn(step)
    for p in strategy.probabilities():
        torch.testing.assert_close(p.detach(), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("backbone", ["darts", "gdas"])
def test_ties_at_the_start_have_one_answer(backbone: str) -> None:
    """The cheapest arch, and in cells that keep two edges the first ones."""
    space = load_space("digits")
    searchable = Searchable(CostModel(space))
    strategy = Gaea(searchable.choices, configured(Gaea, backbone=backbone), 0)  # type: ignore[arg-type]
    costs = CostModel(space)
    found = strategy.derive(searchable, {"flops": 1e12})
    assert costs.flops(found) == costs.range("flops").minimum  # type: ignore[arg-type]
    cells = Searchable(EdgeCellCosts(edge_cells("darts:channels=4,cells=3,resolution=8")))
    of_cells = Gaea(cells.choices, configured(Gaea), 0)  # type: ignore[arg-type]
    first = of_cells.derive(cells, {})
    assert str(first) == str(of_cells.derive(cells, {}))
    assert all(start < 2 for node in first.cells[0] for _, start in node)  # type: ignore[union-attr]
    nb201 = Searchable(EdgeCellCosts(edge_cells("nb201:channels=4,cells=1,resolution=8")))
    of_nb201 = Gaea(nb201.choices, configured(Gaea), 0)  # type: ignore[arg-type]
    for limits in ({}, {"params": 1e9}):
        assert str(of_nb201.derive(nb201, limits)).count("none~") == 6


def test_the_edges_of_pc_darts_are_learnt_too() -> None:
    space = edge_cells("nb201:channels=8,cells=1,resolution=8")
    searchable = Searchable(EdgeCellCosts(space))
    config = configured(Gaea, backbone="pc-darts", parts=4)
    strategy = Gaea(searchable.choices, config, 0)  # type: ignore[arg-type]
    supernet = Gaea.supernet(searchable, config, torch.Generator().manual_seed(0))
    assert [len(p) for p in strategy.inputs()] == [1, 2, 3]
    steps = Steps(supernet, config)
    step = steps(0)
    step.searchable = searchable
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    supernet.train()
    views = searchable.placed(strategy.views(step, Stream.ARCH_STEP))
    loss = torch.nn.functional.cross_entropy(supernet(images, views), torch.arange(8))
    gradients = step.gradient(loss, strategy.parameters)
    assert all(g.abs().sum() > 0 for g in gradients)
    strategy.apply(gradients)
    for p in strategy.inputs():
        assert float(p.detach().sum()) == pytest.approx(1, abs=1e-6)


def test_what_it_does_not_suit() -> None:
    searchable = Searchable(CostModel(load_space("digits")))
    with pytest.raises(BadInput, match=r"digits: pc-darts lets channels pass .* takes cells"):
        Gaea.check(searchable, configured(Gaea, backbone="pc-darts"))


def test_one_candidate_is_drawn_with_gdas() -> None:
    strategy = made(backbone="gdas")
    steps = Steps(Toy(2), strategy.config)
    views = strategy.views(steps(0), Stream.ARCH_STEP)
    assert [len(view) for view in views] == [1, 1]  # type: ignore[arg-type]
