"""What a trained detector finds in images, as data and drawn on them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.apis import inference_detector, init_detector
from PIL import Image, ImageDraw

from mobilenas.data.pixels import decode
from mobilenas.detect.run import DetectRun, check_trained
from mobilenas.detect.runner import quiet
from mobilenas.files import write_atomic

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def predict(
    run: DetectRun, images: Sequence[Path], out: Path, min_score: float
) -> list[dict[str, Any]]:
    """Draw the boxes of at least that score on each image, as PNG files in `out`.

    Returns a row an image: image, drawn (the file), boxes: class, score, box (left, top, right,
    bottom, in pixels), best first. Raises BadInput for a file that is no image.
    """
    check_trained(run)
    pictures = [decode(str(path), path) for path in images]
    with quiet(run.folder):
        detector = init_detector(run.config, str(run.checkpoint), palette="none", device="cpu")
    rows = []
    for path, picture in zip(images, pictures, strict=True):
        with quiet(run.folder):
            found = inference_detector(detector, np.asarray(picture)[..., ::-1])
        boxes = _boxes(found.pred_instances, run.data.classes, min_score)
        target = out / f"{path.stem}.png"
        write_atomic(target, partial(draw(picture, boxes).save, format="PNG"))
        rows.append({"image": str(path), "drawn": str(target), "boxes": boxes})
    return rows


def draw(picture: Image.Image, boxes: Sequence[dict[str, Any]]) -> Image.Image:
    """A copy of a picture with the boxes of `predict` on it, a colour a class."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    names = sorted({box["class"] for box in boxes})
    for box in reversed(boxes):  # the best on top
        colour = _COLOURS[names.index(box["class"]) % len(_COLOURS)]
        left, top, _, _ = box["box"]
        pen.rectangle(box["box"], outline=colour, width=2)
        text = f"{box['class']} {100 * box['score']:.0f} %"
        place = pen.textbbox((left, max(0, top - 12)), text)
        pen.rectangle(place, fill=colour)
        pen.text(place[:2], text, fill="white")
    return drawn


def _boxes(found: Any, classes: Sequence[str], min_score: float) -> list[dict[str, Any]]:
    rows = [
        {"class": classes[label], "score": score, "box": box}
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
        )
        if score >= min_score
    ]
    return sorted(rows, key=lambda row: -row["score"])
