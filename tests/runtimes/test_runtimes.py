"""What each runtime is by its name, and that a latency table times what is shipped."""

import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.export.deployable import deployable
from mobilenas.latency.graphs import Job, network_job
from mobilenas.latency.timer import Timer, make_timer
from mobilenas.nn import Network
from mobilenas.nn.blocks import build
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import MIN_RUNS, Choice, Dtype, Feed, Form, Runtime
from mobilenas.runtimes.command import Command
from mobilenas.runtimes.onnxruntime import OnnxRuntime
from mobilenas.runtimes.registry import RUNTIMES, runtime_class, runtime_of
from mobilenas.space import Space, load_space

RAW = NetworkInfo((), (0.0,) * 3, (1.0,) * 3)
SPACE = "s2:width=0.25,resolution=64"
SQUEEZED = "fairnas:width=0.25,resolution=32,squeeze_excite=0.5,activation=hard_swish"


def timer(name: str = "onnxruntime", dtype: str = "fp32", command: str | None = None) -> Timer:
    return make_timer(name, dtype=dtype, threads=1, command=command)


@pytest.fixture
def job(unlike_fresh: Callable[..., nn.Module]) -> Job:
    """A block with four paths, for two inputs."""
    layer = load_space(SPACE).blocks[3]
    module = unlike_fresh(build(layer, layer.candidates[-1])).eval().requires_grad_(False)
    shape = (2, layer.in_channels, layer.in_size, layer.in_size)
    return Job("block", lambda: module, shape)


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


def nodes(model: bytes) -> Counter[Any]:
    """Each node by its operator, its attributes, and the types and shapes of its constants.

    Attributes that say what holds without them are left out: one exporter writes them.
    """
    idle = {("auto_pad", "b'NOTSET'"), ("noop_with_empty_axes", "0"), ("transA", "0")}
    graph = onnx.load_from_string(model).graph
    constants = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    found: Counter[Any] = Counter()
    for node in graph.node:
        attributes = {(a.name, str(onnx.helper.get_attribute_value(a))) for a in node.attribute}
        given = tuple(constants.get(name) for name in node.input)
        found[node.op_type, given, frozenset(attributes - idle)] += 1
    return found


# --- the protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*map(runtime_class, RUNTIMES), Command])
def test_all_keep_to_one_protocol(kind: type[Runtime], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "7")
    runtime = Command("time {model}", 1) if kind is Command else kind(1)
    for name in ("convert", "load", "time"):
        asked, found = (
            list(inspect.signature(getattr(k, name)).parameters) for k in (Runtime, kind)
        )
        assert found == asked
    for name in ("convert", "load"):
        assert name in vars(kind), f"{name} is that of the protocol, which does nothing"
    packaged = len({end.partition("/")[0] for end in runtime.suffixes}) < len(runtime.suffixes)
    assert packaged == (runtime.name == "coreml")
    assert runtime.suffix == (".mlpackage" if packaged else runtime.suffixes[0])
    assert runtime.name and runtime.version
    assert {"any", "fixed", "one"} >= {runtime.batches} and runtime.dtypes
    if kind is not Command:
        assert RUNTIMES[runtime.name] == kind.__name__
        assert runtime_of(Path(f"a.b{runtime.suffix}")) is kind


def test_a_file_of_no_runtime() -> None:
    assert runtime_of(Path("network")) is None


def test_a_name_gives_its_runtime() -> None:
    assert isinstance(timer(dtype="int8").runtime, OnnxRuntime)
    assert isinstance(timer("command", command="time {model}").runtime, Command)


@pytest.mark.parametrize(
    ("name", "dtype", "command", "words"),
    [
        ("tflite", "fp32", None, "onnxruntime, executorch, command"),
        ("onnxruntime", "fp16", None, "fp32, int8"),
        ("onnxruntime", "fp32", "time {model}", "only `command`"),
        ("command", "fp32", None, "--command TEMPLATE"),
    ],
)
def test_what_is_no_runtime(name: str, dtype: str, command: str | None, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        timer(name, dtype, command)


@pytest.mark.parametrize(("name", "command"), [("executorch", None), ("command", "time {pte}")])
def test_missing_package_names_its_extra(
    name: str, command: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BadInput, match=r"executorch is not installed.*'\.\[mobile\]'"):
        timer(name, command=command)


# --- files for timing ---------------------------------------------------------------------------


def test_onnx_file_computes_what_torch_does(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    timer().write(job, path)
    image = job.example
    torch.testing.assert_close(output(path, image), job.make()(image), atol=1e-4, rtol=1e-4)
    times = timer().time(job, path, 0.01)
    assert len(times) >= MIN_RUNS
    assert min(times) > 0


@pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
def test_int8_block_is_close_and_times(name: str, job: Job, tmp_path: Path) -> None:
    if name == "executorch":
        pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    at, image = timer(name, "int8"), job.example
    path = tmp_path / f"block{at.runtime.suffix}"
    at.write(job, path)
    found = at.runtime.load({at.runtime.suffix: path.read_bytes()})(image.numpy())
    expected = job.make()(image).flatten()
    cosine = nn.functional.cosine_similarity(torch.from_numpy(found).flatten(), expected, 0)
    assert 0.99 < cosine < 0.999999
    assert min(at.time(job, path, 0.01)) > 0


def shipped_network(space: Space, unlike_fresh: Callable[..., nn.Module]) -> Network:
    """A network whose biases and batch norms all do something, as those of trained ones."""
    network = Network(space, space.sample(np.random.default_rng(3)))
    unlike_fresh(network)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
                part.bias.normal_()
    return network.eval()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("reference", ["macro:width=0.125,resolution=16", "mixed", "squeezed"])
def test_what_is_timed_is_what_is_shipped(
    reference: str,
    dtype: Dtype,
    mixed_space: Space,
    unlike_fresh: Callable[..., nn.Module],
    tmp_path: Path,
) -> None:
    spaces = {"mixed": mixed_space}
    space = spaces.get(reference) or load_space(SQUEEZED if reference == "squeezed" else reference)
    network = shipped_network(space, unlike_fresh)
    timed, shipped = tmp_path / "timed.onnx", tmp_path / "shipped.onnx"
    timer(dtype=dtype).write(network_job(space, network.arch, batch=1), timed)
    module, example = deployable(network, RAW, Form(batch=1))
    images = np.random.default_rng(0).normal(size=(8, *example.shape[1:])).astype(np.float32)
    feed = Feed(images[:4], Choice(images[4:], np.zeros(4, np.int64))) if dtype == "int8" else None
    model = OnnxRuntime().convert(module, example, Form(batch=1), feed).files[".onnx"]
    shipped.write_bytes(model)
    for made in (module, network_job(space, network.arch, batch=1).make()):
        assert not any(getattr(part, "inplace", False) for part in made.modules())
    assert nodes(timed.read_bytes()) == nodes(model)
    assert optimised(timed) == optimised(shipped)
    assert onnx.load(timed).ir_version == onnx.load(shipped).ir_version == 8
    weights = [t for t in onnx.load(timed).graph.initializer if len(t.dims) == 4]
    wanted = onnx.TensorProto.INT8 if dtype == "int8" else onnx.TensorProto.FLOAT
    assert {t.data_type for t in weights} == {wanted}


def test_all_convolutions_are_quantised(mixed_space: Space, tmp_path: Path) -> None:
    # Fresh weights: their equal biases once kept convolutions in float.
    job = network_job(mixed_space, mixed_space.sample(np.random.default_rng(3)), batch=1)
    path = tmp_path / "network.onnx"
    timer(dtype="int8").write(job, path)
    found = optimised(path)
    assert found["QLinearConv"] == sum(isinstance(part, nn.Conv2d) for part in job.make().modules())
    assert found["Conv"] == found["FusedConv"] == 0


def test_equal_biases_are_quantised_each_by_itself(job: Job, tmp_path: Path) -> None:
    def make() -> nn.Module:
        module = job.make()
        with torch.no_grad():
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.bias.fill_(0.25)
        return module

    path = tmp_path / "block.onnx"
    timer(dtype="int8").write(replace(job, make=make), path)
    assert optimised(path)["Conv"] == 0
