"""Which runtime a name gives, and that ONNX Runtime times the network that users ship."""

import importlib.metadata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from mobilenas.latency.runtimes import MIN_RUNS, OnnxRuntime, make_runtime
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.export.deployable import deployable
from mobilenas.latency.graphs import network_job
from mobilenas.nn import Network
from mobilenas.nn.blocks import build
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.command import Command
from mobilenas.runtimes.onnx import to_onnx
from mobilenas.space import Space, load_space

RAW = NetworkInfo((), (0.0,) * 3, (1.0,) * 3)
SPACE = "s2:width=0.25,resolution=64"


@pytest.fixture
def block(unlike_fresh: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor]:
    """A block with four paths, and an input."""
    layer = load_space(SPACE).blocks[3]
    module = unlike_fresh(build(layer, layer.candidates[-1])).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    return module, torch.randn(
        2, layer.in_channels, layer.in_size, layer.in_size, generator=generator
    )


def output(path: Path, image: Tensor) -> Tensor:
    (found,) = ort.InferenceSession(path).run(None, {"image": image.numpy()})
    return torch.from_numpy(found)


def optimised(path: Path) -> Counter[str]:
    """Number of nodes of each operator in what ONNX Runtime executes of a file."""
    result = path.with_suffix(".optimised.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(result)
    options.log_severity_level = 3  # it warns that such a file is for this machine only
    ort.InferenceSession(path, options)
    return Counter(node.op_type for node in onnx.load(result).graph.node)


def test_a_name_gives_its_runtime() -> None:
    assert isinstance(
        make_runtime("onnxruntime", dtype="int8", threads=1, command=None), OnnxRuntime
    )
    command = make_runtime("command", dtype="fp32", threads=1, command="time {model}")
    assert isinstance(command, Command)


@pytest.mark.parametrize(
    ("name", "dtype", "command", "words"),
    [
        ("tflite", "fp32", None, "onnxruntime, executorch, command"),
        ("onnxruntime", "fp16", None, "fp32, int8"),
        ("onnxruntime", "fp32", "time {model}", "only `command`"),
        ("command", "fp32", None, "--command TEMPLATE"),
        ("executorch", "int8", None, "int8"),
    ],
)
def test_what_is_no_runtime(name: str, dtype: str, command: str | None, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make_runtime(name, dtype=dtype, threads=1, command=command)


@pytest.mark.parametrize(("name", "command"), [("executorch", None), ("command", "time {pte}")])
def test_missing_package_names_its_extra(
    name: str, command: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BadInput, match=r"executorch is not installed.*mobilenas\[mobile\]"):
        make_runtime(name, dtype="fp32", threads=1, command=command)


def test_onnx_file_computes_what_torch_does(
    block: tuple[nn.Module, Tensor], tmp_path: Path
) -> None:
    module, image = block
    runtime, path = OnnxRuntime("fp32", 1), tmp_path / "block.onnx"
    runtime.prepare(module, image, path)
    torch.testing.assert_close(output(path, image), module(image), atol=1e-4, rtol=1e-4)
    times = runtime.time(path, 0.01)
    assert len(times) >= MIN_RUNS
    assert min(times) > 0


def test_int8_block_is_close_and_times(block: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    module, image = block
    runtime, path = OnnxRuntime("int8", 1), tmp_path / "block.onnx"
    runtime.prepare(module, image, path)
    cosine = nn.functional.cosine_similarity(
        output(path, image).flatten(), module(image).flatten(), 0
    )
    assert cosine > 0.99
    assert min(runtime.time(path, 0.01)) > 0


def test_int8_weights_have_a_scale_a_channel(
    block: tuple[nn.Module, Tensor], tmp_path: Path
) -> None:
    module, image = block
    path = tmp_path / "block.onnx"
    OnnxRuntime("int8", 1).prepare(module, image, path)
    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [
        (values[node.input[0]], values[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values
    ]
    kernels = [(kernel, scale) for kernel, scale in weights if kernel.ndim == 4]
    assert len(kernels) == sum(isinstance(part, nn.Conv2d) for part in module.modules())
    for kernel, scale in kernels:
        assert kernel.dtype == np.int8
        assert scale.shape == (len(kernel),)


def test_what_is_timed_is_what_is_shipped(mixed_space: Space, tmp_path: Path) -> None:
    arch = mixed_space.sample(np.random.default_rng(3))
    timed, shipped = tmp_path / "timed.onnx", tmp_path / "shipped.onnx"
    OnnxRuntime("fp32", 1).prepare(*network_job(mixed_space, arch, batch=1).make(), timed)
    shipped.write_bytes(to_onnx(*deployable(Network(mixed_space, arch), RAW, Form())))
    assert optimised(timed) == optimised(shipped)


def test_all_convolutions_are_quantised(mixed_space: Space, tmp_path: Path) -> None:
    # Fresh weights: their equal biases once kept convolutions in float.
    arch = mixed_space.sample(np.random.default_rng(3))
    module, image = network_job(mixed_space, arch, batch=1).make()
    path = tmp_path / "network.onnx"
    OnnxRuntime("int8", 1).prepare(module, image, path)
    nodes = optimised(path)
    assert nodes["QLinearConv"] == sum(isinstance(part, nn.Conv2d) for part in module.modules())
    assert nodes["Conv"] == nodes["FusedConv"] == 0
