"""Int8 models: exact weights, corrected biases, preparation in float, the choice of a scheme."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exporting import MEAN, STD, TINY, Exported, build, make_images, plain
from onnx import TensorProto, helper, numpy_helper

from mobilenas.base.errors import BadInput
from mobilenas.export.deployable import normalise
from mobilenas.nn import Network
from mobilenas.runtimes.quantize import (
    BINS,
    Observed,
    Scheme,
    logits_of,
    observe,
    quantize,
    quantize_onnx,
)
from mobilenas.space import load_space


def inputs(resolution: int = 16, count: int = 48) -> np.ndarray:
    return normalise(make_images(resolution, count), MEAN, STD)


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def weights(quantized: bytes, op: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(int8 weight, scales) of each node of an operator."""
    model = onnx.load_from_string(quantized)
    values = tensors(model)
    source = {node.output[0]: node.input for node in model.graph.node}
    nodes = [node for node in model.graph.node if node.op_type == op]
    return {n.name: tuple(values[x] for x in source[n.input[1]][:2]) for n in nodes}  # type: ignore[misc]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def fix_batch(model: bytes, size: int) -> bytes:
    proto = onnx.load_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return proto.SerializeToString()


def take_pixels(model: bytes) -> bytes:
    """The model with its preprocessing in the graph: uint8 NHWC to the normalised image."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    graph.node[0].input[0] = "normalised"
    constants = {"centre": np.float32(MEAN) * 255, "spread": np.float32(STD) * 255}
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    for node in reversed(
        [
            helper.make_node("Cast", ["image"], ["cast"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Sub", ["cast", "centre"], ["centred"], "sub"),
            helper.make_node("Div", ["centred", "spread"], ["scaled"], "div"),
            helper.make_node("Transpose", ["scaled"], ["normalised"], "nchw", perm=[0, 3, 1, 2]),
        ]
    ):
        graph.node.insert(0, node)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 16, 3])
    graph.input[0].CopyFrom(image)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def tiny_int8(tiny: Exported) -> bytes:
    return quantize_onnx(tiny.path.read_bytes(), inputs()[:32], inputs()[32:]).model


# --- the file -----------------------------------------------------------------------------------


def test_every_weight_is_the_float_one_rounded_with_a_scale_a_channel(
    tiny: Exported, tiny_int8: bytes
) -> None:
    original = onnx.load(tiny.path)
    values = tensors(original)
    for op in ("Conv", "Gemm"):
        found = weights(tiny_int8, op)
        nodes = {node.name: node for node in original.graph.node if node.op_type == op}
        assert found.keys() == nodes.keys()
        for name, (rounded, scale) in found.items():
            weight = values[nodes[name].input[1]]
            assert (rounded.dtype, scale.shape) == (np.int8, (len(weight),))
            scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
            assert np.abs(rounded * scale - weight).max() <= 0.501 * scale.max()
            assert (np.abs(rounded * scale - weight) <= 0.501 * scale).all()


def test_only_standard_operators_and_the_metadata_are_kept(
    tiny: Exported, tiny_int8: bytes
) -> None:
    model, original = onnx.load_from_string(tiny_int8), onnx.load(tiny.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert list(model.metadata_props) == list(original.metadata_props)
    assert [model.graph.input[0], model.graph.output[0]] == [
        original.graph.input[0],
        original.graph.output[0],
    ]
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops["Clip"] == ops["Relu"] == 0
    activations = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    zeros = {tensors(model)[node.input[2]].dtype for node in activations}
    assert zeros == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    "reference",
    [
        f"{TINY},activation=relu6,squeeze_excite=0.5",
        f"{TINY},activation=hard_swish",
    ],
)
def test_classes_stay_those_of_the_float_model(reference: str) -> None:
    network = build(reference).eval()
    network.classifier.bias.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    images = inputs(network.space.resolution)
    model = plain(network)
    quantized = quantize_onnx(model, images[:32], images[32:])
    assert cosine(*(logits_of(file, images[32:]) for file in (model, quantized.model))) > 0.98
    chosen = min(quantized.trials, key=lambda trial: trial.divergence)
    assert (chosen.scheme, chosen.accuracy) == (quantized.scheme, None)
    assert 0 < chosen.divergence < 0.05
    assert len(quantized.model) < len(model)


def test_network_without_biases_and_with_weights_of_zero() -> None:
    space = load_space(TINY)  # fresh: residual blocks are the identity
    network = Network(space, space.sample(np.random.default_rng(0))).eval()
    model = plain(network)
    quantized = quantize_onnx(model, inputs()[:32], inputs()[32:])
    assert all(trial.divergence < 0.05 for trial in quantized.trials)


def test_same_bytes_in_another_process(tiny: Exported, tiny_int8: bytes) -> None:
    script = (
        "import hashlib, pathlib, sys, test_quantize as t;"
        "model, x = pathlib.Path(sys.argv[1]).read_bytes(), t.inputs();"
        "model = t.quantize_onnx(model, x[:32], x[32:]).model;"
        "print(hashlib.sha256(model).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(tiny.path)],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(tiny_int8).hexdigest()


def test_nothing_is_left_or_printed(
    tiny: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quantize_onnx(tiny.path.read_bytes(), inputs()[:8], inputs()[8:16])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# --- what the model takes -----------------------------------------------------------------------


def test_preparation_of_the_image_stays_in_float(tiny: Exported, tiny_int8: bytes) -> None:
    pixels = make_images(16, 48)
    model = take_pixels(tiny.path.read_bytes())
    quantized = quantize_onnx(model, pixels[:32], pixels[32:]).model
    nodes = onnx.load_from_string(quantized).graph.node
    taken = {node.name: node.input[0] for node in nodes}
    assert [taken[n] for n in ("cast", "sub", "div", "nchw")] == [
        "image",
        "cast",
        "centred",
        "scaled",
    ]
    assert taken["normalised_QuantizeLinear"] == "normalised"
    assert {name: pair[0].tobytes() for name, pair in weights(quantized, "Conv").items()} == {
        name: pair[0].tobytes() for name, pair in weights(tiny_int8, "Conv").items()
    }
    assert cosine(logits_of(quantized, pixels[32:]), logits_of(tiny_int8, inputs()[32:])) > 0.99


def test_fixed_batch_gives_what_any_batch_gives(tiny: Exported, tiny_int8: bytes) -> None:
    fixed = fix_batch(tiny.path.read_bytes(), 5)  # 32 and 16 images: the last batch is filled up
    quantized = quantize_onnx(fixed, inputs()[:32], inputs()[32:]).model
    found = weights(quantized, "Conv")
    for name, (weight, scale) in weights(tiny_int8, "Conv").items():
        assert (found[name][0] == weight).all()
        assert (found[name][1] == scale).all()
    expected = logits_of(tiny_int8, inputs()[:7])
    assert np.abs(logits_of(quantized, inputs()[:7]) - expected).max() < 0.02 * expected.max()


# --- ranges, biases, the choice -----------------------------------------------------------------


def test_ranges_and_means_are_those_of_the_values(tiny: Exported) -> None:
    images = inputs()[:20]
    observed = observe(tiny.path.read_bytes(), images)
    assert observed["image"].range("minmax") == (images.min(), images.max())
    assert observed["image"].means == pytest.approx(images.mean((0, 2, 3)), abs=1e-5)
    assert observed["image"].counts.sum() == images.size
    logits = logits_of(tiny.path.read_bytes(), images)
    assert observed["logits"].range("minmax") == pytest.approx((logits.min(), logits.max()))
    assert observed["conv2d"] is observed["relu"]  # it goes into the convolution
    assert observed["relu"].lowest == 0


def test_percentile_cuts_outliers_and_nothing_else() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[512:1024] = 10**6
    counts[0] = counts[-1] = 1
    observed = Observed(-1.0, 3.0, np.zeros(1), counts)
    assert observed.range("minmax") == (-1, 3)
    assert observed.range("percentile") == (0, 1)
    even = Observed(-1.0, 3.0, np.zeros(1), np.ones(BINS, np.int64))
    assert even.range("percentile") == (-1, 3)


def test_correction_takes_the_mean_error_out(tiny: Exported) -> None:
    # All weights of a channel but one are rounded down, by 0.3 of a step.
    model = onnx.load(tiny.path)
    stem = model.graph.node[0]
    tensor = next(t for t in model.graph.initializer if t.name == stem.input[1])
    weight = np.full(tensor.dims, 10.3 / 127, np.float32)
    weight[:, 0, 0, 0] = 1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    brighter = inputs()[:32] + 1  # a mean that is not 0
    file = model.SerializeToString()
    observed = observe(file, brighter)
    corrected, plain = (quantize(file, observed, Scheme("minmax"), on) for on in (True, False))

    def bias(quantized: bytes) -> np.ndarray:
        values = tensors(onnx.load_from_string(quantized))
        return values[f"{stem.input[2]}_quantized"] * values[f"{stem.input[2]}_quantized_scale"]

    error = -0.3 / 127 * (9 * brighter.mean((0, 2, 3)).sum() - brighter[:, 0].mean())
    step = tensors(onnx.load_from_string(plain))[f"{stem.input[2]}_quantized_scale"]
    assert abs(error) > 100 * step.max()
    assert (np.abs(bias(corrected) - bias(plain) + error) <= 1.001 * step).all()


def test_labels_add_accuracies_and_do_not_choose(tiny: Exported) -> None:
    model, images = tiny.path.read_bytes(), inputs()
    labels = np.arange(16) % 10
    with_labels = quantize_onnx(model, images[:32], images[32:], labels)
    without = quantize_onnx(model, images[:32], images[32:])
    assert with_labels.model == without.model
    for trial in with_labels.trials:
        quantized = quantize(model, observe(model, images[:32]), trial.scheme)
        first = logits_of(quantized, images[32:]).argmax(axis=1)
        assert trial.accuracy == (first == labels).mean()
        expected = logits_of(model, images[32:]).argmax(axis=1)
        assert trial.agreement == (first == expected).mean()


def test_bad_input(tiny: Exported) -> None:
    model, images = tiny.path.read_bytes(), inputs()
    with pytest.raises(BadInput, match="int8 needs images to calibrate with"):
        quantize_onnx(model, images[:0], images)
    with pytest.raises(BadInput, match="int8 needs images"):
        quantize_onnx(model, images, images[:0])
    with pytest.raises(BadInput, match=r"labels are \(3,\) for 48 images"):
        quantize_onnx(model, images, images, np.arange(3))
