"""DrNAS (Chen et al. 2021): mixtures are drawn from a Dirichlet distribution, which is learnt."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.nn.views import Views
from mobilenas.space import Arch, Genotype
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy, normalised
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.config import NotNegative, Positive, Share

_LEAST = 1e-4  # concentration: in float32 ELU(x) + 1 is 0 from x = -17 on


class DrnasConfig(SearchConfig):
    """kl_weight: of the divergence from the flat distribution; arch_weight_decay draws to it too.
    prune_to: after the share prune_at of the steps that learn the architecture each choice keeps so
    many candidates.
    """

    kl_weight: NotNegative = 0.0
    prune_to: Positive | None = None
    prune_at: Share = 0.5


class Drnas(LearnedStrategy):
    """With parameters x a choice is the sum of its candidates weighted by a draw from a Dirichlet
    distribution of concentration b = ELU(x) + 1, one a forward; gradients go through the draw.

    A draw over the candidates that a pruned choice has kept is one from the Dirichlet distribution
    of their b. Probabilities are the mean, b over its sum; derived is by the softmax of x.
    """

    Config = DrnasConfig
    config: DrnasConfig

    def __init__(self, choices: Choices, config: SearchConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        self.kept = [torch.arange(size) for size in choices.sizes]

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where pruning would leave every choice as it is."""
        assert isinstance(config, DrnasConfig)
        most = max(searchable.choices.sizes)
        if config.prune_to is not None and config.prune_to >= most:
            raise BadInput(
                f"prune_to {config.prune_to}: no choice of {searchable.space.name} has more than "
                f"{most} candidates; it must be below that"
            )

    def concentrations(self) -> list[Tensor]:
        """Of the kept candidates of each choice, in float64."""
        pairs = zip(self.parameters, self.kept, strict=True)
        return [
            (torch.nn.functional.elu(x[kept].double()) + 1).clamp_min(_LEAST) for x, kept in pairs
        ]

    def probabilities(self) -> list[Tensor]:
        """The mean; 0 of candidates that were not kept."""
        means = (b / b.sum() for b in self.concentrations())
        return [
            torch.zeros_like(x).index_put((kept,), mean.to(x))
            for x, kept, mean in zip(self.parameters, self.kept, means, strict=True)
        ]

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """One draw."""
        with fixed_generators(int(step.rng(stream).integers(1 << 63))):
            drawn = [Dirichlet(b).rsample().float() for b in self.concentrations()]
        pairs = zip(self.kept, drawn, strict=True)
        return [dict(zip(kept.tolist(), w.unbind(), strict=True)) for kept, w in pairs]

    def learn(self, step: SearchStep) -> None:
        """An architecture step, before which choices may be pruned."""
        if self.config.prune_to and step.progress >= self.config.prune_at:
            self.prune(self.config.prune_to)
        super().learn(step)

    def penalty(self) -> Tensor | float:
        """How far the Dirichlet distributions are from flat ones."""
        if not self.config.kl_weight:
            return 0.0
        flat = ((Dirichlet(b), Dirichlet(torch.ones_like(b))) for b in self.concentrations())
        divergence = torch.stack([kl_divergence(*pair) for pair in flat]).sum()
        return self.config.kl_weight * divergence.float()

    def prune(self, count: int) -> None:
        """Keep the candidates of the largest x, of equal ones the first."""
        for place, (x, kept) in enumerate(zip(self.parameters, self.kept, strict=True)):
            order = torch.argsort(x.detach()[kept], descending=True, stable=True)
            self.kept[place] = kept[order[:count].sort().values]

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """By the softmax of x, as released."""
        pairs = zip(self.parameters, self.kept, strict=True)
        soft = (torch.zeros_like(x).index_put((k,), x[k].softmax(0)) for x, k in pairs)
        return searchable.derive([normalised(p) for p in soft], limits)

    def state(self) -> dict[str, Any]:
        """Also what was kept."""
        return super().state() | {"kept": self.kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(state)
        self.kept = list(state["kept"])
