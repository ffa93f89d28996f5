"""Fixtures shared by the tests: small spaces, networks that are not trivial, real data."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from mobilenas.space import Arch, Space, list_spaces, load_space, space_from_dict

if TYPE_CHECKING:
    from exporting import Exported

# What makes each shipped space small enough to run in milliseconds.
AT_64 = "width=0.25,resolution=64,num_classes=10"
OVERRIDES = {
    "s1": "width=0.25,resolution=16",
    "s2": AT_64,
    "s3": AT_64,
    "fairnas": f"{AT_64},squeeze_excite=0.5,activation=hard_swish",
    "macro": "width=0.25,resolution=16",
    "proxyless": AT_64,
    "mobilenetv2": AT_64,
    "fbnet_cifar": "width=0.25,resolution=16,num_classes=10",
}
LINEAR_SPACE = "s1:width=0.25,resolution=16,path_activation=after_sum"
SMALL_SPACES = [
    *(f"{name}:{OVERRIDES.get(name, 'width=0.25')}" for name in list_spaces()),
    LINEAR_SPACE,
]


def pytest_configure() -> None:
    """Let yapf, which mmdet imports, write its cache before workers start: see detect/compat.py."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with contextlib.suppress(ImportError):
            import yapf  # noqa: F401


def pytest_fixture_setup() -> None:
    """Each fixture draws the same weights in whatever order tests run."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """So does each test."""
    torch.manual_seed(0)


@pytest.fixture(params=SMALL_SPACES)
def small_space(request: pytest.FixtureRequest) -> Space:
    """Each shipped space in turn, narrow and at a small resolution, and one of linear paths."""
    return load_space(request.param)


@pytest.fixture
def mixed_data() -> dict[str, Any]:
    """A space as plain data whose five blocks offer 2, 3, 5, 13 and 4 candidates."""
    product = {"expansions": [2, 3], "kernels": [1, 3, 5], "max_paths": 2, "skip": True}
    return {
        "name": "mixed",
        "description": "blocks of every kind",
        "resolution": 12,
        "num_classes": 3,
        "in_channels": 1,
        "stem": {"channels": 8},
        "candidates": ["id", "e3k3", "e6k5"],
        "stages": [
            {"channels": 8, "candidates": ["e2k3", "e2k7"]},
            {"channels": 8, "fixed": "e1k5", "activation": "hard_swish"},
            {"channels": 12, "stride": 2},
            {"channels": 12, "candidates": {"expansions": [2, 4], "kernels": [3, 5], "skip": True}},
            {"channels": 12, "candidates": product, "squeeze_excite": 0.5, "activation": "swish"},
            {"channels": 16, "candidates": {"expansions": [2], "kernels": [3, 5], "groups": 2}},
        ],
        "head": {"channels": 24},
    }


@pytest.fixture
def mixed_space(mixed_data: dict[str, Any]) -> Space:
    return space_from_dict(mixed_data)


@pytest.fixture
def sample() -> Callable[..., list[Arch]]:
    """`sample(space, n, seed)`: n archs."""

    def draw(space: Space, n: int, seed: int = 0) -> list[Arch]:
        rng = np.random.default_rng(seed)
        return [space.sample(rng) for _ in range(n)]

    return draw


@pytest.fixture
def unlike_fresh() -> Callable[..., nn.Module]:
    """`unlike_fresh(module, seed)` gives every batch norm weights, biases and statistics that do
    something: with the initial ones, many mistakes are invisible.
    """

    def change(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.weight.uniform_(0.5, 1.5, generator=generator)
                    part.bias.normal_(0, 0.3, generator=generator)
                    part.running_mean.normal_(0, 0.3, generator=generator)
                    part.running_var.uniform_(0.5, 2.0, generator=generator)
        return module

    return change


@pytest.fixture
def data_root() -> Path:
    """The folder of real data that MOBILENAS_DATA names."""
    folder = os.environ.get("MOBILENAS_DATA")
    if not folder:
        pytest.skip("set MOBILENAS_DATA to the folder of real data (nas_bench_macro/ ...)")
    if not Path(folder).is_dir():
        pytest.skip(f"MOBILENAS_DATA names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "Exported":
    """The smallest network, exported once; tests leave it as it is."""
    from exporting import TINY, make

    return make(TINY, tmp_path_factory.mktemp("tiny") / "model.onnx")
