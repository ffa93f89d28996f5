"""DARTS of second order, against what it approximates."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from toys import Batches, Steps, Toy, choices, configured, searched, snapshot, two_blocks

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views, mix
from mobilenas.strategies import darts
from mobilenas.strategies.darts import Darts
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep

S = TypeVar("S", bound=LearnedStrategy)


GAIN = 0.05
LR, DECAY = 0.05 / GAIN**2, 0.01 * GAIN**2  # what 0.05 and 0.01 are to weights that have no gain


class Layer(nn.Linear):
    """Weights of these have a norm of some hundreds together, as those of a supernet: beside it a
    radius of 0.01 is little.
    """

    def forward(self, x: Tensor) -> Tensor:
        return GAIN * super().forward(x)


class Smooth(nn.Module):
    """Blocks of three linear layers and a tanh, in float64. idle: with a weight of no use."""

    def __init__(self, blocks: int, idle: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleList(Layer(8, 8) for _ in range(3)) for _ in range(blocks)
        )
        self.classifier = Layer(8, 4)
        self.double()
        for p in self.parameters():
            nn.init.normal_(p, 0, 0.5 / GAIN, generator=generator)
        if idle:
            self.idle = nn.Parameter(torch.ones(5, dtype=torch.float64))

    def forward(self, x: Tensor, views: Views) -> Tensor:
        x = x.flatten(1).double()
        for layers, view in zip(self.layers, views, strict=True):
            x = mix(view, lambda ids, x=x, own=layers: [own[i](x).tanh() for i in ids])  # type: ignore[misc]
        logits: Tensor = self.classifier(x)
        return logits


def in_double(step: SearchStep, views: Views, part: str) -> Tensor:
    """The loss in the precision of the module: differences of float32 ones are too coarse."""
    images, labels = step.trainer.train(step.n) if part == "train" else step.held(step.n)
    return nn.functional.cross_entropy(step.trainer.module(images, views), labels)


def doubled(strategy: S) -> S:
    strategy.parameters = [a.detach().double().requires_grad_() for a in strategy.parameters]
    return strategy


def second_order(module: nn.Module) -> tuple[Darts, Steps, Tensor]:
    """A search after its first step, and the gradient of the next one, all parameters in one
    vector.
    """
    config = configured(Darts, order=2, momentum=0.9, weight_decay=DECAY, lr=LR)
    strategy = doubled(Darts(choices(3, 3), config, seed=0))
    steps = Steps(module, config)
    strategy.fit(steps(0))  # there is a momentum now
    step = steps(1)
    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    step.loss = lambda views, part: in_double(step, views, part)  # type: ignore[method-assign,misc]
    strategy.learn(step)
    return strategy, steps, torch.cat(found)


def exact_and_direct(strategy: Darts, steps: Steps) -> tuple[Tensor, Tensor]:
    """The same gradient by double backward through the training step, and without its second
    term.
    """
    step = steps(1)
    module, optimizer = steps.trainer.module, steps.trainer.optimizer
    weights = dict(module.named_parameters())
    views = strategy.views(step, Stream.ARCH_STEP)
    loss = in_double(step, views, "train")
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    ahead = {
        name: w - LR * (g + DECAY * w + 0.9 * optimizer.state[w]["momentum_buffer"])
        for (name, w), g in zip(weights.items(), gradients, strict=True)
    }
    images, labels = steps.held(1)

    def held(at: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(module, at, (images, views))
        loss = nn.functional.cross_entropy(logits, labels)
        return torch.cat(torch.autograd.grad(loss, strategy.parameters, retain_graph=True))

    return held(ahead), held({k: w.detach() for k, w in ahead.items()})


def test_the_gradient_is_that_through_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to its second term alone, which is what is approximated."""
    errors = []
    for radius in (10 * darts.RADIUS, darts.RADIUS):
        monkeypatch.setattr(darts, "RADIUS", radius)
        strategy, steps, found = second_order(Smooth(2))
        exact, direct = exact_and_direct(strategy, steps)
        second = (exact - direct).norm()
        assert second > 0.01 * direct.norm()  # it is not nothing
        errors.append(float((found - exact).norm() / second))
    assert errors[1] < 1e-7
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)  # the radius squared


def test_a_weight_without_a_gradient_counts_as_0() -> None:
    module = Smooth(2, idle=True)
    strategy, steps, found = second_order(module)
    before = module.idle.detach().clone()
    *_, expected = second_order(Smooth(2))
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    strategy.fit(steps(1))
    assert module.idle.grad is None and torch.equal(module.idle, before)


@pytest.mark.parametrize("seed", range(20))  # another rounding shows with one of ten
@pytest.mark.parametrize("optimizer", ["momentum", "sgd"])  # timm's sgd is Nesterov's
def test_the_virtual_step_is_a_step_of_the_optimizer_to_the_bit(optimizer: str, seed: int) -> None:
    torch.manual_seed(seed)
    config = configured(
        Darts, order=2, optimizer=optimizer, momentum=0.9, weight_decay=0.01, clip=None
    )
    strategy = Darts(choices(3, 3), config, seed=0)
    steps = Steps(Toy(2), config)
    for n in range(3):
        step = steps(n)
        update, lr = strategy._next_update(step)
        with step.moved(update, -lr):
            ahead = snapshot(steps.trainer.module)
        strategy.fit(steps(n))
        after = steps.trainer.module.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in ahead.items())


def test_a_step_of_another_optimizer_is_not_known_beforehand() -> None:
    searchable = searched(two_blocks())
    Darts.check(searchable, configured(Darts, optimizer="adamw"))
    with pytest.raises(BadInput, match=r"order=2 with optimizer adamw.*momentum, sgd"):
        Darts.check(searchable, configured(Darts, order=2, optimizer="adamw"))
    Darts.check(searchable, configured(Darts, order=2, optimizer_options={"nesterov": False}))
    damped = {"optimizer_options": {"dampening": 0.5}}
    Darts.check(searchable, configured(Darts, **damped))
    with pytest.raises(BadInput, match=r"order=2 with optimizer_options dampening"):
        Darts.check(searchable, configured(Darts, order=2, **damped))


def test_moved_weights_are_put_back_to_the_bit_also_after_an_error() -> None:
    steps = Steps(Toy(1), configured(Darts), Batches)
    before = snapshot(steps.trainer.module)
    step = steps(0)
    along = [torch.randn_like(p) for p in step.parameters]
    try:
        with step.moved(along, 0.1):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = steps.trainer.module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
