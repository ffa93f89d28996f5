"""A made-up table of NAS-Bench-201's cells, in the form of the published one."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from mobilenas.cost.edge_cells import edge_cell_costs
from mobilenas.evaluate.nb201 import DATA_SETS
from mobilenas.space import EdgeCellSpace, load_listed_space

SPACE = load_listed_space("nb201")
assert isinstance(SPACE, EdgeCellSpace)
GENES = np.array(list(product(range(5), repeat=6)))
# Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3, the first op of which is none.
_OPEN = (GENES > 0).T
HAS_PATH = _OPEN[3] | _OPEN[0] & (_OPEN[4] | _OPEN[2] & _OPEN[5]) | _OPEN[1] & _OPEN[5]


def listed_columns() -> dict[str, Any]:
    """Accuracies are drawn. Latencies of the phone are sums of parts, those of the board only
    nearly, and 0 of cells without a path, as most are published.
    """
    rng = np.random.default_rng(0)
    accuracy = {f"acc200_{name}_test": rng.uniform(1, 90, len(GENES)) for name in DATA_SETS}
    ms = 3 + rng.uniform(1, 2, (6, 5))[np.arange(6), GENES].sum(axis=1)
    return {
        "arch_str": [str(SPACE.decode(genes)) for genes in GENES],
        "params_cifar10": edge_cell_costs(SPACE, GENES)["params"],
        **accuracy,
        "lat_phone_ms": ms,
        "lat_board_ms": ms * rng.uniform(0.95, 1.05, len(GENES)) * HAS_PATH,
    }


def write_listed(root: Path, columns: dict[str, Any]) -> Path:
    """A data root with the table of these columns; None leaves one out."""
    path = root / "nas_bench_201/nasbench201.parquet"
    path.parent.mkdir()
    columns = {name: values for name, values in columns.items() if values is not None}
    parquet.write_table(pyarrow.table(columns), path)
    return root
