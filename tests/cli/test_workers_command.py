"""Commands with several workers: the same results, whatever is killed or fails on the way."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import ENVIRONMENT, Call, Job, check_refused, command, contents
from test_rank import write_truth

from mobilenas.evaluate import workers
from mobilenas.evaluate.evaluator import SupernetEvaluator

SMALL = ("--flops=1.2M", "--population=12", "--generations=5")


def worker_processes(parent: int) -> list[int]:
    """The worker processes of a command."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, line = (path / "stat").read_text(), (path / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and "spawn_main" in line:
            found.append(int(path.name))
    return found


def wait_until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """`failing(word)`: archs whose text form ends with the word cannot be measured from now on;
    gives the list of those that were tried.
    """

    def fail(word: str) -> list[str]:
        tried: list[str] = []
        measure = SupernetEvaluator.__call__

        def measured(self: Any, archs: Sequence[Any], **how: Any) -> list[float]:
            bad = [str(arch) for arch in archs if str(arch).endswith(word)]
            tried.extend(bad)
            if bad:
                raise RuntimeError(f"out of memory\nin {bad[0]}")
            return measure(self, archs, **how)

        monkeypatch.setattr(SupernetEvaluator, "__call__", measured)
        return tried

    return fail


def test_killed_workers_and_a_killed_command_change_nothing(
    job: Job, tmp_path: Path, call: Call
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = ("evolve", f"--supernet={job.supernet}", *SMALL)
    assert call(*asked, f"--out={whole}").code == 0
    process = subprocess.Popen(
        command(*asked, f"--out={killed}", "--workers=2"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    measured = killed / "measured.jsonl"
    with process:
        try:
            wait_until(lambda: lines(measured))
            first = worker_processes(process.pid)
            assert len(first) == 2
            os.kill(first[0], signal.SIGKILL)
            done = lines(measured)
            wait_until(lambda: set(worker_processes(process.pid)) - set(first))
            wait_until(lambda: lines(measured) > done)
            left = worker_processes(process.pid)
        finally:
            process.kill()
    wait_until(lambda: not [x for x in left if Path(f"/proc/{x}").exists()])
    resumed = call("evolve", "--resume", f"--out={killed}")
    assert resumed.code == 0, resumed.err
    for name in ("front.json", "evaluations.jsonl", "history.csv", "front.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    archs = [json.loads(line)["arch"] for line in measured.read_text().splitlines()]
    assert len(archs) == len(set(archs))


def test_an_arch_that_fails_is_left_out_of_a_search(
    job: Job, tmp_path: Path, call: Call, failing: Callable[[str], list[str]]
) -> None:
    tried = failing("_e3k3")
    out = tmp_path / "evolve"
    done = call("evolve", f"--supernet={job.supernet}", *SMALL, f"--out={out}")
    assert done.code == 1
    found = json.loads((out / "front.json").read_text())
    bad = sorted(set(tried))
    assert bad and sorted(found["left_out"]) == bad
    last = done.err.splitlines()[-1]
    assert last.startswith(f"mobilenas: {len(bad)} of the archs could not be measured: {bad[0]} (")
    assert "RuntimeError: out of memory in " in last
    assert all(sum(x == arch for x in tried) >= 2 for arch in bad)  # alone, and once in company
    rows = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    assert found["evaluations"] == len(rows) > 20
    assert not {row["arch"] for row in rows} & set(bad)
    before = contents(out)
    tried.clear()
    again = call("evolve", "--resume", f"--out={out}")
    assert (again.code, again.out) == (1, done.out)
    assert contents(out) == before and not tried


def test_an_arch_that_fails_is_left_out_of_a_ranking_until_it_does_not(
    job: Job, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, out = write_truth(tmp_path / "truth.csv", job), tmp_path / "rank"
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--no-zero-cost", "--out"]
    assert call(*asked, tmp_path / "whole").code == 0
    bad = truth.read_text().splitlines()[3].partition(",")[0]
    measure = workers.measure_archs

    def measured(evaluator: Any, seed: int, what: str, archs: Sequence[str]) -> Any:
        if bad in archs:
            raise ValueError("not this one")
        return measure(evaluator, seed, what, archs)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "measure_archs", measured)
        done = call(*asked, out)
    assert done.code == 1
    assert f"1 of the archs could not be measured: {bad} (ValueError: not this one" in done.err
    found = json.loads((out / "rank.json").read_text())
    assert found["n"] == 39 and bad not in {row["arch"] for row in found["archs"]}
    assert call(*asked, out, "--resume").code == 0
    name = "rank.json"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_sweep_measures_an_arch_once_and_finds_what_single_searches_find(
    job: Job, tmp_path: Path, call: Call
) -> None:
    out, small = tmp_path / "sweep", ("--population=6", "--generations=3")
    asked = ("sweep", f"--supernet={job.supernet}", "--flops=0.9M,1.2M", "--params=60k,90k")
    done = call(*asked, *small, f"--out={out}")
    assert done.code == 0, done.err
    found = json.loads((out / "sweep.json").read_text())
    names = [row["budget"] for row in found["budgets"]]
    assert names == [f"flops-{f}_params-{p}" for f in ("0.9M", "1.2M") for p in ("60k", "90k")]
    searched = json.loads((out / names[-1] / "front.json").read_text())
    assert searched == json.loads((job.search / "front.json").read_text())
    archs = [json.loads(x)["arch"] for x in (out / "measured.jsonl").read_text().splitlines()]
    assert found["measured"] == len(archs) == len(set(archs)) < found["evaluations"]
    best = found["budgets"][-1]["best"]
    assert best["arch"] in done.out
    assert best["score"] == max(row["score"] for row in searched["front"])
    check_refused(call(*asked, *small, f"--out={out}"), str(out), "--resume")
    before = contents(out)
    (out / "sweep.json").unlink()
    (out / names[-1] / "front.json").unlink()
    again = call(*asked, *small, f"--out={out}", "--resume")
    assert (again.code, again.out) == (0, done.out)
    assert contents(out) == before
    other = call(*asked[:3], *small, f"--out={out}", "--resume")
    check_refused(other, "another budgets")


def test_a_sweep_does_not_go_on_with_a_search_that_was_there(
    job: Job, tmp_path: Path, call: Call
) -> None:
    small = (f"--supernet={job.supernet}", "--population=6", "--generations=2")
    out = tmp_path / "sweep"
    assert call("evolve", *small, "--flops=1.2M", f"--out={out / 'flops-1.2M'}").code == 0
    refused = call("sweep", *small, "--flops=0.9M,1.2M", f"--out={out}")
    assert refused.code == 2 and "flops-1.2M already holds a run" in refused.err
    assert not (out / "run.json").exists() and not (out / "flops-0.9M").exists()


def test_sweeps_that_make_no_sense(job: Job, tmp_path: Path, call: Call) -> None:
    asked = ("sweep", f"--supernet={job.supernet}", f"--out={tmp_path / 'sweep'}")
    check_refused(call(*asked), "give budgets")
    check_refused(call(*asked, "--flops=1M,1M"), "flops-1M is given twice")
    check_refused(call(*asked, "--flops=1M,1.0M"), "flops-1.0M is given twice")
    check_refused(call(*asked, "--flops=1M,"), "''")
    check_refused(call(*asked, "--latency=10ms"), "10ms")
    check_refused(call(*asked, "--flops=1M,1k"), "1k", code=3)
    check_refused(call(*asked, "--flops=1M", "--objectives=prediction"), "--truth")
    assert not (tmp_path / "sweep").exists()
