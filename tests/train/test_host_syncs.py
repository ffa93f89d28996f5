"""No step and no evaluation waits for the device.

Tensors on torch's meta device have no values, so whatever would read one on the host, or copy it
there, raises; so does what computes with a tensor that was left on the CPU.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilenas.data import Augment, Images, Loader, Preparation
from mobilenas.evaluate.trie import accuracies
from mobilenas.nn import Network, Supernet
from mobilenas.space import load_space
from mobilenas.strategies import make_strategy
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train import trainer as trainer_module
from mobilenas.train.calibrate import count_right, recalibrate
from mobilenas.train.config import SupernetConfig
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer

SPACE = load_space("s1:width=0.125,resolution=16")
ARCHS = [SPACE.sample(np.random.default_rng(seed)) for seed in range(3)]
META = torch.device("meta")
READS = "meta tensor"  # in the message of what reads one


def images(count: int = 64) -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return Images(pixels, rng.integers(SPACE.num_classes, size=count))


def loader() -> Loader:
    return Loader(Preparation(16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)), META)


@pytest.fixture(autouse=True)
def no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither autocast nor generators know of the meta device."""
    monkeypatch.setattr(trainer_module, "fixed_generators", lambda *key, device: nullcontext())
    monkeypatch.setattr(Trainer, "autocast", lambda self: nullcontext())


@pytest.mark.parametrize("strategy", ["uniform", "fair"])
@pytest.mark.parametrize("clip", [None, 5.0])
def test_only_the_losses_are_read(strategy: str, clip: float | None) -> None:
    config = SupernetConfig(clip=clip)
    batches = loader().training(
        images(), np.arange(64), batch_size=8, seed=0, augment=Augment(cutout=4)
    )
    trainer = Trainer(Supernet(SPACE).to(META), config, batches, device=META)
    objective = Objective(config, SPACE.num_classes, 0, None)
    task = SupernetTask(make_strategy(strategy, SPACE, 0), config, objective, 64)  # type: ignore[arg-type]
    for n in range(9):
        task.step(trainer, n)
    with pytest.raises((NotImplementedError, RuntimeError), match=READS):
        trainer.read_losses()


def test_of_many_archs_only_the_accuracies_are_read() -> None:
    taken = []

    def batches(kind: str) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader().evaluation(images(), np.arange(64), 16):
            yield batch
            taken.append(kind)

    with pytest.raises((NotImplementedError, RuntimeError), match=READS):
        accuracies(
            Supernet(SPACE).to(META),
            ARCHS,
            calibration=lambda: (x for x, _ in batches("calibration")),
            validation=lambda: batches("validation"),
        )
    assert taken == ["calibration"] * 4 + ["validation"] * 4  # all, before the first is read


def test_of_a_network_only_the_accuracy_is_read() -> None:
    network = Network(SPACE, ARCHS[0]).to(META)
    batches = list(loader().evaluation(images(), np.arange(64), 16))
    recalibrate(network, (x for x, _ in batches))
    taken = []
    with pytest.raises((NotImplementedError, RuntimeError), match=READS):
        count_right(network, ((taken.append(0), batch)[1] for batch in batches))  # type: ignore[func-returns-value]
    assert len(taken) == 4
