"""NAS-Bench-201 as a table: accuracies, params and latencies of all its 15,625 cells.

A parquet file with one row a cell: `arch_str`, `params_cifar10`, the test accuracies in percent
`acc200_cifar10_test`, `acc200_cifar100_test` and `acc200_imagenet16_test` after 200 epochs (means
over the seeds of NATS-Bench; Dong et al. 2021), and `lat_DEVICE_ms` of any number of devices.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from mobilenas.base.errors import BadInput, one_line
from mobilenas.cost.cell_latency import CellLatencies
from mobilenas.cost.edge_cells import edge_cell_costs
from mobilenas.evaluate.published_truth import benchmark_file
from mobilenas.evaluate.truth import Floats, Truth
from mobilenas.space import EdgeCellSpace, Genes, ListedSpace, load_listed_space

DATA_SETS = ("cifar10", "cifar100", "imagenet16")
_FILE = "nas_bench_201/nasbench201.parquet"
_ORIGIN = "a table of what NATS-Bench and HELP published; docs/spaces.md has its columns"


@dataclass(frozen=True, eq=False)
class NB201:
    """truths: by data set, of the same cells in the same order. genes: (cells, edges) of them in
    the space `nb201`. latencies: ms (cells,) by device; 0 for most cells without a path.
    """

    space: EdgeCellSpace
    truths: dict[str, Truth]
    genes: Genes
    latencies: dict[str, Floats]

    def within(self, space: EdgeCellSpace) -> NDArray[np.bool_]:
        """Which cells (cells,) another space has, whose ops are some of the benchmark's."""
        ops = [index for index, op in enumerate(self.space.spec.ops) if op in space.spec.ops]
        return np.asarray(np.isin(self.genes, ops).all(axis=1))

    def latency(self, device: str) -> CellLatencies:
        """The latencies on a device. Raises BadInput for an unknown one."""
        if device not in self.latencies:
            known = ", ".join(self.latencies) or "none"
            raise BadInput(f"no latencies of {device!r} in NAS-Bench-201's table; of {known}")
        return CellLatencies(device, self.space, self.genes, self.latencies[device])


def read_nb201(data_root: Path | None, space: ListedSpace) -> NB201:
    """The benchmark's table below data_root, for archs of a space.

    Raises BadInput for a space with other cells than the benchmark's, and a file that is missing,
    damaged or incomplete, or whose params are not those of its networks.
    """
    benchmark = load_listed_space("nb201")
    assert isinstance(benchmark, EdgeCellSpace)
    ops, nodes, skeleton = benchmark.spec.ops, benchmark.spec.nodes, benchmark.spec.skeleton
    if (
        not isinstance(space, EdgeCellSpace)
        or (space.spec.skeleton, space.spec.nodes) != (skeleton, nodes)
        or not set(space.spec.ops) <= set(ops)
    ):
        raise BadInput(
            f"benchmark nb201: the archs of space {space.name} are none of its cells; take --space "
            "nb201 (other channels, cells and resolution, or fewer ops, will do)"
        )
    path = benchmark_file("nb201", data_root, _FILE, _ORIGIN)
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not parquet: {one_line(error)}") from None
    texts, params = _column(path, table, "arch_str"), _numbers(path, table, "params_cifar10")
    accuracy = {
        name: _numbers(path, table, f"acc200_{name}_test", highest=100) / 100 for name in DATA_SETS
    }
    latencies = {
        name.removeprefix("lat_").removesuffix("_ms"): _numbers(path, table, name)
        for name in table.column_names
        if name.startswith("lat_") and name.endswith("_ms")
    }
    try:
        archs = tuple(benchmark.parse(str(text)) for text in texts)
    except BadInput as error:
        raise BadInput(f"{path}: arch_str: {error}") from None
    if not len(archs) == len(set(archs)) == benchmark.num_archs:
        raise BadInput(f"{path} must have each of the {benchmark.num_archs} cells once")
    genes = np.stack([benchmark.encode(arch) for arch in archs])
    costs = edge_cell_costs(benchmark, genes)
    if (params != costs["params"]).any():
        row = int((params != costs["params"]).argmax())
        counted = costs["params"][row]
        raise BadInput(f"{path}: {archs[row]} has {counted} params, not {params[row]:.0f}")
    truths = {
        name: Truth(f"{path.name} (NAS-Bench-201, {name})", archs, values, costs)
        for name, values in accuracy.items()
    }
    return NB201(benchmark, truths, genes, latencies)


def _column(path: Path, table: pyarrow.Table, name: str) -> list[object]:
    if table.column_names.count(name) != 1:
        raise BadInput(f"{path}: there must be one column {name!r}")
    try:
        values: list[object] = table.column(name).to_pylist()
    except UnicodeDecodeError:
        raise BadInput(f"{path}: column {name!r} is not UTF-8") from None
    return values


def _numbers(path: Path, table: pyarrow.Table, name: str, highest: float = np.inf) -> Floats:
    values = _column(path, table, name)
    try:
        numbers = np.array(values, float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    fit = np.isfinite(numbers) & (numbers >= 0) & (numbers <= highest)
    if not fit.all():
        limit = "" if highest == np.inf else f" to {highest:g}"
        raise BadInput(f"{path}: {name} must have numbers from 0{limit} in all rows")
    return numbers
