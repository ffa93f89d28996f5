"""Small networks and their export, for the tests of the file and of its proof."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.data import Images
from mobilenas.export import Calibration, Form, Verification, export_network, make_runtime, verify
from mobilenas.export.deployable import deployable, normalise
from mobilenas.nn import AnyNetwork, Network, fold_batch_norm
from mobilenas.nn.saved import Accuracy, NetworkInfo
from mobilenas.runtimes.base import Dtype
from mobilenas.runtimes.onnx import to_onnx
from mobilenas.space import load_space

TINY = "macro:width=0.125,resolution=16"
CLASSES = tuple(f"class {i}" for i in range(10))
MEAN, STD = (0.5, 0.45, 0.4), (0.2, 0.25, 0.3)
INFO = NetworkInfo(CLASSES, MEAN, STD, accuracy=Accuracy(0.875, "32 test images"))


def make_images(resolution: int, count: int = 20) -> np.ndarray:
    """Noise with a different offset and contrast for each image and channel."""
    rng = np.random.default_rng(1)
    centre, contrast = rng.uniform(40, 215, (count, 1, 1, 3)), rng.uniform(5, 60, (count, 1, 1, 3))
    noise = rng.normal(centre, contrast, (count, resolution, resolution, 3))
    return noise.clip(0, 255).astype(np.uint8)


def build(reference: str) -> Network:
    """A random network whose batch norms all do something."""
    space, generator = load_space(reference), torch.Generator().manual_seed(0)
    network = Network(space, space.sample(np.random.default_rng(0)), generator=generator)
    change_norms(network, generator)
    return network


def change_norms(network: AnyNetwork, generator: torch.Generator) -> None:
    """Let all batch norms do something, or else folding errors do not show."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0, 0.3, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(normalise(make_images(network.space.resolution), MEAN, STD)))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
            norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)


def plain(network: Network) -> bytes:
    """The float32 ONNX model."""
    return to_onnx(*deployable(network, INFO, Form()))


def calibration(resolution: int, count: int = 40) -> Calibration:
    """Images like those that the export is verified on."""
    images = make_images(resolution, 72)
    return Calibration(images[:count], Images(images[40:], np.arange(32) % 10))


def export(network: Network, path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "info": INFO,
        "images": make_images(network.space.resolution),
        "labels": np.arange(20) % 10,
    }
    return export_network(network, path=path, **{**arguments, **changes})


def change_stem(change: Callable[[Tensor], Tensor]) -> Network:
    """The network of TINY with another weight of its first convolution."""
    other = build(TINY)
    with torch.no_grad():
        weight = other.get_parameter("stem.conv.weight")
        weight.copy_(change(weight.clone()))
    return other


def forget_a_batch_norm(network: Network) -> Network:
    """What `fold_batch_norm` gives, but the first batch norm is there, in training mode."""
    folded = fold_batch_norm(network)
    folded.stem = network.stem
    folded.stem.bn = TrainingNorm(network.stem.bn)  # type: ignore[arg-type]
    return folded


class TrainingNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True)


@dataclass
class Exported:
    network: Network
    path: Path
    report: Any

    def verify(
        self,
        files: dict[str, bytes],
        form: Form,
        dtype: Dtype = "fp32",
        runtime: str = "onnxruntime",
        info: NetworkInfo = INFO,
    ) -> Verification:
        """The proof of files that stand for this network."""
        images = make_images(self.network.space.resolution)
        load = make_runtime(runtime).load
        return verify(files, load, form, dtype, self.network, info, images)

    @property
    def inputs(self) -> np.ndarray:
        return normalise(make_images(self.network.space.resolution), MEAN, STD)


def make(reference: str, path: Path, **changes: Any) -> Exported:
    network = build(reference)
    return Exported(network, path, export(network, path, **changes))
