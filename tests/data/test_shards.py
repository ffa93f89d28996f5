"""Which files of a folder are the test part."""

from pathlib import Path

import pytest

from mobilenas.data.shards import split_files

TRAIN = Path("train-0.parquet")


@pytest.mark.parametrize(
    "name",
    [
        "cifar10-test.parquet",
        "test-00000-of-00001.parquet",
        "validation-0001.tar",
        "val_00.tar",
        "pets.VAL.tar",
        "Testing2.parquet",
        "a-tests.tar",
        "valid.tar",
    ],
)
def test_a_word_marks_test_files(name: str) -> None:
    assert split_files([TRAIN, Path(name)]) == ([TRAIN], [Path(name)])


@pytest.mark.parametrize(
    "name",
    ["valley.parquet", "data_testimonials.tar", "valérie.tar", "contest-0.tar", "values-0.parquet"],
)
def test_longer_words_do_not(name: str) -> None:
    assert split_files([TRAIN, Path(name)]) == ([TRAIN, Path(name)], [])
