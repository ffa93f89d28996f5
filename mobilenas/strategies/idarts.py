"""iDARTS (Zhang et al. 2021): the gradient through the whole training of the weights."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mobilenas.base.errors import Diverged
from mobilenas.base.randomness import Stream
from mobilenas.nn.kernels import plain_kernels
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.darts import change_along, norm
from mobilenas.strategies.learned import LearnedStrategy, is_turn
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, Positive

_RISES = 2  # terms one after another that are larger than those before: the series diverges
_GROWTH = 2  # of a term over the first, beyond which it does with the default gamma


class IdartsConfig(SearchConfig):
    """arch_every: weight steps between architecture steps. terms: of the Neumann series after its
    first one. gamma: its step; if None the learning rate of the weights, but at most half the
    inverse of what a second product with H enlarges a first by. That factor is some way below the
    largest eigenvalue of H, beyond twice whose inverse terms would grow.
    """

    arch_every: Positive = 4
    terms: Annotated[int, Field(ge=0, le=1000)] = 2
    gamma: AboveZero | None = None


class Idarts(LearnedStrategy):
    """DARTS whose architecture gradient is that at weights w that are trained to the end:

        g = d L_held / d a - gamma * d2 L_train / (d a d w) * s
        s = p_0 + ... + p_K,   p_0 = d L_held / d w,   p_{k+1} = p_k - gamma * H p_k

    where gamma * s stands for the inverse of H times p_0, H the second derivatives of the training
    loss by the weights, their decay included. Products with H are exact, the mixed term is a
    difference of two gradients, as released. L_train is that of the batch that the weights have
    just learnt from.
    """

    Config = IdartsConfig
    config: IdartsConfig

    @classmethod
    def takes_differences(cls, config: SearchConfig) -> bool:
        """Always."""
        return True

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        found = step.gradient(self.arch_loss(step), [*self.parameters, *step.parameters])
        direct, first = found[: len(self.parameters)], found[len(self.parameters) :]
        series, gamma = self._series(step, first)
        mixed = change_along(series, step, self, self.parameters)
        self.apply([g - gamma * m for g, m in zip(direct, mixed, strict=True)])

    @classmethod
    def learns(cls, config: SearchConfig, steps: range) -> bool:
        """The last of each `arch_every` steps does."""
        assert isinstance(config, IdartsConfig)
        return any(is_turn(n, config.arch_every) for n in steps)

    def step(self, step: SearchStep) -> None:
        """The weights, and now and then the architecture."""
        self.fit(step)
        if is_turn(step.n, self.config.arch_every):
            self.learn(step)

    def _series(self, step: SearchStep, p: list[Tensor]) -> tuple[list[Tensor], float]:
        """The sum s from its first term, and gamma. Raises Diverged where terms grow."""
        gamma = self.config.gamma or step.trainer.optimizer.param_groups[0]["lr"]
        if not self.config.terms:
            return p, gamma
        groups = step.trainer.optimizer.param_groups
        decays = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
        with plain_kernels():
            curvature = step.curvature(self.views(step, Stream.ARCH_STEP))

            def product(direction: list[Tensor]) -> list[Tensor]:
                bent = zip(curvature(direction), direction, step.parameters, strict=True)
                return [h + decays[weight] * x for h, x, weight in bent]

            if self.config.gamma is None:
                first = product(p)
                gamma = min(gamma, norm(first) / max(2 * norm(product(first)), 1e-12))
            total, size, rises = p, norm(p), 0
            # Along negative curvature terms grow a little with any gamma.
            bound = 0.0 if self.config.gamma else _GROWTH * size
            for _ in range(self.config.terms):
                p = [x - gamma * h for x, h in zip(p, product(p), strict=True)]
                total = [t + x for t, x in zip(total, p, strict=True)]
                before, size = size, norm(p)
                rises = 0 if size <= before else rises + 1  # also where it is no number
                if rises >= _RISES and not size <= bound:
                    raise Diverged(
                        f"step {step.n}: the Neumann series grows by {size / before:.3g} a term "
                        f"with gamma {gamma:g}; a smaller gamma may help"
                    )
        return total, gamma
