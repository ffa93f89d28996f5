"""Timing in rounds: what is visited when, how drift is taken out, what a kill leaves."""

import json
from collections import Counter
from pathlib import Path
from time import monotonic

import pytest
from torch import Tensor, nn

from mobilenas.base.progress import ProgressBar
from mobilenas.latency.graphs import Job
from mobilenas.latency.measure import CONTROL, Timing, TimingLog, measure, steps
from mobilenas.latency.timer import Host, Timer
from mobilenas.runtimes.base import Converted, Feed, Form, Inputs, Runtime


def job(name: str, ms: float) -> Job:
    def make() -> nn.Module:
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, ms)
        return module

    return Job(name, make, (1, 1))


class Clockwork(Runtime):
    """Its graphs take the time that is written in them, times the speed of the day."""

    name, version, suffixes = "clockwork", "1", (".txt",)

    def __init__(self, slowness: float = 1.0, slower_each_visit: float = 0.0) -> None:
        self.prepared: list[float] = []
        self.slowness = slowness
        self.slower_each_visit = slower_each_visit

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        weight = next(module.parameters()).item()
        self.prepared.append(weight)
        return Converted({".txt": str(weight).encode()})

    def time(self, path: Path, example: Inputs, seconds: float) -> list[float]:
        self.slowness += self.slower_each_visit
        return [float(path.read_text()) * self.slowness] * 5


JOBS = [job(f"row {i}", i + 1.0) for i in range(4)]


def run(
    folder: Path, runtime: Clockwork, rounds: int = 3, deadline: float = float("inf")
) -> TimingLog:
    log = TimingLog(folder / "timings.jsonl")
    done = measure(
        JOBS,
        Host(Timer(runtime, "fp32"), folder / "graphs"),
        log,
        control=job(CONTROL, 2.0),
        rounds=rounds,
        bar=ProgressBar("", steps(JOBS, log, rounds)),
        deadline=deadline,
    )
    assert done is (deadline == float("inf"))
    return log


def test_every_round_visits_all_before_the_next(tmp_path: Path) -> None:
    log = run(tmp_path, Clockwork())
    keys = [visit["key"] for visit in log.visits if visit["key"] != CONTROL]
    for number in range(3):
        assert sorted(keys[4 * number : 4 * number + 4]) == [job.key for job in JOBS]
    assert len(set(map(tuple, (keys[:4], keys[4:8], keys[8:])))) > 1  # not always in one order
    assert log.timings()["row 2"] == Timing(median_ms=3.0, spread_ms=0.0, count=15)


def test_a_machine_that_slows_down_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.latency.measure.CONTROL_EVERY_SECONDS", 0)
    monkeypatch.setattr("mobilenas.latency.measure.CONTROL_REST", 0)
    log = run(tmp_path, Clockwork(slower_each_visit=0.02), rounds=5)
    raw = {}
    for visit in log.visits:
        raw.setdefault(visit["key"], []).append(visit["ms"])
    assert max(raw["row 3"]) > 1.4 * min(raw["row 3"])
    timings = log.timings()
    for i in range(4):
        timing = timings[f"row {i}"]
        assert timing.median_ms / timings["row 0"].median_ms == pytest.approx(i + 1, rel=0.02)
        assert timing.spread_ms < 0.02 * timing.median_ms
    control = log.control()
    assert control is not None and control.spread_ms > 0.1 * control.median_ms


def test_what_was_timed_is_not_timed_again(tmp_path: Path) -> None:
    run(tmp_path, Clockwork(), rounds=2)
    lines = (tmp_path / "timings.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines[:4]]
    torn = "\n".join(lines[:4]) + '\n{"key": "row 1", "ms'
    (tmp_path / "timings.jsonl").write_text(torn)
    log = run(tmp_path, Clockwork(), rounds=2)
    assert log.visits[:4] == kept
    visited = Counter(visit["key"] for visit in log.visits)
    assert {visited[job.key] for job in JOBS} == {2}
    on_disk = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert on_disk == log.visits


def test_nothing_is_left_to_do(tmp_path: Path) -> None:
    run(tmp_path, Clockwork())
    again = Clockwork()
    log = run(tmp_path, again)
    assert again.prepared == [] and steps(JOBS, log, 3) == 0


def test_the_deadline_stops_and_keeps(tmp_path: Path) -> None:
    log = run(tmp_path, Clockwork(), deadline=monotonic() - 1)
    assert log.visits == [] and log.control() is None


def test_files_are_kept_until_they_are_discarded(tmp_path: Path) -> None:
    run(tmp_path, Clockwork(), rounds=1)
    later = Clockwork()
    run(tmp_path, later, rounds=2)
    assert later.prepared == []
    Host(Timer(later, "fp32"), tmp_path / "graphs").discard(JOBS)
    assert len(list((tmp_path / "graphs").iterdir())) == 1  # the control's, needed by what follows
