"""What a search looks for: objectives and limits, and whether a space can meet the limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.budget import LatencyLimit
from mobilenas.cost.derive import best_sum
from mobilenas.cost.edge_model import Costs
from mobilenas.cost.titles import cost_title, format_cost, format_limits, latency_cost
from mobilenas.space import Genes

ACCURACY, SCORE, PREDICTION = "accuracy", "score", "prediction"
# What a search maximises, which is one of these, and what has to be measured of an arch for it.
QUALITIES = {
    ACCURACY: (ACCURACY,),
    SCORE: (ACCURACY, "naswot"),
    PREDICTION: (ACCURACY, "naswot", PREDICTION, "deviation"),
}


def score(measured: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Supernet accuracy and NASWOT (n, 2) as one number (n,): the sum of both, each in standard
    deviations above the mean of a reference set (m, 2) of archs.

    The two err on different archs, as one knows the trained weights and the other the structure.
    Where all of the reference are equal in one of them, that one adds its plain difference.
    """
    differ = np.ptp(reference, axis=0) > 0  # the deviation of equal numbers may round to above 0
    scale = np.where(differ, reference.std(axis=0), 1.0)
    return np.asarray(((measured - reference.mean(axis=0)) / scale).sum(axis=1))


@dataclass(frozen=True)
class Problem:
    """Objectives and limits of a search, over the costs of a cost model.

    objectives: one of QUALITIES, which is maximised, and names of costs, to be minimised; without a
    cost the best arch within the limits is looked for.
    limits: cost name -> largest value that an arch may have.
    Raises BadInput for unknown names and for limits that are not above 0.
    """

    cost_model: CostModel
    objectives: tuple[str, ...] = (ACCURACY, "flops")
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        qualities = [name for name in self.objectives if name in QUALITIES]
        if len(qualities) != 1 or len(set(self.objectives)) < len(self.objectives):
            raise BadInput(
                f"objectives {list(self.objectives)} must be distinct, with exactly one of"
                f" {', '.join(QUALITIES)}"
            )
        for name in (*self.cost_objectives, *self.limits):
            self.cost_model.check(name)
        for name, limit in self.limits.items():
            if not limit > 0:
                raise BadInput(f"the limit of {name} is {limit}; it must be above 0")

    @property
    def quality(self) -> str:
        """The objective that is maximised, one of QUALITIES."""
        return next(name for name in self.objectives if name in QUALITIES)

    @property
    def cost_objectives(self) -> tuple[str, ...]:
        return tuple(name for name in self.objectives if name not in QUALITIES)

    @property
    def shown_cost(self) -> str:
        """The cost that pictures and orders go by: of the objectives, else of the limits."""
        return next(iter((*self.cost_objectives, *self.limits, "flops")))

    def points(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The values (n,) of every objective as points (n, objectives), all to be minimised."""
        columns = [-values[name] if name in QUALITIES else values[name] for name in self.objectives]
        return np.column_stack(columns).astype(float)

    def violations(self, genes: Genes) -> NDArray[np.float64]:
        """How far genes (n, blocks) pass each limit, relative to it, (n, limits); <= 0 meets it."""
        columns = [
            (self.cost_model.batch(name, genes) - limit) / limit
            for name, limit in self.limits.items()
        ]
        return np.array(columns, dtype=float).reshape(len(columns), len(genes)).T

    def excess(self, genes: Genes) -> NDArray[np.float64]:
        """How far genes (n, blocks) pass the limits altogether, (n,); 0 meets them.

        Where an arch is not within the limits, some change of a single block lowers it if one limit
        is all there is: of a peak, each block that passes the limit counts.
        """
        total = np.zeros(len(genes))
        for name, limit in self.limits.items():
            total += self.cost_model.excess(name, limit, genes) / limit
        return total


def check_feasible(cost_model: Costs, limits: Mapping[str, float]) -> float:
    """The share of uniformly drawn archs that meet every limit {cost: largest value}.

    Raises InfeasibleBudget, with the range of the space, when a limit is below the cheapest arch,
    and where no arch meets all limits together; both are exact. A share of 0 is no error: a search
    finds what sampling does not.
    """
    space = cost_model.space
    for name, limit in limits.items():
        extent = cost_model.range(name)
        if extent.minimum > limit:
            allowed, low, high = (
                format_cost(name, value) for value in (limit, extent.minimum, extent.maximum)
            )
            raise InfeasibleBudget(
                f"no arch of {space.name} has at most {allowed} {cost_title(name)}: the space"
                f" ranges from {low} to {high}"
            )
    if not limits:
        return 1.0
    share = cost_model.feasible_share(dict(limits))
    nothing = [np.zeros(len(block)) for block in cost_model.parts("flops")[1]]
    if share == 0 and best_sum(cost_model, nothing, limits) is None:
        raise InfeasibleBudget(
            f"no arch of {space.name} meets {format_limits(limits)} together, though some arch "
            "meets each of them"
        )
    return share


def default_objectives(cost_model: CostModel, quality: str) -> tuple[str, ...]:
    """`quality` and the latencies of the cost model's tables; without any, it and FLOPs."""
    latencies = (latency_cost(table.name) for table in cost_model.tables)
    return (quality, *latencies) if cost_model.tables else (quality, "flops")


def parse_objectives(
    text: str, cost_model: CostModel, latencies: tuple[LatencyLimit, ...]
) -> tuple[str, ...]:
    """Objectives of `accuracy,latency@DEVICE`; `latency` alone is that of the only table.

    latencies: what the tables of the cost model were asked for by, in order.
    Raises BadInput where it is not clear which table is meant.
    """
    tables = dict(zip((x.device for x in latencies), cost_model.tables, strict=True))
    tables |= {table.name: table for table in cost_model.tables}

    def cost(word: str) -> str:
        title, at, device = word.partition("@")
        if title != "latency":
            return word
        given = ", ".join(table.name for table in cost_model.tables) or "none"
        if not at and len(cost_model.tables) == 1:
            return latency_cost(cost_model.tables[0].name)
        if not at:
            raise BadInput(
                f"objective latency needs one latency table (given: {given}): --latency @DEVICE"
                f" gives one, of several name the one, latency@NAME"
            )
        if device not in tables:
            raise BadInput(f"objective {word}: no --latency gives {device}; given: {given}")
        return latency_cost(tables[device].name)

    return tuple(cost(word.strip()) for word in text.split(","))
