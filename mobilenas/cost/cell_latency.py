"""Latencies of all cells of a space on a device, as a benchmark lists them, and their best sum."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.titles import latency_cost
from mobilenas.space import EdgeCellSpace, Genes
from mobilenas.space.edge_cells import NONE

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AdditiveFit:
    """Latencies as a sum: fixed, and of each edge what its op adds (edges, ops), ms; least squares.

    r2: share of the variance that it explains. within_10_percent: share of the cells.
    """

    fixed: float
    ops: Floats
    r2: float
    within_10_percent: float


@dataclass(frozen=True, eq=False)
class CellLatencies:
    """name: of the device. genes: (cells, edges) of all cells of a space; ms: (cells,) of the
    networks that were measured; 0 for most cells without a path.
    """

    name: str
    space: EdgeCellSpace
    genes: Genes
    ms: Floats

    @property
    def cost(self) -> str:
        """The name of this cost."""
        return latency_cost(self.name)

    def of(self, space: EdgeCellSpace, genes: Genes) -> Floats:
        """What is listed, ms (n,), for genes (n, edges) of a space of some of the ops."""
        return self._by_number[self._numbers(self._own(space, genes))]

    def limited(self, space: EdgeCellSpace, genes: Genes) -> Floats:
        """The same, infinite for cells without a path, of which most are listed with 0: what limits
        go by, so that none allows them.
        """
        numbers = self._numbers(self._own(space, genes))
        return np.where(self._has_path[numbers], self._by_number[numbers], np.inf)

    def connected(self) -> NDArray[np.bool_]:
        """Which cells (cells,) have a path from input to output; the others put out zeros."""
        open_edges = self.genes != self.space.spec.ops.index(NONE)
        reached = {0: np.ones(len(self.genes), bool)}
        for end, into in zip(self.space.nodes, self.space.into, strict=True):
            starts = np.stack([reached[start] for start in range(end)], axis=1)
            reached[end] = (open_edges[:, into] & starts).any(axis=1)
        return reached[self.space.nodes[-1]]

    @cached_property
    def fit(self) -> AdditiveFit:
        """The best sum of parts for the connected cells."""
        rows, count = self.connected(), len(self.space.spec.ops)
        ms = self.ms[rows]
        # Against the edge's first op, as each edge has exactly one and the sum is free by that.
        present = self.genes[rows][:, :, None] == np.arange(1, count)
        design = np.hstack([np.ones((len(ms), 1)), present.reshape(len(ms), -1)])
        found = np.linalg.lstsq(design, ms, rcond=None)[0]
        ops = np.hstack([np.zeros((len(self.space.edges), 1)), found[1:].reshape(-1, count - 1)])
        error = design @ found - ms
        return AdditiveFit(
            fixed=float(found[0]),
            ops=ops,
            r2=float(1 - error.var() / ms.var()),
            within_10_percent=float((np.abs(error) <= 0.1 * ms).mean()),
        )

    @cached_property
    def _by_number(self) -> Floats:
        ms = np.empty(len(self.ms))
        ms[self._numbers(self.genes)] = self.ms
        return ms

    @cached_property
    def _has_path(self) -> NDArray[np.bool_]:
        connected = np.empty(len(self.ms), bool)
        connected[self._numbers(self.genes)] = self.connected()
        return connected

    def _own(self, space: EdgeCellSpace, genes: Genes) -> Genes:
        """Genes of a space of some of the ops as those of this one."""
        return np.array([self.space.spec.ops.index(op) for op in space.spec.ops])[genes]

    def _numbers(self, genes: Genes) -> NDArray[np.int64]:
        """Genes read as the digits of a number."""
        return genes @ len(self.space.spec.ops) ** np.arange(genes.shape[1])
