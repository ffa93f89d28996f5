"""What networks are as files of each runtime: size, latency, memory, and how far from torch.

FairNAS-A (Chu et al. 2021), MobileNetV2 1.0 (Sandler et al. 2018) and two archs of several paths
drawn from the space s2, all at 224 px with 1,000 classes and random weights; batch norm statistics
are those of images, so that outputs are of a usual size. Each is exported for ONNX Runtime and
ExecuTorch, fp32 and int8. Beside them: timm's mobilenetv2_100 by timm's own export, the measure of
all others. All are timed in one interleaved run, as `mobilenas bench` does.

Files that are in OUT are not made again.

    python benchmarks/deploy.py --data IMAGES --out runs/deploy
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import timm
import torch
from harness import Data, Table
from timm.utils.onnx import onnx_export
from torch import nn

from mobilenas.base.files import write_atomic, write_json
from mobilenas.cost import CostModel
from mobilenas.data import Images, load_data
from mobilenas.export.deployable import deployable, normalise
from mobilenas.export.evaluate import all_logits, open_classifier
from mobilenas.export.write import metadata_of
from mobilenas.latency.bench import bench_files
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Choice, Feed, Form, silence
from mobilenas.runtimes.onnx import with_metadata
from mobilenas.runtimes.registry import make_runtime
from mobilenas.space import Arch, Space, load_space
from mobilenas.space.published import PUBLISHED

TIMM = "mobilenetv2_100"
INFO = NetworkInfo(
    classes=tuple(map(str, range(1000))), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
STATISTICS = 32  # images
SHARES = (64, 64, 200)  # images for the ranges of int8, to choose its scheme by, to compare logits
FORMATS = {
    "MFLOPs": ".0f",
    "MB": ".1f",
    "memory MB": ".0f",
    "ms": ".2f",
    "±": ".2f",
    "ms/GMAC": ".1f",
    "to timm's": ".2f",
    "cosine": ".4f",
    "largest difference": ".1e",
    "same top-1": ".1%",
}


def main(data: Data, out: Path = Path("runs/deploy"), rounds: int = 40) -> Iterator[Table]:
    """Networks as files of each runtime."""
    out.mkdir(parents=True, exist_ok=True)
    images = load_data(data, 224, INFO.crop).train
    inputs = torch.from_numpy(inputs_of(images.pixels[:STATISTICS]))
    ranges, chosen_by, compared = np.split(np.arange(sum(SHARES)), np.cumsum(SHARES[:-1]))
    choice = Choice(inputs_of(images.pixels[chosen_by]), images.labels[chosen_by])
    feed = Feed(inputs_of(images.pixels[ranges]), choice)
    others = Images(images.pixels[compared], images.labels[compared])
    of_timms = timm_file(out / f"timm-{TIMM}.onnx", inputs)
    files: dict[Path, tuple[str, str, dict[str, float]]] = {
        of_timms: (f"timm's {TIMM}", "fp32", {})
    }
    for title, (space, arch) in archs().items():
        network = Network(space, arch, generator=torch.Generator().manual_seed(0))
        seed_statistics(network, inputs)
        for runtime in ("onnxruntime", "executorch"):
            for dtype in ("fp32", "int8"):
                stem = out / title.replace(" ", "-")
                path = exported(network, runtime, dtype, feed if dtype == "int8" else None, stem)
                files[path] = (title, dtype, difference(network, path, others))
    result = bench_files(list(files), threads=1, rounds=rounds)
    mobilenet = load_space(PUBLISHED[TIMM][0])  # timm's network has the FLOPs of ours
    of_timm = CostModel(mobilenet).flops(mobilenet.parse(PUBLISHED[TIMM][1]))
    rows = []
    for bench in result.files:
        flops = bench.flops or of_timm
        title, dtype, parity = files[Path(bench.path)]
        row = {
            "network": title,
            "MFLOPs": flops / 1e6,
            "runtime": bench.runtime,
            "dtype": dtype,
            "MB": bench.size_bytes / 1e6,
            "memory MB": bench.memory_bytes and bench.memory_bytes / 1e6,
            "ms": bench.ms,
            "±": bench.spread_ms,
            "ms/GMAC": bench.ms / (flops / 1e9),
            "to timm's": bench.ratio * of_timm / flops,
        }
        rows.append(row | parity)
    first = result.first_uncorrected
    title = f"1 thread, batch 1; median and quartile range of {rounds} visits; timm's file in "
    title += f"between: {first.median_ms:.2f} ms ± {first.spread_ms:.2f}"
    yield Table(rows, FORMATS, title)


def archs() -> dict[str, tuple[Space, Arch]]:
    """The networks by the names in the table."""
    found = {}
    for title, name in (("FairNAS-A", "fairnas_a"), ("MobileNetV2", TIMM)):
        space = load_space(PUBLISHED[name][0])
        found[title] = (space, space.parse(PUBLISHED[name][1]))
    s2, rng = load_space("s2"), np.random.default_rng(0)
    return found | {f"s2 drawn {number}": (s2, s2.sample(rng)) for number in (1, 2)}


def seed_statistics(model: nn.Module, inputs: torch.Tensor) -> None:
    """Batch norms that do something: random weights and biases, the statistics of the images."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, 0, 0.3, generator=generator)
            part.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    model.eval()


def timm_file(path: Path, inputs: torch.Tensor) -> Path:
    """What timm's export writes with its defaults."""
    if not path.exists():
        torch.manual_seed(0)
        model = timm.create_model(TIMM, exportable=True)
        seed_statistics(model, inputs)
        part = path.with_name("part.onnx")
        with silence():
            onnx_export(model, str(part))
        part.replace(path)
    return path


def exported(network: Network, name: str, dtype: Any, feed: Feed | None, stem: Path) -> Path:
    """The file of a runtime.

    Without the limits of `export_network`: what int8 makes of random weights says nothing of
    trained ones, whose classes are far apart.
    """
    runtime = make_runtime(name)
    path = stem.with_name(f"{stem.name}-{name}-{dtype}{runtime.suffix}")
    if path.exists():
        return path
    form = Form(batch=None if runtime.batches == "any" else 1)
    module, example = deployable(network, INFO, form)
    files = runtime.convert(module, example, form, feed).files
    content, about = files[runtime.suffix], metadata_of(network, INFO, form, dtype)
    if runtime.suffix == ".onnx":
        content = with_metadata(content, about)
    else:
        write_json(path.with_name(path.name + ".json"), about)
    write_atomic(path, lambda file: file.write(content))
    return path


def inputs_of(pixels: Any) -> Any:
    return normalise(pixels, INFO.mean, INFO.std)


def difference(network: Network, path: Path, images: Images) -> dict[str, float]:
    """How far a file is from torch."""
    actual = all_logits(open_classifier(path), images)
    with torch.inference_mode():
        batches = torch.from_numpy(inputs_of(images.pixels)).split(8)
        expected = np.concatenate([network(x).numpy() for x in batches])
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    return {
        "cosine": float(((actual * expected).sum(axis=1) / norms).mean()),
        "largest difference": float(np.abs(actual - expected).max() / np.abs(expected).max()),
        "same top-1": float((actual.argmax(1) == expected.argmax(1)).mean()),
    }


if __name__ == "__main__":
    harness.main(main)
