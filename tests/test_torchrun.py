"""`torchrun --nproc-per-node 2 -m mobilenas ...`: the folders that one process writes."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers import ALONE, ENVIRONMENT, TINY, TINY_ARCH, TINY_SPACE, torchrun, untimed

from mobilenas.base.files import read_json, read_jsonl
from mobilenas.cost.budget import Budget
from mobilenas.space import load_space
from mobilenas.stages.gradient_run import create_search_run
from mobilenas.stages.search import run_search
from mobilenas.stages.supernet_train import create_supernet_run, score_supernet, train_supernet
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.strategies.methods import load_search_config
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import load_supernet_config
from mobilenas.train.supernets import open_supernet_run

STEPS = 8  # 1 pass over 200 images in steps of 3 * 16, in whole super-steps of 4
# A small rate: in float32, rounding grows by orders of magnitude within a few large steps.
SETTINGS = [
    *(item.removeprefix("--set=") for item in TINY[1:]),
    "passes=1",
    # In float32 a rounding may carry a value over the kink of an activation, after which two
    # trainings differ. tests/train/test_distributed.py compares shared weights in float64.
    "sharing=none",
    "lr=0.002",
    "warmup_epochs=0",
]
TRAIN = ["supernet-train", f"--space={TINY_SPACE}", "--preset=quick", "--seed=3"]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        torchrun(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def train(folder: Path, *settings: str) -> list[str]:
    chosen = [*SETTINGS, "sync_bn=true", *settings]
    return [*TRAIN, *(f"--set={item}" for item in chosen), f"--out={folder}"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet that two processes have trained in one go."""
    folder = tmp_path_factory.mktemp("two") / "supernet"
    done = run(*train(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: mobilenas evolve") == 1
    assert done.stderr.count("supernet 100%") == 1
    return folder


def check_weights(found: Path, expected: Path, part: str = "module") -> None:
    ours, theirs = (load_checkpoint(path / "checkpoint.pt")[part] for path in (found, expected))
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4)


def test_two_processes_write_what_one_does(unbroken: Path, tmp_path: Path) -> None:
    config = load_supernet_config("quick", [*SETTINGS, "sync_bn=true"])
    single = create_supernet_run(tmp_path / "one", load_space(TINY_SPACE), "digits", 3, config)
    train_supernet(single)
    score_supernet(single)
    check_weights(unbroken, single.folder.path)
    ours, theirs = untimed(unbroken), untimed(single.folder.path)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ("run.json", "splits.json"))
    logs = [read_jsonl(folder / "log.jsonl") for folder in (unbroken, single.folder.path)]
    assert [row["step"] for row in logs[0]] == list(range(1, STEPS + 1))
    for row, expected in zip(*logs, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert read_json(unbroken / "timing.json")["processes"] == 2


def test_torchrun_killed_and_resumed_ends_with_the_same_bytes(
    unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "supernet"
    deadline = time.monotonic() + 60
    with subprocess.Popen(torchrun(*train(folder)), env=ENVIRONMENT, stderr=subprocess.PIPE) as job:
        assert job.stderr is not None
        while len(read_jsonl(folder / "log.jsonl")) < 2:
            assert job.poll() is None, job.stderr.read().decode()
            assert time.monotonic() < deadline, "no step within 60 s"
            time.sleep(0.002)
        os.kill(job.pid, signal.SIGKILL)
        job.stderr.read()  # its processes hold the other end: they have ended too
    assert load_checkpoint(folder / "checkpoint.pt")["progress"]["step"] < STEPS
    shutil.copytree(folder, tmp_path / "one")

    done = run("supernet-train", "--resume", f"--out={folder}")
    assert done.returncode == 0, done.stderr
    ours, theirs = untimed(folder), untimed(unbroken)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["timing.json"]

    train_supernet(open_supernet_run(tmp_path / "one"))  # with another number of processes
    check_weights(tmp_path / "one", unbroken)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc is of Linux")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_is_one_line_and_a_run_to_resume(lost: int, tmp_path: Path) -> None:
    folder = tmp_path / "supernet"
    pipe = subprocess.PIPE
    start = torchrun(*train(folder, "passes=1000"))
    with subprocess.Popen(start, env=ENVIRONMENT, stderr=pipe, text=True) as job:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoint.pt").exists():
            assert job.poll() is None
            assert time.monotonic() < deadline, "no step within 60 s"
            time.sleep(0.01)
        ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        of_rank = {environment(pid)["RANK"]: int(pid) for pid in ranks}
        os.kill(of_rank[str(lost)], signal.SIGKILL)
        _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    (line,) = [line for line in err.splitlines() if line.startswith("mobilenas: ")]
    assert "a process of the training was lost" in line
    assert "--resume" in line
    assert "gloo" not in err
    done = load_checkpoint(folder / "checkpoint.pt")["progress"]["step"]
    assert done > 0


def environment(pid: str) -> dict[str, str]:
    items = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(item.partition("=")[::2] for item in items)


def test_two_processes_train_a_network_alone_as_one_does(tmp_path: Path) -> None:
    """Mixed images have their partners, and each validation image is counted once."""
    settings = [item.removeprefix("--set=") for item in ALONE if item.startswith("--set=")]
    settings += ["sync_bn=true", "lr=0.002", "warmup_epochs=0", "epochs=0.8", "validate_every=0.4"]
    settings += ["mixup=0.4", "cutmix=1.0", "ema_decay=0.5", "validate_images=61"]
    two, one = tmp_path / "two", tmp_path / "one"
    arch = (f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", "--preset=digits", "--seed=3")
    done = run("train", *arch, *(f"--set={item}" for item in settings), f"--out={two}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: mobilenas export") == 1

    asked = Asked(TINY_SPACE, TINY_ARCH, seed=3, preset="digits", overrides=tuple(settings))
    single = create_network_run(one, training_settings(asked))
    train_network(single)
    finish_train(single)
    for part in ("module", "average"):
        check_weights(two, one, part)
    logs = [read_jsonl(folder / "log.jsonl") for folder in (two, one)]
    assert [row["step"] for row in logs[0] if "accuracy" in row] == [4, 8]
    for row, expected in zip(*logs, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    results = [read_json(folder / "result.json") for folder in (two, one)]
    assert results[0] == results[1]
    ours, theirs = (untimed(folder) for folder in (two, one))
    assert all(ours[name] == theirs[name] for name in ("run.json", "splits.json"))
    assert read_json(two / "timing.json")["processes"] == 2


def test_two_processes_search_by_gradient_as_one_does(tmp_path: Path) -> None:
    """The same draws in both, and architecture and weights learnt from the joint batches."""
    settings = [*("epochs=0.6", "weights_first=0.25", "batch_size=16", "limit=200"), "lr=0.002"]
    settings += ["validate_images=60", "warmup_epochs=0", "sync_bn=true", "device=cpu"]
    two, one = tmp_path / "two", tmp_path / "one"
    search = ("search", "--strategy=gdas", f"--space={TINY_SPACE}", "--preset=cpu", "--seed=3")
    done = run(*search, "--flops=1M", *(f"--set={item}" for item in settings), f"--out={two}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: mobilenas train") == 1

    config = load_search_config("gdas", "cpu", settings)
    budget = Budget({"flops": 1_000_000})
    space = load_space(TINY_SPACE)
    single = create_search_run(one, "gdas", space, "digits", 3, config, budget)
    run_search(single)
    check_weights(two, one)
    logs = [read_jsonl(folder / "log.jsonl") for folder in (two, one)]
    for row, expected in zip(*logs, strict=True):
        assert row.pop("arch", None) == expected.pop("arch", None)
        assert row == pytest.approx(expected, rel=1e-3)
    ours, theirs = (untimed(folder) for folder in (two, one))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ("run.json", "splits.json"))
    fronts = [read_json(folder / "front.json") for folder in (two, one)]
    for name in ("front", "most_probable", "passes", "settings"):
        assert fronts[0][name] == fronts[1][name]
    for found, expected in zip(*(front["probabilities"] for front in fronts), strict=True):
        assert found == pytest.approx(expected, abs=1e-3)


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    done = run(*train(tmp_path / "supernet", "batch_size=18"))
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("mobilenas: ")]
    assert len(lines) == 1
    assert "batch_size 18: with 2 processes it must be a multiple of 4" in lines[0]
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "supernet").exists()
