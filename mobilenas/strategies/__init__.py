"""Strategies: how a supernet's weights are trained. One short file each."""

from typing import Literal

from mobilenas.base.errors import BadInput
from mobilenas.space import AnySpace, CellSpace
from mobilenas.strategies.base import Strategy
from mobilenas.strategies.fair import Fair
from mobilenas.strategies.uniform import Uniform

__all__ = ["Fair", "Strategy", "Uniform", "make_strategy"]


def make_strategy(name: Literal["uniform", "fair"], space: AnySpace, seed: int) -> Strategy:
    """The strategy of that name. Raises BadInput for a fair one of cells."""
    if name == "uniform":
        return Uniform(space, seed)
    if isinstance(space, CellSpace):
        raise BadInput(
            f"space {space.name}: fair sampling is for blocks; train cells with --strategy uniform"
        )
    return Fair(space, seed)
