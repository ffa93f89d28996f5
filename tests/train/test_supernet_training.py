"""Training a supernet: what a step adds up, when it stops, and what is left on disk."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.files import read_jsonl
from mobilenas.nn import Supernet
from mobilenas.space import Arch, load_space
from mobilenas.stages.supernet_train import create_supernet_run, train_supernet
from mobilenas.strategies import make_strategy
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train import trainer as trainer_module
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.recipe import Objective, make_schedule
from mobilenas.train.supernets import SupernetRun, open_supernet_run
from mobilenas.train.trainer import CHECKPOINT, Trainer

Change = Callable[..., nn.Module]
SPACE = load_space("macro:width=0.125,resolution=8")
ARCHS = [SPACE.parse(f"{op}_{op}_id_{op}_e3k3_{op}_id_{op}") for op in ("id", "e3k3", "e6k5")]
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9}


def config(**changes: Any) -> SupernetConfig:
    return SupernetConfig.model_validate(
        {"lr": 0.1, "batch_size": 8, "device": "cpu", "memory_format": "contiguous"} | changes
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8)


class SameBatch:
    """In place of training batches: every step has the same."""

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (batch() for _ in range(start, stop))


class Given:
    """A strategy that trains the given archs at every step."""

    steps_per_superstep = 1

    def __init__(self, archs: list[Arch]) -> None:
        self.given = archs
        self.passes_per_step = len(archs)

    def archs(self, step: int) -> list[Arch]:
        return self.given


class Noting(Objective):
    """Notes each loss."""

    def __init__(self, settings: SupernetConfig) -> None:
        super().__init__(settings, 10, 0, None)
        self.noted: list[float] = []

    def loss(self, *arguments: Any) -> Tensor:
        loss = super().loss(*arguments)
        self.noted.append(loss.item())
        return loss


def step(
    supernet: Supernet, archs: list[Arch], settings: SupernetConfig, steps: int = 1
) -> list[float]:
    """Train some steps, read the losses from the device, return those of the last step."""
    trainer = Trainer(supernet, settings, SameBatch())  # type: ignore[arg-type]
    objective = Noting(settings)
    task = SupernetTask(Given(archs), settings, objective, num_images=64)
    for n in range(steps):
        objective.noted.clear()
        task.step(trainer, n)
    trainer.read_losses()
    assert trainer.progress.losses == steps * len(archs)
    assert trainer.last_loss == pytest.approx(objective.noted[-1])
    return objective.noted


@pytest.fixture
def supernet(unlike_fresh: Change) -> Supernet:
    supernet = Supernet(SPACE, generator=torch.Generator().manual_seed(0))
    unlike_fresh(supernet)
    return supernet


def separate_gradients(
    supernet: Supernet, archs: list[Arch], smoothing: float = 0.0
) -> tuple[dict[str, Tensor], list[float]]:
    """The sum of the gradients of each arch alone, and the losses."""
    total: dict[str, Tensor] = {}
    losses = []
    for arch in archs:
        alone = copy.deepcopy(supernet).train()
        loss = F.cross_entropy(alone(batch()[0], arch), batch()[1], label_smoothing=smoothing)
        loss.backward()
        losses.append(loss.item())
        for name, parameter in alone.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, 0) + parameter.grad
    return total, losses


def close(value: Tensor, expected: Tensor) -> bool:
    return bool((value - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_all_archs_are_summed(supernet: Supernet, smoothing: float) -> None:
    expected, losses = separate_gradients(supernet, ARCHS, smoothing)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    found = step(supernet, ARCHS, config(label_smoothing=smoothing, **PLAIN))
    assert found == pytest.approx(losses, rel=1e-5)
    assert 10 < len(expected) < len(before)
    for name, parameter in supernet.named_parameters():
        if name in expected:
            assert close(parameter.grad, expected[name]), name
            assert torch.allclose(parameter, before[name] - 0.1 * parameter.grad), name
        else:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name


def test_a_step_forgets_the_gradients_before_it(supernet: Supernet) -> None:
    for parameter in supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    expected, _ = separate_gradients(supernet, ARCHS[:1])
    step(supernet, ARCHS[:1], config(**PLAIN))
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name in expected)
        assert name not in expected or close(parameter.grad, expected[name])


def test_the_norm_of_all_gradients_in_use_is_clipped(supernet: Supernet) -> None:
    expected, _ = separate_gradients(supernet, ARCHS)
    norm = torch.cat([grad.flatten() for grad in expected.values()]).norm()
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    clip = float(norm) / 3
    step(supernet, ARCHS, config(**PLAIN | {"clip": clip, "weight_decay": 0.5}))
    for name, parameter in supernet.named_parameters():
        if name in expected:
            update = 0.1 * (expected[name] / 3 + 0.5 * before[name])
            assert close(before[name] - parameter, update), name
        else:
            assert torch.equal(parameter, before[name]), name


def test_a_small_gradient_is_not_clipped(supernet: Supernet) -> None:
    expected, _ = separate_gradients(supernet, ARCHS)
    norm = torch.cat([grad.flatten() for grad in expected.values()]).norm()
    step(supernet, ARCHS, config(**PLAIN | {"clip": float(norm) * 1.01}))
    assert all(
        close(p.grad, expected[name])
        for name, p in supernet.named_parameters()
        if p.grad is not None
    )


def test_bfloat16_gives_nearly_the_same_losses(supernet: Supernet) -> None:
    _, losses = separate_gradients(supernet, ARCHS)
    assert step(supernet, ARCHS, config(precision="bf16")) == pytest.approx(losses, rel=0.05)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_arch(
    supernet: Supernet, poison: float
) -> None:
    with torch.no_grad():  # only the second arch uses this branch
        supernet.blocks[0].branches["e3"].project.weight[0, 0] = poison
    with pytest.raises(Diverged, match="step 0: the loss of arch") as error:
        step(supernet, ARCHS, config())
    assert str(ARCHS[1]) in str(error.value)
    assert str(ARCHS[0]) not in str(error.value)


def test_of_all_steps_that_are_read_at_once_the_first_bad_one_is_named(supernet: Supernet) -> None:
    """After it the weights are not finite, so later steps have losses that are not, of all."""
    bad = iter([False] * 9 + [True])  # three archs a step: the first of step 3

    def poison(module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        return logits * math.nan if next(bad, True) else logits

    supernet.classifier.register_forward_hook(poison)
    with pytest.raises(Diverged) as error:
        step(supernet, ARCHS, config(), steps=6)
    assert str(error.value) == f"step 3: the loss of arch {ARCHS[0]} is nan; a lower lr may help"
    assert not all(p.isfinite().all() for p in supernet.parameters())


def test_a_step_reads_nothing_from_the_device(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these would make a step wait until an accelerator has done all before."""
    settings = config(ema_decay=0.9, mixup=0.2, label_smoothing=0.1)
    trainer = Trainer(supernet, settings, SameBatch())  # type: ignore[arg-type]
    task = SupernetTask(Given(ARCHS), settings, Objective(settings, 10, 0, None), num_images=64)

    def waits(*arguments: Any) -> Any:
        raise AssertionError("a step waits for the device")

    for n in range(3):
        task.objective.mix(*batch(), n)  # on the CPU, where the images come from
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
                patch.setattr(Tensor, name, waits)
            patch.setattr(task.objective, "mix", lambda images, labels, step: (images, labels))
            task.step(trainer, n)
    trainer.read_losses()
    assert trainer.progress.losses == 3 * len(ARCHS)


def test_a_gradient_that_is_not_finite_stops_too(supernet: Supernet) -> None:
    supernet.classifier.weight.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(Diverged, match="step 0: the gradient norm") as error:
        step(supernet, ARCHS[:2], config(), steps=3)
    assert all(str(arch) in str(error.value) for arch in ARCHS[:2])


# --- the schedule ---------------------------------------------------------------------------------


def rates(settings: SupernetConfig, steps: int, num_images: int, a_step: int) -> list[float]:
    """The rate of each step, and of the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.lr)
    schedule = make_schedule(settings, optimizer, steps, num_images / a_step)
    found = []
    for i in range(steps + 1):
        schedule.set(i)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_learning_rate_is_a_cosine_to_nearly_nothing() -> None:
    *found, end = rates(config(lr=0.025), 100, 960, 96)
    cosine = [0.025 * (1 + math.cos(math.pi * i / 100)) / 2 for i in range(100)]
    np.testing.assert_allclose(found, cosine, atol=2e-8)
    assert found[0] == 0.025
    assert np.all(np.diff(found) < 0)
    assert end == pytest.approx(1e-8, rel=1e-6)


def test_learning_rate_warms_up_in_a_line() -> None:
    *found, _ = rates(config(lr=0.5, warmup_epochs=2), 100, 960, 96)  # 2 passes are 20 steps
    np.testing.assert_allclose(np.diff(found[:21]), 0.5 / 21, rtol=1e-9)
    assert found[0] == pytest.approx(0.5 / 21)
    assert found[20] == max(found) == 0.5
    assert np.all(np.diff(found[20:]) < 0)
    assert found[-1] < 0.001


@pytest.mark.parametrize("warmup", [0, 0.3, 1, 5])
def test_learning_rate_is_within_bounds_for_any_warm_up(warmup: float) -> None:
    found = rates(config(lr=0.3, warmup_epochs=warmup), 17, 1000, 123)
    assert all(0 < rate <= 0.3 for rate in found)


# --- runs on disk ---------------------------------------------------------------------------------


def make_run(folder: Path, **changes: Any) -> SupernetRun:
    small = {"passes": 9, "limit": 64, "validate_images": 20, "calibrate_images": 16, "cutout": 2}
    settings = config(**small | {"crop_padding": 1, "checkpoint_seconds": 0} | changes)
    return create_supernet_run(folder, SPACE, "digits", 0, settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "timing.json"
    }


@pytest.mark.parametrize("seconds", [0, 1000])
def test_a_run_that_diverges_names_the_step_and_can_be_continued(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not finite is never saved, so what is on disk is a step of the unbroken run."""
    whole = make_run(tmp_path / "whole", checkpoint_seconds=seconds)
    train_supernet(whole)
    run = make_run(tmp_path / "run", checkpoint_seconds=seconds)
    original = SupernetTask.step

    def poison_step_5(task: SupernetTask, trainer: Trainer, n: int) -> None:
        if n == 5:
            with torch.no_grad():
                trainer.module.stem.conv.weight.fill_(math.nan)  # type: ignore[union-attr, operator]
        original(task, trainer, n)

    monkeypatch.setattr(trainer_module, "_LOG_ROWS", 2)  # else each step is read for the log
    with monkeypatch.context() as patch:
        patch.setattr(SupernetTask, "step", poison_step_5)
        with pytest.raises(Diverged, match="step 5: the loss of arch") as error:
            train_supernet(run)
    assert str(make_strategy("fair", run.space, 0).archs(5)[0]) in str(error.value)
    path = run.folder.path / CHECKPOINT
    assert path.exists() == (seconds == 0)
    if path.exists():
        assert load_checkpoint(path)["progress"]["step"] == 5
        supernet = open_supernet_run(tmp_path / "run").load_supernet()
        assert all(p.isfinite().all() for p in supernet.state_dict().values())
    train_supernet(open_supernet_run(tmp_path / "run"))
    ours, theirs = (load_checkpoint(x.folder.path / CHECKPOINT) for x in (run, whole))
    assert all(torch.equal(x, theirs["module"][name]) for name, x in ours["module"].items())


def test_a_killed_run_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "_LOG_ROWS", 8)  # a row covers 3 steps: kills fall between
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    train_supernet(whole)
    original = Trainer.step

    def train_until(last: int) -> None:
        """Stop after so many steps, as a kill does: without a word to the trainer."""
        left = iter(range(last))

        def train_or_stop(*arguments: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", train_or_stop)
            with pytest.raises(KeyboardInterrupt):
                train_supernet(open_supernet_run(tmp_path / "killed"))

    def done() -> int:
        step: int = load_checkpoint(killed.folder.path / CHECKPOINT)["progress"]["step"]
        return step

    train_until(3)
    train_until(4)
    assert done() == 7
    train_supernet(open_supernet_run(tmp_path / "killed"))
    assert done() == 24  # 9 passes of 64 in steps of 3 * 8
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    easy = {"cutout": 0, "crop_padding": 0, "flip": False}
    run = make_run(tmp_path, passes=60, batch_size=16, checkpoint_seconds=60, **easy)
    train_supernet(run)
    losses = [row["loss"] for row in read_jsonl(run.folder.path / "log.jsonl")]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.8  # 3.0 to 1.7


def test_a_checkpoint_of_another_space_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    other = Supernet(load_space("macro:width=0.25,resolution=8"))
    save_checkpoint(run.folder.path / CHECKPOINT, {"module": other.state_dict()})
    with pytest.raises(BadInput, match=r"checkpoint\.pt does not fit what .*run\.json says"):
        run.load_supernet()


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save_checkpoint(run.folder.path / CHECKPOINT, {"step": 3})
    with pytest.raises(BadInput, match=r"checkpoint\.pt"):
        run.load_supernet()
