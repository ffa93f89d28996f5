"""Worker processes of a training's loader: what they draw."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mobilenas.base.randomness import borrowed_generators
from mobilenas.detect.hooks import SeedHook

Draws = list[list[float]]


class Drawn(Dataset[list[float]]):
    """What an augmentation would draw: of random, numpy and torch."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[float]:
        return [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002


def epochs(seed: int, rank: int = 0, first: int = 0, workers: int = 1) -> list[Draws]:
    """The draws of epochs `first` to 2 of a run."""
    loader = DataLoader(Drawn(), batch_size=None, num_workers=workers)
    drawn = []
    with borrowed_generators() as start:
        hook = SeedHook(start, seed)
        for epoch in range(first, 3):
            hook.before_train_epoch(
                SimpleNamespace(epoch=epoch, rank=rank, train_dataloader=loader)  # type: ignore[arg-type]
            )
            drawn.append(list(loader))
    return drawn


def test_workers_draw_anew_in_every_epoch_as_in_a_resumed_run() -> None:
    run = epochs(3)
    # 3 epochs of 4 images: no number of any generator comes twice.
    numbers = np.array(run).reshape(12, 3)
    assert [len(np.unique(column)) for column in numbers.T] == [12, 12, 12]
    assert epochs(3, first=1) == run[1:]
    assert not np.isin(epochs(4, first=2), numbers).any()
    assert not np.isin(epochs(3, rank=1, first=2), numbers).any()


def test_workers_differ_from_each_other() -> None:
    (drawn,) = epochs(3, first=2, workers=2)
    assert len(np.unique(drawn)) == 12
