"""Strategies: how a supernet's weights are trained. One short file each."""

from typing import Literal

from mobilenas.base.errors import BadInput
from mobilenas.space import AnySpace, CellSpace
from mobilenas.strategies.base import Strategy
from mobilenas.strategies.fair import Fair
from mobilenas.strategies.sandwich import Sandwich, largest_and_smallest
from mobilenas.strategies.uniform import Uniform

__all__ = ["Fair", "Sandwich", "Strategy", "Uniform", "largest_and_smallest", "make_strategy"]


def make_strategy(
    name: Literal["uniform", "fair", "sandwich"], space: AnySpace, seed: int, random_archs: int = 2
) -> Strategy:
    """The strategy of that name; random_archs: of each step of a sandwich.

    Raises BadInput for cells, unless it is the uniform one.
    """
    if name == "uniform":
        return Uniform(space, seed)
    if isinstance(space, CellSpace):
        raise BadInput(
            f"space {space.name}: {name} sampling is for blocks; train cells with "
            "--strategy uniform"
        )
    return Fair(space, seed) if name == "fair" else Sandwich(space, seed, random_archs)
