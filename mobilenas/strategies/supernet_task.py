"""The training of a supernet by a strategy, as a task of the trainer."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

from torch import Tensor

from mobilenas.space import AnyArch
from mobilenas.strategies.base import Strategy
from mobilenas.strategies.phases import Phase, phase_steps
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
    learn its predictions alone. num_images: of the training part. first: what is trained before the
    strategy.
    """

    title = "supernet"
    validate_every = None

    def __init__(
        self,
        strategy: Strategy,
        config: SupernetConfig,
        objective: Objective,
        num_images: int,
        first: Sequence[Phase] = (),
    ) -> None:
        phases = [*first, Phase(strategy, config.passes)]
        steps = phase_steps(phases, num_images, config.batch_size)
        self.strategies = [phase.strategy for phase in phases]
        self.starts = [0, *accumulate(steps)]  # the first step of each phase, and the end
        self.objective = objective
        self.inplace = _INPLACE.get(config.distill_inplace)
        self.averages = config.step_gradient == "mean"
        self.images_per_step = config.batch_size * strategy.passes_per_step
        self.steps_per_epoch = num_images / self.images_per_step
        self.steps = self.starts[-1]

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
        phase = bisect_right(self.starts, n) - 1
        return self.strategies[phase].archs(n - self.starts[phase])

    def position(self, n: int) -> float:
        """A step of an earlier phase is the part of a step of the last one that it costs."""
        done = (min(max(n - a, 0), b - a) for a, b in pairwise(self.starts))
        passes = [strategy.passes_per_step for strategy in self.strategies]
        return sum(map(mul, done, passes)) / passes[-1]

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
