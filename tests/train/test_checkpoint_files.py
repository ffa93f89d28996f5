"""Checkpoints on disk: they come back, run no code, and are refused in one line when damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Supernet
from mobilenas.space import load_space
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint

SPACE = load_space("macro:width=0.125,resolution=8")


@pytest.fixture
def supernet(unlike_fresh: Callable[..., nn.Module]) -> Supernet:
    supernet = Supernet(SPACE, generator=torch.Generator().manual_seed(0))
    unlike_fresh(supernet)
    return supernet


@pytest.fixture
def checkpoint(tmp_path: Path, supernet: Supernet) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 3, "loss_sum": 0.5, "module": supernet.state_dict()})
    return path


def test_a_checkpoint_comes_back_without_pickled_code(checkpoint: Path, supernet: Supernet) -> None:
    state = load_checkpoint(checkpoint)
    assert (state["step"], state["loss_sum"]) == (3, 0.5)
    weights = supernet.state_dict()
    assert state["module"].keys() == weights.keys()
    assert all(torch.equal(state["module"][name], value) for name, value in weights.items())
    assert torch.load(checkpoint, weights_only=True)["step"] == 3
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


class Evil:
    """Unpickled by a careless reader, this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"module": Evil(tmp_path / "run")}, tmp_path / "evil.pt")
    with pytest.raises(BadInput, match=r"evil\.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no checkpoint at .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.9, 0.999])
def test_a_torn_checkpoint_is_refused(share: float, checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput, match=r"checkpoint\.pt is not a readable checkpoint"):
        load_checkpoint(checkpoint)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "content", [b"hello", b"\x80\x02}q\x00.", b"\x00" * 64, b"PK\x03\x04", b"{}\n", b"\x80\xff" * 9]
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"other\.pt is not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_changed_anywhere_are_refused_or_harmless(checkpoint: Path) -> None:
    """Never another kind of error, whatever the disk has done to the file."""
    whole, rng = checkpoint.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        # Half of the hits are in the pickled part at the front, where they do most.
        end = 6000 if rng.random() < 0.5 else len(whole)
        for position in rng.integers(0, end, size=rng.integers(1, 8)):
            damaged[position] = rng.integers(256)
        checkpoint.write_bytes(bytes(damaged))
        try:
            load_checkpoint(checkpoint)
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 30
