"""Stand-alone training: what a step does, what is kept, where it starts, and that it resumes."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_SPACE, contents
from mobilenas.retrain import finish_train
from mobilenas.train.alone import Training, train_network, train_step
from mobilenas.train.alone_run import TrainRun, TrainSettings, create_train_run, open_train_run
from torch import nn

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.files import read_jsonl
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, load_network, save_network
from mobilenas.space import load_space
from mobilenas.train import alone
from mobilenas.train.calibrate import accuracy
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import TrainConfig
from mobilenas.train.device import MEMORY_FORMATS
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.recipe import Mixer, make_average, make_optimizer

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


def settings(**changes: Any) -> TrainSettings:
    named = {"space": SPACE.to_dict(), "arch": ARCH, "data": "digits", "seed": 3}
    own = {key: changes.pop(key) for key in ("inherit", "weights", "arch") if key in changes}
    config = TrainConfig.model_validate(SMALL | {"epochs": 2} | changes)
    return TrainSettings(**named | own, config=config)


def create(folder: Path, **changes: Any) -> TrainRun:
    return create_train_run(folder, settings(**changes))


def fresh(config: TrainConfig, seed: int = 0) -> Training:
    generator = torch.Generator().manual_seed(seed)
    network = Network(SPACE, SPACE.parse(ARCH), generator=generator)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    average, optimizer = make_average(config, network), make_optimizer(config, network)
    return Training(network, average, optimizer, scaler)


def test_a_step_is_the_plain_torch_step() -> None:
    options = {"optimizer_options": {"nesterov": True}, "label_smoothing": 0.1, "clip": 0.5}
    config = TrainConfig.model_validate({"lr": 0.1, "weight_decay": 0.01} | options)
    ours, plain = fresh(config), fresh(config).network.train()
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10
    for _ in range(3):
        loss = train_step(ours, config, Mixer(config, 10, 0), None, (images, labels), SINGLE)
        optimizer.zero_grad()
        expected = nn.functional.cross_entropy(plain(images), labels, label_smoothing=0.1)
        expected.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    for own, other in zip(ours.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_a_digits_network_learns(tmp_path: Path) -> None:
    run = create(tmp_path / "run", epochs=5, limit=None, flip=False, crop_padding=2)
    train_network(run)
    result = finish_train(run)
    rows = read_jsonl(run.folder / "log.jsonl")
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    assert len(accuracies) == 5
    assert result["accuracy"] == max(accuracies) > 0.8
    assert result["last_accuracy"] == accuracies[-1]
    assert result["test_accuracy"] > 0.8
    assert (result["test_images"], result["arch"]) == (355, ARCH)
    assert list((run.folder / "tensorboard").iterdir())


def test_what_is_kept_is_what_was_measured(tmp_path: Path) -> None:
    """The moving average of the best step, with batch norm statistics and all."""
    run = create(tmp_path / "run", **RICH | {"crop": "pad", "auto_augment": None})
    progress = train_network(run)
    last, info = load_network(run.last)
    state = load_checkpoint(run.checkpoint)["average"]
    for name, tensor in last.state_dict().items():
        assert torch.equal(tensor, state[f"module.{name}"]), name
    rows = run.splits.validate
    pixels, labels = run.data.train.pixels[rows], run.data.train.labels[rows]  # type: ignore[union-attr]
    mean, std = torch.tensor(run.data.mean), torch.tensor(run.data.std)
    images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    assert info.accuracy is not None
    assert info.accuracy.top1 == accuracy(last, [(images, torch.from_numpy(labels))])
    assert progress.last_accuracy == info.accuracy.top1
    best, best_info = load_network(run.network)
    assert best_info.accuracy is not None
    assert best_info.accuracy.top1 == accuracy(best, [(images, torch.from_numpy(labels))])
    assert best_info.accuracy.top1 == progress.best_accuracy >= progress.last_accuracy


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
    original = alone.train_step
    for stop in (3, 10, 14):  # 10 is the end of an epoch, where it was validated just before

        def dies(training: Training, *rest: Any, stop: int = stop) -> float:
            if training.progress.step == stop:
                raise Killed
            return original(training, *rest)

        monkeypatch.setattr(alone, "train_step", dies)
        with pytest.raises(Killed):
            train_network(open_train_run(tmp_path / "killed"))
    monkeypatch.setattr(alone, "train_step", original)
    run = open_train_run(tmp_path / "killed")
    train_network(run)
    finish_train(run)
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    names = {name for name in ours | theirs if not name.startswith("tensorboard")}
    differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
    assert differing == ["run.json", "timing.json"]  # other checkpoint_seconds


def test_seeds_differ(tmp_path: Path) -> None:
    runs = [
        create(tmp_path / "a"),
        create_train_run(tmp_path / "b", settings().model_copy(update={"seed": 4})),
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
    training = fresh(run.settings.config)
    alone.validate(run, training, SINGLE)
    expected, right = training.progress.last_accuracy, []

    class OneOfMany(Processes):
        def mean(self, values: torch.Tensor) -> torch.Tensor:
            right.append(values.item())
            return values / self.world

    for rank in range(world):
        alone.validate(run, training, OneOfMany(rank, world))
    assert len(run.splits.validate) == 60
    assert sum(right) == pytest.approx(60 * expected)
    assert len(right) == world


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path / "run", lr=1e30, clip=None, checkpoint_seconds=0)
    with pytest.raises(Diverged, match=r"step \d+: .* a lower lr may help"):
        train_network(run)
    state = load_checkpoint(run.checkpoint)
    assert all(torch.isfinite(x).all() for x in state["network"].values())


@pytest.mark.parametrize("clip", [None, 5.0])
def test_a_gradient_that_is_not_finite_stops_before_the_update(clip: float | None) -> None:
    """A checkpoint after such an update could never be continued."""
    config = TrainConfig(clip=clip)
    training = fresh(config)
    weight = training.network.classifier.weight
    weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[operator]
    before = copy.deepcopy(training.network.state_dict())
    batch = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    with pytest.raises(Diverged, match="step 0: the gradient norm is"):
        train_step(training, config, Mixer(config, 10, 0), None, batch, SINGLE)
    for name, parameter in training.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_images_have_the_memory_format_of_the_weights(memory_format: str) -> None:
    config = TrainConfig.model_validate({"memory_format": memory_format})
    training = fresh(config)
    seen = []
    training.network.stem.register_forward_hook(lambda *call: seen.append(call[2]))
    images = torch.randn(16, 3, 16, 16).to(memory_format=torch.channels_last)
    batch = images, torch.arange(16) % 10
    training.network.to(memory_format=MEMORY_FORMATS[memory_format])  # type: ignore[call-overload]
    train_step(training, config, Mixer(config, 10, 0), None, batch, SINGLE)
    assert seen[0].is_contiguous(memory_format=MEMORY_FORMATS[memory_format])


def test_training_starts_from_a_supernet(tmp_path: Path) -> None:
    from mobilenas.train.loop import train_supernet
    from mobilenas.train.run import create_run

    from mobilenas.train.config import load_supernet_config

    quick = ["passes=1", "limit=160", "validate_images=60", "calibrate_images=32"]
    quick += ["batch_size=16", "device=cpu"]
    supernet = create_run(tmp_path / "s", SPACE, "digits", 0, load_supernet_config("quick", quick))
    trained = train_supernet(supernet)
    run = create(tmp_path / "run", inherit=str(tmp_path / "s"))
    network = alone.new_network(run)
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
    assert (run.data.mean, run.data.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for name, tensor in alone.new_network(run).state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name

    # Only a start needs them: a resumed run has its own.
    train_network(run)
    (path / "model.safetensors").write_bytes(b"gone")
    train_network(run)

    path, network = saved(tmp_path / "other", tuple("abc"))
    run = create(tmp_path / "run2", weights=str(path))
    started = alone.new_network(run)
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
        losses.append(read_jsonl(run.folder / "log.jsonl")[0]["loss"])
    assert losses[0] != pytest.approx(losses[1])
    assert all(math.isfinite(loss) for loss in losses)
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
