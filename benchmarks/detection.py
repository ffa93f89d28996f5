"""Detectors fine-tuned on a small part of COCO: from ImageNet weights against from nothing.

First on 16 training images from the pretrained network: can the detector learn them? Then on all
training images, from the pretrained network and from the same arch with fresh weights, for as many
epochs; average precisions on these and on the validation images. Runs continue where they stopped.

    python benchmarks/detection.py --weights NETWORK --data COCO --out runs/detection
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.base.files import read_json, write_json
from mobilenas.base.process import tune_process
from mobilenas.data.coco import CocoData, read_coco
from mobilenas.detect.config import set_data
from mobilenas.detect.detector import DetectRun, DetectSettings, create_detect_run, open_detect_run
from mobilenas.detect.runner import evaluate_detector, train_detector
from mobilenas.nn.saved import load_network

FEW = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="saved network")
    parser.add_argument("--data", type=Path, required=True, help="folder in COCO format")
    parser.add_argument("--recipes", nargs="+", default=["retinanet_quick", "ssdlite_quick"])
    parser.add_argument("--few-epochs", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/detection"))
    options = parser.parse_args()
    tune_process()
    few = make_few(options.data, options.out / "few")
    print(
        "| detector | start | images | epochs | minutes | loss | AP50 | AP | AP50, val | AP, val |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for recipe in options.recipes:
        for data, epochs in ((few, options.few_epochs), (options.data, options.epochs)):
            for start, settings in starts(options.weights, options.out):
                if data == few and start != "pretrained":
                    continue
                run = detector(
                    options.out / f"{recipe}-{data.name}-{start}",
                    DetectSettings(
                        config=recipe,
                        data=str(data.resolve()),
                        seed=options.seed,
                        options=(
                            f"train_cfg.max_epochs={epochs}",
                            f"train_cfg.val_interval={epochs}",
                        ),
                        **settings,
                    ),
                )
                held_out = train_detector(run)
                seen = on_training_images(run)
                images = len(json.loads(run.data.train.annotations.read_text())["images"])
                minutes = run.folder.seconds / 60
                cells = [recipe, start, images, epochs, f"{minutes:.1f}", f"{last_loss(run):.2f}"]
                both = [seen] if data == few else [seen, held_out]
                cells += [f"{100 * found[name]:.1f}" for found in both for name in ("AP50", "AP")]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def starts(weights: Path, out: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Names and settings of the two starts: the same arch."""
    network, _ = load_network(weights)
    yield "pretrained", {"weights": str(weights.resolve())}
    space = out.resolve() / "space.yaml"  # JSON is YAML
    write_json(space, network.space.to_dict())
    yield "fresh", {"space": str(space), "arch": str(network.arch)}


def make_few(data: Path, folder: Path) -> Path:
    """A data set of the first FEW training images that have boxes, for training and validation."""
    part = read_coco(data).train
    whole = json.loads(part.annotations.read_text())
    boxed = {box["image_id"] for box in whole["annotations"]}
    images = [image for image in whole["images"] if image["id"] in boxed][:FEW]
    kept = {image["id"] for image in images}
    boxes = [box for box in whole["annotations"] if box["image_id"] in kept]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.json", "val.json"):
        write_json(folder / name, whole | {"images": images, "annotations": boxes})
    link = folder / "images"
    if not link.exists():
        link.symlink_to(part.images.resolve(), target_is_directory=True)
    return folder


def detector(folder: Path, settings: DetectSettings) -> DetectRun:
    """The run in a folder, or a new one."""
    if (folder / "run.json").exists():
        return open_detect_run(folder)
    return create_detect_run(folder, settings)


def on_training_images(run: DetectRun) -> dict[str, Any]:
    """Precisions of a trained run on its own training images, as validation images are treated."""
    path = run.folder.path / "seen.json"
    if not path.exists():
        part = run.data.train
        set_data(run.config, CocoData(part, part, run.classes))
        write_json(path, evaluate_detector(run))
    return dict(read_json(path))


def last_loss(run: DetectRun) -> float:
    """Mean of the last ten losses that mmengine logged."""
    logs = sorted((run.folder.path / "mmengine").glob("*/*.log"))
    losses = [float(x) for log in logs for x in re.findall(r" loss: ([\d.]+)", log.read_text())]
    return float(np.mean(losses[-10:]))


if __name__ == "__main__":
    main()
