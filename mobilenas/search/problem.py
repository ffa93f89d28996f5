"""What a search looks for: objectives and limits, and whether a space can meet the limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost import COSTS, CostModel
from mobilenas.errors import BadInput, InfeasibleBudget
from mobilenas.space import Genes
from mobilenas.units import format_size

ACCURACY = "accuracy"


@dataclass(frozen=True)
class Problem:
    """Objectives and limits of a search, as plain data.

    objectives: "accuracy", which is maximised, and names of costs, which are minimised.
    limits: cost name -> largest value that an arch may have.
    Raises BadInput for unknown names and for limits that are not above 0.
    """

    objectives: tuple[str, ...] = (ACCURACY, "flops")
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ACCURACY not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise BadInput(f"objectives {list(self.objectives)} must be distinct, with accuracy")
        if not self.cost_objectives:
            raise BadInput(f"objectives need a cost besides accuracy: {', '.join(COSTS)}")
        for name in (*self.cost_objectives, *self.limits):
            if name not in COSTS:
                raise BadInput(f"no cost {name!r}; known are {', '.join(COSTS)}")
        for name, limit in self.limits.items():
            if not limit > 0:
                raise BadInput(f"the limit of {name} is {limit}; it must be above 0")

    @property
    def cost_objectives(self) -> tuple[str, ...]:
        return tuple(name for name in self.objectives if name != ACCURACY)

    def points(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The values (n,) of every objective as points (n, objectives), all to be minimised."""
        columns = [-values[name] if name == ACCURACY else values[name] for name in self.objectives]
        return np.column_stack(columns).astype(float)

    def violations(self, cost_model: CostModel, genes: Genes) -> NDArray[np.float64]:
        """How far genes (n, blocks) pass each limit, relative to it, (n, limits); <= 0 meets it."""
        columns = [
            (cost_model.batch(name, genes) - limit) / limit for name, limit in self.limits.items()
        ]
        return np.array(columns, dtype=float).reshape(len(columns), len(genes)).T


def check_feasible(cost_model: CostModel, limits: Mapping[str, float]) -> float:
    """The share of uniformly drawn archs that meet every limit {cost: largest value}.

    Raises InfeasibleBudget, with the range of the space, when a limit is below the cheapest arch
    (exact, limit by limit). A share of 0 is no error: a search may find what sampling does not.
    """
    space = cost_model.space
    for name, limit in limits.items():
        extent = cost_model.range(name)
        if extent.minimum > limit:
            raise InfeasibleBudget(
                f"no arch of {space.name} has at most {format_size(limit)} {name}: the space"
                f" ranges from {format_size(extent.minimum)} to {format_size(extent.maximum)}"
            )
    return cost_model.feasible_share(dict(limits)) if limits else 1.0
