"""From images to arrays of one size: decode, scale, crop; and their mean and std."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data.images import Channels, Encoded, EncodedImages, decode

logger = logging.getLogger(__name__)

BLOCK = 1024  # images that are held encoded at a time
TASK = 16  # images that a thread decodes in one go: one at a time is slower for small images


def short_side(resolution: int, crop: float) -> int:
    """Pixels of an image's short side before the share `crop` of it is cut out."""
    return round(resolution / crop)


def decode_all(part: EncodedImages, resolution: int, crop: float = 1.0) -> npt.NDArray[np.uint8]:
    """The images of a part, (N, resolution, resolution, 3); BadInput names one that is damaged."""
    pixels = np.empty((len(part), resolution, resolution, 3), dtype=np.uint8)

    def fill(task: list[tuple[int, Encoded]]) -> None:
        for index, encoded in task:
            pixels[index] = _fit(decode(part.name(index), encoded), resolution, crop)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(part), BLOCK):
            block = [(i, part.read(i)) for i in range(start, min(start + BLOCK, len(part)))]
            tasks = [block[i : i + TASK] for i in range(0, len(block), TASK)]
            list(pool.map(fill, tasks))  # raises the error of the first bad image
    return pixels


def _fit(image: Image.Image, resolution: int, crop: float) -> npt.NDArray[np.uint8]:
    # Rounded as torchvision's Resize and CenterCrop do, so that the pixels are the same.
    short = short_side(resolution, crop)
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
