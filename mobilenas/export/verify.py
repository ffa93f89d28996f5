"""Proof that an exported file is the network it was exported from, the same for all runtimes.

The file is run by its own runtime on real images and compared with the original torch network,
whose batch norms are not folded, so a mistake of the folding shows as well as one of the converter.
Torch gets images that are normalised here, so a mistake of a preprocessing in the file shows.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mobilenas.errors import VerificationFailed, one_line
from mobilenas.export.form import (
    Dtype,
    Files,
    Floats,
    Form,
    Labels,
    Pixels,
    Run,
    fed,
    normalise,
    run_all,
)
from mobilenas.export.structure import check_structure
from mobilenas.nn.saved import NetworkInfo

# One image, as on a phone; and two sizes that share no divisor, the smaller one odd.
BATCH_SIZES = (1, 7, 8)


@dataclass(frozen=True)
class Limits:
    """By how much a file may differ from torch.

    difference: of any logit, as a share of the largest |logit|. agreement: least share of images
    with the same first class, beside those that torch decides by less than `difference`. loss:
    largest loss of accuracy.
    """

    difference: float
    agreement: float = 1.0
    loss: float = 1.0


# fp32: another order of summation, and folded weights, were measured to give 1e-6 to 1e-5 on the
# shipped spaces; a wrong padding, epsilon, statistic or channel order gives 5e-4 and up. fp16:
# weights rounded to 11 bits gave 2e-3.
LIMITS: dict[Dtype, Limits] = {
    "fp32": Limits(1e-4),
    "fp16": Limits(1e-2),
    "int8": Limits(0.25, agreement=0.9, loss=0.03),
}


@dataclass(frozen=True)
class Parity:
    """Logits of the file against those of torch, all images in batches of `batch_size`.

    max_abs: largest absolute difference; max_rel: the same as a share of the largest |logit|.
    top1_agreement: share of images (0..1) with the same first class. near_ties: images with another
    first class that torch itself decides by less than the tolerance.
    """

    batch_size: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    near_ties: int


@dataclass(frozen=True)
class Verification:
    """What was checked of an exported file, and the numbers found.

    nodes: number of nodes of each operator of an ONNX file. The accuracies (0..1) are on the images
    that parity was measured on, None without labels.
    """

    images: int
    tolerance: float
    parity: tuple[Parity, ...]
    nodes: dict[str, int]
    exported_accuracy: float | None
    torch_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def verify(
    files: Files,
    load: Callable[[Files], Run],
    form: Form,
    dtype: Dtype,
    network: nn.Module,
    info: NetworkInfo,
    images: Pixels,
    labels: Labels | None = None,
) -> Verification:
    """Check exported files against the torch network that they were exported from.

    load: makes the files ready to run. network: the original, in any mode and on any device; it is
    left as it is. labels (N,) of the images add the accuracies.

    Raises VerificationFailed at the first of: an ONNX graph that is not as `check_structure` has
    it; the runtime refuses the file; logits that differ by more than LIMITS allow at one of
    BATCH_SIZES, or at the one size that the file has; another first class where torch is sure of
    its own; lost accuracy.
    """
    nodes = check_structure(files[".onnx"], form) if ".onnx" in files else {}
    expected = torch_logits(network, normalise(images, info.mean, info.std))
    run, inputs, limits = load(files), fed(images, info, form.preprocess), LIMITS[dtype]
    parity, actual = [], expected
    for size in BATCH_SIZES if form.batch is None else (form.batch,):
        try:
            actual = run_all(run, inputs, size, fixed=form.batch is not None)
        except Exception as error:  # runtimes raise errors of their own
            raise VerificationFailed(
                f"batch size {size} does not run: {one_line(error)}"
            ) from error
        parity.append(compare(expected, actual, size, limits))
    after, before = (
        None if labels is None else _accuracy(logits, labels) for logits in (actual, expected)
    )
    if before is not None and after is not None and before - after > limits.loss:
        raise VerificationFailed(
            f"accuracy falls from {100 * before:.2f} to {100 * after:.2f} % on {len(images)} "
            f"images; a loss of {100 * limits.loss:g} points is allowed"
        )
    return Verification(
        images=len(images),
        tolerance=limits.difference,
        parity=tuple(parity),
        nodes=dict(sorted(nodes.items())),
        exported_accuracy=after,
        torch_accuracy=before,
    )


def compare(expected: Floats, actual: Floats, batch_size: int, limits: Limits) -> Parity:
    """Compare logits (N, classes) of torch and of the file.

    Raises VerificationFailed naming the difference.
    """
    where = f"batch size {batch_size}"
    if actual.shape != expected.shape:
        raise VerificationFailed(f"{where}: logits are {actual.shape}, torch has {expected.shape}")
    scale = float(np.abs(expected).max())
    max_abs = float(np.abs(actual - expected).max())
    max_rel = max_abs / max(scale, float(np.finfo(np.float32).tiny))
    if not max_rel <= limits.difference:  # so written that NaN fails too
        raise VerificationFailed(
            f"{where}: logits differ by {max_abs:.2g}, {max_rel:.2g} of the largest logit; "
            f"at most {limits.difference:g} of it is allowed"
        )
    differ = actual.argmax(axis=1) != expected.argmax(axis=1)
    second, first = np.sort(expected, axis=1)[:, -2:].T
    sure = differ & (first - second >= limits.difference * scale)
    if sure.mean() > 1 - limits.agreement:
        raise VerificationFailed(
            f"{where}: {sure.sum()} of {len(sure)} images have another first class than in torch"
        )
    near_ties = int(differ.sum() - sure.sum())
    return Parity(batch_size, max_abs, max_rel, float(1 - differ.mean()), near_ties)


def torch_logits(network: nn.Module, inputs: Floats) -> Floats:
    """Logits (N, classes) of the original network for normalised images."""
    original = copy.deepcopy(network).cpu().float().eval()
    batches = torch.from_numpy(inputs).split(max(BATCH_SIZES))
    with torch.inference_mode():
        return np.concatenate([original(batch).numpy() for batch in batches])


def _accuracy(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
