"""DrNAS: draws, their gradient, pruning, and what is derived."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet
from toys import Steps, Toy, cells, choices, configured, searched

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import load_listed_space
from mobilenas.strategies.drnas import Drnas
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.searchable import Searchable

DRAWS = 4000


def made(*x: list[float], **settings: Any) -> Drnas:
    strategy = Drnas(choices(*map(len, x)), configured(Drnas, **settings), seed=0)
    for own, values in zip(strategy.parameters, x, strict=True):
        with torch.no_grad():
            own.copy_(torch.tensor(values))
    return strategy


def draws(strategy: Drnas) -> Tensor:
    """Draws of the first choice, (draws, kept candidates)."""
    steps = Steps(Toy(1), strategy.config)
    views = (strategy.views(steps(n), Stream.ARCH_STEP)[0] for n in range(DRAWS))
    return torch.stack([torch.stack(list(view.values())) for view in views])  # type: ignore[union-attr]


def test_the_gradient_is_that_of_the_mean() -> None:
    """d E[w_i] / d b_j = (delta_ij - m_i) / sum b, with m the mean; here of i = 0, through b."""
    strategy = made([0.3, -0.5, 1.0])
    (x,) = strategy.parameters
    (b,) = strategy.concentrations()
    torch.testing.assert_close(b.float(), torch.nn.functional.elu(x) + 1)
    found, steps = [], Steps(Toy(1), strategy.config)
    for n in range(DRAWS):
        view = strategy.views(steps(n), Stream.ARCH_STEP)[0]
        found.append(torch.autograd.grad(view[0], x)[0])  # type: ignore[index]
    sampled = torch.stack(found).double()
    b = b.detach()
    slope = torch.where(x.detach() > 0, 1.0, x.detach().exp()).double()  # of ELU
    exact = (torch.tensor([1.0, 0, 0]).double() - b[0] / b.sum()) / b.sum() * slope
    error = sampled.std(0) / DRAWS**0.5
    assert ((sampled.mean(0) - exact).abs() < 3 * error + 1e-4).all()


def test_a_pruned_choice_is_drawn_as_the_rest_of_the_distribution() -> None:
    """Of a Dirichlet distribution some parts, over their sum, are one of their concentrations."""
    strategy = made([0.3, -0.5, 1.0, 0.2])
    strategy.prune(2)
    assert strategy.kept[0].tolist() == [0, 2]
    pruned = draws(strategy)
    b = torch.tensor([1.3, np.exp(-0.5), 2.0, 1.2])
    torch.manual_seed(0)
    whole = Dirichlet(b).sample((DRAWS,))[:, [0, 2]]
    whole = whole / whole.sum(1, keepdim=True)
    exact = Dirichlet(b[[0, 2]])
    for sample in (pruned.detach(), whole):
        assert (sample.mean(0) - exact.mean).abs().max() < 3 * (exact.variance.max() / DRAWS) ** 0.5
        torch.testing.assert_close(sample.double().var(0), exact.variance, rtol=0.08, atol=0)
    (p,) = strategy.probabilities()
    torch.testing.assert_close(p.detach(), torch.tensor([1.3, 0, 2.0, 0]) / 3.3)


def test_what_was_pruned_is_not_run_and_survives_a_kill() -> None:
    strategy = made([0.0, 1.0, 0.5], [2.0, 0.0, 1.0], prune_to=2, prune_at=0.5)
    steps = Steps(Toy(2), strategy.config)
    strategy.step(steps(0, 0.4))
    assert [len(kept) for kept in strategy.kept] == [3, 3]
    strategy.step(steps(1, 0.5))
    views = strategy.views(steps(2, 0.6), Stream.WEIGHT_STEP)
    assert [list(view) for view in views] == [[1, 2], [0, 2]]  # type: ignore[arg-type]
    again = made([0.0] * 3, [0.0] * 3, prune_to=2)
    again.load_state(strategy.state())
    assert [kept.tolist() for kept in again.kept] == [[1, 2], [0, 2]]


def test_it_goes_on_where_a_concentration_is_nothing() -> None:
    strategy = made([-50.0, 1.0, -50.0])
    (b,) = strategy.concentrations()
    assert (b > 0).all()
    steps = Steps(Toy(1), strategy.config)
    for n in range(20):
        strategy.step(steps(n))
    assert torch.isfinite(strategy.parameters[0]).all()
    steps.trainer.read_losses()  # finite


@pytest.mark.parametrize("anchor", ["kl_weight", "arch_weight_decay"])
def test_the_anchor_is_the_flat_distribution(anchor: str) -> None:
    strategy = made([1.0, -1.0, 0.5], **{anchor: 1.0})
    steps = Steps(Toy(1), strategy.config)
    for n in range(200):
        step = steps(n)
        step.loss = lambda views, part: 0 * views[0][0]  # type: ignore[method-assign,misc]
        strategy.learn(step)
    assert float(strategy.parameters[0].detach().abs().max()) < 0.05


def test_cells_of_a_type_have_one_draw_and_edges_rank_by_the_softmax() -> None:
    space = load_listed_space(
        "darts:channels=4,cells=6,resolution=8,ops=[skip_connect,sep_conv_3x3]"
    )
    searchable = Searchable(EdgeCellCosts(space))  # type: ignore[arg-type]
    strategy = Drnas(searchable.choices, configured(Drnas), seed=0)
    steps = Steps(Toy(1), strategy.config)
    placed = searchable.placed(strategy.views(steps(0), Stream.ARCH_STEP))
    count = 14 + 4
    cells = [placed[i : i + 14] for i in range(0, len(placed), count)]
    assert all(a is b for a, b in zip(cells[0], cells[1], strict=True))
    with torch.no_grad():  # the mean of edge 1-2 is larger, its softmax is not
        for x in strategy.parameters:
            x.copy_(torch.tensor([-2.0, -2.0]))
        strategy.parameters[2].copy_(torch.tensor([2.0, 0.9]))  # .59, .75
        strategy.parameters[3].copy_(torch.tensor([-3.0, -6.0]))  # .95, .95
        strategy.parameters[4].copy_(torch.tensor([-1.0, -3.0]))  # .88, .88
    found = strategy.derive(searchable, {})
    assert [start for _, start in found.cells[0][1]] == [1, 2]  # type: ignore[union-attr]
    mean = [float(p.detach().max()) for p in strategy.probabilities()[2:5]]
    soft = [float(x.detach().softmax(0).max()) for x in strategy.parameters[2:5]]
    assert mean[0] < soft[0] and min(soft[1:]) > soft[0]


@pytest.mark.parametrize("setting", ["prune_to=0", "prune_at=1", "kl_weight=-1"])
def test_settings_that_it_cannot_have(setting: str) -> None:
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        load_search_config("drnas", "cpu", [setting])


def test_a_pruning_that_prunes_nothing_is_refused() -> None:
    searchable = searched(cells("nb201"))
    with pytest.raises(BadInput, match=r"prune_to 5: no choice of nb201.* more than 5 candidates"):
        Drnas.check(searchable, configured(Drnas, prune_to=5))
    Drnas.check(searchable, configured(Drnas, prune_to=4))
