"""All costs of the archs of a space, as tables of block x candidate: vectorised, without torch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.cost.cells import cell_count
from mobilenas.cost.counts import candidate_count, fixed_count
from mobilenas.cost.edge_cells import edge_cell_costs
from mobilenas.cost.latency import LatencyTable
from mobilenas.cost.memory import memory_column
from mobilenas.cost.own import BlockCosts
from mobilenas.cost.titles import latency_cost
from mobilenas.space import AnyArch, Arch, CellSpace, EdgeCellSpace, Genes, ListedSpace, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostRange:
    """Smallest, median and largest value of a cost; min and max are exact, the median sampled."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class _Column:
    """One cost: of what every arch has, and of the candidates of each searchable block.

    is_peak: whether the cost of an arch is the largest of these, not their sum.
    """

    fixed: float
    blocks: list[NDArray[Any]]
    is_peak: bool = False

    def total(self, parts: list[Any]) -> Any:
        """The cost of an arch from its blocks' parts, or of many from arrays of parts."""
        # In order, so that a sum of floats does not depend on how many archs are asked for.
        return reduce(np.maximum if self.is_peak else np.add, parts, self.fixed)


class CostModel:
    """The costs of the archs of a space, or of their backbones (`Space.backbone`).

    costs: their names. "flops" and "params" are explained in `counts`, "memory" in `memory` (bytes,
    one float32 image); each latency table adds "latency_ms@TABLE" (ms, one batch of the table).
    own: further costs.
    folded: whether linear paths are counted as the one convolution that they fold into at
    inference, or, False, as all that are trained. Latencies are those of the folded network anyway.
    Raises BadInput for two costs of one name, or one that does not cover the space.
    """

    def __init__(
        self,
        space: Space,
        tables: Sequence[LatencyTable] = (),
        own: Sequence[BlockCosts] = (),
        *,
        folded: bool = True,
    ) -> None:
        self.space = space
        self.tables = tuple(tables)
        self.own = tuple(own)
        fixed = fixed_count(space, folded)
        counts = [[candidate_count(b, c, folded) for c in b.candidates] for b in space.blocks]
        fixed_peak, peaks = memory_column(space, folded)
        self._columns = {
            "flops": _Column(fixed.flops, [np.array([x.flops for x in row]) for row in counts]),
            "params": _Column(fixed.params, [np.array([x.params for x in row]) for row in counts]),
            "memory": _Column(fixed_peak, [np.array(row) for row in peaks], is_peak=True),
        }
        for table in self.tables:
            name = latency_cost(table.name)
            if name in self._columns:
                raise BadInput(f"latency table {table.name} is given twice")
            fixed_ms, blocks = table.column(space)
            for key, row in table.substitutes(space).items():
                log.info("latency table %s: %s is taken for %s", table.name, row, key)
            self._columns[name] = _Column(fixed_ms, [np.array(ms) for ms in blocks])
        for costs in self.own:
            if costs.name in self._columns:
                raise BadInput(f"cost {costs.name} is given twice")
            fixed_cost, blocks = costs.column(space)
            self._columns[costs.name] = _Column(fixed_cost, [np.array(row) for row in blocks])

    @property
    def costs(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def check(self, cost: str) -> None:
        """Raises BadInput for a name that is not one of `costs`."""
        if cost not in self._columns:
            raise BadInput(f"no cost {cost!r}; known are {', '.join(self.costs)}")

    def of(self, arch: Arch) -> dict[str, float]:
        """Every cost by name. Raises BadInput for an arch of another space."""
        genes = self.space.encode(arch)[None]
        return {cost: self.batch(cost, genes)[0].item() for cost in self.costs}

    def flops(self, arch: Arch) -> int:
        """Multiply-adds of conv and linear layers for one image."""
        return int(self.of(arch)["flops"])

    def params(self, arch: Arch) -> int:
        """Trainable parameters."""
        return int(self.of(arch)["params"])

    def flops_batch(self, genes: Genes) -> NDArray[np.int64]:
        """FLOPs (n,) of genes (n, blocks)."""
        return self.batch("flops", genes)

    def batch(self, cost: str, genes: Genes) -> NDArray[Any]:
        """The named cost (n,) of genes (n, blocks). Raises BadInput for an unknown name."""
        parts = self._parts(cost, genes)
        values: NDArray[Any] = self._columns[cost].total(parts)
        return values

    def parts(self, cost: str) -> tuple[float, list[NDArray[Any]], bool]:
        """Of the named cost what every arch has, what each candidate of each searchable block adds,
        (candidates,) a block, and whether the cost of an arch is the largest of these rather than
        their sum. Raises BadInput for an unknown name.
        """
        self.check(cost)
        column = self._columns[cost]
        return column.fixed, column.blocks, column.is_peak

    def excess(self, cost: str, limit: float, genes: Genes) -> NDArray[Any]:
        """How far the cost of genes (n, blocks) passes a limit, (n,); 0 for those within.

        Of a peak it is the sum of how far each block passes the limit.
        """
        parts = self._parts(cost, genes)
        counted = parts if self._columns[cost].is_peak else [self.batch(cost, genes)]
        return np.sum([np.maximum(part - limit, 0) for part in counted], axis=0)

    def range(self, cost: str = "flops", n: int = 20_000, seed: int = 0) -> CostRange:
        """Exact extremes and the median of `n` uniformly drawn archs."""
        drawn = self.batch(cost, self.space.sample_genes(n, np.random.default_rng(seed)))
        column = self._columns[cost]
        # Sums and maxima grow with each part, so each block's extreme gives that of the whole.
        low, high = (
            column.total([f(row) for row in column.blocks]).item() for f in (np.min, np.max)
        )
        return CostRange(low, type(low)(np.median(drawn)), high)

    def smallest(self, cost: str) -> Arch:
        """The arch of the least cost; of several the first."""
        return self._extreme(cost, np.argmin)

    def largest(self, cost: str) -> Arch:
        """The arch of the greatest cost; of several the first."""
        return self._extreme(cost, np.argmax)

    def _extreme(self, cost: str, place: Callable[[NDArray[Any]], Any]) -> Arch:
        self.check(cost)
        return self.space.decode(np.array([place(row) for row in self._columns[cost].blocks]))

    def feasible_share(self, limits: dict[str, float], n: int = 20_000, seed: int = 0) -> float:
        """Share of `n` uniformly drawn archs that meet every limit {cost: largest value}."""
        genes = self.space.sample_genes(n, np.random.default_rng(seed))
        meets = [self.batch(cost, genes) <= limit for cost, limit in limits.items()]
        return float(np.all(meets, axis=0).mean())

    def _parts(self, cost: str, genes: Genes) -> list[NDArray[Any]]:
        """What each block adds to a cost of genes (n, blocks), (n,) a block."""
        self.check(cost)
        return [row[i] for row, i in zip(self._columns[cost].blocks, genes.T, strict=True)]


def flops_and_params(space: ListedSpace, archs: Sequence[AnyArch]) -> dict[str, NDArray[np.int64]]:
    """The FLOPs and params, (archs,) each, of archs of a space of any kind."""
    if isinstance(space, CellSpace):
        counts = [cell_count(space, cell) for cell in archs]  # type: ignore[arg-type]
        return {cost: np.array([getattr(c, cost) for c in counts]) for cost in ("flops", "params")}
    genes = np.stack([space.encode(arch) for arch in archs])  # type: ignore[arg-type]
    if isinstance(space, EdgeCellSpace):
        return edge_cell_costs(space, genes)
    cost_model = CostModel(space)
    return {cost: cost_model.batch(cost, genes) for cost in ("flops", "params")}
