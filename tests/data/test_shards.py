"""Which files beside each other are the test part."""

import logging
from pathlib import Path

import pytest

from mobilenas.data.shards import split_files


@pytest.mark.parametrize(
    "name",
    [
        "cifar10-test.parquet",
        "test-00000-of-00001.parquet",
        "validation-0001.tar",
        "val_00.tar",
        "val00.tar",
        "set.valid.tar",
        "Test.parquet",
        "tests.tar",
        "mine_testing_2.tar",
        "eval.tar",
    ],
)
def test_a_word_of_the_name_says_that_a_file_is_for_testing(name: str) -> None:
    assert split_files([Path(name), Path("train.tar")]) == ([Path("train.tar")], [Path(name)])


@pytest.mark.parametrize(
    "name",
    ["valley.parquet", "data_testimonials.tar", "values-01.tar", "latest.tar", "medieval.tar"],
)
def test_a_longer_word_says_nothing(name: str) -> None:
    files = [Path(name), Path("test.tar")]
    assert split_files(files) == ([Path(name)], [Path("test.tar")])


def test_where_all_are_for_testing_they_are_the_training_files(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [Path("test_0.tar"), Path("test_1.tar")]
    with caplog.at_level(logging.WARNING):
        assert split_files(files) == (files, [])
    assert "no training files beside it" in caplog.text
