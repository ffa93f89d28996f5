"""Which part of the data a folder or a file holds, by its name."""

import logging
from pathlib import Path

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.data.roles import role_of, split_files


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("cifar10-test.parquet", "test"),
        ("test-00000-of-00001.parquet", "test"),
        ("validation-0001.tar", "validation"),
        ("val_00.tar", "validation"),
        ("val00.tar", "validation"),
        ("set.valid.tar", "validation"),
        ("Test.parquet", "test"),
        ("tests.tar", "test"),
        ("mine_testing_2.tar", "test"),
        ("eval.tar", "test"),
        ("dev-0.parquet", "validation"),
    ],
)
def test_a_word_of_the_name_says_that_a_file_is_for_testing(name: str, role: str) -> None:
    train = [Path("train.tar")]
    assert split_files([Path(name), *train]) == {"train": train, role: [Path(name)]}


@pytest.mark.parametrize(
    "name",
    ["valley.parquet", "data_testimonials.tar", "values-01.tar", "latest.tar", "medieval.tar"],
)
def test_a_longer_word_says_nothing(name: str) -> None:
    files = [Path(name), Path("test.tar")]
    assert split_files(files) == {"train": [Path(name)], "test": [Path("test.tar")]}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Train", "train"),
        ("training", "train"),
        ("TESTING", "test"),
        ("Valid", "validation"),
        ("validation", "validation"),
        ("seg_train", None),
        ("invalid", None),
        ("cat", None),
    ],
)
def test_a_folder_is_a_part_by_its_whole_name(name: str, role: str | None) -> None:
    assert role_of(name) == role


def test_where_all_are_for_testing_they_are_the_training_files(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [Path("test_0.tar"), Path("test_1.tar")]
    with caplog.at_level(logging.WARNING):
        assert split_files(files) == {"train": files}
    assert "no training files beside it" in caplog.text
    with pytest.raises(BadInput, match="no training part, only test and validation"):
        split_files([Path("test.tar"), Path("val.tar")])


def test_the_folder_of_a_file_counts_where_its_name_says_nothing() -> None:
    hub = [Path(f"plain_text/{part}/0000.parquet") for part in ("train", "test")]
    expected = {"train": [hub[0]], "test": [hub[1]]}
    assert split_files(hub) == expected
    assert split_files(hub, Path("plain_text")) == expected
    assert split_files(hub, Path()) == expected


def test_files_of_two_data_sets_are_not_joined() -> None:
    root = Path("hub")
    files = [
        root / name / part / "0.tar" for name in ("fine", "coarse") for part in ("train", "val")
    ]
    with pytest.raises(
        BadInput, match=r"hub: files of more than one data set, such as .*fine/train"
    ):
        split_files(files, root)
