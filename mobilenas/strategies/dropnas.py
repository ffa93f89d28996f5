"""DropNAS (Hong et al. 2020): candidates are dropped, one backward pass serves both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View
from mobilenas.space import Choice
from mobilenas.space.edge_cells import NONE
from mobilenas.strategies.choices import PASSING, Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep

_STILL = 1e-7  # a parameter with a smaller gradient does not decay, as released


class DropNasConfig(SearchConfig):
    """drop: how often a candidate is dropped, the published 3e-5 to the power 1/4; draws that leave
    nothing of a group are repeated, which bounds it. weight_decay and arch_weight_decay: of what
    was not dropped, in a step of their own.
    """

    drop: Annotated[float, Field(ge=0, le=0.99)] = 3e-5**0.25

    def held_out(self, count: int) -> int:
        """One batch, which plays no part: all is learnt from the training images."""
        return self.validate_images or self.batch_size


class DropNas(LearnedStrategy):
    """A step drops candidates, in each group of a choice (see `groups`) each with one probability,
    unless all of a group would go. A choice is the sum of the others, weighted by the softmax over
    these; a batch of training images gives weights and architecture their gradients together.

    Then follow, as in the released code: a second step of both optimizers along the gradients of
    weight_decay * |w|^2 and arch_weight_decay * a^2 over what was not dropped, twice the decay of
    an optimizer; and one number is added to the parameters that were not dropped, so that together
    they are as probable as before. The dropped ones stay where they are, momentum or not.

    Expected costs are those of the softmax over what was not dropped.
    """

    Config = DropNasConfig
    config: DropNasConfig

    def __init__(self, choices: Choices, config: DropNasConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        self.groups = [groups(choice) for choice in choices.ops]
        self.optimizer.param_groups[0]["weight_decay"] = 0.0  # it has a step of its own

    def step(self, step: SearchStep) -> None:
        """One step learns both."""
        self.learn(step)

    def learn(self, step: SearchStep) -> None:
        """Weights and architecture."""
        self._together(step, learns=True)

    def fit(self, step: SearchStep) -> None:
        """The weights; the architecture decays all the same, as released."""
        self._together(step, learns=False)

    def kept(self, rng: np.random.Generator) -> list[Tensor]:
        """Of each choice the indices of the candidates that are not dropped."""
        return [torch.tensor(left(each, self.config.drop, rng)) for each in self.groups]

    def _together(self, step: SearchStep, *, learns: bool) -> None:
        kept = self.kept(step.rng(Stream.WEIGHT_STEP))
        views: list[View] = [
            dict(zip(k.tolist(), a[k].softmax(0).unbind(), strict=True))
            for a, k in zip(self.parameters, kept, strict=True)
        ]
        before = [alpha.detach().clone() for alpha in self.parameters]
        with _without_decay(step.trainer.optimizer):
            (loss,) = step.train([views])
        gradients = [torch.zeros_like(a) if a.grad is None else a.grad for a in self.parameters]
        step.trainer.processes.average(gradients)
        if learns:
            expected = [
                torch.zeros_like(a).index_put((k,), a[k].softmax(0))
                for a, k in zip(self.parameters, kept, strict=True)
            ]
            self.apply(self._with_costs(step, loss, gradients, expected))
        else:
            self.optimizer.zero_grad()
        self._decay_weights(step)
        decay = 2 * self.config.arch_weight_decay
        if decay:
            moving = [gradient.abs() > _STILL for gradient in gradients]
            pairs = zip(self.parameters, moving, strict=True)
            self.apply([decay * alpha.detach() * moves for alpha, moves in pairs])
        with torch.no_grad():
            for alpha, k, old in zip(self.parameters, kept, before, strict=True):
                moved = alpha[k]
                alpha.copy_(old)
                shift = old[k].logsumexp(0) - moved.logsumexp(0)
                alpha[k] = moved + shift if learns and len(k) < len(old) else moved

    def _with_costs(
        self, step: SearchStep, loss: Tensor, gradients: list[Tensor], expected: list[Tensor]
    ) -> list[Tensor]:
        """The gradients of the loss with expected costs, from those of the loss alone."""
        loss = loss.clone().requires_grad_()
        total = step.cost.loss(loss, expected)
        factor, *of_costs = step.gradient(total, [loss, *self.parameters])
        return [factor.to(g) * g + cost for g, cost in zip(gradients, of_costs, strict=True)]

    def _decay_weights(self, step: SearchStep) -> None:
        """A step along the decay of the weights that have a gradient, clipped as any."""
        optimizer = step.trainer.optimizer
        with _without_decay(optimizer) as decays:
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                for weight in group["params"]:
                    if weight.grad is not None:
                        weight.grad = 2 * decay * weight.detach() if decay else None
            clip = step.trainer.config.clip
            if clip is not None:
                nn.utils.clip_grad_norm_(step.parameters, clip)
            optimizer.step()


def groups(choice: Choice) -> list[list[int]]:
    """The candidates of a choice in groups of which never all are dropped: ops with weights and
    those without; of blocks those of each expansion.
    """
    found: dict[str, list[int]] = {}
    for index, name in enumerate(choice.candidates):
        found.setdefault(_group(name), []).append(index)
    return list(found.values())


def _group(name: str) -> str:
    if name in PASSING or name == NONE or name.endswith("pool_3x3"):
        return "without weights"
    return "convolutions" if "_conv_" in name else name.partition("k")[0]  # e3k5: expansion 3


def left(each: list[list[int]], drop: float, rng: np.random.Generator) -> list[int]:
    """What is left of the groups of a choice when candidates are dropped with that probability."""
    kept: list[int] = []
    for group in each:
        if len(group) == 1:  # to be drawn until it is kept
            kept += group
            continue
        stays = np.zeros(len(group), dtype=bool)
        while not stays.any():
            stays = rng.random(len(group)) >= drop
        kept += [index for index, stay in zip(group, stays, strict=True) if stay]
    return sorted(kept)


@contextmanager
def _without_decay(optimizer: torch.optim.Optimizer) -> Iterator[Sequence[float]]:
    """Within the block the optimizer has no weight decay; gives what it had, for each group."""
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    try:
        yield decays
    finally:
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
