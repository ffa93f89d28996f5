"""Export of a detector's raw head maps to one self-contained, verified ONNX file.

What follows the maps, decoding of boxes and NMS, is left to the consumer: it depends on the runtime
and takes little time. The metadata says how to decode.
"""

import copy
import json
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmcv.cnn import ConvModule
from mmdet.models import BaseDetector
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

import mobilenas
from mobilenas.base.errors import BadInput, VerificationFailed, one_line
from mobilenas.base.files import write_atomic
from mobilenas.export.deployable import normalise
from mobilenas.export.structure import count_nodes, load_valid
from mobilenas.export.verify import TOLERANCE as TOLERANCES
from mobilenas.export.write import check_target
from mobilenas.nn.fold import fold_batch_norm_
from mobilenas.runtimes.base import INPUT, OPSET, Floats
from mobilenas.runtimes.onnx import trace, with_metadata
from mobilenas.runtimes.onnx_session import make_session

TOLERANCE = TOLERANCES["fp32"]
# What the heads of mmdet give, each a list of maps by stride.
_GROUPS = ("scores", "boxes", "centerness")


@dataclass(frozen=True)
class DetectorReport:
    """What was written and how it was proved.

    metadata: as it stands in the file, all strings. max_rel: of each output the largest absolute
    difference to torch as a share of its largest |value|, over `images` images.
    """

    path: Path
    size_bytes: int
    opset: int
    metadata: dict[str, str]
    images: int
    tolerance: float
    max_rel: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "path": str(self.path)}


class RawHeads(nn.Module):
    """Images (n, 3, h, w) to all maps of a one-stage detector, (n, c, h / stride, w / stride)."""

    def __init__(self, detector: BaseDetector) -> None:
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck
        self.bbox_head = detector.bbox_head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """First the class scores of every stride, then the boxes, then what else there is."""
        return tuple(chain(*self.bbox_head(self.neck(self.backbone(image)))))


def export_detector(
    detector: BaseDetector,
    config: Config,
    classes: list[str],
    path: Path,
    images: npt.NDArray[np.uint8],
) -> DetectorReport:
    """Write the raw heads of a trained detector to `path` as ONNX, after proof of their values.

    The model takes `image`, float32 (1, 3, H, W) normalised, and gives `scores_0`, `boxes_0`, ...,
    numbered by stride. Batch norms are folded. The file carries what a consumer needs to know
    (`metadata_of`).

    config: what the detector was built from. images: real ones (N, H, W, 3), RGB, of the size that
    the model shall have and resized as for the detector; they verify it.

    Raises BadInput for a detector of two stages and when an argument does not fit or `path` cannot
    be written, and VerificationFailed when the model is not the detector. Nothing is written then,
    and a file that was there stays.
    """
    check_target(path)
    _check(detector, config, classes, images)
    pre = config.model.data_preprocessor
    rgb = images if pre.get("bgr_to_rgb") else images[..., ::-1]
    mean, std = (tuple(values) for values in _scale(config).values())
    inputs = normalise(rgb, mean, std)
    heads = RawHeads(copy.deepcopy(detector).cpu().float().eval()).requires_grad_(False)
    with torch.inference_mode():
        expected = [[y.numpy() for y in heads(x[None])] for x in torch.from_numpy(inputs)]
    levels, maps = len(config_strides(config)), len(expected[0])
    if maps not in (2 * levels, 3 * levels):
        raise _no_raw_heads(config, f"gives {maps} maps for {levels} strides")
    names = [f"{group}_{level}" for group in _GROUPS for level in range(levels)][:maps]
    metadata = metadata_of(config, classes, images.shape[1:3])
    try:
        traced = trace(fold(heads), torch.from_numpy(inputs[:1]), names)
    except Exception as error:  # the exporter raises errors of its own
        raise VerificationFailed(f"ONNX does not convert it: {one_line(error)}") from error
    model = with_metadata(traced, metadata)
    max_rel = verify(model, names, inputs, expected)
    try:
        write_atomic(path, lambda file: file.write(model))
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    return DetectorReport(path, len(model), OPSET, metadata, len(images), TOLERANCE, max_rel)


def metadata_of(config: Config, classes: list[str], size: tuple[int, ...]) -> dict[str, str]:
    """What the file says of itself, free of time stamps.

    scores: what makes probabilities of them. anchors: what mmdet calls the generator, with its
    strides; box_coder: how a box is written relative to an anchor or point.
    """
    model = config.model
    head, backbone, pre = model.bbox_head, model.backbone, model.data_preprocessor
    softmax = head.type == "SSDHead"
    return {
        "mobilenas_version": mobilenas.__version__,
        "detector": str(model.type),
        "head": str(head.type),
        "arch": str(backbone.get("arch", backbone.type)),
        "classes": json.dumps(classes),
        "strides": json.dumps(config_strides(config)),
        "scores": "softmax, the last class is the background" if softmax else "sigmoid",
        "anchors": json.dumps(_plain(head.get("anchor_generator"))),
        "box_coder": json.dumps(_plain(head.get("bbox_coder"))),
        "input_size": json.dumps({"height": size[0], "width": size[1]}),
        "input_layout": f"NCHW, {'RGB' if pre.get('bgr_to_rgb') else 'BGR'}, float32",
        "input_normalisation": json.dumps(_scale(config)),
    }


def config_strides(config: Config) -> list[int]:
    """The strides of the maps of a one-stage detector, in their order. Raises BadInput for a head
    that has none.
    """
    head = config.model.bbox_head
    for values, key in (
        (head.get("anchor_generator", {}), "strides"),
        (head, "strides"),
        (head, "point_strides"),
    ):
        if key in values:
            return list(values[key])
    raise _no_raw_heads(config, "has no strides")


def _scale(config: Config) -> dict[str, list[Any]]:
    """Mean and deviation of images of 0..1; a detector may take them as they are, of 0..255."""
    pre = config.model.data_preprocessor
    return {
        key: [value / 255 for value in pre.get(key) or [default] * 3]
        for key, default in (("mean", 0), ("std", 1))
    }


def _no_raw_heads(config: Config, why: str) -> BadInput:
    return BadInput(
        f"{config.model.bbox_head.type} {why}: only heads that give class scores and boxes of "
        "every stride can be exported"
    )


def fold(module: nn.Module) -> nn.Module:
    """Fold every batch norm of a detector in eval mode into the convolution before it, in place.

    Convolutions are replaced, not changed: heads share them between strides that have batch norms
    of their own.
    """
    fold_batch_norm_(module)
    for part in module.modules():
        if not isinstance(part, ConvModule) or part.order[:2] != ("conv", "norm"):
            continue
        if part.with_norm and isinstance(part.norm, _BatchNorm):
            part.conv = fuse_conv_bn_eval(part.conv, part.norm)
            setattr(part, part.norm_name, nn.Identity())
    return module


def verify(
    model: bytes, names: list[str], inputs: Floats, expected: list[list[Floats]]
) -> dict[str, float]:
    """Largest relative difference of each output of the model, run on each image alone.

    expected: torch's outputs of each image. Raises VerificationFailed naming what differs.
    """
    count_nodes(load_valid(model))
    session = make_session(model)
    worst = dict.fromkeys(names, 0.0)
    for image, wanted in zip(inputs, expected, strict=True):
        try:
            found = session.run(names, {INPUT: image[None]})
        except Exception as error:  # ONNX Runtime's classes have no base of their own
            raise VerificationFailed(f"the model does not run: {one_line(error)}") from error
        for name, actual, right in zip(names, found, wanted, strict=True):
            if actual.shape != right.shape:
                raise VerificationFailed(f"{name} is {actual.shape}, torch has {right.shape}")
            scale = max(float(np.abs(right).max()), float(np.finfo(np.float32).tiny))
            share = float(np.abs(actual - right).max()) / scale
            if not share <= TOLERANCE:  # so written that NaN fails too
                raise VerificationFailed(
                    f"{name} differs by {share:.2g} of its largest value; "
                    f"at most {TOLERANCE:g} of it is allowed"
                )
            worst[name] = max(worst[name], share)
    return worst


def _check(
    detector: BaseDetector, config: Config, classes: list[str], images: npt.NDArray[np.uint8]
) -> None:
    if hasattr(detector, "roi_head"):
        raise BadInput(
            f"{type(detector).__name__} has two stages, the second on regions of the first: only "
            "detectors of one stage have raw heads to export"
        )
    if "bbox_head" not in config.model:
        raise BadInput(f"{type(detector).__name__} gives regions without classes: no raw heads")
    if len(classes) != detector.bbox_head.num_classes:
        raise BadInput(
            f"{len(classes)} class names; the detector has {detector.bbox_head.num_classes} classes"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise BadInput(f"images are {images.dtype} {images.shape}; they must be uint8 (N, H, W, 3)")


def _plain(value: Any) -> Any:
    return None if value is None else {k: v for k, v in value.items() if k != "_scope_"}
