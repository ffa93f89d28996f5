"""A stage of a search: the choices of a space with fewer candidates, in a network of less depth."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenas.nn.views import Views
from mobilenas.space import (
    Arch,
    Choice,
    EdgeCellSpace,
    Genotype,
    NetworkSpace,
    network_space_from_dict,
)
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.searchable import Searchable

Kept = dict[str, list[str]]  # of choices of the whole space those candidates that are left


class Stage(Searchable):
    """What a stage searches of a whole space.

    number: from 0 on. depth: cells (of a stage of NAS-Bench-201's), or blocks of a stage of a space
    of blocks, at most. kept: all candidates where it says nothing. Costs, limits and archs are
    those of the whole space: a block that is not there has the candidates of the last one of its
    stage that is, and their probabilities; what was not kept has probability 0.
    """

    def __init__(self, whole: Searchable, number: int, depth: int, kept: Kept) -> None:
        super().__init__(whole.costs)
        self._whole, self.stage = whole, number
        self.space, self._place = _shallower(whole.space, depth)
        first = {place: index for index, place in reversed([*enumerate(self._place)])}
        self._kept, ops = [], []
        for place in range(len(first)):
            choice = whole.choices.ops[first[place]]
            names = kept.get(choice.name, choice.candidates)
            self._kept.append([i for i, c in enumerate(choice.candidates) if c in names])
            left = tuple(choice.candidates[i] for i in self._kept[place])
            ops.append(Choice(choice.name, left))
        self.choices = Choices(tuple(ops), whole.choices.inputs)

    @property
    def whole(self) -> Searchable:
        """The whole space."""
        return self._whole

    def spread(self, probabilities: Sequence[Tensor]) -> list[Tensor]:
        """Those of the choices of the whole space."""
        spread = []
        for place, choice in zip(self._place, self._whole.choices.ops, strict=True):
            p, kept = probabilities[place], torch.tensor(self._kept[place])
            spread.append(p.new_zeros(len(choice.candidates)).index_put((kept,), p))
        return spread

    def placed(self, views: Views) -> Views:
        """By the indices that candidates have in the supernet, which has all of them."""
        ops = [
            kept[view] if isinstance(view, int) else {kept[i]: w for i, w in view.items()}
            for kept, view in zip(self._kept, views, strict=False)
        ]
        return super().placed([*ops, *views[len(ops) :]])

    def derive(
        self,
        probabilities: Sequence[NDArray[np.float64]],
        limits: Mapping[str, float],
        inputs: Sequence[NDArray[np.float64]] = (),
    ) -> Arch | Genotype | None:
        """That of the whole space."""
        spread = self.spread([torch.from_numpy(np.asarray(p)) for p in probabilities])
        return self._whole.derive([p.numpy() for p in spread], limits, inputs)

    def name(self, genes: Sequence[int]) -> str:
        """What is said of the candidates of all choices."""
        return super().name([kept[gene] for kept, gene in zip(self._kept, genes, strict=True)])


def _shallower(space: NetworkSpace, depth: int) -> tuple[NetworkSpace, list[int]]:
    """The space with less depth; of each choice of the given one its place among those of it."""
    data = space.to_dict()
    if isinstance(space, EdgeCellSpace):
        return network_space_from_dict(data | {"cells": depth}), [*range(len(space.choices))]
    place, start = [], 0
    for stage in data["stages"]:
        blocks = stage["blocks"]
        if stage["fixed"] is None:
            stage["blocks"] = min(blocks, depth)
            place += [start + min(block, stage["blocks"] - 1) for block in range(blocks)]
            start += stage["blocks"]
    return network_space_from_dict(data), place
