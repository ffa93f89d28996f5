"""DARTS (Liu et al. 2019), of first and of second order."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable

_SGD = ("momentum", "sgd", "nesterov")  # of timm's names
_OPTIONS = ("foreach", "fused", "nesterov")  # that it steps by
RADIUS = 0.01  # how far the weights are moved for the difference of two gradients


class DartsConfig(SearchConfig):
    """order: 2 differentiates through one training step of the weights."""

    order: Literal[1, 2] = 1


class Darts(LearnedStrategy):
    """Of first order it is `LearnedStrategy`.

    Of second order (equations 6 to 8 of the paper, as released) the gradient is taken at the
    weights w' that a training step would lead to, lr their learning rate, and

        g = d L_held(w') / d a - lr * (d L_train(w + r v) / d a - d L_train(w - r v) / d a) / (2 r)

    with v = d L_held(w') / d w' and r = 0.01 / |v|. The step reads the optimizer's momentum and
    weight decay, and leaves weights and momentum as they are.
    """

    Config = DartsConfig
    config: DartsConfig

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where the next training step is not known beforehand."""
        assert isinstance(config, DartsConfig)
        if config.order == 2 and config.optimizer not in _SGD:
            raise BadInput(
                f"order=2 with optimizer {config.optimizer}: it differentiates through a step of "
                f"SGD; the optimizer must be one of {', '.join(_SGD)}"
            )
        odd = sorted(config.optimizer_options.keys() - _OPTIONS)
        if config.order == 2 and odd:
            raise BadInput(
                f"order=2 with optimizer_options {odd[0]}: it differentiates through a step of "
                f"SGD, of which it knows {', '.join(_OPTIONS)}"
            )

    @classmethod
    def takes_differences(cls, config: SearchConfig) -> bool:
        """Of second order."""
        assert isinstance(config, DartsConfig)
        return config.order == 2

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        if self.config.order == 1:
            super().learn(step)
            return
        ahead, lr = self._next_update(step)
        weights = step.parameters
        with step.moved(ahead, -lr):
            found = step.gradient(self.arch_loss(step), [*self.parameters, *weights])
        direct, v = found[: len(self.parameters)], found[len(self.parameters) :]
        mixed = change_along(v, step, self, self.parameters)
        self.apply([g - lr * m for g, m in zip(direct, mixed, strict=True)])

    def _next_update(self, step: SearchStep) -> tuple[list[Tensor], float]:
        """What the next step of SGD would subtract from each weight, without clipping, over its
        learning rate; and that rate.
        """
        loss = step.loss(self.views(step, Stream.ARCH_STEP), "train")
        gradients = dict(zip(step.parameters, step.gradient(loss, step.parameters), strict=True))
        for group in step.trainer.optimizer.param_groups:
            for weight in group["params"]:
                # `add` with alpha is one rounding, as in the optimizer: the same bits
                g = gradients[weight].add(weight.detach(), alpha=group["weight_decay"])
                before = step.trainer.optimizer.state[weight].get("momentum_buffer")
                moved = g if before is None else g + group["momentum"] * before
                nesterov = group["nesterov"]
                gradients[weight] = g.add(moved, alpha=group["momentum"]) if nesterov else moved
        update = [gradients[weight] for weight in step.parameters]
        return update, step.trainer.optimizer.param_groups[0]["lr"]


def change_along(
    direction: Sequence[Tensor],
    step: SearchStep,
    strategy: LearnedStrategy,
    tensors: Sequence[Tensor],
) -> list[Tensor]:
    """How fast the gradients of the training loss by some tensors change as the weights move along
    a direction: the central difference over 2 r times it, r = 0.01 / |direction|.
    """
    radius = RADIUS / max(norm(direction), 1e-12)
    sides = []
    for distance in (radius, -radius):
        with step.moved(direction, distance):
            loss = step.loss(strategy.views(step, Stream.ARCH_STEP), "train")
            sides.append(step.gradient(loss, tensors))
    return [(above - below) / (2 * radius) for above, below in zip(*sides, strict=True)]


def norm(vector: Sequence[Tensor]) -> float:
    """The norm of a vector that several tensors hold."""
    return float(torch.cat([part.flatten() for part in vector]).norm())
