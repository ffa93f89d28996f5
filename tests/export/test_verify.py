"""The proof of an export: what it catches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from exporting import TINY, Exported, build
from onnx import TensorProto, helper, numpy_helper

from mobilenas.base.errors import VerificationFailed
from mobilenas.export import Form
from mobilenas.export.verify import TOLERANCE, compare

ALLOWED = TOLERANCE["fp32"]


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
        (rename_input, "the model has x; it must have image alone"),
        (take_doubles, "not a valid ONNX model: "),
    ],
)
def test_broken_export_is_caught(
    tiny: Exported, tamper: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(tiny.path)
    tiny.verify({".onnx": model.SerializeToString()}, Form())
    tamper(model)
    with pytest.raises(VerificationFailed, match=message) as failure:
        tiny.verify({".onnx": model.SerializeToString()}, Form())
    assert "\n" not in str(failure.value)


def test_torn_file_is_caught(tiny: Exported) -> None:
    with pytest.raises(VerificationFailed, match="not a valid ONNX model"):
        tiny.verify({".onnx": tiny.path.read_bytes()[:-100]}, Form())


@pytest.mark.parametrize("statistic", ["running_mean", "running_var", "weight", "bias"])
def test_each_part_of_a_batch_norm_counts(tiny: Exported, statistic: str) -> None:
    other = build(TINY)
    with torch.no_grad():
        getattr(other.stem.bn, statistic)[0] += 0.1
    with pytest.raises(VerificationFailed, match="logits differ"):
        replace(tiny, network=other).verify({".onnx": tiny.path.read_bytes()}, Form())


def test_first_class_may_differ_only_where_torch_is_unsure() -> None:
    unsure = np.array([[1, 1 - 0.5 * ALLOWED, 0]], np.float32)
    row = compare(unsure, unsure[:, [1, 0, 2]], 1, ALLOWED)
    assert (row.top1_agreement, row.near_ties) == (0, 1)
    sure = np.array([[1, 1 - 1.5 * ALLOWED, 0]], np.float32)
    flipped = np.array([[1 - 0.9 * ALLOWED, 1 - 0.7 * ALLOWED, 0]], np.float32)
    with pytest.raises(VerificationFailed, match="1 of 1 images have another first class"):
        compare(sure, flipped, 1, ALLOWED)
    with pytest.raises(VerificationFailed, match="logits are"):
        compare(sure, sure[:, :2], 1, ALLOWED)
