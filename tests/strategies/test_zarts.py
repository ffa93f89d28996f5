"""ZARTS: its three searches on functions that are known, and that trials leave no trace."""

import numpy as np
import pytest
import torch
from test_learned import in_space
from torch import Tensor
from toys import Steps, Toy, choices, configured, snapshot

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.zarts import (
    Zarts,
    best_of,
    log_density,
    radial,
    random_gradient,
    sample_weights,
)

CHEAP = {"samples": 2, "inner_steps": 2}


@pytest.mark.parametrize("size, bias", [(0.5, 0.225), (0.1, 0.009), (0.02, 0.00036)])
def test_random_directions_have_the_bias_of_the_third_derivative(size: float, bias: float) -> None:
    """Half of size squared times the third derivative, summed: of 0.3 x^3, 0.9 * size^2 an axis.
    A rule of Gauss and Hermite stands for all directions.
    """
    points, shares = np.polynomial.hermite_e.hermegauss(12)
    noise = torch.from_numpy(points)[:, None]
    shares = torch.from_numpy(shares / shares.sum() * len(points))
    x = torch.tensor([0.7]).double()

    def cubic(change: Tensor) -> Tensor:
        return (0.3 * (x + change) ** 3).sum()

    # The mean weighs points alike, so their shares go with the direction.
    found = sum(
        random_gradient(cubic, point[None], size) * share
        for point, share in zip(noise, shares, strict=True)
    ) / len(points)
    assert float(found - 0.9 * x**2) == pytest.approx(bias, rel=1e-9)


def test_random_directions_are_unbiased_where_the_loss_is_linear() -> None:
    slope = torch.tensor([1.0, -2.0, 0.5]).double()
    drawn = np.random.default_rng(0).normal(size=(100_000, 3))
    found = random_gradient_of_many(slope, torch.from_numpy(drawn))
    torch.testing.assert_close(found, slope, atol=0.03, rtol=0)


def random_gradient_of_many(slope: Tensor, noise: Tensor) -> Tensor:
    parts = [random_gradient(lambda c: c @ slope, part, 0.5) for part in noise.split(2_000)]
    return torch.stack(parts).mean(0)


def test_the_size_of_random_directions_stays() -> None:
    """At the last step as at the first: the largest change that is tried is one of sigma."""
    config = configured(Zarts, search="rs", sigma=0.25)
    largest = []
    for progress in (0.0, 0.5, 1.0):
        strategy = Zarts(choices(3, 3), config, seed=0)
        tried: list[Tensor] = []

        def worth(step: SearchStep, change: Tensor, tried: list[Tensor] = tried) -> Tensor:
            tried.append(change)
            return change.sum()

        strategy._trained_loss = worth  # type: ignore[method-assign]
        before = [a.detach().clone() for a in strategy.parameters]
        strategy.learn(Steps(Toy(2), config)(0, progress))
        largest.append(float(torch.stack(tried).abs().max()))
        assert not any(map(torch.equal, before, strategy.parameters))
    assert largest[0] == largest[1] == largest[2] > 0.1


def test_a_descent_without_gradients_never_goes_up() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        goal = torch.from_numpy(rng.normal(size=6)).float()

        def worth(change: Tensor, goal: Tensor = goal) -> Tensor:
            return (change - goal).square().sum()

        change = best_of(worth, radial(6, 2.0, rng))
        assert worth(change) <= worth(torch.zeros(6))
    nothing = best_of(lambda change: change.square().sum(), radial(6, 2.0, rng))
    assert not nothing.any()
    many = np.random.default_rng(0)
    sizes = torch.stack([radial(6, 2.0, many) for _ in range(4000)]).std((0, 2))
    torch.testing.assert_close(sizes, torch.tensor([2.0, 1.0, 0.5, 0.25]), rtol=0.02, atol=0)


def test_weights_of_samples() -> None:
    losses = torch.tensor([1.30, 1.31, 1.35, 900.0])
    weights = sample_weights(losses, 0.01)
    assert float(weights.sum()) == pytest.approx(1)
    assert list(weights.argsort(descending=True)) == [0, 1, 2, 3]
    torch.testing.assert_close(weights, sample_weights(losses + 5, 0.01), rtol=1e-4, atol=0)
    torch.testing.assert_close(sample_weights(losses[:1].repeat(4), 0.01), torch.full((4,), 0.25))


def test_densities_in_many_dimensions_leave_one_sample() -> None:
    """Why weights are not divided by them: of 196 parameters they spread over ten nats."""
    rng = np.random.default_rng(0)
    center = torch.from_numpy(0.01 * rng.normal(size=196)).float()
    changes = center + 0.025 * torch.from_numpy(rng.normal(size=(400, 196))).float()
    densities = log_density(changes, center, 0.025)
    assert densities.isfinite().all()
    assert float(densities.std()) == pytest.approx((196 / 2) ** 0.5, rel=0.1)  # 9.9
    losses = torch.full((4,), 1.3)
    largest = [float(sample_weights(losses, 0.01, part).max()) for part in densities.split(4)]
    assert np.median(largest) > 0.99
    assert float(sample_weights(losses, 0.01).max()) == 0.25


def test_the_density_is_that_of_the_mixture() -> None:
    center, sigma = torch.tensor([0.3, -0.2]).double(), 0.1
    changes = torch.tensor([[0.25, -0.1], [0.0, 0.05]]).double()
    normal = torch.distributions.Normal

    def of(mean: Tensor) -> Tensor:
        return normal(mean, sigma).log_prob(changes).sum(1).exp()

    exact = (0.999 * of(center) + 0.001 * of(torch.zeros(2).double())).log()
    found = log_density(changes, center, sigma)
    torch.testing.assert_close(found - found[0], exact - exact[0])


@pytest.mark.parametrize("search", ["mgs", "rs", "gld"])
def test_trials_leave_no_trace(search: str) -> None:
    """The next real step is that of a search without them, momentum and batch norms included."""
    found = []
    for learns in (True, False):
        strategy, steps = in_space("zarts", {**CHEAP, "search": search, "weight_decay": 0.01})
        for n in range(2):
            strategy.fit(steps(n))
        step = steps(2)
        before = [a.detach().clone() for a in strategy.parameters]
        if learns:
            strategy.learn(step)
            with torch.no_grad():
                for alpha, old in zip(strategy.parameters, before, strict=True):
                    alpha.copy_(old)
        strategy.fit(step)
        momentum = [*steps.trainer.optimizer.state_dict()["state"].values()]
        assert momentum
        found.append((snapshot(steps.trainer.module), momentum))
    assert all(torch.equal(value, found[1][0][key]) for key, value in found[0][0].items())
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_all_trials_have_the_same_batches_and_are_trained() -> None:
    config = configured(Zarts, samples=3, inner_steps=4)
    strategy = Zarts(choices(3, 3), config, seed=0)
    steps = Steps(Toy(2), config)
    step = steps(5)
    asked: list[tuple[str, int | None]] = []
    loss = step.loss

    def recorded(views, part, *, number=None, **more):  # type: ignore[no-untyped-def]
        asked.append((part, number))
        return loss(views, part, number=number, **more)

    step.loss = recorded  # type: ignore[method-assign]
    strategy.learn(step)
    trial = [*(("train", n) for n in range(5, 9)), ("held", None)]
    assert asked == [("held", None), *trial * 3]  # the gradient first
    assert step.spent == pytest.approx(32 * 3 * (1 + 3 * (4 + 1 / 3)))


def test_trials_with_a_worse_architecture_are_worth_more_loss() -> None:
    config = configured(Zarts)
    strategy = Zarts(choices(3), config, seed=0)
    steps = Steps(Toy(1), config)
    good, bad = torch.tensor([-3.0, 3.0, -3.0]), torch.tensor([3.0, -3.0, 3.0])
    step: SearchStep = steps(0)
    assert strategy._trained_loss(step, good) < strategy._trained_loss(step, bad)


def test_an_error_in_a_trial_puts_weights_back_too() -> None:
    strategy, steps = in_space("zarts", CHEAP)
    before = snapshot(steps.trainer.module)
    step = steps(0)
    with pytest.raises(KeyboardInterrupt), step.put_back():
        step.try_training(strategy.views(step, 0), 3)  # type: ignore[arg-type]
        raise KeyboardInterrupt
    after = steps.trainer.module.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert not steps.trainer.optimizer.state_dict()["state"]


@pytest.mark.parametrize(
    "setting, words",
    [
        ("sigma=0", "sigma"),
        ("temperature=0", "temperature"),
        ("temperature=-1", "temperature"),
        ("samples=0", "samples"),
        ("inner_steps=0", "inner_steps"),
        ("search=adam", "search"),
    ],
)
def test_settings_that_it_cannot_have(setting: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_search_config("zarts", "cpu", [setting])


def test_importance_divides_by_how_likely_a_change_was() -> None:
    """Of changes of equal loss the unlikely ones count more."""
    config = configured(Zarts, importance=True, sigma=0.3)
    strategy = Zarts(choices(3, 3), config, seed=0)
    strategy._trained_loss = lambda step, change: torch.tensor(1.3)  # type: ignore[method-assign]
    before = [a.detach().clone() for a in strategy.parameters]
    step = Steps(Toy(2), config)(0)
    changes, densities = strategy._proposals(step, 0.3, step.rng(Stream.ARCH_STEP))
    strategy.learn(step)
    moved = torch.cat([a.detach() - b for a, b in zip(strategy.parameters, before, strict=True)])
    torch.testing.assert_close(moved, (-densities).softmax(0).float() @ changes)
    assert (moved - changes.mean(0)).abs().max() > 0.01


@pytest.mark.parametrize(("search", "differs"), [("mgs", False), ("gld", False), ("rs", True)])
def test_what_subtracts_losses_is_for_float32(search: str, differs: bool) -> None:
    assert Zarts.takes_differences(configured(Zarts, search=search)) == differs
