"""Cost tables: what an arch costs before it is built. Imports no torch."""

from mobilenas.cost.counts import COSTS, CostModel, CostRange, supernet_params

__all__ = ["COSTS", "CostModel", "CostRange", "supernet_params"]
