"""Killing the training of a supernet at a step."""

from typing import Any

import pytest

from mobilenas.stages.supernet_train import train_supernet
from mobilenas.train.supernets import SupernetRun
from mobilenas.train.trainer import Trainer


def kill_at(patch: pytest.MonkeyPatch, run: SupernetRun, stop: int) -> None:
    original = Trainer.step

    def dies(trainer: Trainer, n: int, *rest: Any) -> None:
        if n == stop:
            raise KeyboardInterrupt
        original(trainer, n, *rest)

    with patch.context() as context:
        context.setattr(Trainer, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            train_supernet(run)
