"""Detectors fine-tuned on a small part of COCO: from ImageNet weights against from nothing.

First on 16 training images from the pretrained network: can the detector learn them? Then on all
training images, from the pretrained network and from the same arch with fresh weights, for as many
epochs; average precisions on these and on the validation images. Runs continue where they stopped.

    python benchmarks/detection.py --weights NETWORK --data COCO --out runs/detection
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import PathOption, Table
from trainings import finished, space_file

from mobilenas.base.files import read_json, write_json
from mobilenas.data.coco import CocoData, read_coco
from mobilenas.detect.config import set_data
from mobilenas.detect.detector import DetectRun, open_detect_run
from mobilenas.detect.runner import evaluate_detector
from mobilenas.nn.saved import load_network

PRECISIONS = ("AP50", "AP", "AP50, val", "AP, val")


def main(
    weights: PathOption,
    data: PathOption,
    recipes: str = "retinanet_quick,ssdlite_quick",
    few: int = 16,
    few_epochs: int = 100,
    epochs: int = 20,
    seed: int = 0,
    out: Path = Path("runs/detection"),
) -> Iterator[Table]:
    """Detectors from a saved network and from nothing, on data in COCO format."""
    network, _ = load_network(weights)
    space = space_file(network.space, out / "space.yaml").resolve()
    starts: dict[str, dict[str, Any]] = {
        "pretrained": {"weights": weights},
        "fresh": {"space": space, "arch": network.arch},
    }
    part = first_images(data, few, out / "few")
    rows = []
    for recipe in recipes.split(","):
        for start, images, count in (
            ("pretrained", part, few_epochs),
            ("pretrained", data, epochs),
            ("fresh", data, epochs),
        ):
            folder = out / f"{recipe}-{images.name}-{start}"
            options = [f"train_cfg.{key}={count}" for key in ("max_epochs", "val_interval")]
            flags: dict[str, Any] = {
                "data": images,
                "seed": seed,
                "cfg_options": options,
                **starts[start],
            }
            unseen = finished(folder, f"detect train {recipe}", **flags)
            run = open_detect_run(folder)
            row = {"detector": recipe, "start": start, "epochs": count}
            rows.append(row | facts(run, unseen if images == data else None))
    yield Table(rows, {"minutes": ".1f", "loss": ".2f"} | dict.fromkeys(PRECISIONS, ".1%"))


def facts(run: DetectRun, unseen: dict[str, Any] | None) -> dict[str, Any]:
    """What a finished run came to. unseen: precisions on validation images that are others."""
    seen, part = run.folder.path / "seen.json", run.data.train
    if not seen.exists():  # training images treated as validation images
        set_data(run.config, CocoData(part, part, run.classes))
        write_json(seen, evaluate_detector(run))
    precisions = [read_json(seen), unseen or {}]
    logs = sorted((run.folder.path / "mmengine").glob("*/*.log"))
    losses = [float(x) for log in logs for x in re.findall(r" loss: ([\d.]+)", log.read_text())]
    return {
        "images": len(read_json(part.annotations)["images"]),
        "minutes": run.folder.seconds / 60,
        "loss": np.mean(losses[-10:]),
        **dict(
            zip(PRECISIONS, (x.get(k) for x in precisions for k in ("AP50", "AP")), strict=True)
        ),
    }


def first_images(data: Path, count: int, folder: Path) -> Path:
    """A data set of the first training images that have boxes, for training and validation."""
    part = read_coco(data).train
    whole = json.loads(part.annotations.read_text())
    boxed = {box["image_id"] for box in whole["annotations"]}
    images = [image for image in whole["images"] if image["id"] in boxed][:count]
    kept = {image["id"] for image in images}
    boxes = [box for box in whole["annotations"] if box["image_id"] in kept]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.json", "val.json"):
        write_json(folder / name, whole | {"images": images, "annotations": boxes})
    link = folder / "images"
    if not link.exists():
        link.symlink_to(part.images.resolve(), target_is_directory=True)
    return folder


if __name__ == "__main__":
    harness.main(main)
