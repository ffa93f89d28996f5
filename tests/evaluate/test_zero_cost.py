"""Scores of untrained networks: by their definitions, finite everywhere, nothing left changed."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.evaluate.zero_cost import naswot, synflow, zero_cost_scores
from mobilenas.nn import Network
from mobilenas.nn.kernels.relu6 import ReLU6
from mobilenas.space import Arch, Space, load_space, space_from_dict


def build(space: Space) -> Callable[[Arch, int], Network]:
    return lambda arch, seed: Network(space, arch, generator=torch.Generator().manual_seed(seed))


def shape(space: Space) -> tuple[int, int, int]:
    return space.spec.in_channels, space.resolution, space.resolution


def noise(space: Space, batch: int = 6) -> Tensor:
    return torch.randn(batch, *shape(space), generator=torch.Generator().manual_seed(1))


def hamming_score(codes: Tensor) -> float:
    """Definition: codes (images, units) of bits; entry i, j counts the units that agree."""
    kernel = [[float((a == b).sum()) for b in codes] for a in codes]
    return float(np.linalg.slogdet(np.array(kernel)).logabsdet)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, ReLU6, nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("inplace", [False, True])
def test_naswot_against_hamming_distances(activation: type[nn.Module], inplace: bool) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(7, 20), nn.Linear(20, 30)
    network = nn.Sequential(first, activation(inplace=inplace), second, activation(inplace=inplace))
    x = torch.randn(5, 7)
    with torch.no_grad():
        hidden = first(x)
        codes = [hidden > 0, second(activation()(hidden)) > 0]
    expected = hamming_score(torch.cat(codes, dim=1))
    assert naswot(network, x) == pytest.approx(expected, rel=1e-9)


def test_naswot_sees_batch_norms_as_new_with_statistics_of_the_batch(
    unlike_fresh: Callable,
) -> None:
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).requires_grad_(False)
    images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    convolved = network[0](images)
    codes = convolved > convolved.mean(dim=(0, 2, 3), keepdim=True)
    expected = hamming_score(codes.flatten(1))
    assert naswot(network, images) == pytest.approx(expected, rel=1e-9)
    assert naswot(unlike_fresh(network), images) == pytest.approx(expected, rel=1e-9)


def test_batch_norms_without_affine_are_those_of_weight_1_and_bias_0() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    bare = copy.deepcopy(network)
    bare[1] = nn.BatchNorm2d(8, affine=False)
    images = torch.randn(4, 2, 6, 6)
    assert naswot(bare, images) == naswot(network, images)
    assert synflow(bare, (2, 6, 6)) == synflow(network, (2, 6, 6))


@pytest.mark.parametrize("same", ["images", "activations"])
def test_naswot_needs_images_that_it_can_tell_apart(same: str) -> None:
    network = (
        nn.Linear(3, 4) if same == "activations" else nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    )
    x = torch.ones(2, 3) if same == "images" else torch.randn(2, 3)
    with pytest.raises(BadInput, match="naswot: the network cannot tell the 2 images apart"):
        naswot(network, x)


def test_synflow_of_a_chain_is_its_depth_times_the_product_of_absolute_weights() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5, bias=False), nn.Linear(5, 4, bias=False), nn.Linear(4, 2, bias=False)]
    flow = torch.ones(3)
    for layer in layers:
        flow = layer.weight.detach().abs() @ flow
    score = synflow(nn.Sequential(*layers), (3,))
    assert score == pytest.approx(math.log(3 * float(flow.sum())))
    one = layers[0].weight.detach().abs().sum()
    assert synflow(nn.Sequential(layers[0]), (3,)) == pytest.approx(math.log(float(one)))


@pytest.mark.parametrize("activation", [nn.ReLU, ReLU6, nn.SiLU, nn.Hardswish])
def test_synflow_passes_activations_as_relu_does(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    wide = [nn.Linear(3, 500), nn.Linear(500, 500), nn.Linear(500, 1)]  # sums far above 6
    plain = synflow(nn.Sequential(*wide), (3,))
    between = (wide[0], activation(inplace=True), wide[1], activation(inplace=True), wide[2])
    assert synflow(nn.Sequential(*between), (3,)) == pytest.approx(plain)


def test_synflow_by_finite_differences() -> None:
    """Second source: every |w| grown by a share e makes R grow by e * |w| dR/d|w|."""
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.conv(x))

    layers = Residual(), Residual(), nn.Flatten(), nn.Linear(32, 3, bias=False)
    network = nn.Sequential(*layers).double()

    @torch.no_grad()
    def output(growth: float) -> float:
        grown = copy.deepcopy(network)
        for weight in grown.parameters():
            weight.copy_(weight.abs() * (1 + growth))
        return float(grown(torch.ones(1, 2, 4, 4, dtype=torch.float64)).sum())

    slope = (output(1e-4) - output(-1e-4)) / 2e-4
    assert synflow(network, (2, 4, 4)) == pytest.approx(math.log(slope), abs=1e-6)


def test_scores_are_finite_on_every_space(small_space: Space) -> None:
    network = build(small_space)(small_space.sample(np.random.default_rng(0)), 0)
    scores = zero_cost_scores(network, noise(small_space))
    assert list(scores) == ["naswot", "synflow"]
    assert all(math.isfinite(value) for value in scores.values())


def test_scores_repeat_whatever_came_before_and_depend_on_the_seed(
    mixed_space: Space, sample: Callable[..., list[Arch]]
) -> None:
    before, arch = sample(mixed_space, 2)
    first = zero_cost_scores(build(mixed_space)(arch, 0), noise(mixed_space))
    zero_cost_scores(build(mixed_space)(before, 0), noise(mixed_space))
    again = zero_cost_scores(build(mixed_space)(arch, 0), noise(mixed_space))
    other = zero_cost_scores(build(mixed_space)(arch, 1), noise(mixed_space))
    for name, value in first.items():
        assert value == again[name] != other[name]


def test_blocks_that_start_as_the_identity_are_seen() -> None:
    """Other weights before the last batch norm of a residual block, which starts as zero."""
    space = load_space("s1:width=0.25,resolution=16")
    network = Network(space, space.sample(np.random.default_rng(0)))
    changed = copy.deepcopy(network)
    block = changed.blocks[-1]
    assert block.residual and not block.bns[0].weight.any()
    block.project.weight.data *= -3
    assert naswot(changed, noise(space)) != naswot(network, noise(space))
    assert synflow(changed, shape(space)) > synflow(network, shape(space))


def test_a_deep_network_does_not_overflow() -> None:
    block = {"channels": 32, "blocks": 40, "candidates": ["id", "e6k5"]}
    space = space_from_dict(
        {
            "name": "deep",
            "description": "40 blocks",
            "resolution": 8,
            "num_classes": 10,
            "stem": {"channels": 32},
            "candidates": ["id", "e6k5"],
            "stages": [block],
            "head": {"channels": 64},
        }
    )
    deepest = space.decode(np.array([len(b.candidates) - 1 for b in space.blocks]))
    scores = zero_cost_scores(build(space)(deepest, 0), noise(space))
    assert scores["synflow"] > math.log(torch.finfo(torch.float32).max)
    assert all(math.isfinite(value) for value in scores.values())


def test_networks_are_left_as_they_were(mixed_space: Space, unlike_fresh: Callable) -> None:
    arch = mixed_space.sample(np.random.default_rng(0))
    network = unlike_fresh(Network(mixed_space, arch)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    text = str(network)
    naswot(network, noise(mixed_space))
    synflow(network, shape(mixed_space))
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())
    assert str(network) == text
    assert all(part.training for part in network.modules())
    assert all(x.grad is None for x in network.parameters())
    assert not any(part._forward_pre_hooks for part in network.modules())
