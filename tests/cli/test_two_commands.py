"""Two commands on one run folder: the second gets one line, and the first ends as if alone."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from helpers import (
    ALONE,
    ENVIRONMENT,
    TINY,
    TINY_ARCH,
    TINY_SPACE,
    Call,
    Job,
    check_refused,
    command,
    contents,
    forked,
    mobilenas,
    mobilenas_json,
    untimed,
)

from mobilenas.runs.lock import held

TRAIN = ["train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", *ALONE, "--seed=3"]
TRAIN += ["--set=checkpoint_seconds=0"]


@contextmanager
def stopped(folder: Path, file: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that stands still, at work, as soon as its run folder has a file."""
    with subprocess.Popen(command(*arguments), env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 200
            while not (folder / file).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline, "nothing within 200 s"
                time.sleep(0.002)
            process.send_signal(signal.SIGSTOP)
            yield process
            process.send_signal(signal.SIGCONT)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err.decode()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    mobilenas_json(*TRAIN, f"--out={folder}")
    return folder


def test_a_training_is_not_disturbed_by_a_second_one(
    unbroken: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    out = f"--out={run}"
    with stopped(run, "checkpoint.pt", *TRAIN, out) as first:
        before = contents(run)
        for second in (["train", "--resume", out], [*TRAIN, out]):
            words = f"{run} is in use by process {first.pid} on {socket.gethostname()}"
            check_refused(call(*second), f"{words} (mobilenas train)")
        assert contents(run) == before
    ours, theirs = untimed(run), untimed(unbroken)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["timing.json"]


def test_a_search_is_not_disturbed_by_one_with_another_seed(
    job: Job, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    search = ["evolve", f"--supernet={job.supernet}", "--flops=1.2M", "--population=6"]
    search += ["--generations=3", f"--out={run}"]
    with stopped(run, "evaluations.jsonl", *search, "--seed=1"):
        for other in ("--seed=2", "--resume"):
            check_refused(call(*search, other), f"{run} is in use", "(mobilenas evolve)")
    done = contents(run)
    assert call(*search, "--seed=1", "--resume").code == 0
    assert contents(run) == done


def test_a_killed_training_is_resumed_at_once(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = forked(*TRAIN, f"--out={run}")
    deadline = time.monotonic() + 200  # of a machine that has much to do
    while not (run / "checkpoint.pt").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline, "no step within 200 s"
        time.sleep(0.002)
    process.kill()
    process.join()
    assert (run / ".lock").exists()
    resumed = mobilenas("train", "--resume", f"--out={run}")
    assert resumed.code == 0, resumed.err
    assert f"was left by process {process.pid}, which has ended" in resumed.err
    ours, theirs = untimed(run), untimed(unbroken)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["timing.json"]


def test_every_command_that_writes_a_run_folder_takes_its_lock(
    job: Job, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    other = os.fork()
    if other == 0:  # a process that holds them all
        model = held(tmp_path / "model.onnx", "export", is_file=True)
        parts = [tmp_path / name for name in ("all/train", "sweep/flops-1M", "rounds/round-2")]
        with ExitStack() as locks:
            for part in parts:
                locks.enter_context(held(part, "train"))
            locks.enter_context(held(run, "train"))
            locks.enter_context(model)
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        truth = tmp_path / "truth.csv"
        truth.write_text("arch,accuracy\n")
        supernet = f"--supernet={job.supernet}"
        for arguments in (
            ["supernet-train", f"--space={TINY_SPACE}", *TINY],
            ["supernet-train", "--resume"],
            ["rank", supernet, f"--truth={truth}"],
            ["evolve", supernet],
            ["train", "--resume"],
            ["convert", "net.json", "net.npz"],
            ["latency", "build", f"--space={TINY_SPACE}", "--device=x", f"--tables={tmp_path}"],
            ["detect", "train", "--resume"],
        ):
            if arguments[0] == "detect":
                pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")
            outcome = call(*arguments, f"--out={run}")
            check_refused(outcome, f"{run} is in use by process {other} on")
        check_refused(call("quickstart", f"--out={tmp_path / 'all'}"), "train is in use")
        sweep = ("sweep", supernet, "--flops=1M,2M", f"--out={tmp_path / 'sweep'}")
        check_refused(call(*sweep), "flops-1M is in use")
        rounds = ("--objectives=prediction", "--rounds=2", "--preset=digits")
        outcome = call("evolve", supernet, *rounds, f"--out={tmp_path / 'rounds'}")
        check_refused(outcome, "round-2 is in use")
        model = tmp_path / "model.onnx"
        export = ("export", "--onnx", f"--run={job.search}", f"--out={model}")
        check_refused(call(*export), f"{model} is in use by process {other}")
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
            *("held", "truth.csv", ".lock", ".model.onnx.lock")
        }
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
