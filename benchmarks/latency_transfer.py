"""How well a latency table of one device predicts another after 10 or 20 timed networks.

Two public sets of networks with latencies on 27 devices each (HELP, Lee et al. 2021; Pixel 3,
Raspberry Pi 4, Eyeriss and FPGA from HW-NAS-Bench, Li et al. 2021), under DIR:

    latency/fbnet_cifar100_5000archs.parquet, latency/fbnet_cifar100_block_lut.json
    nas_bench_201/nasbench201.parquet

    python benchmarks/latency_transfer.py --data-root DIR --out transfer.json
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.stats import rankdata

from mobilenas.cost.predict import calibrate
from mobilenas.latency.build import row_groups
from mobilenas.latency.imports import BLOCK_SUMS, NETWORK_TIMES
from mobilenas.latency.published import (
    BlockSums,
    SumLayer,
    operation_key,
    read_columns,
    read_published,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Scores = dict[str, list[float]]
Draw = Callable[[int, np.random.Generator], tuple[Indices, Indices]]  # samples, tests

SIZES = (10, 20)
FLOPS = "FLOPs, line"
# HELP's split of the devices, from its README.
HELP_TRAIN = (
    "1080ti_1 1080ti_32 1080ti_{big} silver_4114 silver_4210r samsung_a50 pixel3 essential_ph_1"
    " samsung_s7"
)
HELP_FBNET = {"raspi4": 0.887, "eyeriss": 0.943, "fpga": 0.892}
HELP_NB201 = {
    "titan_rtx_256": 0.987,
    "gold_6226": 0.989,
    "pixel2": 0.802,
    "raspi4": 0.890,
    "eyeriss": 0.940,
    "fpga": 0.985,
}
NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NB201_FLOPS = (0, 0, 1, 9, 0)  # in units of a 1x1 convolution of the same channels
NB201_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True)
class Data:
    """Networks and their latencies. counts (n, rows), the last row is what all networks have.

    flops, groups (rows,); times: ms (n,) by device; first: so many networks are there to fit to,
    the others test. works (n,): those that compute something.
    """

    counts: Floats
    flops: Floats
    groups: Indices
    times: dict[str, Floats]
    first: int
    works: NDArray[np.bool_]

    def table(self, device: str) -> Floats:
        """Rows (rows,) of a device, ms, by least squares; a table has no negative rows."""
        part = slice(self.first)
        rows = np.linalg.lstsq(self.counts[part], self.times[device][part], rcond=None)[0]
        return np.asarray(rows.clip(min=0), dtype=np.float64)

    def mean_table(self, devices: Sequence[str]) -> Floats:
        """Mean of the devices' tables, each scaled to a mean network of 1 ms."""
        tables = [self.table(device) for device in devices]
        part = self.counts[: self.first]
        scaled = np.stack([table / (part @ table).mean() for table in tables])
        return np.asarray(scaled.mean(axis=0), dtype=np.float64)


def fbnet(folder: Path) -> Data:
    """The FBNet space in its CIFAR form: 5,000 networks, rows of one geometry shared."""
    sums = read_published(folder / BLOCK_SUMS, BlockSums)
    genes = read_columns(folder / NETWORK_TIMES, [f"op{i:02}" for i in range(len(sums.layers))])
    flops: dict[str, float] = {}
    for layer in sums.layers:
        for operation in sums.primitives:
            key = operation_key(layer, operation)
            if key is not None:
                flops[key] = block_flops(layer, operation) - block_flops(layer, "skip")
    keys = list(flops)
    counts = np.zeros((len(genes), len(keys) + 1))
    counts[:, -1] = 1
    for position, layer in enumerate(sums.layers):
        for number, operation in enumerate(sums.primitives):
            key = operation_key(layer, operation)
            if key is not None:
                counts[genes[:, position] == number, keys.index(key)] += 1
    return Data(
        counts=counts,
        flops=np.array([*flops.values(), 0.0]),
        groups=row_groups([*keys, "overhead"]),
        times=latencies(folder / NETWORK_TIMES),
        first=4000,
        works=np.ones(len(genes), dtype=bool),
    )


def block_flops(layer: SumLayer, operation: str) -> float:
    """Multiply-adds of an operation of the FBNet space."""
    out_size = -(-layer.hw_in // layer.stride)
    if operation == "skip":
        keeps_shape = layer.stride == 1 and layer.cin == layer.cout
        return 0 if keeps_shape else layer.cin * layer.cout * out_size**2
    kernel, expansion, *grouped = operation.split("_")
    hidden = layer.cin * int(expansion[1:])
    dense = layer.cin * hidden * layer.hw_in**2 + hidden * layer.cout * out_size**2
    return dense / (2 if grouped else 1) + hidden * int(kernel[1:]) ** 2 * out_size**2


def nas_bench_201(path: Path) -> Data:
    """All 15,625 cells; rows: operation x edge. 15,284 have a path from input to output."""
    texts = parquet.read_table(path, columns=["arch_str"])["arch_str"].to_pylist()
    cells = np.array([parse_cell(text) for text in texts])
    rows = [(edge, op) for edge in range(len(NB201_EDGES)) for op in range(1, len(NB201_OPS))]
    counts = [np.ones(len(cells)), *(cells[:, edge] == op for edge, op in rows)]
    return Data(
        counts=np.stack(counts, axis=1).astype(float),
        flops=np.array([0.0, *(NB201_FLOPS[op] for _, op in rows)]),
        groups=np.array([0, *(op for _, op in rows)]),
        times=latencies(path),
        first=900,
        works=np.array([reaches_output(cell) for cell in cells]),
    )


def parse_cell(text: str) -> list[int]:
    """Operations of the six edges, in the order of NB201_EDGES."""
    parts = [part for node in text.split("+") for part in node.strip("|").split("|")]
    return [NB201_OPS.index(part.split("~")[0]) for part in parts]


def reaches_output(cell: Indices) -> bool:
    """Whether some path of operations leads from node 0 to node 3."""
    reached = {0}
    for (start, end), op in zip(NB201_EDGES, cell, strict=True):
        if op and start in reached:
            reached.add(end)
    return 3 in reached


def latencies(path: Path) -> dict[str, Floats]:
    """Milliseconds by device."""
    names = [name for name in parquet.read_schema(path).names if name.startswith("lat_")]
    columns = read_columns(path, names).astype(float)
    return {name[4:-3]: columns[:, i] for i, name in enumerate(names)}


def spearman(predicted: Floats, measured: Floats) -> float:
    """Rank correlation; 0 for a constant prediction, which orders nothing."""
    ranks = rankdata(predicted)
    return float(np.corrcoef(ranks, rankdata(measured))[0, 1]) if np.ptp(ranks) else 0.0


def mape(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and offset with the smallest squared relative error."""
    design = np.stack([x, np.ones_like(x)], axis=1) / y[:, None]
    slope, offset = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
    return float(slope), float(offset)


def predictions(
    data: Data, source: Floats, device: str, sample: Indices, test: Indices
) -> dict[str, Floats]:
    """What each method says of the test networks after timing the sample, ms."""
    counts, measured, unseen = data.counts[sample], data.times[device][sample], data.counts[test]
    ratio = counts @ source / measured
    slope, offset = line(counts @ data.flops, measured)
    fit = calibrate(counts, measured, source, data.flops, data.groups)
    return {
        FLOPS: slope * (unseen @ data.flops) + offset,
        "table, one factor": (unseen @ source) * (ratio.sum() / (ratio**2).sum()),
        "transfer": fit.overhead_ms + unseen @ fit.ms,
    }


def score(
    data: Data,
    source: Floats,
    device: str,
    draw: Draw,
    *,
    size: int,
    draws: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over draws of the sample, by method."""
    spearmans: Scores = {}
    errors: Scores = {}
    for number in range(draws):
        sample, test = draw(size, np.random.default_rng([seed, number]))
        measured = data.times[device][test]
        said = predictions(data, source, device, sample, test)
        for method, ms in said.items():
            # FLOPs need no sample to rank by; a line through a poor one may even fall.
            order = data.counts[test] @ data.flops if method == FLOPS else ms
            spearmans.setdefault(method, []).append(spearman(order, measured))
            errors.setdefault(method, []).append(mape(ms, measured))
    return {
        method: {
            "spearman": float(np.mean(spearmans[method])),
            "spearman_sd": float(np.std(spearmans[method])),
            "mape": float(np.mean(errors[method])),
        }
        for method in spearmans
    }


def held_out_draw(data: Data) -> Draw:
    """Samples from the first networks; all the others test."""
    working = np.flatnonzero(data.works)
    samples, tests = working[working < data.first], working[working >= data.first]
    return lambda size, rng: (rng.choice(samples, size, replace=False), tests)


def help_draw(data: Data, device: str) -> Draw:
    """HELP's own protocol (loader.py): samples and 1,000 test networks, without the fastest and
    slowest tenth of each.
    """

    def middle(indices: Indices) -> Indices:
        order = indices[np.argsort(data.times[device][indices])]
        return order[int(len(order) * 0.1) : int(len(order) * 0.9)]

    samples = middle(np.arange(data.first))
    tests = middle(np.arange(data.first, data.first + 1000))
    return lambda size, rng: (rng.choice(samples, size, replace=False), tests)


def all_pairs(data: Data, draws: int, seed: int) -> list[dict[str, Any]]:
    """Every ordered pair of devices and number of samples."""
    results: list[dict[str, Any]] = []
    for source in data.times:
        table = data.table(source)
        for target in data.times:
            if target == source:
                continue
            for size in SIZES:
                methods = score(
                    data,
                    table,
                    target,
                    held_out_draw(data),
                    size=size,
                    draws=draws,
                    seed=seed,
                )
                results.append(
                    {"source": source, "target": target, "samples": size, "methods": methods}
                )
    return results


def help_setting(
    data: Data, published: dict[str, float], big: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """HELP's unseen devices from the mean table of its training devices, on two protocols."""
    table = data.mean_table(HELP_TRAIN.format(big=big).split())
    results: list[dict[str, Any]] = []
    for target, theirs in published.items():
        protocols = {"all networks": held_out_draw(data), "HELP's": help_draw(data, target)}
        for protocol, draw in protocols.items():
            for size in SIZES:
                methods = score(data, table, target, draw, size=size, draws=draws, seed=seed)
                results.append(
                    {
                        "target": target,
                        "protocol": protocol,
                        "samples": size,
                        "help_with_10": theirs,
                        "methods": methods,
                    }
                )
    return results


def own_tables(data: Data) -> dict[str, float]:
    """Spearman of each device's own table on the test networks: what no transfer can pass."""
    tests = np.flatnonzero(data.works)
    tests = tests[tests >= data.first]
    said = {device: data.counts[tests] @ data.table(device) for device in data.times}
    return {device: spearman(ms, data.times[device][tests]) for device, ms in said.items()}


def print_pairs(results: list[dict[str, Any]]) -> None:
    """Mean over all sources, by target and then over all."""
    targets = list(dict.fromkeys(result["target"] for result in results))
    methods = (FLOPS, "table, one factor", "transfer")
    for size in SIZES:
        print(f"\nFBNet, {size} samples, mean over the 26 sources: Spearman / MAPE")
        print(f"{'target':16}" + "".join(f"{method:>22}" for method in methods))
        rows: dict[str, Any] = {target: {target} for target in targets} | {"mean": set(targets)}
        for name, chosen in rows.items():
            some = [r for r in results if r["samples"] == size and r["target"] in chosen]
            print(f"{name:16}" + "".join(f"{_mean(some, m):>22}" for m in methods))
        pixel3 = [r for r in results if r["samples"] == size and r["source"] == "pixel3"]
        for method in methods:
            print(f"from pixel3 only, {method}: {_mean(pixel3, method)}")


def _mean(results: list[dict[str, Any]], method: str) -> str:
    parts = [result["methods"][method] for result in results]
    rho, error = (float(np.mean([part[key] for part in parts])) for key in ("spearman", "mape"))
    return f"{rho:.3f} / {error:6.1%}"


def print_help(title: str, results: list[dict[str, Any]]) -> None:
    """Spearman by target, and the mean."""
    print(f"\n{title}, from the mean table of HELP's training devices: Spearman (MAPE of transfer)")
    for protocol in dict.fromkeys(result["protocol"] for result in results):
        for size in SIZES:
            part = [r for r in results if (r["protocol"], r["samples"]) == (protocol, size)]
            print(f"{protocol}, {size} samples")
            for result in part:
                said = {name: m["spearman"] for name, m in result["methods"].items()}
                print(
                    f"  {result['target']:16}"
                    + "  ".join(f"{name} {rho:.3f}" for name, rho in said.items())
                    + f" (+-{result['methods']['transfer']['spearman_sd']:.3f},"
                    + f" {result['methods']['transfer']['mape']:.1%})"
                    + f"  HELP with 10: {result['help_with_10']:.3f}"
                )
            for method in part[0]["methods"]:
                print(f"  mean of {method}: {_mean(part, method)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR")
    parser.add_argument("--draws", type=int, default=20, help="samples drawn for each pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    draws, seed = arguments.draws, arguments.seed

    start = time.monotonic()
    data = fbnet(arguments.data_root / "latency")
    fbnet_help = help_setting(data, HELP_FBNET, 64, draws, seed)
    print_help("FBNet", fbnet_help)
    cells = nas_bench_201(arguments.data_root / "nas_bench_201" / "nasbench201.parquet")
    cells_help = help_setting(cells, HELP_NB201, 256, draws, seed)
    print_help("NAS-Bench-201", cells_help)
    own = own_tables(data)
    print("\nFBNet, each device's own table: Spearman")
    print("  ".join(f"{device} {rho:.3f}" for device, rho in own.items()))
    pairs = all_pairs(data, draws, seed)
    print_pairs(pairs)
    print(f"\n{draws} draws each, seed {seed}, {time.monotonic() - start:.0f} s")
    if arguments.out:
        result = {
            "draws": draws,
            "seed": seed,
            "fbnet_own_tables": own,
            "fbnet_pairs": pairs,
            "fbnet_help": fbnet_help,
            "nas_bench_201_help": cells_help,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
