"""ZARTS (Wang et al. 2022): the architecture is searched without gradients through the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View
from mobilenas.strategies.config import Repeats, SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, Positive

_AT_ZERO = 1e-3  # share of the proposals that start from 0 and not from the gradient
_HALVINGS = 4  # radii of a descent without gradients: sigma, and its halves

Worth = Callable[[Tensor], Tensor]  # of a change of all parameters the loss


class ZartsConfig(SearchConfig):
    """arch_every: weight steps between architecture steps. search: how these are made. samples: of
    changes that are tried; inner_steps: weight steps with each. sigma: how large changes are; it
    falls to 0 by a cosine, other than that of `rs`. temperature: of the weights of samples by their
    loss; importance: divided by how likely each was.
    """

    arch_every: Positive = 10
    search: Literal["mgs", "rs", "gld"] = "mgs"
    samples: Repeats = 4
    inner_steps: Repeats = 10
    sigma: AboveZero = 0.025
    temperature: AboveZero = 0.01
    importance: bool = False


class Zarts(LearnedStrategy):
    """A change of the parameters is worth the loss on held-out images after `inner_steps` weight
    steps with it, and the expected costs; all changes of a step have the same batches, and weights,
    batch norms and the optimizer are put back to the bit after each. By `search` an architecture
    step

    mgs   draws changes around minus the gradient of the held-out loss, and moves by their mean,
          weighted by softmax(-loss / temperature)
    rs    estimates the gradient from random directions (`random_gradient`), for Adam; sigma stays,
          as differences of losses in float32, divided by next to nothing, are rounding
    gld   draws one change of each radius sigma, sigma / 2, ..., and takes the best if it is better
          than none
    """

    Config = ZartsConfig
    config: ZartsConfig

    @classmethod
    def takes_differences(cls, config: SearchConfig) -> bool:
        """Of losses, from random directions."""
        assert isinstance(config, ZartsConfig)
        return config.search == "rs"

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        sigma = self.config.sigma * (1 + math.cos(math.pi * step.progress)) / 2
        rng = step.rng(Stream.ARCH_STEP)
        shape = (self.config.samples, sum(len(alpha) for alpha in self.parameters))

        def worth(change: Tensor) -> Tensor:
            return self._trained_loss(step, change)

        if self.config.search == "rs":
            noise = torch.from_numpy(rng.normal(size=shape)).float()
            self.apply(self._split(random_gradient(worth, noise, self.config.sigma)))
            return
        if self.config.search == "gld":
            change = best_of(worth, radial(shape[1], sigma, rng))
        else:
            changes, densities = self._proposals(step, sigma, rng)
            losses = torch.stack([worth(each) for each in changes]).to(changes)
            weights = sample_weights(
                losses, self.config.temperature, densities if self.config.importance else None
            )
            change = weights @ changes
        with torch.no_grad():
            for alpha, own in zip(self.parameters, self._split(change), strict=True):
                alpha.add_(own)

    def reach(self, steps: int) -> str | None:
        """Of `rs` alone."""
        return super().reach(steps) if self.config.search == "rs" else None

    def step(self, step: SearchStep) -> None:
        """Now and then the architecture, then the weights."""
        if step.learnt % self.config.arch_every == 0:
            self.learn(step)
        self.fit(step)

    def _proposals(
        self, step: SearchStep, sigma: float, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Changes (samples, parameters) from a mixture of two normal distributions, around minus
        the gradient, and seldom around 0; and the logarithm of their density, up to a constant.
        """
        down = -torch.cat(step.gradient(self.arch_loss(step), self.parameters))
        count = self.config.samples
        informed = torch.from_numpy(rng.random(count) >= _AT_ZERO).float()
        noise = torch.from_numpy(rng.normal(size=(count, len(down)))).float()
        sigma = max(sigma, 1e-6)
        changes = informed[:, None] * down + sigma * noise
        return changes, log_density(changes, down, sigma)

    def _trained_loss(self, step: SearchStep, change: Tensor) -> Tensor:
        """What a change is worth: the held-out loss, after some steps of the weights with it."""
        with torch.no_grad():
            changed = [a + c for a, c in zip(self.parameters, self._split(change), strict=True)]
            p = [alpha.softmax(0) for alpha in changed]
        views: list[View] = [dict(enumerate(each.unbind())) for each in p]
        with step.put_back():
            for number in range(step.n, step.n + self.config.inner_steps):
                step.try_training(views, number)
            with torch.no_grad():
                loss = step.cost.loss(step.loss(views, "held"), p)
        step.trainer.processes.average([loss])
        step.check_finite([loss])
        return loss

    def _split(self, change: Tensor) -> Sequence[Tensor]:
        """Of all parameters together to those of each choice."""
        return change.split([len(alpha) for alpha in self.parameters])


def random_gradient(worth: Worth, noise: Tensor, size: float) -> Tensor:
    """The mean of (L(size * u) - L(0)) / size * u over directions u, noise (samples, parameters):
    unbiased for the gradient of a loss that is smoothed by a normal distribution of that size.
    """
    base = worth(torch.zeros_like(noise[0]))
    slopes = torch.stack([(worth(size * u) - base) / size for u in noise])
    return slopes.to(noise) @ noise / len(noise)


def radial(parameters: int, largest: float, rng: np.random.Generator) -> Tensor:
    """Normal changes (radii, parameters), each of half the deviation of the one before."""
    noise = torch.from_numpy(rng.normal(size=(_HALVINGS, parameters))).float()
    return noise * largest * 0.5 ** torch.arange(_HALVINGS)[:, None]


def best_of(worth: Worth, changes: Tensor) -> Tensor:
    """The change of least loss, none where no loss is below that of none."""
    offered = torch.cat([torch.zeros_like(changes[:1]), changes])
    return offered[int(torch.stack([worth(each) for each in offered]).argmin())]


def sample_weights(
    losses: Tensor, temperature: float, log_densities: Tensor | None = None
) -> Tensor:
    """softmax(-loss / temperature), (samples,); of importance sampling where densities are given.

    In hundreds of dimensions the density of a sample spreads over ten nats, so that with it one
    sample has nearly all the weight, whatever the losses are.
    """
    logits = -losses.double() / temperature
    return (logits if log_densities is None else logits - log_densities).softmax(0).float()


def log_density(changes: Tensor, center: Tensor, sigma: float) -> Tensor:
    """Of the mixture that changes are drawn from, but for what is the same for all, (samples,)."""
    squares = [(changes - mean).double().square().sum(1) for mean in (center, 0 * center)]
    shares = torch.tensor([1 - _AT_ZERO, _AT_ZERO]).double().log()
    return torch.logsumexp(shares - torch.stack(squares, 1) / (2 * sigma**2), 1)
