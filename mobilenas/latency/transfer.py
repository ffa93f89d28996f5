"""The table of one device, corrected for another by the times of a few of its networks."""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.plain import read_text
from mobilenas.base.randomness import Stream, generator
from mobilenas.cost import CostModel
from mobilenas.cost.latency import LONGEST, Calibration, Figures, LatencyTable, Row
from mobilenas.cost.predict import MIN_NETWORKS, calibrate
from mobilenas.cost.rows import row_flops, row_groups, rows_of
from mobilenas.latency.build import check_name
from mobilenas.latency.check import compare
from mobilenas.latency.host import today
from mobilenas.space import Arch, Space

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

# Above this leave-one-out error the user is told that the table does not fit.
WIDE_ERROR = 0.2
# Of more networks than this, a fifth is held out unless the user says how many.
HOLD_OUT_ABOVE = 20
MIN_HELD_OUT = 3
GIVEN = "not given"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a network on the new device."""

    arch: Arch
    ms: float


@dataclass(frozen=True)
class Transfer:
    """The new table. held_out: networks that it was not fitted to; figures: its error on them,
    beside that of the source table as it is and of a line through their FLOPs.
    """

    table: LatencyTable
    held_out: int
    figures: dict[str, Figures]


def read_timings(path: Path, space: Space) -> list[Timing]:
    """Rows of a CSV file with the columns arch and ms. Raises BadInput naming file and line."""
    reader = csv.DictReader(read_text(path).splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise BadInput(f"{path} line {reader.line_num}: {error}") from None
    if reader.fieldnames != ["arch", "ms"]:
        raise BadInput(
            f"{path} line 1: the columns are arch,ms, not {shortened(str(reader.fieldnames))}"
        )
    lines: dict[Arch, int] = {}
    timings = []
    for number, row in rows:
        where = f"{path} line {number}"
        if row["arch"] is None or row["ms"] is None or None in row:
            raise BadInput(f"{where}: two values a line, arch and ms")
        try:
            arch = space.parse(row["arch"])
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        if arch in lines:
            raise BadInput(f"{where}: {arch} is in line {lines[arch]} too")
        lines[arch] = number
        timings.append(Timing(arch, _milliseconds(row["ms"], where)))
    if len(timings) < MIN_NETWORKS:
        raise BadInput(f"{path} has {len(timings)} networks; at least {MIN_NETWORKS} are needed")
    return timings


def transfer_table(
    source: LatencyTable,
    space: Space,
    timings: list[Timing],
    *,
    device: str,
    holdout: int | None,
    seed: int,
) -> Transfer:
    """Fit the rows of `source` that the space needs to networks timed on another device.

    holdout: networks, drawn by the seed, that only test the fit; None for a fifth of more than
    HOLD_OUT_ABOVE. Raises BadInput for a device that is no name, where too few networks are left,
    and as `LatencyTable.column` does.
    """
    check_name(device, "--device")
    source.column(space)
    n = len(timings)
    count = (n // 5 if n > HOLD_OUT_ABOVE else 0) if holdout is None else holdout
    if 0 < count < MIN_HELD_OUT:
        raise BadInput(f"--holdout {count}: at least {MIN_HELD_OUT} networks, or 0")
    if n - count < MIN_NETWORKS:
        raise BadInput(
            f"--holdout {count} of {n} networks leaves {n - count}; {MIN_NETWORKS} are needed"
        )
    order = generator(seed, Stream.LATENCY_HOLDOUT).permutation(n)
    used = [timings[i] for i in sorted(order[count:])]
    tests = [timings[i] for i in sorted(order[:count])]
    table = _fitted(source, space, used, device)
    error = table.calibration.loo_mape
    if error is not None and error > WIDE_ERROR:
        log.warning(
            "%s does not fit: a network is predicted %.0f %% wrong from the others;"
            " time more of them, with care, or start from another table",
            source.name,
            100 * error,
        )
    if not table.fits(space):
        log.warning("time some of the cheapest networks of space %s too", space.name)
    figures = {}
    if tests:
        genes = np.array([space.encode(timing.arch) for timing in tests])
        predicted = {
            "table": table.predict(space, genes),
            "source table": source.predict(space, genes),
            "flops": CostModel(space).flops_batch(genes).astype(float),
        }
        figures = compare(predicted, np.array([timing.ms for timing in tests]))
    return Transfer(table, len(tests), figures)


def _milliseconds(text: str, where: str) -> float:
    try:
        ms = float(text)
    except ValueError:
        raise BadInput(f"{where}: {text!r} is not a number of milliseconds") from None
    if not 0 < ms <= LONGEST:
        raise BadInput(f"{where}: {text} ms; times are above 0 and at most {LONGEST:,}")
    return ms


def _fitted(source: LatencyTable, space: Space, used: list[Timing], device: str) -> LatencyTable:
    rows = rows_of(space)
    keys = list(rows.distinct)
    counted = [rows.counts(space.encode(timing.arch).tolist()) for timing in used]
    # The overhead of the source is one more row, which every network has once.
    counts = np.array([[*(count[key] for key in keys), 1] for count in counted], dtype=float)
    times = np.array([*(source.row(key).ms for key in keys), max(source.overhead_ms, 0.0)])
    of_row = row_flops(space)
    flops = np.array([*(of_row[key] for key in keys), 0], dtype=float)
    groups = row_groups([*keys, "overhead"])
    measured = np.array([timing.ms for timing in used])
    fit = calibrate(counts, measured, times, flops, groups)
    *row_ms, overhead_ms = fit.ms.tolist()
    return LatencyTable(
        name=f"{device}-from-{source.name}",
        device=device,
        processor=GIVEN,
        runtime=GIVEN,
        runtime_version=GIVEN,
        threads=None,
        dtype=source.dtype,
        batch=source.batch,
        resolution=source.resolution,
        space=space.name,
        date=today(),
        source=f"table {source.name} of {source.device}, corrected by {len(used)} timed networks",
        overhead_ms=fit.overhead_ms + overhead_ms,
        calibration=Calibration(
            method=f"transferred from {source.name}",
            archs=tuple(str(timing.arch) for timing in used),
            loo_mape=fit.loo_mape,
        ),
        rows={
            key: Row(ms=ms, median_ms=ms, spread_ms=0.0, count=len(used), flags=("transferred",))
            for key, ms in zip(keys, row_ms, strict=True)
        },
    )
