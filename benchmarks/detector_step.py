"""A whole detector at work on this CPU: forward, a training step, inference with NMS.

RetinaNet (or another recipe) on FairNAS-A and MobileNetV2 with fresh weights, one noise image with
eight boxes, alternately; median seconds.

    python benchmarks/detector_step.py --height 800 --width 1280
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from mobilenas.base.process import tune_process
from mobilenas.detect.config import load_config
from mobilenas.space.published import PUBLISHED

BACKBONES = ("fairnas_a", "mobilenetv2_100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="retinanet")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tune_process()
    MMLogger.get_instance("mmengine", log_level="WARNING")
    torch.manual_seed(0)
    data = noise(options.height, options.width)
    works: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in BACKBONES:
        space, arch = PUBLISHED[name]
        config = load_config(options.recipe, space=space, arch=arch)
        detector = MODELS.build(config.model)
        detector.init_weights()
        works[name, "forward"] = lambda d=detector: forward(d, data)
        works[name, "training step"] = lambda d=detector: step(d, data)
        works[name, "inference"] = lambda d=detector: infer(d, data)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for _ in range(options.rounds):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            seconds[key].append(time.perf_counter() - start)
    size = f"{options.height} x {options.width}, {torch.get_num_threads()} threads"
    print(f"{options.recipe} at {size}, n = {options.rounds}, median s")
    for (name, what), values in seconds.items():
        print(f"{name:16} {what:14} {np.median(values):6.2f}")


def noise(height: int, width: int) -> dict[str, Any]:
    """One image and its boxes, as a data loader gives them."""
    corners = torch.rand(8, 2) * torch.tensor([width - 200.0, height - 200.0])
    sample = DetDataSample(
        metainfo={
            "img_shape": (height, width),
            "ori_shape": (height, width),
            "batch_input_shape": (height, width),
            "scale_factor": (1.0, 1.0),
            "img_id": 0,
        }
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.cat([corners, corners + 40 + 150 * torch.rand(8, 2)], dim=1),
        labels=torch.arange(8),
    )
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [sample]}


def forward(detector: Any, data: dict[str, Any]) -> None:
    with torch.no_grad():
        inputs = detector.eval().data_preprocessor(data)["inputs"]
        detector(inputs, mode="tensor")


def step(detector: Any, data: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    prepared = detector.train().data_preprocessor(data, training=True)
    loss, _ = detector.parse_losses(detector(**prepared, mode="loss"))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)


def infer(detector: Any, data: dict[str, Any]) -> None:
    detector.eval()
    detector.test_cfg.score_thr = 0.0  # fresh weights are sure of nothing
    with torch.no_grad():
        (found,) = detector.test_step(data)
    assert len(found.pred_instances.bboxes)


if __name__ == "__main__":
    main()
