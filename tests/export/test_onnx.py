"""Exported files: the same function as the network, complete, reproducible, or not written."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import mobilenas
from mobilenas.data import load_data
from mobilenas.errors import BadInput, VerificationFailed
from mobilenas.export import Accuracy, export_onnx, verify_onnx
from mobilenas.export.onnx import normalise, to_onnx
from mobilenas.export.verify import TOLERANCE, compare
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.space import load_space

TINY = "macro:width=0.125,resolution=16"
SPACES = [
    "s1:width=0.25,resolution=16",
    "s2:width=0.25,resolution=64,num_classes=10",
    "s3:width=0.25,resolution=64,num_classes=10",
    "fairnas:width=0.25,resolution=64,num_classes=10,squeeze_excite=0.5",
    "macro:width=0.25,resolution=16,activation=hard_swish",
]
CLASSES = tuple(f"class {i}" for i in range(10))
MEAN, STD = (0.5, 0.45, 0.4), (0.2, 0.25, 0.3)
CONSUMER = Path(__file__).parents[2] / "export" / "classify.py"


def make_images(resolution: int, count: int = 20) -> np.ndarray:
    """Noise with a different offset and contrast for each image and channel."""
    rng = np.random.default_rng(1)
    centre, contrast = rng.uniform(40, 215, (count, 1, 1, 3)), rng.uniform(5, 60, (count, 1, 1, 3))
    noise = rng.normal(centre, contrast, (count, resolution, resolution, 3))
    return noise.clip(0, 255).astype(np.uint8)


def build(reference: str) -> Network:
    """A random network whose batch norms all do something, or else folding errors do not show."""
    space, generator = load_space(reference), torch.Generator().manual_seed(0)
    network = Network(space, space.sample(np.random.default_rng(0)), generator=generator)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0, 0.3, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(normalise(make_images(space.resolution), MEAN, STD)))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
            norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)
    return network


def export(network: Network, path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "images": make_images(network.space.resolution),
        "labels": np.arange(20) % 10,
        "mean": MEAN,
        "std": STD,
        "classes": CLASSES,
        "accuracy": Accuracy(0.875, "32 test images"),
        "flops": 123_456,
    }
    return export_onnx(network, path, **{**arguments, **changes})


@dataclass
class Exported:
    network: Network
    path: Path
    report: Any

    @property
    def inputs(self) -> np.ndarray:
        return normalise(make_images(self.network.space.resolution), MEAN, STD)


def make(reference: str, folder: Path) -> Exported:
    network = build(reference)
    return Exported(network, folder / "model.onnx", export(network, folder / "model.onnx"))


@pytest.fixture(scope="module", params=SPACES, ids=lambda reference: reference.split(":")[0])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return make(request.param, tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return make(TINY, tmp_path_factory.mktemp("tiny"))


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_file_computes_what_the_network_does(exported: Exported, batch: int) -> None:
    session = ort.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    inputs = exported.inputs[:batch]
    (logits,) = session.run(["logits"], {"image": inputs})
    with torch.inference_mode():
        expected = exported.network.eval()(torch.from_numpy(inputs)).numpy()
    assert logits.shape == (batch, 10)
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_report_has_the_proof(exported: Exported) -> None:
    report = json.loads(json.dumps(exported.report.to_dict()))
    assert report["path"] == str(exported.path)
    assert report["size_bytes"] == exported.path.stat().st_size
    proof = report["verification"]
    assert [row["batch_size"] for row in proof["parity"]] == [1, 7, 8]
    assert all(0 <= row["max_rel"] <= proof["tolerance"] for row in proof["parity"])
    assert all(row["top1_agreement"] == 1 for row in proof["parity"])
    convolutions = [m for m in exported.network.modules() if isinstance(m, nn.Conv2d)]
    assert proof["nodes"]["Conv"] == len(convolutions)
    assert "BatchNormalization" not in proof["nodes"]
    assert proof["onnx_accuracy"] == proof["torch_accuracy"]


def test_metadata(exported: Exported) -> None:
    about = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    space = load_space(about["space"])
    assert space.parse(about["arch"]) == exported.network.arch
    assert int(about["input_resolution"]) == space.resolution
    assert json.loads(about["input_normalisation"]) == {"mean": list(MEAN), "std": list(STD)}
    assert tuple(json.loads(about["classes"])) == CLASSES
    assert about["top1_accuracy"] == "0.875"
    assert about["top1_accuracy_on"] == "32 test images"
    assert about["flops_multiply_adds"] == "123456"
    assert about["mobilenas_version"] == mobilenas.__version__
    assert about == exported.report.metadata


def test_network_is_left_as_it_is_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    network = build(TINY).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = export(network, tmp_path / "model.onnx", accuracy=None, labels=None)
        logging.getLogger("after").warning("logs again")
    shown = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.message for record in shown] == ["logs again"]
    assert (capfd.readouterr(), warned) == (("", ""), [])
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert "top1_accuracy" not in report.metadata
    assert report.verification.onnx_accuracy is None


def test_same_bytes_in_another_process_without_paths_of_this_machine(tiny: Exported) -> None:
    # `tiny` is exported before it here, nothing is in the other process.
    model = to_onnx(build(TINY), {"key": "value"})
    assert b"site-packages" not in model
    assert str(Path(mobilenas.__file__).parent).encode() not in model
    script = (
        "import hashlib, test_onnx as t;"
        "print(hashlib.sha256(t.to_onnx(t.build(t.TINY), {'key': 'value'})).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(model).hexdigest()


# --- what is caught -----------------------------------------------------------------------------


def perturb_one_weight(model: onnx.ModelProto) -> None:
    def change(weight: np.ndarray) -> np.ndarray:
        weight.flat[0] += 0.1
        return weight

    change_stem(model, change)


def swap_colours(model: onnx.ModelProto) -> None:
    change_stem(model, lambda weight: weight[:, ::-1])


def spoil(model: onnx.ModelProto) -> None:
    change_stem(model, lambda weight: weight * np.float32("nan"))


def change_stem(model: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    stem = next(t for t in model.graph.initializer if t.name == model.graph.node[0].input[1])
    weight = np.ascontiguousarray(change(numpy_helper.to_array(stem).copy()))
    stem.CopyFrom(numpy_helper.from_array(weight, stem.name))


def append(model: onnx.ModelProto, op: str, *constants: str, domain: str = "") -> None:
    """Put one more node between the classifier and the logits."""
    model.graph.node[-1].output[0] = "before"
    node = helper.make_node(op, ["before", *constants], ["logits"], domain=domain)
    model.graph.node.append(node)


def leave_batch_norm(model: onnx.ModelProto) -> None:
    for name, value in (("zeros", np.zeros(10)), ("ones", np.ones(10))):
        tensor = numpy_helper.from_array(value.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    append(model, "BatchNormalization", "ones", "zeros", "zeros", "ones")


def leave_dropout(model: onnx.ModelProto) -> None:
    append(model, "Dropout")


def use_other_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    append(model, "Special", domain="com.example")


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def fix_batch_inside(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 10]), "two_images"))
    append(model, "Reshape", "two_images")


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"


def take_doubles(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (perturb_one_weight, "batch size 1: logits differ by .* of the largest logit; at most"),
        (swap_colours, "batch size 1: logits differ by .* of the largest logit; at most"),
        (spoil, "batch size 1: logits differ by nan"),
        (leave_batch_norm, "1 BatchNormalization nodes are left of training"),
        (leave_dropout, "1 Dropout nodes are left of training"),
        (use_other_domain, "com.example.Special is not an operator of the ONNX standard"),
        (fix_batch, "the batch size of image is fixed at 2"),
        (fix_batch_inside, "batch size 1 does not run: "),
        (rename_input, "the model has x where only image is wanted"),
        (take_doubles, "not a valid ONNX model: "),
    ],
)
def test_broken_export_is_caught(
    tiny: Exported, tamper: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(tiny.path)
    verify_onnx(model.SerializeToString(), tiny.network, tiny.inputs)
    tamper(model)
    with pytest.raises(VerificationFailed, match=message) as failure:
        verify_onnx(model.SerializeToString(), tiny.network, tiny.inputs)
    assert "\n" not in str(failure.value)


def test_torn_file_is_caught(tiny: Exported) -> None:
    with pytest.raises(VerificationFailed, match="not a valid ONNX model"):
        verify_onnx(tiny.path.read_bytes()[:-100], tiny.network, tiny.inputs)


@pytest.mark.parametrize("statistic", ["running_mean", "running_var", "weight", "bias"])
def test_each_part_of_a_batch_norm_counts(tiny: Exported, statistic: str) -> None:
    other = build(TINY)
    with torch.no_grad():
        getattr(other.stem.bn, statistic)[0] += 0.1
    with pytest.raises(VerificationFailed, match="logits differ"):
        verify_onnx(tiny.path.read_bytes(), other, tiny.inputs)


def test_first_class_may_differ_only_where_torch_is_unsure() -> None:
    unsure = np.array([[1, 1 - 0.5 * TOLERANCE, 0]], np.float32)
    row = compare(unsure, unsure[:, [1, 0, 2]], 1)
    assert (row.top1_agreement, row.near_ties) == (0, 1)
    sure = np.array([[1, 1 - 1.5 * TOLERANCE, 0]], np.float32)
    flipped = np.array([[1 - 0.9 * TOLERANCE, 1 - 0.7 * TOLERANCE, 0]], np.float32)
    with pytest.raises(VerificationFailed, match="1 of 1 images have another first class"):
        compare(sure, flipped, 1)
    with pytest.raises(VerificationFailed, match="logits are"):
        compare(sure, sure[:, :2], 1)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"an older export"])
def test_nothing_is_written_when_the_proof_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    def fold_wrongly(network: Network) -> Network:
        folded = fold_batch_norm(network)
        with torch.no_grad():
            folded.stem.conv.bias += 0.1  # type: ignore[operator]
        return folded

    monkeypatch.setattr("mobilenas.export.onnx.fold_batch_norm", fold_wrongly)
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VerificationFailed, match="logits differ"):
        export(build(TINY), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == (
        {} if content is None else {path: content}
    )


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(read_only: Path) -> None:
    with pytest.raises(BadInput, match="is read-only"):
        export(build(TINY), read_only / "model.onnx")


def test_impossible_target(tmp_path: Path) -> None:
    network = build(TINY)
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "model.onnx", tmp_path / "file" / "model.onnx"):
        with pytest.raises(BadInput, match=f"cannot write .*: {path.parent} is not a folder"):
            export(network, path)
    with pytest.raises(BadInput, match="it is a folder"):
        export(network, tmp_path)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilenas.export.onnx.write_atomic", full)
    with pytest.raises(BadInput, match=r"cannot write .*model\.onnx: No space left on device"):
        export(build(TINY), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": make_images(8)}, r"the network takes uint8 \(N, 16, 16, 3\)"),
        ({"images": make_images(16) / 255}, "images are float64"),
        ({"images": make_images(16, 7)}, "7 images; at least 8 are wanted"),
        ({"labels": np.zeros(3, np.int64)}, r"labels are \(3,\) for 20 images"),
        ({"classes": CLASSES[:-1]}, "9 class names; the network has 10 classes"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        export(build(TINY), tmp_path / "model.onnx", **changes)
    assert list(tmp_path.iterdir()) == []


# --- the consumer -------------------------------------------------------------------------------


def test_consumer_agrees_with_the_network(tiny: Exported, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name, size in (("a/1", (16, 16)), ("a/2", (40, 30)), ("b/1", (23, 50)), ("b/2", (9, 12))):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    files = sorted(str(path) for path in tmp_path.rglob("*.png"))
    inputs = normalise(load_data(str(tmp_path), 16).train.pixels, MEAN, STD)
    with torch.inference_mode():
        likely = tiny.network.eval()(torch.from_numpy(inputs)).softmax(1).topk(3)
    expected = [
        line
        for file, values, indices in zip(files, likely.values, likely.indices, strict=True)
        for line in (file, *(f"  {v:.4f}  class {i}" for v, i in zip(values, indices, strict=True)))
    ]
    ran = subprocess.run(
        [sys.executable, str(CONSUMER), str(tiny.path), *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == expected


def test_consumer_needs_no_torch_and_is_short() -> None:
    lines = CONSUMER.read_text(encoding="utf-8").splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"argparse", "json", "numpy", "onnxruntime", "PIL"}
    assert len(lines) <= 60
