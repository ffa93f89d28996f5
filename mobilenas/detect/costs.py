"""FLOPs and parameters of whole detectors."""

import copy
from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilenas.base.errors import BadInput, one_line
from mobilenas.cost.counts import Count


@dataclass(frozen=True)
class DetectorCost:
    """FLOPs are multiply-adds of convolutions and linear layers for one image; params are all.

    head: of a detector of two stages both of them, for as many regions as it proposes at most.
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
    Raises BadInput for a size that the detector does not take, and for detectors with masks or
    several heads of regions.
    """
    regions = config.model.get("roi_head", {})
    if "mask_head" in regions or isinstance(regions.get("bbox_head"), list):
        raise BadInput(
            f"{config.model.type}: only one head of boxes is known, no masks, no cascade"
        )
    detector = MODELS.build(copy.deepcopy(config.model)).to("meta").eval()
    two_stages = hasattr(detector, "roi_head")
    image = torch.empty(1, 3, height, width, device="meta")
    try:
        backbone, maps = _count(detector.backbone, image)
        neck, maps = _count(detector.neck, maps)
        head, _ = _count(detector.rpn_head if two_stages else detector.bbox_head, maps)
    except RuntimeError as error:
        raise BadInput(
            f"the parts of the detector do not fit together or do not take {height} x {width}: "
            f"{one_line(error)}"
        ) from None
    if two_stages:
        second = detector.roi_head.bbox_head
        size = detector.roi_head.bbox_roi_extractor.roi_layers[0].output_size
        count = config.model.test_cfg.rpn.max_per_img
        head += _count(second, torch.empty(count, second.in_channels, *size, device="meta"))[0]
    return DetectorCost(backbone, neck, head)


def _count(module: nn.Module, x: object) -> tuple[Count, object]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = module(x)
    # The counter takes a multiply-add for two operations.
    params = sum(parameter.numel() for parameter in module.parameters())
    return Count(counter.get_total_flops() // 2, params), y
