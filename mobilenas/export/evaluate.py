"""Accuracy on images of a saved network (torch) or of an exported file (its runtime), on CPUs."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.intervals import wilson
from mobilenas.data import ImageData, Part, Preparation, read_data
from mobilenas.data.images import relabelled
from mobilenas.data.pixels import short_side
from mobilenas.export.classifier import Classifier, open_classifier
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Floats, Labels

log = logging.getLogger(__name__)

ClassesBy = Literal["name", "position"]

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Shares (0..1) of right images with their 95 % intervals (Wilson 1927).

    runtime: torch or one of `RUNTIMES`. images: what they are, in words; short_side: their
    preparation. top5: None where there are no more than five classes. data: what was found in
    the data, as `Found.to_dict` has it, and classes_by: what told which class is which of them.
    """

    network: str
    runtime: str
    images: str
    n: int
    resolution: int
    short_side: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    data: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def evaluate(path: Path, source: str) -> Evaluation:
    """Top-1 and top-5 of a network on the images that `source` names, as `read_data` reads them.

    path: a saved network (folder or .safetensors file), or the main file of `export_network`. The
    images are those of the test part, all where there is none. Raises BadInput naming what is
    missing, damaged or does not fit.
    """
    network = open_classifier(path)
    data, classes_by = load_images(source, network.resolution, network.info)
    images, words = evaluation_images(data)
    top1, top5 = ranked_right(all_logits(network, images), images.labels)
    n = len(images.labels)
    few = len(network.info.classes) <= 5
    return Evaluation(
        network=str(path),
        runtime=network.runtime,
        images=words,
        n=n,
        resolution=network.resolution,
        short_side=short_side(network.resolution, network.info.crop),
        top1=top1 / n,
        top1_interval=wilson(top1, n),
        top5=None if few else top5 / n,
        top5_interval=None if few else wilson(top5, n),
        data=data.found.to_dict() | {"classes_by": classes_by},
    )


def load_images(source: str, resolution: int, info: NetworkInfo) -> tuple[ImageData, ClassesBy]:
    """Images prepared for a network, with labels in the order of its classes; and what told that.

    Classes of the same names are told by these, in whatever order. Where no name is the same, as of
    WordNet numbers and words, the order counts. Raises BadInput as `read_data` does, where some
    names are the same and others not, and where the number of classes is another one.
    """
    data = read_data(source, resolution, info.crop)
    theirs, ours = data.classes, info.classes
    if len(theirs) != len(ours):
        raise BadInput(f"{source} has {len(theirs)} classes; the network has {len(ours)}")
    if theirs == ours:
        return data, "name"
    if set(theirs) == set(ours):
        if len(set(ours)) < len(ours):  # as the two cranes of ImageNet
            raise BadInput(
                f"{source}: its classes are those of the network in another order, and "
                "two have the same name"
            )
        numbers = np.array([ours.index(name) for name in theirs])
        train, test = relabelled(data.train, numbers), data.test
        test = test and relabelled(test, numbers)
        return replace(data, classes=ours, train=train, test=test), "name"
    if set(theirs) & set(ours):
        odd, lacking = min({*theirs} - {*ours}), min({*ours} - {*theirs})
        raise BadInput(
            f"{source}: class {odd!r} is none of the network, which has {lacking!r} among others; "
            "all names must be the same, or none"
        )
    unnamed = tuple(map(str, range(len(ours))))
    if unnamed not in (theirs, ours):
        log.warning(
            "%s: class names are not those of the network (%s, not %s); their order counts",
            *(source, theirs[0], ours[0]),
        )
    return data, "position"


def evaluation_images(data: ImageData) -> tuple[Part, str]:
    """The images to evaluate a network on, and what they are in words."""
    if data.test is not None:
        return data.test, f"{len(data.test)} test images"
    return data.train, f"all {len(data.train)} images, as there is no test part"


def all_logits(network: Classifier, images: Part) -> Floats:
    """Logits (N, classes) of all images, prepared as the network says. Raises BadInput for an image
    that is damaged, and for logits that are not finite.
    """
    info = network.info
    preparation = Preparation(network.resolution, info.mean, info.std, info.crop)
    batches = np.split(np.arange(len(images)), range(_BATCH, len(images), _BATCH))
    pixels = (preparation.centres(images, rows)[0].numpy() for rows in batches)
    logits = np.concatenate([network.logits(batch) for batch in pixels])
    if not np.isfinite(logits).all():
        raise BadInput("the network gives logits that are not finite: its weights are damaged")
    return logits


def ranked_right(logits: Floats, labels: Labels) -> tuple[int, int]:
    """Numbers of images whose label is the first, and among the first five, of logits (N, classes).

    Of equal logits the first counts as the larger one.
    """
    hits = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]
    return int(hits[:, 0].sum()), int(hits.any(axis=1).sum())
