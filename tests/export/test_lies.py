"""Exports that lie: each has one thing changed between torch and file, and is refused.

A network is converted once for each kind of file; a lie is a change of its bytes or metadata.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exporting import INFO, TINY, build, calibration, export
from onnx import helper, numpy_helper

from mobilenas.base.errors import VerificationFailed
from mobilenas.export import Form, make_runtime, write
from mobilenas.export.constants import bias_places, constants
from mobilenas.export.deployable import deployable
from mobilenas.nn import fold_for_export
from mobilenas.runtimes.base import Converted

Change = Callable[[Any], Any]
Graph = onnx.GraphProto
NETWORK = build(TINY)
STEM, MIDDLE, LAST = "stem.conv", "blocks.1.project", "conv_head.conv"
CALIBRATION = calibration(16, 12)
KINDS = {
    "onnx": ("onnxruntime", Form(), None),
    "onnx int8": ("onnxruntime", Form(), CALIBRATION),
    "pte": ("executorch", Form(batch=1), None),
    "pte int8": ("executorch", Form(batch=1), CALIBRATION),
}
_converted: dict[str, Converted] = {}


def converted(kind: str) -> Converted:
    if "pte" in kind:
        pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    name, form, images = KINDS[kind]
    if kind not in _converted:
        feed = None if images is None else images.feed(INFO, False)
        module = deployable(NETWORK, INFO, form)
        _converted[kind] = make_runtime(name).convert(*module, form, feed)
    return _converted[kind]


def write_changed(kind: str, path: Path, files: dict[str, bytes]) -> None:
    name, form, images = KINDS[kind]
    runtime = make_runtime(name)
    result = replace(converted(kind), files=files)
    runtime.convert = lambda *_: result  # type: ignore[method-assign]
    export(NETWORK, path, runtime=runtime, form=form, calibration=images)


def target(kind: str, folder: Path) -> Path:
    return folder / f"model.{kind.split()[0]}"


def set_constant(graph: Graph, name: str, change: Change) -> None:
    tensor = next(t for t in graph.initializer if t.name == name)
    before = numpy_helper.to_array(tensor)
    after = np.asarray(change(before.copy()), before.dtype)
    assert not np.array_equal(before, after, equal_nan=True)
    tensor.CopyFrom(numpy_helper.from_array(after.copy(order="C"), name))


def constant(name: str, change: Change) -> Callable[[Graph], None]:
    return lambda graph: set_constant(graph, name, change)


def one(amount: float) -> Change:
    def change(values: Any) -> Any:
        values.flat[1] += amount if values.flat[1] <= 0 else -amount
        return values

    return change


# --- of ONNX ------------------------------------------------------------------------------------


def change_op(graph: Graph, op: str) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = op


def change_pads(graph: Graph) -> None:
    attributes = [a for n in graph.node if n.op_type == "Conv" for a in n.attribute]
    next(a for a in attributes if a.name == "pads" and any(a.ints)).ints[:] = [2, 2, 0, 0]


def add_in_the_middle(graph: Graph) -> None:
    index = next(i for i, n in enumerate(graph.node) if n.name == "node_conv2d_6")
    name = graph.node[index].output[0]
    graph.node[index].output[0] = "before"
    graph.initializer.append(numpy_helper.from_array(np.float32(1e-3), "little"))
    graph.node.insert(index + 1, helper.make_node("Add", ["before", "little"], [name], "little"))


def swap_logits(graph: Graph) -> None:
    set_constant(graph, "classifier.weight", lambda w: w[::-1])


FLOAT: dict[str, Callable[[Graph], None]] = {
    "red and blue": constant(f"{STEM}.weight", lambda w: w[:, ::-1]),
    "classes in another order": swap_logits,
    "another activation": lambda graph: change_op(graph, "Softplus"),
    "no activation": lambda graph: change_op(graph, "Identity"),
    "another padding": change_pads,
    "1e-3 is added in the middle": add_in_the_middle,
}
for layer in (STEM, MIDDLE, LAST):
    FLOAT |= {
        f"{layer} one weight": constant(f"{layer}.weight", one(1e-3)),
        f"{layer} weights 0.1 % larger": constant(f"{layer}.weight", lambda w: w * 1.001),
        f"{layer} channels moved": constant(f"{layer}.weight", lambda w: np.roll(w, 1, 0)),
        f"{layer} one bias": constant(f"{layer}.bias", one(1e-3)),
        f"{layer} biases 0": constant(f"{layer}.bias", lambda b: b * 0),
        f"{layer} biases 1e-3 larger": constant(f"{layer}.bias", lambda b: b + 1e-3),
        f"{layer} NaN": constant(f"{layer}.bias", lambda b: b * np.nan),
    }


def dequantise_otherwise(graph: Graph) -> None:
    node = next(n for n in graph.node if n.name == "relu_7_DequantizeLinear")
    zero = next(t for t in graph.initializer if t.name == node.input[2])
    other = (numpy_helper.to_array(zero).astype(int) + 32).astype(np.uint8)
    graph.initializer.append(numpy_helper.from_array(np.asarray(other), "other_zero"))
    node.input[2] = "other_zero"


def read_another_scale(graph: Graph) -> None:
    node = next(n for n in graph.node if n.name == "relu_1_DequantizeLinear")
    node.input[1] = "relu_7_scale"


def take_float_weights(graph: Graph) -> None:
    node = next(n for n in graph.node if n.name == "node_conv2d_6")
    weight = next(t for t in graph.initializer if t.name == f"{MIDDLE}.weight_quantized")
    scale = next(t for t in graph.initializer if t.name == f"{MIDDLE}.weight_scale")
    values = numpy_helper.to_array(weight) * numpy_helper.to_array(scale).reshape(-1, 1, 1, 1)
    graph.initializer.append(numpy_helper.from_array(values, "floats"))
    node.input[1] = "floats"


INT8: dict[str, Callable[[Graph], None]] = {
    "red and blue": constant(f"{STEM}.weight_quantized", lambda w: w[:, ::-1]),
    "another zero point is read": dequantise_otherwise,
    "another scale is read": read_another_scale,
    "a float layer": take_float_weights,
    "another padding": change_pads,
    "logits in a smaller range": constant("logits_scale", lambda s: s * 0.8),
    "image in a wider range": constant("image_scale", lambda s: s * 1.2),
    "zero point of a sum": constant("conv2d_9_zero_point", lambda z: z + 16),
    "wide range": constant("relu_1_scale", lambda s: s * 1.05),
    "narrow range": constant("relu_1_scale", lambda s: s * 0.9),
}
for layer in (STEM, MIDDLE, LAST):
    INT8 |= {
        f"{layer} one weight": constant(f"{layer}.weight_quantized", one(2)),
        f"{layer} weight scale": constant(f"{layer}.weight_scale", lambda s: s * 1.01),
        f"{layer} one bias": constant(f"{layer}.bias_quantized", one(8)),
        f"{layer} biases 0": constant(f"{layer}.bias_quantized", lambda b: b * 0),
        f"{layer} bias scale": constant(f"{layer}.bias_quantized_scale", lambda s: s * 1.02),
    }


@pytest.mark.parametrize(
    ("kind", "lie"), [("onnx", lie) for lie in FLOAT] + [("onnx int8", lie) for lie in INT8]
)
def test_a_changed_onnx_file(kind: str, lie: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(converted(kind).files[".onnx"])
    (FLOAT if kind == "onnx" else INT8)[lie](model.graph)
    with pytest.raises(VerificationFailed):
        write_changed(kind, target(kind, tmp_path), {".onnx": model.SerializeToString()})
    assert list(tmp_path.iterdir()) == []


# --- of ExecuTorch ------------------------------------------------------------------------------


def patched(program: bytes, before: np.ndarray, change: Change) -> bytes:
    """The program with other values in place of these."""
    after = np.ascontiguousarray(change(before.copy()), before.dtype).tobytes()
    assert program.count(before.tobytes()) == 1
    return program.replace(before.tobytes(), after)


PTE: dict[str, tuple[str, Change]] = {
    "red and blue": ("weight", lambda w: w[..., ::-1]),
    "one weight": ("weight", one(1e-3)),
    "channels moved": ("weight", lambda w: np.roll(w, 1, 0)),
    "one bias": ("bias", one(1e-3)),
    "biases 0": ("bias", lambda b: b * 0),
    "biases 1e-3 larger": ("bias", lambda b: b + np.float32(1e-3)),
}
PTE_INT8: dict[str, tuple[str, Change]] = {
    "red and blue": ("weight", lambda w: w[..., ::-1]),
    "one weight": ("weight", one(2)),
    "channels moved": ("weight", lambda w: np.roll(w, 1, 0)),
    "weight scales": ("scale", lambda s: s * np.float32(1.01)),
    "one bias": ("bias", one(8)),
    "biases 0": ("bias", lambda b: b * 0),
}


@pytest.mark.parametrize("layer", [STEM, MIDDLE])
@pytest.mark.parametrize(
    ("kind", "lie"), [("pte", lie) for lie in PTE] + [("pte int8", lie) for lie in PTE_INT8]
)
def test_a_changed_pte_file(kind: str, layer: str, lie: str, tmp_path: Path) -> None:
    program = converted(kind).files[".pte"]
    part = fold_for_export(NETWORK).get_submodule(layer)
    assert isinstance(part, torch.nn.Conv2d)
    weight, bias = constants(part)
    what, change = (PTE if kind == "pte" else PTE_INT8)[lie]
    if kind == "pte int8":
        scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / np.float32(127)
        weight = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
        words = np.frombuffer(program[: len(program) // 4 * 4], np.int32)
        (start,) = bias_places(words, bias / scale)
        bias = words[start : start + len(bias)]
    else:
        scale = np.ones(1)
    there = {"weight": weight.transpose(0, 2, 3, 1), "bias": bias, "scale": scale}[what]
    with pytest.raises(VerificationFailed):
        write_changed(kind, target(kind, tmp_path), {".pte": patched(program, there, change)})
    assert list(tmp_path.iterdir()) == []


# --- of what comes after the proof, and of the metadata -----------------------------------------

METADATA: dict[str, tuple[str, Change]] = {
    "mean and deviation": ("input_normalisation", lambda n: n[:9] + n[9:].replace("0.4]", "0.5]")),
    "classes": ("classes", lambda c: json.dumps(json.loads(c)[::-1])),
    "one class less": ("classes", lambda c: json.dumps(json.loads(c)[1:])),
    "resolution": ("input_resolution", lambda _: "17"),
    "short side": ("input_short_side", lambda _: "20"),
    "layout": ("input_layout", lambda _: "NHWC, RGB, uint8"),
}


@pytest.mark.parametrize("lie", METADATA)
@pytest.mark.parametrize("kind", KINDS)
def test_metadata_of_another_file(
    kind: str, lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, change = METADATA[lie]
    right = write.metadata_of

    def wrong(*arguments: Any) -> dict[str, str]:
        about = right(*arguments)
        assert about[key] != change(about[key])
        return about | {key: change(about[key])}

    monkeypatch.setattr(write, "metadata_of", wrong)
    with pytest.raises(VerificationFailed):
        write_changed(kind, target(kind, tmp_path), converted(kind).files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "onnx int8"])
def test_a_bias_that_changes_with_the_metadata(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = write.with_metadata

    def wrong(model: bytes, metadata: dict[str, str]) -> bytes:
        proto = onnx.load_from_string(right(model, metadata))
        name = f"{STEM}.bias" + ("_quantized" if "int8" in kind else "")
        set_constant(proto.graph, name, one(64 if "int8" in kind else 0.5))
        return proto.SerializeToString()

    monkeypatch.setattr(write, "with_metadata", wrong)
    with pytest.raises(VerificationFailed, match="from those that were proved"):
        write_changed(kind, target(kind, tmp_path), converted(kind).files)


def test_a_batch_norm_that_is_folded_a_little_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fold_for_export

    def wrong(module: Any) -> Any:
        folded = right(module)
        with torch.no_grad():
            folded.get_submodule(MIDDLE).bias += 1e-6
        return folded

    for place in ("verify", "constants", "deployable"):
        module = import_module(f"mobilenas.export.{place}")
        monkeypatch.setattr(module, "fold_for_export", wrong)
    with pytest.raises(VerificationFailed, match="after the batch norms are folded"):
        export(NETWORK, tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_passes(kind: str, tmp_path: Path) -> None:
    write_changed(kind, target(kind, tmp_path), converted(kind).files)
    assert target(kind, tmp_path).exists()


@pytest.mark.parametrize("kind", ["onnx int8", "pte int8"])
def test_a_channel_that_is_nearly_silent_is_no_lie(kind: str, tmp_path: Path) -> None:
    name, form, images = KINDS[kind]
    if name == "executorch":
        pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    network = build(TINY)
    with torch.no_grad():  # as trained networks have them; quantisers have a least scale
        network.get_parameter("stem.bn.weight")[0] = 1e-5
        network.get_parameter("blocks.0.expand.bn.weight")[2] = -1e-7
    path = target(kind, tmp_path)
    export(network, path, runtime=make_runtime(name), form=form, calibration=images)
    assert path.is_file()
