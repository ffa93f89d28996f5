"""GAEA (Li et al. 2021): probabilities on the simplex, moved by exponentiated gradient."""

import logging
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.gdas import GdasConfig, gumbel_views
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.pc_darts import PcDarts, PcDartsConfig
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.config import AboveZero, NotNegative, Positive

LEAST = 1e-5  # probability of a candidate, as released
_REACH = 2000.0  # eta times steps: 0.1 in 25 epochs of 50,000 images, 64 a batch

log = logging.getLogger(__name__)


class GaeaConfig(GdasConfig, PcDartsConfig):
    """backbone: which forward the probabilities are learnt through; parts: of pc-darts the share of
    the channels that ops take, one part. level: `single` learns the architecture from training
    images too, of another batch than the weights, so that a batch of images is all that is held out
    unless validate_images says otherwise. eta: rate of the exponentiated gradient, by default 2000
    over the number of steps that learn it. entropy_weight: of the sum of p log(n p).
    """

    backbone: Literal["darts", "pc-darts", "gdas"] = "darts"
    parts: Positive = 4
    level: Literal["bilevel", "single"] = "bilevel"
    eta: AboveZero | None = None
    entropy_weight: NotNegative = 0.0

    def held_out(self, count: int) -> int:
        """No more than a batch where the architecture is learnt from training images."""
        if self.level == "single" and self.validate_images is None:
            return self.batch_size
        return super().held_out(count)


class Gaea(LearnedStrategy):
    """Probabilities p are the parameters themselves, and the weights of a mixture:

        p <- p * exp(-eta * d L / d p), none below 1e-5, over their sum

    This is the step that a mirror descent with the entropy makes, and reaches sparse p faster than
    one through a softmax, whose gradient vanishes there. With pc-darts the edges into a node have
    such p too; with gdas one candidate is drawn, by Gumbel noise on log p.
    """

    Config = GaeaConfig
    config: GaeaConfig

    def __init__(self, choices: Choices, config: GaeaConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        sizes = self.sizes(choices)
        self.parameters = [torch.full((n,), 1 / n, requires_grad=True) for n in sizes]
        self.eta = config.eta or 0.1  # until a step says how many there are
        self._warned = False

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput for blocks with pc-darts."""
        assert isinstance(config, GaeaConfig)
        if config.backbone == "pc-darts":
            PcDarts.check(searchable, config)

    @classmethod
    def adds_up(cls, config: SearchConfig) -> bool:
        """Not with gdas."""
        assert isinstance(config, GaeaConfig)
        return config.backbone != "gdas"

    @classmethod
    def supernet(
        cls, searchable: Searchable, config: SearchConfig, generator: torch.Generator
    ) -> nn.Module:
        """Fresh weights, of edges on a part of the channels with pc-darts."""
        assert isinstance(config, GaeaConfig)
        if config.backbone == "pc-darts":
            return PcDarts.supernet(searchable, config, generator)
        return super().supernet(searchable, config, generator)

    def sizes(self, choices: Choices) -> list[int]:
        """Of each edge's ops, with pc-darts also of each node's edges."""
        edges = choices.inputs if self.config.backbone == "pc-darts" else ()
        return choices.sizes + [len(node.candidates) for node in edges]

    def probabilities(self) -> list[Tensor]:
        """The first of the parameters."""
        return self.parameters[: len(self.choices.ops)]

    def inputs(self) -> list[Tensor]:
        """The others, if there are any."""
        return self.parameters[len(self.choices.ops) :]

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """All candidates, and edges, by their p; or one that is drawn. A strategy that goes on from
        this one comes by here too, and has the rate of its own number of steps.
        """
        self.eta = self.config.eta or _REACH / step.learning_steps
        if self.config.backbone == "gdas":
            logs = [p.log() for p in self.parameters]
            return gumbel_views(logs, self.config.tau(step.progress), step.rng(stream))
        return super().views(step, stream)

    def penalty(self) -> Tensor | float:
        """How far the p are from equal ones."""
        if not self.config.entropy_weight:
            return 0.0
        entropies = [(p * (len(p) * p).log()).sum() for p in self.parameters]
        return self.config.entropy_weight * torch.stack(entropies).sum()

    def arch_loss(self, step: SearchStep) -> Tensor:
        """With a single level on training images, in the order of a later epoch: another batch."""
        if self.config.level != "single":
            return super().arch_loss(step)
        number = step.n + step.steps
        loss = step.loss(self.views(step, Stream.ARCH_STEP), "train", number=number)
        return step.cost.loss(loss, self.occurrences()) + self.penalty()

    def reach(self, steps: int) -> str:
        """By its own rate."""
        eta = self.config.eta or _REACH / steps
        return f"eta {eta:.3g} in {steps} steps: {eta * steps:.0f} together"

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """A step along gradients. In logarithms, where nothing overflows."""
        spread = self.eta * max(float(g.max() - g.min()) for g in gradients)
        if spread > -math.log(LEAST) and not self._warned:
            self._warned = True
            log.warning("eta moves a probability to its least, 1e-5, in a step; a smaller may help")
        with torch.no_grad():
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.copy_(exponentiated(p, self.eta * gradient))


def exponentiated(p: Tensor, gradient: Tensor) -> Tensor:
    """Probabilities after a step along a gradient, (candidates,): none below 1e-5, then over their
    sum, so that they sum to 1.
    """
    moved = (p.log() - gradient).softmax(0).clamp_min(LEAST)
    return moved / moved.sum()
