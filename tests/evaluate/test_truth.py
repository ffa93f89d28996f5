"""True accuracies in files of users, and everything that can be wrong with them."""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.cells import cell_count
from mobilenas.evaluate.truth import Truth, read_truth, space_checksum
from mobilenas.runs import RunFolder
from mobilenas.space import load_any_space, load_space

SPACE = load_space("macro:width=0.25,resolution=16")
A, B, C = ("_".join([op] * 8) for op in ("e3k3", "e6k5", "id"))
ALIAS, CANONICAL = "id_e3k3_e3k3_id_e6k5_id_id_id", "id_e3k3_e3k3_e6k5_id_id_id_id"
GOOD = f"arch,accuracy\n{A},0.9\n{B},0.93\n{C},0.5\n"


def written(folder: Path, text: str | bytes, name: str = "truth.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def accuracies(truth: Truth) -> dict[str, float]:
    return dict(zip(map(str, truth.archs), truth.accuracy.tolist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"arch,accuracy\n{A},90\n{B},93\n{C},50\n",
        f"\ufeffseed,accuracy, arch\r\n1,0.9,{A}\r\n\r\n1,0.93, {B}\r\n1,.5,{C}\r\n\r\n",
    ],
    ids=["fractions", "percent", "other columns, blank lines"],
)
def test_a_csv_file(tmp_path: Path, text: str) -> None:
    truth = read_truth(written(tmp_path, text), SPACE)
    assert accuracies(truth) == pytest.approx({A: 0.9, B: 0.93, C: 0.5})
    assert (truth.source, truth.ceiling) == ("truth.csv", None)
    cost_model = CostModel(SPACE)
    assert truth.costs["flops"].tolist() == [cost_model.flops(arch) for arch in truth.archs]
    assert truth.costs["params"].tolist() == [cost_model.params(arch) for arch in truth.archs]


@pytest.mark.parametrize("scale", [1, 100])
def test_a_parquet_file(tmp_path: Path, scale: int) -> None:
    path = tmp_path / "truth.parquet"
    values = [scale * x for x in (0.9, 0.93, 0.5)]
    parquet.write_table(pa.table({"accuracy": values, "arch": [A, B, C], "n": [1, 2, 3]}), path)
    assert accuracies(read_truth(path, SPACE)) == pytest.approx({A: 0.9, B: 0.93, C: 0.5})


def test_aliases_count_once_with_their_mean_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, f"{GOOD}{ALIAS},0.6\n{CANONICAL},0.7\n")
    with caplog.at_level(logging.INFO):
        truth = read_truth(path, SPACE)
    assert accuracies(truth) == pytest.approx({A: 0.9, B: 0.93, C: 0.5, CANONICAL: 0.65})
    (line,) = caplog.messages
    assert str(path) in line
    assert "its 5 archs are 4 distinct networks" in line


def test_without_aliases_nothing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        read_truth(written(tmp_path, GOOD), SPACE)
    assert caplog.messages == []


FILES: list[tuple[str | bytes, str]] = [
    ("", "there must be one column 'arch', there are none"),
    ("arch;accuracy\n", "there must be one column 'arch', there are arch;accuracy"),
    ("arch,acc\n", "there must be one column 'accuracy', there are arch, acc"),
    ("arch,accuracy,arch\n", "there must be one column 'arch', there are arch, accuracy, arch"),
    (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a CSV file"),
    ('arch,accuracy\n"e3k3,0.9\n', "is not a CSV file"),
    ("arch,accuracy\n", "0 distinct networks; there must be at least 3"),
    (f"arch,accuracy\n{A},0.9\n{B},0.8\n", "2 distinct networks; there must be at least 3"),
    (
        f"arch,accuracy\n{A},0.9\n{ALIAS},0.8\n{CANONICAL},0.8\n",
        "2 distinct networks; there must be at least 3",
    ),
    (f"{GOOD}{A}\n", "line 5: 1 fields, the header has 2"),
    (f"{GOOD}{A},0.9,0.8\n", "line 5: 3 fields, the header has 2"),
    (f"{GOOD}e3k3_e3k3,0.9\n", "line 5: 'e3k3_e3k3' is no arch of space macro:width=0.25"),
    (f"{GOOD}e3k3_e3k3,0.9\n", "arch has 2 blocks, space macro"),
    (f"{GOOD}{A[:-1]}7,0.9\n", "arch block 8: kernels [7] of e3k7 are not in [3, 5]"),
    (f'{GOOD}"e3k3\n_id",0.9\n', r"line 6: 'e3k3\n_id' is no arch of space"),
    (f"{GOOD},0.9\n", "line 5: '' is no arch of space"),
]
FILES += [
    (f"{GOOD}{ALIAS},{value}\n", f"line 5: accuracy {value!r} is no number in 0..1 or 0..100")
    for value in ("nan", "inf", "-inf", "-0.1", "100.5", "91%", "", "high", "0.9_1", "True")
]
FILES += [
    (f"{GOOD}{ALIAS},91\n", "line 2: accuracy 0.9 beside 91 in line 5; give all in 0..1 or all in"),
    (f"{GOOD}{ALIAS},1.01\n", "line 2: accuracy 0.9 beside 1.01 in line 5"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=[m for _, m in FILES])
def test_a_bad_csv_file_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as error:
        read_truth(path, SPACE)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arch": [A, B, None], "accuracy": [0.1, 0.2, 0.3]}, "row 3: None is no arch of space"),
        ({"arch": [A, B, C], "accuracy": [0.1, None, 0.3]}, "row 2: accuracy None is no number"),
        ({"arch": [A, B, C], "accuracy": [0.1, 0.2, float("nan")]}, "row 3: accuracy nan is no"),
        ({"arch": [1, 2, 3], "accuracy": [0.1, 0.2, 0.3]}, "row 1: 1 is no arch of space"),
        ({"arch": [A, B, A], "accuracy": [0.1, 0.2, 0.4]}, A + " has 40 % in row 3"),
        ({"arch": [A, B, C]}, "there must be one column 'accuracy', there are arch"),
    ],
)
def test_a_bad_parquet_file_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    path = tmp_path / "truth.parquet"
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(BadInput) as error:
        read_truth(path, SPACE)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truth.parquet", "is not parquet: "),
        ("truth.xlsx", "a truth file ends in .csv or .parquet"),
        ("none.csv", "no such file: "),
        (".", "a truth file ends in .csv or .parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, message: str) -> None:
    for other in ("truth.parquet", "truth.xlsx"):
        written(tmp_path, GOOD, other)
    with pytest.raises(BadInput) as error:
        read_truth(tmp_path / name, SPACE)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_cells(tmp_path: Path) -> None:
    """`c3.none.c1` and `c1.c3` are one network."""
    space = load_any_space("nb101")
    path = written(tmp_path, "arch,accuracy\nc3.none.c1,0.9\nc1.c3,0.8\nmp,0.5\nc1.mp,0.6\n")
    truth = read_truth(path, space)
    assert accuracies(truth) == pytest.approx({"c1.c3": 0.85, "mp": 0.5, "c1.mp": 0.6})
    assert truth.costs["params"][1] == cell_count(space, space.parse("mp")).params


def test_equal_networks_may_differ_by_noise_but_not_by_more(tmp_path: Path) -> None:
    near = written(tmp_path, f"{GOOD}{ALIAS},0.60\n{CANONICAL},0.79\n")
    assert accuracies(read_truth(near, SPACE))[CANONICAL] == pytest.approx(0.695)
    again = written(tmp_path, f"{GOOD}{A},0.8\n")  # another training of the same arch
    assert accuracies(read_truth(again, SPACE))[A] == pytest.approx(0.85)
    far = written(tmp_path, f"{GOOD}{ALIAS},0.60\n{CANONICAL},0.81\n")
    with pytest.raises(BadInput) as error:
        read_truth(far, SPACE)
    expected = f"{far}: {CANONICAL} has 81 % in line 6, and {ALIAS}, the same network, 60 % in line"
    assert str(error.value).startswith(f"{expected} 5: more than 20 points apart")


def test_the_first_of_equal_networks_may_lie_between_two_that_are_too_far_apart(
    tmp_path: Path,
) -> None:
    ends = ("id_e6k5_e3k3_id_e6k5", "e6k5_id_e3k3_id_e6k5", "e6k5_id_e3k3_e6k5_id")
    names = [f"id_e3k3_e3k3_{end}" for end in ends]
    assert len({SPACE.canonical(SPACE.parse(name)) for name in names}) == 1
    rows = "".join(f"{name},{x}\n" for name, x in zip(names, (0.7, 0.55, 0.85), strict=True))
    with pytest.raises(BadInput, match=r"85 % in line 7, and .* 55 % in line 6"):
        read_truth(written(tmp_path, GOOD + rows), SPACE)


CHECKED = f"arch,accuracy,data_checksum\n{A},0.9,7\n{B},0.93,\n{C},0.5,"


@pytest.mark.parametrize("known", [7, None], ids=["the same", "unknown"])
def test_images_are_those_of_a_run_where_both_are_known(tmp_path: Path, known: int | None) -> None:
    run = RunFolder(tmp_path / "supernet", "supernet", {}, facts={"data_checksum": known})
    path = written(tmp_path, f"{CHECKED}7\n")
    assert accuracies(read_truth(path, SPACE, run)) == pytest.approx({A: 0.9, B: 0.93, C: 0.5})
    assert len(read_truth(written(tmp_path, GOOD), SPACE, run).archs) == 3


def test_other_images_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "supernet", "supernet", {}, facts={"data_checksum": 7})
    for value, message in (
        ("8", f"line 4: data_checksum 8, but the images of {run.path} have 7: "),
        ("x", "line 4: data_checksum 'x' is no whole number"),
    ):
        path = written(tmp_path, f"{CHECKED}{value}\n")
        with pytest.raises(BadInput) as error:
            read_truth(path, SPACE, run)
        assert str(error.value).startswith(f"{path} {message}")
        assert "\n" not in str(error.value)
    twice = written(tmp_path, "arch,accuracy,data_checksum,data_checksum\n")
    with pytest.raises(BadInput, match="there must be one column 'data_checksum'"):
        read_truth(twice, SPACE, run)


def test_a_file_of_a_space_of_other_networks_is_refused(tmp_path: Path) -> None:
    """Though its archs have the same names; what the space is called does not matter."""
    named = load_space("macro:width=0.25,resolution=16,name=mine")
    rows = "".join(f"{line},{space_checksum(named)}\n" for line in GOOD.splitlines()[1:])
    path = written(tmp_path, f"arch,accuracy,space_checksum\n{rows}")
    assert len(read_truth(path, SPACE).archs) == 3
    with pytest.raises(BadInput, match=r"line 2: space_checksum .* macro:width=0.5"):
        read_truth(path, load_space("macro:width=0.5,resolution=16"))
