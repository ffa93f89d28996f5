"""What parquet files and tar shards share: which are the test part, and the class names."""

import logging
import re
from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import EncodedImages

# Whole words: valley.parquet and testimonials.tar are training files. Numbers may follow: test01.
_TEST = re.compile(
    r"(?:^|[-_. ])(tests?|testing|val|valid|validation|eval)(?![a-z])", re.IGNORECASE
)

logger = logging.getLogger(__name__)


def split_files(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and test files: test is where a word of the name is test, val or the like.

    Where all are so, they are the training files.
    """
    test = [file for file in files if _TEST.search(file.name)]
    if len(test) == len(files):
        logger.warning("%s: no training files beside it, so this is the training part", files[0])
        return files, []
    return [file for file in files if file not in test], test


def name_classes(
    names: tuple[str, ...] | None, train: EncodedImages, test: EncodedImages | None
) -> tuple[str, ...]:
    """The class names, where none are given those of the training labels: 0, 1, ...

    Raises BadInput for a label that has no class.
    """
    # Without class names the training labels have to be 0..K-1 with none left out.
    classes = names or tuple(str(i) for i in range(len(np.unique(train.labels))))
    for part in (train, test) if test else (train,):
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= len(classes)))
        if len(wrong):
            raise BadInput(
                f"{part.name(wrong[0])}: label {part.labels[wrong[0]]} is out of range; "
                f"there are {len(classes)} classes, so it must be 0..{len(classes) - 1}"
            )
    return classes
