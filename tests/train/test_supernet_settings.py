"""Settings of a supernet: phases before the strategy, averaged gradients, norms that start at 1."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_SPACE, untimed

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_jsonl
from mobilenas.nn import Network, Supernet
from mobilenas.nn.blocks import InvertedBottleneck
from mobilenas.space import load_any_space, load_space
from mobilenas.stages.supernet_train import create_supernet_run, train_supernet
from mobilenas.strategies import make_strategy
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.config import SupernetConfig
from mobilenas.train.recipe import Objective
from mobilenas.train.supernets import SupernetRun, new_supernet, open_supernet_run
from mobilenas.train.trainer import Trainer

SPACE = load_space(TINY_SPACE)
SMALL: dict[str, Any] = {"batch_size": 8, "validate_images": 30, "calibrate_images": 32}
SMALL |= {"limit": 48, "passes": 6, "device": "cpu", "cutout": 0, "clip": None}


def create(folder: Path, **changes: Any) -> SupernetRun:
    config = SupernetConfig.model_validate(SMALL | changes)
    return create_supernet_run(folder, SPACE, "digits", 3, config)


def test_rates_follow_passes_and_a_kill_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "strategy": "sandwich",
        "warmup_largest_passes": 0.5,
        "shrink_passes": 1,
    }
    changes |= {"warmup_epochs": 1, "distill_inplace": "kl", "checkpoint_seconds": 0}
    whole, killed = (create(tmp_path / name, **changes) for name in ("whole", "killed"))
    train_supernet(whole)
    rows = read_jsonl(whole.folder.path / "log.jsonl")
    images = len(whole.images.splits.train)
    passes = [row["passes"] for row in rows]
    assert passes[0] == pytest.approx(8 / images)
    # Of the step that begins after so many passes; the warm-up ends after one.
    begun = dict(zip(passes, [row["lr"] for row in rows[1:]], strict=False))
    assert max(begun.values()) == pytest.approx(0.025, rel=0.05)
    rising = [lr for done, lr in begun.items() if done < 1]
    falling = [lr for done, lr in begun.items() if done > 1]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    middle, last = min(begun, key=lambda done: abs(done - 3.5)), passes[-1]
    cosine = 0.025 * (1 + math.cos(math.pi * (middle - 1) / (last - 1))) / 2
    assert begun[middle] == pytest.approx(cosine, rel=0.02)

    original = Trainer.step
    for stop in (2, 4, 11):  # in each phase

        def dies(trainer: Trainer, n: int, *rest: Any, stop: int = stop) -> None:
            if n == stop:
                raise KeyboardInterrupt
            original(trainer, n, *rest)

        with monkeypatch.context() as context:
            context.setattr(Trainer, "step", dies)
            with pytest.raises(KeyboardInterrupt):
                train_supernet(open_supernet_run(killed.folder.path))
    train_supernet(open_supernet_run(killed.folder.path))
    left, right = (
        {k: x for k, x in untimed(run.folder.path).items() if k not in ("run.json", "timing.json")}
        for run in (whole, killed)
    )
    assert left == right


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warmup_largest_passes": 1}, r"warmup_largest_passes 1: .*nb101.* no largest arch"),
        ({"shrink_passes": 2}, r"shrink_passes 2: .*nb101.* no largest arch"),
        ({"zero_init_last": False}, "zero_init_last false: cells have no residual blocks"),
        ({"affine_last": False}, "affine_last false: it is for blocks"),
    ],
)
def test_cells_refuse_what_they_do_not_have(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = SupernetConfig.model_validate(SMALL | {"strategy": "uniform"} | change)
    with pytest.raises(BadInput, match=words):
        create_supernet_run(tmp_path / "run", load_any_space("nb101"), "digits", 0, config)
    assert not (tmp_path / "run" / "run.json").exists()


# --- gradients and norms --------------------------------------------------------------------------


class SameBatch:
    """In place of training batches: every step has the same."""

    def iterate(self, start: int, stop: int) -> Any:
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return ((images, torch.arange(8)) for _ in range(start, stop))


def test_the_mean_is_the_sum_divided_by_the_archs_and_losses_are_logged_whole() -> None:
    found = {}
    for kind in ("sum", "mean"):
        config = SupernetConfig.model_validate(SMALL | {"step_gradient": kind, "lr": 1e-9})
        supernet = Supernet(SPACE, generator=torch.Generator().manual_seed(0))
        trainer = Trainer(supernet, config, SameBatch())  # type: ignore[arg-type]
        strategy = make_strategy("fair", SPACE, 3)
        task = SupernetTask(strategy, config, Objective(config, 10, 3, None), 48)
        task.step(trainer, 0)
        trainer.read_losses()
        gradients = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
        found[kind] = gradients, trainer.progress.loss_sum
    (sums, sum_loss), (means, mean_loss) = found["sum"], found["mean"]
    assert sum_loss == mean_loss
    assert sums.keys() == means.keys()
    for name, total in sums.items():
        mean = total / strategy.passes_per_step
        torch.testing.assert_close(means[name], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero", [True, False])
def test_residual_blocks_start_as_the_identity_or_not(zero: bool, tmp_path: Path) -> None:
    fresh = new_supernet(create(tmp_path, zero_init_last=zero).settings)
    blocks = [m for m in fresh.modules() if isinstance(m, InvertedBottleneck) and m.residual]
    norms = [norm for block in blocks for norm in block.bns]
    assert len(norms) > 3
    for norm in norms:
        assert isinstance(norm.weight, torch.Tensor)
        assert (norm.weight == (0 if zero else 1)).all()


@pytest.mark.parametrize("sharing", ["none", "both"])
def test_last_norms_without_a_weight_train_and_become_those_of_networks(
    sharing: str, tmp_path: Path
) -> None:
    run = create(tmp_path, affine_last=False, sharing=sharing)
    train_supernet(open_supernet_run(run.folder.path))
    supernet = open_supernet_run(run.folder.path).load_supernet()
    assert isinstance(supernet, Supernet)
    last = [n for m in supernet.modules() if isinstance(m, InvertedBottleneck) for n in m.bns]
    assert len(last) > 3
    assert {norm.affine for norm in last} == {False}
    arch = SPACE.sample(np.random.default_rng(0))
    network = Network(SPACE, arch).load_from(supernet).eval()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), supernet.eval()(x, arch))
