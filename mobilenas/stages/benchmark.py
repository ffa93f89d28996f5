"""What published accuracies say of the arch that a search by gradient ends in."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.cost.titles import is_latency
from mobilenas.evaluate.nb201 import read_nb201
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.evaluate.standing import Standing, standing
from mobilenas.evaluate.truth import Truth
from mobilenas.space import Arch, EdgeCellSpace, Genotype, NetworkSpace, Space
from mobilenas.strategies.searchable import Searchable

MACRO_NETWORKS = 3969  # distinct ones among the 6,561 names of NAS-Bench-Macro


def read_truths(benchmark: str, data_root: Path | None, space: NetworkSpace) -> dict[str, Truth]:
    """The published accuracies of a benchmark, by data set, of all archs of a space: a search may
    end in any. Raises BadInput.
    """
    if benchmark == "nb201":
        return read_nb201(data_root, space).truths
    if benchmark != "macro":
        raise BadInput(f"no benchmark {benchmark!r}; of a search known are macro, nb201")
    if not isinstance(space, Space):
        raise BadInput(f"benchmark macro: space {space.name} is one of cells; take --space macro")
    truth = read_benchmark(benchmark, data_root, space)
    if len(truth.archs) < MACRO_NETWORKS:
        raise BadInput(
            f"{truth.source} has {len(truth.archs)} of {MACRO_NETWORKS} networks: all are needed"
        )
    return {"cifar10": truth}


def standing_of(arch: Arch | Genotype, truth: Truth, searchable: Searchable) -> Standing:
    """Where an arch stands. A random one is of the space that is searched, which may have fewer ops
    than the benchmark's; regret is by every latency table, too. There a
    cell without a path, which puts out zeros, is no cheaper than any other.
    """
    space, costs, archs = searchable.space, searchable.costs, cast(Any, truth.archs)
    own = space.canonical(arch)  # type: ignore[arg-type]
    if isinstance(space, EdgeCellSpace):
        tables = cast(EdgeCellCosts, costs).tables
        ops = set(space.spec.ops)
        used = ({op for nodes in a.cells for node in nodes for op, _ in node} for a in archs)
        listed = {
            t.cost: t.limited(t.space, np.stack([t.space.encode(a) for a in archs])) for t in tables
        }
        return standing(truth, own, costs=listed, drawn=np.array([each <= ops for each in used]))
    genes = np.stack([space.encode(each) for each in archs])
    latencies = {c: costs.batch(c, genes).astype(float) for c in costs.costs if is_latency(c)}
    return standing(truth, own, costs=latencies)
