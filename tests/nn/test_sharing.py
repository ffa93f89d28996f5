"""Weights that candidates share: parts of the largest, at every place where a supernet is used."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.evaluate.trie import accuracies
from mobilenas.nn import Network, Supernet
from mobilenas.nn.sharing import Shared, Sharing
from mobilenas.space import Space, load_any_space, load_space
from mobilenas.stages.supernet_train import create_supernet_run, train_supernet
from mobilenas.train.calibrate import accuracy, inherit, recalibrate
from mobilenas.train.config import SupernetConfig
from mobilenas.train.supernets import new_supernet, open_supernet_run

SPACES = [
    "s1:width=0.25,resolution=16,stem.stride=1",
    "fairnas:width=0.25,resolution=32,num_classes=10",
    "macro:width=0.25,resolution=16",
]
KINDS: list[Sharing] = ["expansion", "kernel", "both"]


def make(name: str, sharing: Sharing) -> tuple[Space, Supernet]:
    space = load_space(name)
    supernet = Supernet(space, sharing=sharing, generator=torch.Generator().manual_seed(0))
    for norm in supernet.modules():  # not zero, so that every path counts
        if isinstance(norm, nn.BatchNorm2d) and not isinstance(norm, Shared):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return space, supernet


def images(space: Space, n: int = 4) -> Tensor:
    size = space.resolution
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("sharing", KINDS)
@pytest.mark.parametrize("name", SPACES)
def test_a_network_gets_copies_that_compute_the_same(name: str, sharing: Sharing) -> None:
    space, supernet = make(name, sharing)
    x, rng = images(space), np.random.default_rng(0)
    for _ in range(4):
        arch = space.sample(rng)
        network = Network(space, arch).load_from(supernet)
        assert not any(isinstance(part, Shared) for part in network.modules())
        assert torch.equal(network.eval()(x), supernet.eval()(x, arch))
        before = [p.clone() for p in network.parameters()]
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter += 1
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter -= 1


def test_each_weight_is_there_once_and_in_the_state_dict() -> None:
    space, supernet = make(SPACES[0], "both")
    names = [name for name, _ in supernet.named_parameters()]
    for inside in (".e3.expand.", ".e3.groups.", ".e3.project", ".e6.groups.0.k3.conv"):
        assert not [name for name in names if inside in name]
    assert [name for name in names if ".e6.groups.0.k9.conv" in name]
    assert [name for name in names if ".e6.groups.0.k3.bn" in name]  # a kernel has its own norm
    assert [name for name in names if ".e3.bns." in name]  # so has an expansion
    # What the largest candidate of each block has, and all norms that are not shared.
    largest = Network(space, space.parse("_".join(["e6k9"] * len(space.blocks))))
    rest = sum(
        p.numel()
        for name, p in supernet.named_parameters()
        if ".bns." in name or (".groups.0.k" in name and ".bn." in name and ".k9." not in name)
    )
    own = sum(p.numel() for name, p in largest.named_parameters() if ".bns." in name)
    assert sum(p.numel() for p in supernet.parameters()) == (
        sum(p.numel() for p in largest.parameters()) - own + rest
    )
    other = Supernet(space, sharing="both", generator=torch.Generator().manual_seed(9))
    other.load_state_dict(supernet.state_dict())
    arch = space.sample(np.random.default_rng(3))
    x = images(space)
    assert torch.equal(other.eval()(x, arch), supernet.eval()(x, arch))


@pytest.mark.parametrize("sharing", KINDS)
def test_gradients_are_those_of_the_parts(sharing: Sharing) -> None:
    """A second way: gradients of plain networks, added in their places of the largest weights."""
    space, supernet = make(SPACES[0], sharing)
    x = images(space)
    archs = [space.parse("_".join([c] * len(space.blocks))) for c in ("e3k35", "e6k79", "e3k9")]
    sum(supernet(x, arch).square().sum() for arch in archs).backward()  # type: ignore[union-attr]
    networks = {arch: Network(space, arch).load_from(supernet).train() for arch in archs}
    for network in networks.values():
        network.drop_rate = 0.0
        network(x).square().sum().backward()
    block = supernet.blocks[1]
    expected = torch.zeros_like(block.branches["e6"].expand.conv.weight)
    for arch, network in networks.items():
        grad = network.blocks[1].expand.conv.weight.grad
        if sharing != "kernel" or str(arch).startswith("e6"):
            expected[: len(grad)] += grad
    torch.testing.assert_close(
        block.branches["e6"].expand.conv.weight.grad, expected, rtol=1e-3, atol=1e-5
    )
    largest = block.branches["e6"].groups[0]["k9"].conv.weight
    expected = torch.zeros_like(largest)
    for network in networks.values():
        for name, path in network.blocks[1].groups[0].items():
            grad, k = path.conv.weight.grad, int(name[1:])
            own_kernel = sharing == "expansion" and k < 9
            own_channels = sharing == "kernel" and len(grad) < len(largest)
            if not own_kernel and not own_channels:
                border = (9 - k) // 2
                expected[: len(grad), :, border : 9 - border, border : 9 - border] += grad
    torch.testing.assert_close(largest.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sharing", KINDS)
@pytest.mark.parametrize("name", SPACES)
def test_archs_are_evaluated_together_as_they_are_alone(name: str, sharing: Sharing) -> None:
    space, supernet = make(name, sharing)
    supernet.eval()
    rng = np.random.default_rng(1)
    archs = [space.sample(rng) for _ in range(5)]
    x, labels = images(space, 32), torch.arange(32) % 10
    together = accuracies(
        supernet, archs, calibration=lambda: iter([x]), validation=lambda: iter([(x, labels)])
    )
    for arch, share in zip(archs, together, strict=True):
        network = inherit(supernet, arch)
        recalibrate(network, [x])
        assert accuracy(network, [(x, labels)]) == share


def test_a_copy_shares_with_itself() -> None:
    space, supernet = make(SPACES[0], "both")
    arch = space.parse("_".join(["e3k3"] * len(space.blocks)))
    x = images(space)
    twin = copy.deepcopy(supernet)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert twin.eval()(x, arch).abs().sum() > 0
    assert supernet.eval()(x, arch).abs().sum() == 0


def test_channel_groups_share_kernels_only() -> None:
    space = load_space("s3:width=0.25,resolution=32,num_classes=10")
    supernet = Supernet(space, sharing="kernel")
    arch = space.sample(np.random.default_rng(0))
    network = Network(space, arch).load_from(supernet)
    x = images(space)
    assert torch.equal(network.eval()(x), supernet.eval()(x, arch))
    with pytest.raises(BadInput, match="expansions of 4 channel groups share no weights"):
        Supernet(space, sharing="both")


def test_a_run_trains_and_opens_with_what_it_shares(tmp_path: Path) -> None:
    config = SupernetConfig.model_validate(
        {"sharing": "both", "passes": 0.05, "batch_size": 8, "device": "cpu", "limit": 400}
    )
    space = load_space("digits:resolution=16")
    run = create_supernet_run(tmp_path / "run", space, "digits", 0, config)
    trained = train_supernet(run).eval()
    opened = open_supernet_run(tmp_path / "run").load_supernet().eval()
    x, arch = images(space), run.space.sample(np.random.default_rng(0))
    torch.testing.assert_close(trained(x, arch), opened(x, arch))
    alone = create_supernet_run(
        tmp_path / "alone", space, "digits", 0, config.model_copy(update={"sharing": "none"})
    )
    weights = [sum(p.numel() for p in new_supernet(r.settings).parameters()) for r in (run, alone)]
    assert weights[0] < 0.7 * weights[1]
    uniform = config.model_copy(update={"strategy": "uniform"})
    with pytest.raises(BadInput, match="sharing both: cells share no weights; it must be none"):
        create_supernet_run(tmp_path / "cells", load_any_space("nb101"), "digits", 0, uniform)
