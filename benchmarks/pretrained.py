"""Real weights: two published ImageNet networks in torch and in ONNX Runtime, in float and int8.

All are evaluated on 1,000 ImageNet images, one a class.

accuracy  Each is converted, saved, loaded again and exported. An image's short side becomes
          resolution / 0.875, then the centre is cut out. How the long side and the corner of the
          crop are rounded is free, and both ways are shown: `nearest` (long side to the nearest
          pixel, corner down), which the figures known for these files were measured with, and
          `torchvision` (long side down, corner to the nearest pixel), which `mobilenas eval`, timm
          and torchvision have
int8      What each scheme costs in accuracy. Calibrated on the training images of a small COCO
          sample, as there are none of ImageNet here. The scheme is chosen on one random half of the
          images; `chosen` is measured on the other half, which had no part in the choice, the
          schemes on all. The difference to the float model is paired: of the images that only one
          of both has right, with its 95 % interval

    python benchmarks/pretrained.py accuracy --data-root DIR
"""

import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from harness import DataRoot, Table
from PIL import Image

from mobilenas.cost import CostModel
from mobilenas.data import Images, load_data
from mobilenas.data.images import decode
from mobilenas.data.pixels import fit_all, short_side
from mobilenas.export import export_network
from mobilenas.export.deployable import deployable, normalise
from mobilenas.export.evaluate import all_logits, open_classifier, ranked_right
from mobilenas.nn import Network
from mobilenas.nn.published import CROP, convert
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.onnx import to_onnx
from mobilenas.runtimes.quantize import Scheme, logits_of, observe, quantize, quantize_onnx

NETWORKS = ("w0.25-r112", "w0.3-r176")
VERIFIED = 64
SEED = 0
Bools = npt.NDArray[np.bool_]


def published(data_root: Path, name: str) -> tuple[Network, NetworkInfo]:
    """A network with its published weights."""
    start = data_root / "pretrained" / f"proxyless-{name}_imagenet"
    return convert(Path(f"{start}.json"), Path(f"{start}.npz"))


def sample(data_root: Path) -> Path:
    """The file of the 1,000 images."""
    return data_root / "imagenet_1k_sample" / "validation-00000-of-00001.parquet"


def nearest(source: Path, resolution: int) -> Images:
    """The images with the rounding that the known figures were measured with."""
    rows = pq.read_table(source).to_pylist()
    pixels = np.empty((len(rows), resolution, resolution, 3), np.uint8)
    short = short_side(resolution, CROP)
    for row, target in zip(rows, pixels, strict=True):
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        width, height = (round(short * side / min(image.size)) for side in image.size)
        left, top = (width - resolution) // 2, (height - resolution) // 2
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        target[:] = scaled.crop((left, top, left + resolution, top + resolution))
    return Images(pixels, np.array([row["label"] for row in rows]))


def accuracy(data_root: DataRoot) -> Iterator[Table]:
    """Published networks, evaluated and exported."""
    rows = []
    for name in NETWORKS:
        network, info = published(data_root, name)
        costs, resolution = CostModel(network.space), network.space.resolution
        ours = load_data(str(sample(data_root)), resolution, CROP).train
        both = {"nearest": nearest(sample(data_root), resolution), "torchvision": ours}
        with tempfile.TemporaryDirectory() as folder:
            saved, exported = Path(folder) / name, Path(folder) / f"{name}.onnx"
            save_network(network, saved, info)
            export_network(network, info, exported, ours.pixels[:VERIFIED], ours.labels[:VERIFIED])
            for rounding, images in both.items():
                in_torch = all_logits(open_classifier(saved), images)
                for path in (saved, exported):
                    classifier = open_classifier(path)
                    logits = all_logits(classifier, images)
                    top1, top5 = ranked_right(logits, images.labels)
                    row = {
                        "network": name,
                        "params": costs.params(network.arch),
                        "FLOPs": costs.flops(network.arch),
                        "rounding": rounding,
                        "runtime": classifier.runtime,
                        "top-1": top1 / len(logits),
                        "top-5": top5 / len(logits),
                        "difference": np.abs(logits - in_torch).max(),
                    }
                    rows.append(row)
    formats = {"params": ",", "FLOPs": ",", "top-1": ".1%", "top-5": ".1%", "difference": ".1e"}
    yield Table(rows, formats)


def int8(data_root: DataRoot) -> Iterator[Table]:
    """Published networks in int8, by each scheme."""
    formats = {"top-1": ".1%", "MB": ".2f", "same first class": ".1%", "divergence": ".4f"}
    for name in NETWORKS:
        network, info = published(data_root, name)
        size = network.space.resolution
        found = load_data(str(sample(data_root)), size, CROP).train
        images, labels = normalise(found.pixels, info.mean, info.std), found.labels
        photos = sorted((data_root / "coco_mini" / "train2017").glob("*.jpg"))
        fitted = [fit_all(np.asarray(decode(p.name, p))[None], size, CROP) for p in photos]
        calibration = normalise(np.concatenate(fitted), info.mean, info.std)
        model = to_onnx(*deployable(network, info, Form()))
        reference = logits_of(model, images).argmax(axis=1)
        expected = reference == labels
        rows = [figures("float32", model, expected, expected)]
        observed = observe(model, calibration)
        for method in ("minmax", "percentile"):
            for corrected in (False, True):
                quantized = quantize(model, observed, Scheme(method), corrected)
                first = logits_of(quantized, images).argmax(axis=1)
                words = method if corrected else f"{method}, uncorrected"
                rows.append(figures(words, quantized, expected, first == labels))
                rows[-1]["same first class"] = np.mean(first == reference)
        half, other = np.array_split(np.random.default_rng(SEED).permutation(len(images)), 2)
        chosen = quantize_onnx(model, calibration, images[half], labels[half])
        for trial in chosen.trials:
            words = f"{trial.scheme.method}, by the images that decide"
            row = {"scheme": words, "n": len(half), "top-1": trial.accuracy}
            row |= {"same first class": trial.agreement, "divergence": trial.divergence}
            rows.append(row)
        right = logits_of(chosen.model, images[other]).argmax(axis=1) == labels[other]
        words = f"chosen: {chosen.scheme.method}, on the others"
        rows.append(figures(words, chosen.model, expected[other], right))
        yield Table(rows, formats, f"{name}, calibrated on {len(calibration)} images")


def figures(scheme: str, model: bytes, expected: Bools, right: Bools) -> dict[str, Any]:
    """A row. expected, right: the images (N,) that the float model and this one have right."""
    n = len(right)
    lost, won = int((expected & ~right).sum()), int((right & ~expected).sum())
    mean = (won - lost) / n
    spread = 1.96 * math.sqrt(((lost + won) / n - mean**2) / n)
    difference = f"{100 * mean:+.1f} ({100 * (mean - spread):+.1f} .. {100 * (mean + spread):+.1f})"
    return {
        "scheme": scheme,
        "n": n,
        "top-1": right.mean(),
        "difference": difference,
        "lost": lost,
        "won": won,
        "MB": len(model) / 1e6,
    }


if __name__ == "__main__":
    harness.main(accuracy, int8)
