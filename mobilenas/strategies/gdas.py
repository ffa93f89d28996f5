"""GDAS (Dong and Yang 2019): one sampled candidate a block, its gradient by Gumbel-softmax."""

from collections.abc import Sequence

import numpy as np
from pydantic import model_validator
from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View, Views
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.subsets import opened, perturbed
from mobilenas.train.config import AboveZero


class GdasConfig(SearchConfig):
    """tau_start, tau_end: the temperature, which falls linearly over the search."""

    tau_start: AboveZero = 10.0
    tau_end: AboveZero = 0.1

    @model_validator(mode="after")
    def _falls(self) -> "GdasConfig":
        if self.tau_end > self.tau_start:
            raise ValueError(
                f"tau_end {self.tau_end:g} must be at most tau_start {self.tau_start:g}"
            )
        return self

    def tau(self, progress: float) -> float:
        """The temperature when that share of the search lies behind."""
        return self.tau_start + (self.tau_end - self.tau_start) * progress


class Gdas(LearnedStrategy):
    """With g Gumbel noise a block runs its candidate k of the largest log p + g, times

        h = 1 - stop(q_k) + q_k,   q = softmax((log p + g) / tau)

    which is 1 and has the gradient of q_k. One draw serves a whole forward. The weights are trained
    first, then the architecture, as released.
    """

    Config = GdasConfig
    is_dense = False
    config: GdasConfig

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """One candidate a block, times h."""
        return gumbel_views(self.parameters, self.config.tau(step.progress), step.rng(stream))

    def step(self, step: SearchStep) -> None:
        """The weights, then the architecture."""
        self.fit(step)
        self.learn(step)


def gumbel_views(parameters: Sequence[Tensor], tau: float, rng: np.random.Generator) -> list[View]:
    """Of each choice one candidate, drawn by the softmax of its parameters, times h."""
    views: list[View] = []
    for alpha in parameters:
        noisy, q = perturbed(alpha, rng, tau)
        k = int(noisy.argmax())
        views.append({k: opened(q[k])})
    return views
