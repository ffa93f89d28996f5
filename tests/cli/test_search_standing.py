"""The command `search --benchmark`: where the derived arch stands by published accuracies."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import Call
from searched import BUDGET, SMALL, SPACE

from mobilenas.cost.edge_model import costs_of
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.space import EdgeCellSpace, load_listed_space, load_space
from mobilenas.stages.benchmark import read_truths, standing_of
from mobilenas.strategies.searchable import Searchable


def test_a_random_cell_is_one_of_the_ops_that_are_searched(data_root: Path) -> None:
    means = []
    for ops in ("", ",ops=[skip_connect,nor_conv_1x1,nor_conv_3x3,avg_pool_3x3]"):
        space = load_listed_space(f"nb201:channels=4{ops}")
        assert isinstance(space, EdgeCellSpace)
        truth = read_truths("nb201", data_root, space)["cifar10"]
        arch = space.sample(np.random.default_rng(0))
        means.append(100 * standing_of(arch, truth, Searchable(costs_of(space))).random_mean)
    assert means == pytest.approx([87.06, 89.45], abs=0.005)


def test_where_an_arch_stands(tmp_path: Path, call: Call, data_root: Path) -> None:
    out = tmp_path / "search"
    asked = ["--benchmark=macro", f"--data-root={data_root}", f"--out={out}"]
    done = call("search", *SMALL, BUDGET, *asked, "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    standing = printed["standing"]["cifar10"]
    truth = read_benchmark("macro", data_root, load_space(SPACE))
    arch = load_space(SPACE).canonical(load_space(SPACE).parse(printed["front"][0]["arch"]))
    assert standing["accuracy"] == truth.accuracy[truth.archs.index(arch)]
    assert standing["place"] == 1 + (truth.accuracy > standing["accuracy"]).sum()
    again = call("search", "--resume", *asked)
    assert f"place {standing['place']:,} of 3,969" in again.out
