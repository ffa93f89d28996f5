"""kill -9 at any instant, then --resume: the same bytes as a run that nothing happened to.

The kills wait for something to appear on disk and then, for a seeded moment, for nothing, so they
fall anywhere in a step; each test proves that the killed process had not finished.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    ALONE,
    TINY,
    TINY_ARCH,
    TINY_SPACE,
    contents,
    forked,
    mobilenas_json,
    untimed,
)

STEPS = 28  # 6 passes over 200 images in steps of 3 * 16, in whole super-steps of 4
TRAIN = ["supernet-train", f"--space={TINY_SPACE}", *TINY, "--set=passes=6", "--seed=3"]
# 40 steps; all that draws: policies in a worker process, mixed images, dropout, drop path.
ALONE_TRAIN = ["train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", *ALONE, "--seed=3"]
ALONE_TRAIN += ["--set=epochs=4", "--set=checkpoint_seconds=0", "--set=ema_decay=0.9"]
ALONE_TRAIN += ["--set=auto_augment=rand-m9-mstd0.5-inc1", "--set=workers=1"]
ALONE_TRAIN += ["--set=mixup=0.2", "--set=drop_rate=0.2", "--set=drop_path_rate=0.1"]
SEARCH = ["--flops=1.2M", "--population=6", "--generations=6", "--seed=5"]


def kill_when(arguments: list[str], count: Callable[[], int], wanted: int, delay: float) -> None:
    """Start a command and kill it `delay` seconds after `count()` has reached `wanted`.

    What was counted before must never become less: a resumed run goes on, it does not start over.
    """
    least, deadline = count(), time.monotonic() + 60
    process = forked(*arguments)
    try:
        while (now := count()) < wanted:
            assert now >= least, f"{least} were there already, now {now}"
            assert process.is_alive(), f"it ended with exit code {process.exitcode}"
            assert time.monotonic() < deadline, f"{now} of {wanted} after 60 s"
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended before the kill"


def rows(path: Path) -> Callable[[], int]:
    """A count of the whole lines of a file, 0 where there is none."""
    return lambda: path.read_bytes().count(b"\n") if path.exists() else 0


def differences(a: Any, b: Any, name: str = "state") -> Iterator[str]:
    """Where two states of tensors and plain values differ, to the bit."""
    if isinstance(a, list) and isinstance(b, list):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if key in a and key in b:
                yield from differences(a[key], b[key], f"{name}.{key}")
            else:
                yield f"{name}.{key}"
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        if not (same and a.numpy().tobytes() == b.numpy().tobytes()):
            yield name
    elif type(a) is not type(b) or a != b:
        yield name


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet that was trained in one go."""
    folder = tmp_path_factory.mktemp("unbroken") / "supernet"
    mobilenas_json(*TRAIN, f"--out={folder}")
    return folder


def test_training_killed_three_times_ends_with_the_same_bytes(
    unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "supernet"
    log, checkpoint = folder / "log.jsonl", folder / "checkpoint.pt"
    moments = random.Random(0)
    start, resume = [*TRAIN, f"--out={folder}"], ["supernet-train", "--resume", f"--out={folder}"]

    kill_when(start, lambda: (folder / "run.json").exists(), 1, delay=0)
    assert not (folder / "result.json").exists()
    steps = [load(checkpoint)["progress"]["step"] if checkpoint.exists() else 0]
    for wanted in (steps[0] + 2, steps[0] + 11):
        kill_when(resume, rows(log), wanted, delay=moments.uniform(0, 0.2))
        assert not (folder / "result.json").exists()
        steps.append(load(checkpoint)["progress"]["step"])
    assert steps == sorted(set(steps))
    assert steps[-1] < STEPS

    mobilenas_json(*resume)
    states = [load(path / "checkpoint.pt") for path in (unbroken, folder)]
    assert states[0]["progress"]["step"] == STEPS
    assert any("momentum_buffer" in s for s in states[0]["optimizer"]["state"].values())
    assert list(differences(*states)) == []
    assert rows(unbroken / "log.jsonl")() == STEPS
    ours, theirs = untimed(folder), untimed(unbroken)
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if ours[name] != theirs[name]]
    assert differing == ["timing.json"]


def test_resume_of_a_finished_training_changes_nothing(unbroken: Path) -> None:
    before = contents(unbroken)
    mobilenas_json("supernet-train", "--resume", f"--out={unbroken}")
    assert contents(unbroken) == before


def test_a_search_killed_twice_ends_with_the_same_bytes(unbroken: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    search = ["evolve", f"--supernet={unbroken}", *SEARCH]
    total = mobilenas_json(*search, f"--out={whole}")["evaluations"]
    assert total >= 16

    moments = random.Random(0)
    count = rows(killed / "evaluations.jsonl")
    arguments = [*search, f"--out={killed}"]
    for wanted in (1, total // 2):
        kill_when(arguments, count, wanted, delay=moments.uniform(0, 0.03))
        assert wanted <= count() < total
        assert not (killed / "front.json").exists()
        arguments = [*search, f"--out={killed}", "--resume"]

    assert mobilenas_json(*arguments)["evaluations"] == total
    assert contents(killed) == contents(whole)
    assert {"front.json", "evaluations.jsonl", "history.csv"} < contents(whole).keys()


def test_a_training_alone_killed_twice_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = mobilenas_json(*ALONE_TRAIN, f"--out={whole}")

    moments = random.Random(1)
    count = rows(killed / "log.jsonl")
    arguments = [*ALONE_TRAIN, f"--out={killed}"]
    steps = [0]
    for wanted in (3, 22):
        kill_when(arguments, count, wanted, delay=moments.uniform(0, 0.1))
        steps.append(load(killed / "checkpoint.pt")["progress"]["step"])
        arguments = ["train", "--resume", f"--out={killed}"]
    assert 0 < steps[1] < steps[2] < 40
    assert not (killed / "result.json").exists()

    assert mobilenas_json(*arguments) == result | {"run": str(killed)}
    states = [load(folder / "checkpoint.pt") for folder in (whole, killed)]
    assert list(differences(*states)) == []
    assert states[0]["progress"]["step"] == rows(whole / "log.jsonl")() == 40
    ours, theirs = untimed(killed), untimed(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["timing.json"]
