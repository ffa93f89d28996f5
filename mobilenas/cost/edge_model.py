"""All costs of the genotypes of a space of cells whose edges have ops, as `CostModel` has them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.cost.cell_latency import CellLatencies
from mobilenas.cost.edge_cells import edge_cell_costs, edge_cell_counts, edge_cell_fixed
from mobilenas.cost.model import CostModel, CostRange
from mobilenas.space import EdgeCellSpace, Genes, Genotype, NetworkSpace

_DRAWN = 2000


class EdgeCellCosts:
    """FLOPs and params, which are sums over the edges that a genotype has, and latencies.

    tables: what is listed of all genotypes. Their latencies are no sums, and `parts` has the best
    ones; all else is of what is listed.
    """

    def __init__(self, space: EdgeCellSpace, tables: Sequence[CellLatencies] = ()) -> None:
        self.space, self.tables = space, tuple(tables)
        self._fixed, self._counts = edge_cell_fixed(space), edge_cell_counts(space)
        self._listed = {table.cost: table for table in tables}
        self.costs = ("flops", "params", *self._listed)
        if len(self.costs) < 2 + len(self.tables):
            names = ", ".join(table.name for table in tables)
            raise BadInput(f"latencies of {names}: give each device once")

    def check(self, cost: str) -> None:
        """Raises BadInput for a name that is not one of `costs`."""
        if cost not in self.costs:
            raise BadInput(f"no cost {cost!r}; of cells known are {', '.join(self.costs)}")

    def parts(self, cost: str) -> tuple[float, list[NDArray[Any]], bool]:
        """Of the named cost what every genotype has, what each candidate of each choice adds,
        (candidates,) a choice, and False: it is a sum. Raises BadInput for an unknown name.
        """
        self.check(cost)
        if cost in self._listed:
            fit, ops = self._listed[cost].fit, self._listed[cost].space.spec.ops
            own = [ops.index(op) for op in self.space.spec.ops]
            return fit.fixed, list(fit.ops[:, own]), False
        rows = [np.array([getattr(count, cost) for count in row]) for row in self._counts]
        return getattr(self._fixed, cost), rows, False

    def of(self, genotype: Genotype) -> dict[str, float]:
        """Every cost by name, latencies as they are listed. Raises BadInput for a genotype of
        another space.
        """
        genes = self.space.encode(genotype)[None]
        listed = {cost: table.of(self.space, genes) for cost, table in self._listed.items()}
        found: dict[str, NDArray[Any]] = {**edge_cell_costs(self.space, genes), **listed}
        return {cost: values.item() for cost, values in found.items()}

    def batch(self, cost: str, genes: Genes) -> NDArray[Any]:
        """The named cost (n,) of genes (n, choices), by which limits go: the latency of a cell
        without a path from input to output is infinite. Raises BadInput for an unknown name.
        """
        self.check(cost)
        if cost in self._listed:
            return self._listed[cost].limited(self.space, genes)
        return edge_cell_costs(self.space, genes)[cost]

    def range(self, cost: str = "flops") -> CostRange:
        """Exact extremes and the median of drawn genotypes; of latencies, of all genotypes that
        have a path from input to output.
        """
        if cost in self._listed:
            ms = self.batch(cost, self.all_genes())
            ms = ms[np.isfinite(ms)]
            return CostRange(ms.min(), np.median(ms), ms.max())
        _, rows, _ = self.parts(cost)
        low, high = (self.of(self.space.strongest([sign * r for r in rows])) for sign in (-1, 1))
        return CostRange(low[cost], int(np.median(self.batch(cost, self._drawn))), high[cost])

    def feasible_share(self, limits: dict[str, float]) -> float:
        """Share of drawn genotypes that meet every limit {cost: largest value}."""
        drawn = self._drawn
        meets = [self.batch(cost, drawn) <= limit for cost, limit in limits.items()]
        return float(np.all(meets, axis=0).mean())

    def is_listed(self, cost: str) -> bool:
        """Whether a cost is no sum, but listed for every genotype."""
        return cost in self._listed

    def all_genes(self) -> Genes:
        """Genes (n, choices) of every combination of ops, in order."""
        shape = [len(self.space.spec.ops)] * len(self.space.choices)
        return np.indices(shape).reshape(len(shape), -1).T

    @cached_property
    def _drawn(self) -> Genes:
        """Genes of some genotypes (n, choices), drawn uniformly, always the same."""
        rng = np.random.default_rng(0)
        return np.stack([self.space.encode(self.space.sample(rng)) for _ in range(_DRAWN)])


Costs = CostModel | EdgeCellCosts


def costs_of(space: NetworkSpace, tables: Sequence[Any] = ()) -> Costs:
    """The costs of the archs of a space. tables: of blocks `LatencyTable`, of cells
    `CellLatencies`. Raises BadInput.
    """
    if isinstance(space, EdgeCellSpace):
        return EdgeCellCosts(space, tables)
    return CostModel(space, tables)
