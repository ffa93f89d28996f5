"""ProxylessNAS (Cai et al. 2019): two sampled candidates a block, one of them active."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy, draw, is_turn, normalised
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, NotNegative, Positive, Share


class ProxylessConfig(SearchConfig):
    """arch_every: weight steps between architecture steps. The first of arch_betas must be 0, or
    momentum goes on to move candidates that were not sampled. cost_weight: with the expected costs
    in its loss it finds better archs within a budget.
    """

    arch_every: Positive = 5
    arch_lr: AboveZero = 1e-3
    arch_betas: tuple[Annotated[float, Field(ge=0, le=0)], Share] = (0.0, 0.999)
    arch_weight_decay: Annotated[float, Field(ge=0, le=0)] = 0.0
    cost_weight: NotNegative = 0.1


class Proxyless(LearnedStrategy):
    """A weight step runs one sampled arch. An architecture step draws two candidates a block and
    which of them is active, by q, the softmax over the two: gates g of 1 and 0, and

        d L / d a_i = sum over j of d L / d g_j * q_j * (delta_ij - q_i)

    for the two; then their parameters are shifted together, so that the probabilities of the others
    stay as they were. Expected costs count the two, with q.
    """

    Config = ProxylessConfig
    is_dense = False
    config: ProxylessConfig

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """One sampled arch."""
        return draw(self.probabilities(), step.rng(stream))

    def learn(self, step: SearchStep) -> None:
        """An architecture step over pairs of candidates."""
        rng = step.rng(Stream.ARCH_STEP)
        pairs, gates, expected = [], [], []
        for alpha in self.parameters:
            # Two different ones can be drawn where one is so sure that the others round to 0.
            p = normalised(alpha.softmax(0)).clip(1e-300)
            n = min(2, len(p))
            pair = torch.from_numpy(rng.choice(len(p), n, replace=False, p=p))
            q = alpha[pair].softmax(0)
            gate = torch.zeros(n)
            gate[rng.choice(n, p=normalised(q))] = 1
            pairs.append((pair, q.detach()))
            gates.append(gate.requires_grad_())
            expected.append(torch.zeros_like(alpha).index_put((pair,), q))
        views = [
            dict(zip(pair.tolist(), gate.unbind(), strict=True))
            for (pair, _), gate in zip(pairs, gates, strict=True)
        ]
        loss = step.cost.loss(step.loss(views, "held"), expected)
        found = step.gradient(loss, [*gates, *self.parameters])
        of_gates, of_costs = found[: len(gates)], found[len(gates) :]
        gradients = [
            cost.index_add(0, pair, q * (gate - (q * gate).sum()))
            for cost, (pair, q), gate in zip(of_costs, pairs, of_gates, strict=True)
        ]
        before = self._mass(pairs)
        self.apply(gradients)
        with torch.no_grad():
            shifts = zip(self.parameters, pairs, before, self._mass(pairs), strict=True)
            for alpha, (pair, _), old, new in shifts:
                alpha[pair] += old - new

    @classmethod
    def learns(cls, config: SearchConfig, steps: range) -> bool:
        """The last of each `arch_every` steps does."""
        assert isinstance(config, ProxylessConfig)
        return any(is_turn(n, config.arch_every) for n in steps)

    def step(self, step: SearchStep) -> None:
        """The weights, and now and then the architecture."""
        self.fit(step)
        if is_turn(step.n, self.config.arch_every):
            self.learn(step)

    def _mass(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The logarithm of the sum of exp(a) over each pair."""
        return [
            alpha.detach()[pair].logsumexp(0)
            for alpha, (pair, _) in zip(self.parameters, pairs, strict=True)
        ]
