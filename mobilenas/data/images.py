"""Labelled images: decoded in memory, or encoded on disk and read when they are needed."""

import copy
import io
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mobilenas.base.errors import BadInput, one_line
from mobilenas.data.found import Found
from mobilenas.data.order import Blocks

Channels = tuple[float, float, float]
_LONGEST = 64  # times the short side that is kept of an image
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
        """The image, RGB, upright, at its own size. Raises BadInput naming one that is damaged."""
        return decode_stored(self.name(index), self.read(index))[0]


class ChosenImages(EncodedImages):
    """Those `rows` (sorted) of a part, in their order."""

    def __init__(self, part: EncodedImages, rows: npt.NDArray[np.int64]) -> None:
        self.labels = part.labels[rows]
        self._part = part
        self._rows = rows
        if part.blocks is not None:
            starts = np.searchsorted(rows, part.blocks.starts)
            there = np.diff(starts, append=len(rows)) > 0
            self.blocks = Blocks(starts[there], part.blocks.sizes[there])

    def name(self, index: int) -> str:
        return self._part.name(self._rows[index])

    def read(self, index: int) -> Encoded:
        return self._part.read(self._rows[index])


Part = Images | EncodedImages


def relabelled(part: Part, numbers: npt.NDArray[np.int64]) -> Part:
    """The same images; numbers: (classes,), the new label of each old one."""
    if isinstance(part, Images):
        return replace(part, labels=numbers[part.labels])
    part = copy.copy(part)
    part.labels = numbers[part.labels]
    return part


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: both parts in memory, or both on disk.

    mean, std: per channel, in units of 0..1; of `train`, or ImageNet's where no image was read.
    found: what was found in the source.
    """

    name: str
    train: Part
    test: Part | None  # never used for selection
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    found: Found


def decode(name: str, encoded: Encoded) -> Image.Image:
    """An RGB image, upright. Raises BadInput with this name where it is damaged or missing."""
    return decode_upright(name, encoded)[0]


def decode_stored(name: str, encoded: Encoded) -> tuple[Image.Image, bool]:
    """`decode_upright` of an image of a data set: what BadInput says tells how to go on."""
    try:
        return decode_upright(name, encoded)
    except BadInput as error:
        raise BadInput(
            f'{error}; put a whole image there, or leave such images out: --data "...;damaged=skip"'
        ) from error


def decode_upright(name: str, encoded: Encoded) -> tuple[Image.Image, bool]:
    """An RGB image, and whether it had to be turned or mirrored, as the EXIF orientation of photos
    says. Of one that is more than 64 times as long as wide it is the middle, as scaling it would
    take any amount of memory. Raises BadInput with this name where it is damaged or missing.
    """
    if encoded is None:
        raise BadInput(f"{name}: no image bytes; every row needs an image")
    try:
        opened = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
        with opened, Image.open(opened, formats=_formats(opened)) as image:
            # convert("RGB") would clip these to white, and Pillow halves 16 bits of a colour.
            deep = re.search(r"\w+;16\w*", f"{image.mode} {image.tile}")
            if deep or image.mode[0] in "IF":
                kind = deep[0] if deep else image.mode
                raise ValueError(f"pixels of type {kind}; there must be 8 bits a channel")
            rgb = _middle(image).convert("RGB")
            turned = _is_turned(image)
            return (ImageOps.exif_transpose(rgb) if turned else rgb), turned
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise BadInput(f"{name}: cannot read the image ({reason})") from error


def _middle(image: Image.Image) -> Image.Image:
    most = _LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = (max(0, side - most) // 2 for side in image.size)
    width, height = (min(side, most) for side in image.size)
    return image.crop((left, top, left + width, top + height))


def _formats(file: BinaryIO) -> tuple[str, ...] | None:
    """The format of a WebP file, None for others. Pillow tries all that it knows one by one, WebP
    after most, which takes longer than to decode a small image.
    """
    head = file.read(12)
    file.seek(0)
    return ("WEBP",) if head.startswith(b"RIFF") and head.endswith(b"WEBP") else None


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # of a damaged EXIF block: the pixels are whole
        return False
