"""How well a latency table of one device predicts another after 10 or 20 timed networks.

Two public sets of networks with latencies on 27 devices each (HELP, Lee et al. 2021; Pixel 3,
Raspberry Pi 4, Eyeriss and FPGA from HW-NAS-Bench, Li et al. 2021), under DIR:

    latency/fbnet_cifar100_5000archs.parquet, latency/fbnet_cifar100_block_lut.json
    nas_bench_201/nasbench201.parquet

    python benchmarks/latency_transfer.py pairs --data-root DIR
    python benchmarks/latency_transfer.py unseen --data-root DIR
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import DataRoot, Table
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.stats import spearmanr

from mobilenas.cost.predict import calibrate
from mobilenas.cost.rows import row_groups
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
Methods = dict[str, dict[str, float]]  # method -> rank (Spearman), rank_sd, mape
Draw = Callable[[int, np.random.Generator], tuple[Indices, Indices]]  # samples, tests

SIZES = (10, 20)
FLOPS = "FLOPs, line"
METHODS = (FLOPS, "table, one factor", "transfer")
FORMATS = {"± (transfer)": ".3f", "HELP, 10": ".3f", "its own table": ".3f"}
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
    return float(spearmanr(predicted, measured).statistic) if np.ptp(predicted) else 0.0


def predictions(
    data: Data, source: Floats, device: str, sample: Indices, test: Indices
) -> dict[str, Floats]:
    """What each method says of the test networks after timing the sample, ms."""
    counts, measured, unseen = data.counts[sample], data.times[device][sample], data.counts[test]
    ratio = counts @ source / measured
    # The line with the smallest squared relative error.
    slope, offset = np.polyfit(counts @ data.flops, measured, 1, w=1 / measured)
    fit = calibrate(counts, measured, source, data.flops, data.groups)
    return {
        FLOPS: slope * (unseen @ data.flops) + offset,
        "table, one factor": (unseen @ source) * (ratio.sum() / (ratio**2).sum()),
        "transfer": fit.overhead_ms + unseen @ fit.ms,
    }


def score(
    data: Data, source: Floats, device: str, draw: Draw, size: int, draws: int, seed: int
) -> Methods:
    """Mean and standard deviation over draws of the sample, by method."""
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for number in range(draws):
        sample, test = draw(size, np.random.default_rng([seed, number]))
        measured = data.times[device][test]
        for method, ms in predictions(data, source, device, sample, test).items():
            # FLOPs need no sample to rank by; a line through a poor one may even fall.
            order = data.counts[test] @ data.flops if method == FLOPS else ms
            error = np.mean(np.abs(ms / measured - 1))
            found[method].append((spearman(order, measured), error))
    scores: Methods = {}
    for method, pairs in found.items():
        ranks, errors = np.array(pairs).T
        scores[method] = {"rank": ranks.mean(), "rank_sd": ranks.std(), "mape": errors.mean()}
    return scores


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


def pairs(
    data_root: DataRoot, devices: str = "", draws: int = 20, seed: int = 0
) -> Iterator[Table]:
    """From every device of the FBNet space to every other: each pair, and means over the sources.

    --devices: some of them, with commas between; all without.
    """
    data = fbnet(data_root / "latency")
    names = devices.split(",") if devices else list(data.times)
    tables, draw = {name: data.table(name) for name in names}, held_out_draw(data)
    tests = np.arange(data.first, len(data.counts))
    for size in SIZES:
        rows, means = [], []
        everything: list[Methods] = []
        for target in names:
            sources = [source for source in names if source != target]
            scores = [score(data, tables[s], target, draw, size, draws, seed) for s in sources]
            rows += [
                {"from": source, "to": target} | cells([methods])
                for source, methods in zip(sources, scores, strict=True)
            ]
            # What no transfer can pass.
            own = spearman(data.counts[tests] @ tables[target], data.times[target][tests])
            means.append({"to": target, "its own table": own} | cells(scores))
            everything += scores
        means.append({"to": "mean"} | cells(everything))
        title = f"{size} samples, {draws} draws: Spearman / MAPE"
        yield Table(rows, FORMATS, title)
        yield Table(means, FORMATS, f"{title}, mean over the sources")


def unseen(data_root: DataRoot, draws: int = 20, seed: int = 0) -> Iterator[Table]:
    """HELP's unseen devices from the mean table of its training devices, on two protocols."""
    cells_file = data_root / "nas_bench_201" / "nasbench201.parquet"
    for title, data, published, big in (
        ("FBNet", fbnet(data_root / "latency"), HELP_FBNET, 64),
        ("NAS-Bench-201", nas_bench_201(cells_file), HELP_NB201, 256),
    ):
        table, rows = data.mean_table(HELP_TRAIN.format(big=big).split()), []
        for protocol in ("all networks", "HELP's"):
            for size in SIZES:
                scores, about = [], {"protocol": protocol, "samples": size}
                for target, theirs in published.items():
                    draw = help_draw(data, target) if protocol == "HELP's" else held_out_draw(data)
                    scores.append(score(data, table, target, draw, size, draws, seed))
                    rows.append(about | {"to": target, "HELP, 10": theirs} | cells(scores[-1:]))
                mean = np.mean([*published.values()])
                rows.append(about | {"to": "mean", "HELP, 10": mean} | cells(scores))
        yield Table(rows, FORMATS, f"{title}, unseen devices, {draws} draws: Spearman / MAPE")


def cells(scores: Sequence[Methods]) -> dict[str, Any]:
    """Spearman and MAPE by method, the mean of all, and of one the deviation over its draws."""
    row: dict[str, Any] = {}
    for method in METHODS:
        rank, error = (np.mean([each[method][key] for each in scores]) for key in ("rank", "mape"))
        row[method] = f"{rank:.3f} / {error:.1%}"
    return row | ({"± (transfer)": scores[0]["transfer"]["rank_sd"]} if len(scores) == 1 else {})


if __name__ == "__main__":
    harness.main(pairs, unseen)
