"""GDAS and ProxylessNAS: draws, gradients and the order of their steps, by hand and enumerated."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from toys import Fixed, Steps, Toy, blocks, cells, choices, configured, searched, two_blocks

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views
from mobilenas.strategies.gdas import Gdas
from mobilenas.strategies.methods import METHODS, load_search_config, method
from mobilenas.strategies.proxyless import Proxyless
from mobilenas.strategies.search_step import SearchStep


@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1])
def test_gdas_draws_by_the_probabilities_whatever_the_temperature(tau: float) -> None:
    config = configured(Gdas, tau_start=tau, tau_end=tau)
    strategy = Gdas(choices(4), config, seed=0)
    with torch.no_grad():
        strategy.parameters[0].copy_(torch.tensor([0.3, -0.5, -0.2, 0.7]))
    steps = Steps(Toy(1), config)
    counts = np.zeros(4)
    for n in range(2000):
        (view,) = strategy.views(steps(n), Stream.ARCH_STEP)
        assert isinstance(view, dict)
        ((index, weight),) = view.items()
        assert weight.item() == 1  # to the bit: it is the arch that is run
        counts[index] += 1
    expected = strategy.probabilities()[0].detach().double().numpy()
    assert chisquare(counts, 2000 * expected / expected.sum()).pvalue > 0.001


def test_gdas_draws_once_for_all_cells_of_a_type() -> None:
    searchable = searched(cells("darts"))
    strategy = Gdas(searchable.choices, configured(Gdas), seed=0)
    steps = Steps(nn.Linear(1, 1), strategy.config, space=cells("darts"))
    normal, reduction = searchable.layers
    assert (len(normal), len(reduction)) == (1, 2)
    drawn = []
    for n in range(2):
        placed = searchable.placed(strategy.views(steps(n), Stream.ARCH_STEP))
        of_cells = [[[*placed[place]] for place in layer] for layer in [*normal, *reduction]]  # type: ignore[misc]
        assert of_cells[1] == of_cells[2] != of_cells[0]
        drawn.append(of_cells)
    assert drawn[0] != drawn[1]


def test_gdas_draws_for_the_architecture_on_its_own() -> None:
    """Of three candidates that are as probable, the same one as for the weights in a third of the
    steps.
    """
    strategy = Gdas(choices(3), configured(Gdas, arch_lr=1e-9), seed=0)
    steps, drawn = Steps(Toy(1), strategy.config, space=blocks(1)), list[int]()
    steps.trainer.module.register_forward_pre_hook(lambda _, given: drawn.extend(given[1][0]))
    for n in range(200):
        strategy.step(steps(n))
    of_weights, of_archs = np.array(drawn).reshape(200, 2).T
    for each in (of_weights, of_archs):
        assert chisquare(np.bincount(each)).pvalue > 0.001
    assert np.mean(of_weights == of_archs) == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize(
    ("name", "settings", "order"),
    [
        ("darts", {}, ["held", "train"]),
        ("darts", {"order": 2}, ["train", "held", "train"]),
        ("pc-darts", {}, ["held", "train"]),
        ("parsec", {}, ["held", "train"]),
        ("gdas", {}, ["train", "held"]),  # as released
        ("proxyless", {"arch_every": 1}, ["train", "held"]),
    ],
)
def test_which_of_weights_and_architecture_is_first(
    name: str, settings: dict[str, Any], order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, loss = list[str](), SearchStep.loss

    def noted(step: SearchStep, views: Views, part: str, **options: Any) -> Tensor:
        parts.append(part)
        return loss(step, views, part, **options)

    monkeypatch.setattr(SearchStep, "loss", noted)
    kind = METHODS[name].strategy
    strategy = kind(choices(3, 3), configured(kind, **settings), seed=0)
    strategy.step(Steps(Toy(2), strategy.config)(0))
    assert [part for part, _ in groupby(parts)] == order


def test_gdas_cools_from_its_first_step_to_its_last() -> None:
    config = configured(Gdas)
    assert config.tau(0.0) == 10
    assert config.tau(1.0) == pytest.approx(0.1)
    assert config.tau(0.5) == pytest.approx(5.05)


def test_the_gradient_of_gdas_is_that_of_the_softmax_of_what_was_drawn() -> None:
    config = configured(Gdas, tau_start=2.0, tau_end=2.0)
    strategy = Gdas(choices(3), config, seed=0)
    steps = Steps(Fixed([3]), config)
    step = steps(0)
    (view,) = views = strategy.views(step, Stream.ARCH_STEP)
    assert isinstance(view, dict)
    ((k, _),) = view.items()
    toward = torch.arange(4.0).double()
    y = (steps.trainer.module(torch.zeros(1, 3), views)[0] * toward).sum()
    (found,) = torch.autograd.grad(y, strategy.parameters, retain_graph=True)
    output = steps.trainer.module.vectors[0][k]  # type: ignore[union-attr,index]
    alpha = strategy.parameters[0].detach()
    noise = torch.from_numpy(step.rng(Stream.ARCH_STEP).gumbel(size=3)).float()
    q = ((alpha.log_softmax(0) + noise) / 2).softmax(0)
    jacobian = q[k] * ((torch.arange(3) == k).float() - q) / 2  # d q_k / d alpha
    torch.testing.assert_close(found, (output @ toward).float() * jacobian)
    assert abs(float(found.sum())) < 1e-6


def test_proxyless_moves_the_pair_and_leaves_the_probabilities_of_the_rest() -> None:
    config = configured(Proxyless, arch_lr=0.3)
    strategy = Proxyless(choices(6, 6), config, seed=0)
    steps = Steps(Fixed([6, 6]), config)
    for n in range(20):
        before = [p.detach().clone() for p in strategy.probabilities()]
        alphas = [a.detach().clone() for a in strategy.parameters]
        strategy.learn(steps(n))
        for p, old, a, b in zip(
            strategy.probabilities(), before, strategy.parameters, alphas, strict=True
        ):
            moved = (a.detach() != b).nonzero().flatten()
            assert 1 <= len(moved) <= 2  # Adam without momentum: the others have no gradient
            rest = [i for i in range(6) if i not in moved]
            torch.testing.assert_close(p.detach()[rest], old[rest], rtol=0, atol=1e-7)


def test_proxyless_draws_two_where_one_is_sure() -> None:
    config = configured(Proxyless)
    strategy, steps = Proxyless(choices(3), config, seed=0), Steps(Fixed([3]), config)
    sure = torch.tensor([0.0, -200.0, -300.0])
    with torch.no_grad():
        strategy.parameters[0].copy_(sure)
    assert strategy.probabilities()[0].tolist() == [1, 0, 0]
    strategy.learn(steps(0))
    torch.testing.assert_close(strategy.parameters[0].detach(), sure)


@pytest.mark.parametrize("shifted", [True, False])
def test_without_a_shift_of_the_pair_all_probabilities_would_move(
    shifted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By about 1e-4 at the published rate: p_i * rate * |p_a - p_b|, as the first step of Adam is
    the rate up for one of the pair and down for the other.
    """
    if not shifted:
        monkeypatch.setattr(Proxyless, "_mass", lambda self, pairs: [torch.zeros(())] * len(pairs))
    rate = 1e-3
    strategy = Proxyless(choices(6), configured(Proxyless, arch_lr=rate), seed=0)
    (alpha,) = strategy.parameters
    alpha.data = torch.tensor(np.random.default_rng(2).normal(size=6))
    before, old = strategy.probabilities()[0].detach(), alpha.detach().clone()
    strategy.learn(Steps(Fixed([6]), strategy.config)(0))
    rest = alpha.detach() == old
    assert rest.sum() == 4
    drift = float((strategy.probabilities()[0].detach() - before)[rest].abs().max())
    up, down = before[~rest]
    expected = float(before[rest].max() * rate * (up - down).abs())
    assert expected > 5e-5
    assert drift < 1e-15 if shifted else drift == pytest.approx(expected, rel=0.01)


def test_the_gradient_of_a_pair_is_that_of_straight_through_gates() -> None:
    """Of six candidates, by autograd; the other four have none."""
    config, module = configured(Proxyless), Fixed([6])
    strategy = Proxyless(choices(6), config, seed=0)
    toward = torch.tensor([1.0, -2.0, 0.5, 0.3]).double()
    seen: list[Views] = []
    found: list[Tensor] = []

    def loss(views: Views, part: str) -> Tensor:
        seen.append(views)
        return (module(torch.zeros(1, 3), views)[0] - toward).square().sum()

    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    steps = Steps(module, config)
    for n in range(10):
        step = steps(n)
        step.loss = loss  # type: ignore[method-assign,assignment]
        strategy.learn(step)
        view = seen[-1][0]
        assert isinstance(view, dict) and sorted(g.item() for g in view.values()) == [0, 1]
        alpha = strategy.parameters[0].detach().clone().requires_grad_()
        q = alpha[list(view)].softmax(0)
        gates = torch.stack([*view.values()]).detach() + q - q.detach()
        (exact,) = torch.autograd.grad(loss([dict(zip(view, gates, strict=True))], "held"), alpha)
        torch.testing.assert_close(found[-1], exact, rtol=1e-4, atol=1e-6)
        assert abs(float(found[-1].sum())) < 1e-5
        assert int((found[-1] == 0).sum()) == 4


def test_the_gradients_of_a_pair_are_exact_on_average() -> None:
    """With two candidates the pair is always the same, and the loss a function of the one drawn."""
    config = configured(Proxyless)
    strategy = Proxyless(choices(2), config, seed=0)
    with torch.no_grad():
        strategy.parameters[0].copy_(torch.tensor([0.4, -0.3]))
    module = Fixed([2])
    toward = torch.tensor([1.0, -2.0, 0.5, 0.3]).double()

    class Linear(nn.Module):  # a loss that is linear in the output has one gradient everywhere
        def forward(self, x: Tensor, views: Views) -> Tensor:
            return module(x, views) @ toward

    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    steps = Steps(Toy(1), config)
    p = strategy.probabilities()[0]
    values = torch.stack([module.vectors[0][i] @ toward for i in range(2)]).float()
    (exact,) = torch.autograd.grad((p * values).sum(), strategy.parameters)
    for n in range(20):
        step = steps(n)
        step.loss = lambda views, part: Linear()(torch.zeros(1, 3), views)[0]  # type: ignore[method-assign]
        strategy.learn(step)
    assert len(found) == 20
    for gradient in found:
        torch.testing.assert_close(gradient, exact, rtol=1e-5, atol=1e-6)
        assert abs(float(gradient.sum())) < 1e-6


def test_proxyless_counts_what_the_pair_costs() -> None:
    """E is the sum of q c over the pair, so that its gradient is q (c - E), over the limit."""
    space = two_blocks()
    config = configured(Proxyless, cost_weight=0.5)
    steps = Steps(Toy(2), config, limits={"flops": 100.0}, space=space)
    strategy = Proxyless(steps.searchable.choices, config, seed=0)
    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    step, pairs = steps(0), list[list[int]]()

    def loss(views: Views, part: str) -> Tensor:
        pairs.extend([*view] for view in views)  # type: ignore[misc]
        return 0 * sum(gate for view in views for gate in view.values())  # type: ignore[union-attr,return-value]

    step.loss = loss  # type: ignore[method-assign,assignment]
    strategy.learn(step)
    _, costs, _ = steps.searchable.costs.parts("flops")
    for alpha, pair, cost, gradient in zip(strategy.parameters, pairs, costs, found, strict=True):
        q, c = alpha.detach()[pair].softmax(0), torch.from_numpy(cost).float()[pair]
        exact = torch.zeros_like(alpha).index_put((torch.tensor(pair),), q * (c - (q * c).sum()))
        torch.testing.assert_close(gradient, 0.5 * exact / 100, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, setting, words",
    [
        ("gdas", "tau_end=20", "tau_end 20 must be at most tau_start 10"),
        ("gdas", "samples=4", "samples: there is no such key"),
        ("proxyless", "arch_betas=[0.5,0.999]", "arch_betas"),
        ("proxyless", "arch_every=0", "arch_every"),
        ("parsec", "samples=1", "samples"),
        ("parsec", "cost_form=power", "cost_form"),
        ("ista", "cost_form=power", "cost_form"),
        ("svge", "cost_form=power", "cost_form"),
        ("darts", "order=3", "order"),
        ("gaea", "backbone=enas", "backbone"),
        ("gaea", "eta=0", "eta"),
        ("darts", "cost_weight=-1", "cost_weight"),
        ("darts", "arch_lr=0", "arch_lr"),
    ],
)
def test_settings_that_no_strategy_can_have(name: str, setting: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_search_config(name, "cpu", [setting])


def test_unknown_strategies_have_a_near_one() -> None:
    with pytest.raises(BadInput, match="did you mean darts"):
        method("dart")
    with pytest.raises(BadInput, match="known are darts, "):
        method("xyz")
