"""How far a table can be trusted: networks that it was not made from, timed and predicted."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.latency import Check, Figures, LatencyTable
from mobilenas.cost.rows import rows_of
from mobilenas.latency.build import CHUNK
from mobilenas.latency.graphs import network_job
from mobilenas.latency.host import today
from mobilenas.latency.measure import TimingLog, measure, steps
from mobilenas.latency.networks import control_arch, held_out
from mobilenas.latency.timer import Device
from mobilenas.runs.folder import TABLE, RunFolder
from mobilenas.space import Arch, Space

CHECK_ROUNDS = 5
TIMINGS = "check.jsonl"
DRIFT_REMOVED = "drift removed"

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)


def is_same_device(table: LatencyTable, device: Device) -> bool:
    """Whether a device has the processor of the table and its version of the runtime; else what
    differs is logged.
    """
    here = table.processor if device.runtime == "command" else device.processor
    same = True
    for what, there, now in (
        ("processor", table.processor, here),
        (f"version of {device.runtime}", table.runtime_version, device.version),
    ):
        if there != now:
            log.warning("the %s is %s; the table was measured with %s", what, now, there)
            same = False
    return same


def time_networks(
    space: Space, archs: Sequence[Arch], device: Device, run: Path, batch: int
) -> tuple[Floats, float]:
    """Milliseconds (n,) of whole networks, and of the control network that was timed in turns.

    run: folder for the timings; those that it holds are not made again.
    """
    timed = TimingLog(run / TIMINGS)
    jobs = [network_job(space, arch, batch) for arch in archs]
    with ProgressBar(f"{run.name}: networks", steps(jobs, timed, CHECK_ROUNDS)) as bar:
        for first in range(0, len(jobs), CHUNK):
            chunk = jobs[first : first + CHUNK]
            measure(
                chunk,
                device,
                timed,
                control=network_job(space, control_arch(space), batch),
                rounds=CHECK_ROUNDS,
                bar=bar,
            )
            device.discard(chunk)
    timings, control = timed.timings(), timed.control()
    assert control is not None
    return np.array([timings[str(arch)].median_ms for arch in archs]), control.median_ms


def predictions(space: Space, table: LatencyTable, archs: Sequence[Arch]) -> dict[str, Floats]:
    """What each predictor says of archs, ms or, for `flops`, multiply-adds."""
    genes = np.array([space.encode(arch) for arch in archs])
    rows = rows_of(space)
    counted = [rows.counts(row.tolist()) for row in genes]
    alone = [sum(table.row(k).median_ms * n for k, n in count.items()) for count in counted]
    return {
        "table": table.predict(space, genes),
        "blocks alone": np.array(alone),
        "flops": CostModel(space).flops_batch(genes).astype(float),
    }


def compare(predicted: Mapping[str, Floats], measured: Floats) -> dict[str, Figures]:
    """The figures of each predictor; `flops` goes through the line that fits these times best."""
    values = dict(predicted)
    slope, offset = np.polyfit(values["flops"], measured, 1)
    values["flops"] = slope * values["flops"] + offset
    return {name: figures(guess, measured) for name, guess in values.items()}


def figures(predicted: Floats, measured: Floats) -> Figures:
    """How far predictions (n,) are from measurements (n,), both ms."""
    relative = (predicted - measured) / measured
    return Figures(
        within_5_percent=float(np.mean(np.abs(relative) <= 0.05)),
        within_10_percent=float(np.mean(np.abs(relative) <= 0.1)),
        rmse_ms=float(np.sqrt(np.mean((predicted - measured) ** 2))),
        mape=float(np.abs(relative).mean()),
        bias=float(relative.mean()),
        spearman=_rank(spearmanr, predicted, measured),
        kendall=_rank(kendalltau, predicted, measured),
    )


def _rank(statistic: Callable[..., Any], predicted: Floats, measured: Floats) -> float | None:
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None
    return float(statistic(predicted, measured).statistic)


def check_table(
    space: Space,
    table: LatencyTable,
    device: Device,
    run: Path,
    *,
    n: int,
    seed: int,
    command: str | None,
    resume: bool,
    place: str,
) -> tuple[Check, dict[str, Floats], Floats]:
    """Time n networks of a space that the table was not fitted to; what each predictor says of
    them (n,), and the times (n,).

    run: the run folder; resume: keep the timings that it has. command: as for `build_table`. place:
    what finds the table again, its file or its name.
    Raises BadInput for a folder that holds the timings of something else.
    """
    archs = held_out(space, table, n, seed)
    about = {
        "space": space.to_dict(),
        "table": table.name,
        "runtime": device.runtime,
        "runtime_version": device.version,
        "processor": device.processor,
        "dtype": table.dtype,
        "threads": table.threads,
        "batch": table.batch,
        "command": command,
    }
    parents = {f"{TABLE}{table.name}": place}
    RunFolder.start_or_resume(run, "latency-check", about, resume=resume, parents=parents)
    predicted = predictions(space, table, archs)
    measured, control_ms = time_networks(space, archs, device, run, table.batch)
    predictors = compare(predicted, measured)
    if table.control_ms and space.name == table.space:
        at_that_speed = measured * table.control_ms / control_ms
        predictors[DRIFT_REMOVED] = figures(predicted["table"], at_that_speed)
    check = Check(
        networks=n,
        seed=seed,
        date=today(),
        control_ms=control_ms,
        predictors=predictors,
    )
    return check, predicted, measured
