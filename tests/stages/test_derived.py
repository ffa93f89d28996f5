"""The network that a search leaves computes what its supernet does for the arch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from genotypes import DARTS_V2
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import EdgeCellSupernet, Supernet
from mobilenas.nn.saved import load_network
from mobilenas.space import EdgeCellSpace, Space, load_listed_space, load_space
from mobilenas.stages.derived import derived_network, store_network
from mobilenas.strategies.config import SearchConfig
from mobilenas.train.images import choose_images

S1 = "s1:width=0.25,resolution=16"
DARTS = "darts:channels=4,cells=3,resolution=8"
NB201 = "nb201:channels=4,cells=1,resolution=8"
POOLED = DARTS_V2
PLAIN = DARTS_V2.replace("max_pool_3x3", "dil_conv_3x3")
Build = Callable[[Space | EdgeCellSpace], nn.Module]


def space_of(name: str) -> Space | EdgeCellSpace:
    space = load_listed_space(name)
    assert isinstance(space, Space | EdgeCellSpace)
    return space


def batches(space: Space | EdgeCellSpace) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (8, space.spec.in_channels, space.resolution, space.resolution)
    return [torch.randn(shape, generator=generator).double() for _ in range(3)]


def of_blocks(**how: bool) -> Build:
    return lambda space: Supernet(space, **how)  # type: ignore[arg-type]


def of_cells(**how: object) -> Build:
    return lambda space: EdgeCellSupernet(space, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name, build",
    [
        (S1, of_blocks()),
        (S1, of_blocks(affine_last=False)),
        (f"{S1},candidates.max_paths=1", of_blocks(merged=True)),
        (f"{S1},path_activation=after_sum", of_blocks(merged=True)),
        ("digits:width=0.5,resolution=8", of_blocks(affine_last=False)),
        (NB201, of_cells()),
        (NB201, of_cells(merged="flat")),
        (NB201, of_cells(merged="two_level")),
        (DARTS, of_cells()),
    ],
)
def test_it_computes_what_the_supernet_does(name: str, build: Build) -> None:
    space = space_of(name)
    rng = np.random.default_rng(1)
    for _ in range(3):
        arch = space.parse(PLAIN) if name == DARTS else space.sample(rng)
        supernet = build(space).double()
        for norm in (m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)):
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.3)
        data = batches(space)
        network = derived_network(supernet, arch, data)
        with torch.no_grad():
            for images in data:
                logits = supernet(images, arch)
                assert (network(images) - logits).abs().max() <= 1e-12 * logits.abs().max()
            first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
            norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
            means = torch.stack([first(images).mean((0, 2, 3)) for images in data])
        assert norm.running_mean is not None  # the statistics are those of the batches
        torch.testing.assert_close(norm.running_mean, means.mean(0))


# One image more than a batch of evaluation has; alone it would be a batch without a variance.
def test_its_norms_are_averaged_over_batches_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space("digits:width=0.5,resolution=8")
    config = SearchConfig(limit=257, device="cpu")
    images = choose_images("digits", 8, config, 0, calibrate=0)
    supernet = Supernet(space, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    supernet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    arch = space.sample(np.random.default_rng(0))
    store_network(tmp_path / "network", supernet, arch, images)
    network, info = load_network(tmp_path / "network")
    assert (str(network.arch), info.classes) == (str(arch), images.data.classes)
    assert [len(x) for x in seen] == [257]
    monkeypatch.setattr("mobilenas.train.images._EVAL_BATCH", 100)
    store_network(tmp_path / "network", supernet, arch, images)
    assert [len(x) for x in seen[1:]] == [85, 85, 85]


@pytest.mark.parametrize(
    "name, build, text, words",
    [
        (DARTS, of_cells(), POOLED, "pools have a batch norm"),
        (DARTS, of_cells(merged="flat"), PLAIN, "a sep_conv runs once"),
        (NB201, of_cells(parts=2), None, "parts 2"),
        (S1, lambda space: nn.Linear(1, 1), None, "class Linear"),
    ],
)
def test_it_refuses_ops_that_are_others_in_a_network(
    name: str, build: Build, text: str | None, words: str
) -> None:
    space = space_of(name)
    arch = space.parse(text) if text else space.sample(np.random.default_rng(0))
    with pytest.raises(BadInput, match=words):
        derived_network(build(space), arch, [])
