"""No space left while `train` writes: one line, the old files intact, and a later run goes on.

The writes that fail go to /dev/full, so the error is the kernel's.
"""

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from helpers import ALONE, ENVIRONMENT, TINY_ARCH, TINY_SPACE, Call, check_refused, command, untimed

from mobilenas.base import files
from mobilenas.base.files import read_jsonl
from mobilenas.nn.saved import load_network
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.train.checkpoint import load_checkpoint

FULL = Path("/dev/full")
# 20 steps with a checkpoint after each, validated after every fifth.
TRAIN = ["train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", *ALONE, "--seed=3"]
TRAIN += ["--set=checkpoint_seconds=0", "--set=validate_every=0.5", "--set=ema_decay=0.9"]

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is a device of Linux")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that TRAIN makes where there is space."""
    overrides = [item.removeprefix("--set=") for item in TRAIN if item.startswith("--set=")]
    asked = Asked(TINY_SPACE, TINY_ARCH, seed=3, preset="digits", overrides=tuple(overrides))
    settings = training_settings(asked)
    run = create_network_run(tmp_path_factory.mktemp("unbroken") / "run", settings)
    train_network(run)
    finish_train(run)
    return run.folder.path


def fill_the_disk(patch: pytest.MonkeyPatch, name: str, writes: int) -> None:
    """After so many writes of files of this name, none of any file finds space."""
    write_synced, left = files._write_synced, writes

    def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
        nonlocal left
        left -= path.name.startswith(f".{name}.")
        write_synced(path if left >= 0 else FULL, fill)

    patch.setattr(files, "_write_synced", write)


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("checkpoint.pt", 12),
        ("checkpoint.pt", 9),  # right after the network of a validation was saved
        ("model.safetensors", 1),
        ("config.json", 1),
        ("log.jsonl", 7),
        ("log.jsonl", 0),
    ],
)
def test_a_full_disk_stops_in_one_line_and_loses_nothing(
    name: str,
    writes: int,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_the_disk(patch, name, writes)
        outcome = call(*TRAIN, f"--out={run}")
        check_refused(outcome, "No space left on device", code=1)
    assert not (run / "result.json").exists()
    assert not list(run.rglob(".*"))
    done = 0
    if (run / "checkpoint.pt").exists():
        done = load_checkpoint(run / "checkpoint.pt")["progress"]["step"]
    expected = {"checkpoint.pt": writes, "log.jsonl": writes}
    assert done == expected.get(name, done)
    assert 0 < done < 20 or name == "log.jsonl"
    if done >= 5:
        load_network(run / "network")
    assert len(read_jsonl(run / "log.jsonl")) >= done

    resumed = call("train", "--resume", f"--out={run}")
    assert resumed.code == 0, resumed.err
    ours, theirs = untimed(run), untimed(unbroken)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == ["timing.json"]


def test_a_file_that_may_not_be_as_large(unbroken: Path, tmp_path: Path) -> None:
    """The kernel takes a part of the checkpoint, and then no more: torch would not stop at that."""
    run, limit = tmp_path / "run", 100_000
    assert (unbroken / "checkpoint.pt").stat().st_size > limit
    stopped = subprocess.run(
        command(*TRAIN, f"--out={run}"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert stopped.returncode == 1
    lines = [line for line in stopped.stderr.splitlines() if "images" not in line]
    assert lines == ["mobilenas: [Errno 27] File too large"]
    assert not list(run.rglob(".*"))
    assert not (run / "checkpoint.pt").exists()


def test_tensorboard_meets_a_full_disk_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Its thread would print a traceback of its own."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
        outcome = call(*TRAIN, f"--out={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "mobilenas: [Errno 28] No space left on device"
    assert "Traceback" not in outcome.err
    assert call("train", "--resume", f"--out={tmp_path / 'run'}").code == 0


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_the_disk(patch, "run.json", 0)
        check_refused(call(*TRAIN, f"--out={run}"), "No space left on device", code=1)
    assert not (run / "run.json").exists()
    assert call(*TRAIN, "--set=epochs=0.1", f"--out={run}").code == 0
