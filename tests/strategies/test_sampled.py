"""GDAS, ProxylessNAS and PARSEC: their draws and gradients, by hand and by enumeration."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from toys import Steps, Toy, cells, choices, configured, searched, two_blocks

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views, mix
from mobilenas.strategies.gdas import Gdas
from mobilenas.strategies.learned import draw
from mobilenas.strategies.methods import load_search_config, method
from mobilenas.strategies.parsec import Parsec, tempered
from mobilenas.strategies.proxyless import Proxyless


class Fixed(nn.Module):
    """Each candidate adds its own vector; logits are the sum. Nothing depends on the images."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        drawn = np.random.default_rng(3)
        self.vectors = [torch.tensor(drawn.normal(size=(n, 4))) for n in sizes]
        self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, views: Views) -> Tensor:
        total = self.bias.expand(len(x), 4)
        for vectors, view in zip(self.vectors, views, strict=True):
            total = total + mix(view, lambda ids, own=vectors: [own[i] for i in ids])  # type: ignore[misc]
        return total


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
    if not shifted:
        monkeypatch.setattr(Proxyless, "_mass", lambda self, pairs: [torch.zeros(())] * len(pairs))
    strategy = Proxyless(choices(6), configured(Proxyless, arch_lr=1e-3), seed=0)
    (alpha,) = strategy.parameters
    alpha.data = alpha.data.double()
    before, old = strategy.probabilities()[0].detach(), alpha.detach().clone()
    strategy.learn(Steps(Fixed([6]), strategy.config)(0))
    rest = alpha.detach() == old
    drift = (strategy.probabilities()[0].detach() - before)[rest].abs().max()
    assert rest.sum() == 4
    assert drift < 1e-15 if shifted else drift > 1e-10


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


def test_the_bias_of_parsec_falls_with_the_number_of_samples() -> None:
    sizes = [4, 4, 4]
    module = Fixed(sizes)
    labels = torch.tensor([1, 2])

    def likelihood(arch: tuple[int, ...]) -> float:
        logits = module(torch.zeros(2, 3), list(arch))
        return -float(nn.functional.cross_entropy(logits, labels))

    config = configured(Parsec, batch_size=2, effective=1e-9)
    strategy = Parsec(choices(*sizes), config, seed=0)
    p = [x.detach().double() for x in strategy.probabilities()]
    archs = list(product(*(range(n) for n in sizes)))
    joint = torch.tensor(
        [float(np.prod([x[g] for x, g in zip(p, arch, strict=True)])) for arch in archs]
    ).double()
    posterior = joint * torch.tensor([likelihood(arch) for arch in archs]).double().exp()
    posterior /= posterior.sum()
    exact = torch.zeros(4).double()
    for arch, share in zip(archs, posterior, strict=True):
        exact[arch[0]] += share
    exact = p[0] - exact  # the gradient of -E log p over the posterior

    errors = []
    for samples in (2, 8, 32):
        strategy = Parsec(
            choices(*sizes), configured(Parsec, batch_size=2, effective=1e-9, samples=samples), 0
        )
        found: list[Tensor] = []
        strategy.apply = found.append  # type: ignore[method-assign,assignment]
        steps = Steps(module, strategy.config)
        for n in range(1200 // samples + 200):
            step = steps(n)
            # Half of it: a batch of two has the sum of two such losses.
            step.loss = lambda views, part: torch.tensor(-likelihood(tuple(views)) / 2)  # type: ignore[method-assign]
            strategy.learn(step)
        mean = torch.stack([each[0].double() for each in found]).mean(0)  # type: ignore[index]
        errors.append(float((mean - exact).norm() / exact.norm()))
    assert errors[2] < errors[0] / 2 and errors[2] < 0.15


@pytest.mark.parametrize("samples, spread", [(2, 1.0), (8, 1.0), (1500, 1.0), (1001, 0.0)], ids=str)
def test_the_weight_step_of_parsec_takes_the_weighted_gradients(
    samples: int, spread: float
) -> None:
    """The sum of w_k times the gradient of loss k, by autograd in float64, but for samples that
    count next to nothing. spread: of the archs; at 0 all are alike.
    """
    sizes = [4, 4, 4]
    rates = {"clip": None, "momentum": 0.0, "arch_lr": 0.1}
    config = configured(Parsec, samples=samples, batch_size=2, **rates)
    strategy = Parsec(choices(*sizes), config, seed=0)
    module = Fixed(sizes)
    module.vectors = [spread * own for own in module.vectors]
    steps = Steps(module, config)
    labels = torch.tensor([1, 2])
    steps.trainer.train = lambda n: (torch.zeros(2, 3, 1, 1), labels)  # type: ignore[method-assign,assignment]
    step = steps(0)
    strategy.fit(step)
    assert module.bias.grad is not None
    rng = step.rng(Stream.WEIGHT_STEP)
    archs = [draw(strategy.probabilities(), rng) for _ in range(samples)]
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    vectors = zip(module.vectors, zip(*archs, strict=True), strict=True)
    total = torch.stack([own[list(genes)] for own, genes in vectors]).sum(0) + bias
    losses = nn.functional.cross_entropy(
        total.repeat_interleave(2, 0), labels.repeat(samples), reduction="none"
    )
    losses = losses.view(samples, 2).mean(1)
    nothing = torch.zeros(samples).double()
    weights = tempered(-losses.detach(), nothing, 2, samples / 2)
    (exact,) = torch.autograd.grad((weights * losses).sum(), bias)
    torch.testing.assert_close(module.bias.grad, exact, rtol=0, atol=1e-2 * float(exact.norm()))
    if samples <= 8:  # of which all count; losses are float32
        torch.testing.assert_close(module.bias.grad, exact, rtol=1e-5, atol=1e-7)


def test_equal_losses_move_no_probability_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, over all pairs of archs of a tiny space, by how likely each pair is."""
    config = configured(Parsec, samples=2)
    strategy = Parsec(choices(2, 3), config, seed=0)
    with torch.no_grad():
        strategy.parameters[0].copy_(torch.tensor([0.4, -0.3]))
        strategy.parameters[1].copy_(torch.tensor([0.2, -0.5, 0.7]))
    p = [x.detach().double() for x in strategy.probabilities()]
    archs = [[*arch] for arch in product(range(2), range(3))]
    found: list[list[Tensor]] = []
    strategy.apply = found.append  # type: ignore[method-assign,assignment]
    steps, shares = Steps(Toy(2), config), []
    for pair in product(archs, archs):
        left = iter(pair)
        monkeypatch.setattr("mobilenas.strategies.parsec.draw", lambda *_, left=left: next(left))
        step = steps(0)
        step.loss = lambda views, part: torch.tensor(1.3)  # type: ignore[method-assign]
        strategy.learn(step)
        shares.append(np.prod([float(x[g]) for arch in pair for x, g in zip(p, arch, strict=True)]))
    assert sum(shares) == pytest.approx(1)
    for of_choice in zip(*found, strict=True):
        assert max(float(each.abs().max()) for each in of_choice) > 0.1
        mean = sum(share * each.double() for share, each in zip(shares, of_choice, strict=True))
        assert float(mean.abs().max()) < 1e-6  # type: ignore[union-attr]


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


def test_parsec_weighs_archs_by_what_they_cost() -> None:
    """Of equal likelihoods exp(-cost_weight * excess) is all that counts."""
    config = configured(Parsec, samples=6, cost_weight=0.5)
    space = two_blocks()
    costs = searched(space).costs
    least = float(costs.range("flops").minimum)
    steps = Steps(Toy(2), config, limits={"flops": least}, space=space)
    strategy = Parsec(steps.searchable.choices, config, seed=0)
    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    step = steps(0)
    step.loss = lambda views, part: torch.tensor(1.3)  # type: ignore[method-assign]
    strategy.learn(step)
    rng = step.rng(Stream.ARCH_STEP)
    archs = np.array([draw(strategy.probabilities(), rng) for _ in range(6)])
    weights = np.exp(-0.5 * (costs.batch("flops", archs) / least - 1))
    weights /= weights.sum()
    assert weights.max() > 1.5 / 6
    for p, gradient, genes in zip(strategy.probabilities(), found, archs.T, strict=True):
        drawn = np.bincount(genes, weights, len(p))
        np.testing.assert_allclose(gradient, p.detach().numpy() - drawn, atol=1e-6)


def test_equal_likelihoods_say_nothing() -> None:
    weights = tempered(torch.full((8,), -1.3).double(), torch.zeros(8).double(), 64, 4)
    torch.testing.assert_close(weights, torch.full((8,), 1 / 8).double())


def test_the_temperature_leaves_as_many_effective_samples_as_are_asked_for() -> None:
    likelihood = torch.tensor(0.1 * np.random.default_rng(0).normal(size=16))
    nothing = torch.zeros(16).double()
    untempered = (64 * likelihood).softmax(0)
    assert float(1 / untempered.square().sum()) < 4
    for least in (4.0, 8.0, 12.0):
        weights = tempered(likelihood, nothing, 64, least)
        assert float(1 / weights.square().sum()) == pytest.approx(least, rel=1e-6)
    torch.testing.assert_close(tempered(likelihood, nothing, 64, 1.0), untempered)


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
