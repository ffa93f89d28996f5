"""iDARTS (Zhang et al. 2021): the gradient through the whole training of the weights."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mobilenas.base.errors import Diverged
from mobilenas.base.randomness import Stream
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.darts import change_along, norm
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, Positive

_RISES = 3  # terms one after another that are larger than those before: the series diverges


class IdartsConfig(SearchConfig):
    """arch_every: weight steps between architecture steps. terms: of the Neumann series after its
    first one. gamma: its step; the learning rate of the weights if None.
    """

    arch_every: Positive = 4
    terms: Annotated[int, Field(ge=0, le=1000)] = 2
    gamma: AboveZero | None = None


class Idarts(LearnedStrategy):
    """DARTS whose architecture gradient is that at weights w that are trained to the end:

        g = d L_held / d a - gamma * d2 L_train / (d a d w) * s
        s = p_0 + ... + p_K,   p_0 = d L_held / d w,   p_{k+1} = p_k - gamma * H p_k

    where gamma * s stands for the inverse of H times p_0, H the second derivatives of the training
    loss by the weights, their decay included. All are differences of two gradients, since some of
    our operations have no second derivative. L_train is that of the batch that the weights have
    just learnt from.
    """

    Config = IdartsConfig
    config: IdartsConfig

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        loss = step.loss(self.views(step, Stream.ARCH_STEP), "held")
        loss = step.cost.loss(loss, self.occurrences())
        found = step.gradient(loss, [*self.parameters, *step.parameters])
        direct, first = found[: len(self.parameters)], found[len(self.parameters) :]
        gamma = self.config.gamma or step.trainer.optimizer.param_groups[0]["lr"]
        mixed = change_along(self._series(step, first, gamma), step, self, self.parameters)
        self.apply([g - gamma * m for g, m in zip(direct, mixed, strict=True)])

    def step(self, step: SearchStep) -> None:
        """The weights, and now and then the architecture."""
        self.fit(step)
        if step.n % self.config.arch_every == self.config.arch_every - 1:
            self.learn(step)

    def _series(self, step: SearchStep, p: list[Tensor], gamma: float) -> list[Tensor]:
        """The sum s from its first term. Raises Diverged where terms grow."""
        groups = step.trainer.optimizer.param_groups
        decays = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
        total, size, rises = p, norm(p), 0
        for _ in range(self.config.terms):
            curved = zip(
                p, change_along(p, step, self, step.parameters), step.parameters, strict=True
            )
            p = [x - gamma * (h + decays[weight] * x) for x, h, weight in curved]
            total = [t + x for t, x in zip(total, p, strict=True)]
            before, size = size, norm(p)
            rises = 0 if size <= before else rises + 1  # also where it is no number
            if rises == _RISES:
                raise Diverged(
                    f"step {step.n}: the Neumann series grows by {size / before:.3g} a term with "
                    f"gamma {gamma:g}; a smaller gamma may help"
                )
        return total
