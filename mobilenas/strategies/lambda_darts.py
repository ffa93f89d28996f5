"""Lambda-DARTS (Movahedi et al. 2023): layers that share an architecture are made to agree."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View, without_graph
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.darts import norm
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.config import AboveZero, NotNegative

_NOTHING = 1e-10  # norm of a gradient that has no direction


class LambdaDartsConfig(SearchConfig):
    """harmony: the weight of the agreement at the end, to which it rises from 0. agreement: by the
    cosine, or by the products of one sign. harmony_radius: how far the mixtures are moved for the
    difference of two gradients.
    """

    harmony: NotNegative = 0.25
    agreement: Literal["cosine", "sign"] = "cosine"
    harmony_radius: AboveZero = 1e-4


class LambdaDarts(LearnedStrategy):
    """DARTS of first order whose weights minimise the loss minus `harmony` times Lambda, the mean
    agreement of any two layers: cells of a type, or blocks of a stage that are alike, which have
    one set of architecture parameters. What a layer has to say is the gradient g of the training
    loss by its own copy of the mixture p. With d = d Lambda / d g and r = harmony_radius / |d|

        d Lambda / d w = (d L(p + r d) / d w - d L(p - r d) / d w) / (2 r)

    and the mean of the two is d L / d w, so that a weight step takes three passes.
    """

    Config = LambdaDartsConfig
    config: LambdaDartsConfig

    def __init__(self, choices: Choices, config: SearchConfig, seed: int) -> None:
        first = {place: group[0] for group in choices.alike for place in group}
        of = [first.get(place, place) for place in range(len(choices.ops))]
        self.owners = sorted(set(of))
        self.parameter_of = [self.owners.index(place) for place in of]
        super().__init__(choices, config, seed)
        self.agreement: float | None = None  # Lambda of the last weight step, where it was measured

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where no two layers are alike."""
        if not _groups(searchable):
            raise BadInput(
                f"space {searchable.space.name}: no two cells are of a type, and no two blocks of "
                "one shape and the same candidates; lambda-darts compares such layers"
            )

    @classmethod
    def takes_differences(cls, config: SearchConfig) -> bool:
        """Always."""
        return True

    def sizes(self, choices: Choices) -> list[int]:
        """Blocks that are alike have those of the first."""
        return [choices.sizes[place] for place in self.owners]

    def probabilities(self) -> list[Tensor]:
        """Of each block or edge, those of the layers that are alike the same."""
        own = [alpha.softmax(0) for alpha in self.parameters]
        return [own[index] for index in self.parameter_of]

    def figures(self) -> dict[str, float]:
        """Lambda, once it counts."""
        return {} if self.agreement is None else {"agreement": self.agreement}

    def state(self) -> dict[str, Any]:
        """With the last Lambda."""
        return super().state() | {"agreement": self.agreement}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(state)
        self.agreement = state["agreement"]

    def fit(self, step: SearchStep) -> None:
        """A weight step."""
        strength = self.config.harmony * step.progress
        views = without_graph(self.views(step, Stream.WEIGHT_STEP))
        mixtures = _of_layers(step.searchable, views)
        direction = self._direction(step, views, mixtures) if strength else {}
        size = norm([*direction.values()]) if direction else 0.0
        if size == 0:
            step.train([views])
            return
        radius = self.config.harmony_radius / size
        sides = [
            {place: _view(mixtures[place] + sign * radius * d) for place, d in direction.items()}
            for sign in (1, -1)
        ]
        tilt = strength / (2 * radius)
        step.train([views, views], [0.5 - tilt, 0.5 + tilt], sides)

    def _direction(
        self, step: SearchStep, views: Sequence[View], mixtures: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """The derivative of Lambda by the gradient of the loss by each layer's mixtures."""
        own = {place: p.requires_grad_() for place, p in mixtures.items()}
        loss = step.loss(views, "train", own={place: _view(p) for place, p in own.items()})
        found = dict(zip(own, step.gradient(loss, [*own.values()]), strict=True))
        gradients = {place: g.detach().requires_grad_() for place, g in found.items()}
        groups = _groups(step.searchable)
        layers = ([torch.cat([gradients[p] for p in layer]) for layer in group] for group in groups)
        mean = torch.stack([agreement(each, self.config.agreement) for each in layers]).mean()
        self.agreement = float(mean.detach())
        return dict(zip(gradients, torch.autograd.grad(mean, [*gradients.values()]), strict=True))


def agreement(gradients: Sequence[Tensor], form: str = "cosine") -> Tensor:
    """The mean over all pairs of some vectors of their cosine, or of their product over that of
    their absolute values, elements summed; -1..1. What is 0 agrees with nothing, 0.
    """
    count = len(gradients)
    g = torch.stack([x if x.detach().norm() > _NOTHING else x * 0 for x in gradients])
    products = g @ g.T
    if form == "cosine":
        norms = products.diagonal().clamp_min(_NOTHING**2).sqrt()
        products = products / norms / norms[:, None]
    else:
        products = products / (g.abs() @ g.abs().T).clamp_min(_NOTHING**2)
    pairs = products.sum() - products.diagonal().sum()
    return pairs / (count * (count - 1))


def _groups(searchable: Searchable) -> list[list[list[int]]]:
    return [group for group in searchable.layers if len(group) > 1]


def _of_layers(searchable: Searchable, views: Sequence[View]) -> dict[int, Tensor]:
    """Of each place of a layer that has others like it a copy of its mixture."""
    placed = searchable.placed(views)
    places = [place for group in _groups(searchable) for layer in group for place in layer]
    return {place: torch.stack([*placed[place].values()]) for place in places}  # type: ignore[union-attr]


def _view(p: Tensor) -> View:
    return dict(enumerate(p.unbind()))
