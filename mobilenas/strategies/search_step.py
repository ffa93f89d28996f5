"""One step of a search by gradient, as its strategy sees it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.base.randomness import Stream, generator
from mobilenas.data import Batch, TrainingBatches
from mobilenas.nn.views import Views
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.recipe import Objective, cross_entropy
from mobilenas.train.trainer import Trainer


@dataclass(eq=False)
class SearchStep:
    """Batches, losses and gradients of step n.

    Losses take a part: `train`, whose images the weights are learnt from, or `held`, the other
    images, for the architecture. With several processes gradients are those of the joint batch.
    searchable: what views choose from. learnt: steps that learnt the architecture before this one;
    below 0 it is one of weights alone. progress: which share of these lies behind, 0..1. spent:
    images that ran forward and backward through one candidate a choice, summed over the step;
    forward alone is a third.
    """

    trainer: Trainer
    objective: Objective
    held: TrainingBatches
    searchable: Searchable
    cost: ExpectedCost
    n: int
    learnt: int
    progress: float
    spent: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._batches: dict[tuple[str, int], Batch] = {}

    def loss(
        self, views: Views, part: str, *, track: bool = False, number: int | None = None
    ) -> Tensor:
        """The loss of a mixture on a batch of a part, that of this step or of a number. Batch norms
        take the statistics of the batch; track: whether their running ones move.
        """
        images, target = self._batch(part, self.n if number is None else number)
        share = 1.0 if torch.is_grad_enabled() else 1 / 3
        self.spent += share * len(images) * self.searchable.executed(views)
        self.trainer.module.train()
        placed = self.searchable.placed(views)
        if track:
            logits = self.trainer.forward(images, placed)
        else:
            with statistics_kept(self.trainer.module):
                logits = self.trainer.forward(images, placed)
        if part == "train":
            return self.objective.loss(logits, target, None)
        return cross_entropy(logits.float(), target, 0)  # as released: smoothing is for the weights

    def gradient(self, loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of a loss, 0 where a tensor has no part in it. No `.grad` is touched."""
        found = torch.autograd.grad(loss, tensors, allow_unused=True)
        filled = [
            torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(tensors, found, strict=True)
        ]
        self.trainer.processes.average(filled)
        return filled

    def train(self, samples: Sequence[Views], weights: Sequence[float] | None = None) -> None:
        """The weight step of the trainer: the gradients of the losses of the samples are summed,
        each times its weight. To be called once.
        """
        losses = (self.loss(views, "train", track=True) for views in samples)
        self.trainer.step(self.n, losses, [self._name(views) for views in samples], weights)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights of the supernet."""
        return list(self.trainer.module.parameters())

    @contextmanager
    def moved(self, direction: Sequence[Tensor], distance: float) -> Iterator[None]:
        """Within the block the weights are moved along a direction; then put back to the bit."""
        weights = self.parameters
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, along in zip(weights, direction, strict=True):
                weight.add_(along, alpha=distance)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(weights, before, strict=True):
                    weight.copy_(old)

    def rng(self, stream: Stream) -> np.random.Generator:
        """The generator of this step, of the same state at each call."""
        return generator(self.trainer.seed, stream, self.n)

    def _batch(self, part: str, number: int) -> Batch:
        key = part, number
        if key not in self._batches:
            batch = self.trainer.train(number) if part == "train" else self.held(number)
            self._batches[key] = self.objective.mix(*batch, number) if part == "train" else batch
        return self._batches[key]

    def _name(self, views: Views) -> str:
        genes = [view if isinstance(view, int) else next(iter(view)) for view in views]
        if all(isinstance(view, int) or len(view) == 1 for view in views):
            return self.searchable.name(genes)
        return "the mixture"


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within the block batch norms in training mode leave their running statistics as they are."""
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
