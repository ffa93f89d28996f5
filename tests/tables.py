"""Latency tables that were never measured: what a row costs follows from its FLOPs."""

import zlib
from typing import Any

from mobilenas.cost.latency import Calibration, LatencyTable, Row
from mobilenas.cost.rows import row_flops
from mobilenas.space import Space


def made_up_table(
    space: Space,
    name: str = "made-up",
    *,
    ms_per_mflop: float = 1.0,
    wobble: float = 0,
    **about: Any,
) -> LatencyTable:
    """A table for a space in which each row takes `ms_per_mflop` times its MFLOPs.

    wobble: the share by which a row is slower at most, fixed for each key and name. about: fields
    of the table in place of the ones here.
    """

    def row(key: str, flops: int) -> Row:
        slower = 1 + wobble * (zlib.crc32(f"{name} {key}".encode()) % 1000) / 1000
        ms = ms_per_mflop * flops / 1e6 * slower
        return Row(ms=ms, median_ms=ms, spread_ms=0, count=1)

    fields = {
        "name": name,
        "device": "made-up-phone",
        "processor": "none",
        "runtime": "none",
        "runtime_version": "0",
        "threads": 1,
        "dtype": "fp32",
        "batch": 1,
        "resolution": space.resolution,
        "space": space.name,
        "date": "2025-01-01",
        "source": "made up for tests",
        "overhead_ms": 0.0,
        "calibration": Calibration(method="none"),
        "rows": {key: row(key, flops) for key, flops in row_flops(space).items()},
    }
    return LatencyTable(**(fields | about))
