"""Building a latency table: time the rows alone, time networks, fit the rows to the networks."""

import logging
import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Record
from mobilenas.cost.latency import NAME, Calibration, LatencyTable, Row
from mobilenas.cost.predict import MIN_NETWORKS, Fit, calibrate
from mobilenas.cost.rows import row_flops, row_groups, rows_of
from mobilenas.latency.graphs import Job, network_job, row_jobs
from mobilenas.latency.host import today
from mobilenas.latency.measure import Timing, TimingLog, measure, steps
from mobilenas.latency.networks import control_arch, design
from mobilenas.latency.timer import Device, Host, make_timer
from mobilenas.runs.folder import RunFolder
from mobilenas.runtimes.command import TIME_LIMIT
from mobilenas.space import Arch, Space, space_from_dict

TIMINGS, GRAPHS = "timings.jsonl", "graphs"
ROW_ROUNDS, NETWORK_ROUNDS = 5, 3
# Rows that move more than this between visits are timed twice as often, then flagged.
WIDE_SPREAD = 0.1
WIDE, FEW = "wide spread", "few visits"
# Networks whose files lie on the disk at the same time, and as many as tell how long one takes.
CHUNK, FIRST_CHUNK = 25, 5
# Shares of the time budget, for all rows and again for those with a wide spread.
ROWS_SHARE, WIDE_SHARE = 0.4, 0.1

log = logging.getLogger(__name__)


class BuildSettings(Record):
    """What a table is of, as plain data. command: template of the runtime `command`."""

    space: dict[str, object]
    device: str
    runtime: str
    dtype: str
    threads: int
    batch: int
    seed: int
    command: str | None

    def host(self, graphs: Path, time_limit: float = TIME_LIMIT) -> Host:
        """This host with its runtime. graphs: folder of the files. time_limit: seconds of one call
        of the command. Raises BadInput.
        """
        timer = make_timer(
            self.runtime,
            dtype=self.dtype,
            threads=self.threads,
            command=self.command,
            time_limit=time_limit,
        )
        return Host(timer, graphs)


def check_name(device: str, where: str) -> None:
    """Raise BadInput, naming `where`, unless a device can be called so."""
    if not re.fullmatch(NAME, device) or device.endswith(".json"):
        raise BadInput(
            f"{where} {device!r}: must be letters, digits, '.', '_' and '-', start with a letter "
            "or digit, and not end in .json"
        )


def build_table(
    settings: BuildSettings,
    run: Path,
    *,
    budget: float,
    resume: bool,
    device: Device | None = None,
) -> LatencyTable:
    """Time the rows of a space and as many of its networks as `budget` seconds allow, and fit.

    run: the run folder. resume: keep the timings that it has. device: where it is timed, this host
    by default. Raises BadInput for a folder that holds other settings, and for a budget that the
    rows alone do not fit into; what was timed is kept.
    """
    start = monotonic()
    check_name(settings.device, "--device")
    device = device or settings.host(run / GRAPHS)
    about = settings.model_dump(mode="json")
    about |= {"runtime_version": device.version, "processor": device.processor}
    RunFolder.start_or_resume(run, "latency", about, resume=resume)
    space = space_from_dict(settings.space)
    timings, name = TimingLog(run / TIMINGS), settings.device
    control = network_job(space, control_arch(space), settings.batch)
    jobs = row_jobs(space, settings.batch)

    def time_all(what: list[Job], rounds: int, deadline: float, bar: ProgressBar) -> bool:
        return measure(
            what,
            device,
            timings,
            control=control,
            rounds=rounds,
            bar=bar,
            deadline=deadline,
        )

    end = start + ROWS_SHARE * budget
    needed = steps(jobs, timings, ROW_ROUNDS)
    with ProgressBar(f"{name}: rows", needed, deadline=start + budget) as bar:
        time_all(jobs, 1, start + budget, bar)  # without one time of each there is no table
        time_all(jobs, ROW_ROUNDS, end, bar)
    missing = [job for job in jobs if timings.count(job.key) == 0]
    if missing:
        raise BadInput(
            f"--budget of {budget:.0f} s: {len(missing)} of {len(jobs)} rows were not reached;"
            f" the rest is kept in {run}: continue with --resume and a longer budget"
        )
    found = timings.timings()
    wide = [job for job in jobs if _is_wide(found[job.key])]
    end += WIDE_SHARE * budget
    again = steps(wide, timings, 2 * ROW_ROUNDS)
    with ProgressBar(f"{name}: rows with a wide spread", again, deadline=end) as bar:
        time_all(wide, 2 * ROW_ROUNDS, end, bar)
    device.discard(jobs)

    archs = design(space, len(jobs), settings.seed)
    networks = [network_job(space, arch, settings.batch) for arch in archs]
    end, needed = start + budget, steps(networks, timings, NETWORK_ROUNDS)
    with ProgressBar(f"{name}: networks", needed, deadline=end) as bar:
        done, chunk = 0, FIRST_CHUNK
        while networks[done:]:
            begun = monotonic()
            some = networks[done : done + chunk]
            if not time_all(some, NETWORK_ROUNDS, end, bar):
                break
            device.discard(some)
            done += chunk
            each = max(1e-3, (monotonic() - begun) / chunk)
            chunk = min(CHUNK, int((end - monotonic()) / each))
            if chunk < 1:
                break
    shutil.rmtree(run / GRAPHS, ignore_errors=True)  # there is none of a device elsewhere
    return _table(settings, space, device, timings, archs)


def table_name(settings: BuildSettings) -> str:
    """`device-runtime-dtype-space`, with threads and batch where they are not 1."""
    extra = [f"{settings.threads}threads"] if settings.threads > 1 else []
    extra += [f"batch{settings.batch}"] if settings.batch > 1 else []
    parts = [settings.device, settings.runtime, settings.dtype, *extra, str(settings.space["name"])]
    return in_names("-".join(parts))


def in_names(text: str) -> str:
    """A text as it stands in the names of tables."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _is_wide(timing: Timing) -> bool:
    return timing.spread_ms > WIDE_SPREAD * timing.median_ms


def _table(
    settings: BuildSettings,
    space: Space,
    device: Device,
    visits: TimingLog,
    archs: list[Arch],
) -> LatencyTable:
    timings, control, name = visits.timings(), visits.control(), settings.device
    assert control is not None
    keys = list(rows_of(space).distinct)
    alone = np.array([timings[key].median_ms for key in keys])
    used = [arch for arch in archs if visits.count(str(arch)) >= NETWORK_ROUNDS]
    if len(used) < len(archs):
        log.info("%s: the time budget is used: %d of %d networks", name, len(used), len(archs))
    if len(used) >= MIN_NETWORKS:
        fit = _fit(space, keys, alone, used, timings)
        method = "fitted to networks"
    else:
        log.warning(
            "%s: time for %d networks only: the rows are those of blocks alone", name, len(used)
        )
        fit, method, used = Fit(0.0, alone, float("nan")), "blocks alone", []
    rows = {}
    for key, ms in zip(keys, fit.ms, strict=True):
        flags = [WIDE] if _is_wide(timings[key]) else []
        flags += [FEW] if visits.count(key) < ROW_ROUNDS else []
        rows[key] = Row(ms=float(ms), **asdict(timings[key]), flags=tuple(flags))
    for flag, number in Counter(flag for row in rows.values() for flag in row.flags).items():
        log.warning("%s: %d of %d rows are flagged: %s", name, number, len(rows), flag)
    return LatencyTable(
        name=table_name(settings),
        device=settings.device,
        processor="reached by a command" if settings.command else device.processor,
        runtime=settings.runtime,
        runtime_version=device.version,
        threads=settings.threads,
        dtype=settings.dtype,  # type: ignore[arg-type]
        batch=settings.batch,
        resolution=space.resolution,
        space=space.name,
        date=today(),
        source="measured",
        overhead_ms=fit.overhead_ms,
        control_ms=control.median_ms,
        calibration=Calibration(
            method=method,
            archs=tuple(map(str, used)),
            loo_mape=fit.loo_mape if used else None,
        ),
        rows=rows,
    )


def _fit(
    space: Space,
    keys: list[str],
    alone: NDArray[np.float64],
    archs: list[Arch],
    timings: dict[str, Timing],
) -> Fit:
    rows = rows_of(space)
    counted = [rows.counts(space.encode(arch).tolist()) for arch in archs]
    counts = np.array([[count[key] for key in keys] for count in counted], dtype=float)
    measured = np.array([timings[str(arch)].median_ms for arch in archs])
    of_row = row_flops(space)
    flops = np.array([of_row[key] for key in keys], dtype=float)
    return calibrate(counts, measured, alone, flops, row_groups(keys))
