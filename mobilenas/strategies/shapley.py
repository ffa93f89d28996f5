"""Shapley-NAS (Xiao et al. 2022): a candidate is worth what its removal costs in accuracy."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View
from mobilenas.space import Choice, EdgeCellSpace
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import Repeats, SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.subsets import Parts
from mobilenas.train.config import NotNegative, Positive, Share

_Player = tuple[int, int]  # a choice, and the index of one of its groups
_Groups = Sequence[Sequence[Sequence[int]]]  # of each choice, candidates that are removed together


class ShapleyConfig(SearchConfig):
    """arch_every: weight steps between architecture steps, of which each removes all candidates in
    as many orders, by the accuracy on score_images held-out images each, which are in memory at
    once. truncate: an order is over where accuracy falls below this share of that of the whole.
    players: what is removed at once, a candidate, or a path of an expansion with all candidates
    that have it. estimate: of a contribution over the orders. contribution_momentum: share of the
    contributions of before. contribution_step: how far the parameters move. Expected costs are
    sums, so only form `add` has contributions.
    """

    arch_every: Positive = 100
    orders: Repeats = 10
    score_images: Positive = 256
    truncate: Share = 0.5
    players: Literal["candidates", "paths"] = "candidates"
    estimate: Literal["mean", "mean-std"] = "mean"
    contribution_momentum: Share = 0.8
    contribution_step: NotNegative = 0.1
    cost_form: Literal["add"] = "add"

    @model_validator(mode="after")
    def _whole_batches(self) -> "ShapleyConfig":
        if self.score_images < self.batch_size:
            raise ValueError(
                f"score_images {self.score_images} must be at least batch_size {self.batch_size}"
            )
        return self


class Shapley(LearnedStrategy):
    """Weights are trained as by DARTS. Now and then candidates are removed from the sum one by one,
    in orders that are drawn, the others keep their weights, and what each removal costs in accuracy
    is averaged over the orders: an estimate of Shapley values. No gradient moves the parameters,
    but the contributions, standardised over a type of cells or all blocks, with momentum.

    Where paths are removed in place of candidates, a candidate is worth the sum of its paths.

    The last candidate of a choice is never removed. All steps of an order see the same images, by
    their own statistics. What a candidate adds to the expected costs beyond the limits, its
    probability times its cost, is taken off with cost_weight.
    """

    Config = ShapleyConfig
    config: ShapleyConfig
    score_file = "contributions.jsonl"

    def __init__(self, choices: Choices, config: ShapleyConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        self.contributions = [torch.zeros(size) for size in choices.sizes]
        self.players = [_players(choice, config.players == "paths") for choice in choices.ops]
        self.groups = [[*players.values()] for players in self.players]

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where paths are to be removed and no block has several."""
        assert isinstance(config, ShapleyConfig)
        has_paths = any(Parts.of(choice).paths for choice in searchable.choices.ops)
        if config.players == "paths" and not has_paths:
            raise BadInput(
                f"players=paths: no block of space {searchable.space.name} has candidates of "
                "several paths with all their subsets; it must be players=candidates"
            )

    def reach(self, steps: int) -> str | None:
        """It has no such rate."""
        return None

    def learn(self, step: SearchStep) -> None:
        """All orders, and the move that follows from them."""
        rng = step.rng(Stream.ARCH_STEP)
        found = self._estimated([self._order(step, n, rng) for n in range(self.config.orders)])
        costs = self._of_costs(step)
        worth = [own - cost for own, cost in zip(found, costs, strict=True)]
        old, momentum = self.contributions, self.config.contribution_momentum
        self.contributions = [
            momentum * before + (1 - momentum) * now
            for before, now in zip(old, _standardised(step.searchable, worth), strict=True)
        ]
        with torch.no_grad():
            for alpha, s in zip(self.parameters, self.contributions, strict=True):
                alpha.add_(s, alpha=self.config.contribution_step)

    def step(self, step: SearchStep) -> None:
        """Now and then the architecture, then the weights."""
        if step.learnt % self.config.arch_every == 0:
            self.learn(step)
        self.fit(step)

    def state(self) -> dict[str, Any]:
        """The contributions too."""
        own = {"contributions": self.contributions, "measured": self.scores.taken}
        return super().state() | own

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(state)
        self.contributions, self.scores.taken = state["contributions"], state["measured"]

    def _order(self, step: SearchStep, number: int, rng: np.random.Generator) -> list[Tensor]:
        """What each candidate is worth in one order, (candidates,) a choice; 0 what is not
        removed, or only after too little was left.
        """
        players = [(place, i) for place, own in enumerate(self.groups) for i in range(len(own))]
        order = removed([players[i] for i in rng.permutation(len(players))], self.groups)
        names = [f"{self.choices.ops[c].name}: {[*self.players[c]][i]}" for c, i in order]
        scores = self.scores.take(
            step,
            f"step {step.n}, order {number + 1}",
            ["nothing", *names],
            self._ever_less(order),
            self._batches(step, number),
            self.config.truncate,
        )
        found = [torch.zeros(size) for size in self.choices.sizes]
        for (place, i), worth in zip(order, -np.diff(scores.accuracy), strict=False):
            found[place][self.groups[place][i]] += worth
        return found

    def _batches(self, step: SearchStep, order: int) -> range:
        """The held-out batches of an order: others than those of any order before."""
        each = math.ceil(self.config.score_images / self.config.batch_size)
        first = (step.learnt // self.config.arch_every * self.config.orders + order) * each
        return range(first, first + each)

    def _ever_less(self, order: Sequence[_Player]) -> list[list[View]]:
        """The sum of all candidates, then without the first of an order, the first two, ..."""
        left = [dict(enumerate(p.detach().unbind())) for p in self.probabilities()]
        mixtures: list[list[View]] = [[*left]]
        for place, i in order:
            gone = self.groups[place][i]
            left[place] = {index: w for index, w in left[place].items() if index not in gone}
            mixtures.append([*left])
        return mixtures

    def _estimated(self, orders: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """From what each order found, of each choice."""
        stacked = [torch.stack(each) for each in zip(*orders, strict=True)]
        if self.config.estimate == "mean":
            return [each.mean(0) for each in stacked]
        return [each.mean(0) - each.std(0, correction=0) for each in stacked]

    def _of_costs(self, step: SearchStep) -> list[Tensor]:
        """What each candidate has of the expected costs that are beyond the limits."""
        p = self.probabilities()
        excess = step.cost.excess(p)
        if not excess.requires_grad:
            return [torch.zeros_like(each) for each in p]
        prices = torch.autograd.grad(excess, p)
        return [
            self.config.cost_weight * (each * price).detach()
            for each, price in zip(p, prices, strict=True)
        ]


def _players(choice: Choice, are_paths: bool) -> dict[str, list[int]]:
    """The candidates that are removed together, by the name of what is removed."""
    parts = Parts.of(choice)
    found: dict[str, list[int]] = {}
    for index, (name, (op, paths)) in enumerate(zip(choice.candidates, parts.pairs, strict=True)):
        if are_paths and op is not None and paths:
            for path in paths:
                found.setdefault(f"{parts.ops[op]} path {path + 1}", []).append(index)
        else:
            found[name] = [index]
    return found


def removed(players: Sequence[_Player], groups: _Groups) -> list[_Player]:
    """Those of an order that can be removed: all but what has the last candidate of a choice."""
    left = [{index for group in own for index in group} for own in groups]
    order = []
    for place, i in players:
        rest = left[place].difference(groups[place][i])
        if rest:
            left[place] = rest
            order.append((place, i))
    return order


def _standardised(searchable: Searchable, worth: Sequence[Tensor]) -> list[Tensor]:
    """To mean 0 and deviation 1 over each type of cells, or all blocks."""
    space = searchable.space
    size = len(space.edges) if isinstance(space, EdgeCellSpace) else len(worth)
    found = []
    for start in range(0, len(worth), size):
        own = [*worth[start : start + size]]
        together = torch.cat(own)
        scale = together.std(correction=0).clamp_min(1e-12)
        found += [(each - together.mean()) / scale for each in own]
    return found
