"""PARSEC: its weights and gradients by hand and by enumeration, and what its forwards see."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, combinations_with_replacement, product, repeat
from math import factorial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import (
    Fixed,
    ImageBatches,
    Steps,
    Toy,
    choices,
    configured,
    searched,
    snapshot,
    two_blocks,
)

from mobilenas.base.randomness import Stream
from mobilenas.strategies import parsec
from mobilenas.strategies.learned import draw
from mobilenas.strategies.parsec import Parsec, tempered
from mobilenas.strategies.search_step import SearchStep

Genes = tuple[int, ...]


def untempered(sizes: Sequence[int], samples: int) -> tuple[Parsec, list[Genes], Tensor]:
    """A strategy that takes the likelihood of a batch of two as it is, whose probabilities are
    uneven; all archs, and how probable each is.
    """
    config = configured(Parsec, batch_size=2, effective=1e-9, samples=samples)
    strategy, rng = Parsec(choices(*sizes), config, seed=0), np.random.default_rng(0)
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(torch.from_numpy(rng.normal(0, 0.5, len(alpha))))
    archs = [*product(*map(range, sizes))]
    p = [x.detach().double() for x in strategy.probabilities()]
    joint = [torch.stack([x[g] for x, g in zip(p, arch, strict=True)]).prod() for arch in archs]
    return strategy, archs, torch.stack(joint)


def learnt(strategy: Parsec, step: SearchStep, likelihood: Mapping[Genes, float]) -> Tensor:
    """The gradient of a step, all blocks in one vector. likelihood: the logarithm of that of the
    batch of two by each arch, of which a loss is the mean.
    """
    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    step.loss = lambda views, part: torch.tensor(-likelihood[tuple(views)] / 2).double()  # type: ignore[method-assign,arg-type]
    strategy.learn(step)
    return torch.cat(found).double()


def one_hot(sizes: Sequence[int], archs: Sequence[Genes]) -> Tensor:
    """(archs, parameters): which candidates each arch has."""
    parts = zip(sizes, torch.tensor(archs).T, strict=True)
    return torch.cat([nn.functional.one_hot(genes, size) for size, genes in parts], 1).double()


def test_the_bias_of_parsec_is_one_over_the_number_of_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly, over all draws of K archs: K times it is the first term of its expansion in 1 / K,
    that of a ratio of two means, but for the next terms.
    """
    sizes = [2, 3]
    step = Steps(Toy(1), configured(Parsec))(0)
    for samples in (2, 4, 6):
        strategy, archs, joint = untempered(sizes, samples)
        likelihood = torch.tensor(np.random.default_rng(1).normal(size=len(archs)))
        of_archs = dict(zip(archs, likelihood.tolist(), strict=True))
        values, of = likelihood.exp(), one_hot(sizes, archs)
        posterior = joint * values / (joint @ values)
        exact = joint @ of - posterior @ of  # the gradient of -E log p over the posterior
        first = (joint * values.square()) @ (of - posterior @ of) / (joint @ values).square()
        mean, share = torch.zeros(sum(sizes)).double(), 0.0
        for drawn in combinations_with_replacement(range(len(archs)), samples):
            left = iter([archs[each] for each in drawn])
            monkeypatch.setattr(parsec, "draw", lambda *_, left=left: [*next(left)])
            orders = factorial(samples)
            for count in Counter(drawn).values():
                orders //= factorial(count)
            probability = orders * float(joint[[*drawn]].prod())
            mean += probability * learnt(strategy, step, of_archs)
            share += probability
        assert share == pytest.approx(1)
        bias = mean - exact
        assert (samples * bias - first).norm() < first.norm() / samples


def test_draws_in_proportion_give_the_gradient_of_all_archs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 64 archs, enumerated."""
    sizes, times = [4, 4, 4], torch.tensor([4, 2, 1, 1])
    strategy, archs, _ = untempered(sizes, 512)
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(times.log())
    counts = [int(times[[*arch]].prod()) for arch in archs]  # of 512 draws
    joint = torch.tensor(counts).double() / 512
    likelihood = torch.tensor(np.random.default_rng(1).normal(size=len(archs)))
    posterior = joint * likelihood.exp() / (joint @ likelihood.exp())
    exact = (joint - posterior) @ one_hot(sizes, archs)
    drawn = chain.from_iterable(map(repeat, archs, counts))
    monkeypatch.setattr(parsec, "draw", lambda *_: [*next(drawn)])
    step = Steps(Toy(1), strategy.config)(0)
    found = learnt(strategy, step, dict(zip(archs, likelihood.tolist(), strict=True)))
    assert exact.abs().max() > 0.01
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


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


def effective(weights: Tensor) -> float:
    return float(1 / weights.square().sum())


def test_the_temperature_leaves_as_many_effective_samples_as_are_asked_for() -> None:
    """Of 16 samples and a batch of 64, whose likelihoods spread by 0.1: one takes all that T = 64
    would give. The numbers are those of this draw.
    """
    drawn = np.random.default_rng(2).normal(size=16)
    likelihood = torch.tensor(0.1 * (drawn - drawn.mean()) / drawn.std())
    nothing = torch.zeros(16).double()
    untempered = (64 * likelihood).softmax(0)
    assert effective(untempered) == pytest.approx(1.0324, abs=1e-4)
    for least, temperature in ((4.0, 15.712), (8.0, 9.6087), (12.0, 5.8395)):
        weights = tempered(likelihood, nothing, 64, least)
        assert effective(weights) == pytest.approx(least, rel=1e-6)
        slopes = (weights.log() - weights.log()[0])[1:] / (likelihood - likelihood[0])[1:]
        assert slopes.tolist() == pytest.approx([temperature] * 15, rel=1e-4)
    torch.testing.assert_close(tempered(likelihood, nothing, 64, 1.0), untempered)


def in_blocks() -> tuple[Parsec, Steps, list[tuple[Tensor, bool]]]:
    """A search through a supernet of blocks, and the images of each forward and whether it is for
    a gradient.
    """
    space = two_blocks()
    strategy = Parsec(searched(space).choices, configured(Parsec, samples=6), seed=0)
    module = strategy.supernet(searched(space), strategy.config, torch.Generator().manual_seed(0))
    ran: list[tuple[Tensor, bool]] = []
    module.register_forward_pre_hook(
        lambda _, given: ran.append((given[0].clone(), torch.is_grad_enabled()))
    )
    return strategy, Steps(module, strategy.config, ImageBatches, space=space), ran


def test_all_samples_of_a_step_see_one_batch() -> None:
    strategy, steps, ran = in_blocks()
    for n in range(2):
        ran.clear()
        strategy.learn(steps(n))
        assert len(ran) == 6
        assert all(torch.equal(images, steps.held(n)[0]) for images, _ in ran)
        ran.clear()
        strategy.fit(steps(n))
        assert [graph for _, graph in ran[:7]] == [False] * 6 + [True]
        assert all(torch.equal(images, steps.trainer.batch(n)[0]) for images, _ in ran)


def test_forwards_that_weigh_samples_leave_running_statistics() -> None:
    strategy, steps, ran = in_blocks()
    module = steps.trainer.module
    before, step = snapshot(module), steps(0)
    step.train = lambda *_: []  # type: ignore[method-assign,assignment]
    strategy.fit(step)
    strategy.learn(steps(0))
    assert len(ran) == 12
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    ran.clear()
    strategy.fit(steps(0))
    counts = [value for key, value in module.state_dict().items() if "num_batches" in key]
    assert max(counts) == sum(graph for _, graph in ran) > 0  # that of the stem
