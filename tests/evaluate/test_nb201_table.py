"""NAS-Bench-201's table as a ground truth, and where an arch stands in a truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from listed import GENES, SPACE, listed_columns, write_listed

from mobilenas.base.errors import BadInput
from mobilenas.evaluate.nb201 import DATA_SETS, read_nb201
from mobilenas.evaluate.standing import standing
from mobilenas.evaluate.truth import Truth
from mobilenas.space import EdgeCellSpace, Genotype, load_listed_space, load_space

Write = Callable[..., Path]


def cell(genes: str) -> Genotype:
    """A cell by the numbers of its six ops."""
    return SPACE.decode(np.array([int(digit) for digit in genes]))


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    return listed_columns()


@pytest.fixture
def write(tmp_path: Path, columns: dict[str, Any]) -> Write:
    """`write(column=values)`: a data root whose table has these in place of its own."""
    return lambda **changes: write_listed(tmp_path, {**columns, **changes})


def test_a_table_is_read_as_it_was_written(write: Write, columns: dict[str, Any]) -> None:
    reference = "nb201:channels=4,cells=1,resolution=8,ops=[nor_conv_3x3,skip_connect]"
    space = load_listed_space(reference)
    assert isinstance(space, EdgeCellSpace)
    table = read_nb201(write(), space)
    assert tuple(table.truths) == DATA_SETS
    for name, truth in table.truths.items():
        assert [str(arch) for arch in truth.archs] == columns["arch_str"]
        assert truth.accuracy == pytest.approx(columns[f"acc200_{name}_test"] / 100)
        assert (truth.costs["params"] == columns["params_cifar10"]).all()  # at the full size
    assert table.within(space).sum() == 2**6
    fit = table.latency("phone").fit
    assert fit.r2 == pytest.approx(1)
    assert fit.within_10_percent == 1
    summed = fit.fixed + fit.ops[np.arange(6), GENES].sum(axis=1)
    assert summed == pytest.approx(columns["lat_phone_ms"])
    with pytest.raises(BadInput, match=r"no latencies of 'tablet' .*; of phone, board"):
        table.latency("tablet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch_str": None}, "must be one column 'arch_str'"),
        ({"acc200_cifar100_test": None}, "must be one column 'acc200_cifar100_test'"),
        ({"acc200_cifar10_test": [101.0] * 15625}, "acc200_cifar10_test must .* 0 to 100 in all"),
        ({"acc200_cifar10_test": [None] * 15625}, "acc200_cifar10_test must have numbers"),
        ({"lat_phone_ms": ["fast"] * 15625}, "lat_phone_ms must have numbers"),
        ({"arch_str": ["e3k3"] * 15625}, "arch_str: cell 'e3k3'"),
        ({"arch_str": pyarrow.array(15625 * [b"\xff"]).view("string")}, "'arch_str' is not UTF-8"),
        ({"arch_str": [str(cell("000000"))] * 15625}, "must have each of the 15625 cells once"),
        ({"params_cifar10": [73306] * 15625}, r"\|none~0\|.* has \d+ params, not 73306"),
    ],
)
def test_a_table_that_does_not_hold_is_refused(
    write: Write, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words) as error:
        read_nb201(write(**changes), SPACE)
    assert "nasbench201.parquet" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_or_no_parquet(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(BadInput, match=r"benchmark nb201: no such file: .*--data-root DIR"):
            read_nb201(root, SPACE)
    (tmp_path / "nas_bench_201").mkdir()
    (tmp_path / "nas_bench_201" / "nasbench201.parquet").write_text("{}")
    with pytest.raises(BadInput, match=r"nasbench201\.parquet is not parquet") as error:
        read_nb201(tmp_path, SPACE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reference", ["macro", "nb101", "darts", "nb201:nodes=4", "nb201:ops=[dil_conv_3x3]"]
)
def test_spaces_of_other_cells_are_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(BadInput, match=r"the archs of space .* are none of its cells"):
        read_nb201(tmp_path, load_listed_space(reference))


def test_where_an_arch_stands() -> None:
    macro = load_space("macro")
    archs = tuple(macro.parse("_".join([block] * 8)) for block in ("id", "e3k3", "e6k5"))
    costs = {"params": np.array([1, 2, 3]), "flops": np.array([5, 9, 7])}
    truth = Truth("a file", archs, np.array([0.5, 0.8, 0.7]), costs)
    last = standing(truth, archs[2], costs={"ms": np.array([3.0, 2.0, 1.0])})
    assert (last.accuracy, last.place, last.total, last.largest) == (0.7, 2, 3, 0.7)
    assert last.regret == pytest.approx({"params": 0.1, "flops": 0.0, "ms": 0.0})
    assert last.random_mean == pytest.approx(2 / 3)
    assert last.random_sd == pytest.approx(np.std([0.5, 0.8, 0.7]))
    some = standing(truth, archs[0], drawn=np.array([True, False, True]))
    assert (some.random_mean, some.place, some.regret["params"]) == (pytest.approx(0.6), 3, 0)
    with pytest.raises(BadInput, match="a file has no accuracy of id_id"):
        standing(truth, macro.parse("_".join(["id"] * 7 + ["e3k3"])))


def test_the_published_table_itself(data_root: Path) -> None:
    """The figures beside which those of a search must be read."""
    table = read_nb201(data_root, SPACE)
    cifar = table.truths["cifar10"]
    for genes, percent in (
        ("111111", 54.297),  # all skips
        ("333333", 93.760),  # the largest cell
        ("333132", 94.373),  # the best
        ("000000", 10.0),
    ):
        assert 100 * standing(cifar, cell(genes)).accuracy == pytest.approx(percent, abs=5e-4)
    largest = [standing(truth, cell("333333")) for truth in table.truths.values()]
    assert [s.accuracy for s in largest] == pytest.approx([0.9376, 0.7111, 0.4144], abs=5e-5)
    assert all(s.largest == s.accuracy for s in largest)
    best = standing(cifar, cell("333132"))
    assert (best.place, best.total, set(best.regret.values())) == (1, 15625, {0.0})
    assert (best.random_mean, best.random_sd) == pytest.approx((0.8706, 0.1293), abs=5e-5)
    without_none = load_listed_space(
        "nb201:ops=[skip_connect,nor_conv_1x1,nor_conv_3x3,avg_pool_3x3]"
    )
    assert isinstance(without_none, EdgeCellSpace)
    rivals = standing(cifar, cell("333132"), drawn=table.within(without_none))
    assert (rivals.random_mean, rivals.random_sd) == pytest.approx((0.8945, 0.0613), abs=5e-5)
    for limit, best_percent in ((0.2e6, 91.32), (0.4e6, 93.60), (0.6e6, 94.01), (0.8e6, 94.31)):
        within = cifar.accuracy[cifar.costs["params"] <= limit]
        assert 100 * within.max() == pytest.approx(best_percent, abs=5e-3)


def test_latencies_of_the_published_table_as_sums(data_root: Path) -> None:
    table = read_nb201(data_root, SPACE)
    cut_off = ~table.latency("pixel3").connected()
    assert cut_off.sum() == 341
    assert table.truths["cifar10"].accuracy[cut_off] == pytest.approx(0.1)
    r2 = {name: table.latency(name).fit.r2 for name in ("eyeriss", "fpga", "1080ti_1", "pixel3")}
    assert r2 == pytest.approx(
        {"eyeriss": 1, "fpga": 1, "1080ti_1": 0.991, "pixel3": 0.906}, abs=1e-3
    )
    assert table.latency("pixel3").fit.within_10_percent == pytest.approx(0.58, abs=5e-3)
