"""What parquet files and tar shards share: which are the test part, and the class names."""

import logging
import re
from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import EncodedImages

logger = logging.getLogger(__name__)

# A whole word: valley and testimonials are not test images. [^\W\d_] is a letter of any alphabet.
_TEST_WORD = re.compile(
    r"(^|[-_.])(test|tests|testing|val|valid|validation)(?![^\W\d_])", re.IGNORECASE
)


def split_files(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and test files: test is where the name has the word test, tests, testing, val, valid
    or validation, in any case. Where all have one, they are the training files.
    """
    test = [file for file in files if _TEST_WORD.search(file.stem)]
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
                f"there are {len(classes)} classes, so 0..{len(classes) - 1} is wanted"
            )
    return classes
