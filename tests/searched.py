"""Spaces that searches by gradient are tested in."""

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import costs_of
from mobilenas.space import load_network_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.searchable import Searchable

# The smallest search that is still one: ten steps.
SPACE = "macro:width=0.25,resolution=8"
SMALL = [
    f"--space={SPACE}",
    "--preset=cpu",
    "--set=batch_size=16",
    "--set=limit=160",
    "--set=validate_images=160",
    "--set=epochs=1",
    "--set=checkpoint_seconds=0",
    "--set=device=cpu",
]

CELLS = "nb201:channels=4,cells=1,resolution=8"


def suited(name: str, reference: str) -> str:
    """A space of blocks, or CELLS where the strategy of that name does not take it."""
    strategy = METHODS[name].strategy
    try:
        strategy.check(Searchable(costs_of(load_network_space(reference))), strategy.Config())
    except BadInput:
        return CELLS
    return reference
