"""A supernet of cells goes through the same run folder and loop as one of blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, read_jsonl, write_json
from mobilenas.nn import CellSupernet
from mobilenas.space import Cell, CellSpace, load_any_space
from mobilenas.stages.supernet_train import (
    create_supernet_run,
    resume_supernet_run,
    train_supernet,
)
from mobilenas.strategies import make_strategy
from mobilenas.train.config import SupernetConfig
from mobilenas.train.supernets import SupernetRun, open_supernet_run
from mobilenas.train.trainer import Trainer

SPACE = load_any_space("nb101:channels=4,cells=1,resolution=8,num_classes=3")
SMALL = {
    "strategy": "uniform",
    "passes": 3,
    "batch_size": 16,
    "limit": 64,
    "validate_images": 20,
    "calibrate_images": 16,
    "cutout": 0,
    "crop_padding": 0,
    "flip": False,
    "device": "cpu",
    "checkpoint_seconds": 0,
}


def make_run(folder: Path, **changes: Any) -> SupernetRun:
    return create_supernet_run(
        folder, SPACE, "digits", 0, SupernetConfig.model_validate(SMALL | changes)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "timing.json"
    }


def test_uniform_sampling_draws_one_cell_a_step() -> None:
    strategy = make_strategy("uniform", SPACE, 0)
    drawn = [strategy.archs(step) for step in range(50)]
    assert all(len(archs) == 1 and isinstance(archs[0], Cell) for archs in drawn)
    assert [strategy.archs(step) for step in range(50)] == drawn
    assert len({str(archs[0]) for archs in drawn}) > 20
    assert [make_strategy("uniform", SPACE, 1).archs(step) for step in range(50)] != drawn


def test_fair_sampling_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="with --strategy uniform"):
        make_run(tmp_path / "run", strategy="fair")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("bn", "norms"), [("shadow", 4), ("shared", 1)])
def test_a_run_is_read_back(tmp_path: Path, bn: str, norms: int) -> None:
    run = make_run(tmp_path, bn=bn)
    trained = train_supernet(run)
    again = open_supernet_run(tmp_path)
    assert isinstance(again.space, CellSpace)
    assert again.space.spec == run.space.spec
    assert again.space.num_classes == 10  # those of the images
    loaded = again.load_supernet()
    assert isinstance(loaded, CellSupernet)
    assert len(loaded.cells[0].bns) == norms  # type: ignore[arg-type]
    weights = trained.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())
    given = {"space": SPACE, "data": "digits", "seed": 0, "config": run.settings.config}
    resume_supernet_run(tmp_path, given)
    with pytest.raises(BadInput, match="another space"):
        resume_supernet_run(tmp_path, {"space": load_any_space("nb101")})


def test_a_killed_run_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_supernet(make_run(tmp_path / "whole"))
    left, original = iter(range(7)), Trainer.step

    def train_or_stop(*arguments: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", train_or_stop)
        with pytest.raises(KeyboardInterrupt):
            train_supernet(make_run(tmp_path / "killed"))
    train_supernet(open_supernet_run(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = make_run(tmp_path, passes=60, batch_size=8, checkpoint_seconds=60, lr=0.05)
    train_supernet(run)
    losses = [row["loss"] for row in read_jsonl(run.folder.path / "log.jsonl")]
    assert np.mean(losses[-60:]) < np.mean(losses[:60]) - 0.25  # 2.35 to 1.98


def test_weights_of_another_space_are_refused(tmp_path: Path) -> None:
    train_supernet(make_run(tmp_path))
    settings = read_json(tmp_path / "run.json")
    settings["settings"]["space"]["channels"] = 8
    write_json(tmp_path / "run.json", settings)
    with pytest.raises(BadInput, match=r"does not fit what .*run\.json says"):
        open_supernet_run(tmp_path).load_supernet()


def test_a_space_damaged_in_the_settings_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    settings = read_json(tmp_path / "run.json")
    settings["settings"]["space"]["max_paths"] = 9
    write_json(tmp_path / "run.json", settings)
    with pytest.raises(BadInput, match=r"run\.json: space: max_paths"):
        open_supernet_run(tmp_path)
