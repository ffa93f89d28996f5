"""A trained detector at work: what it finds in images, and its export."""

import copy
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.apis import inference_detector, init_detector
from mmdet.models import BaseDetector
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_atomic
from mobilenas.data.coco import read_image
from mobilenas.data.listing import SUFFIXES, scan
from mobilenas.detect.build import check_size, input_size, quiet
from mobilenas.detect.checkpoint import check_weights
from mobilenas.detect.detector import Detector, DetectRun, check_trained
from mobilenas.detect.export import DetectorReport, export_detector

log = logging.getLogger(__name__)

_LEGIBLE = 480  # pixels that the longer side of a drawing has at least
_FONT_SIZE = 14
_VERIFY_IMAGES = 4
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def list_images(given: Sequence[Path], out: Path) -> tuple[list[Path], dict[str, Any]]:
    """The image files that are given, and those in folders that are given, at any depth; of a
    folder that holds `out`, where drawings go, without these.

    Returns also how many, and how many files of folders are left out, as `data.listing.scan` does,
    or because they are no images. Raises BadInput for a folder without images.
    """
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for place in given:
        if not place.is_dir():
            files.append(place)
            continue
        folder = scan(place, left_out)
        everything, target = folder.images(), out.resolve()
        found = everything
        if place.resolve() in target.parents:
            found = [path for path in everything if target not in path.resolve().parents]
        left_out["images in --out"] += len(everything) - len(found)
        if not found:
            raise BadInput(f"{place}: no images in this folder ({', '.join(SUFFIXES)})")
        left_out["other files"] += sum(1 for _ in folder.walk()) - len(everything)
        files += found
    return files, {"images": len(files), "left_out": dict(+left_out)}


def predict(
    run: Detector, images: Sequence[Path], out: Path, min_score: float
) -> list[dict[str, Any]]:
    """Draw the boxes of at least that score on each image, as PNG files in `out`, small images
    enlarged.

    Images are read as for training, so photos are turned upright first. Returns a row an image:
    image, drawn (the file), boxes: class, score, box (left, top, right, bottom, in pixels), best
    first. Raises BadInput for a file that is no image, and where a drawing would replace one of the
    images.
    """
    targets = drawings(images, out)
    own = {path.resolve() for path in images}
    for target in targets:
        if target.resolve() in own:
            raise BadInput(f"{target} is one of the images: choose another --out for the drawings")
    for path in images:  # of which all are sound, before the first is drawn
        height, width, _ = read_image(str(path), path).shape
        check_size(run.config, path, width, height)
    if replaced := sum(target.exists() for target in targets):
        log.info("drawings of before that are replaced: %d", replaced)
    detector = load_detector(run)
    rows = []
    for path, target in zip(images, targets, strict=True):
        pixels = read_image(str(path), path)
        with quiet(run.folder.path):
            found = inference_detector(detector, pixels[..., ::-1])
        boxes = _boxes(found.pred_instances, run.classes, min_score)
        picture = Image.fromarray(pixels)
        scale = -(-_LEGIBLE // max(picture.size))
        write_atomic(target, partial(draw(picture, boxes, scale).save, format="PNG"))
        rows.append({"image": str(path), "drawn": str(target), "boxes": boxes})
    return rows


def drawings(images: Sequence[Path], out: Path) -> list[Path]:
    """A PNG file in `out` for each image, of its name. Where two have one name all are of their
    places below the folder that holds them all. Raises BadInput for an image given twice.
    """
    if len({path.stem for path in images}) == len(images):
        return [out / f"{path.stem}.png" for path in images]
    places = [Path(os.path.normpath(path.absolute())) for path in images]
    for place, count in Counter(places).items():
        if count > 1:
            raise BadInput(f"{place} is given more than once")
    common = os.path.commonpath([place.parent for place in places])
    return [out / place.parent.relative_to(common) / f"{place.name}.png" for place in places]


def export_run(run: DetectRun, path: Path) -> DetectorReport:
    """Write the raw heads as ONNX, for one image of the size that the detector is tested on.

    Some of the validation images prove the file. Raises BadInput and VerificationFailed as
    `export_detector` does.
    """
    folder = run.data.val.images
    names = [image.name for image in run.data.content[1].images]
    height, width = input_size(run.config)
    images = np.zeros((min(_VERIFY_IMAGES, len(names)), height, width, 3), dtype=np.uint8)
    for image, name in zip(images, names, strict=False):
        # Fitted in and padded at the right and below, as most detectors see images.
        picture = Image.fromarray(read_image(name, folder / name))
        fitted = ImageOps.contain(picture, (width, height))
        image[: fitted.height, : fitted.width] = np.asarray(fitted)
    detector, classes = load_detector(run), list(run.classes)
    with quiet(run.folder.path):
        return export_detector(detector, run.config, classes, path, images)


def load_detector(run: Detector) -> BaseDetector:
    """The detector of a run with the weights of its checkpoint, on the CPU, in eval mode.

    Raises BadInput where there is no checkpoint, or one of another detector.
    """
    check_trained(run)
    with quiet(run.folder.path):
        config = copy.deepcopy(run.config)
        detector = init_detector(config, str(run.checkpoint), palette="none", device="cpu")
    check_weights(run.checkpoint, detector)
    return detector


def draw(picture: Image.Image, boxes: Sequence[dict[str, Any]], scale: int = 1) -> Image.Image:
    """A copy of a picture, enlarged, with the boxes of `predict` on it, a colour a class.

    No label hides another: where two would, that of the lower score stands below.
    """
    drawn = picture.resize((scale * picture.width, scale * picture.height))
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(_FONT_SIZE)
    names = sorted({box["class"] for box in boxes})
    labels: list[tuple[float, float, float, float]] = []
    for box in boxes:
        left, top = scale * box["box"][0], scale * box["box"][1]
        room = drawn.width - pen.textlength(_text(box), font)
        place = (max(0, min(left, room)), max(0, top - _FONT_SIZE - 2))
        label = pen.textbbox(place, _text(box), font)
        while any(_overlap(label, other) for other in labels):
            place = (place[0], place[1] + _FONT_SIZE + 2)
            label = pen.textbbox(place, _text(box), font)
        labels.append(label)
    colours = [_COLOURS[names.index(box["class"]) % len(_COLOURS)] for box in boxes]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):  # the best on top
        pen.rectangle([scale * side for side in box["box"]], outline=colour, width=2)
    for box, colour, label in zip(boxes, colours, labels, strict=True):
        pen.rectangle(label, fill=colour)
        pen.text(label[:2], _text(box), "white", font, anchor="lt")
    return drawn


def _text(box: dict[str, Any]) -> str:
    return f"{box['class']}: {100 * box['score']:.0f} %"


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than an edge."""
    return all(one[side] < other[side + 2] and other[side] < one[side + 2] for side in (0, 1))


def _boxes(found: Any, classes: Sequence[str], min_score: float) -> list[dict[str, Any]]:
    rows = [
        {"class": classes[label], "score": score, "box": box}
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
        )
        if score >= min_score
    ]
    return sorted(rows, key=lambda row: -row["score"])
