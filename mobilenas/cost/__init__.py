"""Cost tables: what an arch costs before it is built. Imports no torch."""

from mobilenas.cost.counts import supernet_params
from mobilenas.cost.model import CostModel, CostRange

__all__ = ["CostModel", "CostRange", "supernet_params"]
