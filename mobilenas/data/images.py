"""Labelled images: decoded in memory, or encoded on disk and read when they are needed."""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mobilenas.base.errors import BadInput, one_line
from mobilenas.data.order import Blocks

Channels = tuple[float, float, float]
Encoded = Path | bytes | None  # an image file, its bytes, or a parquet row without an image


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images and their classes, in the order of the source."""

    pixels: npt.NDArray[np.uint8]  # (N, H, W, 3), RGB
    labels: npt.NDArray[np.int64]  # (N,), in 0..classes - 1

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The image, RGB."""
        return Image.fromarray(self.pixels[index])


class EncodedImages(ABC):
    """Labelled images of which only the index is in memory; each is read when it is needed.

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


Part = Images | EncodedImages
Indexed = tuple[tuple[str, ...], EncodedImages, EncodedImages | None]  # classes, train, test


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: both parts in memory, or both on disk.

    mean, std: per channel, in units of 0..1; of `train`, or ImageNet's where no image was read.
    """

    name: str
    train: Part
    test: Part | None  # never used for selection
    classes: tuple[str, ...]
    mean: Channels
    std: Channels


def decode(name: str, encoded: Encoded) -> Image.Image:
    """An RGB image. Raises BadInput with this name where it is damaged or missing."""
    if encoded is None:
        raise BadInput(f"{name}: no image bytes; every row needs an image")
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if image.mode[0] in "IF":  # convert("RGB") would clip these to white
                raise ValueError(f"pixels of type {image.mode}; there must be 8 bits a channel")
            return image.convert("RGB")
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise BadInput(f"{name}: cannot read the image ({reason})") from error
