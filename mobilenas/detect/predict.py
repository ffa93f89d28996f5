"""A trained detector at work: what it finds in images, and its export."""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.apis import inference_detector, init_detector
from mmdet.models import BaseDetector
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_atomic
from mobilenas.data.images import decode
from mobilenas.detect.build import input_size, quiet
from mobilenas.detect.detector import Detector, DetectRun, check_trained
from mobilenas.detect.export import DetectorReport, export_detector

_LEGIBLE = 480  # pixels that the longer side of a drawing has at least
_FONT_SIZE = 14
_VERIFY_IMAGES = 4
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def predict(
    run: Detector, images: Sequence[Path], out: Path, min_score: float
) -> list[dict[str, Any]]:
    """Draw the boxes of at least that score on each image, as PNG files in `out`, small images
    enlarged.

    Photos are turned upright first, as their EXIF orientation says and as training sees them.
    Returns a row an image: image, drawn (the file), boxes: class, score, box (left, top, right,
    bottom, in pixels), best first. Raises BadInput for a file that is no image, for two of one
    name, and where a drawing would replace one of the images.
    """
    targets = [out / f"{path.stem}.png" for path in images]
    if len(set(targets)) < len(targets):
        raise BadInput("images of one name would be drawn into one file: give them one by one")
    own = {path.resolve() for path in images}
    for target in targets:
        if target.resolve() in own:
            raise BadInput(f"{target} is one of the images: choose another --out for the drawings")
    pictures = [_picture(str(path), path) for path in images]
    detector = load_detector(run)
    rows = []
    for path, picture, target in zip(images, pictures, targets, strict=True):
        with quiet(run.folder.path):
            found = inference_detector(detector, np.asarray(picture)[..., ::-1])
        boxes = _boxes(found.pred_instances, run.classes, min_score)
        scale = -(-_LEGIBLE // max(picture.size))
        write_atomic(target, partial(draw(picture, boxes, scale).save, format="PNG"))
        rows.append({"image": str(path), "drawn": str(target), "boxes": boxes})
    return rows


def export_run(run: DetectRun, path: Path) -> DetectorReport:
    """Write the raw heads as ONNX, for one image of the size that the detector is tested on.

    Some of the validation images prove the file. Raises BadInput and VerificationFailed as
    `export_detector` does.
    """
    folder = run.data.val.images
    names = [
        image["file_name"] for image in read_json(run.data.val.annotations, "images")["images"]
    ]
    height, width = input_size(run.config)
    images = np.zeros((min(_VERIFY_IMAGES, len(names)), height, width, 3), dtype=np.uint8)
    for image, name in zip(images, names, strict=False):
        # Fitted in and padded at the right and below, as most detectors see images.
        fitted = ImageOps.contain(_picture(name, folder / name), (width, height))
        image[: fitted.height, : fitted.width] = np.asarray(fitted)
    detector, classes = load_detector(run), list(run.classes)
    with quiet(run.folder.path):
        return export_detector(detector, run.config, classes, path, images)


def load_detector(run: Detector) -> BaseDetector:
    """The detector of a run with the weights of its checkpoint, on the CPU, in eval mode.

    Raises BadInput where there is no checkpoint.
    """
    check_trained(run)
    with quiet(run.folder.path):
        config = copy.deepcopy(run.config)
        return init_detector(config, str(run.checkpoint), palette="none", device="cpu")


def draw(picture: Image.Image, boxes: Sequence[dict[str, Any]], scale: int = 1) -> Image.Image:
    """A copy of a picture, enlarged, with the boxes of `predict` on it, a colour a class."""
    drawn = picture.resize((scale * picture.width, scale * picture.height))
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(_FONT_SIZE)
    names = sorted({box["class"] for box in boxes})
    for box in reversed(boxes):  # the best on top
        colour = _COLOURS[names.index(box["class"]) % len(_COLOURS)]
        corners = [scale * side for side in box["box"]]
        left, top, _, _ = corners
        pen.rectangle(corners, outline=colour, width=2)
        text = f"{box['class']} {100 * box['score']:.0f} %"
        above = (left, max(0, top - _FONT_SIZE - 2))
        pen.rectangle(pen.textbbox(above, text, font), fill=colour)
        pen.text(above, text, "white", font)
    return drawn


def _picture(name: str, path: Path) -> Image.Image:
    return ImageOps.exif_transpose(decode(name, path))


def _boxes(found: Any, classes: Sequence[str], min_score: float) -> list[dict[str, Any]]:
    rows = [
        {"class": classes[label], "score": score, "box": box}
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
        )
        if score >= min_score
    ]
    return sorted(rows, key=lambda row: -row["score"])
