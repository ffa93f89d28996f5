"""From images to arrays of one size: decode, scale, crop; and their mean and std."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.base.progress import ProgressBar
from mobilenas.data.images import Channels, Encoded, EncodedImages, Images, decode_stored

logger = logging.getLogger(__name__)

BLOCK = 1024  # images that are held encoded at a time
_TOLD = 10  # names of damaged images that are logged
TASK = 16  # images that a thread decodes in one go: one at a time is slower for small images


def short_side(resolution: int, crop: float) -> int:
    """Pixels of an image's short side before the share `crop` of it is cut out."""
    return round(resolution / crop)


@dataclass(frozen=True)
class Decoding:
    """What the decoding of a part showed. damaged: the rows that could not be decoded, sorted;
    turned: how many images were turned upright.
    """

    damaged: list[int]
    turned: int


def decode_all(
    part: EncodedImages, resolution: int, crop: float = 1.0, *, skip: bool = False
) -> tuple[Images, Decoding]:
    """The images of a part, scaled and cropped. skip: without those that are damaged.

    Raises BadInput naming the first that is damaged, or where all are.
    """
    pixels = np.empty((len(part), resolution, resolution, 3), dtype=np.uint8)

    def keep(row: int, image: Image.Image) -> None:
        pixels[row] = _fit(image, resolution, crop)

    decoding = _decode_each(part, np.arange(len(part)), keep, skip)
    if decoding.damaged:
        pixels = np.delete(pixels, decoding.damaged, axis=0)
    return Images(pixels, np.delete(part.labels, decoding.damaged)), decoding


def try_all(
    part: EncodedImages, rows: npt.NDArray[np.int64] | None = None, *, skip: bool = False
) -> Decoding:
    """Decode images (those of `rows`, all if None) to see whether they can be, and keep nothing.

    skip: note those that are damaged. Raises BadInput naming the first one otherwise.
    """
    chosen = np.arange(len(part)) if rows is None else rows
    with ProgressBar("checking images", len(chosen)) as bar:
        return _decode_each(part, chosen, lambda row, image: None, skip, bar)


def _decode_each(
    part: EncodedImages,
    rows: npt.NDArray[np.int64],
    use: Callable[[int, Image.Image], None],
    skip: bool,
    bar: ProgressBar | None = None,
) -> Decoding:
    """Decode with all processors, and use each image."""

    def work(task: list[tuple[int, Encoded]]) -> tuple[list[tuple[int, BadInput]], int]:
        damaged, turned = [], 0
        for row, encoded in task:
            try:
                image, was_turned = decode_stored(part.name(row), encoded)
            except BadInput as error:
                if not skip:
                    raise
                damaged.append((row, error))
                continue
            turned += was_turned
            use(row, image)
        return damaged, turned

    damaged: list[tuple[int, BadInput]] = []
    turned = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(rows), BLOCK):
            block = [(int(row), part.read(int(row))) for row in rows[start : start + BLOCK]]
            tasks = [block[i : i + TASK] for i in range(0, len(block), TASK)]
            for bad, count in pool.map(work, tasks):  # raises the error of the first bad image
                damaged += bad
                turned += count
            if bar:
                bar.advance(len(block))
    for _, error in damaged[:_TOLD]:
        logger.warning("left out: %s", error.__cause__)
    if len(damaged) > _TOLD:
        logger.warning("left out: %d more images that are damaged", len(damaged) - _TOLD)
    if len(damaged) == len(rows):
        raise BadInput(f"{part.name(0)} ...: all {len(rows)} images are damaged")
    return Decoding([row for row, _ in damaged], turned)


def _fit(image: Image.Image, resolution: int, crop: float) -> npt.NDArray[np.uint8]:
    # Rounded as torchvision's Resize and CenterCrop do, so that the pixels are the same.
    short = short_side(resolution, crop)
    if image.size == (short, short) == (resolution, resolution):
        return np.asarray(image)
    width, height = (short * side // min(image.size) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    return np.asarray(scaled.crop((left, top, left + resolution, top + resolution)))


def fit_all(
    pixels: npt.NDArray[np.uint8], resolution: int, crop: float = 1.0
) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3) -> (N, resolution, resolution, 3)."""
    if pixels.shape[1:3] == (resolution, resolution) and short_side(resolution, crop) == resolution:
        return np.ascontiguousarray(pixels)  # torchvision holds CIFAR as a transposed view
    fitted = np.empty((len(pixels), resolution, resolution, 3), dtype=np.uint8)
    for row, image in enumerate(pixels):
        fitted[row] = _fit(Image.fromarray(image), resolution, crop)
    return fitted


def check_memory(source: str, images: int, resolution: int) -> None:
    """Raise BadInput where this many decoded images cannot be held by the machine."""
    # All of the memory, not what is free now: free memory leaves out the page cache, which is
    # large just after the files were copied.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = images * resolution * resolution * 3
    if wanted > memory:
        raise BadInput(
            f"{source}: {images} images of {resolution}x{resolution} pixels take "
            f"{wanted / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB; "
            "use fewer images or a lower resolution"
        )


def channel_statistics(
    pixels: npt.NDArray[np.uint8],
) -> tuple[Channels, Channels]:
    """Mean and population standard deviation per channel of (N, H, W, 3), in units of 0..1."""
    # From counts of the 256 values: exact, whatever the number of images.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        counts = np.zeros(256, dtype=np.int64)
        for image in pixels:  # one by one, as bincount makes its input 8 times larger
            counts += np.bincount(image[:, :, channel].ravel(), minlength=256)
        average = float(counts @ values / counts.sum())
        deviation = float(np.sqrt(counts @ (values - average) ** 2 / counts.sum()))
        if deviation < 1 / 255:
            logger.warning("channel %d hardly varies; its std is taken as 1/255", channel)
        mean.append(average)
        std.append(max(deviation, 1 / 255))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
