"""ONNX files of other forms: opsets, fixed batches, images as bytes, int8; and what their proof
catches.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from exporting import (
    INFO,
    TINY,
    Exported,
    build,
    calibration,
    change_stem,
    export,
    forget_a_batch_norm,
    make,
    make_images,
    plain,
)
from onnx import numpy_helper

from mobilenas.base.errors import BadInput, VerificationFailed
from mobilenas.export import Form, evaluate
from mobilenas.export.deployable import deployable
from mobilenas.export.int8 import check_int8
from mobilenas.runtimes.onnx import OPSETS, to_onnx, to_opset, with_batch
from mobilenas.runtimes.onnxruntime import OnnxRuntime

# The least IR version that an opset has: runtimes of its time know it, and refuse newer ones.
LEAST_IR = {14: 7, **dict.fromkeys(range(15, 19), 8), 19: 9, 20: 9, 21: 10, 22: 10}
LEAST_IR |= {23: 11, 24: 12, 25: 13, 26: 13}
GROUPS = (
    "s3:width=0.25,resolution=16,num_classes=10,"
    "stages=[{channels: 16, fixed: e1k3},{channels: 32, blocks: 2, stride: 2}]"
)
DIGITS = replace(INFO, classes=tuple("0123456789"), accuracy=None)


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("bytes") / "model.onnx"
    return make(TINY, path, form=Form(preprocess=True), info=DIGITS)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """In int8, of bytes."""
    path, form = tmp_path_factory.mktemp("int8") / "model.onnx", Form(preprocess=True)
    quantised = {"calibration": calibration(16), "images_are": "20 images of noise"}
    return make(TINY, path, form=form, info=DIGITS, **quantised)


def logits(exported: Exported, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def test_every_opset(tiny: Exported) -> None:
    model = tiny.path.read_bytes()
    for opset in OPSETS:
        converted = to_opset(model, opset)
        proof = tiny.verify({".onnx": converted}, Form(opset=opset))
        assert proof.parity[0].max_rel < 1e-5
        assert converted == to_opset(model, opset)
        proto = onnx.load_from_string(converted)
        assert [entry.version for entry in proto.opset_import] == [opset]
        assert proto.ir_version == LEAST_IR[opset]
    with pytest.raises(VerificationFailed, match=r"the model has opset \[18\], not 17"):
        tiny.verify({".onnx": model}, Form(opset=17))


@pytest.mark.parametrize("activation", ["hard_swish", "swish,squeeze_excite=0.5"])
def test_oldest_and_newest_opset_of_other_operators(activation: str, tmp_path: Path) -> None:
    network = build(f"{TINY},activation={activation}")
    model, exported = plain(network), Exported(network, tmp_path, None)
    for opset in (OPSETS[0], OPSETS[-1]):
        exported.verify({".onnx": to_opset(model, opset)}, Form(opset=opset))


def test_channel_groups_in_int8_and_in_every_older_opset(tmp_path: Path) -> None:
    network = build(GROUPS)
    model, exported = plain(network), Exported(network, tmp_path, None)
    assert "Split" in {node.op_type for node in onnx.load_from_string(model).graph.node}
    for opset in range(OPSETS[0], 19):  # splits came to have a number of outputs with 18
        exported.verify({".onnx": to_opset(model, opset)}, Form(opset=opset))
    quantised = {"calibration": calibration(16), "images_are": "20 images of noise"}
    report = export(network, tmp_path / "model.onnx", form=Form(OPSETS[0]), **quantised)
    assert (report.dtype, report.opset) == ("int8", OPSETS[0])


def test_a_part_of_a_split_with_a_scale_of_its_own_is_caught_in_int8() -> None:
    network = build(GROUPS)
    module, example = deployable(network, INFO, Form())
    feed = calibration(16).feed(INFO, False)
    converted = OnnxRuntime().convert(module, example, Form(), feed)
    assert converted.plain is not None
    model = onnx.load_from_string(converted.files[".onnx"])
    check_int8(model.SerializeToString(), converted.plain, feed.ranges)
    (part, *_) = (node.output[0] for node in model.graph.node if node.op_type == "Split")
    (written,) = (node for node in model.graph.node if node.input[0] == part)
    (read,) = (node for node in model.graph.node if node.input[0] == written.output[0])
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    wider = numpy_helper.from_array(4 * stored[written.input[1]], "wider")
    model.graph.initializer.append(wider)
    written.input[1] = read.input[1] = "wider"
    with pytest.raises(VerificationFailed, match=f"the range of {part} is"):
        check_int8(model.SerializeToString(), converted.plain, feed.ranges)


def test_a_shape_of_a_part_needs_opset_15() -> None:
    axes = {"start": 0, "end": 1}
    node = onnx.helper.make_node("Shape", ["image"], ["shape"], **axes)
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3])
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    graph = onnx.helper.make_graph([node], "shapes", [image], [shape])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset]).SerializeToString()
    assert onnx.load_from_string(to_opset(model, 15)).opset_import[0].version == 15
    with pytest.raises(BadInput, match="--opset 14: this network needs 15 or more"):
        to_opset(model, 14)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_fixed_batch(tiny: Exported, batch: int) -> None:
    fixed = with_batch(tiny.path.read_bytes(), batch)
    proof = tiny.verify({".onnx": fixed}, Form(batch=batch))
    assert [row.batch_size for row in proof.parity] == [batch]
    session = ort.InferenceSession(fixed)
    assert session.get_inputs()[0].shape == [batch, 3, 16, 16]
    assert session.get_outputs()[0].shape == [batch, 10]
    with pytest.raises(VerificationFailed, match="the batch size of image is not fixed at 3"):
        tiny.verify({".onnx": fixed}, Form(batch=3))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_bytes_in(of_bytes: Exported, batch: int) -> None:
    images = make_images(16)[:batch]
    with torch.inference_mode():
        expected = of_bytes.network.eval()(torch.from_numpy(of_bytes.inputs[:batch])).numpy()
    found = logits(of_bytes, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert of_bytes.report.metadata["input_layout"] == "NHWC, RGB, uint8"
    assert ort.InferenceSession(of_bytes.path).get_inputs()[0].shape == ["batch", 16, 16, 3]


def test_a_wrong_preprocessing_is_caught(of_bytes: Exported) -> None:
    for changes in ({"mean": INFO.mean[::-1]}, {"std": (0.2, 0.25, 0.29)}):
        other = replace(DIGITS, **changes)
        with pytest.raises(VerificationFailed, match="logits differ"):
            of_bytes.verify(
                {".onnx": of_bytes.path.read_bytes()}, Form(preprocess=True), info=other
            )


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_int8_classes_are_those_of_torch(int8: Exported, batch: int) -> None:
    images = make_images(16)[:batch]
    with torch.inference_mode():
        expected = int8.network.eval()(torch.from_numpy(int8.inputs[:batch])).numpy()
    found = logits(int8, images)
    assert 0 < np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


def test_int8_report_and_metadata(int8: Exported) -> None:
    report = json.loads(json.dumps(int8.report.to_dict()))
    proof, about = report["verification"], report["metadata"]
    assert (report["dtype"], proof["tolerance"]) == ("int8", None)
    assert all(0 < row["divergence"] < 0.05 for row in proof["parity"])
    assert report["scheme"] in [trial["scheme"] for trial in report["trials"]]
    assert {"accuracy", "agreement", "divergence"} < report["trials"][0].keys()
    assert about["quantisation"] == report["scheme"]
    assert float(about["top1_accuracy"]) == proof["exported_accuracy"]
    assert float(about["top1_accuracy_fp32"]) == proof["torch_accuracy"]
    assert about["top1_accuracy_on"] == "20 images of noise"
    assert about["dtype"] == "int8"
    assert about == {p.key: p.value for p in onnx.load(int8.path).metadata_props}
    weights = [t for t in onnx.load(int8.path).graph.initializer if len(t.dims) == 4]
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}


def test_int8_bytes_are_reproducible_and_take_any_opset_and_batch(
    int8: Exported, tmp_path: Path
) -> None:
    common = {"info": DIGITS, "calibration": calibration(16), "images_are": "20 images of noise"}
    path = tmp_path / "model.onnx"
    export(int8.network, path, form=Form(preprocess=True), **common)
    assert path.read_bytes() == int8.path.read_bytes()
    for opset in (OPSETS[0], OPSETS[-1]):
        report = export(int8.network, path, form=Form(opset, batch=3), **common)
        assert [row.batch_size for row in report.verification.parity] == [3]
        assert report.metadata["batch"] == "3"
        assert onnx.load(path).ir_version == LEAST_IR[opset]
        assert evaluate(path, "digits").n == 355


def test_exports_are_evaluated_as_they_are_fed(
    tiny: Exported, of_bytes: Exported, int8: Exported
) -> None:
    expected = evaluate(tiny.path, "digits")
    found = evaluate(of_bytes.path, "digits")
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    quantised = evaluate(int8.path, "digits")
    assert abs(quantised.top1 - expected.top1) < 0.05


# --- what is caught -----------------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [False, True])
def test_a_batch_norm_in_training_mode_is_caught(
    quantised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.nn.fold.fold_batch_norm", forget_a_batch_norm)
    with pytest.raises(VerificationFailed):
        export(build(TINY), tmp_path / "a.onnx", calibration=calibration(16) if quantised else None)
    assert list(tmp_path.iterdir()) == []


def test_swapped_colours_are_caught_in_int8(int8: Exported) -> None:
    files, form = {".onnx": int8.path.read_bytes()}, Form(preprocess=True)
    int8.verify(files, form, "int8")
    swapped = replace(int8, network=change_stem(lambda w: w.flip(1)))
    with pytest.raises(VerificationFailed, match="class probabilities diverge by"):
        swapped.verify(files, form, "int8")


def test_one_wrong_weight_is_caught_in_int8(int8: Exported) -> None:
    float_model = to_onnx(*deployable(int8.network, DIGITS, Form(preprocess=True)))
    model = onnx.load(int8.path)
    ranges = calibration(16).ranges
    check_int8(model.SerializeToString(), float_model, ranges)
    weights = [t for t in model.graph.initializer if len(t.dims) == 4]
    for number in (0, len(weights) // 2, -1):
        before = numpy_helper.to_array(weights[number])
        after = before.copy()
        after.flat[1] += 2 if after.flat[1] < 0 else -2
        weights[number].CopyFrom(numpy_helper.from_array(after, weights[number].name))
        with pytest.raises(VerificationFailed, match=r"a weight of node_.* is off by .* steps"):
            check_int8(model.SerializeToString(), float_model, ranges)
        weights[number].CopyFrom(numpy_helper.from_array(before, weights[number].name))
    with pytest.raises(VerificationFailed, match="other nodes: node_relu"):
        check_int8(float_model, float_model, ranges)
