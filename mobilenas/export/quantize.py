"""Static int8 quantisation of an exported ONNX model, by ONNX Runtime, with a scheme that is chosen.

Weights become int8 with a scale for each output channel, activations uint8 with a scale and a zero
point, written as pairs of the standard's QuantizeLinear and DequantizeLinear.
"""

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from mobilenas.export.form import INPUT, OUTPUT, Floats, Inputs, Labels, silence
from mobilenas.export.onnx import make_session

Method = Literal["minmax", "percentile"]

BATCH = 16


@dataclass(frozen=True)
class Scheme:
    """How a model was quantised.

    method: how the range of an activation comes from the calibration images. float_ends: the first
    convolution and the classifier stay in float32.
    """

    method: Method
    float_ends: bool


@dataclass(frozen=True)
class Trial:
    """What a scheme gave on the images that the schemes are compared on, shares in 0..1.

    accuracy: None without labels. agreement: images with the first class of the float model.
    """

    scheme: Scheme
    accuracy: float | None
    agreement: float


@dataclass(frozen=True)
class Quantized:
    """The bytes of the int8 model, its scheme, and all schemes that were tried."""

    model: bytes
    scheme: Scheme
    trials: tuple[Trial, ...]


SCHEMES = tuple(
    Scheme(method, ends) for method, ends in product(("minmax", "percentile"), (False, True))
)


def quantize_onnx(
    model: bytes, calibration: Inputs, images: Inputs, labels: Labels | None = None
) -> Quantized:
    """The int8 model of the scheme that is best on `images`; the same arguments give equal bytes.

    model: a float32 file of `export_network`. calibration: training images as the model takes them;
    they give the ranges of the activations. images, labels: another sample, by which the scheme is
    chosen: the most accurate one, without labels the one that agrees most with the float model.
    Accuracies on it are those of a choice, so a report needs images that are neither.
    """
    reference = first_classes(model, images)
    tried: list[tuple[bytes, Trial]] = []
    for scheme in SCHEMES:
        quantized = quantize(model, calibration, scheme)
        classes = first_classes(quantized, images)
        accuracy = None if labels is None else float((classes == labels).mean())
        tried.append((quantized, Trial(scheme, accuracy, float((classes == reference).mean()))))
    best, trial = max(tried, key=lambda pair: (pair[1].accuracy or 0.0, pair[1].agreement))
    return Quantized(best, trial.scheme, tuple(trial for _, trial in tried))


def quantize(model: bytes, calibration: Inputs, scheme: Scheme) -> bytes:
    """The int8 model of one scheme."""
    with tempfile.TemporaryDirectory() as folder, silence():
        plain, result = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(model)
        # Equal biases are shared through Identity nodes; a convolution whose bias is no initializer
        # would stay in float.
        quant_pre_process(str(plain), str(plain), skip_symbolic_shape=True)
        quantize_static(
            str(plain),
            str(result),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
            }[scheme.method],
            nodes_to_exclude=_float_nodes(onnx.load(plain), scheme.float_ends),
            extra_options={"CalibTensorRangeSymmetric": False},
        )
        quantized = onnx.load(result)
    onnx.helper.set_model_props(
        quantized, {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    )
    return quantized.SerializeToString(deterministic=True)


def _float_nodes(model: onnx.ModelProto, float_ends: bool) -> list[str]:
    """Names of the nodes before the first convolution; with float_ends that and the classifier."""
    nodes = list(model.graph.node)
    first = next(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    ends = [nodes[first].name, nodes[-1].name] if float_ends else []
    return [node.name for node in nodes[:first]] + ends


def first_classes(model: bytes, images: Inputs) -> npt.NDArray[np.int64]:
    """The class with the largest logit, (N,)."""
    session = make_session(model)
    parts = range(0, len(images), BATCH)
    logits: list[Floats] = [session.run([OUTPUT], {INPUT: images[i : i + BATCH]})[0] for i in parts]
    return np.concatenate(logits).argmax(axis=1)


class _Reader(CalibrationDataReader):
    """Calibration images one by one; histograms want batches of one size."""

    def __init__(self, images: Inputs) -> None:
        self._batches = iter(np.split(images, len(images)))

    def get_next(self) -> dict[str, Inputs] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
