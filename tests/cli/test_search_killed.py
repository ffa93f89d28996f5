"""`search` killed by SIGKILL at instants that are drawn: nothing can be tidied up then."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ENVIRONMENT, Call, command, contents
from searched import asked_for

from mobilenas.strategies.methods import METHODS

KILLS = 2


def is_at_work(pid: int, out: Path) -> bool:
    lock = out / ".lock"
    return (out / "run.json").exists() and lock.exists() and str(pid) in lock.read_text()


OPTIONS = [
    ("drnas", "prune_to=2"),
    ("gaea", "backbone=gdas"),
    ("gaea", "level=single"),
    ("darts", "order=2"),
]


@pytest.mark.parametrize("name, option", [*((name, "") for name in METHODS), *OPTIONS])
def test_whatever_the_instant_the_end_is_the_same(
    name: str, option: str, tmp_path: Path, call: Call
) -> None:
    asked = [
        *asked_for(name, tmp_path, call),
        "--set=epochs=3",
        *([f"--set={option}"] if option else []),
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*asked, f"--out={whole}").code == 0
    rng, codes = np.random.default_rng(sum(map(ord, name + option))), []
    for _ in range(KILLS):
        words = ["search", "--resume"] if (killed / "run.json").exists() else asked
        with subprocess.Popen(
            command(*words, f"--out={killed}"),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and not is_at_work(process.pid, killed):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.2))
            process.kill()
        codes.append(process.returncode)
    assert -9 in codes
    done = call("search", "--resume", f"--out={killed}")
    assert done.code == 0, done.err
    passing = ("timing.json", "checkpoint.pt", ".lock", "run.json", "kept.json")  # have times
    left = [
        {
            path: content
            for path, content in contents(folder).items()
            if not path.endswith(passing) and "tensorboard" not in path
        }
        for folder in (whole, killed)
    ]
    assert left[0] == left[1]
