"""Training a network: what a step does, what is kept, where it starts, and that it resumes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_SPACE, contents, edit
from torch import nn

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.files import read_jsonl
from mobilenas.cost import CostModel
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, load_network, save_network
from mobilenas.space import load_space
from mobilenas.stages.supernet_train import create_supernet_run, train_supernet
from mobilenas.stages.train import create_network_run, finish_train, train_network
from mobilenas.train.calibrate import accuracy
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import NetworkConfig, load_supernet_config
from mobilenas.train.device import MEMORY_FORMATS
from mobilenas.train.distributed import Processes
from mobilenas.train.network_task import NetworkTask
from mobilenas.train.networks import (
    NetworkRun,
    NetworkSettings,
    new_network,
    open_network_run,
    ready_teacher,
)
from mobilenas.train.recipe import Objective
from mobilenas.train.supernets import SupernetRun
from mobilenas.train.trainer import CHECKPOINT, Trainer

ARCH = "e3k3_e3k5_e3k3_e3k37_e3k35_e3k5"
SPACE = load_space(TINY_SPACE)
SMALL = {"batch_size": 16, "limit": 160, "validate_images": 60, "device": "cpu", "lr": 0.05}
# Everything that draws: crops, policies, erasing, mixing, dropout, drop path.
RICH = {
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "drop_rate": 0.2,
    "drop_path_rate": 0.1,
    "crop": "resize",
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.2,
    "workers": 0,
}


def settings(**changes: Any) -> NetworkSettings:
    named = {"space": SPACE.to_dict(), "arch": ARCH, "data": "digits", "seed": 3}
    own = {key: changes.pop(key) for key in ("inherit", "weights", "arch") if key in changes}
    config = NetworkConfig.model_validate(SMALL | {"epochs": 2} | changes)
    return NetworkSettings(**named | own, config=config)


def create(folder: Path, **changes: Any) -> NetworkRun:
    return create_network_run(folder, settings(**changes))


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 16, 16, generator=generator), torch.arange(16) % 10


class SameBatch:
    """In place of training batches: every step has the same."""

    def iterate(self, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (images_and_labels() for _ in range(start, stop))


def fresh(config: NetworkConfig, seed: int = 0) -> Trainer:
    generator = torch.Generator().manual_seed(seed)
    network = Network(SPACE, SPACE.parse(ARCH), generator=generator)
    return Trainer(network, config, SameBatch())  # type: ignore[arg-type]


def train_step(trainer: Trainer, run: NetworkRun, n: int = 0) -> None:
    """Step n of a run's network, without reading the loss from the device."""
    objective = Objective(trainer.config, 10, 0, None)
    NetworkTask(run, objective, steps_per_epoch=10).step(trainer, n)


@pytest.fixture
def run(tmp_path: Path) -> NetworkRun:
    return create(tmp_path / "run")


def test_a_step_is_the_plain_torch_step(run: NetworkRun) -> None:
    options = {"optimizer_options": {"nesterov": True}, "label_smoothing": 0.1, "clip": 0.5}
    config = NetworkConfig.model_validate({"lr": 0.1, "weight_decay": 0.01} | options)
    ours, plain = fresh(config), fresh(config).module.train()
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    images, labels = images_and_labels()
    for n in range(3):
        train_step(ours, run, n)
        ours.read_losses()
        optimizer.zero_grad()
        expected = nn.functional.cross_entropy(plain(images), labels, label_smoothing=0.1)
        expected.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        assert ours.last_loss == pytest.approx(expected.item(), rel=1e-5)
    for own, other in zip(ours.module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_a_digits_network_learns(tmp_path: Path) -> None:
    run = create(tmp_path / "run", epochs=5, limit=None, flip=False, crop_padding=2)
    train_network(run)
    result = finish_train(run)
    rows = read_jsonl(run.folder.path / "log.jsonl")
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    assert len(accuracies) == 5
    assert result["accuracy"] == max(accuracies) > 0.8
    assert result["last_accuracy"] == accuracies[-1]
    assert result["test_accuracy"] > 0.8
    assert (result["test_images"], result["arch"]) == (355, ARCH)
    assert list((run.folder.path / "tensorboard").iterdir())


def test_what_is_kept_is_what_was_measured(tmp_path: Path) -> None:
    """The moving average of the best step, with batch norm statistics and all."""
    run = create(tmp_path / "run", **RICH | {"crop": "pad", "auto_augment": None})
    task = train_network(run)
    last, info = load_network(run.last)
    state = load_checkpoint(run.folder.path / CHECKPOINT)["average"]
    for name, tensor in last.state_dict().items():
        assert torch.equal(tensor, state[f"module.{name}"]), name
    rows = run.images.splits.validate
    pixels, labels = run.images.data.train.pixels[rows], run.images.data.train.labels[rows]  # type: ignore[union-attr]
    mean, std = torch.tensor(run.images.data.mean), torch.tensor(run.images.data.std)
    images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    assert info.accuracy is not None
    assert info.accuracy.top1 == accuracy(last, [(images, torch.from_numpy(labels))])
    assert task.last_accuracy == info.accuracy.top1
    best, best_info = load_network(run.network)
    assert best_info.accuracy is not None
    assert best_info.accuracy.top1 == accuracy(best, [(images, torch.from_numpy(labels))])
    assert best_info.accuracy.top1 == task.best_accuracy >= task.last_accuracy


@pytest.mark.parametrize("extra", [{}, RICH])
def test_a_run_that_stops_anywhere_ends_with_the_same_bytes(
    extra: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = create(tmp_path / "whole", **extra)
    train_network(whole)
    finish_train(whole)

    class Killed(Exception):
        pass

    create(tmp_path / "killed", **extra, checkpoint_seconds=0)
    original = NetworkTask.step
    for stop in (3, 10, 14):  # 10 is the end of an epoch, where it was validated just before

        def dies(task: NetworkTask, trainer: Trainer, n: int, stop: int = stop) -> None:
            if n == stop:
                raise Killed
            original(task, trainer, n)

        with monkeypatch.context() as patch:
            patch.setattr(NetworkTask, "step", dies)
            with pytest.raises(Killed):
                train_network(open_network_run(tmp_path / "killed"))
    run = open_network_run(tmp_path / "killed")
    train_network(run)
    finish_train(run)
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    names = {name for name in ours | theirs if not name.startswith("tensorboard")}
    differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
    assert differing == ["run.json", "timing.json"]  # other checkpoint_seconds


def test_seeds_differ(tmp_path: Path) -> None:
    runs = [
        create(tmp_path / "a"),
        create_network_run(tmp_path / "b", settings().model_copy(update={"seed": 4})),
    ]
    weights = []
    for run in runs:
        train_network(run)
        weights.append(load_network(run.last)[0].classifier.weight)
    assert not torch.equal(*weights)


@pytest.mark.parametrize("world", [7, 70])
def test_processes_count_the_validation_images_jointly(world: int, tmp_path: Path) -> None:
    """Also where some of the processes have none of them."""
    run = create(tmp_path / "run", limit=16)
    trainer, right = fresh(run.settings.config), []
    task = NetworkTask(run, Objective(run.settings.config, 10, 0, None), steps_per_epoch=10)
    expected = task.validate(trainer, 10)["accuracy"]

    class OneOfMany(Processes):
        def total(self, count: int) -> int:
            right.append(count)
            return count

    for rank in range(world):
        trainer.processes = OneOfMany(rank, world)
        task.validate(trainer, 10)
    assert len(run.images.splits.validate) == 60
    assert sum(right) == pytest.approx(60 * expected, abs=1e-9)
    assert len(right) == world


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path / "run", lr=1e30, clip=None, checkpoint_seconds=0)
    with pytest.raises(Diverged, match=r"step \d+: .* a lower lr may help"):
        train_network(run)
    state = load_checkpoint(run.folder.path / CHECKPOINT)
    assert all(torch.isfinite(x).all() for x in state["module"].values())


@pytest.mark.parametrize("clip", [None, 5.0])
def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(
    clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint after such an update could never be continued, nor the network be used."""
    run = create(tmp_path / "run", clip=clip, validate_every=0.5, checkpoint_seconds=0)
    original = NetworkTask.step

    def poison_step_7(task: NetworkTask, trainer: Trainer, n: int) -> None:
        weight = trainer.module.classifier.weight  # type: ignore[union-attr]
        hook = weight.register_hook(lambda gradient: gradient * (math.inf if n == 7 else 1))  # type: ignore[union-attr, operator]
        original(task, trainer, n)
        hook.remove()

    with monkeypatch.context() as patch:
        patch.setattr(NetworkTask, "step", poison_step_7)
        with pytest.raises(Diverged, match=f"step 7: the gradient norm of arch {ARCH} is"):
            train_network(run)
    state = load_checkpoint(run.folder.path / CHECKPOINT)
    assert state["progress"]["step"] == 7
    saved_network, _ = load_network(run.network)
    for tensors in (state["module"], saved_network.state_dict()):
        assert all(torch.isfinite(x).all() for x in tensors.values())
    assert train_network(open_network_run(tmp_path / "run")).steps == 20


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_images_have_the_memory_format_of_the_weights(memory_format: str, run: NetworkRun) -> None:
    trainer = fresh(NetworkConfig.model_validate({"memory_format": memory_format}))
    seen = []
    trainer.module.stem.register_forward_hook(lambda *call: seen.append(call[2]))  # type: ignore[union-attr, operator]
    train_step(trainer, run)
    expected = MEMORY_FORMATS[memory_format]
    assert seen[0].is_contiguous(memory_format=expected)
    weight = trainer.module.stem.conv.weight  # type: ignore[union-attr]
    assert weight.is_contiguous(memory_format=expected)  # type: ignore[union-attr, operator]


def supernet_run(folder: Path) -> SupernetRun:
    quick = ["passes=1", "limit=160", "validate_images=60", "calibrate_images=32"]
    quick += ["batch_size=16", "device=cpu"]
    return create_supernet_run(folder, SPACE, "digits", 0, load_supernet_config("quick", quick))


def test_training_starts_from_a_supernet(tmp_path: Path) -> None:
    trained = train_supernet(supernet_run(tmp_path / "s"))
    run = create(tmp_path / "run", inherit=str(tmp_path / "s"))
    network = new_network(run)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    arch = SPACE.parse(ARCH)
    torch.testing.assert_close(network.eval()(images), trained.cpu().eval()(images, arch))


def saved(folder: Path, classes: tuple[str, ...], arch: str = ARCH) -> tuple[Path, Network]:
    space = load_space(f"{TINY_SPACE},num_classes={len(classes)}")
    network = Network(space, space.parse(arch), generator=torch.Generator().manual_seed(9))
    save_network(network, folder, NetworkInfo(classes, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    return folder, network


def test_training_starts_from_a_saved_network(tmp_path: Path) -> None:
    """With its normalisation; its classifier only where the classes are the same."""
    path, network = saved(tmp_path / "same", tuple("0123456789"))
    run = create(tmp_path / "run", weights=str(path))
    assert (run.images.data.mean, run.images.data.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for name, tensor in new_network(run).state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name

    # Only a start needs them: a resumed run has its own.
    train_network(run)
    (path / "model.safetensors").write_bytes(b"gone")
    train_network(run)

    path, network = saved(tmp_path / "other", tuple("abc"))
    run = create(tmp_path / "run2", weights=str(path))
    started = new_network(run)
    assert started.classifier.weight.shape[0] == 10
    torch.testing.assert_close(started.stem.conv.weight, network.stem.conv.weight)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    other_arch, _ = saved(tmp_path / "arch", tuple("0123456789"), ARCH.replace("e3k37", "e6k7"))
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"weights": str(other_arch)}, ["another arch", "e6k7"]),
        ({"weights": str(tmp_path / "none")}, ["none"]),
        ({"inherit": str(tmp_path / "none")}, ["none", "supernet"]),
        ({"arch": "e3k3"}, ["1 blocks", "6"]),
        ({"arch": ARCH.replace("e3k37", "e4k3")}, ["block 4", "expansion 4"]),
        ({"optimizer": "sdg"}, ["sdg", "did you mean"]),
        ({"auto_augment": "random"}, ["auto_augment", "random"]),
        ({"batch_size": 170}, ["batch_size 170", "160"]),
        ({"validate_images": 5000}, ["validate", "5000"]),
        ({"device": "banana"}, ["device banana"]),
        ({"teacher": "supernet"}, ["--inherit"]),
    ]
    for changes, words in cases:
        with pytest.raises(BadInput) as refused:
            create(tmp_path / "run", **changes)
        message = str(refused.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
        assert not (tmp_path / "run").exists()


def test_the_teacher_changes_what_is_learnt(tmp_path: Path) -> None:
    path, teacher = saved(tmp_path / "teacher", tuple("0123456789"))
    losses = []
    for weight in (0.0, 1.0):
        name = f"run{weight}"
        run = create(tmp_path / name, epochs=1, teacher=str(path), distill_weight=weight)
        train_network(run)
        losses.append(read_jsonl(run.folder.path / "log.jsonl")[0]["loss"])
    assert losses[0] != pytest.approx(losses[1])
    assert all(math.isfinite(loss) for loss in losses)
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


def test_a_finished_training_needs_no_teacher(tmp_path: Path) -> None:
    """Until then it does."""
    path, _ = saved(tmp_path / "teacher", tuple("0123456789"))
    run = create(tmp_path / "run", epochs=0.2, teacher=str(path))
    train_network(run)
    path.rename(tmp_path / "gone")
    with pytest.raises(BadInput, match="teacher"):
        train_network(run)
    finish_train(run)
    before = contents(run.folder.path)
    train_network(run)
    assert contents(run.folder.path) == before


def test_a_teacher_of_the_supernet_is_recalibrated(tmp_path: Path) -> None:
    """As every network of a supernet is used. A run that began without cannot go on."""
    supernet = supernet_run(tmp_path / "s")
    train_supernet(supernet)
    run = create(tmp_path / "run", inherit=str(tmp_path / "s"), teacher="supernet")
    teacher = ready_teacher(run, torch.device("cpu"))
    assert teacher is not None
    expected = SupernetEvaluator(supernet).network(CostModel(SPACE).largest("flops"))
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    edit(
        tmp_path / "run" / "run.json",
        facts={k: x for k, x in run.folder.facts.items() if k != "teacher_calibration_images"},
    )
    with pytest.raises(BadInput, match="earlier version"):
        train_network(open_network_run(tmp_path / "run"))


def test_a_teacher_of_the_supernet_sees_images_of_another_size(tmp_path: Path) -> None:
    """Two trainings from the start give the same bytes."""
    train_supernet(supernet_run(tmp_path / "s"))
    space = load_space("digits:resolution=24").to_dict()
    small = settings(inherit=str(tmp_path / "s"), teacher="supernet", epochs=0.2)
    run = create_network_run(tmp_path / "run", small.model_copy(update={"space": space}))
    weights = []
    for _ in range(2):
        (run.folder.path / CHECKPOINT).unlink(missing_ok=True)
        train_network(run)
        weights.append(contents(run.last))
    assert weights[0] == weights[1]
