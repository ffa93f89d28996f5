"""FLOPs and parameters of whole detectors."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  (its ops are counted)
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilenas.base.errors import BadInput, one_line
from mobilenas.cost.counts import Count


@dataclass(frozen=True)
class DetectorCost:
    """FLOPs are multiply-adds of convolutions and linear layers for one image; params are all.

    head: of a detector of two stages all of them: boxes for as many regions as it proposes at
    most, masks for as many boxes as it gives at most.
    """

    backbone: Count
    neck: Count
    head: Count

    @property
    def total(self) -> Count:
        """Of the whole detector."""
        return self.backbone + self.neck + self.head


def detector_cost(config: Config, height: int, width: int) -> DetectorCost:
    """What the detector of a config costs for an image (3, height, width).

    Nothing is computed: the tensors have shapes only, so large inputs take no time.
    Raises BadInput for a size that the detector does not take.
    """
    detector = MODELS.build(copy.deepcopy(config.model)).to("meta").eval()
    two_stages = hasattr(detector, "roi_head")
    image = torch.empty(1, 3, height, width, device="meta")
    try:
        backbone, maps = _count(detector.backbone, image)
        neck, maps = _count(detector.neck, maps)
        head, _ = _count(detector.rpn_head if two_stages else detector.bbox_head, maps)
        if two_stages:
            regions, given = config.model.test_cfg.rpn, config.model.test_cfg.rcnn
            head += _of_regions(detector.roi_head, "bbox", regions.max_per_img)
            head += _of_regions(detector.roi_head, "mask", given.max_per_img)
    except (RuntimeError, TypeError) as error:
        raise BadInput(
            f"the parts of the detector do not fit together or do not take {height} x {width}: "
            f"{one_line(error)}"
        ) from None
    return DetectorCost(backbone, neck, head)


def _of_regions(roi_head: nn.Module, kind: str, count: int) -> Count:
    """What the heads of one kind take for `count` regions; a cascade has one a stage."""
    heads = _listed(getattr(roi_head, f"{kind}_head", None))
    extractors = _listed(getattr(roi_head, f"{kind}_roi_extractor", None))
    total = Count(0, 0)
    for head, extractor in zip(heads, extractors, strict=True):
        size = extractor.roi_layers[0].output_size
        region = torch.empty(count, extractor.out_channels, *size, device="meta")
        total += _count(head, region)[0]
    return total


def _listed(modules: Any) -> list[Any]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _count(module: nn.Module, x: object) -> tuple[Count, object]:
    counter = FlopCounterMode(display=False, custom_mapping={_deform_conv: _of_deform_conv})
    with torch.no_grad(), counter:
        y = module(x)
    counts = counter.get_flop_counts()["Global"]
    # Products of two activations (attention) belong to no layer.
    flops = sum(count for op, count in counts.items() if op is not torch.ops.aten.bmm)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Count(flops // 2, params), y  # the counter takes a multiply-add for two operations


_deform_conv = torch.ops.torchvision.deform_conv2d


def _of_deform_conv(
    image: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Sequence[int], **_: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])
