"""The supernet of a space of cells: MixPath's multi-path cell in NAS-Bench-101's networks."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import conv_bn, init_weights
from mobilenas.nn.pool import Pool, global_average
from mobilenas.nn.siblings import Apart, with_own_norms
from mobilenas.nn.supernet import Step
from mobilenas.space import Cell, CellSpace
from mobilenas.space.cells import ABSENT, CellShape


class PathSum(nn.ModuleList):
    """The sum of what its modules make of one input."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self
        total: Tensor = first(x)
        for path in others:
            total = total + path(x)
        return total


class Node(nn.Module):
    """One node of a cell: its 1x1 convolution of the cell's input, and all ops that may follow."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.enter = conv_bn(cin, cout, 1, 1, "relu")
        self.ops = nn.ModuleDict(
            {
                "c1": conv_bn(cout, cout, 1, 1, "relu"),
                "c3": conv_bn(cout, cout, 3, 1, "relu"),
                "mp": nn.MaxPool2d(3, stride=1, padding=1),
            }
        )

    def chosen(self, op: str) -> nn.Module:
        """The path with this op, over the node's own weights."""
        return nn.Sequential(self.enter, self.ops[op])


class ChoiceCell(nn.Module):
    """All nodes of one repetition of the cell, and the batch norms after their sum.

    The batch norm after the sum, before the last 1x1 convolution, is chosen by the number of nodes
    that are present (shadow batch norm, Chu et al. 2020) when there are several; a single one
    serves all numbers. NAS-Bench-101's own networks have none there.
    """

    def __init__(self, shape: CellShape, max_paths: int, shadow_bn: bool) -> None:
        super().__init__()
        cin, cout = shape.in_channels, shape.out_channels
        self.pool = nn.MaxPool2d(2) if shape.pooled else nn.Identity()
        self.nodes = nn.ModuleList(Node(cin, cout) for _ in range(max_paths))
        self.bns = nn.ModuleList(nn.BatchNorm2d(cout) for _ in range(max_paths if shadow_bn else 1))
        self.last = conv_bn(cout, cout, 1, 1, "relu")

    def forward(self, x: Tensor, cell: Cell) -> Tensor:
        """Run the one cell; nothing else is executed, so nothing else gets a gradient."""
        return self.chosen(cell)(x)

    def chosen(self, cell: Cell) -> nn.Sequential:
        """The plain module of a cell over the own weights, which it shares."""
        paths = PathSum()
        for node, op in zip(self.nodes, cell.ops, strict=False):  # cells may be shorter
            assert isinstance(node, Node)
            if op != ABSENT:
                paths.append(node.chosen(op))
        norm = self.bns[cell.num_paths - 1 if len(self.bns) > 1 else 0]
        return nn.Sequential(self.pool, paths, norm, self.last)


class CellSupernet(nn.Module):
    """`supernet(x, cell)`: logits (n, classes) of images (n, channels, h, w).

    Only the weights of `cell` are executed: after backward all others have grad None.
    shadow_bn: one batch norm per number of nodes; False shares one (for ablations).
    """

    def __init__(
        self, space: CellSpace, *, shadow_bn: bool = True, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.space = space
        self.stem = conv_bn(space.spec.in_channels, space.spec.channels, 3, 1, "relu")
        self.cells = nn.ModuleList(
            ChoiceCell(shape, space.max_paths, shadow_bn) for shape in space.shapes
        )
        self.classifier = nn.Linear(space.shapes[-1].out_channels, space.num_classes)
        init_weights(self, generator)

    def forward(self, x: Tensor, cell: Cell) -> Tensor:
        """Logits of one cell, the same in every repetition."""
        x = self.stem(x)
        for choice in self.cells:
            x = choice(x, cell)
        return self.classifier(global_average(x))

    def network(self, cell: Cell) -> nn.Sequential:
        """The plain module of a cell, with copies of the weights: it computes `self(x, cell)`."""
        cells = [choice.chosen(cell) for choice in self.cells]  # type: ignore[operator]
        return copy.deepcopy(nn.Sequential(self.stem, *cells, Pool(), self.classifier))

    def steps(self, cell: Cell) -> list[Step]:
        """What a network is made of, as in `Supernet.steps`. The first repetition of the cell
        already tells two networks apart.
        """
        return [Step("stem"), *(Step("cell", cell) for _ in self.cells), Step("head")]

    def siblings(self, place: int, kind: str, choices: Sequence[Any]) -> nn.Module:
        """Distinct steps of a kind as a module, as in `Supernet.siblings`."""
        if kind == "stem":
            return Apart([with_own_norms(self.stem)])
        if kind == "head":
            return Apart([nn.Sequential(Pool(), self.classifier)])
        repetition = self.cells[place - 1]
        assert isinstance(repetition, ChoiceCell)
        return Apart(with_own_norms(repetition.chosen(cell)) for cell in choices)


def fresh_network(space: CellSpace, cell: Cell, seed: int) -> nn.Sequential:
    """The plain network of a cell with the weights that a supernet of this seed starts from."""
    return _fresh_supernet(space, seed).network(cell)


# One: cells are compared at one seed, and drawing the weights takes longer than all else here.
@lru_cache(maxsize=1)
def _fresh_supernet(space: CellSpace, seed: int) -> CellSupernet:
    return CellSupernet(space, generator=torch.Generator().manual_seed(seed))
