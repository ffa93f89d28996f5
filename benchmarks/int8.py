"""Int8 of two published ImageNet networks in ONNX Runtime: what each scheme costs in accuracy.

Calibrated on the training images of a small COCO sample, as there are none of ImageNet here. The
scheme is chosen on one random half of 1,000 ImageNet images, one a class; `chosen` is measured on
the other half, which had no part in the choice, the schemes on all. The difference to the float
model is paired: of the images that only one of both has right, with its 95 % interval.

    python benchmarks/int8.py --data-root DIR
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobilenas.base.process import tune_process
from mobilenas.data import load_data
from mobilenas.data.pixels import decode, fit_all
from mobilenas.export.deployable import deployable, normalise
from mobilenas.nn.published import CROP, convert
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.onnx import to_onnx
from mobilenas.runtimes.quantize import Scheme, logits_of, observe, quantize, quantize_onnx

NETWORKS = ("w0.25-r112", "w0.3-r176")
SEED = 0
Bools = npt.NDArray[np.bool_]


def calibration_images(folder: Path, resolution: int) -> npt.NDArray[np.uint8]:
    """All images of a folder, (N, resolution, resolution, 3)."""
    images = (np.asarray(decode(p.name, p))[None] for p in sorted(folder.glob("*.jpg")))
    return np.concatenate([fit_all(image, resolution, CROP) for image in images])


def row(name: str, size: int, expected: Bools, right: Bools, about: str) -> str:
    """One line of the table; expected: images (N,) that the float model has right."""
    n = len(right)
    lost, won = int((expected & ~right).sum()), int((right & ~expected).sum())
    mean = (won - lost) / n
    spread = 1.96 * math.sqrt(((lost + won) / n - mean**2) / n)
    difference = f"{100 * mean:+.1f} ({100 * (mean - spread):+.1f} .. {100 * (mean + spread):+.1f})"
    return (
        f"  {name:23} {n:5} {100 * right.mean():6.1f} %   {difference:22} -{lost} +{won}".ljust(80)
        + f"{size / 1e6:.2f} MB   {about}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Published networks in int8.")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of real data")
    root = parser.parse_args().data_root
    tune_process()
    sample = root / "imagenet_1k_sample" / "validation-00000-of-00001.parquet"
    for name in NETWORKS:
        start = root / "pretrained" / f"proxyless-{name}_imagenet"
        network, info = convert(Path(f"{start}.json"), Path(f"{start}.npz"))
        size = network.space.resolution
        found = load_data(str(sample), size, CROP).train
        images, labels = normalise(found.pixels, info.mean, info.std), found.labels
        pixels = calibration_images(root / "coco_mini" / "train2017", size)
        calibration = normalise(pixels, info.mean, info.std)
        model = to_onnx(*deployable(network, info, Form()))
        reference = logits_of(model, images).argmax(axis=1)
        expected = reference == labels
        started = time.process_time()
        observed = observe(model, calibration)
        seconds = time.process_time() - started
        print(f"{name}: calibrated on {len(calibration)} images in {seconds:.1f} s of CPU")
        print("  scheme                      n    top-1     difference             only one right")
        print(row("float32", len(model), expected, expected, ""))
        for method in ("minmax", "percentile"):
            for corrected in (False, True):
                quantized = quantize(model, observed, Scheme(method), corrected)
                first = logits_of(quantized, images).argmax(axis=1)
                words = method if corrected else f"{method}, uncorrected"
                agreement = f"agreement {100 * (first == reference).mean():.1f} %"
                print(row(words, len(quantized), expected, first == labels, agreement))
        order = np.random.default_rng(SEED).permutation(len(images))
        half, other = np.array_split(order, 2)
        chosen = quantize_onnx(model, calibration, images[half], labels[half])
        right = logits_of(chosen.model, images[other]).argmax(axis=1) == labels[other]
        words = f"chosen: {chosen.scheme.method}"
        print(row(words, len(chosen.model), expected[other], right, "on the other half"))
        for trial in chosen.trials:
            assert trial.accuracy is not None
            print(
                f"    by {len(half)} images, {trial.scheme.method}: divergence "
                f"{trial.divergence:.4f}, agreement {100 * trial.agreement:.1f} %, "
                f"top-1 {100 * trial.accuracy:.1f} % (float {100 * expected[half].mean():.1f} %)"
            )


if __name__ == "__main__":
    main()
