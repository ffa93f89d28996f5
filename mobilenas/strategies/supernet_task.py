"""The training of a supernet by a strategy, as a task of the trainer."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from mobilenas.space import AnyArch, Arch
from mobilenas.strategies.base import Strategy
from mobilenas.train.config import SupernetConfig
from mobilenas.train.distill import adaptive_divergence, distillation
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer

# What the archs of a step after the first learn from it: a loss of their logits and of its.
_INPLACE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda logits, first: distillation(logits, first, temperature=1),
    "adaptive": adaptive_divergence,
}


class SupernetTask:
    """Trains the archs that a strategy names, all of a step on the same batch.

    Their gradients are summed, as in FairNAS, or averaged. With in-place distillation (BigNAS, Yu
    et al. 2020) only the first arch of a step, the largest, learns from the labels; the others
    learn its predictions alone. num_images: of the training part. largest: the arch that the
    config's warmup_largest_passes train alone, if there are any.
    """

    title = "supernet"
    validate_every = None

    def __init__(
        self,
        strategy: Strategy,
        config: SupernetConfig,
        objective: Objective,
        num_images: int,
        largest: Arch | None = None,
    ) -> None:
        self.strategy = strategy
        self.objective = objective
        self.inplace = _INPLACE.get(config.distill_inplace)
        self.averages = config.step_gradient == "mean"
        self.largest = largest
        self.largest_steps = largest_steps(config, num_images)
        self.images_per_step = config.batch_size * strategy.passes_per_step
        self.steps_per_epoch = num_images / self.images_per_step
        self.steps = total_steps(config, num_images, strategy)

    def step(self, trainer: Trainer, n: int) -> None:
        """All archs of step n on its batch."""
        archs = self.archs(n)
        images, target = self.objective.mix(*trainer.train(n), n)
        with trainer.autocast():
            taught = self.objective.taught(images)

        def losses() -> Iterator[Tensor]:
            first: Tensor | None = None  # logits of the first arch
            for arch in archs:
                logits = trainer.forward(images, arch)
                if first is None or self.inplace is None:
                    first = logits.detach()
                    yield self.objective.loss(logits, target, taught)
                else:
                    yield self.inplace(logits.float(), first.float())

        weights = [1 / len(archs)] * len(archs) if self.averages else None
        trainer.step(n, losses(), [f"arch {arch}" for arch in archs], weights)

    def archs(self, n: int) -> Sequence[AnyArch]:
        """The archs of step n."""
        if n < self.largest_steps:
            assert self.largest is not None
            return [self.largest]
        return self.strategy.archs(n - self.largest_steps)

    def position(self, n: int) -> float:
        """A step of the largest arch alone is a part of a step of the strategy."""
        alone = min(n, self.largest_steps)
        return n - alone + alone / self.strategy.passes_per_step

    def row(self, n: int) -> dict[str, Any]:
        """Passes over the training images so far."""
        return {"passes": self.position(n) / self.steps_per_epoch}

    def validate(self, trainer: Trainer, n: int) -> dict[str, Any]:
        """A supernet is measured when it is trained."""
        return {}

    def note(self) -> str:
        """Nothing beside loss and throughput."""
        return ""

    def state(self) -> dict[str, Any]:
        """None: what a strategy does is a function of the step."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""


def total_steps(config: SupernetConfig, num_images: int, strategy: Strategy) -> int:
    """Optimizer steps that spend the budget of passes, those of the largest arch alone included,
    rounded up to whole super-steps: one at least.
    """
    alone = largest_steps(config, num_images)
    left = config.passes * num_images - alone * config.batch_size
    steps = max(1, math.ceil(left / (config.batch_size * strategy.passes_per_step)))
    whole = strategy.steps_per_superstep
    return alone + math.ceil(steps / whole) * whole


def largest_steps(config: SupernetConfig, num_images: int) -> int:
    """The first steps, which train the largest arch alone."""
    return math.ceil(config.warmup_largest_passes * num_images / config.batch_size)
