"""A search by gradient, as a task of the trainer."""

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.data import TrainingBatches
from mobilenas.space import Arch, Genotype
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.learned import LearnedStrategy, normalised
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer

log = logging.getLogger(__name__)

_ROWS = 50  # of the log that say where the architecture stands


class SearchTask:
    """Learns weights and architecture by a strategy. held: batches of the images that the
    architecture is learnt from. num_images: of the training part. limits: of the derived arch.
    """

    title = "search"

    def __init__(
        self,
        strategy: LearnedStrategy,
        objective: Objective,
        held: TrainingBatches,
        searchable: Searchable,
        limits: dict[str, float],
        num_images: int,
    ) -> None:
        config = strategy.config
        self.strategy = strategy
        self.objective = objective
        self.held = held
        self.searchable = searchable
        self.limits = limits
        self.cost = ExpectedCost(
            searchable.costs,
            limits,
            config.cost_form,
            config.cost_weight,
            config.cost_power,
            searchable.spread,
        )
        self.num_images = num_images
        self.images_per_step = config.batch_size
        self.steps_per_epoch = num_images / config.batch_size
        self.steps, self.first = 1, 0
        if strategy.trains_weights:
            self.steps, self.first = search_steps(config, num_images)
        self.validate_every = max(1, self.steps // _ROWS)
        self.spent = 0.0  # images times candidates of a choice
        self.held_loss: torch.Tensor | None = None  # mean of the last step that had one

    def step(self, trainer: Trainer, n: int) -> None:
        """Step n: weights alone at first, then as the strategy has it."""
        learning = max(1, self.steps - self.first - 1)
        step = SearchStep(
            trainer,
            self.objective,
            self.held,
            self.searchable,
            self.cost,
            n,
            n - self.first,
            max(0, n - self.first) / learning,
            self.steps,
        )
        if n == self.first and (reach := self.strategy.reach(step.learning_steps)):
            log.info(reach)
        key = trainer.seed, Stream.ARCH_DROP, n, trainer.processes.rank
        with fixed_generators(*key, device=trainer.device):
            if n < self.first:
                self.strategy.fit(step)
            else:
                self.strategy.step(step)
        self.spent += step.spent
        if step.held_losses:
            self.held_loss = torch.stack(step.held_losses).mean()
            trainer.processes.average([self.held_loss])  # now: one process writes checkpoints

    def position(self, n: int) -> float:
        """All steps are of one size."""
        return n

    def row(self, n: int) -> dict[str, Any]:
        """Epochs, and passes over the training images: one that ran forward and backward through a
        candidate a choice counts once, through k of them k times.
        """
        return {"epoch": n / self.steps_per_epoch, "passes": self.spent / self.num_images}

    def validate(self, trainer: Trainer, n: int) -> dict[str, Any]:
        """Where the architecture stands: mean entropy of the probabilities over that of equal ones,
        the mean probability of passing on the input where it is offered, expected costs, the loss
        on held-out images that it last learnt from, and the arch that would be derived now, with
        its shortcuts.
        """
        with torch.no_grad():
            probabilities = self.strategy.probabilities()
            several = [p.double() for p in probabilities if len(p) > 1]
            entropy = [-(p * p.clamp_min(1e-300).log()).sum() / math.log(len(p)) for p in several]
            row: dict[str, Any] = {"entropy": float(np.mean(entropy)) if entropy else 0.0}
            spread = self.searchable.spread(probabilities)
            whole = self.searchable.whole
            passing = whole.choices.skips
            if passing:
                row["skip"] = float(np.mean([float(spread[c][i]) for c, i in passing]))
            occurrences = self.strategy.occurrences()
            for cost in {"flops": None, **self.cost.limits}:
                row[f"expected_{cost}"] = float(self.cost.of(cost, occurrences))
        row |= self.strategy.figures()
        if self.held_loss is not None:
            row["held_loss"] = float(self.held_loss)
        arch = self.derive() or self.strategy.derive(self.searchable, {})
        if passing:
            genes = whole.space.encode(arch)  # type: ignore[arg-type]
            row["skips"] = sum(int(genes[place] == index) for place, index in passing)
        return row | {"arch": str(arch)}

    def derive(self) -> Arch | Genotype | None:
        """The most probable arch within the limits, None where no arch is."""
        return self.strategy.derive(self.searchable, self.limits)

    def dropped(self, arch: Arch | Genotype) -> list[str]:
        """The candidates of an arch that the search gave up on its way, each with its choice."""
        whole = self.searchable.whole
        genes = whole.space.encode(arch)  # type: ignore[arg-type]
        return [
            f"{choice.name} {choice.candidates[gene]}"
            for choice, p, gene in zip(whole.choices.ops, self.arrays(), genes, strict=True)
            if gene >= 0 and p[gene] == 0
        ]

    def arrays(self) -> list[NDArray[np.float64]]:
        """The probabilities of each choice's candidates."""
        return [normalised(p) for p in self.searchable.spread(self.strategy.probabilities())]

    def note(self) -> str:
        """Nothing beside loss and throughput."""
        return ""

    def state(self) -> dict[str, Any]:
        """The strategy's, what was spent, and the loss on held-out images."""
        return {
            "strategy": self.strategy.state(),
            "spent": self.spent,
            "held_loss": self.held_loss,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.strategy.load_state(state["strategy"])
        self.spent = state["spent"]
        self.held_loss = state.get("held_loss")  # runs of before have none


def search_steps(config: SearchConfig, num_images: int) -> tuple[int, int]:
    """All steps of a search, and how many of them train weights alone. num_images: of the training
    part. Raises BadInput where these are all.
    """
    steps = math.ceil(config.epochs * (num_images / config.batch_size))
    first = round(config.weights_first * steps)
    if first == steps:
        raise BadInput(
            f"weights_first {config.weights_first:g} is all of {steps} steps, of which the "
            "architecture must have some: a smaller share, or more epochs"
        )
    return steps, first


def check_learns(kind: type[LearnedStrategy], config: SearchConfig, num_images: int) -> None:
    """Raises BadInput where no step of a search would learn the architecture. num_images: of the
    training part.
    """
    steps, first = search_steps(config, num_images)
    if not kind.learns(config, range(first, steps)):
        alone = f", the first {first} of weights alone," if first else ""
        raise BadInput(
            f"arch_every {getattr(config, 'arch_every', 1)}: of {steps} steps{alone} none would "
            "learn the architecture; a smaller arch_every, or more epochs"
        )
