"""`search` killed by SIGKILL at instants that are drawn: nothing can be tidied up then."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import Call, contents, forked, mobilenas
from searched import asked_for

from mobilenas.strategies.methods import METHODS

KILLS = 10
OPTIONS = [
    ("drnas", "prune_to=2"),
    ("gaea", "backbone=gdas"),
    ("gaea", "level=single"),
    ("darts", "order=2"),
]


def is_at_work(pid: int | None, out: Path) -> bool:
    lock = out / ".lock"
    return (out / "run.json").exists() and lock.exists() and str(pid) in lock.read_text()


def written(folder: Path) -> set[tuple[str, int]]:
    """The logs and checkpoints of a run, and when they were last written."""
    files = [*folder.rglob("*.jsonl"), *folder.rglob("checkpoint.pt")]
    return {(str(file), file.stat().st_mtime_ns) for file in files}


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of a run that have no times in them."""
    passing = ("timing.json", "checkpoint.pt", ".lock", "run.json", "kept.json")
    return {
        path: content
        for path, content in contents(folder).items()
        if not path.endswith(passing) and "tensorboard" not in path
    }


@pytest.mark.parametrize("name, option", [*((name, "") for name in METHODS), *OPTIONS])
def test_whatever_the_instant_the_end_is_the_same(
    name: str, option: str, tmp_path: Path, call: Call
) -> None:
    asked = [*asked_for(name, tmp_path, call), "--set=epochs=2"]
    if option:
        asked.append(f"--set={option}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert mobilenas(*asked, f"--out={whole}").code == 0
    longest = (time.monotonic() - began) / KILLS
    rng, kills = np.random.default_rng(sum(map(ord, name + option))), 0
    while kills < KILLS:
        if (killed / "front.json").exists():  # it was faster than the whole one: another one
            assert lasting(killed) == lasting(whole)
            shutil.rmtree(killed)
        words = ["search", "--resume"] if (killed / "run.json").exists() else asked
        before = written(killed)
        process = forked(*words, f"--out={killed}")
        while process.is_alive() and not is_at_work(process.pid, killed):
            time.sleep(0.001)
        # Every other one gets on by a step at least, so that later ones are killed later.
        while kills % 2 and process.is_alive() and written(killed) == before:
            time.sleep(0.001)
        process.join(rng.uniform(0, longest))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    done = mobilenas("search", "--resume", f"--out={killed}")
    assert done.code == 0, done.err
    assert lasting(killed) == lasting(whole)
