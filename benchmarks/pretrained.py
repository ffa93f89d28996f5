"""Real weights: two published ImageNet networks in torch and, exported, in ONNX Runtime.

Each is converted, saved, loaded again and exported; then both are evaluated on 1,000 ImageNet
images, one a class. An image's short side becomes resolution / 0.875, then the centre is cut out.
How the long side and the corner of the crop are rounded is free, and both ways are shown:
`nearest` (long side to the nearest pixel, corner down), which the figures known for these files
were measured with, and `torchvision` (long side down, corner to the nearest pixel), which
`mobilenas eval`, timm and torchvision have.

    python benchmarks/pretrained.py --data-root DIR
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mobilenas.base.process import tune_process
from mobilenas.cost import CostModel
from mobilenas.data import Images, load_data
from mobilenas.data.pixels import short_side
from mobilenas.export import export_network
from mobilenas.export.evaluate import all_logits, open_classifier, ranked_right
from mobilenas.nn.published import CROP, convert
from mobilenas.nn.saved import save_network

NETWORKS = ("w0.25-r112", "w0.3-r176")
VERIFIED = 64


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Published networks, evaluated and exported.")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of real data")
    root = parser.parse_args().data_root
    tune_process()
    sample = root / "imagenet_1k_sample" / "validation-00000-of-00001.parquet"
    print("network     params   FLOPs       rounding     runtime      top-1    top-5    difference")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            config, weights = (
                root / "pretrained" / f"proxyless-{name}_imagenet.{suffix}"
                for suffix in ("json", "npz")
            )
            network, info = convert(config, weights)
            cost_model, resolution = CostModel(network.space), network.space.resolution
            about = f"{cost_model.params(network.arch):,}  {cost_model.flops(network.arch):<10,}"
            saved, exported = Path(folder) / name, Path(folder) / f"{name}.onnx"
            save_network(network, saved, info)
            ours = load_data(str(sample), resolution, CROP).train
            export_network(network, info, exported, ours.pixels[:VERIFIED], ours.labels[:VERIFIED])
            for rounding, images in (
                ("nearest", nearest(sample, resolution)),
                ("torchvision", ours),
            ):
                in_torch = all_logits(open_classifier(saved), images)
                for path in (saved, exported):
                    classifier = open_classifier(path)
                    logits = all_logits(classifier, images)
                    top1, top5 = (
                        right / len(logits) for right in ranked_right(logits, images.labels)
                    )
                    largest = np.abs(logits - in_torch).max()
                    print(
                        f"{name:10}  {about}  {rounding:11}  {classifier.runtime:11}  "
                        f"{100 * top1:.1f} %   {100 * top5:.1f} %   {largest:.1e}"
                    )


if __name__ == "__main__":
    main()
