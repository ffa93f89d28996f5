"""Networks have the verbs of timm's models, and deployers' tools can read them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenas.errors import BadInput
from mobilenas.nn import Network
from mobilenas.space import Arch, Space, load_space

Change = Callable[..., nn.Module]
MACRO = load_space("macro:width=0.25,resolution=16")
ARCH = MACRO.parse("e3k3_id_id_e6k5_e3k3_e6k5_id_e3k3")


def images(space: Space, n: int = 2) -> Tensor:
    size = (n, space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network(small_space: Space, sample: Callable[..., list[Arch]], unlike_fresh: Change) -> Network:
    network = Network(small_space, sample(small_space, 1)[0])
    unlike_fresh(network).eval()
    return network


@torch.no_grad()
def test_forward_is_head_of_features(network: Network) -> None:
    x = images(network.space)
    features = network.forward_features(x)
    last = network.space.layers[-1].out_size
    assert features.shape == (2, network.num_features, last, last)
    logits = network(x)
    assert logits.shape == (2, network.num_classes)
    assert torch.equal(logits, network.forward_head(features))
    pooled = network.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, network.num_features) == (2, network.head_hidden_size)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(logits, network.get_classifier()(pooled))


@torch.no_grad()
def test_reset_classifier(network: Network) -> None:
    x = images(network.space)
    pooled = network.forward_head(network.forward_features(x), pre_logits=True)
    network.reset_classifier(0)
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network.num_classes == 0
    assert torch.equal(network(x), pooled)
    network.reset_classifier(7)
    assert network.num_classes == network.get_classifier().out_features == 7
    assert network(x).shape == (2, 7)
    assert network.space.num_classes == 10


def test_number_of_classes_and_dropout_can_be_chosen() -> None:
    assert Network(MACRO, ARCH, num_classes=3)(images(MACRO)).shape == (2, 3)
    assert Network(MACRO, ARCH, num_classes=0)(images(MACRO)).shape == (2, 320)
    space = load_space("macro:width=0.25,resolution=16,head.dropout=0.5")
    assert [Network(space, ARCH, drop_rate=r).drop_rate for r in (None, 0.0)] == [0.5, 0.0]
    pooled = Network(space, ARCH).train().forward_head(torch.ones(1, 320, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0, 2}
    assert torch.equal(
        Network(space, ARCH).eval().forward_head(torch.ones(1, 320, 2, 2), pre_logits=True),
        torch.ones(1, 320),
    )


def feature_maps(network: Network) -> list[Tensor]:
    """What the modules that feature_info names put out."""
    maps: list[Tensor] = []
    for row in network.feature_info:
        part = network.get_submodule(str(row["module"]))
        part.register_forward_hook(lambda _module, _inputs, out: maps.append(out))
    with torch.no_grad():
        network.eval()(images(network.space))
    return maps


def check_feature_info(network: Network) -> None:
    rows, maps = network.feature_info, feature_maps(network)
    assert len(rows) == len(maps) > 1
    assert [row["num_chs"] for row in rows] == [len(m[0]) for m in maps]
    stem, layers = network.space.spec.stem, network.space.layers
    last = [int(str(row["module"]).removeprefix("blocks.")) for row in rows]
    # the true reduction: the product of all strides up to the module
    strides = [stem.stride * math.prod(b.stride for b in layers[: n + 1]) for n in last]
    assert [row["reduction"] for row in rows] == strides
    assert strides == sorted(set(strides))
    assert [-(-network.space.resolution // s) for s in strides] == [m.shape[-1] for m in maps]


def test_feature_info_is_true_of_the_feature_maps(network: Network) -> None:
    check_feature_info(network)
    assert network.feature_info[-1]["module"] == f"blocks.{len(network.space.layers) - 1}"


@pytest.mark.parametrize("resolution", [15, 17, 18, 30])
def test_feature_info_is_true_at_sizes_that_the_strides_do_not_divide(resolution: int) -> None:
    space = load_space(f"macro:width=0.25,resolution={resolution}")
    check_feature_info(Network(space, ARCH))


@torch.no_grad()
def test_state_dict_makes_an_equal_network(network: Network) -> None:
    other = Network(network.space, network.arch).eval()
    x = images(network.space)
    assert not torch.equal(other(x), network(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


def test_the_seed_alone_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        network = Network(MACRO, ARCH, generator=torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


def test_dropout_is_the_only_chance_in_training() -> None:
    network = Network(MACRO, ARCH).train()
    assert torch.equal(network(images(MACRO)), network(images(MACRO)))


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput, match="arch block 1: e3k5 is not one of"):
        Network(MACRO, Arch.parse("_".join(["e3k5"] * 8)))
    with pytest.raises(BadInput, match="arch has 7 blocks"):
        Network(MACRO, Arch(ARCH.blocks[:7]))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_trace(network: Network) -> None:
    traced = torch.jit.trace(network, images(network.space), check_trace=False)
    x = images(network.space, 3)
    torch.testing.assert_close(traced(x), network(x))


@torch.no_grad()
def test_export(network: Network) -> None:
    x = images(network.space)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x))


@torch.no_grad()
def test_export_with_any_batch_size(unlike_fresh: Change) -> None:
    network = Network(MACRO, ARCH)
    unlike_fresh(network).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (images(MACRO),), dynamic_shapes=({0: batch},))
    x = images(MACRO, 5)
    torch.testing.assert_close(program.module()(x), network(x))
