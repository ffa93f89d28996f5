"""Spaces that searches by gradient are tested in."""

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import costs_of
from mobilenas.space import load_network_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.searchable import Searchable

CELLS = "nb201:channels=4,cells=1,resolution=8"


def suited(name: str, reference: str) -> str:
    """A space of blocks, or CELLS where the strategy of that name does not take it."""
    strategy = METHODS[name].strategy
    try:
        strategy.check(Searchable(costs_of(load_network_space(reference))), strategy.Config())
    except BadInput:
        return CELLS
    return reference
