"""The parts of a data set, train and test, as they lie on disk; what all file formats share."""

import logging
import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data.order import Blocks
from mobilenas.data.pixels import Encoded, decode

logger = logging.getLogger(__name__)


class EncodedImages(ABC):
    """Labelled images of which only the index is in memory; each is read when it is wanted.

    labels: (N,), in 0..classes - 1. blocks: images that are read together, None where each is
    read alone. No file is held open, so worker processes can share a part, forked or pickled.
    """

    labels: npt.NDArray[np.int64]
    blocks: Blocks | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """What the messages call this image: its file, or file and row or member."""

    @abstractmethod
    def read(self, index: int) -> Encoded:
        """The image as it is stored. Raises BadInput where the file cannot be read."""

    def image(self, index: int) -> Image.Image:
        """The image, RGB, at its own size. Raises BadInput naming one that is damaged."""
        return decode(self.name(index), self.read(index))


Indexed = tuple[tuple[str, ...], EncodedImages, EncodedImages | None]  # classes, train, test


def split_files(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and test files: test is where a word of the name begins with test or val.

    Where all are so, they are the training files.
    """
    test = [file for file in files if re.search(r"(^|[-_.])(test|val)", file.name)]
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
