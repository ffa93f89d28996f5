"""ISTA-NAS (Yang et al. 2020): a sparse architecture, recovered from a compressed one."""

from typing import Any, Literal

import torch
from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View, Views
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.compressed import make_nodes
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, Positive

_LEAST = 1e-6  # that a coefficient is divided by


class IstaConfig(SearchConfig):
    """recoveries: how often it is chosen what is taken, over the search, first at its start. price:
    of the size of coefficients in a recovery. cost_form: no loss has the expected costs, prices
    have them.
    """

    recoveries: Positive = 50
    price: AboveZero = 1e-5
    cost_form: Literal["add"] = "add"


class Ista(LearnedStrategy):
    """A node of cells, or a block, has a short vector b, which is learnt, and a fixed random matrix
    A. Now and then the sparse z is recovered that minimises

        |A z - b|^2 / 2 + price * |z|_1

    and the largest of |z| are taken: two edges of a node of DARTS's cells, each with an op; an op
    of each edge of NAS-Bench-201's; a candidate of a block, by the sum of |z| over its paths. Only
    this is run until the next recovery, times its coefficients z + A (b - A z), which may be
    negative. They have a gradient, that of b; z itself has none. Of candidates the probabilities
    are their shares of |z|. What a block takes stands alone, so it counts by its sign and learns by
    its relative change: b starts at a thousandth, and a chain of blocks would pass on nothing.

    Where costs have limits, dear coefficients have higher prices (`Node.dearness`). They have them
    all the time: prices that come and go with a limit that is passed would change what is taken at
    each recovery, up to the end.
    """

    Config = IstaConfig
    is_dense = False
    no_network = "what ista takes it trains times coefficients, which a network does not have"
    config: IstaConfig

    def __init__(self, choices: Choices, config: IstaConfig, seed: int) -> None:
        self.nodes = make_nodes(choices, seed)
        super().__init__(choices, config, seed)
        self.recoveries = 0  # within the search
        self._recover(None)

    def sizes(self, choices: Choices) -> list[int]:
        """Of each node's b."""
        return [len(node.matrix) for node in self.nodes]

    def probabilities(self) -> list[Tensor]:
        """Shares of |z|."""
        pairs = zip(self.nodes, self.z, strict=True)
        scores = (each for node, z in pairs for each in node.scores(z))
        return [torch.from_numpy(each / each.sum()) for each in scores]

    def inputs(self) -> list[Tensor]:
        """|z| of all ops of an edge."""
        pairs = zip(self.nodes, self.z, strict=True)
        sums = [torch.tensor([each.sum() for each in node.scores(z)]) for node, z in pairs]
        return sums if self.choices.inputs else []

    def occurrences(self) -> list[Tensor]:
        """1 for what is taken."""
        found = [torch.zeros(size) for size in self.choices.sizes]
        for node, z in zip(self.nodes, self.z, strict=True):
            for place, candidate in node.chosen(z).items():
                found[place][candidate] = 1
        return found

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """What is taken; after a recovery, where one is due. The last step has none: no step would
        train what is taken by it.
        """
        due = int(step.progress * self.config.recoveries) + 1
        if self.recoveries < due and step.progress < 1:
            self.recoveries = due
            self._recover(step.cost)
        ops: list[View] = [0] * len(self.choices.ops)  # of edges that are not taken none is run
        inputs: list[View] = []
        for node, b, z in zip(self.nodes, self.parameters, self.z, strict=True):
            chosen, weights = node.chosen(z), node.weights(b, z)
            for place, candidate in chosen.items():
                weight = weights[place]
                if not self.choices.inputs:
                    weight = weight / weight.detach().abs().clamp_min(_LEAST)
                ops[place] = {candidate: weight}
            inputs.append({place - node.places.start: torch.ones(()) for place in chosen})
        return [*ops, *(inputs if self.choices.inputs else ())]

    def learn(self, step: SearchStep) -> None:
        """An architecture step; costs are in the prices."""
        loss = step.loss(self.views(step, Stream.ARCH_STEP), "held")
        self.apply(step.gradient(loss, self.parameters))

    def fit(self, step: SearchStep) -> None:
        """A weight step. What is not taken forgets its momentum, which would be old by the time."""
        super().fit(step)
        for weight in step.parameters:
            if weight.grad is None:
                step.trainer.optimizer.state.pop(weight, None)

    def state(self) -> dict[str, Any]:
        """With what was recovered last."""
        z = [torch.from_numpy(each) for each in self.z]
        return super().state() | {"z": z, "recoveries": self.recoveries}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(state)
        self.z = [each.numpy() for each in state["z"]]
        self.recoveries = state["recoveries"]

    def _recover(self, cost: ExpectedCost | None) -> None:
        """cost: whose limits make prices differ; None for none."""
        costs = cost.limited() if cost else []
        self.z = [
            node.recovered(
                b.detach().double().numpy(),
                self.config.price * node.dearness(costs, self.config.cost_weight),
            )
            for node, b in zip(self.nodes, self.parameters, strict=True)
        ]
