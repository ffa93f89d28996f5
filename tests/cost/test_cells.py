"""Costs of networks of cells: equal to NAS-Bench-101's own and to what tracers count."""

import json
from pathlib import Path

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from mobilenas.cost.cells import cell_count
from mobilenas.nn import CellSupernet
from mobilenas.space import Cell, CellSpace, load_any_space

# Trainable parameters in the published table (nas_bench_101, mean over 3 runs at 108 epochs).
PUBLISHED = {
    "c1": 2_957_706,
    "c3": 11_215_242,
    "mp": 1_920_138,
    "c1.c1": 4_869_002,
    "c1.c3": 13_126_538,
    "c1.mp": 3_831_434,
}


def nb101(overrides: str) -> CellSpace:
    space = load_any_space(f"nb101:{overrides}")
    assert isinstance(space, CellSpace)
    return space


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_params(text: str) -> None:
    space = nb101("")
    assert cell_count(space, space.parse(text)).params == PUBLISHED[text]


def test_all_published_params(data_root: Path) -> None:
    text = (data_root / "nas_bench_101" / "mixpath_subset.json").read_text(encoding="utf-8")
    names = {"conv1x1-bn-relu": "c1", "conv3x3-bn-relu": "c3", "maxpool3x3": "mp"}
    rows = {Cell(tuple(names[op] for op in r["ops"])): r for r in json.loads(text)["cells"]}
    space = nb101("")
    assert rows.keys() == set(space.distinct())
    for cell, row in rows.items():
        assert cell_count(space, cell).params == row["params"], str(cell)


@pytest.mark.parametrize(
    "overrides",
    ["channels=4", "channels=6,stacks=2,cells=1,resolution=13,num_classes=7,in_channels=1"],
)
def test_counts_are_those_of_built_networks(overrides: str) -> None:
    space = nb101(overrides)
    supernet = CellSupernet(space)
    images = torch.zeros(1, space.spec.in_channels, space.resolution, space.resolution)
    for cell in space.distinct():
        network = supernet.network(cell).eval()
        analysis = FlopCountAnalysis(network, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = analysis.by_operator()
        after_the_sum = sum(2 * shape.out_channels for shape in space.shapes)
        count = cell_count(space, cell)
        assert count.flops == by_operator["conv"] + by_operator["linear"], str(cell)
        assert count.params == sum(p.numel() for p in network.parameters()) - after_the_sum


def test_names_of_one_network_cost_the_same() -> None:
    space = nb101("channels=16")
    assert cell_count(space, space.parse("mp.none.c3")) == cell_count(space, space.parse("c3.mp"))
