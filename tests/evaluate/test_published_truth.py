"""Published accuracies: benchmarks as a ground truth, and files that do not hold."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.cells import cell_count
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.evaluate.truth import Truth
from mobilenas.space import CellSpace, load_any_space, load_space
from mobilenas.stages.benchmark import read_truths

MACRO = load_space("macro")
CODES = {"11111111": 0.91, "22222222": 0.93, "00000000": 0.5, "01002000": 0.7, "01020000": 0.7}


def accuracies(truth: Truth) -> dict[str, float]:
    return dict(zip(map(str, truth.archs), truth.accuracy.tolist(), strict=True))


def macro_root(folder: Path, **changes: Any) -> Path:
    """A data root with five networks of NAS-Bench-Macro, two of them aliases."""
    networks = {}
    cost_model = CostModel(MACRO)
    for code, accuracy in CODES.items():
        arch = MACRO.decode(np.array([int(digit) for digit in code]))
        networks[code] = {
            "test_acc": [100 * accuracy - 0.1, 100 * accuracy, 100 * accuracy + 0.1],
            "mean_acc": 100 * accuracy,
            "std": 0.08,
            "params": cost_model.params(arch),
            "flops": cost_model.flops(arch),
        }
    networks["22222222"] |= changes
    (folder / "nas_bench_macro").mkdir()
    path = folder / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
    path.write_text(json.dumps(networks))
    return folder


@pytest.mark.parametrize("reference", ["macro", "macro:width=0.25,resolution=16,num_classes=5"])
def test_macro_has_the_accuracies_and_costs_of_the_benchmark(
    tmp_path: Path, reference: str
) -> None:
    truth = read_benchmark("macro", macro_root(tmp_path), load_any_space(reference))
    archs = [MACRO.decode(np.array([int(x) for x in code])) for code in CODES if code[3:5] != "02"]
    assert set(truth.archs) == set(archs)
    assert sorted(truth.accuracy) == pytest.approx([0.5, 0.7, 0.91, 0.93])
    flops = [CostModel(MACRO).flops(arch) for arch in truth.archs]
    assert truth.costs["flops"].tolist() == flops
    assert truth.ceiling == pytest.approx(1)


def test_a_search_refuses_a_macro_file_that_lacks_networks(tmp_path: Path) -> None:
    """Before it starts: it could end in one of them."""
    with pytest.raises(BadInput, match="has 4 of 3969 networks"):
        read_truths("macro", macro_root(tmp_path), MACRO)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": 7}, "22222222 has 2932586 params, not 7"),
        ({"flops": 7}, "22222222 has 105660928 flops, not 7"),
        ({"mean_acc": 101}, r"22222222\.mean_acc"),
        ({"mean_acc": None}, r"22222222\.mean_acc"),
        ({"test_acc": [1, 2]}, r"22222222\.test_acc"),
    ],
)
def test_a_macro_file_that_does_not_hold_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as error:
        read_benchmark("macro", macro_root(tmp_path, **changes), MACRO)
    assert "nas-bench-macro_cifar10.json: " in str(error.value)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"000": {}}', '{"00000003": {}}', "\x00"])
def test_a_damaged_macro_file_is_refused(tmp_path: Path, text: str) -> None:
    root = macro_root(tmp_path)
    (path,) = root.glob("*/*.json")
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        read_benchmark("macro", root, MACRO)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("macro", "s1"),
        ("macro", "macro:candidates=[id, e3k3, e6k3]"),
        ("macro", "macro:candidates=[e3k3, id, e6k5]"),
        ("macro", "nb101"),
        ("nb101", "macro"),
    ],
)
def test_archs_of_another_space_are_refused(tmp_path: Path, name: str, reference: str) -> None:
    root = macro_root(tmp_path)
    nb101_root(root)
    with pytest.raises(BadInput, match=f"benchmark {name}: space ") as error:
        read_benchmark(name, root, load_any_space(reference))
    assert f"--space {name}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "origin"),
    [("macro", "xiusu/NAS-Bench-Macro"), ("nb101", "google-research/nasbench")],
)
def test_a_missing_file_is_answered_with_where_it_comes_from(
    tmp_path: Path, name: str, origin: str
) -> None:
    for root in (None, tmp_path):
        with pytest.raises(BadInput, match=origin) as error:
            read_benchmark(name, root, load_any_space(name))
        assert str(root or "") in str(error.value)
        assert "--data-root DIR or MOBILENAS_DATA" in str(error.value)


def test_an_unknown_benchmark_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no benchmark 'nb201'; known are macro, nb101"):
        read_benchmark("nb201", tmp_path, MACRO)


def nb101_root(folder: Path, extra_params: int = 0) -> Path:
    """A data root with four cells of the NAS-Bench-101 subset."""
    names = {"c1": "conv1x1-bn-relu", "c3": "conv3x3-bn-relu", "mp": "maxpool3x3"}
    space = load_any_space("nb101")
    cells = [
        {
            "ops": [names[op] for op in text.split(".")],
            "params": cell_count(space, space.parse(text)).params + extra_params,
            "test_acc_mean": accuracy,
        }
        for text, accuracy in {
            "c1": 0.78,
            "c1.mp": 0.9,
            "c1.c1.c3": 0.93,
            "c1.mp.mp.mp": 0.9,
        }.items()
    ]
    (folder / "nas_bench_101").mkdir()
    (folder / "nas_bench_101" / "mixpath_subset.json").write_text(json.dumps({"cells": cells}))
    return folder


def test_nb101_has_the_cells_that_the_space_has(tmp_path: Path) -> None:
    root = nb101_root(tmp_path)
    four, three = (
        read_benchmark("nb101", root, load_any_space(f"nb101:channels=16,max_paths={m}"))
        for m in (4, 3)
    )
    expected = {"c1": 0.78, "c1.mp": 0.9, "c1.c1.c3": 0.93, "c1.mp.mp.mp": 0.9}
    assert accuracies(four) == expected
    del expected["c1.mp.mp.mp"]
    assert accuracies(three) == expected
    assert three.ceiling is None
    official = load_any_space("nb101")
    assert isinstance(official, CellSpace)
    for truth in (four, three):  # of the benchmark's 128 channels, whatever the space has
        flops = [cell_count(official, official.parse(str(cell))).flops for cell in truth.archs]
        assert truth.costs["flops"].tolist() == flops


def test_an_nb101_file_with_other_params_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mixpath_subset\.json: c1 has \d+ params, not \d+"):
        read_benchmark("nb101", nb101_root(tmp_path, extra_params=1), load_any_space("nb101"))


def test_nas_bench_macro_itself(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The figures that a supernet is held against."""
    with caplog.at_level(logging.INFO):
        truth = read_benchmark("macro", data_root, MACRO)
    assert "6561 archs are 3969 distinct networks" in caplog.text
    assert len(truth.archs) == len(set(truth.archs)) == 3969
    assert (truth.accuracy.min(), truth.accuracy.max()) == pytest.approx(
        (0.45363, 0.93127), abs=1e-5
    )
    best = truth.archs[int(truth.accuracy.argmax())]
    assert str(best) == "e6k5_e6k5_e6k5_e3k3_e6k5_e6k5_e6k5_id"
    taus = {cost: kendalltau(values, truth.accuracy)[0] for cost, values in truth.costs.items()}
    assert taus == pytest.approx({"flops": 0.546, "params": 0.215}, abs=5e-4)
    assert truth.ceiling == pytest.approx(0.880, abs=2e-3)


@pytest.mark.parametrize(("max_paths", "cells"), [(3, 19), (4, 34)])
def test_the_nb101_subset_itself(data_root: Path, max_paths: int, cells: int) -> None:
    space = load_any_space(f"nb101:max_paths={max_paths}")
    assert isinstance(space, CellSpace)
    truth = read_benchmark("nb101", data_root, space)
    assert len(truth.archs) == cells
    assert all(space.canonical(cell) == cell for cell in truth.archs)
    if cells == 34:
        assert kendalltau(truth.costs["params"], truth.accuracy)[0] == pytest.approx(
            0.775, abs=5e-4
        )
