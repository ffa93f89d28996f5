"""The parts of a recipe: rates by hand, which weights decay, mixing as a function of the step."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import shipped
from mobilenas.train.config import NetworkConfig, load_network_config
from mobilenas.train.recipe import (
    Mixer,
    cross_entropy,
    make_average,
    make_optimizer,
    make_schedule,
)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def rates(config: NetworkConfig, steps: int, per_epoch: int) -> list[float]:
    optimizer = make_optimizer(config, model())
    schedule = make_schedule(config, optimizer, steps, per_epoch)
    found = []
    for step in range(steps):
        schedule.set(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_a_cosine_rises_for_its_warmup_and_falls_to_the_least_rate() -> None:
    config = NetworkConfig(lr=0.4, warmup_epochs=2, min_lr=0.01)
    found = rates(config, 100, 5)
    assert np.all(np.diff(found[:10]) > 0)
    assert found[0] == pytest.approx(0.04)
    for step in range(10, 100):
        wave = 0.5 * (1 + math.cos(math.pi * step / 100))
        assert found[step] == pytest.approx(0.01 + 0.39 * wave)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_warmup_that_training_does_not_reach_the_end_of_is_told(
    prefix: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in (5.0, 3.0):
        settings = {"warmup_epochs": 5, "warmup_prefix": prefix, "lr": 0.1}
        config = NetworkConfig.model_validate(settings)
        make_schedule(config, make_optimizer(config, nn.Linear(2, 2)), 10 * epochs, 10)
    (said,) = caplog.messages
    assert said == "warmup_epochs 5: training ends after 3, before the rate has risen to lr 0.1"


def test_a_step_schedule_is_that_of_mnasnet() -> None:
    config = load_network_config("imagenet-mnasnet", [])
    per_epoch = 50
    found = rates(config, 30 * per_epoch, per_epoch)
    for epoch in (5, 10, 29):
        decays = int(epoch / 2.4)
        assert found[epoch * per_epoch] == pytest.approx(0.064 * 0.97**decays)


def test_a_rate_depends_on_the_step_alone() -> None:
    config = NetworkConfig(lr=0.4, warmup_epochs=2)
    optimizer = make_optimizer(config, model())
    schedule = make_schedule(config, optimizer, 100, 5)
    schedule.set(70)
    late = optimizer.param_groups[0]["lr"]
    schedule.set(3)
    schedule.set(70)
    assert optimizer.param_groups[0]["lr"] == late == rates(config, 100, 5)[70]


@pytest.mark.parametrize("preset", shipped("train"))
def test_every_preset_makes_an_optimizer_that_learns(preset: str) -> None:
    config = load_network_config(preset, [])
    network = model()
    optimizer = make_optimizer(config, network)
    make_schedule(config, optimizer, 100, 10).set(50)
    before = network[0].weight.detach().clone()
    network(torch.ones(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, network[0].weight)


def test_weight_decay_leaves_out_biases_and_batch_norms() -> None:
    optimizer = make_optimizer(NetworkConfig(weight_decay=0.1), model())
    decays = {group["weight_decay"]: len(group["params"]) for group in optimizer.param_groups}
    assert decays == {0.1: 1, 0.0: 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "adamv"}, ["optimizer adamv", "did you mean"]),
        ({"optimizer_options": {"betta": 0.9}}, ["optimizer sgd", "betta"]),
        ({"optimizer_options": {"fused": True, "foreach": True}}, ["optimizer sgd", "fused"]),
        ({"optimizer": "adahessian"}, ["optimizer adahessian", "second derivatives"]),
        ({"optimizer": "kron"}, ["optimizer kron", "random numbers"]),
        ({"optimizer": "adamw", "optimizer_options": {"betas": 3}}, ["optimizer adamw", "betas"]),
    ],
)
def test_a_bad_optimizer_is_refused(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        make_optimizer(NetworkConfig.model_validate(settings), model())
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_the_average_follows_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = make_average(NetworkConfig(ema_decay=0.5), network)
    assert average is not None
    nn.init.ones_(network.weight)
    for step in range(40):
        average.update(network, step=step)  # type: ignore[operator]
    assert average.module.weight.item() == pytest.approx(1.0)  # type: ignore[union-attr]
    assert make_average(NetworkConfig(), network) is None


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(8) % 5


def test_mixing_is_a_function_of_seed_and_step() -> None:
    config = NetworkConfig(mixup=0.4, cutmix=1.0, batch_size=8, label_smoothing=0.1)
    mixed = {}
    for seed in (0, 1):
        for step in range(6):
            images, shares = Mixer(config, 5, seed)(*batch(), step)
            again, shares_again = Mixer(config, 5, seed)(*batch(), step)
            assert torch.equal(images, again)
            assert torch.equal(shares, shares_again)
            torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
            mixed[seed, step] = images.square().sum().item()
    assert len(set(mixed.values())) > 6


def test_mixing_in_halves_is_mixing_the_whole() -> None:
    """A process that holds rows i and n - 1 - i of a batch makes of them what a single one does."""
    config = NetworkConfig(mixup=0.4, cutmix=1.0, batch_size=8)
    whole_images, whole_shares = Mixer(config, 5, 0)(*batch(), 3)
    for rows in ([0, 1, 6, 7], [2, 3, 4, 5]):
        images, labels = batch()
        part_images, part_shares = Mixer(config, 5, 0)(images[rows], labels[rows], 3)
        assert torch.equal(part_images, whole_images[rows])
        assert torch.equal(part_shares, whole_shares[rows])


def test_without_mixing_nothing_changes() -> None:
    images, labels = batch()
    same_images, same_labels = Mixer(NetworkConfig(), 5, 0)(images, labels, 0)
    assert same_images is images
    assert same_labels is labels


def test_smoothing_is_not_applied_twice() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])
    shares = torch.full((4, 5), 0.1 / 5)
    shares[range(4), labels] += 0.9
    torch.testing.assert_close(
        cross_entropy(logits, labels, 0.1), cross_entropy(logits, shares, 0.1)
    )


def test_mixing_needs_pairs() -> None:
    with pytest.raises(BadInput, match="batch_size 33 must be even"):
        load_network_config("imagenet-modern", ["batch_size=33"])
