"""Cost tables: what an arch costs before it is built. Imports no torch."""

from mobilenas.cost.counts import supernet_params
from mobilenas.cost.model import CostModel, CostRange
from mobilenas.cost.own import BlockCosts

__all__ = ["BlockCosts", "CostModel", "CostRange", "supernet_params"]
