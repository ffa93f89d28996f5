"""`search` killed by SIGKILL within what it does in one go: half of a checkpoint is written, or the
architecture has moved and the weights have not.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from helpers import Call, forked, mobilenas
from searched import asked_for
from test_search_killed import lasting
from torch import Tensor

from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train import checkpoint
from mobilenas.train.checkpoint import load_checkpoint

WITHIN = 4  # the checkpoint that is not written to its end


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_within_checkpoint() -> None:
    original, calls = checkpoint.write_atomic, []

    def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
        def write_half(file: BinaryIO) -> None:
            write(file)
            file.truncate(file.tell() // 2)
            die()

        calls.append(path)
        original(path, write_half if len(calls) == WITHIN else write)

    checkpoint.write_atomic = write_atomic  # type: ignore[assignment]


def die_after(owner: type, method: str, number: int) -> None:
    """Once a method of a class has been called so often."""
    original, calls = getattr(owner, method), []

    def called(*given: Any) -> Any:
        result = original(*given)
        calls.append(given)
        if len(calls) == number:
            die()
        return result

    setattr(owner, method, called)


def architecture_step(name: str, setting: str) -> Callable[[], None]:
    """What dies in one of the first of them: once the parameters have moved, or the weights, which
    were to be put back.
    """
    if name == "zarts":
        return partial(die_after, SearchStep, "try_training", 3)
    if setting == "order=2":  # the third of four in the second step
        return partial(die_after, SearchStep, "gradient", 7)
    return partial(die_after, METHODS[name].strategy, "apply", 2)


def learnt(folder: Path) -> list[Tensor]:
    """The parameters of the architecture that a run ended with."""
    stored = load_checkpoint(folder / "checkpoint.pt")["task"]["strategy"]["parameters"]
    assert isinstance(stored, list) and stored
    return stored


@pytest.mark.parametrize(
    "name, setting",
    [
        ("darts", ""),
        ("darts", "order=2"),
        ("pc-darts", ""),
        ("gdas", ""),
        ("proxyless", ""),
        ("parsec", ""),
        ("zarts", ""),
    ],
)
def test_a_resume_ends_in_the_same_bytes(
    name: str, setting: str, tmp_path: Path, call: Call
) -> None:
    asked = asked_for(name, tmp_path, call)
    if setting:
        asked.append(f"--set={setting}")
    whole = tmp_path / "whole"
    assert mobilenas(*asked, f"--out={whole}").code == 0
    within = {"write": die_within_checkpoint, "learn": architecture_step(name, setting)}
    for where, patch in within.items():
        killed = tmp_path / where
        process = forked(*asked, f"--out={killed}", patch=patch)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        step = load_checkpoint(killed / "checkpoint.pt")["progress"]["step"]
        assert step == WITHIN - 1 if where == "write" else 0 < step < 10
        done = mobilenas("search", "--resume", f"--out={killed}")
        assert done.code == 0, done.err
        assert lasting(killed) == lasting(whole)
        for found, expected in zip(learnt(killed), learnt(whole), strict=True):
            assert torch.equal(found, expected)
