"""Static int8 quantisation of an exported ONNX model, by a scheme that is chosen on real images.

Weights become int8 with a scale for each output channel, activations uint8 with a scale and a zero
point, written as pairs of the standard's QuantizeLinear and DequantizeLinear (QDQ) by ONNX
Runtime's quantiser. Ranges of activations and the correction of the biases are found here: the
calibrators of ONNX Runtime keep all activations of all images in memory.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.base import INPUT, OUTPUT, Floats, Inputs, Labels, silence
from mobilenas.runtimes.onnx_session import make_session

Method = Literal["minmax", "percentile"]
Arrays = dict[str, npt.NDArray[Any]]

PERCENTILE = 99.999
BINS = 2048
BATCH = 16
_WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class Scheme:
    """How a model was quantised.

    method: what becomes the range of an activation, of its values on the calibration images:
    minmax takes all of them, percentile the middle PERCENTILE %.
    """

    method: Method

    @property
    def words(self) -> str:
        """The scheme as reports and metadata say it."""
        return f"static, weights by channel, ranges by {self.method}"


@dataclass(frozen=True)
class Trial:
    """What a scheme gave on the images by which the scheme is chosen.

    divergence: mean Kullback-Leibler divergence (nats) of the int8 model's class probabilities from
    the float model's. agreement: share (0..1) of images with the float model's first class.
    accuracy: top-1 (0..1), None without labels.
    """

    scheme: Scheme
    divergence: float
    agreement: float
    accuracy: float | None


@dataclass(frozen=True)
class Quantized:
    """The bytes of the int8 model, its scheme, and all schemes that were tried."""

    model: bytes
    scheme: Scheme
    trials: tuple[Trial, ...]


def quantize_onnx(
    model: bytes, calibration: Inputs, images: Inputs, labels: Labels | None = None
) -> Quantized:
    """The int8 model of the scheme with the least divergence on `images`.

    model: a float32 file of `export_network`. calibration: training images as the model takes
    them, a hundred or more; they give the ranges. images: another sample, by which the scheme is
    chosen; labels (N,) add accuracies. Those of a few hundred images differ by chance among
    schemes, so they do not decide; and what was chosen on images is to be reported on others.

    What comes before the first convolution stays as it is. The metadata are kept, and equal
    arguments give equal bytes. Raises BadInput where there are no images or not as many labels.
    """
    if not len(calibration) or not len(images):
        raise BadInput("int8 needs images to calibrate with and others to choose a scheme by")
    if labels is not None and labels.shape != (len(images),):
        raise BadInput(f"labels are {labels.shape} for {len(images)} images")
    expected = logits_of(model, images)
    observed = observe(model, calibration)
    tried = []
    for method in get_args(Method):
        quantized = quantize(model, observed, Scheme(method))
        logits = logits_of(quantized, images)
        tried.append((quantized, _trial(Scheme(method), expected, logits, labels)))
    best, trial = min(tried, key=lambda pair: pair[1].divergence)
    return Quantized(best, trial.scheme, tuple(trial for _, trial in tried))


@dataclass(frozen=True)
class Observed:
    """Values of a float tensor on the calibration images.

    means: of each channel. counts: of BINS equal bins from lowest to highest.
    """

    lowest: float
    highest: float
    means: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def range(self, method: Method) -> tuple[float, float]:
        """What is to be represented; values outside of it will be clipped."""
        if method == "minmax":
            return self.lowest, self.highest
        share = np.cumsum(self.counts) / self.counts.sum()
        edges = np.linspace(self.lowest, self.highest, BINS + 1)
        cut = (100 - PERCENTILE) / 200
        first, last = np.searchsorted(share, (cut, 1 - cut))
        return float(edges[first]), float(edges[last + 1])


def observe(model: bytes, images: Inputs) -> dict[str, Observed]:
    """The tensors that a quantiser needs the ranges of, by name. Two passes over the images."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    names = _activations(proto)
    there = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    proto.graph.output.extend(v for v in proto.graph.value_info if v.name in names - there)
    viewed = proto.SerializeToString()
    lowest, highest = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    sums: dict[str, Any] = {}
    for batch in _run(viewed, images, names):
        for name, values in batch.items():
            lowest[name] = min(lowest[name], float(values.min()))
            highest[name] = max(highest[name], float(values.max()))
            means = values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64)
            sums[name] = sums.get(name, 0.0) + means.sum(axis=0)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for batch in _run(viewed, images, names):
        for name, values in batch.items():
            counts[name] += np.histogram(values, BINS, (lowest[name], highest[name]))[0]
    observed = {
        name: Observed(lowest[name], highest[name], sums[name] / len(images), counts[name])
        for name in names
    }
    return observed | {name: observed[into] for name, into in merged(proto).items()}


def quantize(
    model: bytes, observed: Mapping[str, Observed], scheme: Scheme, correct: bool = True
) -> bytes:
    """The int8 model of one scheme, its biases corrected unless told otherwise."""
    proto = onnx.load_from_string(model)
    ranges = {}
    for name, tensor in observed.items():
        lowest, highest = map(np.float32, tensor.range(scheme.method))
        ranges[name] = TensorData(lowest=lowest, highest=highest)
    with silence():
        quantizer = QDQQuantizer(
            onnx.load_from_string(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[node.name for node in _quantised_nodes(proto)],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(QLinearOpsRegistry.keys() | QDQRegistry.keys()),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    if correct:
        _correct_biases(result, proto, observed)
    del result.graph.value_info[:]
    onnx.helper.set_model_props(result, {p.key: p.value for p in proto.metadata_props})
    return result.SerializeToString(deterministic=True)


def _correct_biases(
    quantized: onnx.ModelProto, original: onnx.ModelProto, observed: Mapping[str, Observed]
) -> None:
    """Take the mean error that rounded weights cause out of the biases, for each output channel.

    The error is (rounded - original weights) times the mean input of the calibration images (Nagel
    et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
    4.2). Zeros of the padding are taken for the mean. Without it int8 agrees with float on 1 to 3 %
    fewer images (benchmarks/pretrained.py).
    """
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    floats = {t.name: numpy_helper.to_array(t) for t in original.graph.initializer}
    dequantised = {node.output[0]: node.input for node in quantized.graph.node}
    nodes = {node.name: node for node in quantized.graph.node}
    for node in original.graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 3:
            continue  # the exporter leaves out biases that are 0, as untrained networks have
        _, weight, bias = nodes[node.name].input
        rounded, scale = (numpy_helper.to_array(tensors[n]) for n in dequantised[weight][:2])
        error = (rounded.reshape(len(rounded), -1) * scale[:, None]).reshape(rounded.shape)
        error = (error - floats[node.input[1]]).sum(axis=tuple(range(2, rounded.ndim)))
        means = observed[node.input[0]].means
        groups = len(means) // error.shape[1]
        shift = error.reshape(groups, -1, error.shape[1]) @ means.reshape(groups, -1, 1)
        name, step = dequantised[bias][0], numpy_helper.to_array(tensors[dequantised[bias][1]])
        corrected = np.rint((floats[node.input[2]] - shift.ravel()) / step).astype(np.int32)
        tensors[name].CopyFrom(numpy_helper.from_array(corrected, name))


def _quantised_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The first convolution and all after it: what comes before prepares the image."""
    nodes = list(model.graph.node)
    return nodes[next(i for i, node in enumerate(nodes) if node.op_type == "Conv") :]


def _activations(model: onnx.ModelProto) -> set[str]:
    """Float tensors that the quantised nodes take or give, but for the merged ones."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    used = {name for node in _quantised_nodes(model) for name in (*node.input, *node.output)}
    constants = {tensor.name for tensor in model.graph.initializer}
    return floats & used - constants - merged(model).keys()


def merged(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that only a Clip or Relu takes, and what that gives.

    The quantiser merges it into the node before: clipping is what the range of uint8 does.
    """
    nodes = _quantised_nodes(model)
    takers = Counter(name for node in nodes for name in node.input)
    activations = [node for node in nodes if node.op_type in ("Clip", "Relu")]
    return {n.input[0]: n.output[0] for n in activations if takers[n.input[0]] == 1}


def logits_of(model: bytes, images: Inputs) -> Floats:
    """Logits (N, classes) of a model with any or a fixed batch size."""
    logits: Floats = np.concatenate([batch[OUTPUT] for batch in _run(model, images, {OUTPUT})])
    return logits


def _run(model: bytes, images: Inputs, names: set[str]) -> Iterator[Arrays]:
    """Tensors of these names, batch by batch."""
    session = make_session(model)
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else BATCH
    outputs = sorted(names - {INPUT})
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        whole = np.resize(batch, (size, *batch.shape[1:])) if isinstance(fixed, int) else batch
        values: Arrays = dict(zip(outputs, session.run(outputs, {INPUT: whole}), strict=True))
        values |= {INPUT: batch} if INPUT in names else {}
        yield {name: value[: len(batch)] for name, value in values.items()}


def _trial(scheme: Scheme, expected: Floats, actual: Floats, labels: Labels | None) -> Trial:
    first = actual.argmax(axis=1)
    return Trial(
        scheme,
        divergence=divergence(expected, actual),
        agreement=float((first == expected.argmax(axis=1)).mean()),
        accuracy=None if labels is None else float((first == labels).mean()),
    )


def divergence(expected: Floats, actual: Floats) -> float:
    """Mean Kullback-Leibler divergence (nats) of the classes' softmax, `actual` from `expected`."""
    wanted, given = (_log_softmax(logits) for logits in (expected, actual))
    return float((np.exp(wanted) * (wanted - given)).sum(axis=1).mean())


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
