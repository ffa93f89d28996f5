"""What strategies that learn an architecture by gradient have in common: DARTS, first order."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenas.base.randomness import Stream, generator
from mobilenas.nn.views import Views, without_graph
from mobilenas.space import Arch, Genotype
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.stage import Kept

_LEAST = 1e-12  # keeps a division finite where all other edges are worth nothing


class LearnedStrategy:
    """Architecture parameters of each block, or edge, and how a step learns them and the weights.

    This class is DARTS of first order (Liu et al. 2019): a block is the sum of all candidates,
    weighted by the softmax of its parameters. Other methods override what they do otherwise.

    Architecture parameters are plain tensors in float32, never a part of the supernet, its
    optimizer or its clipping.
    """

    Config: ClassVar[type[SearchConfig]] = SearchConfig
    # Candidates are added up, so that a trained last batch norm of one could rescale it, and one
    # that starts at 0 would leave nothing to tell candidates apart: it has no weight and bias.
    is_dense: ClassVar[bool] = True
    starts_from: ClassVar[Literal["search", "supernet"] | None] = None  # a run of this command
    must_start_from: ClassVar[bool] = False  # that; it has no fresh weights
    score_file: ClassVar[str | None] = None  # in the run folder: what it measured
    answer: ClassVar[str] = "the most probable arch"  # it ends in
    no_network: ClassVar[str | None] = None  # why no network computes what it trains

    def __init__(self, choices: Choices, config: SearchConfig, seed: int) -> None:
        self.trains_weights = True
        self.choices = choices
        self.config = config
        self.scores = ScoreLog()
        rng = generator(seed, Stream.ARCH_START)
        drawn = (rng.normal(0, 1e-3, size) for size in self.sizes(choices))
        self.parameters = [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in drawn]
        self.optimizer = torch.optim.Adam(
            self.parameters,
            config.arch_lr,
            betas=config.arch_betas,
            weight_decay=config.arch_weight_decay,
        )

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where the method does not suit a space."""

    @classmethod
    def adds_up(cls, config: SearchConfig) -> bool:
        """Whether it trains sums of candidates."""
        return cls.is_dense

    @classmethod
    def takes_differences(cls, config: SearchConfig) -> bool:
        """Whether it divides small differences of gradients, for which bf16 is too coarse."""
        return False

    @classmethod
    def supernet(
        cls, searchable: Searchable, config: SearchConfig, generator: torch.Generator
    ) -> nn.Module:
        """The supernet that is searched, fresh weights."""
        return searchable.supernet(
            dense=cls.adds_up(config), shadow_bn=config.bn == "shadow", generator=generator
        )

    def sizes(self, choices: Choices) -> list[int]:
        """How many parameters there are of each block or edge, then of whatever else there is."""
        return choices.sizes

    @classmethod
    def stages(cls, config: SearchConfig) -> int:
        """Trainings that a search is made of, each with new weights and parameters."""
        return 1

    @classmethod
    def stage(
        cls, searchable: Searchable, config: SearchConfig, number: int, kept: Kept
    ) -> Searchable:
        """What a stage searches, numbered from 0 on. kept: by the stage before."""
        return searchable

    def survivors(self, searchable: Searchable) -> Kept:
        """The candidates that go on to the next stage."""
        return {}

    def probabilities(self) -> list[Tensor]:
        """Of each block the probabilities of its candidates, in the graph of the parameters."""
        return [alpha.softmax(0) for alpha in self.parameters[: len(self.choices.ops)]]

    def inputs(self) -> list[Tensor]:
        """Of each node of cells what each edge into it is worth; none: all the same."""
        return []

    def occurrences(self) -> list[Tensor]:
        """Of each block how often an arch has each of its candidates, which expected costs count:
        by its probability, on an edge of cells times how often its node takes the edge.
        """
        found = [*self.probabilities()]
        nodes = self.choices.inputs
        worths = self.inputs() or [torch.ones(len(node.candidates)) for node in nodes]
        for node, into, worth in zip(nodes, self.choices.into, worths, strict=True):
            shares = inclusion(worth, node.taken)
            found[into] = [p * share for p, share in zip(found[into], shares, strict=True)]
        return found

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """The arch that the search ends in, None where no arch is within limits."""
        arrays = [[normalised(p) for p in each] for each in (self.probabilities(), self.inputs())]
        return searchable.derive(arrays[0], limits, arrays[1])

    def figures(self) -> dict[str, float]:
        """What the log says of this strategy beside what it says of all."""
        return {}

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """What one forward runs: a view of each block or edge, maybe one of each node's inputs.
        stream: of its draws.
        """
        weights = [*self.probabilities(), *self.inputs()]
        return [dict(enumerate(w.unbind())) for w in weights]

    def penalty(self) -> Tensor | float:
        """What is added to the loss of an architecture step."""
        return 0.0

    def arch_loss(self, step: SearchStep) -> Tensor:
        """The loss of an architecture step: on held-out images, with expected costs and penalty."""
        loss = step.loss(self.views(step, Stream.ARCH_STEP), "held")
        return step.cost.loss(loss, self.occurrences()) + self.penalty()

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        self.apply(step.gradient(self.arch_loss(step), self.parameters))

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """A step of the architecture's optimizer along gradients, one for each block."""
        for alpha, gradient in zip(self.parameters, gradients, strict=True):
            alpha.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    def fit(self, step: SearchStep) -> None:
        """A weight step."""
        step.train([without_graph(self.views(step, Stream.WEIGHT_STEP))])

    def step(self, step: SearchStep) -> None:
        """One step of the search: the architecture, then the weights."""
        self.learn(step)
        self.fit(step)

    @classmethod
    def learns(cls, config: SearchConfig, steps: range) -> bool:
        """Whether the architecture learns in one of these steps, none of them of weights alone."""
        return True

    def reach(self, steps: int) -> str | None:
        """How far that many steps that learn can move the architecture, in words; None where it has
        no rate. A short search at a published rate moves nothing, which nothing else would tell.
        """
        rate, moves = self.config.arch_lr, steps // getattr(self.config, "arch_every", 1)
        return f"arch_lr {rate:g} in {moves} steps: {rate * moves:.3g} together"

    def state(self) -> dict[str, Any]:
        """All that a checkpoint has to keep."""
        parameters = [alpha.detach() for alpha in self.parameters]
        return {"parameters": parameters, "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            for alpha, stored in zip(self.parameters, state["parameters"], strict=True):
                alpha.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])


def draw(probabilities: Sequence[Tensor], rng: np.random.Generator) -> list[int]:
    """One candidate of each block."""
    return [int(rng.choice(len(p), p=normalised(p))) for p in probabilities]


def is_turn(n: int, every: int) -> bool:
    """Whether step n is the last of `every` steps."""
    return n % every == every - 1


def inclusion(worth: Tensor, taken: int) -> Tensor:
    """How often each edge into a node is among those that it takes, one or two or all of them, in
    proportion to what edges are worth (edges,): at most always.
    """
    if taken == len(worth):
        return torch.ones_like(worth)
    shares = taken * worth / worth.sum()
    sure = shares >= 1
    rest = worth * (taken - sure.sum()) / worth[~sure].sum().clamp_min(_LEAST)
    return torch.where(sure, 1.0, rest)


def normalised(probabilities: Tensor) -> NDArray[np.float64]:
    """Probabilities in float64 that sum to 1."""
    p = probabilities.detach().double().numpy()
    return np.asarray(p / p.sum())
