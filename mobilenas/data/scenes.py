"""Built-in detection data: scenes of scikit-learn's digits on clutter, in COCO format."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mobilenas.base.files import write_atomic, write_json
from mobilenas.data.images import Images
from mobilenas.data.sources import load_data

SIDE = 160  # pixels of a scene
DIGIT_SIDES = (20, 64)  # pixels, of the 8x8 image whose ink is the digit
MOST_DIGITS = 5
MOST_COVERED = 0.15  # of the smaller box of any two
_INK = 80  # of 255, from which on a pixel counts as the digit's
_CONTRAST = 90  # of 255, between a digit and what is behind it

_PARTS = ("train", "val")  # their number is part of the seed of a scene

Pixels = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def make_scenes(folder: Path, *, train: int = 500, val: int = 150, seed: int = 0) -> None:
    """Write train.json, val.json and their images train/*.jpg and val/*.jpg, if not there yet.

    A scene has 1 to 5 digits of varied size and colour that hardly cover each other; boxes enclose
    the ink. Scenes of `val` show other handwritten digits than those of `train`: the test part of
    the data `digits`. Each scene is a function of (seed, part, number). The folder appears whole or
    not at all.
    """
    if folder.exists():
        return
    digits = load_data("digits", 8)  # their own size: nothing is scaled yet
    assert isinstance(digits.train, Images)
    assert isinstance(digits.test, Images)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    sizes, images = (train, val), (digits.train, digits.test)
    for part, (name, count, source) in enumerate(zip(_PARTS, sizes, images, strict=True)):
        scenes = (draw_scene(source, np.random.default_rng((seed, part, i))) for i in range(count))
        write_json(temporary / f"{name}.json", _write(temporary / name, scenes, digits.classes))
    temporary.replace(folder)


def draw_scene(
    digits: Images, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, Box]]]:
    """One scene (SIDE, SIDE, 3) of 8x8 digits, and the label and box of each digit in it."""
    pixels = _background(rng)
    placed: list[tuple[int, Box]] = []
    for _ in range(rng.integers(1, MOST_DIGITS + 1)):
        row = int(rng.integers(len(digits)))
        ink = _scaled(digits.pixels[row, :, :, 0], rng)
        for _ in range(20):  # as many places are tried; a digit that fits nowhere is left out
            left, top = (int(rng.integers(0, SIDE - side + 1)) for side in ink.shape[::-1])
            box = (left, top, left + ink.shape[1], top + ink.shape[0])
            if all(_covered(box, other) <= MOST_COVERED for _, other in placed):
                _paint(pixels, ink, box, rng)
                placed.append((int(digits.labels[row]), box))
                break
    noisy = pixels + rng.normal(0, 6, pixels.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8), placed


def _background(rng: np.random.Generator) -> Pixels:
    """A smooth random colour field with random lines, ellipses and rectangles on it."""
    base = rng.uniform(60, 196, 3)

    def colours(*shape: int) -> npt.NDArray[np.uint8]:
        return (base + rng.uniform(-60, 60, (*shape, 3))).astype(np.uint8)

    scene = Image.fromarray(colours(4, 4)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene)
    for _ in range(rng.integers(4, 13)):
        colour = tuple(colours().tolist())
        ends = rng.integers(0, SIDE, (2, 2))
        shape = rng.integers(3)
        if shape == 0:
            draw.line(ends.ravel().tolist(), colour, int(rng.integers(1, 4)))
            continue
        far = ends[0] + rng.integers(5, 50, 2)
        corners = [*ends[0].tolist(), *far.tolist()]
        (draw.ellipse if shape == 1 else draw.rectangle)(corners, colour)
    return np.asarray(scene, dtype=np.float64)


def _scaled(digit: npt.NDArray[np.uint8], rng: np.random.Generator) -> Pixels:
    """The ink (h, w) in 0..1 of an 8x8 digit, enlarged, cut to where there is ink."""
    low, high = np.log(DIGIT_SIDES)
    height = np.exp(rng.uniform(low, high))
    width = height * rng.uniform(0.8, 1.25)
    size = (round(min(width, DIGIT_SIDES[1])), round(height))
    large = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC))
    rows, columns = (np.flatnonzero((large > _INK).any(axis=axis)) for axis in (1, 0))
    cut = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.minimum(cut / 200, 1.0)


def _paint(pixels: Pixels, ink: Pixels, box: Box, rng: np.random.Generator) -> None:
    """Put a digit on a scene, in a colour that can be told from what is behind it."""
    left, top, right, bottom = box
    behind = pixels[top:bottom, left:right]
    grey = behind.mean()
    colour = rng.uniform(0, 255, 3)
    shift = _CONTRAST if grey < 128 else -_CONTRAST
    if abs(colour.mean() - grey) < _CONTRAST:
        colour = np.clip(colour + grey + shift - colour.mean(), 0, 255)
    behind += ink[..., None] * (colour - behind)


def _covered(one: Box, other: Box) -> float:
    """The share of the smaller box that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / min(areas)


def _write(
    folder: Path,
    scenes: Iterator[tuple[npt.NDArray[np.uint8], list[tuple[int, Box]]]],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Write the images of scenes; returns their COCO annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, placed) in enumerate(scenes, start=1):
        name = f"{number:04d}.jpg"
        save = partial(Image.fromarray(pixels).save, format="JPEG", quality=90)
        write_atomic(folder / name, save)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for label, (left, top, right, bottom) in placed:
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
