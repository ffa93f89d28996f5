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

from mobilenas.base.errors import VerificationFailed, one_line
from mobilenas.export.constants import check_constants
from mobilenas.export.deployable import Pixels, fed, normalise
from mobilenas.export.structure import check_structure
from mobilenas.nn import fold_for_export
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Dtype, Files, Floats, Form, Labels, Run, run_all
from mobilenas.runtimes.quantize import divergence

# One image, as on a phone; and two sizes that share no divisor, the smaller one odd.
BATCH_SIZES = (1, 7, 8)


PROBES = 32

# Largest allowed difference of a logit, as a share of the largest |logit|. fp32: another order of
# summation, and folded weights, were measured to give 1e-6 to 1e-5 on the shipped spaces; a wrong
# padding, epsilon, statistic or channel order gives 5e-4 and up. fp16: weights rounded to 11 bits
# gave 5e-4 to 2e-3.
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-4, "fp16": 1e-2}
# A float32 file may lose so many times what torch itself loses in float32, within the limit above:
# right files were measured to lose 0.7 to 2 times that.
ROUNDINGS = 10
# Of float64: right foldings were measured to give 1e-15.
FOLDING_TOLERANCE = 1e-10
# Int8 moves all logits, and first classes by chance, so there the class probabilities count: the
# largest allowed mean Kullback-Leibler divergence, in nats. An export's own limit, which
# `divergence_limit` finds, is often a tenth of it. Right exports of networks with real weights were
# measured to give 0.02 to 0.06; ranges, biases or batch norm means gone wrong 0.45 up.
MAX_DIVERGENCE = 0.2
MAX_DEVIATIONS = 3


@dataclass(frozen=True)
class Parity:
    """Logits of the file against those of torch, all images in batches of `batch_size`.

    max_abs: largest absolute difference; max_rel: the same as a share of the largest |logit|.
    divergence: mean Kullback-Leibler divergence (nats) of the file's class probabilities from those
    of torch. top1_agreement: share of images (0..1) with the same first class. near_ties: images
    with another first class that torch itself decides by less than the tolerance; 0 without one.
    """

    batch_size: int
    max_abs: float
    max_rel: float
    divergence: float
    top1_agreement: float
    near_ties: int


@dataclass(frozen=True)
class Verification:
    """What was checked of an exported file, and the numbers found.

    images: those that parity was measured on. probes: images of chance (`probe_images`) that a
    float file was compared on beside them. tolerance: of the logits, None for int8. nodes: number
    of nodes of each operator of ONNX. The accuracies (0..1) are on the images that parity was
    measured on, None without labels.
    """

    images: int
    probes: int
    tolerance: float | None
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
    max_divergence: float = MAX_DIVERGENCE,
) -> Verification:
    """Check exported files against the torch network that they were exported from.

    load: makes the files ready to run. network: the original, in any mode and on any device; it is
    left as it is. labels (N,) of the images add the accuracies.

    Raises VerificationFailed at the first of: an ONNX graph that is not as `check_structure` has
    it; the runtime refuses the file; at one of BATCH_SIZES, or at the one size that the file has,
    what `compare` finds, of a float file on `probe_images` too; what
    `check_constants` finds; what `rounding` finds.
    """
    nodes = check_structure(files[".onnx"], form) if ".onnx" in files else {}
    run, tolerance, probes = load(files), TOLERANCE.get(dtype), probe_images(images.shape[1])
    lost = rounding(
        network, normalise(np.concatenate([images[:PROBES], probes]), info.mean, info.std)
    )
    if dtype == "fp32":
        tolerance = min(TOLERANCE["fp32"], ROUNDINGS * lost)
    if tolerance is None:
        probes = probes[:0]
    seen = np.concatenate([images, probes])
    expected = torch_logits(network, normalise(seen, info.mean, info.std))
    inputs, count = fed(seen, info, form.preprocess), len(images)
    parity, actual = [], expected
    for size in BATCH_SIZES if form.batch is None else (form.batch,):
        try:
            actual = run_all(run, inputs, size, fixed=form.batch is not None)
        except Exception as error:  # runtimes raise errors of their own
            raise VerificationFailed(
                f"batch size {size} does not run: {one_line(error)}"
            ) from error
        parity.append(compare(expected[:count], actual[:count], size, tolerance, max_divergence))
        if len(probes):
            compare(expected[count:], actual[count:], size, tolerance)
    check_constants(files, dtype, network)
    if labels is not None and tolerance is None:
        check_accuracy(actual[:count], expected[:count], labels)
    after, before = (
        None if labels is None else _accuracy(logits[:count], labels)
        for logits in (actual, expected)
    )
    return Verification(
        images=count,
        probes=len(probes),
        tolerance=tolerance,
        parity=tuple(parity),
        nodes=dict(sorted(nodes.items())),
        exported_accuracy=after,
        torch_accuracy=before,
    )


def probe_images(resolution: int) -> Pixels:
    """PROBES images (N, R, R, 3) of chance over the full range: one colour, noise, and noise around
    a colour. Photos are nearly grey, so that red and blue in each other's place do not show.
    """
    rng = np.random.default_rng(0)
    shape = (PROBES, resolution, resolution, 3)
    contrast = np.resize([0.0, 1.0, 0.2, 0.5], PROBES).reshape(-1, 1, 1, 1)
    colours, noise = rng.uniform(0, 255, (PROBES, 1, 1, 3)), rng.uniform(0, 255, shape)
    return np.rint(colours + contrast * (noise - colours)).astype(np.uint8)


def rounding(network: nn.Module, inputs: Floats) -> float:
    """What float32 loses of the logits in torch itself, as a share of the largest one.

    Raises VerificationFailed where folded batch norms change a logit in float64: there rounding is
    1e-15, so a mistake shows that float32 hides.
    """
    original = copy.deepcopy(network).cpu().double().eval()
    folded, doubles = fold_for_export(original), torch.from_numpy(inputs).double()
    with torch.inference_mode():
        exact, actual = original(doubles).numpy(), folded(doubles).numpy()
    scale = max(float(np.abs(exact).max()), float(np.finfo(np.float32).tiny))
    off = float(np.abs(actual - exact).max()) / scale
    if not off <= FOLDING_TOLERANCE:
        raise VerificationFailed(
            f"logits differ by {off:.2g} of the largest one after the batch norms are folded; at "
            f"most {FOLDING_TOLERANCE:g} is rounding"
        )
    return float(np.abs(torch_logits(network, inputs) - exact).max()) / scale


def compare(
    expected: Floats,
    actual: Floats,
    batch_size: int,
    tolerance: float | None,
    max_divergence: float = MAX_DIVERGENCE,
) -> Parity:
    """Compare logits (N, classes) of torch and of the file.

    Raises VerificationFailed where logits differ by more than the tolerance, or another class is
    first where torch is sure of its own; without a tolerance (int8) where the divergence is above
    max_divergence.
    """
    where = f"batch size {batch_size}"
    if actual.shape != expected.shape:
        raise VerificationFailed(f"{where}: logits are {actual.shape}, torch has {expected.shape}")
    scale = float(np.abs(expected).max())
    max_abs = float(np.abs(actual - expected).max())
    max_rel = max_abs / max(scale, float(np.finfo(np.float32).tiny))
    found = divergence(expected, actual)
    differ = actual.argmax(axis=1) != expected.argmax(axis=1)
    near_ties = 0
    if tolerance is None:
        if not found <= max_divergence:  # so written that NaN fails too
            raise VerificationFailed(
                f"{where}: class probabilities diverge by {found:.2g} nats on average; at most "
                f"{max_divergence:.2g} is allowed"
            )
    else:
        if not max_rel <= tolerance:
            raise VerificationFailed(
                f"{where}: logits differ by {max_abs:.2g}, {max_rel:.2g} of the largest logit; "
                f"at most {tolerance:g} of it is allowed"
            )
        second, first = np.sort(expected, axis=1)[:, -2:].T
        sure = differ & (first - second >= tolerance * scale)
        if sure.any():
            raise VerificationFailed(
                f"{where}: {sure.sum()} of {len(sure)} images have another first class than in "
                "torch"
            )
        near_ties = int(differ.sum())
    return Parity(batch_size, max_abs, max_rel, found, float(1 - differ.mean()), near_ties)


def check_accuracy(actual: Floats, expected: Floats, labels: Labels) -> None:
    """Raise VerificationFailed where the file loses more right images than chance explains.

    Of the images that one of both has right, MAX_DEVIATIONS standard deviations may be torch's more
    (McNemar 1947); the same way of counting gives the intervals of docs/deploy.md.
    """
    after, before = (logits.argmax(axis=1) == labels for logits in (actual, expected))
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    if lost - won > MAX_DEVIATIONS * max(1, lost + won) ** 0.5:
        raise VerificationFailed(
            f"{lost} images are right in torch only, {won} in the file only, of {len(labels)}: "
            "more than chance explains"
        )


def torch_logits(network: nn.Module, inputs: Floats) -> Floats:
    """Logits (N, classes) of the original network for normalised images."""
    original = copy.deepcopy(network).cpu().float().eval()
    batches = torch.from_numpy(inputs).split(max(BATCH_SIZES))
    with torch.inference_mode():
        return np.concatenate([original(batch).numpy() for batch in batches])


def _accuracy(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
