"""The training of a supernet by a strategy, as a task of the trainer."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

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

    Their gradients are summed, as in FairNAS. With in-place distillation (BigNAS, Yu et al. 2020)
    only the first arch of a step, the largest, learns from the labels; the others learn its
    predictions alone. num_images: of the training part.
    """

    title = "supernet"
    validate_every = None

    def __init__(
        self,
        strategy: Strategy,
        config: SupernetConfig,
        objective: Objective,
        num_images: int,
    ) -> None:
        self.strategy = strategy
        self.objective = objective
        self.inplace = _INPLACE.get(config.distill_inplace)
        self.images_per_step = config.batch_size * strategy.passes_per_step
        self.steps_per_epoch = num_images / self.images_per_step
        self.steps = total_steps(config, num_images, strategy)

    def step(self, trainer: Trainer, n: int) -> None:
        """All archs of step n on its batch."""
        archs = self.strategy.archs(n)
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

        trainer.step(n, losses(), [f"arch {arch}" for arch in archs])

    def row(self, n: int) -> dict[str, Any]:
        """Passes over the training images so far."""
        return {"passes": n / self.steps_per_epoch}

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
    """Optimizer steps that spend the budget of passes, rounded up to whole super-steps."""
    steps = math.ceil(config.passes * num_images / (config.batch_size * strategy.passes_per_step))
    whole = strategy.steps_per_superstep
    return math.ceil(steps / whole) * whole
