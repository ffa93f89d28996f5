"""Exported files: complete, reproducible, or not written."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from exporting import (
    CLASSES,
    INFO,
    MEAN,
    STD,
    TINY,
    Exported,
    build,
    export,
    make,
    make_images,
    plain,
)
from torch import nn

import mobilenas
from mobilenas.base.errors import BadInput, VerificationFailed
from mobilenas.cost import CostModel
from mobilenas.export.verify import TOLERANCE
from mobilenas.export.write import check_target
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.space import load_space

SPACES = [
    "s1:width=0.25,resolution=16",
    "s2:width=0.25,resolution=64,num_classes=10",
    "s3:width=0.25,resolution=64,num_classes=10",
    "fairnas:width=0.25,resolution=64,num_classes=10,squeeze_excite=0.5",
    "macro:width=0.25,resolution=16,activation=hard_swish",
]


@pytest.fixture(scope="module", params=SPACES, ids=lambda reference: reference.split(":")[0])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return make(request.param, tmp_path_factory.mktemp("space") / "model.onnx")


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_file_computes_what_the_network_does(exported: Exported, batch: int) -> None:
    session = ort.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    inputs = exported.inputs[:batch]
    (logits,) = session.run(["logits"], {"image": inputs})
    with torch.inference_mode():
        expected = exported.network.eval()(torch.from_numpy(inputs)).numpy()
    assert logits.shape == (batch, 10)
    assert np.abs(logits - expected).max() <= TOLERANCE["fp32"] * np.abs(expected).max()


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
    assert proof["exported_accuracy"] == proof["torch_accuracy"]


def test_linear_paths_are_exported_as_one_depthwise_convolution_a_block(tmp_path: Path) -> None:
    network = build("s1:width=0.125,resolution=8,path_activation=after_sum")
    assert max(candidate.num_paths for candidate in network.arch.blocks) == 4
    report = export(network, tmp_path / "model.onnx")
    nodes = onnx.load(report.path).graph.node
    groups = [a.i for n in nodes if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    assert sum(count > 1 for count in groups) == 12
    assert report.verification.nodes["Conv"] == 1 + 3 * 12 + 1
    assert int(report.metadata["flops_multiply_adds"]) == CostModel(network.space).flops(
        network.arch
    )


def test_metadata(exported: Exported) -> None:
    about = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    space = load_space(about["space"])
    assert space.parse(about["arch"]) == exported.network.arch
    assert int(about["input_resolution"]) == space.resolution
    assert json.loads(about["input_normalisation"]) == {"mean": list(MEAN), "std": list(STD)}
    assert tuple(json.loads(about["classes"])) == CLASSES
    assert about["top1_accuracy"] == "0.875"
    assert about["top1_accuracy_on"] == "32 test images"
    assert int(about["flops_multiply_adds"]) == CostModel(space).flops(exported.network.arch)
    assert about["input_short_side"] == about["input_resolution"]
    assert about["mobilenas_version"] == mobilenas.__version__
    assert about == exported.report.metadata


def test_network_is_left_as_it_is_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    network = build(TINY).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = export(
            network, tmp_path / "model.onnx", info=replace(INFO, accuracy=None), labels=None
        )
        logging.getLogger("after").warning("logs again")
    shown = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.message for record in shown] == ["logs again"]
    assert (capfd.readouterr(), warned) == (("", ""), [])
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert "top1_accuracy" not in report.metadata
    assert report.verification.exported_accuracy is None


def test_same_bytes_in_another_process_without_paths_of_this_machine(tiny: Exported) -> None:
    # `tiny` is exported before it here, nothing is in the other process.
    model = plain(build(TINY))
    assert b"site-packages" not in model
    assert str(Path(mobilenas.__file__).parent).encode() not in model
    script = (
        "import hashlib, exporting as e;print(hashlib.sha256(e.plain(e.build(e.TINY))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(model).hexdigest()


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

    monkeypatch.setattr("mobilenas.nn.fold.fold_batch_norm", fold_wrongly)
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
    (tmp_path / "net.mlpackage").touch()
    with pytest.raises(BadInput, match=r"net\.mlpackage: it is a file, and a package is a folder"):
        check_target(tmp_path / "net.mlpackage", ".mlpackage")
    left, other = tmp_path / "left.mlpackage", tmp_path / "other.mlpackage"
    (left / "Data" / "weights").mkdir(parents=True)  # as a package has it that was not written
    check_target(left, ".mlpackage")
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"other\.mlpackage: it is a folder"):
        check_target(other, ".mlpackage")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilenas.export.write.write_atomic", full)
    with pytest.raises(BadInput, match=r"cannot write .*model\.onnx: No space left on device"):
        export(build(TINY), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": make_images(8)}, r"the network takes uint8 \(N, 16, 16, 3\)"),
        ({"images": make_images(16) / 255}, "images are float64"),
        ({"images": make_images(16, 7)}, "7 images; there must be at least 8"),
        ({"labels": np.zeros(3, np.int64)}, r"labels are \(3,\) for 20 images"),
        (
            {"info": replace(INFO, classes=CLASSES[:-1])},
            "9 class names; the network has 10 classes",
        ),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        export(build(TINY), tmp_path / "model.onnx", **changes)
    assert list(tmp_path.iterdir()) == []
