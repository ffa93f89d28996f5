"""One step of a search by gradient, as its strategy sees it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.base.errors import Diverged
from mobilenas.base.randomness import Stream, fixed_generators, generator
from mobilenas.data import Batch, TrainingBatches
from mobilenas.nn.views import View, Views
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.recipe import Objective, cross_entropy
from mobilenas.train.trainer import Trainer


@dataclass(eq=False)
class SearchStep:
    """Batches, losses and gradients of step n.

    Losses take a part: `train`, whose images the weights are learnt from, or `held`, the other
    images, for the architecture. With several processes each has its rows of a batch, draws are the
    same in all, and gradients, scores and what was spent are those of the joint batch.
    searchable: what views choose from. learnt: steps that learnt the architecture before this one;
    below 0 it is one of weights alone. progress: which share of these lies behind, 0..1. steps: of
    the whole search; learning_steps: those that learn the architecture. spent: images that ran
    forward and backward through one candidate a choice, summed over the step; forward alone is a
    third. held_losses: those on held-out images so far, without a graph.
    """

    trainer: Trainer
    objective: Objective
    held: TrainingBatches
    searchable: Searchable
    cost: ExpectedCost
    n: int
    learnt: int
    progress: float
    steps: int
    spent: float = field(default=0.0, init=False)
    held_losses: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._batches: dict[tuple[str, int], Batch] = {}

    @property
    def learning_steps(self) -> int:
        return self.steps - (self.n - self.learnt)

    def loss(
        self,
        views: Views,
        part: str,
        *,
        track: bool = False,
        number: int | None = None,
        own: Mapping[int, View] | None = None,
    ) -> Tensor:
        """The loss of a mixture on a batch of a part, that of this step or of a number. Batch norms
        take the statistics of the batch; track: whether their running ones move. own: views that
        places of the supernet have of their own.
        """
        images, target = self._batch(part, self.n if number is None else number)
        self._spend(views, images)
        self.trainer.module.train()
        placed = [*self.searchable.placed(views)]
        for place, view in (own or {}).items():
            placed[place] = view
        if track:
            logits = self.trainer.forward(images, placed)
        else:
            with statistics_kept(self.trainer.module):
                logits = self.trainer.forward(images, placed)
        if part == "train":
            return self.objective.loss(logits, target, None)
        loss = cross_entropy(logits.float(), target, 0)  # as released: smoothing is for the weights
        self.held_losses.append(loss.detach())
        return loss

    def scores(
        self, several: Sequence[Views], batches: range, least: float = 0.0
    ) -> list[tuple[float, float]]:
        """Loss and accuracy of several mixtures on some batches of the held-out images, by number,
        by the statistics of each batch. Running ones do not move. All have the same dropout, which
        no other draw hangs on. least: share of the accuracy of the first mixture; the one that has
        less is the last that is measured, and all batches are held at once, so that each is made
        once. Raises Diverged where a loss is not finite.
        """
        made = ((number, self.held(number)) for number in batches)
        if not least:
            return self._scored(several, made)
        kept = [*made]
        found: list[tuple[float, float]] = []
        for views in several:
            found += self._scored([views], kept)
            if found[-1][1] < least * found[0][1]:
                break
        return found

    @torch.no_grad()
    def _scored(
        self, several: Sequence[Views], batches: Iterable[tuple[int, Batch]]
    ) -> list[tuple[float, float]]:
        device, seed, rank = self.trainer.device, self.trainer.seed, self.trainer.processes.rank
        sums = torch.zeros(len(several), 3, dtype=torch.float64, device=device)
        self.trainer.module.train()
        with statistics_kept(self.trainer.module):
            for number, (images, target) in batches:
                for row, views in zip(sums, several, strict=True):
                    self._spend(views, images)
                    placed = self.searchable.placed(views)
                    with fixed_generators(seed, Stream.ARCH_DROP, number, rank, device=device):
                        logits = self.trainer.forward(images, placed).float()
                    loss = cross_entropy(logits, target, 0).double()
                    hits = (logits.argmax(1) == target).sum()
                    size = len(images)
                    row += torch.stack([loss * size, hits.double(), torch.full_like(loss, size)])
        self.trainer.processes.average([sums])
        self.check_finite([sums])
        return [(loss / size, hits / size) for loss, hits, size in sums.tolist()]

    def gradient(self, loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of a loss, 0 where a tensor has no part in it. No `.grad` is touched."""
        return self._joint(torch.autograd.grad(loss, tensors, allow_unused=True), tensors)

    def curvature(self, views: Views) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """The product of a direction of the weights with the second derivatives of the loss of a
        mixture on the training batch. To be made and called within `plain_kernels()`. A product
        counts as two passes, as it runs forward and backward through a backward pass too.
        """
        weights, before = self.parameters, self.spent
        loss = self.loss(views, "train")
        twice = 2 * (self.spent - before)
        slopes = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)

        def product(direction: Sequence[Tensor]) -> list[Tensor]:
            bent = [
                (slope, along)
                for slope, along in zip(slopes, direction, strict=True)
                if slope is not None and slope.requires_grad
            ]
            outputs, along = zip(*bent, strict=True)
            self.spent += twice
            found = torch.autograd.grad(
                outputs, weights, along, retain_graph=True, allow_unused=True
            )
            return self._joint(found, weights)

        return product

    def train(
        self,
        samples: Sequence[Views],
        weights: Sequence[float] | None = None,
        own: Sequence[Mapping[int, View]] | None = None,
    ) -> list[Tensor]:
        """The weight step of the trainer: the gradients of the losses of the samples are summed,
        each times its weight. own: of each sample, as of `loss`. To be called once. Returns the
        losses, without a graph.
        """
        found: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            for views, of_places in zip(samples, own or [{}] * len(samples), strict=True):
                loss = self.loss(views, "train", track=True, own=of_places)
                found.append(loss.detach())
                yield loss

        self.trainer.step(self.n, losses(), [self._name(views) for views in samples], weights)
        return found

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

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Within the block weights can be trained; then they, batch norms and the optimizer are put
        back to the bit.
        """
        module, optimizer = self.trainer.module, self.trainer.optimizer
        before = {name: value.clone() for name, value in module.state_dict().items()}
        steps = deepcopy(optimizer.state_dict())
        try:
            yield
        finally:
            module.load_state_dict(before)
            optimizer.load_state_dict(steps)

    def try_training(self, views: Views, number: int) -> None:
        """A weight step on the training batch of a number, to be put back; nothing is logged."""
        loss = self.loss(views, "train", track=True, number=number)
        weights = self.parameters
        for weight, gradient in zip(weights, self.gradient(loss, weights), strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(weights, self.trainer.config.clip or math.inf)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()

    def rng(self, stream: Stream) -> np.random.Generator:
        """The generator of this step, of the same state at each call."""
        return generator(self.trainer.seed, stream, self.n)

    def _joint(self, found: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Gradients by tensors, 0 where there is none, of the joint batch of all processes. Raises
        Diverged where one is not finite.
        """
        filled = [
            torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(tensors, found, strict=True)
        ]
        self.trainer.processes.average(filled)
        self.check_finite(filled)
        return filled

    def check_finite(self, tensors: Sequence[Tensor]) -> None:
        """Raises Diverged, so that nothing moves and the last checkpoint stays a good one. tensors:
        the same in all processes.
        """
        if not all(tensor.isfinite().all() for tensor in tensors):
            self.trainer.read_losses()  # weights may be lost since a step whose loss says so
            raise Diverged(
                f"step {self.n}: what the architecture would learn from is not finite; a lower lr "
                "may help"
            )

    def _batch(self, part: str, number: int) -> Batch:
        key = part, number
        if key not in self._batches:
            if part == "train":
                # Batches are prefetched in the order of steps, which another one would break.
                get = self.trainer.train if number == self.n else self.trainer.batch
                self._batches[key] = self.objective.mix(*get(number), number)
            else:
                self._batches[key] = self.held(number)
        return self._batches[key]

    def _spend(self, views: Views, images: Tensor) -> None:
        share = 1.0 if torch.is_grad_enabled() else 1 / 3
        joint = len(images) * self.trainer.processes.world
        self.spent += share * joint * self.searchable.executed(views)

    def _name(self, views: Views) -> str:
        views = views[: len(self.searchable.choices.ops)]
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
