"""Costs of cells whose edges have ops: those that were published, and those of built networks."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from genotypes import IMAGENET, PUBLISHED
from pyarrow import parquet

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.cost.model import flops_and_params
from mobilenas.nn.edge_cells import EdgeCellNetwork
from mobilenas.space import EdgeCellSpace, load_listed_space

# Params and multiply-adds of convolutions and linear layers, without an auxiliary head, of the
# networks that DARTS's own code builds.
DARTS_COUNTS = {
    "DARTS_V1": ((3_169_414, 500_987_520), (4_510_432, 505_864_704)),
    "DARTS_V2": ((3_349_342, 528_359_040), (4_718_752, 529_911_552)),
    "PDARTS": ((3_433_798, 532_174_464), (4_944_352, 542_819_328)),
}
SMALL = [
    "nb201:channels=4,cells=2,resolution=8,num_classes=7,in_channels=1",
    "darts:channels=4,cells=5,resolution=8",
    "darts:skeleton=darts_imagenet,channels=6,cells=3,nodes=3,resolution=64",
]


def load(reference: str) -> EdgeCellSpace:
    space = load_listed_space(reference)
    assert isinstance(space, EdgeCellSpace)
    return space


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_published_genotypes(name: str) -> None:
    for reference, expected in zip(("darts", IMAGENET), DARTS_COUNTS[name], strict=True):
        space = load(reference)
        costs = flops_and_params(space, [space.parse(PUBLISHED[name])])
        assert (costs["params"].item(), costs["flops"].item()) == expected


def test_all_params_of_nas_bench_201(data_root: Path) -> None:
    table = parquet.read_table(data_root / "nas_bench_201" / "nasbench201.parquet")
    space = load("nb201")
    archs = [space.parse(text) for text in table["arch_str"].to_pylist()]
    assert len(set(archs)) == space.num_archs
    costs = flops_and_params(space, archs)
    assert costs["params"].tolist() == table["params_cifar10"].to_pylist()
    # The paper's table gives 220.12M to the cell of six 3x3 convolutions.
    assert costs["flops"].max() == 220_119_680


@pytest.mark.parametrize("reference", SMALL)
def test_counts_are_those_of_built_networks(reference: str) -> None:
    space, rng = load(reference), np.random.default_rng(0)
    images = torch.zeros(1, space.spec.in_channels, space.resolution, space.resolution)
    for _ in range(2):
        genotype = space.sample(rng)
        network = EdgeCellNetwork(space, genotype).eval()
        analysis = FlopCountAnalysis(network, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = analysis.by_operator()
        costs = flops_and_params(space, [genotype])
        assert costs["flops"].item() == by_operator["conv"] + by_operator["linear"]
        assert costs["params"].item() == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("reference", SMALL)
def test_costs_are_sums_over_choices(reference: str) -> None:
    space = load(reference)
    costs = EdgeCellCosts(space)
    genotype = space.sample(np.random.default_rng(1))
    genes = space.encode(genotype)
    for cost in costs.costs:
        fixed, rows, is_peak = costs.parts(cost)
        assert not is_peak
        assert [len(row) for row in rows] == [len(c.candidates) for c in space.choices]
        total = fixed + sum(row[g] for row, g in zip(rows, genes, strict=True) if g >= 0)
        assert costs.of(genotype)[cost] == costs.batch(cost, genes[None]).item() == total
        assert flops_and_params(space, [genotype])[cost].item() == total


def test_ranges_of_costs() -> None:
    space = load("nb201:channels=4,cells=1")
    costs = EdgeCellCosts(space)
    every = np.array(list(product(range(5), repeat=6)))
    for cost in costs.costs:
        values, found = costs.batch(cost, every), costs.range(cost)
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        assert found.median == pytest.approx(np.median(values), rel=0.05)
        limit = float(np.quantile(values, 0.3))
        share = (values <= limit).mean()
        assert costs.feasible_share({cost: limit}) == pytest.approx(share, abs=0.05)
    with pytest.raises(BadInput, match="no cost 'memory'; of cells known are flops, params"):
        costs.batch("memory", every)
    small = load("darts:channels=4,cells=3,nodes=2,ops=[skip_connect,sep_conv_3x3,max_pool_3x3]")
    rng = np.random.default_rng(0)
    drawn = np.stack([small.encode(small.sample(rng)) for _ in range(3000)])
    found, values = (
        EdgeCellCosts(small).range("params"),
        EdgeCellCosts(small).batch("params", drawn),
    )
    assert (found.minimum, found.maximum) == (values.min(), values.max())
