"""What timm asks of its models beside forward and backward: placement, resets, scripting."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Network
from mobilenas.space import load_space

Change = Callable[..., nn.Module]
SPACE = load_space("macro:width=0.125,resolution=16,squeeze_excite=0.5")
ARCH = SPACE.sample(np.random.default_rng(0))


def build(**kwargs: object) -> Network:
    return Network(SPACE, ARCH, generator=torch.Generator().manual_seed(0), **kwargs)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def kinds(network: Network) -> set[tuple[str, torch.dtype]]:
    tensors = [*network.parameters(), *network.buffers()]
    return {(t.device.type, t.dtype) for t in tensors if t.is_floating_point()}


def test_device_and_dtype_are_those_of_all_tensors() -> None:
    assert kinds(build()) == {("cpu", torch.float32)}
    assert kinds(build(dtype=torch.float64)) == {("cpu", torch.float64)}
    assert kinds(Network(SPACE, ARCH, device="meta", dtype=torch.bfloat16)) == {
        ("meta", torch.bfloat16)
    }
    with torch.device("meta"):
        assert kinds(Network(SPACE, ARCH)) == {("meta", torch.float32)}
    assert build(dtype=torch.float64)(images().double()).dtype == torch.float64


def test_init_weights_makes_an_empty_network_a_fresh_one(unlike_fresh: Change) -> None:
    fresh = build()
    empty = Network(SPACE, ARCH, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*empty.parameters(), *empty.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 7)
    for used in (empty, unlike_fresh(build())):
        assert isinstance(used, Network)
        used.init_weights(torch.Generator().manual_seed(0))
        for name, tensor in used.state_dict().items():
            assert torch.equal(tensor, fresh.state_dict()[name]), name


@torch.no_grad()
def test_a_classifier_brings_the_pooling_back() -> None:
    network = build(num_classes=0, global_pool="").eval()
    assert network(images()).ndim == 4
    network.reset_classifier(0)
    assert (network.global_pool, network(images()).ndim) == ("", 4)
    network.reset_classifier(3)
    assert (network.global_pool, network(images()).shape) == ("avg", (2, 3))


@torch.no_grad()
@pytest.mark.parametrize(("classes", "pool"), [(3, ""), (3, "max"), (0, "catavgmax")])
def test_a_reset_that_is_refused_changes_nothing(classes: int, pool: str) -> None:
    network = build().eval()
    before, classifier = network(images()), network.get_classifier()
    with pytest.raises(BadInput, match="global_pool"):
        network.reset_classifier(classes, pool)
    assert (network.num_classes, network.global_pool) == (10, "avg")
    assert network.get_classifier() is classifier
    assert torch.equal(network(images()), before)


class Maps(nn.Module):
    """As timm's FeatureGetterNet calls a model."""

    def __init__(self, model: Network, rows: list[int]) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        return self.model.forward_intermediates(x, indices=self.rows, intermediates_only=True)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_feature_maps_script(unlike_fresh: Change) -> None:
    network = build()
    unlike_fresh(network).eval()
    for rows in ([0, 2], [-1]):
        scripted = torch.jit.script(Maps(network, rows))(images())
        expected = network.forward_intermediates(images(), rows, intermediates_only=True)
        assert all(map(torch.equal, scripted, expected))
    with pytest.raises(torch.jit.Error, match=r"indices \[9\]: there are 3 feature maps, 0 to 2"):
        torch.jit.script(Maps(network, [9]))(images())


def test_extra_blocks_are_refused() -> None:
    network = build()
    for call in (network.forward_intermediates, network.prune_intermediate_layers):
        arguments = (images(),) if call == network.forward_intermediates else ([0],)
        with pytest.raises(BadInput, match="extra_blocks: feature maps are those of feature_info"):
            call(*arguments, extra_blocks=True)  # type: ignore[operator]
    assert len(network.blocks) == len(SPACE.layers)
