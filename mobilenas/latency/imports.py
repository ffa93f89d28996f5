"""Published latency tables as tables of ours, each checked on what was published with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.cost.latency import Calibration, LatencyTable, Row
from mobilenas.cost.rows import rows_of
from mobilenas.latency.published import (
    BlockSums,
    Network,
    Timing,
    network_keys,
    operation_key,
    read_columns,
    read_published,
    table_key,
)
from mobilenas.space import list_spaces, load_space

BLOCK_TABLES = "block_latency_tables.json"
NETWORKS = "published_nets.json"
BLOCK_SUMS = "fbnet_cifar100_block_lut.json"
NETWORK_TIMES = "fbnet_cifar100_5000archs.parquet"

QUARTILE_RANGE = 1.349  # over the standard deviation, of a normal distribution
NOT_PUBLISHED = "not published"


@dataclass(frozen=True)
class Origin:
    """What is known of published times. space: what they were made for."""

    device: str
    processor: str
    runtime: str
    space: str
    date: str
    source: str
    dtype: Literal["fp32"] | None = "fp32"

    def table(
        self, name: str, resolution: int, rows: dict[str, Row], overhead_ms: float = 0.0
    ) -> LatencyTable:
        """A table of these rows: one image at a time."""
        return LatencyTable(
            name=name,
            device=self.device,
            processor=self.processor,
            runtime=self.runtime,
            runtime_version=NOT_PUBLISHED,
            threads=None,
            dtype=self.dtype,
            batch=1,
            resolution=resolution,
            space=self.space,
            date=self.date,
            source=self.source,
            overhead_ms=overhead_ms,
            calibration=Calibration(method="none: rows as published"),
            rows=rows,
        )


PROXYLESS = {
    "proxyless_mobile_trim": Origin(
        device="proxyless_mobile",
        processor=f"{NOT_PUBLISHED} with the table; the paper's phone is a Google Pixel 1",
        runtime="TensorFlow Lite",
        space="proxyless",
        date="2018",
        source="han-cai/files a7c9bcd525 proxylessnas/mobile_trim.yaml (ProxylessNAS, Cai et al.)",
    ),
    "proxyless_pixel_trim": Origin(
        device="proxyless_pixel",
        processor=f"{NOT_PUBLISHED}; a Pixel by the name of the file",
        runtime=NOT_PUBLISHED,
        space="proxyless",
        date=NOT_PUBLISHED,
        source="itouchz/Neural-Predictor-Tensorflow a660b8a350 proxylessnas/pixel_trim.yaml",
    ),
}
NOTE10 = Origin(
    device="note10",
    processor="Samsung Note10",
    runtime="TensorFlow Lite",
    space="Once-for-All MobileNetV3, width 1.2",
    date="2020",
    source="han-cai/files ofa/note10 (Once-for-All, Cai et al.)",
)
NOTE10_RESOLUTIONS = (160, 176, 192, 208, 224)
FBNET_DEVICES = {
    "pixel3": ("Google Pixel 3", "TensorFlow Lite"),
    "raspi4": ("Raspberry Pi 4", "TensorFlow Lite"),
    "eyeriss": ("Eyeriss accelerator, simulated", "simulator"),
    "fpga": ("FPGA, estimated", "estimate"),
}
FBNET_SOURCE = (
    "least squares on 5,000 networks of HayeonLee/HELP 45f70eb92d data/fbnet (times of"
    " HW-NAS-Bench, Li et al. 2021), whose latencies are exact sums; the overhead holds stem, head"
    " and the 1x1 convolutions that stand for a block where the shape changes, and the rows of the"
    " blocks there are what these take beyond them"
)


@dataclass(frozen=True)
class Agreement:
    """Networks whose published latency the table gives. largest_error_ms: among them."""

    what: str
    networks: int
    largest_error_ms: float


@dataclass(frozen=True)
class Imported:
    """A table and the checks that it passed."""

    table: LatencyTable
    agreements: tuple[Agreement, ...] = ()

    @cached_property
    def missing(self) -> Mapping[str, tuple[str, ...]]:
        """Keys that it lacks for each shipped space of its resolution of which it has some.

        None are lacking for a space that it covers.
        """
        spaces = [
            s for s in map(load_space, list_spaces()) if s.resolution == self.table.resolution
        ]
        lacking = {space.name: tuple(self.table.missing(space)) for space in spaces}
        total = {space.name: len(rows_of(space).distinct) for space in spaces}
        return {name: keys for name, keys in lacking.items() if len(keys) < total[name]}

    @property
    def covers(self) -> list[str]:
        """Shipped spaces all of whose networks it predicts."""
        return [name for name, keys in self.missing.items() if not keys]


def import_tables(data_root: Path) -> list[Imported]:
    """All tables of data_root/latency.

    Raises BadInput naming the file, and the table or key, for what is missing, torn, no time, or
    disagrees with the published networks.
    """
    folder = data_root / "latency"
    if not folder.is_dir():
        raise BadInput(f"no such folder: {folder}; the data root is the folder that holds latency/")
    path = folder / BLOCK_TABLES
    published = read_published(path, dict[str, dict[str, Timing]])
    networks = read_published(folder / NETWORKS, list[Network])
    imported = [_proxyless(path, name, published) for name in PROXYLESS]
    imported += [_note10(path, size, published, networks) for size in NOTE10_RESOLUTIONS]
    return imported + _fbnet(folder)


def _proxyless(path: Path, name: str, published: dict[str, dict[str, Timing]]) -> Imported:
    rows = _rows(path, name, published, ratio=True)
    final = [key for key in rows if key.startswith(("conv1x1-", "linear-"))]
    if [key.split("-")[0] for key in final] != ["conv1x1", "linear"]:
        raise BadInput(f"{path}: {name} lacks Conv_1 or Logits")
    # Logits is "all operations after Conv_1" in the search code, so both are our head.
    conv, linear = (rows.pop(key) for key in final)
    before, classes = final[0].split("-")[1], final[1].split("-", 1)[1]
    rows[f"head-{before}-{classes}-relu6"] = Row(
        ms=conv.ms + linear.ms,
        median_ms=conv.ms + linear.ms,
        spread_ms=float(np.hypot(conv.spread_ms, linear.spread_ms)),
        count=min(conv.count, linear.count),
        flags=(*conv.flags, "sum of Conv_1 and Logits"),
    )
    origin = PROXYLESS[name]
    table = origin.table(name, load_space(origin.space).resolution, rows)
    _check_covers(path, table)
    return Imported(table)


def _note10(
    path: Path, size: int, published: dict[str, dict[str, Timing]], networks: list[Network]
) -> Imported:
    name = f"ofa_note10_{size}"
    rows = _rows(path, name, published, ratio=False)
    agreements = []
    for network in networks:
        keys = network_keys(network)
        is_here = network.device == NOTE10.device and bool(keys) and rows.keys() >= set(keys)
        if not is_here or network.latency_ms is None:
            continue
        error = abs(sum(rows[key].ms for key in keys) - network.latency_ms)
        if error > 0.5:  # published in whole ms
            raise BadInput(
                f"{path}: {name} is {error:.2f} ms off the published latency of {network.name}"
            )
        agreements.append(Agreement(network.name, 1, error))
    return Imported(NOTE10.table(name, size, rows), tuple(agreements))


def _rows(
    path: Path, name: str, published: dict[str, dict[str, Timing]], *, ratio: bool
) -> dict[str, Row]:
    if name not in published:
        raise BadInput(f"{path} lacks the table {name!r}")
    try:
        return {
            table_key(key, ratio=ratio): Row(
                ms=timing.mean,
                median_ms=timing.mean,
                spread_ms=QUARTILE_RANGE * timing.deviation,
                count=timing.count,
                flags=("published mean",),
            )
            for key, timing in published[name].items()
        }
    except BadInput as error:
        raise BadInput(f"{path}: {name}: {error}") from None


def _fbnet(folder: Path) -> list[Imported]:
    path = folder / BLOCK_SUMS
    sums = read_published(path, BlockSums)
    try:
        keys = [[operation_key(layer, op) for op in sums.primitives] for layer in sums.layers]
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    operations = [f"op{number:02}" for number in range(len(sums.layers))]
    genes = read_columns(folder / NETWORK_TIMES, operations)
    if not ((genes >= 0) & (genes < len(sums.primitives))).all():
        raise BadInput(f"{folder / NETWORK_TIMES}: operations are 0 to {len(sums.primitives) - 1}")
    imported = []
    for device, (processor, runtime) in FBNET_DEVICES.items():
        if device not in sums.devices:
            raise BadInput(f"{path} lacks the device {device!r}")
        origin = Origin(
            device=device,
            processor=processor,
            runtime=runtime,
            space="fbnet_cifar",
            date="2021",
            source=FBNET_SOURCE,
            dtype="fp32" if runtime == "TensorFlow Lite" else None,
        )
        table = _sum_table(path, origin, sums, keys)
        row_ms = [[0.0 if key is None else table.rows[key].ms for key in layer] for layer in keys]
        predicted = table.overhead_ms + np.array(row_ms)[np.arange(len(keys)), genes].sum(axis=1)
        column = f"lat_{device}_ms"
        times = read_columns(folder / NETWORK_TIMES, [column])[:, 0]
        # The file has single precision: a sum agrees when it rounds to the published number.
        wrong = np.flatnonzero(predicted.astype(times.dtype) != times)
        if len(wrong):
            first = wrong[0]
            raise BadInput(
                f"{path}: {device}: {len(wrong)} of {len(times)} networks are not the sum of their"
                f" rows, such as row {first} of {NETWORK_TIMES}: {predicted[first]:.6g} ms,"
                f" published {times[first]:.6g} ms"
            )
        largest = float(np.abs(predicted - times).max())
        imported.append(Imported(table, (Agreement(NETWORK_TIMES, len(times), largest),)))
    return imported


def _sum_table(
    path: Path, origin: Origin, sums: BlockSums, keys: list[list[str | None]]
) -> LatencyTable:
    """Rows of one device. Those that every network has are in the overhead and take nothing."""
    space = load_space(origin.space)
    values = sums.devices[origin.device].block_minus_skip_ms
    if [len(layer) for layer in values] != [len(layer) for layer in keys]:
        raise BadInput(f"{path}: {origin.device}: not one value a layer and operation")
    rows = {key: _derived(0.0, "in the overhead") for key in rows_of(space).fixed}
    for layer, layer_keys, layer_ms in zip(sums.layers, keys, values, strict=True):
        keeps_shape = layer.stride == 1 and layer.cin == layer.cout
        flags = () if keeps_shape else ("beyond the 1x1 convolution in its place",)
        for key, ms in zip(layer_keys, layer_ms, strict=True):
            if key is not None:
                rows[key] = _derived(ms, *flags)
    table = origin.table(
        f"fbnet_{origin.device}", space.resolution, rows, sums.devices[origin.device].const_ms
    )
    _check_covers(path, table)
    return table


def _check_covers(path: Path, table: LatencyTable) -> None:
    missing = table.missing(load_space(table.space))
    if missing:
        raise BadInput(
            f"{path}: {table.name} lacks {len(missing)} rows of space {table.space},"
            f" such as {missing[0]}"
        )


def _derived(ms: float, *flags: str) -> Row:
    flags = ("derived from published networks", *flags)
    return Row(ms=ms, median_ms=ms, spread_ms=0.0, count=1, flags=flags)
