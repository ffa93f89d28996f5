"""Supernets by recipes of every kind: streamed images, averages, teachers, float16."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_SPACE, untimed
from supernets import kill_at
from test_streamed_training import folders, in_parquet, in_tars  # noqa: F401 - a fixture

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.data import EncodedImages, Images, read_data
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.space import load_space
from mobilenas.stages.supernet_train import create_supernet_run, score_supernet, train_supernet
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.supernets import SupernetRun, open_supernet_run
from mobilenas.train.trainer import CHECKPOINT, Trainer

SPACE = load_space(TINY_SPACE)
SMALL: dict[str, Any] = {"batch_size": 8, "validate_images": 30, "calibrate_images": 32}
SMALL |= {"limit": 48, "passes": 4, "device": "cpu", "cutout": 0, "warmup_epochs": 1}
RICH: dict[str, Any] = {"ema_decay": 0.9, "optimizer": "adamw", "lr": 1e-3, "schedule": "step"}
RICH |= {"decay_epochs": 1, "decay_rate": 0.5, "mixup": 0.2, "distill_weight": 0.3}

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def create(folder: Path, data: object, **changes: Any) -> SupernetRun:
    config = SupernetConfig.model_validate(SMALL | changes)
    return create_supernet_run(folder, SPACE, str(data), 3, config)


def kept(run: SupernetRun) -> dict[str, bytes]:
    return {
        k: x for k, x in untimed(run.folder.path).items() if k not in ("run.json", "timing.json")
    }


def test_a_rich_recipe_streams_resumes_and_does_not_depend_on_workers(
    folders: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = Network(SPACE, SPACE.parse("e3k3_e3k3_e3k3_e3k3_e3k3_e3k3"))
    teacher.reset_classifier(3)
    info = NetworkInfo(tuple("bgr"), (0.5,) * 3, (0.25,) * 3)
    save_network(teacher, tmp_path / "teacher", info)
    rich = RICH | {"stream": True, "crop": "resize", "teacher": str(tmp_path / "teacher")}
    whole = create(tmp_path / "whole", folders, **rich, workers=0)
    assert isinstance(whole.images.data.train, EncodedImages)
    train_supernet(whole)
    killed = create(tmp_path / "killed", folders, **rich, workers=2, checkpoint_seconds=0)
    kill_at(monkeypatch, killed, 5)
    train_supernet(open_supernet_run(killed.folder.path))
    assert kept(killed) == kept(whole)
    assert list((whole.folder.path / "tensorboard").iterdir())
    state = load_checkpoint(whole.folder.path / CHECKPOINT)
    averaged = open_supernet_run(whole.folder.path).load_supernet().state_dict()
    for name, tensor in averaged.items():
        assert torch.equal(tensor, state["average"][f"module.{name}"]), name
    assert any(not torch.equal(x, state["module"][name]) for name, x in averaged.items())
    assert len(score_supernet(whole)) == 3


@pytest.mark.parametrize("write", [in_parquet, in_tars])
def test_every_layout_is_streamed(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "data")
    runs = [
        create(tmp_path / str(n), tmp_path / "data", stream=True, workers=n, passes=1)
        for n in (0, 1)
    ]
    for run in runs:
        train_supernet(run)
    assert kept(runs[0]) == kept(runs[1])


def test_what_is_streamed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for stream, kind in ((True, EncodedImages), (False, Images), (None, Images)):
        data = read_data(str(folders), 16, stream=stream)
        assert isinstance(data.train, kind)
    monkeypatch.setattr("mobilenas.data.sources._HELD_BYTES", 150 * 16 * 16 * 3 - 1)
    assert isinstance(read_data(str(folders), 16).train, EncodedImages)
    assert not isinstance(read_data("digits", 16).train, EncodedImages)


def test_batches_in_any_order_are_those_in_order(tmp_path: Path) -> None:
    run = create(tmp_path / "run", "digits")
    batches = run.images.training()
    trainer = Trainer(torch.nn.Linear(1, 1), run.settings.config, batches)
    for n in (0, 1, 2, 7, 3, 4, 4, 0):
        for found, expected in zip(trainer.train(n), batches(n), strict=True):
            assert torch.equal(found, expected)


def test_float16_scales_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [create(tmp_path / x, "digits", precision="fp16", checkpoint_seconds=0) for x in "ab"]
    train_supernet(runs[0])
    state = load_checkpoint(runs[0].folder.path / CHECKPOINT)
    assert state["scaler"]["scale"] > 1
    kill_at(monkeypatch, runs[1], 5)
    train_supernet(open_supernet_run(runs[1].folder.path))
    assert kept(runs[0]) == kept(runs[1])


def test_a_step_of_infinite_gradients_is_skipped_and_the_scale_falls() -> None:
    config = SupernetConfig(precision="fp16", device="cpu", lr=0.1)
    module = torch.nn.Linear(2, 1)
    trainer = Trainer(module, config, None)  # type: ignore[arg-type]
    before, scale = module.weight.detach().clone(), trainer.scaler.get_scale()
    trainer.step(0, [module(torch.ones(1, 2)).sum() * 1e36], ["huge"])  # times the scale: infinite
    trainer.read_losses()
    assert torch.equal(module.weight, before)
    assert trainer.scaler.get_scale() == scale / 2
    trainer.step(1, [module(torch.ones(1, 2)).sum()], ["plain"])
    trainer.read_losses()
    assert not torch.equal(module.weight, before)
    assert math.isfinite(trainer.last_loss)


def test_more_validation_images_than_there_are_is_named_by_its_own_key(tmp_path: Path) -> None:
    config = SupernetConfig(validate_images=5000)  # calibrate_images is not set
    with pytest.raises(BadInput, match=r"validate_images 5000: must be less than the 1442"):
        create_supernet_run(tmp_path / "run", SPACE, "digits", 0, config)


def test_gradients_that_are_never_finite_stop_a_float16_training() -> None:
    config = SupernetConfig(precision="fp16", device="cpu")
    module = torch.nn.Linear(2, 1)
    trainer = Trainer(module, config, None)  # type: ignore[arg-type]
    for n in range(29):  # whatever the scale is, infinity stays infinite
        trainer.step(n, [_FiniteOfInfiniteGradient.apply(module.weight)], ["odd"])
        trainer.read_losses()
    with pytest.raises(Diverged, match=r"step 30: fp16 gradients are not finite"):
        for n in range(29, 40):
            trainer.step(n, [_FiniteOfInfiniteGradient.apply(module.weight)], ["odd"])
            trainer.read_losses()


class _FiniteOfInfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        ctx.shape = weight.shape
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.full(ctx.shape, torch.inf)
