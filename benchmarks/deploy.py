"""What networks are as files of each runtime: size, latency, memory, and how far from torch.

FairNAS-A (Chu et al. 2021), MobileNetV2 1.0 (Sandler et al. 2018) and two archs of several paths
drawn from the space s2, all at 224 px with 1,000 classes and random weights; batch norm statistics
are those of images, so that outputs are of a usual size. Each is exported for ONNX Runtime and
ExecuTorch, fp32 and int8. Beside them: timm's mobilenetv2_100 by timm's own export, the measure of
all others. All are timed in one interleaved run, as `mobilenas bench` does.

Files that are in OUT are not made again. The table is in OUT/deploy.json too.

    python benchmarks/deploy.py --data IMAGES --out runs/deploy
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.utils.onnx import onnx_export
from torch import nn

from mobilenas.base.files import read_json, write_atomic, write_json
from mobilenas.base.process import tune_process
from mobilenas.cost import CostModel
from mobilenas.data import Images, load_data
from mobilenas.export.deployable import deployable, normalise
from mobilenas.export.write import metadata_of
from mobilenas.latency.bench import FileBench, bench_files
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Choice, Dtype, Feed, Form, Runtime, run_all, silence
from mobilenas.runtimes.onnx import with_metadata
from mobilenas.runtimes.registry import make_runtime
from mobilenas.space import Arch, Space, load_space
from mobilenas.space.published import PUBLISHED

TIMM = "mobilenetv2_100"
RUNTIMES = ("onnxruntime", "executorch")
INFO = NetworkInfo(
    classes=tuple(map(str, range(1000))), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
STATISTICS, CALIBRATION, COMPARED = 32, 64, 200  # images


def main() -> None:
    parser = argparse.ArgumentParser(description="Networks as files of each runtime.")
    parser.add_argument("--data", required=True, help="photos, as `mobilenas eval` takes them")
    parser.add_argument("--out", type=Path, default=Path("runs/deploy"))
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    tune_process()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    images = load_data(options.data, 224, INFO.crop).train
    inputs = torch.from_numpy(normalise(images.pixels[:STATISTICS], INFO.mean, INFO.std))

    files = {f"timm's {TIMM}": [timm_file(out, inputs)]}
    for name, (space, arch) in archs().items():
        network = Network(space, arch, generator=torch.Generator().manual_seed(0))
        seed_statistics(network, inputs)
        files[name] = [
            exported(network, make_runtime(runtime), int8, images, out / slug(name))
            for runtime in RUNTIMES
            for int8 in (False, True)
        ]
    paths = [path for group in files.values() for path in group]
    result = bench_files(paths, threads=1, rounds=options.rounds)
    rows = rows_of(files, list(result.files))
    write_json(out / "deploy.json", result.to_dict() | {"files": rows})
    print(markdown(rows))
    first = result.first_uncorrected
    print(
        f"\n{result.processor}, 1 thread, batch 1; median and quartile range of {result.rounds} "
        f"visits; timm's file in between: {first.median_ms:.2f} ms ± {first.spread_ms:.2f}"
    )


def archs() -> dict[str, tuple[Space, Arch]]:
    """The networks by the names in the table."""
    found = {}
    for title, name in (("FairNAS-A", "fairnas_a"), ("MobileNetV2", TIMM)):
        space = load_space(PUBLISHED[name][0])
        found[title] = (space, space.parse(PUBLISHED[name][1]))
    s2, rng = load_space("s2"), np.random.default_rng(0)
    return found | {f"s2, drawn {number}": (s2, s2.sample(rng)) for number in (1, 2)}


def slug(name: str) -> str:
    return name.lower().replace(", ", "-").replace(" ", "-")


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


def timm_file(out: Path, inputs: torch.Tensor) -> Path:
    """What timm's export writes with its defaults."""
    path = out / f"timm-{TIMM}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        model = timm.create_model(TIMM, exportable=True)
        seed_statistics(model, inputs)
        part = out / "part.onnx"
        with silence():
            onnx_export(model, str(part))
        part.replace(path)
    return path


def exported(network: Network, runtime: Runtime, int8: bool, images: Images, stem: Path) -> Path:
    """The file of a runtime, and beside it how far it is from torch.

    Without the limits of `export_network`: what int8 makes of random weights says nothing of
    trained ones, whose classes are far apart.
    """
    dtype: Dtype = "int8" if int8 else "fp32"
    path = stem.with_name(f"{stem.name}-{runtime.name}-{dtype}{runtime.suffix}")
    if parity_file(path).exists():
        return path
    form = Form(batch=None if runtime.batches == "any" else 1)
    module, example = deployable(network, INFO, form)
    first, second, last = np.split(
        images.pixels[: 2 * CALIBRATION + COMPARED], (CALIBRATION, 2 * CALIBRATION)
    )
    ranges, choice, compared = (normalise(p, INFO.mean, INFO.std) for p in (first, second, last))
    labels = images.labels[CALIBRATION : 2 * CALIBRATION]
    feed = Feed(ranges, Choice(choice, labels)) if int8 else None
    files = runtime.convert(module, example, form, feed).files
    about = metadata_of(network, INFO, form, dtype)
    content = files[runtime.suffix]
    if runtime.suffix == ".onnx":
        content = with_metadata(content, about)
    else:
        write_json(path.with_name(path.name + ".json"), about)
    write_atomic(path, lambda file: file.write(content))
    fixed = runtime.batches != "any"
    actual = run_all(runtime.load(files), compared, 1, fixed=fixed)
    with torch.inference_mode():
        expected = np.concatenate([network(x).numpy() for x in torch.from_numpy(compared).split(8)])
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    parity = {
        "cosine": float(((actual * expected).sum(axis=1) / norms).mean()),
        "max_rel": float(np.abs(actual - expected).max() / np.abs(expected).max()),
        "top1_agreement": float((actual.argmax(1) == expected.argmax(1)).mean()),
    }
    write_json(parity_file(path), parity)
    return path


def parity_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.parity.json")


def rows_of(files: dict[str, list[Path]], benches: list[FileBench]) -> list[dict[str, Any]]:
    """The rows of the table. timm's network has the FLOPs of ours."""
    space = load_space(PUBLISHED[TIMM][0])
    of_timm = CostModel(space).flops(space.parse(PUBLISHED[TIMM][1]))
    names = [name for name, group in files.items() for _ in group]
    unit = benches[0].ms / (of_timm / 1e9)
    rows = []
    for name, bench in zip(names, benches, strict=True):
        beside = parity_file(Path(bench.path))
        flops = bench.flops or of_timm
        per_gmac = bench.ms / (flops / 1e9)
        rows.append(
            asdict(bench)
            | {
                "network": name,
                "dtype": "int8" if "-int8." in bench.path else "fp32",
                "flops": flops,
                "ms_per_gmac": per_gmac,
                "per_gmac_to_timm": per_gmac / unit,
                "parity": read_json(beside) if beside.exists() else None,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/deploy.md."""
    columns = (
        "network | FLOPs | runtime | | MB | memory MB | ms | ± | ms/GMAC | to timm's | "
        "cosine | largest difference | same top-1"
    )
    lines = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    for row in rows:
        parity = row["parity"]
        says = ["", "", ""]
        if parity:
            says = [
                f"{parity['cosine']:.4f}",
                f"{parity['max_rel']:.1e}",
                f"{100 * parity['top1_agreement']:.1f} %",
            ]
        cells = [
            row["network"],
            f"{row['flops'] / 1e6:.0f}M",
            row["runtime"],
            row["dtype"],
            f"{row['size_bytes'] / 1e6:.1f}",
            "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f}",
            f"{row['ms']:.2f}",
            f"{row['spread_ms']:.2f}",
            f"{row['ms_per_gmac']:.1f}",
            f"{row['per_gmac_to_timm']:.2f}",
            *says,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
