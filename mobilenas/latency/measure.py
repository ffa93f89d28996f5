"""Timing many graphs fairly on a machine that is never quite quiet.

Every round visits all graphs of a call in a new order, so a slow minute hits all of them alike. A
visit loads the graph afresh, warms up and takes the median of its runs. Every few seconds a control
network is timed; a visit is divided by how slow the control was around it. A graph's time is the
median of its visits. Each visit is a line of a log, so a killed measurement continues where it was.
"""

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated

import numpy as np
from pydantic import Field

from mobilenas.base.files import read_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Record
from mobilenas.latency.graphs import Job
from mobilenas.latency.timer import Device

CONTROL = "control"
VISIT_SECONDS = 0.015
# The control is due again after so many seconds, and as many times what it took itself.
CONTROL_EVERY_SECONDS, CONTROL_REST = 1.5, 5
# A control further than this from the median of those around it does not count.
DISTURBED = 0.1


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a graph: median and quartile range of its visits, and the runs in them."""

    median_ms: float
    spread_ms: float
    count: int


class _Visit(Record):
    """A line of the log: what was timed, the median of its runs, and how many these were."""

    key: str
    ms: Annotated[float, Field(gt=0, le=1e9)]
    runs: Annotated[int, Field(ge=1)]


class TimingLog:
    """Visits in order, as a file of one JSON line each: key, ms (median of the runs), runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.visits = [visit.model_dump() for visit in read_jsonl(path, _Visit)]
        self._counts = Counter(visit["key"] for visit in self.visits)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # a last line torn by a kill goes
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def add(self, key: str, runs: Sequence[float]) -> None:
        """Append a visit."""
        visit = {"key": key, "ms": float(np.median(runs)), "runs": len(runs)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(visit) + "\n")
        self.visits.append(visit)
        self._counts[key] += 1

    def count(self, key: str) -> int:
        """Number of visits of a graph."""
        return self._counts[key]

    def timings(self) -> dict[str, Timing]:
        """The timing of every graph but the control, corrected by the control."""
        by_key = defaultdict(list)
        for visit, slowness in zip(self.visits, self._slowness(), strict=True):
            if visit["key"] != CONTROL:
                by_key[visit["key"]].append((visit["ms"] / slowness, visit["runs"]))
        timings = {}
        for key, visits in by_key.items():
            ms = [value for value, _ in visits]
            low, middle, high = np.quantile(ms, (0.25, 0.5, 0.75))
            timings[key] = Timing(float(middle), float(high - low), sum(n for _, n in visits))
        return timings

    def control(self) -> Timing | None:
        """The control network as it was timed, uncorrected: how quiet the machine was."""
        visits = [visit for visit in self.visits if visit["key"] == CONTROL]
        if not visits:
            return None
        low, middle, high = np.quantile([visit["ms"] for visit in visits], (0.25, 0.5, 0.75))
        return Timing(float(middle), float(high - low), sum(visit["runs"] for visit in visits))

    def _slowness(self) -> list[float]:
        """For each visit the control's time around it, as a multiple of its median."""
        places = [i for i, visit in enumerate(self.visits) if visit["key"] == CONTROL]
        if not places:
            return [1.0] * len(self.visits)
        times = np.array([self.visits[i]["ms"] for i in places])
        # A control that was disturbed itself would spoil all that is around it.
        middle = np.array([np.median(times[max(0, i - 2) : i + 3]) for i in range(len(times))])
        times = np.where(np.abs(times / middle - 1) > DISTURBED, middle, times)
        after = np.searchsorted(places, np.arange(len(self.visits)))
        before = np.maximum(after - 1, 0)
        around = (times[before] + times[np.minimum(after, len(times) - 1)]) / 2
        return list(around / np.median(times))


def measure(
    jobs: Sequence[Job],
    device: Device,
    log: TimingLog,
    *,
    control: Job,
    rounds: int,
    bar: ProgressBar,
    deadline: float = math.inf,
) -> bool:
    """Time every job until the log has `rounds` visits of each; False if the deadline came first.

    The files of the jobs stay until `Device.discard` takes them away. deadline: monotonic(). The
    bar advances by one a visit, and one for the file of a job without visits (`steps`).
    """
    todo = [job for job in jobs if log.count(job.key) < rounds]
    if not todo:
        return True
    for job in [control, *todo]:
        if monotonic() > deadline:
            return False
        device.prepare(job)
        if job is not control and not log.count(job.key):
            bar.advance(1, "writing graphs")
    by_key = {job.key: job for job in todo} | {CONTROL: control}
    return take_turns(
        [job.key for job in todo],
        lambda key: device.time(by_key[key], VISIT_SECONDS),
        log,
        rounds=rounds,
        bar=bar,
        deadline=deadline,
    )


def take_turns(
    keys: Sequence[str],
    time: Callable[[str], Sequence[float]],
    log: TimingLog,
    *,
    rounds: int,
    bar: ProgressBar,
    deadline: float = math.inf,
) -> bool:
    """Time every key until the log has `rounds` visits of each; False if the deadline came first.

    time: the milliseconds of each run of a key, or of CONTROL. The bar advances by one a visit.
    """
    control_due = 0.0
    for number in range(rounds):
        order = np.random.default_rng([number, len(log.visits)]).permutation(len(keys))
        for key in (keys[i] for i in order):
            if log.count(key) > number:
                continue
            if monotonic() > deadline:
                return False
            begun = monotonic()
            if begun > control_due:
                log.add(CONTROL, time(CONTROL))
                taken = monotonic() - begun
                control_due = monotonic() + max(CONTROL_EVERY_SECONDS, CONTROL_REST * taken)
            log.add(key, time(key))
            bar.advance(1, f"timing, round {number + 1} of {rounds}")
    log.add(CONTROL, time(CONTROL))
    return True


def steps(jobs: Sequence[Job], log: TimingLog, rounds: int) -> int:
    """What `measure` advances its bar by for these jobs."""
    counts = (log.count(job.key) for job in jobs)
    return sum((count == 0) + rounds - count for count in counts if count < rounds)
