"""Spaces that searches by gradient are tested in."""

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import EdgeCellSpace, ListedSpace, Space, load_listed_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.searchable import Costs, Searchable

CELLS = "nb201:channels=4,cells=1,resolution=8"


def costs_of(space: ListedSpace) -> Costs:
    """The costs of blocks, or of cells whose edges have ops."""
    if isinstance(space, EdgeCellSpace):
        return EdgeCellCosts(space)
    assert isinstance(space, Space)
    return CostModel(space)


def suited(name: str, reference: str) -> str:
    """A space of blocks, or CELLS where the strategy of that name does not take it."""
    strategy = METHODS[name].strategy
    try:
        strategy.check(Searchable(costs_of(load_listed_space(reference))), strategy.Config())
    except BadInput:
        return CELLS
    return reference
