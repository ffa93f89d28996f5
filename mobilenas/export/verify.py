"""Proof that an ONNX model is the network it was exported from.

The model is run by ONNX Runtime on real images and compared with the original torch network, whose
batch norms are not folded, so a mistake of the folding shows as well as one of the exporter.
"""

import copy
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import nn

from mobilenas.errors import VerificationFailed, one_line

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer[Any]]

INPUT, OUTPUT = "image", "logits"
# One image, as on a phone; and two sizes that share no divisor, the smaller one odd.
BATCH_SIZES = (1, 7, 8)
# Largest allowed difference of float32 logits, as a share of the largest |logit|. Another order of
# summation, and folded weights, were measured to give 1e-6 to 1e-5 on the shipped spaces; a wrong
# padding, epsilon, statistic or channel order gives 5e-4 and up.
TOLERANCE = 1e-4
# What only training needs: folded or left out of a network that is exported for inference.
TRAINING_OPS = ("BatchNormalization", "Dropout")


@dataclass(frozen=True)
class Parity:
    """Logits of the model against those of torch, all images in batches of `batch_size`.

    max_abs: largest absolute difference; max_rel: the same as a share of the largest |logit|.
    top1_agreement: share of images (0..1) with the same first class. near_ties: images with another
    first class, all of which torch itself decides by less than the tolerance.
    """

    batch_size: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    near_ties: int


@dataclass(frozen=True)
class Verification:
    """What was checked of an ONNX model, and the numbers found.

    nodes: number of nodes of each operator. The accuracies (0..1) are on the images that parity was
    measured on, None without labels; they show that labels and preprocessing fit, no more.
    """

    images: int
    tolerance: float
    parity: tuple[Parity, ...]
    nodes: dict[str, int]
    onnx_accuracy: float | None
    torch_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def verify_onnx(
    model: bytes, network: nn.Module, inputs: Floats, labels: Labels | None = None
) -> Verification:
    """Check an ONNX model against the torch network that it was exported from.

    model: the bytes of the file. network: the original, in any mode and on any device; it is left
    as it is. inputs: normalised images (N, channels, H, W); labels (N,) add the accuracies.

    Raises VerificationFailed at the first of: not valid ONNX; another input or output than
    `image` and `logits`, or one whose batch size is fixed; an operator of training or outside the
    ONNX standard; ONNX Runtime refuses it; logits differ by more than TOLERANCE at one of
    BATCH_SIZES; another first class where torch is sure of its own.
    """
    nodes = check_structure(model)
    expected = _torch_logits(network, inputs)
    session = make_session(model)
    parity, actual = [], expected
    for size in BATCH_SIZES:
        actual = _onnx_logits(session, inputs, size)
        parity.append(compare(expected, actual, size))
    return Verification(
        images=len(inputs),
        tolerance=TOLERANCE,
        parity=tuple(parity),
        nodes=dict(sorted(nodes.items())),
        onnx_accuracy=None if labels is None else _accuracy(actual, labels),
        torch_accuracy=None if labels is None else _accuracy(expected, labels),
    )


def check_structure(model: bytes) -> Counter[str]:
    """Number of nodes of each operator of a valid inference graph with a free batch size.

    Raises VerificationFailed naming what is wrong.
    """
    proto = load_valid(model)
    for values, name in ((proto.graph.input, INPUT), (proto.graph.output, OUTPUT)):
        if [value.name for value in values] != [name]:
            found = ", ".join(value.name for value in values)
            raise VerificationFailed(f"the model has {found} where only {name} is wanted")
        batch = values[0].type.tensor_type.shape.dim[0]
        if not batch.dim_param:
            raise VerificationFailed(f"the batch size of {name} is fixed at {batch.dim_value}")
    return count_nodes(proto)


def load_valid(model: bytes) -> onnx.ModelProto:
    """The model of these bytes. Raises VerificationFailed when it is not valid ONNX."""
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # the checker, protobuf and shape inference have their own classes
        raise VerificationFailed(f"not a valid ONNX model: {one_line(error)}") from error
    return proto


def count_nodes(proto: onnx.ModelProto) -> Counter[str]:
    """Number of nodes of each operator.

    Raises VerificationFailed for one of training, or outside the ONNX standard.
    """
    foreign = [
        f"{n.domain}.{n.op_type}" for n in proto.graph.node if n.domain not in ("", "ai.onnx")
    ]
    if foreign:
        raise VerificationFailed(f"{foreign[0]} is not an operator of the ONNX standard")
    nodes = Counter(node.op_type for node in proto.graph.node)
    for op in TRAINING_OPS:
        if nodes[op]:
            raise VerificationFailed(f"{nodes[op]} {op} nodes are left of training")
    return nodes


def compare(expected: Floats, actual: Floats, batch_size: int) -> Parity:
    """Compare logits (N, classes) of torch and of the model.

    Raises VerificationFailed naming the difference.
    """
    where = f"batch size {batch_size}"
    if actual.shape != expected.shape:
        raise VerificationFailed(f"{where}: logits are {actual.shape}, torch has {expected.shape}")
    scale = float(np.abs(expected).max())
    max_abs = float(np.abs(actual - expected).max())
    max_rel = max_abs / max(scale, float(np.finfo(np.float32).tiny))
    if not max_rel <= TOLERANCE:  # so written that NaN fails too
        raise VerificationFailed(
            f"{where}: logits differ by {max_abs:.2g}, {max_rel:.2g} of the largest logit; "
            f"at most {TOLERANCE:g} of it is allowed"
        )
    top1 = expected.argmax(axis=1)
    differ = actual.argmax(axis=1) != top1
    second, first = np.sort(expected, axis=1)[:, -2:].T
    sure = differ & (first - second >= TOLERANCE * scale)
    if sure.any():
        raise VerificationFailed(
            f"{where}: {sure.sum()} of {len(sure)} images have another first class than in torch"
        )
    return Parity(batch_size, max_abs, max_rel, float(1 - differ.mean()), int(differ.sum()))


def _torch_logits(network: nn.Module, inputs: Floats) -> Floats:
    original = copy.deepcopy(network).cpu().float().eval()
    batches = torch.from_numpy(inputs).split(max(BATCH_SIZES))
    with torch.inference_mode():
        return np.concatenate([original(batch).numpy() for batch in batches])


def make_session(model: bytes) -> ort.InferenceSession:
    """ONNX Runtime's session on the CPU, with torch's number of threads. VerificationFailed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as well; do not print them too
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's classes have no base of their own
        raise VerificationFailed(f"ONNX Runtime does not load it: {one_line(error)}") from error


def _onnx_logits(session: ort.InferenceSession, inputs: Floats, batch_size: int) -> Floats:
    batches = (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size))
    try:
        return np.concatenate([session.run([OUTPUT], {INPUT: batch})[0] for batch in batches])
    except Exception as error:
        raise VerificationFailed(
            f"batch size {batch_size} does not run: {one_line(error)}"
        ) from error


def _accuracy(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
